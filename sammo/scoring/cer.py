"""Character error rate, with the uncertainty that a test set of this size leaves."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import kaldialign
import numpy as np

EPSILON = "*"
RESAMPLES = 1000


class Counts(NamedTuple):
    """Edit operations of one utterance or of many; ``ref`` is the number of reference characters."""

    ref: int
    ins: int
    dels: int
    subs: int

    @property
    def errors(self) -> int:
        return self.ins + self.dels + self.subs


class CerSummary(NamedTuple):
    """The error rate of one part at one setting, in percent, with its 95 % bootstrap interval."""

    part: str
    counts: Counts
    cer: float
    low: float
    high: float
    utterances: int


def characters(text: str) -> list[str]:
    """What is scored: the characters of ``text`` without white space."""
    return [char for char in text if not char.isspace()]


def count_errors(reference: str, hypothesis: str) -> Counts:
    """Edit operations that turn ``reference`` into ``hypothesis``, by Levenshtein distance."""
    ref, hyp = characters(reference), characters(hypothesis)
    found = kaldialign.edit_distance(ref, hyp)
    return Counts(len(ref), found["ins"], found["del"], found["sub"])


def alignment(reference: str, hypothesis: str) -> list[tuple[str, str]]:
    """Aligned pairs of characters; ``EPSILON`` stands for nothing."""
    return kaldialign.align(characters(reference), characters(hypothesis), EPSILON)


def total(counts: Sequence[Counts]) -> Counts:
    """The sum over utterances."""
    return Counts(*(sum(column) for column in zip(*counts))) if counts else Counts(0, 0, 0, 0)


def error_rate(counts: Counts) -> float:
    """Percent of the reference; 0 for no reference and no error, infinite for errors without a reference."""
    if counts.ref:
        return 100.0 * counts.errors / counts.ref
    return float("inf") if counts.errors else 0.0


def bootstrap_interval(counts: Sequence[Counts], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the error rate, in percent, by resampling utterances.

    (Bisani and Ney, ICASSP 2004: utterances, not characters, are the independent units.)
    """
    if not counts:
        return (0.0, 0.0)
    rates = _resampled_rates(counts, seed)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(rates, [tail, 100 - tail])
    return float(low), float(high)


def probability_of_improvement(
    baseline: Sequence[Counts], system: Sequence[Counts], seed: int = 0
) -> float:
    """Share of paired bootstrap samples in which ``system`` has fewer errors than ``baseline``.

    Both lists hold the same utterances in the same order (Bisani and Ney, ICASSP 2004, equation 6);
    a tie counts half.
    """
    if len(baseline) != len(system):
        raise ValueError("paired bootstrap needs the same utterances in both systems")
    if not baseline:
        return 0.5
    difference = _resampled_rates(baseline, seed) - _resampled_rates(system, seed)
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def relative_change(
    baseline: Sequence[Counts], system: Sequence[Counts], level: float = 0.95, seed: int = 0
) -> tuple[float, float, float] | None:
    """Change of the error rate from ``baseline`` to ``system`` in percent of the former, and its paired interval.

    Both lists hold the same utterances in the same order, and each bootstrap sample draws the same ones from both. None
    where the baseline makes no errors.
    """
    if len(baseline) != len(system):
        raise ValueError("paired bootstrap needs the same utterances in both systems")
    before, after = error_rate(total(baseline)), error_rate(total(system))
    if not before or not np.isfinite(before):
        return None
    old, new = _resampled_rates(baseline, seed), _resampled_rates(system, seed)
    drawn = old > 0
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(100.0 * (new[drawn] / old[drawn] - 1.0), [tail, 100 - tail])
    return 100.0 * (after / before - 1.0), float(low), float(high)


def _resampled_rates(counts: Sequence[Counts], seed: int) -> np.ndarray:
    """(RESAMPLES,) error rates in percent; the same seed draws the same utterances."""
    draws = np.random.default_rng(seed).integers(len(counts), size=(RESAMPLES, len(counts)))
    errors = np.array([item.errors for item in counts])[draws].sum(axis=1)
    refs = np.array([item.ref for item in counts])[draws].sum(axis=1)
    return 100.0 * errors / np.maximum(refs, 1)
