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
import hashlib
import json
import re
from pathlib import Path
from typing import Mapping, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sammo.checkpoint.schema import Weights, read_fields
from sammo.errors import DAMAGE, UserError
from sammo.transducer import ModelConfig

CONFIG, WEIGHTS, SUMS = "config.json", "model.safetensors", "SHA256SUMS"
FORMAT, VERSION = "sammo-package", 1
LARGEST = 1 << 20  # bytes of the configuration and of the checksums
DTYPES = {"float32": torch.float32, "float16": torch.float16}
_LINE = re.compile(r"([0-9a-f]{64})  ([^\\\x00-\x1f]+)")


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


def write_sums(directory: Path) -> None:
    """Writes the checksums of all files below ``directory``."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{_sha256(path)}  {path.relative_to(directory).as_posix()}\n" for path in files]
    (directory / SUMS).write_text("".join(lines), encoding="utf-8")


def read_package(path: str | Path) -> Package:
    """Reads a package, after all of its files have been compared with their checksums.

    Raises:
      UserError: a file is missing or damaged, of a newer version, or not what the others say.
    """
    path = Path(path)
    listed = _verify(path)
    for name in (CONFIG, WEIGHTS):
        if name not in listed:
            raise UserError(f"{path / SUMS} does not list {name}: {path} is no package of Sammo; make it again")
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
        content = json.loads(_read_text(path))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        if content["version"] != VERSION:
            raise ValueError(f"it is of version {content['version']!r} and this Sammo reads {VERSION}: update Sammo")
        return ModelConfig.from_dict(content["model"]), Origin(**read_fields(Origin, content))
    except (*DAMAGE, UserError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} cannot be used: {problem}") from error


def _verify(path: Path) -> list[str]:
    """The names in SHA256SUMS; UserError for the first file that is not as it says."""
    sums = path / SUMS
    if not sums.is_file():
        raise UserError(f"{path} lacks {SUMS}: nothing tells whether its files are whole; copy the package again")
    listed = []
    for number, line in enumerate(_read_text(sums).splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None or Path(match[2]).is_absolute() or ".." in Path(match[2]).parts:
            raise UserError(f"{sums}, line {number}: not a checksum and the name of a file in the package")
        file = path / match[2]
        if not file.is_file():
            raise UserError(f"{path} lacks {match[2]}; copy the package again")
        if _sha256(file) != match[1]:
            raise UserError(f"{file} is damaged: its sha256 is not that in {SUMS}; copy the package again")
        listed.append(match[2])
    return listed


def _read_text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST >> 20} MiB: no package of Sammo has that")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); copy the package again") from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
