"""What a talk says, in order: paragraphs whose homophones are decided by earlier words, and short utterances between.

A paragraph is meant to become one cut when the recipe joins utterances (pauses below 1 s, 10 s in all).  It begins with
words of the topic and goes on with neutral clauses that hold homophones, so the cue lies seconds before what needs it.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from . import lexicon
from .grammar import Grammar, Run

JOINED = 10.0  # seconds: utterances are joined to less than this
SHORT_SHARE, SHORT_SHARE_TEST = 0.38, 0.05  # of the speech: utterances that are a noun and a word or two
PARAGRAPH = 8.2  # seconds of speech in a typical paragraph
ONE_BREATH, ONE_BREATH_TRAIN = 0.25, 0.1  # of paragraphs without any pause, which may exceed JOINED
BREATH = (8.0, 13.0)  # seconds of those
CLAUSE = 2.0  # seconds of a typical clause
CHARACTERS_PER_SECOND = 8.0  # before anything of a talk is spoken
NAMING = 0.45  # of paragraphs that begin with a topic word or two instead of a whole clause
REMIND = 0.2  # of the clauses after the first that name the topic again
SHORT_HOMOPHONES = 0.5  # of short training utterances that hold a homophone beside a topic word
LOW_VOICE = 0.04  # of paragraphs that begin in a low voice
MAX_REFUSALS = 3  # until a paragraph that is nearly full ends
NAMED = 0.03  # of training utterances between paragraphs that begin with a hidden name


class Line(NamedTuple):
    """One utterance.  opens: it is not to be joined with what came before, so a pause above 1 s precedes it."""

    runs: list[Run]
    opens: bool


class Script:
    """Writes a talk utterance by utterance, knowing how long the ones before have become.

    seconds: of speech in the talk.
    """

    def __init__(self, grammar: Grammar, rng: random.Random, seconds: float) -> None:
        self.grammar, self.rng = grammar, rng
        self.left = seconds
        self.spoken = self.short = 0.0  # seconds of speech so far, and of it in short utterances
        self.characters = 0
        self.train = grammar.pool == "train"
        self.share = SHORT_SHARE if self.train else SHORT_SHARE_TEST
        self.ahead = (
            rng.uniform(0.0, 6.0) if self.train else -1.0
        )  # so much more of short ones; not all talks begin alike
        self.is_short = False
        self.refusals = 0  # since something was spoken
        self._uses = grammar.uses.copy()  # of words, before the last utterance
        self.paragraph = 0.0  # seconds of speech left in the paragraph

    def close(self) -> None:
        """End the paragraph: the next utterance opens another."""
        self.paragraph = 0.0

    def refused(self) -> None:
        """The last utterance is not spoken after all, for its length: its words are still due, elsewhere."""
        self.grammar.uses = self._uses
        self.refusals += 1
        if self.refusals == MAX_REFUSALS:
            self.close()

    def said(self, line: Line, seconds: float) -> None:
        """line was spoken and took that long."""
        self.refusals = 0
        self.spoken += seconds
        self.short += seconds if self.is_short else 0.0
        self.left -= seconds
        self.paragraph -= seconds
        self.characters += sum(len(run.text) for run in line.runs)

    def _length(self, runs: list[Run]) -> float:
        """Expected seconds of runs, at the pace of the talk so far."""
        pace = self.characters / self.spoken if self.spoken > 2.0 else CHARACTERS_PER_SECOND
        return sum(len(run.text) for run in runs) / pace

    def next(self, room: float) -> Line:
        """The next utterance.  room: seconds after which the joined cut that is being spoken would be full."""
        rng = self.rng
        self.is_short, self._uses = False, self.grammar.uses.copy()
        space = min(room, self.left + CLAUSE, self.paragraph + CLAUSE / 2)
        if self.paragraph > CLAUSE / 2 and space > CLAUSE:
            return Line(self.grammar.with_slips(self._going_on(space)), opens=False)
        if self.short < self.share * self.spoken + self.ahead:
            self.is_short = True
            self.paragraph = 0.0
            self.ahead = min(self.ahead, max(0.0, self.ahead - 1.0))
            homophone = self.train and rng.random() < SHORT_HOMOPHONES
            return Line(self.grammar.with_slips([self.grammar.short(homophone)]), opens=True)
        if self.train and rng.random() < NAMED:  # lhotse drops it and joins nothing across it
            self.paragraph = 0.0
            return Line([Run(rng.choice(lexicon.NAMES) + "さんによると", slip="R"), self.grammar.clause()], opens=True)
        # What is left is divided evenly, so that a talk does not end with a stub.
        self.paragraph = self.left / max(1, round(self.left / PARAGRAPH)) * rng.uniform(0.9, 1.1)
        if self.left > PARAGRAPH and rng.random() < (ONE_BREATH_TRAIN if self.train else ONE_BREATH):
            runs = self._one_breath(min(self.left, rng.uniform(*BREATH)))
            self.paragraph = 0.0
        else:
            if rng.random() < NAMING:
                return Line(self.grammar.with_slips([self._field(), self.grammar.short()]), opens=True)
            runs = [self.grammar.clause()]
            if rng.random() < LOW_VOICE:
                return Line([self._field(), runs[0]._replace(slip="L")], opens=True)
        return Line(self.grammar.with_slips(self._opened([self._field(), *runs])), opens=True)

    def _field(self) -> Run:
        """Where the lecture is: what a listener has to keep in mind."""
        return Run(self.grammar.field + self.rng.choice(lexicon.FIELD_PHRASES))

    def _opened(self, runs: list[Run]) -> list[Run]:
        return [Run(self.rng.choice(lexicon.OPENERS)), *runs] if self.rng.random() < 0.3 else runs

    def _going_on(self, space: float) -> list[Run]:
        """One to three clauses of about space seconds at most, most of them neutral."""
        rng = self.rng
        count = 1 if self.refusals else max(1, min(rng.choice((1, 2, 2, 3)), int(space / CLAUSE)))
        remind = rng.randrange(count) if rng.random() < REMIND else -1
        runs: list[Run] = []
        while len(runs) < count:
            if space - self._length(runs) < 2 * CLAUSE:
                count = len(runs) + 1
            runs.append(self._one(len(runs) == remind, final=len(runs) == count - 1))
        return self._opened(runs) if self._length(runs) < space - 1.0 and not self.refusals else runs

    def _one(self, topic: bool, final: bool) -> Run:
        return self.grammar.clause(final) if topic else self.grammar.neutral(final)

    def _one_breath(self, seconds: float) -> list[Run]:
        """A chain of clauses of about that length: first the topic, then mostly neutral ones."""
        runs = [self.grammar.clause(final=False)]
        while self._length(runs) < seconds - 2 * CLAUSE:
            runs.append(self._one(self.rng.random() < REMIND / 2, final=False))
        return [*runs, self.grammar.neutral()]
