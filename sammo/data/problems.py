"""Other libraries' errors in one line."""

from __future__ import annotations


def brief(error: BaseException) -> str:
    """Kind and first line of ``error``: lhotse appends the whole cut and all of its arguments to its messages."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
