"""From checkpoints to a model that decodes: one file, or an average over several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sammo.checkpoint.averaging import average_between, average_states
from sammo.checkpoint.directory import batch_path, epoch_path, list_checkpoints, listing
from sammo.checkpoint.files import newest_checkpoint, read_checkpoint
from sammo.checkpoint.package import is_package, read_package
from sammo.checkpoint.schema import Checkpoint, Weights, weights_digest
from sammo.errors import DAMAGE, UserError
from sammo.transducer import ModelConfig, Transducer


@dataclass(frozen=True)
class ModelInfo:
    """What a loaded model is and what it was read from."""

    encoder: str
    preset: str
    epoch: int
    iteration: int  # the batch of a checkpoint-N.pt that was asked for, otherwise 0
    avg: int
    use_averaged_model: bool
    batch_idx_train: int
    tokenizer: str  # fingerprint of its output units
    transcript_mode: str
    checkpoint: str  # one line that is the same exactly for the same files and weights


def load_model(
    path: str | Path,
    *,
    epoch: int = 0,
    iteration: int = 0,
    avg: int = 1,
    use_averaged_model: bool = True,
    device: torch.device | str = "cpu",
) -> tuple[Transducer, ModelInfo]:
    """The model of a checkpoint file, of an experiment directory or of a package, in evaluation mode.

    Args:
      path: a checkpoint file, the --exp-dir of train.py, or what ``sammo package`` made. Of a file the running average
        is taken (``use_averaged_model``) or the model as it was.
      epoch: take epoch-N.pt; 0: the newest checkpoint there is.
      iteration: take checkpoint-N.pt instead.
      avg: how many checkpoints to average over, the one named being the last.
      use_averaged_model: average over all batches of those checkpoints, from the running averages at both ends;
        otherwise over the models at the end of each.

    Raises:
      UserError: a checkpoint is not there or cannot be read, ``avg`` goes beyond what there is.
    """
    path = Path(path)
    if is_package(path):
        if epoch or iteration or avg != 1:
            raise UserError(f"{path} is a package, which holds one model: leave --epoch, --iter and --avg out")
        return _load_package(path, device)
    if path.is_file():
        files, before = [path], None
    elif path.is_dir():
        files, before = _select(path, epoch, iteration, avg, use_averaged_model)
    else:
        raise UserError(f"no checkpoint, experiment directory or package {path}")
    part = "model_avg" if use_averaged_model else "model"
    end = read_checkpoint(files[-1], (part,))
    used = files
    if use_averaged_model:
        used = [files[-1]] if before is None else [before, files[-1]]
        state = _average(before, files[-1], end)
    elif len(files) == 1:
        state = end.model
    else:
        checkpoints = [read_checkpoint(file, (part,)) for file in files[:-1]]
        for file, checkpoint in zip(files, checkpoints):
            _check_same(end, checkpoint, file)
        state = average_states([*(checkpoint.model for checkpoint in checkpoints), end.model])

    weights = {name: value.to(torch.float32) for name, value in state.items()}
    model = _build(end.model_config, weights, files[-1]).to(device).eval()
    info = ModelInfo(
        encoder=end.model_config.encoder.name,
        preset=end.preset,
        epoch=end.epoch,
        iteration=iteration,
        avg=len(files),
        use_averaged_model=use_averaged_model,
        batch_idx_train=end.batch_idx_train,
        tokenizer=end.tokenizer,
        transcript_mode=end.transcript_mode,
        checkpoint=f"{'..'.join(file.stem for file in used)}, batch {end.batch_idx_train}, "
        f"sha256 {weights_digest(weights)[:16]}",
    )
    return model, info


def _build(config: ModelConfig, weights: Weights, path: Path) -> Transducer:
    """The model that ``path`` describes with the ``weights`` that it holds."""
    # Up to this size the tensors that do not fit are named.
    room = (1 << 24) + 2 * sum(value.numel() for value in weights.values())

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal room
        room -= parameter.numel()
        if room < 0:
            raise ValueError("its configuration asks for many more values")

    # Before the values are drawn: a configuration may ask for more than the machine has.
    hook = register_module_parameter_registration_hook(count)
    try:
        model = Transducer(config)
        model.load_state_dict(weights)
        strange = next((name for name, value in weights.items() if not value.isfinite().all()), None)
        if strange is not None:
            raise ValueError(f"{strange} is not finite, as after a training that diverged; take an earlier checkpoint")
    except DAMAGE as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path} does not hold the model that it describes: {problem}") from error
    finally:
        hook.remove()
    return model


def _load_package(path: Path, device: torch.device | str) -> tuple[Transducer, ModelInfo]:
    package = read_package(path)
    origin = package.origin
    weights = {name: value.to(torch.float32) for name, value in package.weights.items()}
    model = _build(package.config, weights, path).to(device).eval()
    info = ModelInfo(
        encoder=package.config.encoder.name,
        preset=origin.preset,
        epoch=origin.epoch,
        iteration=0,
        avg=origin.avg,
        use_averaged_model=origin.use_averaged_model,
        batch_idx_train=origin.batch_idx_train,
        tokenizer=origin.tokenizer,
        transcript_mode=origin.transcript_mode,
        checkpoint=f"{origin.name}, batch {origin.batch_idx_train}, sha256 {weights_digest(weights)[:16]}",
    )
    return model, info


def check_tokenizer(info: ModelInfo, fingerprint: str, lang: str | Path) -> None:
    """UserError where a model was trained with other output units than those of ``lang``, of this ``fingerprint``."""
    if info.tokenizer != fingerprint:
        raise UserError(
            f"the checkpoint ({info.checkpoint.split(',')[0]}) was trained with other output units than those in "
            f"{lang}: pass the --lang it was trained with"
        )


def check_same_model(checkpoint: Checkpoint, model_config: ModelConfig, fingerprint: str) -> None:
    """UserError naming the first difference between a checkpoint's model and the one asked for."""
    saved, wanted = _flat(checkpoint.model_config), _flat(model_config)
    different = [name for name in wanted if saved[name] != wanted[name]]
    advice = "use another --exp-dir or the options it was trained with"
    if checkpoint.tokenizer != fingerprint:
        raise UserError(
            f"the checkpoint was trained with other output units ({saved['vocab_size']}, here {wanted['vocab_size']}): "
            f"{advice} (--lang)"
        )
    if different:
        name = different[0]
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UserError(
            f"the checkpoint is of another model: {name} is {saved[name]} there and {wanted[name]} here{more}; {advice}"
        )


def _flat(config: ModelConfig) -> dict[str, Any]:
    values = config.to_dict()
    return {**values.pop("encoder"), **values}


def _select(
    exp_dir: Path, epoch: int, iteration: int, avg: int, use_averaged_model: bool
) -> tuple[list[Path], Path | None]:
    """The last ``avg`` checkpoints up to the one asked for, and the one before them, None for the start of training."""
    if avg < 1:
        raise UserError(f"--avg must be at least 1, got {avg}")
    if epoch and iteration:
        raise UserError("give --epoch or --iter, not both")
    if not epoch and not iteration:
        epoch, iteration = _newest(exp_dir, "model_avg" if use_averaged_model else "model")
    if iteration:
        return _select_batches(exp_dir, iteration, avg, use_averaged_model)
    if not epoch_path(exp_dir, epoch).is_file():
        raise UserError(f"no {epoch_path(exp_dir, epoch)}{listing(exp_dir)}")
    if avg > epoch:
        raise UserError(f"--avg {avg} goes beyond the beginning of training: with --epoch {epoch} at most {epoch}")
    files = [epoch_path(exp_dir, number) for number in range(epoch - avg + 1, epoch + 1)]
    before = epoch_path(exp_dir, epoch - avg) if epoch > avg else None
    needed = [before] if use_averaged_model else files
    for file in needed:
        if file is not None and not file.is_file():
            raise UserError(f"--epoch {epoch} --avg {avg} needs {file.name}, which is not there{listing(exp_dir)}")
    return files, before


def _select_batches(
    exp_dir: Path, iteration: int, avg: int, use_averaged_model: bool
) -> tuple[list[Path], Path | None]:
    if not batch_path(exp_dir, iteration).is_file():
        raise UserError(f"no {batch_path(exp_dir, iteration)}{listing(exp_dir)}")
    files = [file.path for file in list_checkpoints(exp_dir, "checkpoint") if file.number <= iteration]
    most = len(files)
    # The running average needs the checkpoint before, too; in the first epoch that is the start of training.
    if use_averaged_model and read_checkpoint(files[0], ()).epoch > 1:
        most -= 1
    if avg > most:
        there = listing(exp_dir, "checkpoint")
        raise UserError(f"--avg {avg} goes beyond what exists: with --iter {iteration} at most {most}{there}")
    return files[-avg:], files[-avg - 1] if avg < len(files) else None


def _newest(exp_dir: Path, part: str) -> tuple[int, int]:
    newest = newest_checkpoint(exp_dir, (part,))
    if newest is None:
        raise UserError(f"no checkpoint in {exp_dir}; run train.py with this --exp-dir first")
    kind, number = newest[0].stem.split("-")
    return (int(number), 0) if kind == "epoch" else (0, int(number))


def _average(before: Path | None, end_path: Path, end: Checkpoint) -> Weights:
    """Average over the batches after ``before`` (None: from the first) up to ``end``."""
    period = end.average_period
    end_batch = end.batch_idx_train // period * period
    start_batch, start = 0, end
    if before is not None:
        start = read_checkpoint(before, ("model_avg",))
        _check_same(end, start, before)
        start_batch = start.batch_idx_train // period * period
    if end_batch <= start_batch:
        since = f"{before.name} and {end_path.name}" if before else f"the start of training and {end_path.name}"
        raise UserError(
            f"between {since} the running average was never updated (--average-period {period} batches): "
            "take a larger --avg or pass --use-averaged-model false"
        )
    if start_batch == 0:
        return end.model_avg
    return average_between(start.model_avg, start_batch, end.model_avg, end_batch)


def _check_same(end: Checkpoint, other: Checkpoint, path: Path) -> None:
    if end.model_config != other.model_config or end.tokenizer != other.tokenizer:
        raise UserError(f"{path} is of another model than the last checkpoint: they cannot be averaged")
