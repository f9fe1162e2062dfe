"""The checkpoints of an experiment directory: their names, and which there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterable, NamedTuple

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


def remove_old(exp_dir: Path, keep: int) -> None:
    """Deletes all but the ``keep`` newest checkpoint-BATCH.pt."""
    for file in list_checkpoints(exp_dir, "checkpoint")[:-keep]:
        file.path.unlink(missing_ok=True)


def remove_unfinished(exp_dir: Path) -> None:
    """Deletes what a killed process was writing. Only for the process that trains in ``exp_dir``."""
    for path in Path(exp_dir).glob(".tmp-*.pt"):
        path.unlink(missing_ok=True)


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
