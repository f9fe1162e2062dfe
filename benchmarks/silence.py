#!/usr/bin/env python3
"""What a model says where nobody speaks, and whether the edges of an utterance are as good as its middle.

    python benchmarks/silence.py [--exp-dir models/sammo-tiny] [--minutes 10] [--chunk-size 32] [--manifest-dir DIR]

Noise, hum, tones and babble as one stream each, greedy search, all as one batch: tokens a minute, of which at most one is
wanted. With a manifest directory also the error rate when the audio begins 5 to 20 ms later, which shifts it against the
frames and the chunks, and the error rates of the first, the middle and the last characters or words of utterances. Babble is
a dozen utterances at a time, of the first part, or of models/sample.wav at a dozen places where no manifests are given.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def parse_args() -> argparse.Namespace:
    from sammo.options import OWN_PACKAGE, names

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp-dir", type=Path, default=OWN_PACKAGE, help="A package (default: the repository's).")
    parser.add_argument("--minutes", type=float, default=10.0, help="Of each sound; 0: none (default: 10).")
    parser.add_argument("--chunk-size", type=int, default=32, help="Frames of 20 ms (default: 32).")
    parser.add_argument("--left-context-frames", type=int, default=128, help="Of encoders that have it (default: 128).")
    parser.add_argument("--manifest-dir", type=Path, help="Corpus for babble, shifts and positions.")
    parser.add_argument("--parts", type=names, default=("tests",), help="Of the corpus (default: its tests).")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded

from functools import partial
from typing import Iterator, NamedTuple

import numpy as np
import torch
from machine import machine
from torch import Tensor

from sammo.corpora import Corpus, find_corpus
from sammo.data.features import SAMPLING_RATE
from sammo.data.sources import FILES
from sammo.data.transcripts import transcript
from sammo.decoding import System, load_system
from sammo.errors import UserError, run_main
from sammo.markdown import markdown_table
from sammo.options import Chunks, ModelSource
from sammo.progress import progress
from sammo.scoring.cer import EPSILON, METRICS, UNITS, Counts, alignment, count_errors, difference, summarize
from sammo.search import make_searcher
from sammo.streaming.audio import read_audio
from sammo.streaming.decoding import cut_audio, part_cuts, settings
from sammo.streaming.recognizer import Stream, StreamingRecognizer, recognize

STREAMS = 16
TALKERS = 12
LEVELS = (-60, -40, -20)  # dBFS: the root mean square, 0 for samples of 1
SHIFTS = (0, 5, 10, 15, 20)  # milliseconds
POSITIONS = ("first", "middle", "last")
MOST_TOKENS, MOST_CHANGE = 1.0, 0.3  # a minute; percent points


class Utterance(NamedTuple):
    """Samples (S,) at 16 kHz, and what is said in them."""

    audio: Tensor
    text: str


# ---------------------------------------------------------------------------------------- sounds


def coloured(samples: int, power: float, seed: int) -> np.ndarray:
    """Noise (S,) whose power falls with frequency ** power: 0 white, 1 pink (from 20 Hz on)."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLING_RATE), 20.0)
    return np.fft.irfft(spectrum * frequency ** (-power / 2), samples)


def hum(samples: int, mains: float) -> np.ndarray:
    """The mains and its harmonics, the odd ones stronger, as a transformer sounds."""
    time = np.arange(samples) / SAMPLING_RATE
    parts = [np.sin(2 * np.pi * mains * k * time + k) / k * (1.0 if k % 2 else 0.5) for k in range(1, 11)]
    return np.sum(parts, axis=0)


def tones(samples: int, seed: int) -> np.ndarray:
    """Three voices of plucked notes of a pentatonic scale, with five harmonics each."""
    draw = np.random.default_rng(seed)
    sound = np.zeros(samples + 2 * SAMPLING_RATE)
    time = np.arange(2 * SAMPLING_RATE) / SAMPLING_RATE
    for lowest, beat in ((110.0, 1.0), (220.0, 0.5), (440.0, 0.25)):
        for start in np.arange(0, samples / SAMPLING_RATE, beat):
            pitch = lowest * 2 ** (draw.choice((0, 2, 4, 7, 9, 12)) / 12)
            note = np.sum([np.sin(2 * np.pi * pitch * k * time) / k**2 for k in range(1, 6)], axis=0) * np.exp(
                -3 * time / beat
            )
            place = round(start * SAMPLING_RATE)
            sound[place : place + len(note)] += note
    return sound[:samples]


def babble(samples: int, speech: list[Tensor], seed: int) -> np.ndarray:
    """TALKERS voices, each saying one utterance of ``speech`` after the other from somewhere in the middle."""
    draw = np.random.default_rng(seed)
    sound = np.zeros(samples)
    for _ in range(TALKERS):
        voice = np.concatenate([speech[index].numpy() for index in draw.permutation(len(speech))])
        sound += np.resize(np.roll(voice, draw.integers(len(voice))), samples)
    return sound


def pieces(sound: np.ndarray, level: float) -> Iterator[Tensor]:
    """``sound`` at ``level`` dBFS, a second at a time."""
    scale = 10 ** (level / 20) / max(float(np.sqrt(np.mean(sound**2))), 1e-12)
    for start in range(0, len(sound), SAMPLING_RATE):
        piece = sound[start : start + SAMPLING_RATE] * scale
        yield torch.from_numpy(piece.clip(-1, 1).astype(np.float32))


def tokens_a_minute(recognizer: StreamingRecognizer, minutes: float, speech: list[Tensor]) -> list[list[str]]:
    """A row a sound and level: tokens in the first minute, tokens a minute of the whole, and whether the aim is met."""
    samples = round(60 * SAMPLING_RATE * minutes)
    sounds = {
        "digital silence": (np.zeros(samples, np.float32), LEVELS[:1]),
        "white noise": (coloured(samples, 0.0, 1).astype(np.float32), LEVELS),
        "pink noise": (coloured(samples, 1.0, 2).astype(np.float32), LEVELS),
        "babble": (babble(samples, speech, 3).astype(np.float32), LEVELS),
        "hum, 50 Hz": (hum(samples, 50.0).astype(np.float32), LEVELS[1:]),
        "hum, 60 Hz": (hum(samples, 60.0).astype(np.float32), LEVELS[1:]),
        "tones": (tones(samples, 4).astype(np.float32), LEVELS[1:]),
    }
    keys = [(name, level) for name, (_, levels) in sounds.items() for level in levels]
    sources = [(key, partial(pieces, sounds[key[0]][0], key[1])) for key in keys]
    # All go at the same pace, so that one of them shows how far they are.
    shown = (keys[0], lambda: progress(pieces(sounds["digital silence"][0], 0), round(60 * minutes), "seconds"))
    found = {stream.key: stream for stream in recognize(recognizer, [shown, *sources[1:]], STREAMS)}
    rows = []
    for name, level in keys:
        times = _whole(found[name, level]).timestamps
        first, rate = sum(time < 60 for time in times), len(times) / minutes
        shown = "" if name == "digital silence" else str(level)
        rows.append([name, shown, str(first), f"{rate:.1f}", "yes" if rate <= MOST_TOKENS else "**no**"])
    return rows


# ----------------------------------------------------------------------------- utterances' edges


def read_part(system: System, corpus: Corpus, manifest_dir: Path, part: str) -> list[Utterance]:
    """The utterances of ``part`` that have a text."""
    mode = system.info.transcript_mode
    cuts = part_cuts(corpus, manifest_dir, part, mode, system.tokenizer, FILES)
    return [Utterance(cut_audio(cut), transcript(cut, mode)) for cut in cuts]


def transcribe(system: System, recognizer: StreamingRecognizer, audio: list[Tensor], what: str) -> list[str]:
    """The text of each of ``audio``, STREAMS at a time."""
    sources = [(index, partial(iter, [samples])) for index, samples in enumerate(audio)]
    texts = [""] * len(audio)
    for stream in progress(recognize(recognizer, sources, STREAMS), len(audio), what):
        texts[stream.key] = system.tokenizer.decode(_whole(stream).result.tokens)
    return texts


def _whole(stream: Stream) -> Stream:
    """``stream``, which must have reached its end."""
    if stream.error:
        raise UserError(f"{stream.key}: {stream.error}")
    return stream


def by_position(reference: str, hypothesis: str, metric: str) -> dict[str, Counts]:
    """Errors at the first, the last, and all other characters or words; an insertion counts where the next one is, at the
    end where the last one is."""
    length = len(METRICS[metric](reference))
    found: dict[str, Counts] = {where: Counts(0, 0, 0, 0) for where in POSITIONS}
    place = 0
    for wanted, got in alignment(reference, hypothesis, metric):
        where = "first" if place == 0 else "last" if place >= length - 1 else "middle"
        there = wanted != EPSILON
        one = Counts(there, not there, got == EPSILON, there and got not in (wanted, EPSILON))
        found[where] = Counts(*(a + b for a, b in zip(found[where], one)))
        place += there
    return found


def edges(system: System, recognizer: StreamingRecognizer, args: argparse.Namespace) -> None:
    """Prints the tables of shifts and positions."""
    corpus = find_corpus(args.manifest_dir)
    metric = corpus.metric
    parts = corpus.chosen(args.parts)
    utterances = [item for part in parts for item in read_part(system, corpus, args.manifest_dir, part)]
    texts = {}
    for shift in SHIFTS:
        audio = [item.audio[shift * SAMPLING_RATE // 1000 :] for item in utterances]
        texts[shift] = transcribe(system, recognizer, audio, f"beginning {shift} ms later")
    counts = {
        shift: [count_errors(item.text, text, metric) for item, text in zip(utterances, found)]
        for shift, found in texts.items()
    }
    print(f"\n{len(utterances)} utterances of {', '.join(parts)}, streamed, greedy search.\n")
    rows = []
    for shift, found in counts.items():
        change, low, high = difference(counts[0], found)
        other = sum(a != b for a, b in zip(texts[0], texts[shift]))
        rate, met = summarize("", metric, found).rate, "yes" if abs(change) < MOST_CHANGE else "**no**"
        rows.append([f"{shift}", f"{rate:.2f}", f"{change:+.2f} ({low:+.2f} to {high:+.2f})", f"{other}", met])
    head = ["begins later by ms", f"{metric} %", "change (95 %)", "other texts", f"below {MOST_CHANGE}"]
    print("\n".join(markdown_table(head, rows)))
    placed = [by_position(item.text, text, metric) for item, text in zip(utterances, texts[0])]
    rows = []
    for where in POSITIONS:
        here = summarize(where, metric, [item[where] for item in placed])
        total, spread = here.counts, f"{here.low:.2f} to {here.high:.2f}"
        rows.append(
            [where, f"{total.ref}", f"{here.rate:.2f}", spread, *(f"{n}" for n in (total.subs, total.dels, total.ins))]
        )
    head = [f"{UNITS[metric]} of utterances", "number", "errors %", "95 %", "substituted", "deleted", "inserted"]
    print("\n" + "\n".join(markdown_table(head, rows)))


def main() -> None:
    args = parse_args()
    if args.minutes and not 0.05 <= args.minutes <= 600:
        raise UserError(f"--minutes must be 0.05 to 600, or 0 for no sounds, got {args.minutes:g}")
    system = load_system(ModelSource(exp_dir=args.exp_dir))
    chunks = Chunks(chunk_size=(args.chunk_size,), left_context_frames=(args.left_context_frames,))
    (chunking,) = settings(system.model, chunks)
    recognizer = StreamingRecognizer(system.model, make_searcher(system.model, "greedy_search"), *chunking)
    print(
        f"{machine()}; {args.exp_dir.name}, chunk {args.chunk_size}, greedy search; {args.minutes:g} minutes a sound.\n"
    )
    if args.minutes:
        speech = [read_audio(ROOT / "models/sample.wav")]
        if args.manifest_dir is not None:
            corpus = find_corpus(args.manifest_dir)
            first = corpus.chosen(args.parts)[0]
            speech = [item.audio for item in read_part(system, corpus, args.manifest_dir, first)]
        rows = tokens_a_minute(recognizer, args.minutes, speech)
        head = ["sound", "dBFS", "tokens in the first minute", "tokens a minute", f"at most {MOST_TOKENS:g}"]
        print("\n".join(markdown_table(head, rows)))
    if args.manifest_dir is not None:
        edges(system, recognizer, args)


if __name__ == "__main__":
    run_main(main)
