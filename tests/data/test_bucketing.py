"""Batches that are drawn of durations alone."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sammo.data.bucketing import bucketed
from sammo.data.cuts import CutLine
from sammo.data.manifests import duration_bins

DURATIONS = np.round(np.random.default_rng(0).uniform(1.0, 11.0, 3000), 2)
LINES = [CutLine(float(seconds), b"", 0, number) for number, seconds in enumerate(DURATIONS, start=1)]


def draw(lines=LINES, max_duration=60.0, world_size=1, shuffle=True, drop_last=True, seed="0/1", buffer_size=1000):
    bins = duration_bins(np.array([line.duration for line in lines]), 10) if len(lines) > 10 else []
    options = {"shuffle": shuffle, "drop_last": drop_last, "seed": seed, "world_size": world_size}
    return list(bucketed(lines, bins, max_duration=max_duration, buffer_size=buffer_size, **options))


@pytest.mark.parametrize("world_size", [1, 3, 16])
def test_every_cut_once_in_batches_that_are_full(world_size):
    steps = draw(world_size=world_size, drop_last=False)
    assert {len(step) for step in steps} == {world_size}
    lines = [line for step in steps for batch in step for line in batch]
    assert sorted(lines) == sorted(LINES)
    assert max(len(batch) * max(line.duration for line in batch) for step in steps for batch in step) <= 60.0
    whole = [total for step in draw(world_size=world_size) for total in (sum(x.duration for x in b) for b in step)]
    assert min(whole) > 30.0 and np.mean(whole) > 0.85 * 60.0
    assert sum(whole) > 0.9 * DURATIONS.sum() - 60.0 * world_size


def test_little_of_a_batch_is_padding():
    def share(steps):
        batches = [batch for step in steps for batch in step]
        padded = sum(len(batch) * max(line.duration for line in batch) for batch in batches)
        return 1 - sum(line.duration for batch in batches for line in batch) / padded

    unsorted = [[LINES[start : start + 10]] for start in range(0, 3000, 10)]
    assert share(draw()) < 0.1 < share(unsorted)


def test_the_batches_of_a_step_are_about_as_long():
    spread = [np.ptp([np.mean([line.duration for line in batch]) for batch in step]) for step in draw(world_size=4)]
    assert np.mean(spread) < 1.0


def test_order_comes_of_the_seed():
    assert draw() == draw() != draw(seed="0/2")
    numbers = [line.number for step in draw() for batch in step for line in batch]
    assert np.corrcoef(numbers, range(len(numbers)))[0, 1] < 0.98  # the buffer passes by in order
    first = draw(shuffle=False)[0][0]
    assert [line.number for line in first] == sorted(line.number for line in first)


def test_too_few_cuts_for_the_ranks_come_again():
    steps = draw(LINES[:2], world_size=5, drop_last=False)
    assert len(steps) == 1
    lines = [line for batch in steps[0] for line in batch]
    assert len(set(lines)) == 5 and sorted(line.copy for line in lines) == [0, 0, 1, 1, 2]
    assert draw(LINES[:2], world_size=5) == []


def test_a_cut_longer_than_a_batch_is_alone():
    lines = [CutLine(100.0, b"", 0, 0), *LINES[:50]]
    random.Random(0).shuffle(lines)
    batches = [batch for step in draw(lines, drop_last=False) for batch in step]
    assert [[line.duration for line in batch] for batch in batches if batch[0].duration == 100.0] == [[100.0]]
