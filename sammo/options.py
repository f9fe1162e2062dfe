"""Types of options, and the bounds beyond which a value can only be a slip of the finger."""

from __future__ import annotations

import argparse

from sammo.errors import UserError

MOST_THREADS = 1024
MOST_PROCESSES = 1024
MOST_STREAMS = 100_000
LONGEST_CHUNK = 30_000  # frames of 20 ms


def check_range(option: str, value: float, least: float, most: float, reason: str) -> None:
    """UserError with the ``reason`` of the bounds where ``value`` is outside of them or no number."""
    if not least <= value <= most:
        raise UserError(f"{option} must be {least:g} to {most:g}, got {value:g}: {reason}")


def check_threads(value: int) -> None:
    """--num-threads; 0 leaves the number to PyTorch."""
    check_range("--num-threads", value, 0, MOST_THREADS, "threads beyond the cores of a machine wait for each other")


def check_chunking(chunk_size: int, left_context_frames: int = 0) -> None:
    """--chunk-size and --left-context-frames in frames of 20 ms; -1: without end."""
    reason = "a chunk is computed as one piece, and this is ten minutes; -1 stands for the whole utterance"
    if chunk_size != -1:
        check_range("--chunk-size", chunk_size, 1, LONGEST_CHUNK, reason)
    if left_context_frames != -1:
        reason = "attention keeps all of it, and this is ten minutes; -1 stands for all that was before"
        check_range("--left-context-frames", left_context_frames, 0, LONGEST_CHUNK, reason)


def parse_bool(text: str) -> bool:
    """argparse type of icefall's boolean options: true|false, yes|no, 1|0."""
    if text.lower() in ("true", "yes", "t", "y", "1"):
        return True
    if text.lower() in ("false", "no", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def integers(text: str) -> tuple[int, ...]:
    """argparse type: "16,32,-1" -> (16, 32, -1)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers separated by commas, got {text!r}") from None
