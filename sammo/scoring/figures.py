"""The two figures of the report: error rate over chunk width and over the bytes a stream keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the back-end is chosen first: there may be no screen)
from matplotlib.ticker import FuncFormatter, NullLocator  # noqa: E402

from sammo import geometry  # noqa: E402
from sammo.files import atomic_path  # noqa: E402
from sammo.scoring.cer import bootstrap_interval  # noqa: E402

FRAME_MS = round(1000 / geometry.RATE)
INK, GRID = "#222222", "#dddddd"
WITHOUT_LEFT = ("#c2185b", "#ec6f9c", "#7b1fa2")
WITH_LEFT = ("#9fb8cf", "#5a8bb5", "#1f5a8c", "#0d3050")
MARKERS = "osD^vP"

Lines = Mapping[str, Mapping[int, Any]]  # name -> chunk frames -> cell (rate, counts, state_bytes)


NAMES = {"CER": "Character error rate", "WER": "Word error rate"}


def rate_over_chunk(lines: Lines, parts: Sequence[str], path: Path, metric: str = "CER") -> Path:
    """One line a system with its 95 % interval; the chunk width is on a base-2 axis."""
    fig, ax = _axes(f"{NAMES[metric]} over chunk width ({', '.join(parts)})", metric)
    chunks = sorted({chunk for cells in lines.values() for chunk in cells if chunk > 0})
    ends = []
    for (name, cells), (color, marker) in zip(lines.items(), _styles(lines)):
        xs = [chunk for chunk in sorted(cells) if chunk > 0]
        if not xs:
            continue
        ys = [cells[x].rate(metric) for x in xs]
        low, high = zip(*(bootstrap_interval(cells[x].counts[metric]) for x in xs))
        ax.fill_between(xs, low, high, color=color, alpha=0.10, linewidth=0)
        ax.plot(xs, ys, color=color, marker=marker, markersize=6, linewidth=2.2, label=name, clip_on=False)
        ends.append((ys[-1], xs[-1], name, color))
    ax.set_xscale("log", base=2)
    if chunks:
        ax.set_xticks(chunks, [f"{chunk * FRAME_MS}" for chunk in chunks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("chunk width (ms)")
    ax.set_ylim(bottom=0)
    _label_ends(ax, ends)
    return _save(fig, path)


def rate_over_state(lines: Lines, parts: Sequence[str], path: Path, metric: str = "CER") -> Path:
    """A point a system and chunk width: what memory buys."""
    fig, ax = _axes(f"{NAMES[metric]} over memory per stream ({', '.join(parts)})", metric)
    chunks = sorted({chunk for cells in lines.values() for chunk in cells if chunk > 0})
    for (name, cells), (color, marker) in zip(lines.items(), _styles(lines)):
        xs = [cells[chunk].state_bytes / 1024 for chunk in chunks if chunk in cells]
        ys = [cells[chunk].rate(metric) for chunk in chunks if chunk in cells]
        sizes = [30 + 30 * i for i, chunk in enumerate(chunks) if chunk in cells]
        ax.scatter(xs, ys, s=sizes, color=color, marker=marker, alpha=0.85, label=name, linewidth=0)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlabel("state per stream (KiB); larger marks: wider chunks " + ", ".join(f"{c * FRAME_MS}" for c in chunks) + " ms")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize=9, loc="best")
    return _save(fig, path)


def _axes(title: str, metric: str):
    fig, ax = plt.subplots(figsize=(8, 4.6), dpi=150)
    ax.set_title(title, loc="left", fontsize=11.5, color=INK)
    ax.set_ylabel(f"{metric} (%)")
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0, colors=INK)
    return fig, ax


def _styles(lines: Lines) -> list[tuple[str, str]]:
    """(color, marker) a line: with and without left context in two hues, darker for larger caches."""
    seen = {True: 0, False: 0}
    total = sum(" left " in name for name in lines)
    styles = []
    for i, name in enumerate(lines):
        left = " left " in name
        palette = WITH_LEFT[-total:] if left and total <= len(WITH_LEFT) else WITH_LEFT if left else WITHOUT_LEFT
        styles.append((palette[seen[left] % len(palette)], MARKERS[i % len(MARKERS)]))
        seen[left] += 1
    return styles


def _label_ends(ax, ends: list[tuple[float, float, str, str]]) -> None:
    """Names beside the lines' right ends, pushed apart where they would overlap."""
    if not ends:
        return
    ax.set_xlim(right=max(x for _, x, _, _ in ends) * 1.06)
    step = 0.055 * (ax.get_ylim()[1] - ax.get_ylim()[0])
    last = None
    for y, x, name, color in sorted(ends):
        place = y if last is None else max(y, last + step)
        last = place
        ax.annotate(
            name, (x, y), xytext=(x * 1.12, place), color=color, fontsize=9, va="center", annotation_clip=False,
            arrowprops=dict(arrowstyle="-", color=color, linewidth=0.6, alpha=0.6, shrinkA=0, shrinkB=6),
        )


def _save(fig, path: Path) -> Path:
    with atomic_path(path) as temporary:
        # Fixed metadata: the same results give the same bytes.
        fig.savefig(temporary, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(fig)
    return path
