"""The probe's table, figure and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Sequence

from sammo import geometry
from sammo.files import atomic_write
from sammo.markdown import markdown_table
from sammo.probe.measure import Recall
from sammo.scoring.recall import figure, lines, wilson

FRAME_SECONDS = 1 / geometry.RATE


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
