"""The tables and figures of ``sammo timing``, ``sammo homophones`` and ``sammo endurance``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the back-end is chosen first: there may be no screen)

from sammo import geometry  # noqa: E402
from sammo.evidence.endurance import Joined, bins  # noqa: E402
from sammo.evidence.homophones import Answers  # noqa: E402
from sammo.evidence.timing import BINS, Timing  # noqa: E402
from sammo.files import atomic_path  # noqa: E402
from sammo.markdown import markdown_table  # noqa: E402
from sammo.scoring.cer import bootstrap_interval, difference, error_rate, total  # noqa: E402
from sammo.scoring.figures import GRID, MARKERS, WITH_LEFT, WITHOUT_LEFT  # noqa: E402
from sammo.scoring.recall import lines, wilson  # noqa: E402

if TYPE_CHECKING:
    from sammo.evidence.command import Talks

Timings = Mapping[int, Mapping[str, Timing]]  # chunk size -> system -> what was measured
QUANTILES = {"median": 0.5, "90 %": 0.9, "99 %": 0.99}


def timing_markdown(found: Timings, parts: Sequence[str], metric: str) -> str:
    """Errors over the place in the chunk, a table a chunk size, and latencies."""
    out = [
        "# Where in a chunk errors happen, and how late tokens are",
        "",
        f"{', '.join(parts)}. {metric} in % of the units said in each eighth of a chunk, the first right "
        "behind the boundary, with 95 % bootstrap intervals; an insertion counts where the unit before it was said.",
    ]
    for chunk, systems in sorted(found.items()):
        step = chunk / geometry.RATE / BINS
        head = ["", *(f"{place * step:.2f} s" for place in range(BINS)), "utterances"]
        rows = []
        for name, timing in systems.items():
            cells = [f"{rate:.2f} ({low:.2f}–{high:.2f})" for rate, low, high in timing.rates()]
            rows.append([name, *cells, str(timing.utterances)])
        out += ["", f"## Chunks of {chunk} frames ({chunk / geometry.RATE:g} s)", "", *markdown_table(head, rows)]
    rows = [
        [name, str(chunk), *(f"{value:.2f}" for value in timing.quantiles(list(QUANTILES.values())))]
        for chunk, systems in sorted(found.items())
        for name, timing in systems.items()
    ]
    out += [
        "",
        "## Latency",
        "",
        "Seconds from the end of a unit that was recognized to the moment when the chunk that gives its token has come; "
        "computing it comes on top.",
        "",
        *markdown_table(["", "chunk", *QUANTILES], rows),
    ]
    return "\n".join(out) + "\n"


def timing_json(found: Timings, parts: Sequence[str], metric: str) -> dict[str, Any]:
    """The same in JSON types."""
    return {
        "format": "sammo-timing-1",
        "parts": list(parts),
        "metric": metric,
        "systems": [
            {
                "system": name,
                "chunk_size": chunk,
                "utterances": timing.utterances,
                "places": [total(counts)._asdict() for counts in timing.places],
                "latency_seconds": dict(zip(QUANTILES, timing.quantiles(list(QUANTILES.values()))))
                if timing.latencies
                else None,
            }
            for chunk, systems in sorted(found.items())
            for name, timing in systems.items()
        ],
    }


def draw_timing(found: Timings, path: Path, metric: str) -> Path:
    """A panel a chunk size: the error rate over the place in the chunk."""
    fig, axes = plt.subplots(1, len(found), figsize=(4.4 * len(found), 4.0), dpi=150, squeeze=False)
    for ax, (chunk, systems) in zip(axes[0], sorted(found.items())):
        width = chunk / geometry.RATE
        seen = {True: 0, False: 0}
        for (name, timing), marker in zip(systems.items(), MARKERS * len(systems)):
            left = " left " in name
            palette = WITH_LEFT if left else WITHOUT_LEFT
            color = palette[seen[left] % len(palette)]
            seen[left] += 1
            xs = [(place + 0.5) * width / BINS for place in range(BINS)]
            ax.plot(xs, [rate for rate, *_ in timing.rates()], color=color, marker=marker, label=name)
        ax.set_title(f"chunks of {width:g} s", fontsize=10)
        ax.set_xlabel("seconds behind the chunk's start")
        ax.set_ylabel(f"{metric} (%)")
        ax.set_xlim(0, width)
        ax.set_ylim(bottom=0)
        ax.grid(axis="y", color=GRID)
        ax.set_axisbelow(True)
    fig.tight_layout()
    handles, names = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, names, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=len(names))
    with atomic_path(path) as temporary:
        fig.savefig(temporary, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(fig)
    return path


def homophones_markdown(answers: Sequence[Answers]) -> str:
    """Percent right over the delay, a table a chunk size."""
    delays = sorted({found.delay for found in answers})
    num = max(found.sequences + found.neither for found in answers)
    low, high = wilson(num // 2, num)
    neither = max(answers, key=lambda found: found.neither / (found.sequences + found.neither))
    out = [
        "# Homophones over the delay of the word that decides them",
        "",
        "Percent of the homophones that are spelled right, of those spelled in either way, by the seconds from the end of "
        f"the word that decides to the clause of the homophone; up to {num} at each delay, of which half ask for either "
        f"spelling behind the same sounds. Guessing comes to between {100 * low:.0f} and {100 * high:.0f} in 95 of 100 "
        f"such tests. In neither way are at most {neither.neither} ({neither.system}, chunk {neither.chunk_size}, "
        f"{neither.delay:g} s).",
    ]
    rows = lines(answers)
    for chunk in sorted({width for _, width in rows}):
        cells = []
        for (system, width), row in rows.items():
            right = {found.delay: f"{100 * found.accuracy:.0f}" for found in row}
            if width == chunk:
                cells.append([system, *(right.get(delay, "") for delay in delays)])
        title = f"## Chunks of {chunk} frames ({chunk / geometry.RATE:g} s)"
        out += ["", title, "", *markdown_table(["", *(f"{delay:g} s" for delay in delays)], cells)]
    return "\n".join(out) + "\n"


def homophones_json(answers: Sequence[Answers]) -> dict[str, Any]:
    """The same in JSON types."""
    return {"format": "sammo-homophones-1", "answers": [found._asdict() for found in answers]}


def endurance_markdown(found: Mapping[str, Joined], model: str, talks: Talks, metric: str) -> str:
    """Error rates over the position in the talk, beside those of the same utterances alone, and norms of the state."""
    reset = f"the state emptied every {talks.reset_every:g} s" if talks.reset_every else "the state never emptied"
    out = [
        "# Endurance",
        "",
        f"{model}; {talks.count} talks of {talks.minutes:g} min, joined of utterances that begin where a chunk begins, "
        f"{reset}. {metric} in %; alone: the same utterances, each with a fresh state; difference in percent points with "
        "its paired 95 % interval.",
    ]
    for label, joined in found.items():
        rows = []
        for place, together, alone in bins(joined):
            low, high = bootstrap_interval(together)
            change, least, most = difference(alone, together)
            rate = f"{error_rate(total(together)):.2f} ({low:.2f}–{high:.2f})"
            row = [rate, f"{error_rate(total(alone)):.2f}", f"{change:+.2f} ({least:+.2f} to {most:+.2f})"]
            rows.append([place, str(len(together)), *row])
        out += ["", f"## {label[0].upper()}{label[1:]}", ""]
        out += markdown_table(["position", "utterances", f"{metric} joined", "alone", "difference"], rows)
        if joined.norms:
            head = ["stack", *(f"{minute:.2g} min" for minute in joined.norm_minutes)]
            values = [[str(norm.stack), *(f"{value:.3g}" for value in norm.values)] for norm in joined.norms]
            out += ["", "Root mean square of the recurrent state:", "", *markdown_table(head, values)]
    return "\n".join(out) + "\n"


def endurance_json(found: Mapping[str, Joined], model: str, talks: Talks, metric: str) -> dict[str, Any]:
    """The same in JSON types."""
    return {
        "format": "sammo-endurance-1",
        "model": model,
        "metric": metric,
        "talks": talks._asdict(),
        "settings": {
            label: {
                "positions": [
                    {"minutes": place, "joined": total(together)._asdict(), "alone": total(alone)._asdict()}
                    for place, together, alone in bins(joined)
                ],
                "state": {
                    "minutes": joined.norm_minutes,
                    "rms": {str(norm.stack): norm.values for norm in joined.norms},
                },
            }
            for label, joined in found.items()
        },
    }
