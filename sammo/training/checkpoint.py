"""Checkpoint files: written whole or not at all, read without running code, found again after a crash."""

from __future__ import annotations

import logging
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, Iterable, NamedTuple

import torch

from sammo.errors import UserError
from sammo.files import atomic_write

FORMAT = "sammo-checkpoint-1"
BEST = "best-valid.pt"
_NAME = re.compile(r"^(epoch|checkpoint)-(\d+)\.pt$")


class CheckpointFile(NamedTuple):
    """A file that training wrote: epoch-N.pt or checkpoint-BATCH.pt."""

    path: Path
    kind: str  # "epoch" or "checkpoint"
    number: int


def epoch_path(exp_dir: Path, epoch: int) -> Path:
    return Path(exp_dir) / f"epoch-{epoch}.pt"


def batch_path(exp_dir: Path, batch: int) -> Path:
    return Path(exp_dir) / f"checkpoint-{batch}.pt"


def list_checkpoints(exp_dir: str | Path, kind: str | None = None) -> list[CheckpointFile]:
    """The checkpoints in ``exp_dir``, by number; of one kind or both."""
    found = []
    for path in Path(exp_dir).glob("*.pt"):
        match = _NAME.match(path.name)
        if match and kind in (None, match.group(1)):
            found.append(CheckpointFile(path, match.group(1), int(match.group(2))))
    return sorted(found, key=lambda file: (file.kind, file.number))


# ------------------------------------------------------------------------------------ writing


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors, numbers, strings and containers of them to ``path``.

    The file that was there stays until the new one is on the disk.

    Raises:
      UserError: it cannot be written, for a full disk for instance.
    """
    path = Path(path)
    try:
        with atomic_write(path, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
        _sync_directory(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer turns a failed write into a RuntimeError
        raise UserError(_why_not_written(path, error)) from error


def _why_not_written(path: Path, error: BaseException) -> str:
    causes: list[BaseException | None] = [error, error.__cause__, error.__context__]
    reason = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    try:
        free = f", {shutil.disk_usage(path.parent).free / 2**20:.0f} MiB are free"
    except OSError:
        free = ""
    others = list_checkpoints(path.parent)
    kept = ", ".join(sorted(file.path.name for file in others)[-3:]) or "none was there"
    reason = reason or str(error).strip().splitlines()[0]
    return (
        f"checkpoint {path} could not be written ({reason}{free}); earlier checkpoints are intact ({kept}): "
        "make room and give the same command again to go on"
    )


def _sync_directory(directory: Path) -> None:
    """Makes a rename last through a power failure."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_old(exp_dir: Path, keep: int) -> None:
    """Deletes all but the ``keep`` newest checkpoint-BATCH.pt."""
    for file in list_checkpoints(exp_dir, "checkpoint")[:-keep]:
        file.path.unlink(missing_ok=True)


def remove_unfinished(exp_dir: Path) -> None:
    """Deletes what a killed process was writing. Only for the process that trains in ``exp_dir``."""
    for path in Path(exp_dir).glob(".tmp-*.pt"):
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------ reading


def read_checkpoint(path: str | Path, lazy: bool = False) -> dict[str, Any]:
    """Reads a checkpoint into memory on the CPU.

    Args:
      lazy: map the tensors from the file instead, to look at a part of it. Otherwise its checksums are verified.

    Raises:
      UserError: no such file, not a checkpoint of Sammo, truncated or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path}{listing(path.parent)}")
    try:
        if not lazy:
            _verify(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=lazy)
    except Exception as error:  # torch.load has no common error for damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"checkpoint {path} is damaged or no checkpoint ({reason})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of this version of Sammo (it does not say {FORMAT})")
    return content


def _verify(path: Path) -> None:
    # torch does not compare checksums when it reads.
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"wrong checksum of {broken}")


def newest_checkpoint(exp_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The readable checkpoint that has seen most batches, and its content; None where there is none at all.

    Unreadable ones are reported and passed over.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    heads = []
    damaged = []
    for file in list_checkpoints(exp_dir):
        try:
            head = read_checkpoint(file.path, lazy=True)
            heads.append((head["batch_idx_train"], head["epoch_done"], file.kind == "epoch", file.path))
        except UserError as error:
            damaged.append(str(error))
    for *_, path in sorted(heads, reverse=True):
        try:
            content = read_checkpoint(path)
        except UserError as error:
            damaged.append(str(error))
            continue
        for line in damaged:
            logging.warning(f"{line}; going on from {path.name} instead")
        return path, content
    if damaged:
        raise UserError(
            f"no checkpoint in {exp_dir} can be read, {len(damaged)} are damaged ({damaged[0]}): "
            "delete them to start anew"
        )
    return None


def listing(exp_dir: Path, kind: str | None = None) -> str:
    """For error messages: what is there instead."""
    files = list_checkpoints(exp_dir, kind) if exp_dir.is_dir() else []
    if not files:
        return f"; {exp_dir} holds none, run train.py with this --exp-dir first"
    numbers: dict[str, list[int]] = {}
    for file in files:
        numbers.setdefault(file.kind, []).append(file.number)
    return "; there are " + " and ".join(f"{kind}-{_ranges(values)}" for kind, values in numbers.items())


def _ranges(numbers: Iterable[int]) -> str:
    """[1, 2, 3, 7] -> "1...3,7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}...{last}" for first, last in runs)
