"""Dynamic bucketing: batches of cuts of similar duration out of a buffer that is filled while they are drawn.

The rule of lhotse's DynamicBucketingSampler, for lines that are not cuts yet, in time that does not grow with the buffer.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from itertools import islice
from typing import Iterable, Iterator

from sammo.data.cuts import CutLine


class _Bucket:
    """Cuts of similar duration, and how many seconds they are."""

    def __init__(self) -> None:
        self.lines: list[CutLine] = []
        self.seconds = 0.0

    def put(self, line: CutLine) -> None:
        self.lines.append(line)
        self.seconds += line.duration

    def take(self, rng: random.Random | None) -> CutLine:
        """One of them: any, or the oldest."""
        if rng is None:
            line = self.lines.pop(0)
        else:
            place = rng.randrange(len(self.lines))
            self.lines[place], self.lines[-1] = self.lines[-1], self.lines[place]
            line = self.lines.pop()
        self.seconds -= line.duration
        return line


def bucketed(
    lines: Iterable[CutLine],
    bins: list[float],
    *,
    max_duration: float,
    buffer_size: int,
    world_size: int,
    shuffle: bool,
    drop_last: bool,
    seed: str,
) -> Iterator[list[list[CutLine]]]:
    """The batches of all ranks, step by step, all of a step of about one duration.

    Args:
      bins: seconds between the buckets, ascending.
      max_duration: seconds of a batch with its padding; a longer cut is alone in it.
      buffer_size: lines in all buckets.
      drop_last: leave out what is no whole batch for every rank. Otherwise it is spread over the ranks, where there are
        fewer cuts than ranks some of them again, see :attr:`CutLine.copy`.
    """
    choice, rng = random.Random(f"{seed}/buckets"), random.Random(seed) if shuffle else None
    buckets = [_Bucket() for _ in range(len(bins) + 1)]
    coming = iter(lines)

    def fill(count: int) -> None:
        for line in islice(coming, count):
            buckets[bisect_right(bins, line.duration)].put(line)

    def nearest(start: int, seconds: float) -> _Bucket | None:
        """The bucket nearest to number ``start`` that holds at least ``seconds``; None: no bucket does."""
        order = sorted(range(len(buckets)), key=lambda index: abs(index - start))
        return next(
            (buckets[index] for index in order if buckets[index].seconds >= seconds and buckets[index].lines), None
        )

    fill(buffer_size)
    while True:
        start = choice.randrange(len(buckets))
        batches: list[list[CutLine]] = []
        for _ in range(world_size):
            bucket = nearest(start, max_duration)
            if bucket is None and not drop_last:
                bucket = nearest(start, -1.0)
            if bucket is None:
                break
            batches.append(_batch(bucket, max_duration, rng))
            fill(len(batches[-1]))
        if len(batches) < world_size:
            if batches and not drop_last:
                yield _spread(batches, world_size)
            return
        yield batches


def _batch(bucket: _Bucket, max_duration: float, rng: random.Random | None) -> list[CutLine]:
    """Drawn until one more, as long as the longest, would be too much: it counts what is computed, padding included."""
    batch = [bucket.take(rng)]
    longest = batch[0].duration
    while bucket.lines and (len(batch) + 1) * longest <= max_duration:
        line = bucket.take(rng)
        if (len(batch) + 1) * line.duration > max_duration:  # longer than those before it
            bucket.put(line)
            break
        batch.append(line)
        longest = max(longest, line.duration)
    return batch


def _spread(batches: list[list[CutLine]], world_size: int) -> list[list[CutLine]]:
    """At least one cut for every rank: the largest batches are split, single cuts come again."""
    while len(batches) < world_size and (largest := max(batches, key=len))[1:]:
        batches.remove(largest)
        batches += [largest[::2], largest[1::2]]
    count = len(batches)
    again = [[batches[index % count][0]._replace(copy=index // count)] for index in range(count, world_size)]
    return batches + again
