"""The two figures of the report: error rate over chunk width and over the bytes a stream keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Collection, Mapping, Sequence

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
WITH_LEFT = ("#b9cbdc", "#8fb0cc", "#5a8bb5", "#1f5a8c", "#0d3050")
PANELS = (16, 64)  # chunk widths of the figure over bytes: a narrow one, and the one at which the paper compares
MARKERS = "osD^vP"

Lines = Mapping[str, Mapping[int, Any]]  # name -> chunk frames -> cell (rate, counts, state_bytes)


NAMES = {"CER": "Character error rate", "WER": "Word error rate"}


def rate_over_chunk(lines: Lines, parts: Sequence[str], path: Path, metric: str = "CER") -> Path:
    """One line a system, a bar of the 95 % interval at each point; the chunk width is on a base-2 axis."""
    fig, ax = _axes(f"{NAMES[metric]} over chunk width ({', '.join(parts)})", metric)
    chunks = sorted({chunk for cells in lines.values() for chunk in cells if chunk > 0})
    ends = []
    for index, ((name, cells), (color, marker)) in enumerate(zip(lines.items(), _styles(lines))):
        found = [chunk for chunk in sorted(cells) if chunk > 0]
        if not found:
            continue
        # Side by side, so that no bar hides another.
        xs = [chunk * 2 ** (0.04 * (index - (len(lines) - 1) / 2)) for chunk in found]
        ys, bars = _rates([cells[chunk] for chunk in found], metric)
        ax.errorbar(xs, ys, bars, color=color, marker=marker, markersize=6, linewidth=1.8, elinewidth=1.0, label=name)
        ends.append((ys[-1], xs[-1], name, color))
    ax.set_xscale("log", base=2)
    if chunks:
        ax.set_xticks(chunks, [f"{chunk * FRAME_MS}" for chunk in chunks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("chunk width (ms)")
    ax.set_ylim(bottom=0)
    _label_ends(ax, ends)
    return _save(fig, path)


def rate_over_state(
    lines: Lines, parts: Sequence[str], path: Path, metric: str = "CER", reset: Mapping[int, float] | None = None
) -> Path:
    """What memory buys, a panel a chunk width: systems that differ in left context or d_state alone are one line over their
    bytes.

    Args:
      lines: of the systems.
      parts: that the rates are over.
      path: of the figure.
      metric: "CER" or "WER".
      reset: chunk -> error rate of the system without left context when its recurrent state is reset before every chunk.
    """
    chunks = sorted({chunk for cells in lines.values() for chunk in cells if chunk > 0})
    chunks = [chunk for chunk in chunks if chunk in PANELS] or chunks[:1]
    title = f"{NAMES[metric]} over memory per stream ({', '.join(parts)})"
    fig, axes = plt.subplots(1, max(1, len(chunks)), figsize=(4.6 * max(1, len(chunks)), 4.4), dpi=150, squeeze=False)
    fig.suptitle(title, x=0.01, ha="left", fontsize=11.5, color=INK)
    for ax, chunk in zip(axes[0], chunks):
        _dress(ax, metric)
        ax.set_title(f"chunks of {chunk * FRAME_MS / 1000:g} s", fontsize=10, color=INK)
        families: dict[str, list[str]] = {}
        for name, cells in lines.items():
            if chunk in cells:
                families.setdefault(re.sub(r", (left|d_state) \w+", "", name), []).append(name)
        last = [max(names, key=lambda name: lines[name][chunk].state_bytes) for names in families.values()]
        for (family, names), (color, marker) in zip(families.items(), _styles(last)):
            cells = sorted((lines[name][chunk] for name in names), key=lambda cell: cell.state_bytes)
            xs = [cell.state_bytes / 1024 for cell in cells]
            ys, bars = _rates(cells, metric)
            style = dict(color=color, marker=marker, markersize=6)
            label = names[0] if len(names) == 1 else family
            ax.errorbar(xs, ys, bars, **style, linewidth=1.8, elinewidth=1.0, label=label)
            if len(names) == 1 and " left " not in label and reset is not None and chunk in reset:
                label += ", state reset before every chunk"
                ax.plot(xs, [reset[chunk]], **style, markerfacecolor="white", linestyle="none", label=label)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xlabel("state per stream (KiB)")
        ax.set_ylim(bottom=0)
    axes[0, 0].legend(frameon=False, fontsize=8.5, loc="best")
    fig.tight_layout()
    return _save(fig, path)


def _rates(cells: Sequence[Any], metric: str) -> tuple[list[float], list[list[float]]]:
    """Error rates, and how far their 95 % intervals reach below and above."""
    ys = [cell.rate(metric) for cell in cells]
    bounds = [bootstrap_interval(cell.counts[metric]) for cell in cells]
    below = [max(0.0, y - low) for y, (low, _) in zip(ys, bounds)]
    above = [max(0.0, high - y) for y, (_, high) in zip(ys, bounds)]
    return ys, [below, above]


def _axes(title: str, metric: str):
    fig, ax = plt.subplots(figsize=(8, 4.6), dpi=150)
    ax.set_title(title, loc="left", fontsize=11.5, color=INK)
    _dress(ax, metric)
    return fig, ax


def _dress(ax, metric: str) -> None:
    ax.set_ylabel(f"{metric} (%)")
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0, colors=INK)


def _styles(lines: Collection[str]) -> list[tuple[str, str]]:
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
    right = max(x for _, x, _, _ in ends)
    ax.set_xlim(right=right * 1.06)
    step = 0.055 * (ax.get_ylim()[1] - ax.get_ylim()[0])
    last = None
    for y, x, name, color in sorted(ends):
        place = y if last is None else max(y, last + step)
        last = place
        ax.annotate(
            name,
            (x, y),
            xytext=(right * 1.14, place),
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops=dict(arrowstyle="-", color=color, linewidth=0.6, alpha=0.6, shrinkA=0, shrinkB=6),
        )


def _save(fig, path: Path) -> Path:
    with atomic_path(path) as temporary:
        # Fixed metadata: the same results give the same bytes.
        fig.savefig(temporary, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(fig)
    return path
