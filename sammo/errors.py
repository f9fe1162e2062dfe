"""Errors that a user can act on: one clear line instead of a traceback."""

from __future__ import annotations

import sys
from typing import Callable


class UserError(Exception):
    """What is wrong, where, and what to do, in one line; scripts print it and exit 1."""


def run_main(main: Callable[[], int | None]) -> None:
    """Run a script's ``main`` and exit: 0 or its own code, 1 on :class:`UserError`, 130 on Ctrl-C."""
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
