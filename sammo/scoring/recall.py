"""How often something is right over the seconds for which it had to be remembered: interval and figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol, Sequence, TypeVar

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the back-end is chosen first: there may be no screen)
from matplotlib.ticker import NullLocator  # noqa: E402

from sammo import geometry  # noqa: E402
from sammo.files import atomic_path  # noqa: E402

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


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927); 0 to 1 of nothing."""
    if not total:
        return 0.0, 1.0
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return middle - half, middle + half


def figure(
    cells: Sequence[Point],
    chance: float,
    path: Path,
    xlabel: str = "seconds from cue to event",
    ylabel: str = "recalled (%)",
) -> Path:
    """Writes a PNG to ``path``: one line a system, a panel a chunk width; the delay is on a logarithmic axis. Returns it.

    Args:
      chance: share that guessing gets right.
    """
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
