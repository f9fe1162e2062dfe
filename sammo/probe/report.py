"""The probe's table, figure and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, Sequence, TypeVar

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the back-end is chosen first: there may be no screen)
from matplotlib.ticker import NullLocator  # noqa: E402

from sammo import geometry  # noqa: E402
from sammo.files import atomic_path, atomic_write  # noqa: E402
from sammo.markdown import markdown_table  # noqa: E402
from sammo.probe.measure import Recall, wilson  # noqa: E402

FRAME_SECONDS = 1 / geometry.RATE
WITHOUT_LEFT = ("#c2185b", "#7b1fa2", "#ec6f9c")
WITH_LEFT = ("#8fb0cc", "#5a8bb5", "#1f5a8c", "#0d3050")
MARKERS = "osD^vPX"
FAMILIES = ("-", "--", "-.")  # lines of encoders that attend to what is left


class Point(Protocol):
    """What is drawn: how many of ``sequences`` a system gets right after ``delay`` seconds."""

    @property
    def system(self) -> str: ...
    @property
    def chunk_size(self) -> int: ...
    @property
    def left_context_frames(self) -> int: ...
    @property
    def reset(self) -> bool: ...
    @property
    def delay(self) -> float: ...
    @property
    def sequences(self) -> int: ...
    @property
    def right(self) -> int: ...
    @property
    def accuracy(self) -> float: ...


P = TypeVar("P", bound=Point)


def lines(cells: Sequence[P]) -> dict[tuple[str, int], list[P]]:
    """(system, chunk) -> its cells by delay, in the order in which the cells came."""
    found: dict[tuple[str, int], list[P]] = {}
    for cell in cells:
        found.setdefault((cell.system, cell.chunk_size), []).append(cell)
    return {key: sorted(row, key=lambda cell: cell.delay) for key, row in found.items()}


def table(cells: Sequence[Recall], reaches: dict[str, float], chance: float) -> str:
    """Markdown: accuracy in percent over the delay. ``reaches``: "system/chunk" -> seconds."""
    delays = sorted({cell.delay for cell in cells})
    head = ["system", "chunk (s)", "reach (s)", *(f"{delay:g} s" for delay in delays)]
    rows = []
    for (system, chunk), row in lines(cells).items():
        found = {cell.delay: f"{100 * cell.accuracy:.0f}" for cell in row}
        reach = f"{reaches[row[0].line]:.1f}"
        rows.append([system, f"{chunk * FRAME_SECONDS:.2f}", reach, *(found.get(delay, "") for delay in delays)])
    rows.append(["chance", "", "", *[f"{100 * chance:.0f}"] * len(delays)])
    return "\n".join(markdown_table(head, rows))


def note(cells: Sequence[Recall], chance: float) -> str:
    """What the numbers are, and how far chance goes."""
    num = min(cell.sequences for cell in cells)
    low, high = wilson(round(chance * num), num)
    trained = sorted({(cell.encoder, cell.steps) for cell in cells}, key=lambda pair: pair[0])
    batches = ", ".join(f"{encoder} {steps}" for encoder, steps in trained)
    return (
        f"Percent of {num} sequences in which the cue was repeated at the event; greedy search; batches trained: "
        f"{batches}. Guessing comes to between {100 * low:.0f} and {100 * high:.0f} in 95 of 100 such tests. Reach is "
        "what a path through attention and convolutions can bridge at most, left contexts of all layers added up; more "
        "can only come through a recurrent state."
    )


def figure(
    cells: Sequence[Point],
    chance: float,
    path: Path,
    xlabel: str = "seconds from cue to event",
    ylabel: str = "recalled (%)",
) -> Path:
    """One line a system, a panel a chunk width; the delay is on a logarithmic axis."""
    rows = lines(cells)
    chunks = sorted({chunk for _, chunk in rows})
    fig, axes = plt.subplots(
        1, len(chunks), figsize=(max(5.0, 3.1 * len(chunks)), 3.6), dpi=150, sharey=True, squeeze=False
    )
    delays = sorted({cell.delay for cell in cells})
    for ax, chunk in zip(axes[0], chunks):
        ax.axhline(100 * chance, color="#888888", linewidth=1, linestyle=(0, (4, 3)))
        place = (delays[0], 100 * chance)
        ax.annotate("chance", place, xytext=(0, 3), textcoords="offset points", fontsize=8, color="#666666")
        here = {system: row for (system, width), row in rows.items() if width == chunk}
        attending = [system for system, row in here.items() if row[0].left_context_frames]
        families = list(dict.fromkeys(system.split(",")[0] for system in attending))
        palettes = {name: iter(WITH_LEFT * len(here)) for name in families}
        without = iter(WITHOUT_LEFT * len(here))
        for marker, (system, row) in zip(MARKERS * len(here), here.items()):
            family = system.split(",")[0]
            attends = system in attending
            color = next(palettes[family] if attends else without)
            xs, ys = [cell.delay for cell in row], [100 * cell.accuracy for cell in row]
            low, high = zip(*(wilson(cell.right, cell.sequences) for cell in row))
            ax.fill_between(xs, [100 * v for v in low], [100 * v for v in high], color=color, alpha=0.12, linewidth=0)
            style = ":" if row[0].reset else FAMILIES[families.index(family) % len(FAMILIES)] if attends else "-"
            ax.plot(xs, ys, style, color=color, marker=marker, markersize=4.5, label=system, clip_on=False)
        ax.set_xscale("log")
        ax.set_xticks(delays, [f"{delay:g}" for delay in delays])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_ylim(0, 100)
        ax.set_title(f"chunks of {chunk * FRAME_SECONDS:.2f} s", loc="left", fontsize=9.5)
        ax.set_xlabel(xlabel)
        ax.grid(axis="y", color="#dddddd", linewidth=0.8)
        for side in ("top", "right", "left"):
            ax.spines[side].set_visible(False)
        ax.tick_params(length=0, labelsize=8)
    axes[0][0].set_ylabel(ylabel)
    handles, labels = axes[0][0].get_legend_handles_labels()
    below = dict(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=min(len(labels), 2 * len(chunks)))
    fig.legend(handles, labels, frameon=False, fontsize=9, **below)
    fig.tight_layout()
    with atomic_path(path) as temporary:
        # Fixed metadata: the same results give the same bytes.
        fig.savefig(temporary, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(fig)
    return path


def write(
    cells: Sequence[Recall], reaches: dict[str, float], chance: float, facts: dict[str, Any], out_dir: Path
) -> str:
    """Writes probe.json, probe.md and probe.png; returns the table."""
    text = f"{table(cells, reaches, chance)}\n\n{note(cells, chance)}\n"
    with atomic_write(out_dir / "probe.md") as file:
        file.write(text)
    with atomic_write(out_dir / "probe.json") as file:
        rows = [{**cell._asdict(), "accuracy": cell.accuracy} for cell in cells]
        json.dump({**facts, "chance": chance, "reach_seconds": reaches, "cells": rows}, file, indent=1)
    figure(cells, chance, out_dir / "probe.png")
    return text
