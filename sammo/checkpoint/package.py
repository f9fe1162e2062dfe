"""Packages: a trained model as a directory of plain files, each with its checksum. ``sammo package`` makes them.

config.json         what rebuilds the model, and where it comes from
model.safetensors   its weights
tokens.txt          or bpe.model: its output units, as in a language directory
README.md           the model card
onnx-32/            exports of sammo export, if any, here for chunks of 32 frames
SHA256SUMS          of all files, for sha256sum -c
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Mapping, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sammo.checkpoint.schema import Weights, read_fields
from sammo.errors import DAMAGE, UserError
from sammo.files import parse_json
from sammo.sums import SUMS, check_sums, read_text
from sammo.transducer import ModelConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
AGAIN = "copy the package again, or make it again with sammo package"
FORMAT, VERSION = "sammo-package", 1
LARGEST = 1 << 20  # bytes of the configuration
DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a packaged model was made from."""

    name: str  # of the package
    preset: str
    epoch: int
    avg: int
    use_averaged_model: bool
    batch_idx_train: int
    tokenizer: str  # fingerprint of its output units
    transcript_mode: str
    checkpoint: str  # ModelInfo.checkpoint of what it was made from


class Package(NamedTuple):
    """What a package holds."""

    config: ModelConfig
    origin: Origin
    weights: Weights  # in the type that they are stored in


def is_package(path: str | Path) -> bool:
    """Whether ``path`` is meant as a package, though it may lack some of its files."""
    return any((Path(path) / name).is_file() for name in (CONFIG, WEIGHTS, SUMS))


def write_model(directory: Path, config: ModelConfig, origin: Origin, weights: Mapping[str, Tensor]) -> None:
    """Writes configuration and weights into ``directory``."""
    content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(origin), "model": config.to_dict()}
    (directory / CONFIG).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    # Not save_file, which leaves a file that only its owner can read.
    data = safetensors.torch.save({name: value.contiguous() for name, value in weights.items()})
    (directory / WEIGHTS).write_bytes(data)


def read_package(path: str | Path) -> Package:
    """Reads a package, after all of its files have been compared with their checksums.

    Raises:
      UserError: a file is missing or damaged, of a newer version, or not what the others say.
    """
    path = Path(path)
    check_sums(path, (CONFIG, WEIGHTS), AGAIN)
    config, origin = _read_config(path / CONFIG)
    try:
        weights = safetensors.torch.load_file(path / WEIGHTS)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path / WEIGHTS} holds no weights ({error}); make the package again") from error
    if not all(value.is_floating_point() for value in weights.values()):
        raise UserError(f"{path / WEIGHTS} holds something else than weights; make the package again")
    return Package(config, origin, weights)


def _read_config(path: Path) -> tuple[ModelConfig, Origin]:
    try:
        content = parse_json(read_text(path, LARGEST, AGAIN))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        if content["version"] != VERSION:
            raise ValueError(f"it is of version {content['version']!r} and this Sammo reads {VERSION}: update Sammo")
        return ModelConfig.from_dict(content["model"]), Origin(**read_fields(Origin, content))
    except (*DAMAGE, UserError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} cannot be used: {problem}") from error
