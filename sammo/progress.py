"""Progress with an ETA: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Iterable, Iterator, TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10


def progress(iterable: Iterable[T], total: int | None = None, desc: str = "") -> Iterator[T]:
    """Iterates ``iterable`` and shows on stderr how much is done and how long the rest will take."""
    if sys.stderr.isatty():
        yield from tqdm(iterable, total=total, desc=desc)
        return
    begin = last = time.monotonic()
    for count, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if now - last > SECONDS_BETWEEN_LINES:
            last = now
            print(f"{desc}: {count}{_rest(count, total, now - begin)}", file=sys.stderr, flush=True)


def _rest(count: int, total: int | None, seconds: float) -> str:
    if total is None:
        return f", {timedelta(seconds=round(seconds))} so far"
    return f"/{total}, {timedelta(seconds=round(seconds / count * max(total - count, 0)))} left"
