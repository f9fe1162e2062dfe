"""Errors that a user can act on: one clear line instead of a traceback."""

from __future__ import annotations

import errno
import os
import sys
from typing import Callable

# What is wrong with the disk or its permissions and not with the program.
OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


class UserError(Exception):
    """What is wrong, where, and what to do, in one line; scripts print it and exit 1."""


def run_main(main: Callable[[], int | None]) -> None:
    """Run a script's ``main`` and exit: 0 or its own code, 1 on :class:`UserError`, 130 on Ctrl-C.

    A full, read-only or forbidden disk is one line, too; a reader of the output that goes away early (``| head``)
    ends the script quietly with 141, as the shell would.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        code = _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        code = 141
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        code = _fail(f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror))
    sys.exit(code)


def _fail(line: str) -> int:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    return 1
