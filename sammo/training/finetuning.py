"""Training that begins with another model's weights (--init-from), and parts that stay as they are (--freeze)."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Iterable, Mapping

from torch import Tensor, nn

from sammo.checkpoint import ModelInfo, load_model
from sammo.errors import UserError
from sammo.transducer import Transducer

# Tensors with a row an output unit: worthless with other units.
OF_UNITS = ("predictor.embedding.", "joiner.output_linear.", "simple_am_proj.", "simple_lm_proj.", "ctc_output.")
UNKNOWN_UNITS = "unknown"  # fingerprint of models that were imported without --lang


def part_of(name: str) -> str:
    """What logs call the part of a model that the tensor ``name`` belongs to, and what --freeze takes."""
    if ".mixer." in name:
        return "mixer"
    return "frontend" if name.startswith("encoder.frontend.") else name.split(".")[0]


def init_from(model: Transducer, path: Path, avg: int, fingerprint: str) -> None:
    """Gives ``model`` the weights at ``path``, and says in the log what was taken and what is new.

    Tensors are taken by name. Those of the mixer are new where the other model has another mixer, and the output layers
    where it has other units. Imported models of unknown units are taken to have these if their number agrees.

    Args:
      path: a checkpoint file, an experiment directory, whose newest checkpoint counts, or a package.
      avg: checkpoints of a directory to average over; 0: no average, the weights as training left them.
      fingerprint: of the units of ``model``.

    Raises:
      UserError: there is no such checkpoint, or it is of other sizes.
    """
    try:
        other, info = load_model(path, avg=max(avg, 1), use_averaged_model=avg > 0)
    except UserError as error:
        reason = str(error).replace("--use-averaged-model false", "--init-avg 0").replace(" --avg", " --init-avg")
        if path.is_file():
            reason += "; a checkpoint of icefall goes through sammo import-icefall first"
        raise UserError(f"--init-from: {reason}") from error
    theirs, ours = other.state_dict(), model.state_dict()
    same_units = _same_units(other, model, info, fingerprint)
    same_mixer = other.config.encoder.mixer == model.config.encoder.mixer
    taken = {}
    for name, value in ours.items():
        if name not in theirs or (".mixer." in name and not same_mixer):
            continue
        if name.startswith(OF_UNITS) and not same_units:
            continue
        if theirs[name].shape != value.shape:
            raise UserError(
                f"--init-from {path}: {name} is {tuple(theirs[name].shape)} there and {tuple(value.shape)} here; give "
                "the model the same sizes (--preset, --d-state, ...)"
            )
        taken[name] = theirs[name]
    if not any(name.startswith("encoder.") for name in taken):
        raise UserError(f"--init-from {path}: nothing of its encoder, {info.encoder}, fits {model.config.encoder.name}")
    model.load_state_dict({**ours, **taken})
    new = {name: value for name, value in ours.items() if name not in taken}
    left = {name: value for name, value in theirs.items() if name not in taken}
    logging.info(f"weights of {path} ({info.encoder} {info.preset}, {info.checkpoint})")
    for what, tensors in (("taken over", taken), ("new", new), ("left behind", left)):
        if tensors:
            logging.info(f"  {what}: {summary(tensors)}")


def _same_units(other: Transducer, model: Transducer, info: ModelInfo, fingerprint: str) -> bool:
    if info.tokenizer == UNKNOWN_UNITS and other.config.vocab_size == model.config.vocab_size:
        logging.warning("the imported model does not say its units; it has as many as --lang, and these are assumed")
        return True
    return info.tokenizer == fingerprint


def freeze(model: nn.Module, parts: Iterable[str]) -> None:
    """Excludes the parameters of ``parts`` from training: names of :func:`part_of`, or of modules, "encoder.stacks.0".

    Raises:
      UserError: there is no such part, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    frozen: dict[str, Tensor] = {}
    for part in parts:
        found = {name: p for name, p in parameters.items() if part_of(name) == part or name.startswith(f"{part}.")}
        if not found:
            known = ", ".join(dict.fromkeys([part_of(name) for name in parameters]))
            raise UserError(f"--freeze {part}: no such part; there are {known}, and modules such as encoder.stacks.0")
        frozen.update(found)
    if len(frozen) == len(parameters):
        raise UserError("--freeze leaves nothing to train")
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    if frozen:
        logging.info(f"frozen: {summary(frozen)}")


def summary(tensors: Mapping[str, Tensor]) -> str:
    """One line: the parts, their tensors and values."""
    counts: Counter = Counter()
    values: Counter = Counter()
    for name, value in tensors.items():
        counts[part_of(name)] += 1
        values[part_of(name)] += value.numel()
    return ", ".join(f"{part} {values[part]:,} values in {counts[part]} tensors" for part in counts)
