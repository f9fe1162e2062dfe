"""Character and word error rates, with the uncertainty that a test set of this size leaves."""

from __future__ import annotations

import math
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


def bootstrap_interval(counts: Sequence[Counts]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the error rate, in percent, by resampling utterances.

    (Bisani and Ney, ICASSP 2004: utterances, not characters or words, are the independent units.)
    """
    return _interval(_resampled_rates(counts)) if counts else (0.0, 0.0)


def difference(baseline: Sequence[Counts], system: Sequence[Counts]) -> tuple[float, float, float]:
    """Error rate of ``system`` minus that of ``baseline`` in percent points, and its paired 95 % bootstrap interval.

    Both lists hold the same utterances in the same order, and each bootstrap sample draws the same ones from both.
    """
    change = error_rate(total(system)) - error_rate(total(baseline))
    old, new = _resampled_pairs(baseline, system)
    return change, *(_interval(new - old) if baseline else (change, change))


def relative_change(baseline: Sequence[Counts], system: Sequence[Counts]) -> tuple[float, float, float] | None:
    """As :func:`difference`, in percent of the baseline's error rate; None where the baseline makes no errors."""
    before, after = error_rate(total(baseline)), error_rate(total(system))
    old, new = _resampled_pairs(baseline, system)
    if not before or not np.isfinite(before):
        return None
    drawn = old > 0
    return 100.0 * (after / before - 1.0), *_interval(100.0 * (new[drawn] / old[drawn] - 1.0))


def matched_pairs(baseline: Sequence[Counts], system: Sequence[Counts]) -> float:
    """How likely chance alone makes a difference as large as that of two systems, or larger, to either side.

    The matched-pairs test on sums over segments, of which each utterance is one (Gillick and Cox, ICASSP 1989). Both lists hold
    the same utterances in the same order; their numbers of errors per reference unit are compared, so that sums over several
    seeds compare, too.
    """
    before, after = (
        np.array([item.errors for item in counts]) / max(total(counts).ref, 1) for counts in (baseline, system)
    )
    change = after - before
    if len(change) < 2 or not change.any():
        return 1.0
    error = max(change.std(ddof=1) / math.sqrt(len(change)), 1e-30)
    return math.erfc(abs(change.mean()) / error / math.sqrt(2))


def holm(chances: Sequence[float]) -> list[float]:
    """The same for each of several tests, corrected for how many they are (Holm, 1979)."""
    order, out, largest = sorted(range(len(chances)), key=chances.__getitem__), [0.0] * len(chances), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[index]))
        out[index] = largest
    return out


def summarize(part: str, metric: str, counts: Sequence[Counts]) -> ErrorSummary:
    """The error rate over utterances."""
    everything = total(counts)
    return ErrorSummary(part, metric, everything, error_rate(everything), *bootstrap_interval(counts), len(counts))


def _resampled_rates(counts: Sequence[Counts]) -> np.ndarray:
    """(RESAMPLES,) error rates in percent; of as many utterances always the same ones are drawn."""
    draws = np.random.default_rng(0).integers(len(counts) or 1, size=(RESAMPLES, len(counts)))
    errors = np.array([item.errors for item in counts], int)[draws].sum(axis=1)
    refs = np.array([item.ref for item in counts], int)[draws].sum(axis=1)
    return 100.0 * errors / np.maximum(refs, 1)


def _resampled_pairs(baseline: Sequence[Counts], system: Sequence[Counts]) -> tuple[np.ndarray, np.ndarray]:
    if len(baseline) != len(system):
        raise ValueError("paired bootstrap needs the same utterances in both systems")
    return _resampled_rates(baseline), _resampled_rates(system)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
