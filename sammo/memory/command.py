"""``sammo memory``: error rates with parts of the encoder's memory removed, and how long its heads remember."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Sequence

from sammo import geometry
from sammo.data.config import DataConfig
from sammo.data.datamodule import CsjDataModule
from sammo.decoding import load_system, searcher_for, working_directory
from sammo.encoder import Encoder
from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.memory.decoding import Condition, DecaySums, Outcome, decode_conditions
from sammo.memory.recurrence import recurrent_mixers
from sammo.memory.report import Report, markdown, rows, stack_times, to_json
from sammo.options import ModelSource, Search, check_chunking
from sammo.progress import progress

DEFAULT_AGES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds
DEFAULT_LEFT_CONTEXTS = (0, 16, 32, 64, 128, 256)


def window_chunks(chunk_size: int, ages: Sequence[float] | None) -> list[int]:
    """Ages in seconds as chunks of ``chunk_size`` embed frames, each once; None: the default ages, rounded up.

    Raises:
      UserError: an age that was given is no multiple of the chunk.
    """
    windows = []
    for age in DEFAULT_AGES if ages is None else ages:
        exact = age * geometry.RATE / chunk_size
        if ages is not None and (abs(exact - round(exact)) > 1e-6 or round(exact) < 1):
            duration = chunk_size / geometry.RATE
            below, above = math.floor(exact) * duration, math.ceil(exact) * duration
            near = f"{below:g} or {above:g}" if below > 0 else f"{above:g}"
            raise UserError(
                f"--ages {age:g} is no multiple of {duration:g} s, a chunk of {chunk_size} frames: use {near}, "
                "or leave --ages out to have the default ages rounded up"
            )
        chunks = math.ceil(exact - 1e-6)
        if chunks not in windows:
            windows.append(chunks)
    return windows


def conditions(
    encoder: Encoder,
    chunk_sizes: Sequence[int],
    ages: Sequence[float] | None = None,
    left_contexts: Sequence[int] | None = None,
) -> dict[int, list[Condition]]:
    """Chunk size -> what to decode, the model as it is first. None: the default ages and left contexts.

    Raises:
      UserError: the model has no such chunks, left contexts or ages.
    """
    recurrent, attends = bool(recurrent_mixers(encoder)), encoder.config.left_context
    if ages is not None and not recurrent:
        raise UserError("--ages is for encoders with a recurrent state, and this one has none: leave it out")
    lefts = [0]
    if attends:
        multiple = encoder.config.chunk_multiple
        if left_contexts is None:
            left_contexts = [left for left in DEFAULT_LEFT_CONTEXTS if left % multiple == 0]
        lefts = sorted(set(left_contexts), reverse=True)
    found: dict[int, list[Condition]] = {}
    for chunk in chunk_sizes:
        if chunk <= 0:
            raise UserError(f"--chunk-size {chunk}: memory is carried from chunk to chunk, give chunks above 0 frames")
        for left in lefts:
            if left < 0:
                raise UserError(f"--left-context-frames {left}: a stream's left context must end, give 0 or more")
            check_chunking(chunk, left)
            encoder.check_chunk_size(chunk, left)
        unchanged = Condition(chunk, lefts[0])
        windows = sorted(window_chunks(chunk, ages)) if recurrent else []
        listed = [unchanged]
        listed += [unchanged._replace(window=window) for window in reversed(windows)]
        listed += [unchanged._replace(window=0)] if recurrent else []
        listed += [Condition(chunk, left) for left in lefts[1:]]
        found[chunk] = [*listed, unchanged._replace(silenced=True)]
    return found


def show_memory(
    source: ModelSource,
    search: Search,
    data: DataConfig,
    parts: Sequence[str],
    chunk_sizes: Sequence[int],
    left_context_frames: Sequence[int] | None,
    ages: Sequence[float] | None,
    out_dir: Path | None,
) -> None:
    """Decodes, prints the tables and writes memory.md, memory.json and memory.png.

    Args:
      chunk_sizes: frames of 20 ms.
      left_context_frames: the longest is the model as it is; None: the default ones.
      ages: seconds of the past that the recurrent state is held to; None: the default ones.
      out_dir: where the tables and the figure go; None: beside the model.
    """
    model, tokenizer, info = load_system(source, data)
    encoder = model.encoder
    tables = conditions(encoder, chunk_sizes, ages, left_context_frames)
    listed = [condition for table in tables.values() for condition in table]
    data = dataclasses.replace(data, transcript_mode=data.transcript_mode or info.transcript_mode)
    module = CsjDataModule(data, tokenizer)
    # All parts first: a part that is not there must not show after the others have been decoded.
    loaders = {part: module.test_dataloader(part) for part in module.corpus.chosen(parts)}
    if not loaders:
        raise UserError("--parts names no part")
    searcher = searcher_for(model, search, tokenizer)
    model_line = f"{info.encoder} {info.preset}, {info.checkpoint}"
    logging.info(f"{model_line}; {len(listed)} ways to decode")

    sums, durations = DecaySums(), []
    outcomes: dict[str, dict[Condition, Outcome]] = {}
    for part, loader in loaders.items():
        batches = progress(loader, total=len(loader), desc=f"decoding {part}")
        outcomes[part], found = decode_conditions(model, searcher, batches, tokenizer, listed, sums, module.metric)
        durations += found

    recurrent, attends = recurrent_mixers(encoder), encoder.config.left_context
    constants = {place: mixer.time_constants() for place, mixer in recurrent.items()}
    at_biases = {place: found for place, found in constants.items() if found is not None}
    method = search.decoding_method.replace("_", " ")
    if search.decoding_method == "modified_beam_search":
        method += f" {search.beam_size}"
    report = Report(
        model=model_line,
        decoding=f"{method}, chunk by chunk",
        metric=module.metric,
        parts=list(loaders),
        durations=durations,
        recurrent=bool(recurrent),
        tables={chunk: rows(table, outcomes, bool(recurrent), attends) for chunk, table in tables.items()},
        times=stack_times([stack.factor for stack in encoder.stacks], at_biases, sums.time_constants()),
    )
    text = markdown(report)
    print(text)
    out_dir = out_dir or working_directory(source) / "memory"
    for path in write(report, text, out_dir):
        print(path)


def write(report: Report, text: str, out_dir: Path) -> list[Path]:
    """Writes the files, makes ``out_dir`` if it is missing, and returns their paths."""
    from sammo.memory.figures import draw  # takes a second to load

    out_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(out_dir / "memory.md") as file:
        file.write(text)
    with atomic_write(out_dir / "memory.json") as file:
        json.dump(to_json(report), file, ensure_ascii=False, indent=1)
    return [out_dir / "memory.md", out_dir / "memory.json", draw(report, out_dir / "memory.png")]
