"""Errors that a user can act on: one clear line instead of a traceback."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Callable

# What is wrong with the disk, its permissions or a path that was given, and not with the program.
OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE}
OUTSIDE |= {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
# What code raises over values that are not those it was written for; for readers of files that others may have written.
DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    MemoryError,
)
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
LONGEST_LINE = 2000  # characters of an error


class UserError(Exception):
    """What is wrong, where, and what to do, in one line; scripts print it and exit 1."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())  # names of files and what a file says may hold line breaks


class MachineError(UserError):
    """What a machine or a network did, and neither the program nor its user: the same command may work again."""


def run_main(main: Callable[[], int | None]) -> None:
    """Run a script's ``main`` and exit: 0 or its own code, 1 on :class:`UserError`, 75 on :class:`MachineError`, 130 on
    Ctrl-C.

    A full, read-only or forbidden disk is one line, too; a reader of the output that goes away early (``| head``)
    ends the script quietly with 141, as the shell would.
    """
    codecs.register_error("sammo", _shown)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="sammo")
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        code = _fail(str(error), TRY_AGAIN if isinstance(error, MachineError) else 1)
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


def _fail(line: str, code: int = 1) -> int:
    print(f"error: {line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + '...'}", file=sys.stderr)
    return code


def _shown(error: UnicodeError) -> tuple[bytes, int]:
    """What the output's encoding lacks: bytes of a file's name that are no text as they are, the rest as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = (
        bytes([ord(char) - 0xDC00]) if 0xDC80 <= ord(char) <= 0xDCFF else char.encode("ascii", "backslashreplace")
        for char in text
    )
    return b"".join(shown), error.end
