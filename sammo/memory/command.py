"""``sammo memory``: error rates with parts of the encoder's memory removed, and how long its heads remember."""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path
from typing import Sequence

from sammo import geometry
from sammo.data.datamodule import CsjDataModule, DataConfig, add_data_arguments
from sammo.data.tokens import load_tokenizer
from sammo.decoding import add_model_arguments, load_model_for, names
from sammo.encoder import Encoder
from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.memory.decoding import Condition, DecaySums, Outcome, decode_conditions
from sammo.memory.recurrence import recurrent_mixers
from sammo.memory.report import Report, markdown, rows, stack_times, to_json
from sammo.progress import progress
from sammo.search import make_searcher
from sammo.search.factory import METHODS
from sammo.training.config import integers

DEFAULT_AGES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds
DEFAULT_LEFT_CONTEXTS = (0, 16, 32, 64, 128, 256)


def seconds(text: str) -> tuple[float, ...]:
    """argparse type: "0.64,2.56" -> (0.64, 2.56)."""
    try:
        found = tuple(float(item) for item in text.split(",") if item)
    except ValueError:
        found = ()
    if not found or not all(0 < value < math.inf for value in found):
        raise argparse.ArgumentTypeError(f"expected seconds above 0 separated by commas, got {text!r}")
    return found


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
            encoder.check_chunk_size(chunk, left)
        unchanged = Condition(chunk, lefts[0])
        windows = sorted(window_chunks(chunk, ages)) if recurrent else []
        listed = [unchanged]
        listed += [unchanged._replace(window=window) for window in reversed(windows)]
        listed += [unchanged._replace(window=0)] if recurrent else []
        listed += [Condition(chunk, left) for left in lefts[1:]]
        found[chunk] = [*listed, unchanged._replace(silenced=True)]
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_model_arguments(parser)
    group = parser.add_argument_group("memory")
    group.add_argument("--parts", "--test-sets", type=names, default=["tests"], help="(default: tests, all test parts)")
    group.add_argument("--chunk-size", type=integers, default=(16, 64), help="Frames of 20 ms (default: 16,64).")
    group.add_argument(
        "--ages",
        type=seconds,
        help="Seconds of the past that the recurrent state is held to, multiples of the chunk (default: "
        f"{','.join(f'{age:g}' for age in DEFAULT_AGES)}, rounded up to whole chunks).",
    )
    group.add_argument(
        "--left-context-frames",
        type=integers,
        help="Frames of 20 ms that attention sees before a chunk; the longest is the model as it is. Encoders whose "
        f"attention stays in its chunk ignore it (default: {','.join(map(str, DEFAULT_LEFT_CONTEXTS))}).",
    )
    group.add_argument("--decoding-method", default="greedy_search", choices=METHODS, help="(default: %(default)s)")
    group.add_argument("--beam-size", type=int, default=4, help="Hypotheses of modified_beam_search (default: 4).")
    group.add_argument("--out-dir", type=Path, help="Where the tables and the figure go (default: EXP_DIR/memory).")
    add_data_arguments(parser)
    parser.set_defaults(transcript_mode=None, num_workers=1, on_the_fly_feats=True)


def run(args: argparse.Namespace) -> int:
    """Decodes, prints the tables and writes memory.md, memory.json and memory.png; raises UserError."""
    tokenizer = load_tokenizer(args.lang)
    model, info = load_model_for(args, tokenizer)
    encoder = model.encoder
    tables = conditions(encoder, args.chunk_size, args.ages, args.left_context_frames)
    listed = [condition for table in tables.values() for condition in table]
    args.transcript_mode = args.transcript_mode or info.transcript_mode
    data = CsjDataModule(DataConfig.from_args(args), tokenizer)
    # All parts first: a part that is not there must not show after the others have been decoded.
    loaders = {part: data.test_dataloader(part) for part in data.corpus.chosen(args.parts)}
    if not loaders:
        raise UserError("--parts names no part")
    searcher = make_searcher(model, args.decoding_method, args.beam_size)
    model_line = f"{info.encoder} {info.preset}, {info.checkpoint}"
    logging.info(f"{model_line}; {len(listed)} ways to decode")

    sums, durations = DecaySums(), []
    outcomes: dict[str, dict[Condition, Outcome]] = {}
    for part, loader in loaders.items():
        batches = progress(loader, total=len(loader), desc=f"decoding {part}")
        outcomes[part], found = decode_conditions(model, searcher, batches, tokenizer, listed, sums)
        durations += found

    recurrent, attends = recurrent_mixers(encoder), encoder.config.left_context
    at_biases = {place: mixer.time_constants() for place, mixer in recurrent.items()}
    method = args.decoding_method.replace("_", " ")
    if args.decoding_method == "modified_beam_search":
        method += f" {args.beam_size}"
    report = Report(
        model=model_line,
        decoding=f"{method}, chunk by chunk",
        parts=list(loaders),
        durations=durations,
        recurrent=bool(recurrent),
        tables={chunk: rows(table, outcomes, bool(recurrent), attends) for chunk, table in tables.items()},
        times=stack_times([stack.factor for stack in encoder.stacks], at_biases, sums.time_constants()),
    )
    text = markdown(report)
    print(text)
    out_dir = args.out_dir or (args.checkpoint.parent if args.checkpoint else args.exp_dir) / "memory"
    for path in write(report, text, out_dir):
        print(path)
    return 0


def write(report: Report, text: str, out_dir: Path) -> list[Path]:
    """Writes the files, makes ``out_dir`` if it is missing, and returns their paths."""
    from sammo.memory.figures import draw  # takes a second to load

    out_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(out_dir / "memory.md") as file:
        file.write(text)
    with atomic_write(out_dir / "memory.json") as file:
        json.dump(to_json(report), file, ensure_ascii=False, indent=1)
    return [out_dir / "memory.md", out_dir / "memory.json", draw(report, out_dir / "memory.png")]
