"""What a checkpoint holds: one dataclass, checked when it is read, and the versions of it that there have been."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import torch
from torch import Tensor

from sammo.errors import DAMAGE, UserError
from sammo.transducer import ModelConfig

Weights = Mapping[str, Tensor]  # by the names of the model's state_dict

# 1: everything in one flat dict, no checksums of weights.
VERSION = 2
_FORMAT = re.compile(r"sammo-checkpoint-(\d{1,9})")
# Names of presets, units and transcripts become parts of the names of files, and "checkpoint" a cell of tables.
_NAME, _LINE = re.compile(r"[\w.+-]{0,200}"), re.compile(r"[^\x00-\x1f|\ud800-\udfff]{0,1000}")


@dataclass(frozen=True)
class TrainingState:
    """What resuming needs beside the weights. A "batch" is one step of all processes together."""

    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any]  # of fp16's loss; empty without one
    sampler: dict[str, Any] | None  # place in the epoch; None at its end
    random: list[dict[str, Any]]  # states of the random generators, one a process
    regularizers: list[dict[str, Any]]  # the same for those of sammo.regularize
    epoch_batches: int  # trained in this epoch
    batch_ratio: float  # batches of the last whole epoch over what its loader had estimated
    best_valid: float  # lowest validation loss
    skipped: int  # batches of this epoch that could not be trained on
    wall_seconds: float  # time trained, over all runs
    options: dict[str, Any]  # of train.py, to be looked at


@dataclass(frozen=True)
class Checkpoint:
    """A model on its way through training. Weights that were not asked for when it was read are empty."""

    model_config: ModelConfig
    preset: str
    tokenizer: str  # fingerprint of the output units
    transcript_mode: str
    epoch: int
    epoch_done: bool
    batch_idx_train: int  # batches trained
    average_period: int  # batches between updates of model_avg
    model: Weights
    model_avg: Weights  # the running average over all batches; float64 where training wrote it
    training: TrainingState | None = None  # None: imported, or kept for its weights alone


@dataclass(frozen=True)
class _Digests:
    """What a file of version 2 also holds."""

    sha256: dict[str, str]  # of "model" and "model_avg"


# How annotations read in the file; every other one there is a list or a dict.
_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "str": (str,)}
_INFINITE = float("inf")
# Numbers that training can have come to; best_valid is infinite before the first validation.
_BOUNDS = {"average_period": (1, 1 << 40), "best_valid": (-_INFINITE, _INFINITE)}


def weights_digest(weights: Weights) -> str:
    """sha256 in hex over names and values; the same for equal weights only."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------ writing


def to_content(checkpoint: Checkpoint) -> dict[str, Any]:
    """Tensors, numbers, strings and containers of them; the inverse of :func:`from_content`."""
    content = _shallow(checkpoint)
    for name in ("model", "model_avg"):
        content[name] = {key: value.detach().cpu() for key, value in content[name].items()}
    training = checkpoint.training
    return {
        "format": f"sammo-checkpoint-{VERSION}",
        **content,
        "model_config": checkpoint.model_config.to_dict(),
        "training": None if training is None else _shallow(training),
        "sha256": {name: weights_digest(content[name]) for name in ("model", "model_avg")},
    }


def _shallow(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


# ------------------------------------------------------------------------------------ reading


def version_of(content: Any, path: Path) -> int:
    """The version of the schema that ``content`` says it has; UserError if it is no checkpoint or a newer one."""
    said = content.get("format") if isinstance(content, dict) else None
    match = _FORMAT.fullmatch(said) if isinstance(said, str) else None
    if match is None:
        raise UserError(f"{path} is no checkpoint of Sammo (it does not say sammo-checkpoint-{VERSION})")
    version = int(match[1])
    if version > VERSION:
        raise UserError(
            f"{path} was written by a newer version of Sammo (schema {version}; this one reads up to {VERSION}): "
            "update Sammo to read it"
        )
    return version


def from_content(content: dict[str, Any], path: Path, parts: tuple[str, ...]) -> Checkpoint:
    """The checkpoint in ``content``, a file's, with the weights and the training state that ``parts`` names.

    Raises:
      UserError: a key is missing or of a wrong type, weights do not have their checksum, or the averaged model has not
        the same tensors as the model.
    """
    version = version_of(content, path)
    if version == 1:
        content = _from_version_1(content)
    try:
        values = read_fields(Checkpoint, content)
        _check_same_tensors(_weights(values, "model"), _weights(values, "model_avg"))
        digests = {} if version == 1 else read_fields(_Digests, content)["sha256"]
        for name in ("model", "model_avg"):
            if name not in parts:
                values[name] = {}
            elif version > 1 and digests.get(name) != weights_digest(values[name]):
                raise ValueError(f"it is damaged: {name} does not have its checksum")
        if "training" not in parts:
            values["training"] = None
        if values["training"] is not None:
            values["training"] = TrainingState(**read_fields(TrainingState, values["training"]))
        values["model_config"] = ModelConfig.from_dict(values["model_config"])
    except (*DAMAGE, UserError) as error:
        raise UserError(f"checkpoint {path} cannot be used: {error}") from error
    return Checkpoint(**values)


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    training = {field.name: content[field.name] for field in dataclasses.fields(TrainingState) if field.name in content}
    return {**content, "training": {**training, "wall_seconds": content.get("seconds")} if training else None}


def read_fields(schema: type, content: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``schema``; ValueError for the first that ``content`` lacks or has with a wrong type."""
    values = {}
    for field in dataclasses.fields(schema):
        if field.name not in content:
            raise ValueError(f"it has no {field.name}")
        value = values[field.name] = content[field.name]
        kind = str(field.type)
        if value is None and kind.endswith("| None"):
            continue
        wanted = _KINDS.get(kind, (list,) if kind.startswith("list") else (dict,))
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ValueError(f"its {field.name} is a {type(value).__name__}, not a {wanted[0].__name__}")
        if kind == "str" and not (_LINE if field.name == "checkpoint" else _NAME).fullmatch(str(value)):
            raise ValueError(f"its {field.name} is {str(value)[:80]!r}, no name")
        if kind in ("int", "float"):
            least, most = _BOUNDS.get(field.name, (0, 1 << 40))
            if not least <= value <= most:  # written so that NaN is refused
                raise ValueError(f"its {field.name} is {str(value)[:20]}")
    return values


def _weights(values: dict[str, Any], part: str) -> Weights:
    for name, value in values[part].items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ValueError(f"{str(name)[:200]} in its {part} is not a tensor")
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        # A tensor whose values repeat, by strides of 0, would be as large as it says once it is copied.
        if not plain or value.dtype.is_complex or value.numel() * value.itemsize > value.untyped_storage().nbytes():
            raise ValueError(f"{name} in its {part} is no tensor of numbers, all of them in the file")
    return values[part]


def _check_same_tensors(model: Weights, average: Weights) -> None:
    for name, value in model.items():
        if name not in average:
            raise ValueError(f"its averaged model has no {name}")
        if average[name].shape != value.shape:
            shapes = f"{tuple(average[name].shape)} in its averaged model and {tuple(value.shape)} in the model"
            raise ValueError(f"{name} has the shape {shapes}")
    for name in average:
        if name not in model:
            raise ValueError(f"its averaged model has {name}, which the model has not")
