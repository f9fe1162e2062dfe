"""Progress with an ETA: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Iterable, Iterator, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(iterable: Iterable[T], total: int | None = None, desc: str = "") -> Iterator[T]:
    """Iterates ``iterable`` and shows progress on stderr."""
    if sys.stderr.isatty():
        yield from tqdm(iterable, total=total, desc=desc)
        return
    last = time.monotonic()
    for count, item in enumerate(iterable, start=1):
        yield item
        if time.monotonic() - last > 10:
            last = time.monotonic()
            print(f"{desc}: {count}/{total}", file=sys.stderr)
