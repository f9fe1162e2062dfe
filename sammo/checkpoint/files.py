"""Checkpoint files: written whole or not at all, read without running code, and never read damaged."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from sammo.checkpoint.directory import list_checkpoints, listing
from sammo.checkpoint.schema import Checkpoint, from_content, to_content, version_of
from sammo.errors import UserError
from sammo.files import atomic_write

EVERYTHING = ("model", "model_avg", "training")


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes ``checkpoint`` to ``path``; the file that was there stays until the new one is on the disk.

    Raises:
      UserError: it cannot be written, for a full disk for instance.
    """
    write_content(path, to_content(checkpoint))


def write_content(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors, numbers, strings and containers of them, as :func:`write_checkpoint`."""
    path = Path(path)
    try:
        with atomic_write(path, "wb") as file:
            torch.save(content, file)
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
        "make room and give the same command again to resume"
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


def read_checkpoint(path: str | Path, parts: tuple[str, ...] = EVERYTHING) -> Checkpoint:
    """Reads a checkpoint onto the CPU. What it returns is verified by checksums.

    Args:
      parts: what is needed of "model", "model_avg" and "training"; the rest stays on the disk. (): what it says about
        itself.

    Raises:
      UserError: no such file, not a checkpoint of Sammo or of a newer version, truncated or damaged, not complete.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path}{listing(path.parent)}")
    whole = "training" in parts
    try:
        _verify(path, whole)
        # Mapped, tensors that nobody looks at are not read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=not whole)
        if parts and not whole and version_of(content, path) == 1:
            _verify(path, True)  # there are no checksums of weights in it
    except UserError:
        raise
    except Exception as error:  # torch.load has no common error for damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's own advice is to let the code run
            reason = "it holds more than tensors, numbers and text, or something else than it says"
        raise UserError(f"checkpoint {path} is damaged or no checkpoint ({reason})") from error
    return from_content(content, path, parts)


def newest_checkpoint(exp_dir: Path, parts: tuple[str, ...] = EVERYTHING) -> tuple[Path, Checkpoint] | None:
    """The checkpoint that has seen most batches of those whose ``parts`` can be read; None where there is none at all.

    Those that cannot be read are reported and passed over.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    heads = []
    damaged = []
    for file in list_checkpoints(exp_dir):
        try:
            head = read_checkpoint(file.path, ())
            heads.append((head.batch_idx_train, head.epoch_done, file.kind == "epoch", file.path))
        except UserError as error:
            damaged.append(str(error))
    for *_, path in sorted(heads, reverse=True):
        try:
            checkpoint = read_checkpoint(path, parts)
        except UserError as error:
            damaged.append(str(error))
            continue
        for line in damaged:
            logging.warning(f"{line}; taking {path.name} instead")
        return path, checkpoint
    if damaged:
        raise UserError(
            f"no checkpoint in {exp_dir} can be read, {len(damaged)} are damaged ({damaged[0]}): "
            "delete them to start anew"
        )
    return None


def _verify(path: Path, whole: bool) -> None:
    """Compares the archive's own checksums, which torch does not: of all, or of all but the tensors.

    Torch compresses nothing, and no two of its records lie in the same place: what says otherwise could be larger than
    any disk.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        if not stored or sum(record.file_size for record in records) > path.stat().st_size:
            raise zipfile.BadZipFile("its records are not those that train.py writes")
        for record in records:
            if whole or "/data/" not in record.filename:
                with archive.open(record) as file:
                    while file.read(1 << 20):
                        pass
