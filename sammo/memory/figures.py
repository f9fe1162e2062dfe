"""The figure of ``sammo memory``: the error rate over how much of the past is kept, and the heads' time constants."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the back-end is chosen first: there may be no screen)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import NullLocator  # noqa: E402

from sammo import geometry  # noqa: E402
from sammo.files import atomic_path  # noqa: E402
from sammo.memory.decoding import Condition  # noqa: E402
from sammo.memory.report import Report, Row, StackTimes, quantiles  # noqa: E402
from sammo.scoring.figures import GRID, INK, MARKERS  # noqa: E402

COLORS = ("#c2185b", "#1f5a8c", "#7b1fa2", "#5a8bb5", "#0d3050")
BIASES, DRIVEN = "#9fb8cf", "#c2185b"


def draw(report: Report, path: Path) -> Path:
    """Writes the figure; the second panel only where there are time constants."""
    panels = 2 if report.times else 1
    fig, axes = plt.subplots(1, panels, figsize=(6.6 * panels, 4.6), dpi=150, squeeze=False)
    _error_rates(axes[0, 0], report)
    if report.times:
        _time_constants(axes[0, 1], report.times)
    fig.tight_layout()
    with atomic_path(path) as temporary:
        # Fixed metadata: the same results give the same bytes.
        fig.savefig(temporary, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(fig)
    return path


def _kept(condition: Condition, recurrent: bool) -> float:
    """Seconds of the past that are kept; infinite for all."""
    return condition.age if recurrent else condition.left_context_frames / geometry.RATE


def _error_rates(ax: Axes, report: Report) -> None:
    """One line a chunk size; on a logarithmic axis 0 and "all" stand one step beside the ages."""
    lines: dict[int, list[tuple[float, Row]]] = {}
    for chunk, found in report.tables.items():
        shown = [row for row in found if not row.condition.silenced]
        if report.recurrent:  # at the left context of the row "as it is"
            left = found[0].condition.left_context_frames
            shown = [row for row in shown if row.condition.left_context_frames == left]
        points = [(_kept(row.condition, report.recurrent), row) for row in shown]
        lines[chunk] = sorted(points, key=lambda point: point[0])
    ages = sorted({age for points in lines.values() for age, _ in points if 0 < age < float("inf")}) or [1.0]
    zero, everything = ages[0] / 2, ages[-1] * 2
    for i, (chunk, points) in enumerate(lines.items()):
        xs = [zero if age == 0 else min(age, everything) for age, _ in points]
        ys = [row.rate for _, row in points]
        errors = [
            [max(0.0, row.rate - row.interval[0]) for _, row in points],
            [max(0.0, row.interval[1] - row.rate) for _, row in points],
        ]
        name = f"chunks of {chunk / geometry.RATE:g} s"
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        ax.errorbar(xs, ys, errors, color=color, marker=marker, linewidth=1.8, capsize=3, label=name)
    ax.set_xscale("log")
    ticks = {zero: "0\n(reset)" if report.recurrent else "0"}
    ticks |= {age: f"{age:g}" for age in _spaced(ages)}
    if report.recurrent:
        ticks[everything] = "all\n(as it is)"
    ax.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("age of the state (s)" if report.recurrent else "left context (s)")
    ax.set_ylabel(f"{report.metric} (%)")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize=9)
    _dress(ax, f"{report.metric} over the past that is kept ({', '.join(report.parts)})")


def _spaced(ages: Sequence[float]) -> list[float]:
    """Ages of which neighbours are far enough apart to be labelled."""
    chosen = [ages[0]]
    for age in ages[1:]:
        if age > 1.25 * chosen[-1]:
            chosen.append(age)
    return chosen


def _time_constants(ax: Axes, stacks: Sequence[StackTimes]) -> None:
    """A mark a head and a bar at the median, from the parameters and as the data drive them."""
    for i, times in enumerate(stacks):
        for shift, values, color in ((-0.15, times.at_biases, BIASES), (0.15, times.as_driven, DRIVEN)):
            heads = sorted(value for layer in values for value in layer)
            ax.scatter([i + shift] * len(heads), heads, s=16, color=color, alpha=0.6, linewidth=0)
            median = quantiles(values)["median"]
            ax.plot([i + shift - 0.11, i + shift + 0.11], [median] * 2, color=color, linewidth=2.5)
    for name, color in (("at the biases", BIASES), ("as the data drive them", DRIVEN)):
        ax.scatter([], [], color=color, label=name)
    ax.set_yscale("log")
    names = [f"{times.stack}\n{geometry.RATE / times.factor:g} Hz" for times in stacks]
    ax.set_xticks(range(len(stacks)), names)
    ax.set_xlabel("stack")
    ax.set_ylabel("time constant (s)")
    ax.legend(frameon=False, fontsize=9)
    _dress(ax, "Time constants of the heads")


def _dress(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=11.5, color=INK)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0, colors=INK)
