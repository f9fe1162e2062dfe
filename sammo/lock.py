"""One run a directory: the second one is told who the first is.

The lock is the kernel's (flock), held by an open file, so that it ends with its process, however that ends; what the
file says is only for the message. A lock file without a holder is stale and taken over.

prepare.sh holds it by a file descriptor of its own: ``exec 9<> DIR/.lock && python -m sammo.lock 9 DIR COMMAND``.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Iterator

from sammo.errors import UserError, run_main
from sammo.files import parse_json

NAME = ".lock"
HELD = {errno.EAGAIN, errno.EACCES}
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # of some network file systems


@contextmanager
def locked(directory: str | Path, command: str | None = None) -> Iterator[None]:
    """Runs the body with ``directory``, made if it is missing, locked.

    Args:
      directory: what to lock.
      command: what others are told; None: this process's own.

    Raises:
      UserError: another run holds it, which is named.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / NAME, "a+", encoding="utf-8") as file:
        take(file, directory, os.getpid(), command or " ".join(sys.argv))
        yield


def take(file: IO[str], directory: Path, pid: int, command: str) -> None:
    """Locks the open ``file`` of ``directory`` and notes its owner there; UserError where another run holds it.

    The lock belongs to the open file description, which a process shares with those that it starts.
    """
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            logging.warning(f"{directory} cannot be locked ({error.strerror}): see to it that only one run uses it")
            return
        if error.errno not in HELD:
            raise
        raise UserError(f"{directory} is in use by {describe(file)}; wait for its end or use another one") from error
    owner = {"pid": pid, "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "command": command}
    file.seek(0)
    file.truncate()
    json.dump(owner, file)
    file.flush()


def describe(file: IO[str]) -> str:
    """Who noted himself in ``file``, in words."""
    try:
        file.seek(0)
        owner: Any = parse_json(file.read(65_536))
        words = " ".join(str(owner["command"]).split())
        return f"process {int(owner['pid'])} on {owner['host']} since {owner['since']} ({words[:300]})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"


def main() -> None:
    """``python -m sammo.lock FD DIRECTORY PID COMMAND...`` for shell scripts."""
    descriptor, directory, pid, *command = sys.argv[1:]
    with open(int(descriptor), "a+", encoding="utf-8", closefd=False) as file:
        take(file, Path(directory), int(pid), " ".join(command))


if __name__ == "__main__":
    run_main(main)
