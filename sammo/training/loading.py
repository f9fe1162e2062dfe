"""From checkpoints to a model that decodes: one file, or an average over several."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sammo.errors import UserError
from sammo.training.averaging import average_between, average_states
from sammo.training.checkpoint import listing, batch_path, epoch_path, list_checkpoints, newest_checkpoint, read_checkpoint
from sammo.transducer import ModelConfig, Transducer


def load_model(
    path: str | Path,
    *,
    epoch: int = 0,
    iteration: int = 0,
    avg: int = 1,
    use_averaged_model: bool = True,
    device: torch.device | str = "cpu",
) -> tuple[Transducer, dict[str, Any]]:
    """The model of a checkpoint file, or of an experiment directory, in evaluation mode.

    Args:
      path: a checkpoint file, or the --exp-dir of train.py. Of a file the running average is taken
        (``use_averaged_model``) or the model as it was.
      epoch: take epoch-N.pt; 0: the newest checkpoint there is.
      iteration: take checkpoint-N.pt instead.
      avg: how many checkpoints to average over, the one named being the last.
      use_averaged_model: average over all batches of those checkpoints, from the running averages at both ends;
        otherwise over the models at the end of each.

    Returns:
      The model, and a dict that says what it is: "encoder", "preset", "epoch", "iteration", "avg",
      "use_averaged_model", "batch_idx_train", "tokenizer" (fingerprint of its output units), "transcript_mode", and
      "checkpoint": one line that is the same exactly for the same files and weights.

    Raises:
      UserError: a checkpoint is not there or cannot be read, ``avg`` goes beyond what there is.
    """
    path = Path(path)
    if path.is_file():
        files, before = [path], None
    elif path.is_dir():
        files, before = _select(path, epoch, iteration, avg, use_averaged_model)
    else:
        raise UserError(f"no checkpoint and no experiment directory {path}")
    end = read_checkpoint(files[-1], lazy=True)
    used = files
    if use_averaged_model:
        used = [files[-1]] if before is None else [before, files[-1]]
        state = _average(before, files[-1], end)
    elif len(files) == 1:
        state = end["model"]
    else:
        contents = [read_checkpoint(file, lazy=True) for file in files]
        for file, content in zip(files, contents):
            _check_same(end, content, file)
        state = average_states([content["model"] for content in contents])

    model = Transducer(ModelConfig.from_dict(end["model_config"]))
    weights = {name: value.to(torch.float32) for name, value in {**end["model"], **state}.items()}
    model.load_state_dict(weights)
    model.to(device).eval()
    names = "..".join(file.stem for file in used)
    batch = end["batch_idx_train"]
    info = {
        "encoder": end["model_config"]["encoder"]["name"],
        "preset": end["preset"],
        "epoch": end["epoch"],
        "iteration": iteration,
        "avg": len(files),
        "use_averaged_model": use_averaged_model,
        "batch_idx_train": batch,
        "tokenizer": end["tokenizer"],
        "transcript_mode": end["transcript_mode"],
        "checkpoint": f"{names}, batch {batch}, sha256 {_digest(weights)}",
    }
    return model, info


def check_tokenizer(info: dict[str, Any], fingerprint: str, lang: str | Path) -> None:
    """UserError where a model (``info`` of :func:`load_model`) was trained with other output units than ``lang``."""
    if info["tokenizer"] != fingerprint:
        raise UserError(
            f"the checkpoint ({info['checkpoint'].split(',')[0]}) was trained with other output units than those in "
            f"{lang}: pass the --lang it was trained with"
        )


def _select(
    exp_dir: Path, epoch: int, iteration: int, avg: int, use_averaged_model: bool
) -> tuple[list[Path], Path | None]:
    """The last ``avg`` checkpoints up to the one asked for, and the one before them, None for the start of training."""
    if avg < 1:
        raise UserError(f"--avg must be at least 1, got {avg}")
    if epoch and iteration:
        raise UserError("give --epoch or --iter, not both")
    if not epoch and not iteration:
        epoch, iteration = _newest(exp_dir)
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
    if use_averaged_model and read_checkpoint(files[0], lazy=True)["epoch"] > 1:
        most -= 1
    if avg > most:
        there = listing(exp_dir, "checkpoint")
        raise UserError(f"--avg {avg} goes beyond what exists: with --iter {iteration} at most {most}{there}")
    return files[-avg:], files[-avg - 1] if avg < len(files) else None


def _newest(exp_dir: Path) -> tuple[int, int]:
    newest = newest_checkpoint(exp_dir)
    if newest is None:
        raise UserError(f"no checkpoint in {exp_dir}; run train.py with this --exp-dir first")
    kind, number = newest[0].stem.split("-")
    return (int(number), 0) if kind == "epoch" else (0, int(number))


def _average(before: Path | None, end_path: Path, end: dict[str, Any]) -> dict[str, Tensor]:
    """Average over the batches after ``before`` (None: from the first) up to ``end``."""
    period = end["average_period"]
    end_batch = end["batch_idx_train"] // period * period
    start_batch, start = 0, end
    if before is not None:
        start = read_checkpoint(before, lazy=True)
        _check_same(end, start, before)
        start_batch = start["batch_idx_train"] // period * period
    if end_batch <= start_batch:
        since = f"{before.name} and {end_path.name}" if before else f"the start of training and {end_path.name}"
        raise UserError(
            f"between {since} the running average was never updated (--average-period {period} batches): "
            "take a larger --avg or pass --use-averaged-model false"
        )
    if start_batch == 0:
        return end["model_avg"]
    return average_between(start["model_avg"], start_batch, end["model_avg"], end_batch)


def _check_same(end: dict[str, Any], other: dict[str, Any], path: Path) -> None:
    if end["model_config"] != other["model_config"] or end["tokenizer"] != other["tokenizer"]:
        raise UserError(f"{path} is of another model than the last checkpoint: they cannot be averaged")


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy())
    return digest.hexdigest()[:16]
