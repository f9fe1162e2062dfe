#!/usr/bin/env python3
"""Prints sizes of the parts, their characters, and how much of the test text was seen in training.

Writes the same as manifest_statistics.txt and statistics.json into the manifest directory.

Usage: local/display_manifest_statistics.py --manifest-dir data/fbank [--mode fluent]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from sammo.data.manifests import read_json_lines
from sammo.data.transcripts import select
from sammo.errors import UserError, run_main
from sammo.files import atomic_write

PARTS = ("train", "valid", "eval1", "eval2", "eval3", "excluded")
MIN_SENTENCE = 10  # characters; shorter ones, such as back-channels, occur in any two talks


def part_statistics(cuts: list[dict], texts: list[str]) -> dict[str, float]:
    """Sizes of one part: cuts, hours, quantiles of duration (seconds), speakers, characters."""
    durations = np.array([cut["duration"] for cut in cuts])
    return {
        "cuts": len(cuts),
        "hours": float(durations.sum() / 3600),
        "min": float(durations.min()),
        "mean": float(durations.mean()),
        "median": float(np.median(durations)),
        "p99": float(np.quantile(durations, 0.99)),
        "max": float(durations.max()),
        "speakers": len({cut["supervisions"][0].get("speaker") for cut in cuts}),
        "characters": sum(map(len, texts)),
        "different_characters": len(set("".join(texts))),
        "cuts_without_text": sum(not text for text in texts),
    }


def overlap(texts: list[str], train: list[str]) -> dict[str, float]:
    """How many of ``texts`` of 10 characters or more are a training text, or are inside of one.

    Also the characters of ``texts`` that training never saw.
    """
    sentences = [text for text in texts if len(text) >= MIN_SENTENCE]
    seen = set(train)
    everything = "\n".join(train)
    same = sum(text in seen for text in sentences)
    inside = sum(text in everything for text in sentences)
    unseen = set("".join(texts)) - set(everything)
    return {
        "sentences": len(sentences),
        "same_as_training": same,
        "inside_of_training": inside,
        "share_inside": inside / len(sentences) if sentences else 0.0,
        "unseen_characters": len(unseen),
    }


def collect(manifest_dir: Path, mode: str) -> dict:
    """Statistics of all parts in ``manifest_dir``; UserError where the training part is missing."""
    parts, texts = {}, {}
    for part in PARTS:
        path = manifest_dir / f"csj_cuts_{part}.jsonl.gz"
        if part != "train" and not path.is_file():
            continue
        cuts = list(read_json_lines(path))
        if not cuts:
            raise UserError(f"{path} is empty")
        texts[part] = [
            select(cut["supervisions"][0].get("text"), cut["supervisions"][0].get("custom"), mode, cut["id"])
            for cut in cuts
        ]
        parts[part] = part_statistics(cuts, texts[part])
    overlaps = {part: overlap(texts[part], texts["train"]) for part in parts if part not in ("train", "excluded")}
    return {"mode": mode, "parts": parts, "overlap_with_training": overlaps}


def render(statistics: dict) -> str:
    """The statistics as two text tables."""
    names = ("cuts", "hours", "min", "mean", "median", "p99", "max", "speakers", "characters", "different_characters")
    lines = [f"transcript mode {statistics['mode']}; durations in seconds", ""]
    header = ["part", *(name.replace("different_characters", "different") for name in names)]
    rows = [header]
    for part, values in statistics["parts"].items():
        rows.append([part, *(f"{values[n]:.2f}" if isinstance(values[n], float) else str(values[n]) for n in names)])
    lines += _table(rows) + ["", f"text seen in training (texts of at least {MIN_SENTENCE} characters)", ""]
    rows = [["part", "texts", "same as one", "inside of one", "share", "characters unseen"]]
    for part, values in statistics["overlap_with_training"].items():
        counts = [str(values[name]) for name in ("sentences", "same_as_training", "inside_of_training")]
        rows.append([part, *counts, f"{100 * values['share_inside']:.1f} %", str(values["unseen_characters"])])
    return "\n".join(lines + _table(rows)) + "\n"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest-dir", type=Path, required=True)
    parser.add_argument("--mode", default="fluent")
    args = parser.parse_args()
    statistics = collect(args.manifest_dir, args.mode)
    text = render(statistics)
    with atomic_write(args.manifest_dir / "manifest_statistics.txt") as file:
        file.write(text)
    with atomic_write(args.manifest_dir / "statistics.json") as file:
        file.write(json.dumps(statistics, indent=2) + "\n")
    print(text, end="")


if __name__ == "__main__":
    run_main(main)
