"""Types of options."""

from __future__ import annotations

import argparse


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
