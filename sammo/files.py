"""Files appear whole or not at all; JSON of whatever origin is read."""

from __future__ import annotations

import json
import os
import re
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Iterator


def parse_json(text: str | bytes) -> Any:
    """``json.loads``, whose one error is a ValueError: also for a nest too deep to follow."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a path beside ``path``, of the same suffixes, and moves what was written there to ``path``.

    What was written reaches the disk before it takes the name, so that no crash leaves half a file behind it;
    after an error ``path`` is what it was before.
    """
    path = Path(path)
    host = re.sub(r"[^\w.]", "_", socket.gethostname())
    temporary = path.with_name(f".tmp-{host}.{os.getpid()}-{path.name}")
    _remove_left_over(path, host)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """An open file that becomes ``path`` when the body ends without an error."""
    with atomic_path(path) as temporary:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file


def _remove_left_over(path: Path, host: str) -> None:
    """Removes what processes of this ``host`` that were killed have left of ``path``; others may still be writing."""
    pattern = re.compile(rf"\.tmp-{re.escape(host)}\.(\d+)-{re.escape(path.name)}")
    try:
        names = os.listdir(path.parent)
    except OSError:  # which writing will say
        return
    for name in names:
        match = pattern.fullmatch(name)
        if match and not _is_alive(int(match[1])):
            path.with_name(name).unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
