"""Character and word error rates, with the uncertainty that a test set of this size leaves."""

from __future__ import annotations

from typing import Callable, NamedTuple, Sequence

import kaldialign
import numpy as np

EPSILON = "*"
RESAMPLES = 1000


class Counts(NamedTuple):
    """Edit operations of one utterance or of many; ``ref`` is the number of reference characters or words."""

    ref: int
    ins: int
    dels: int
    subs: int

    @property
    def errors(self) -> int:
        return self.ins + self.dels + self.subs


class ErrorSummary(NamedTuple):
    """An error rate ("CER" or "WER") of one part at one setting, in percent, with its 95 % bootstrap interval."""

    part: str
    metric: str
    counts: Counts
    rate: float
    low: float
    high: float
    utterances: int

    def __str__(self) -> str:
        return f"{self.metric} {self.rate:.2f} % ({self.low:.2f} to {self.high:.2f})"


def characters(text: str) -> list[str]:
    """What CER counts: the characters of ``text`` without white space."""
    return [char for char in text if not char.isspace()]


def words(text: str) -> list[str]:
    """What WER counts: what white space divides ``text`` into."""
    return text.split()


METRICS: dict[str, Callable[[str], list[str]]] = {"CER": characters, "WER": words}
UNITS = {"CER": "characters", "WER": "words"}  # what they count


def metrics_for(metric: str) -> list[str]:
    """The error rates of a corpus whose own is ``metric``, that one first: text without words has no WER."""
    return ["WER", "CER"] if metric == "WER" else ["CER"]


def count_errors(reference: str, hypothesis: str, metric: str = "CER") -> Counts:
    """Edit operations that turn ``reference`` into ``hypothesis``, by Levenshtein distance."""
    ref, hyp = METRICS[metric](reference), METRICS[metric](hypothesis)
    found = kaldialign.edit_distance(ref, hyp)
    return Counts(len(ref), int(found["ins"]), int(found["del"]), int(found["sub"]))


def alignment(reference: str, hypothesis: str, metric: str = "CER") -> list[tuple[str, str]]:
    """Aligned pairs of characters or words; ``EPSILON`` stands for nothing."""
    return kaldialign.align(METRICS[metric](reference), METRICS[metric](hypothesis), EPSILON)


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

    (Bisani and Ney, ICASSP 2004: utterances, not characters or words, are the independent units.)
    """
    if not counts:
        return (0.0, 0.0)
    rates = _resampled_rates(counts, seed)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(rates, [tail, 100 - tail])
    return float(low), float(high)


def difference(
    baseline: Sequence[Counts], system: Sequence[Counts], level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Error rate of ``system`` minus that of ``baseline`` in percent points, and its paired bootstrap interval.

    Both lists hold the same utterances in the same order.
    """
    if len(baseline) != len(system):
        raise ValueError("paired bootstrap needs the same utterances in both systems")
    change = error_rate(total(system)) - error_rate(total(baseline))
    if not baseline:
        return change, change, change
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(_resampled_rates(system, seed) - _resampled_rates(baseline, seed), [tail, 100 - tail])
    return change, float(low), float(high)


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


def summarize(part: str, metric: str, counts: Sequence[Counts]) -> ErrorSummary:
    """The error rate over utterances."""
    everything = total(counts)
    return ErrorSummary(part, metric, everything, error_rate(everything), *bootstrap_interval(counts), len(counts))


def _resampled_rates(counts: Sequence[Counts], seed: int) -> np.ndarray:
    """(RESAMPLES,) error rates in percent; the same seed draws the same utterances."""
    draws = np.random.default_rng(seed).integers(len(counts), size=(RESAMPLES, len(counts)))
    errors = np.array([item.errors for item in counts])[draws].sum(axis=1)
    refs = np.array([item.ref for item in counts])[draws].sum(axis=1)
    return 100.0 * errors / np.maximum(refs, 1)
