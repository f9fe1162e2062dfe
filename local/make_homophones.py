#!/usr/bin/env python3
"""Makes the part "homophones" of the small corpus: how a word is spelled is decided by another, 0.5 to 20 seconds before.

    文系の話ですが ... words that tell nothing, and pauses ... 新しい科学を調べました
    理系の話ですが ... the same sounds ...                     新しい化学を調べました

The two of a pair are the same speech but for the field at the beginning, so who does not remember is right in half of them.
Audio, manifest and Fbank are written; interrupted, it goes on.

Usage: local/make_homophones.py --fbank-dir data/fbank --wav-dir data/homophones [--nj N]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from make_unseen import GENDERS, whole_cut
from mini_csj import acoustics, lexicon
from mini_csj.grammar import Run, pool_of
from mini_csj.talks import stream

from sammo.corpora import CSJ
from sammo.errors import UserError, run_main
from sammo.evidence.homophones import PART, Question
from sammo.files import atomic_write
from sammo.options import processes

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

VERSION = 1  # raise it when the same options would give other bytes
# Seconds from the end of the field to the clause whose second word is the homophone.
DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
PAIRS = 6  # of each homophone at each delay, by as many speakers
FIELDS = ("文系", "理系")
GAP = 0.15  # seconds, the shortest pause between clauses
CLAUSE = 2.0  # seconds in which a clause may fit; what is less takes a word
WORDS = lexicon.TIMES + lexicon.OPENERS


class Pair(NamedTuple):
    """Two utterances that differ in their fields: which homophone, by which speaker, after how many seconds."""

    group: int
    number: int
    delay: float

    @property
    def sex(self) -> str:
        """Of the speaker, "M" or "F"."""
        return "MF"[self.number % 2]

    def path(self, wav_dir: Path, field: int) -> Path:
        """Where the audio of one is kept."""
        return wav_dir / f"v{VERSION}-{self.delay:g}s-{self.group}-{self.number}-{field}.wav"


class Spoken(NamedTuple):
    """One utterance as a manifest needs it."""

    question: Question
    path: Path
    text: str
    sex: str


def spellings(group: int) -> list[str]:
    """Of a group of homophones, for each of FIELDS."""
    by_field = {lexicon.FIELDS[topic]: word for topic, word in lexicon.HOMOPHONES[group].by_topic.items()}
    return [by_field[field] for field in FIELDS]


def plan() -> list[Pair]:
    """All pairs."""
    groups = range(len(lexicon.HOMOPHONES))
    return [Pair(group, number, delay) for delay in DELAYS for group in groups for number in range(PAIRS)]


def say(pair: Pair) -> list[tuple[str, np.ndarray]]:
    """Text and speech (T,) at 16 kHz of both, each in the same room."""
    from mini_csj import voices
    from mini_csj.words import words_of

    key = (VERSION, PART, pair.group, pair.number)
    rng = np.random.default_rng(stream(*key))  # the same speaker for every delay
    speaker = voices.draw_speaker(rng, pair.sex, ("",))
    text_rng = random.Random(stream(*key, pair.delay))

    def speak(text: str) -> np.ndarray:
        return voices.say(words_of([Run(text)], text_rng), speaker, rng)

    phrase = text_rng.choice(lexicon.FIELD_PHRASES)
    fields = [speak(field + phrase) for field in FIELDS]
    words, between = _between(pair.delay, text_rng, speak)
    before, behind = _asking(spellings(pair.group)[0], text_rng)
    last = speak(before + spellings(pair.group)[0] + behind)
    seed = stream(*key, "room")
    return [
        (
            field + phrase + words + before + spelling + behind,
            voices.in_room(np.concatenate([cue, between, last]), speaker, np.random.default_rng(seed)),
        )
        for field, spelling, cue in zip(FIELDS, spellings(pair.group), fields)
    ]


def _between(seconds: float, rng: random.Random, speak: Callable[[str], np.ndarray]) -> tuple[str, np.ndarray]:
    """Text and sound (T,), exactly ``seconds`` long, of what is said between: general words, and pauses of one length."""
    texts: list[str] = []
    sounds: list[np.ndarray] = []
    left = seconds - GAP
    going_on = True
    while going_on:
        going_on = False
        for text in [_clause(rng)] * (left > CLAUSE) + [rng.choice([word for word in WORDS if word not in texts])]:
            sound = speak(text)
            needed = len(sound) / acoustics.RATE + GAP
            if needed <= left:
                texts.append(text)
                sounds.append(sound)
                left -= needed
                going_on = True
                break
    total = round(seconds * acoustics.RATE)
    rest = total - sum(map(len, sounds))
    pauses = np.diff(np.linspace(0, rest, len(sounds) + 2).astype(int))
    pieces = [np.zeros(pauses[0])]
    for sound, pause in zip(sounds, pauses[1:]):
        pieces += [sound, np.zeros(pause)]
    return "".join(texts), np.concatenate(pieces)


def _clause(rng: random.Random) -> str:
    """General words alone, none of a topic and no homophone, which no training talk has said."""
    while True:
        first, second = rng.sample(lexicon.GENERAL_NOUNS, 2)
        verb = rng.choice(lexicon.VERBS)
        text = f"{first}の{second}を" + rng.choice((verb.te, verb.past + "ので", verb.stem + "ましたが"))
        if pool_of(text) == "eval":
            return text


def _asking(homophone: str, rng: random.Random) -> tuple[str, str]:
    """What is said before and behind a homophone, in a clause such as talks have, which no training talk has said."""
    while True:
        verb, (form, ending) = rng.choice(lexicon.VERBS), rng.choice(lexicon.SHORT_FINAL_ENDINGS)[0]
        before, behind = rng.choice(lexicon.I_ADJECTIVES), "を" + getattr(verb, form) + ending
        if pool_of(before + homophone + behind) == "eval":
            return before, behind


def make(pair: Pair, wav_dir: Path) -> list[Spoken]:
    """Both utterances, their audio written unless it is there."""
    words = spellings(pair.group)
    texts = pair.path(wav_dir, 0).with_suffix(".txt")  # written last
    if not texts.is_file():
        spoken = say(pair)
        for field, (_, sound) in enumerate(spoken):
            with atomic_write(pair.path(wav_dir, field), "wb") as out:
                out.write(acoustics.wav_bytes(sound))
        with atomic_write(texts) as file:
            file.write("\n".join(text for text, _ in spoken))
    found = []
    for field, text in enumerate(texts.read_text(encoding="utf-8").split("\n")):
        question = Question(words[field], words[1 - field], pair.delay, pair.number)
        found.append(Spoken(question, pair.path(wav_dir, field), text, pair.sex))
    return found


def cut_of(spoken: Spoken) -> MonoCut:
    """The whole utterance as a cut."""
    modes = dict.fromkeys(CSJ.modes, spoken.text)
    gender = GENDERS[spoken.sex]
    return whole_cut(
        spoken.question.cut_id, spoken.path, text=spoken.text, language="Japanese", gender=gender, custom=modes
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--fbank-dir", type=Path, required=True)
    parser.add_argument("--wav-dir", type=Path, required=True, help="Where the audio goes.")
    parser.add_argument("--nj", type=processes, default=1)
    args = parser.parse_args()
    try:
        from mini_csj import build
    except ImportError as error:
        raise UserError(f"cannot load the speech synthesizer ({error}); run: pip install pyopenjtalk-plus") from error
    from sammo.preparation.features import store_part
    from sammo.preparation.validation import validate

    wav_dir = args.wav_dir.resolve()
    wav_dir.mkdir(parents=True, exist_ok=True)
    pairs = plan()
    spoken = build.run_jobs([(pair, make, (pair, wav_dir)) for pair in pairs], args.nj, f"speaking {PART}")
    store_part(CSJ, PART, [cut_of(one) for pair in pairs for one in spoken[pair]], args.fbank_dir, args.nj)
    print(validate(CSJ.manifest_path(args.fbank_dir, PART), None, CSJ.default_mode))


if __name__ == "__main__":
    run_main(main)
