"""What is wrong with data, in one line."""

from __future__ import annotations

from sammo.data.frames import SAMPLING_RATE


def brief(error: BaseException) -> str:
    """Kind and first line of ``error``: lhotse appends the whole cut and all of its arguments to its messages."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def wrong_rate(cut_id: str, rate: int) -> str:
    """The line for a cut that is not of the sampling rate of the recipe."""
    return (
        f"cut {cut_id} has {rate} Hz, not {SAMPLING_RATE}: resample its audio, or its manifest by lhotse's "
        f"CutSet.resample({SAMPLING_RATE})"
    )
