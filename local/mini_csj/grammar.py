"""Lecture-like Japanese from a small grammar: clauses, utterances, and the slips of spontaneous speech.

A clause belongs to exactly one pool (train, valid or eval) by a hash of its text, so no clause of an evaluation talk,
let alone a sentence, is ever spoken in a training talk.  Clauses of topic words tell what a talk is about; neutral
clauses hold homophones, whose spelling depends on just that.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from . import lexicon

POOLS = ("train", "valid", "eval")
# Of a list of words the first ones are said everywhere; of the others a talk uses a few, each seldom.
COMMON, SPECIAL, SPECIAL_SHARE = 4, 3, 0.18
MAX_DRAWS = 2000  # a pool holds at least a tenth of the clauses, so this many draws never fail in practice


class Mark(NamedTuple):
    """A CSJ tag around characters [start, end) of a run: (TAG text) or (TAG text;alternative)."""

    start: int
    end: int
    tag: str
    alternative: str = ""


class Run(NamedTuple):
    """Text spoken in one go.

    slip is "" for fluent text, else a CSJ tag: F, D2 or L around all of it, R for its first word, D for the beginning
    of its first word, where the speaker breaks off.
    """

    text: str
    marks: tuple[Mark, ...] = ()
    slip: str = ""


def pool_of(text: str) -> str:
    """The pool a clause belongs to: 80 % train, 8 % valid, 12 % eval.  Clauses that sound the same share it."""
    bucket = int.from_bytes(hashlib.blake2b(lexicon.without_topic(text).encode(), digest_size=8).digest(), "big") % 100
    return "train" if bucket < 80 else "valid" if bucket < 88 else "eval"


def kanji_number(value: int) -> str:
    """1 <= value <= 9999 in kanji as it is read: 2015 -> 二千十五."""
    out = ""
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, value = divmod(value, unit)
        if digit:
            out += ("" if digit == 1 and name else lexicon.DIGITS[digit]) + name
    return out


def full_width(value: int) -> str:
    return "".join(chr(ord("０") + int(digit)) for digit in str(value))


class _Builder:
    """Collects the characters and marks of one clause."""

    def __init__(self) -> None:
        self.text = ""
        self.marks: list[Mark] = []

    def add(self, text: str, tag: str = "", alternative: str = "") -> None:
        if tag:
            self.marks.append(Mark(len(self.text), len(self.text) + len(text), tag, alternative))
        self.text += text

    def word(self, word: str) -> None:
        if word in lexicon.LATIN:
            self.add(lexicon.LATIN[word], "A", word)
        else:
            self.add(word)


class Grammar:
    """Draws clauses of one topic and one pool.

    number: of the talk among those of its topic; decides which of the rarer words it uses.
    """

    def __init__(self, topic: str, pool: str, rng: random.Random, number: int = 0) -> None:
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {POOLS}, not {pool!r}")
        self.topic = lexicon.TOPICS[topic]
        self.field = lexicon.FIELDS[topic]
        self.homophones = {group.reading: group.by_topic[topic] for group in lexicon.HOMOPHONES}
        self.pool = pool
        self.rng = rng
        self.number = number
        self.uses: Counter[str] = Counter()
        self.spoken: set[str] = set()
        self._drawn: list[str] = []

    # words ---------------------------------------------------------------------------------------------------------

    def _draw(self, words: tuple[str, ...]) -> str:
        """The word furthest behind its share; a word drawn in this clause already counts as used."""
        shares = dict.fromkeys(words[:COMMON], 1.0)
        others = words[COMMON:]
        for i in range(min(SPECIAL, len(others))):
            shares[others[(self.number * SPECIAL + i) % len(others)]] = SPECIAL_SHARE
        free = [word for word in shares if word not in self._drawn] or list(shares)
        behind = {word: (self.uses[word] + self.rng.random()) / shares[word] for word in free}
        word = min(behind, key=behind.__getitem__)
        self._drawn.append(word)
        return word

    def _noun(self) -> str:
        return self._draw(self.topic.nouns)

    def _topic_action(self) -> str:
        return self._draw(self.topic.actions)

    def _adjective(self) -> tuple[str, str]:
        """(form before a noun, form before です)."""
        word = self._draw(lexicon.I_ADJECTIVES + lexicon.NA_ADJECTIVES)
        return (word, word) if word.endswith("い") else (word + "な", word)

    # parts of a clause ---------------------------------------------------------------------------------------------

    def _noun_phrase(self, out: _Builder) -> None:
        """One or two nouns; most of the words of a talk are drawn here, so the shares keep word counts level."""
        kind = self.rng.random()
        if kind < 0.22:
            self._joined(out, "の", self._noun())
        elif kind < 0.40:
            self._joined(out, "の", self._topic_action())
        elif kind < 0.55:
            self._joined(out, "と", self._noun())
        elif kind < 0.71:
            out.add(self._adjective()[0])
            out.word(self._noun())
        elif kind < 0.88:
            out.word(self._noun() if self.rng.random() < 0.5 else self._topic_action())
            out.add("の" + self._draw(lexicon.GENERAL_NOUNS))
        else:
            out.word(self._noun())

    def _joined(self, out: _Builder, particle: str, second: str) -> None:
        out.word(self._noun())
        out.add(particle)
        out.word(second)

    def _predicate(self, out: _Builder, final: bool, action: str = "") -> None:
        rng = self.rng
        endings = lexicon.FINAL_ENDINGS if final else lexicon.LINKING_ENDINGS
        if action or rng.random() < 0.75:
            self._inflect(out, self._verb_of(action or self._topic_action()), endings)
        else:
            self._inflect(out, self._verb(), endings)

    @staticmethod
    def _verb_of(action: str) -> lexicon.Verb:
        return lexicon.Verb(action + "し", action + "する", action + "した", action + "して")

    def _verb(self) -> lexicon.Verb:
        chosen = self._draw(tuple(verb.plain for verb in lexicon.VERBS))
        return next(verb for verb in lexicon.VERBS if verb.plain == chosen)

    def _inflect(self, out: _Builder, verb: lexicon.Verb, endings: tuple) -> None:
        form, ending = self.rng.choices([pair for pair, _ in endings], [weight for _, weight in endings])[0]
        out.add(getattr(verb, form) + ending)

    def _number(self, out: _Builder) -> None:
        rng = self.rng
        counter = rng.choice(lexicon.COUNTERS)
        if counter == "年" and rng.random() < 0.5:
            value = rng.randint(1950, 2029)
        else:
            value = rng.choice(
                (rng.randint(2, 99), rng.randint(2, 9) * 10, rng.randint(1, 9) * 100, rng.randint(1, 9) * 1000)
            )
        if counter == "人":
            value = max(value, 3)
        out.add(kanji_number(value), "A", full_width(value))
        out.add(counter)

    def _clause(self, final: bool) -> _Builder:
        rng, out = self.rng, _Builder()
        kind = rng.random()
        if rng.random() < 0.12:
            out.add(self._draw(lexicon.TIMES))
        if kind < 0.26:
            self._noun_phrase(out)
            out.add("を")
            self._predicate(out, final)
        elif kind < 0.38:
            self._noun_phrase(out)
            out.add("について")
            self._predicate(out, final, self._draw(lexicon.GENERAL_ACTIONS))
        elif kind < 0.60:
            out.word(self._noun())
            out.add("が")
            self._noun_phrase(out)
            out.add("を")
            self._predicate(out, final)
        elif kind < 0.72:
            self._noun_phrase(out)
            out.add(rng.choice("はが"))
            out.add(self._adjective()[1])
            na = out.text[-1] != "い"
            linking = ("なので", "であるために") if na else ("ので", "ために")
            out.add(rng.choice(("です", "ということです", "ということが分かりました") if final else linking))
        elif kind < 0.84:
            self._noun_phrase(out)
            out.add("が")
            self._number(out)
            out.add(rng.choice(("あります", "ありました", "あるということです")) if final else "あるので")
        elif kind < 0.92:
            out.word(self._noun())
            out.add("には")
            self._noun_phrase(out)
            out.add("が必要です" if final else "が必要なので")
        else:
            out.add(self._noun_plain(), "M")
            out.add("という言葉を")
            self._predicate(out, final)
        return out

    def _noun_plain(self) -> str:
        return self._draw(tuple(word for word in self.topic.nouns if word not in lexicon.LATIN))

    def _homophone(self, out: _Builder) -> None:
        """The homophone furthest behind the others, as this topic spells it."""
        free = [reading for reading in self.homophones if reading not in self._drawn]
        reading = min(free, key=lambda reading: self.uses[reading] + self.rng.random())
        self._drawn.append(reading)
        out.add(self.homophones[reading])

    def _neutral(self, final: bool) -> _Builder:
        """A clause of general words and homophones: nothing in it depends on the topic but their spelling."""
        rng, out = self.rng, _Builder()
        kind = rng.random()
        if rng.random() < 0.15:
            out.add(self._draw(lexicon.TIMES))
        if kind < 0.5:
            for i in range(3 if kind < 0.2 else 2):
                out.add(rng.choice("とや") if i else "")
                out.add(self._adjective()[0])
                self._homophone(out)
            if rng.random() < 0.6:
                out.add(
                    rng.choice(
                        ("です", "でした", "があります", "がありました")
                        if final
                        else ("なので", "ですが", "があるので")
                    )
                )
                return out
        elif kind < 0.85:
            out.add(self._draw(lexicon.GENERAL_NOUNS) + rng.choice(("には", "では", "としては")))
            self._homophone(out)
            for _ in range(2 if kind < 0.6 else 1):
                out.add(rng.choice(lexicon.LINKS))
                self._homophone(out)
            if rng.random() < 0.5:
                out.add("が必要です" if final else "が必要なので")
                return out
        elif kind < 0.93:
            out.add(self._adjective()[0])
            self._homophone(out)
        else:
            out.add(self._draw(lexicon.GENERAL_NOUNS) + "の" + self._draw(lexicon.GENERAL_NOUNS) + "として")
            self._homophone(out)
        out.add("を")
        verb = self._verb() if rng.random() < 0.6 else self._verb_of(self._draw(lexicon.GENERAL_ACTIONS))
        self._inflect(out, verb, lexicon.SHORT_FINAL_ENDINGS if final else lexicon.SHORT_LINKING_ENDINGS)
        return out

    def _short(self, homophone: bool) -> _Builder:
        rng, out = self.rng, _Builder()
        if homophone:
            if rng.random() < 0.6:
                out.add(self.field)
            else:
                out.word(self._noun() if rng.random() < 0.6 else self._topic_action())
            out.add(rng.choice(lexicon.TOPIC_LINKS))
            self._homophone(out)
            out.add(rng.choice(("です", "でした")))
            return out
        out.add(rng.choice(("", "次は", "これは", "まず", "特に", "また", "つまり")))
        out.word(self._noun() if rng.random() < 0.7 else self._topic_action())
        out.add(
            rng.choice(("です", "ですね", "でした", "になります", "の" + self._draw(lexicon.GENERAL_NOUNS) + "です"))
        )
        return out

    def _of_pool(self, draw: Callable[[], _Builder]) -> Run:
        """What draw gives, once it belongs to this pool and this talk has not said it yet."""
        for _ in range(MAX_DRAWS):
            self._drawn = []
            out = draw()
            if pool_of(out.text) == self.pool and out.text not in self.spoken:
                return self._accept(out)
        raise RuntimeError(f"no clause of pool {self.pool} in {MAX_DRAWS} draws")

    def clause(self, final: bool = True) -> Run:
        """A clause with words of the topic and no homophone."""
        return self._of_pool(lambda: self._clause(final))

    def neutral(self, final: bool = True) -> Run:
        """A clause with one to three homophones and no word of the topic."""
        return self._of_pool(lambda: self._neutral(final))

    def short(self, homophone: bool = False) -> Run:
        """One to two seconds: a topic word and です, or a topic word and a homophone."""
        return self._of_pool(lambda: self._short(homophone))

    def _accept(self, out: _Builder) -> Run:
        self.spoken.add(out.text)
        self.uses.update(self._drawn)
        return Run(out.text, tuple(out.marks))

    # slips ---------------------------------------------------------------------------------------------------------

    def with_slips(self, runs: list[Run]) -> list[Run]:
        """Insert fillers before runs, and break a run by a fragment (D) or a corrected particle (D2)."""
        rng, out = self.rng, []
        for run in runs:
            if run.slip:
                out.append(run)
                continue
            if rng.random() < 0.16:
                out.append(Run(rng.choice(lexicon.FILLERS), slip="F"))
            roll = rng.random()
            if roll < 0.03:
                out.append(run._replace(slip="D"))  # only the first morae of its first word will be heard
                out.append(run)
            elif roll < 0.05 and "を" in run.text[2:]:
                out += _split_repair(run, rng)
            else:
                out.append(run)
        return out


def _split_repair(run: Run, rng: random.Random) -> list[Run]:
    """音声を録音します -> 音声 (D2 が) を録音します."""
    at = run.text.rindex("を")
    before = Run(run.text[:at], tuple(mark for mark in run.marks if mark.end <= at))
    after = Run(
        run.text[at:], tuple(m._replace(start=m.start - at, end=m.end - at) for m in run.marks if m.start >= at)
    )
    return [before, Run(rng.choice("がにで"), slip="D2"), after]
