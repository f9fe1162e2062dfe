"""The tables of ``sammo memory``, as Markdown and as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Sequence

import torch
from torch import Tensor

from sammo import geometry
from sammo.markdown import markdown_table
from sammo.memory.decoding import Condition, Outcome
from sammo.memory.recurrence import Place
from sammo.scoring import Counts, bootstrap_interval
from sammo.scoring.cer import UNITS, error_rate, relative_change, total

FORMAT = "sammo-memory-2"
QUANTILES = {"min": 0.0, "median": 0.5, "90 %": 0.9, "max": 1.0}


class Row(NamedTuple):
    """One condition over all parts; rates in percent, intervals of 95 %."""

    condition: Condition
    label: str
    counts: Counts
    rate: float
    interval: tuple[float, float]
    change: tuple[float, float, float] | None  # relative to the row "as it is" and its paired interval
    touched: float  # percent of the chunks that start with another state than without the window
    parts: dict[str, float]  # rate of each part


@dataclass(frozen=True)
class StackTimes:
    """Seconds after which the heads' states have fallen to 1/e, layer by layer (layers, heads)."""

    stack: int  # from 1
    factor: int  # its frame rate is 50 Hz over this
    at_biases: list[list[float]]
    as_driven: list[list[float]]


@dataclass(frozen=True)
class Report:
    """All that is shown."""

    model: str  # one line
    decoding: str  # one line
    metric: str  # "CER" or "WER": what the rows' counts and rates are of
    parts: Sequence[str]
    durations: Sequence[float]  # seconds of the utterances
    recurrent: bool
    tables: dict[int, list[Row]]  # chunk size -> rows
    times: Sequence[StackTimes]


def rows(
    conditions: Sequence[Condition], outcomes: dict[str, dict[Condition, Outcome]], recurrent: bool, attends: bool
) -> list[Row]:
    """The rows of one chunk size, the first condition being the one that nothing was removed from.

    Args:
      conditions: of that chunk size.
      outcomes: part -> condition -> what came of it.
      recurrent, attends: whether the encoder has a recurrent state, and attention with left context.
    """
    pooled = {c: [count for part in outcomes.values() for count in part[c].counts] for c in conditions}
    baseline = pooled[conditions[0]]
    found = []
    for condition, counts in pooled.items():
        chunks = sum(part[condition].chunks for part in outcomes.values())
        touched = sum(part[condition].touched for part in outcomes.values())
        found.append(
            Row(
                condition,
                label(condition, conditions[0], recurrent, attends),
                total(counts),
                error_rate(total(counts)),
                bootstrap_interval(counts),
                None if condition == conditions[0] else relative_change(baseline, counts),
                100.0 * touched / max(chunks, 1),
                {part: error_rate(total(done[condition].counts)) for part, done in outcomes.items()},
            )
        )
    return found


def label(condition: Condition, baseline: Condition, recurrent: bool, attends: bool) -> str:
    """What the condition changes."""
    if condition.silenced:
        return "mixers silenced"
    if condition.window == 0:
        return "recurrent state reset before every chunk"
    if condition.window is not None:
        return f"recurrent state of the last {condition.age:g} s"
    left = condition.left_context_frames
    seconds = f"left context {left} ({left / geometry.RATE:g} s)"
    if condition != baseline:
        return seconds
    return f"as it is, {seconds}" if attends else "as it is"


def stack_times(
    factors: Sequence[int], at_biases: dict[Place, Tensor], as_driven: dict[Place, Tensor]
) -> list[StackTimes]:
    """Time constants (H,) of each layer, in frames of its stack -> seconds, by stack."""
    found = []
    for stack in sorted({stack for stack, _ in at_biases}):
        places = sorted(place for place in at_biases if place[0] == stack)
        scale = factors[stack] / geometry.RATE
        biases, driven = ([(times[place] * scale).tolist() for place in places] for times in (at_biases, as_driven))
        found.append(StackTimes(stack + 1, factors[stack], biases, driven))
    return found


def quantiles(times: Sequence[Sequence[float]]) -> dict[str, float]:
    """Quantiles of the time constants of all layers and heads of a stack."""
    values = torch.tensor([value for layer in times for value in layer], dtype=torch.float64)
    found = torch.quantile(values, torch.tensor(list(QUANTILES.values()), dtype=torch.float64)).tolist()
    return dict(zip(QUANTILES, found))


def markdown(report: Report) -> str:
    """The report as Markdown."""
    durations = torch.tensor(report.durations)
    out = [
        "# What the encoder's memory carries",
        "",
        f"{report.model}; {report.decoding}; {', '.join(report.parts)}: {len(report.durations)} utterances of "
        f"{float(durations.median()):.1f} s (median; the longest has {float(durations.max()):.1f} s).",
        "",
        f"{report.metric} in %, deletions, insertions and substitutions in % of the reference {UNITS[report.metric]}, all "
        f"with 95 % bootstrap intervals where one is given. Change: of the {report.metric} relative to "
        '"as it is", in %, with its paired interval.',
    ]
    if report.recurrent:
        out += [
            "",
            "Touched: chunks, in %, that start with another recurrent state than they would have. The state is cut at "
            "chunk boundaries; a chunk's own frames always see one another. Caches of convolutions stay.",
        ]
    for chunk, found in report.tables.items():
        head = [
            "",
            report.metric,
            "del",
            "ins",
            "sub",
            "change",
            *(["touched"] if report.recurrent else []),
            *report.parts,
        ]
        out += ["", f"## Chunks of {chunk} frames ({chunk / geometry.RATE:g} s)", ""]
        out += markdown_table(head, [_row(row, report.recurrent) for row in found])
    if report.times:
        head = ["stack", "frame rate (Hz)", "heads", "", *QUANTILES]
        body = []
        for times in report.times:
            for name, values in (("at the biases", times.at_biases), ("as the data drive them", times.as_driven)):
                found = [f"{value:.3g}" for value in quantiles(values).values()]
                heads = sum(map(len, values))
                body.append([str(times.stack), f"{geometry.RATE / times.factor:g}", str(heads), name, *found])
        out += [
            "",
            "## Time constants (s)",
            "",
            "Seconds after which a head's state has fallen to 1/e: from the parameters alone (the step of the bias), "
            "and from the mean log decay a frame over the decoded utterances, tails of silence counted.",
            "",
            *markdown_table(head, body),
        ]
    return "\n".join(out) + "\n"


def _row(row: Row, recurrent: bool) -> list[str]:
    low, high = row.interval
    reference = max(row.counts.ref, 1)
    shares = [f"{100.0 * count / reference:.2f}" for count in (row.counts.dels, row.counts.ins, row.counts.subs)]
    change = ""
    if row.change is not None:
        change = f"{row.change[0]:+.1f} ({row.change[1]:+.1f} to {row.change[2]:+.1f})"
    touched = [f"{row.touched:.0f}" if row.condition.window is not None else ""] if recurrent else []
    parts = [f"{rate:.2f}" for rate in row.parts.values()]
    return [row.label, f"{row.rate:.2f} ({low:.2f}–{high:.2f})", *shares, change, *touched, *parts]


def to_json(report: Report) -> dict:
    """The report in JSON types; what is not finite is null."""
    return {
        "format": FORMAT,
        "model": report.model,
        "decoding": report.decoding,
        "metric": report.metric,
        "parts": list(report.parts),
        "utterances": len(report.durations),
        "seconds": round(math.fsum(report.durations), 2),
        "longest_seconds": max(report.durations),
        "conditions": [
            {
                "label": row.label,
                "chunk_size": chunk,
                "left_context_frames": row.condition.left_context_frames,
                "silenced": row.condition.silenced,
                "state_seconds": _finite(row.condition.age),
                "counts": row.counts._asdict(),
                "rate": _finite(row.rate),
                "interval": list(row.interval),
                "change_percent": None if row.change is None else list(row.change),
                "touched_percent": row.touched,
                "rate_by_part": {part: _finite(rate) for part, rate in row.parts.items()},
            }
            for chunk, found in report.tables.items()
            for row in found
        ],
        "time_constants_seconds": [
            {
                "stack": times.stack,
                "downsampling": times.factor,
                "at_biases": [[_finite(value) for value in layer] for layer in times.at_biases],
                "as_driven": [[_finite(value) for value in layer] for layer in times.as_driven],
            }
            for times in report.times
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
