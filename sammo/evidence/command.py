"""What ``sammo align``, ``sammo timing``, ``sammo homophones`` and ``sammo endurance`` do."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple, Sequence

from sammo.data.config import DataConfig
from sammo.data.datamodule import CsjDataModule
from sammo.data.tokens import Tokenizer
from sammo.decoding import load_system, searcher_for, working_directory
from sammo.errors import UserError
from sammo.evidence.alignment import align_batches, read_ctm, write_ctm
from sammo.evidence.endurance import Joined, Utterance, decode_talks, join
from sammo.evidence.homophones import CHANCE, PART
from sammo.evidence.homophones import measure as measure_homophones
from sammo.evidence.report import (
    draw_timing,
    endurance_json,
    endurance_markdown,
    homophones_json,
    homophones_markdown,
    timing_json,
    timing_markdown,
)
from sammo.evidence.timing import Timing, measure
from sammo.files import atomic_write
from sammo.options import Chunks, ModelSource, Search
from sammo.progress import progress
from sammo.scoring.recall import figure as draw_recall
from sammo.scoring.results import PartResult, read_results
from sammo.scoring.table import System, choose_corpus, experiment_names, line_names, pooled_parts, system_of
from sammo.streaming.decoding import settings
from sammo.transducer import Transducer


class Talks(NamedTuple):
    """What is joined: ``count`` talks of ``minutes`` with pauses of at least ``pause`` seconds, the state emptied after
    ``reset_every`` seconds (0: never)."""

    minutes: float
    count: int
    pause: float
    reset_every: float
    seed: int


def align(source: ModelSource, data: DataConfig, parts: Sequence[str], out: Path | None) -> None:
    """Aligns ``parts`` and writes the CTM file; raises UserError."""
    model, module, tokenizer, _ = _load(source, data)
    out = out or working_directory(source) / "alignment.ctm"
    found = []
    for part in module.corpus.chosen(parts):
        loader = module.test_dataloader(part)
        batches = progress(loader, total=len(loader), desc=f"aligning {part}")
        found += align_batches(model, batches, tokenizer, module.corpus.metric)
    print(f"{out}: {write_ctm(out, found)} utterances")


def show_timing(directories: Sequence[Path], alignment: Path, out_dir: Path, corpus_name: str | None) -> None:
    """Prints the tables and writes them; raises UserError."""
    alignments = read_ctm(alignment)
    results = [result for directory in directories for result in read_results(directory)]
    corpus, results = choose_corpus(results, corpus_name)
    parts = pooled_parts({result.part for result in results}, corpus)
    grouped: dict[System, dict[int, list[PartResult]]] = {}
    for result in sorted(results, key=lambda result: (result.setting.chunk_size, result.part)):
        if result.part in parts and result.setting.chunk_size > 0:
            grouped.setdefault(system_of(result), {}).setdefault(result.setting.chunk_size, []).append(result)
    if not grouped:
        raise UserError(f"no results on test parts of {corpus.name} with chunks in {', '.join(map(str, directories))}")
    names = line_names(list(grouped), experiment_names(dict.fromkeys(grouped, {})))
    found: dict[int, dict[str, Timing]] = {}
    for system in sorted(grouped, key=lambda system: (*system[1:], system.experiment)):
        for chunk, row in grouped[system].items():
            found.setdefault(chunk, {})[names[system]] = measure(row, alignments)
    text = timing_markdown(found, parts, corpus.metric)
    print(text)
    _write(out_dir, "timing", text, timing_json(found, parts, corpus.metric))
    draw_timing(found, out_dir / "timing.png", corpus.metric)


def show_homophones(directories: Sequence[Path], out_dir: Path) -> None:
    """Prints the table and writes it; raises UserError."""
    results = [result for directory in directories for result in read_results(directory)]
    results = [result for result in results if result.part == PART and result.setting.chunk_size > 0]
    if not results:
        raise UserError(f"no results on the part {PART} with chunks in {', '.join(map(str, directories))}")
    systems = sorted({system_of(result) for result in results}, key=lambda system: (*system[1:], system.experiment))
    names = line_names(systems, experiment_names(dict.fromkeys(systems, {})))
    results.sort(key=lambda result: (result.setting.chunk_size, systems.index(system_of(result))))
    answers = [found for result in results for found in measure_homophones(result, names[system_of(result)])]
    text = homophones_markdown(answers)
    print(text)
    _write(out_dir, "homophones", text, homophones_json(answers))
    labels = {"xlabel": "seconds from the word that decides", "ylabel": "homophones right (%)"}
    draw_recall(answers, CHANCE, out_dir / "homophones.png", **labels)


def show_endurance(
    source: ModelSource,
    chunks: Chunks,
    search: Search,
    data: DataConfig,
    parts: Sequence[str],
    talks: Talks,
    out_dir: Path | None,
) -> None:
    """Joins, decodes, prints the tables and writes them; raises UserError."""
    model, module, tokenizer, name = _load(source, data)
    chunkings = settings(model, chunks)
    searcher = searcher_for(model, search, tokenizer)
    utterances = []
    for part in module.corpus.chosen(parts):
        loader = module.test_dataloader(part)
        for batch in progress(loader, total=len(loader), desc=f"reading {part}"):
            for row, length, text in zip(batch["features"], batch["lengths"].tolist(), batch["texts"]):
                utterances.append(Utterance(row[:length].clone(), text))
    if not utterances:
        raise UserError("--parts names no part")
    lengths = [utterance.features.shape[0] for utterance in utterances]
    metric = module.corpus.metric
    found: dict[str, Joined] = {}
    for chunking in chunkings:
        joined = join(lengths, 60 * talks.minutes, talks.count, chunking.chunk_size, talks.pause, talks.seed)
        label = f"chunk {chunking.chunk_size}" + (
            f", left context {chunking.left_context_frames}" if model.config.encoder.left_context else ""
        )
        logging.info(f"{label}: {len(joined)} talks of {talks.minutes:g} min")
        found[label] = decode_talks(model, searcher, utterances, joined, tokenizer, chunking, metric, talks.reset_every)
    text = endurance_markdown(found, name, talks, metric)
    print(text)
    out_dir = out_dir or working_directory(source) / "endurance"
    reset = f"-reset-{talks.reset_every:g}" if talks.reset_every else ""
    _write(out_dir, f"endurance{reset}", text, endurance_json(found, name, talks, metric))


def _load(source: ModelSource, data: DataConfig) -> tuple[Transducer, CsjDataModule, Tokenizer, str]:
    """The model, the corpus in the transcripts that it was trained on, its units, and a line that names the model."""
    model, tokenizer, info = load_system(source, data)
    data = dataclasses.replace(data, transcript_mode=data.transcript_mode or info.transcript_mode)
    return model, CsjDataModule(data, tokenizer), tokenizer, f"{info.encoder} {info.preset}, {info.checkpoint}"


def _write(out_dir: Path, name: str, text: str, values: dict[str, Any]) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(out_dir / f"{name}.md") as file:
        file.write(text)
    with atomic_write(out_dir / f"{name}.json") as file:
        json.dump(values, file, ensure_ascii=False, indent=1)
    print(f"{out_dir / name}.md, .json")
