"""Sizes of the parts of a corpus, their characters, and how much of the test text was seen in training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sammo.corpora import CSJ, Corpus
from sammo.data.manifests import read_records
from sammo.data.transcripts import select
from sammo.errors import UserError
from sammo.files import atomic_write

MIN_SENTENCE = 10  # characters; shorter ones, such as back-channels, occur in any two talks


def part_statistics(durations: np.ndarray, speakers: set[str], texts: list[str]) -> dict[str, float]:
    """Sizes of one part: cuts, hours, quantiles of duration (seconds), speakers, characters without white space."""
    characters = ["".join(text.split()) for text in texts]
    return {
        "cuts": len(durations),
        "hours": float(durations.sum() / 3600),
        "min": float(durations.min()),
        "mean": float(durations.mean()),
        "median": float(np.median(durations)),
        "p99": float(np.quantile(durations, 0.99)),
        "max": float(durations.max()),
        "speakers": len(speakers),
        "characters": sum(map(len, characters)),
        "different_characters": len(set("".join(characters))),
        "words": sum(len(text.split()) for text in texts),
        "cuts_without_text": sum(not text for text in texts),
    }


def overlap(segments: list[str], train_segments: list[str]) -> dict[str, float]:
    """How many of ``segments`` of 10 characters or more are a training segment, or are inside of one.

    Segments are lhotse's, before they are joined into utterances: a joined text hides that its parts were seen.
    """
    sentences = [text for text in segments if len(text) >= MIN_SENTENCE]
    seen = set(train_segments)
    everything = "\n".join(train_segments)
    inside = sum(text in everything for text in sentences)
    return {
        "sentences": len(sentences),
        "same_as_training": sum(text in seen for text in sentences),
        "inside_of_training": inside,
        "share_inside": inside / len(sentences) if sentences else 0.0,
    }


def segment_texts(supervision_dir: Path, part: str) -> list[str]:
    """The texts of lhotse's segments of CSJ's ``part`` (train: core and noncore), disfluent as lhotse reads them."""
    names = ("core", "noncore") if part == "train" else (part,)
    paths = [supervision_dir / f"csj_supervisions_{name}.jsonl.gz" for name in names]
    return [segment.get("text") or "" for path in paths for segment in read_records(path, "supervision")]


def collect(corpus: Corpus, manifest_dir: Path, supervision_dir: Path, mode: str) -> dict:
    """Statistics of all parts in ``manifest_dir``; UserError where the training part is missing."""
    parts, texts = {}, {}
    for part in corpus.parts:
        path = corpus.manifest_path(manifest_dir, part)
        if part != corpus.train and not path.is_file():
            continue
        durations, speakers, texts[part] = [], set(), []
        for cut in read_records(path):
            supervision = next(iter(cut.get("supervisions", [])), {})
            durations.append(cut["duration"])
            speakers.add(supervision.get("speaker"))
            text = select(supervision.get("text"), supervision.get("custom"), mode, cut["id"]) if supervision else ""
            texts[part].append(text)
        if not durations:
            raise UserError(f"{path} is empty")
        parts[part] = part_statistics(np.array(durations), speakers, texts[part])
    segments = texts
    if corpus == CSJ:  # whose cuts are segments joined
        segments = {part: segment_texts(supervision_dir, part) for part in parts}
    train_characters = set("".join(texts[corpus.train]))
    overlaps = {}
    for part in parts:
        if part != corpus.train and part not in corpus.excluded:
            overlaps[part] = overlap(segments[part], segments[corpus.train])
            overlaps[part]["unseen_characters"] = len(set("".join(texts[part])) - train_characters)
    return {"corpus": corpus.name, "mode": mode, "parts": parts, "overlap_with_training": overlaps}


def render(statistics: dict, corpus: Corpus) -> str:
    """The statistics as two text tables."""
    names = ["cuts", "hours", "min", "mean", "median", "p99", "max", "speakers", "characters", "different_characters"]
    if corpus.has_words:
        names.append("words")
    mode = f"transcript mode {statistics['mode']}; " if statistics["mode"] else ""
    lines = [f"{mode}durations in seconds", ""]
    header = ["part", *(name.replace("different_characters", "different") for name in names)]
    rows = [header]
    for part, values in statistics["parts"].items():
        rows.append([part, *(f"{values[n]:.2f}" if isinstance(values[n], float) else str(values[n]) for n in names)])
    lines += _table(rows) + ["", f"sentences seen in training (segments of at least {MIN_SENTENCE} characters)", ""]
    rows = [["part", "sentences", "same as one", "inside of one", "share", "characters unseen"]]
    for part, values in statistics["overlap_with_training"].items():
        counts = [str(values[name]) for name in ("sentences", "same_as_training", "inside_of_training")]
        rows.append([part, *counts, f"{100 * values['share_inside']:.1f} %", str(values["unseen_characters"])])
    return "\n".join(lines + _table(rows)) + "\n"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]


def write_statistics(corpus: Corpus, manifest_dir: Path, supervision_dir: Path, mode: str) -> str:
    """Writes manifest_statistics.txt and statistics.json into ``manifest_dir`` and returns the former's text."""
    statistics = collect(corpus, manifest_dir, supervision_dir, mode)
    text = render(statistics, corpus)
    with atomic_write(manifest_dir / "manifest_statistics.txt") as file:
        file.write(text)
    with atomic_write(manifest_dir / "statistics.json") as file:
        file.write(json.dumps(statistics, indent=2) + "\n")
    return text
