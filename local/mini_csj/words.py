"""From the runs of an utterance to words: what the synthesizer says and what the transcript writes.

The text front-end of pyopenjtalk-plus segments each run and gives reading, accent and part of speech; tags of the
transcript are put around whole words, in the written form (column 5 of an SDB file) and in the pronunciation (column
10).
"""

from __future__ import annotations

import contextlib
import io
import random
from typing import Any, NamedTuple

from .grammar import Run
from .lexicon import without_topic

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    import pyopenjtalk  # says that an optional model is missing; no word of the lexicon needs it

_SMALL_KANA = "ァィゥェォャュョヮー"
_LENGTHENED = "ワガノニデトモテネ"  # particles that speakers draw out


class Word(NamedTuple):
    """One line of an SDB file.

    feature: the front-end's entry, as it is to be spoken; surface, pron: with CSJ tags; plain: surface without tags;
    pos: part of speech where it differs from the front-end's.
    """

    feature: dict[str, Any]
    surface: str
    pron: str
    plain: str
    pos: str = ""


def analyze(text: str) -> list[dict[str, Any]]:
    """The front-end's words of text.  Optional reading models are off: the same text always gives the same words."""
    features = pyopenjtalk.run_frontend(text, use_sudachi_kanji_yomi=False, predict_nani=False)
    joined = "".join(feature["string"] for feature in features)
    if joined != text:
        raise RuntimeError(f"the text front-end changed {text!r} into {joined!r}")
    return [dict(feature) for feature in features]


def morae(pron: str) -> list[str]:
    """Split katakana into morae: キョーカ -> キョ, ー, カ (the long mark counts as its own mora)."""
    out: list[str] = []
    for char in pron:
        if char in _SMALL_KANA[:-1] and out:
            out[-1] += char
        else:
            out.append(char)
    return out


def clean(pron: str) -> str:
    """Pronunciation without the front-end's mark for devoiced vowels."""
    return pron.replace("’", "")


def _one_word(text: str, pron: str) -> dict[str, Any]:
    """A front-end entry, an interjection, for what no dictionary has: a fragment or a filler."""
    count = len(morae(pron))
    entry: dict[str, Any] = dict.fromkeys(
        ("pos_group1", "pos_group2", "pos_group3", "ctype", "cform", "chain_rule"), "*"
    )
    entry.update(string=text, orig=text, read=pron, pron=pron, pos="感動詞", acc=0, mora_size=count, chain_flag=0)
    entry.update(is_reading_protected=False, is_reading_rewritten=False)
    return entry


def _slip_words(run: Run) -> list[Word]:
    tag = run.slip
    if tag == "D":  # up to two morae, written in katakana
        pron = "".join(morae(clean(analyze(without_topic(run.text))[0]["pron"]))[:2])
        pron = pron.rstrip("ーッン") or pron
        return [Word(_one_word(pron, pron), f"(D {pron})", f"(D {pron})", pron, "言いよどみ")]
    pron = "".join(clean(feature["pron"]) for feature in analyze(run.text))
    pos = "感動詞" if tag == "F" else "助詞"
    return [Word(_one_word(run.text, pron), f"({tag} {run.text})", f"({tag} {pron})", run.text, pos)]


def _fluent_words(run: Run, rng: random.Random) -> list[Word]:
    words, at = [], 0
    # The front-end never sees which homophone is meant, so neither accent nor part of speech can give it away.
    for feature in analyze(without_topic(run.text)):
        start, end = at, at + len(feature["string"])
        at = end
        text = run.text[start:end]
        feature = {**feature, "string": text, "orig": feature["orig"] if feature["string"] == text else text}
        surface, pron, marked = _tagged(run, start, end, clean(feature["pron"]))
        if not marked:
            feature, surface, pron = _reduce(feature, surface, pron, rng)
        words.append(Word(feature, surface, pron, text))
    return words


def _tagged(run: Run, start: int, end: int, pron: str) -> tuple[str, str, bool]:
    """Characters [start, end) of the run and their pronunciation with tags; whether any tag touches them.

    Tags of the written form may open and close inside a word (三百人 -> (A 三百;３００)人), as the reader allows.
    """
    inside = [mark for mark in run.marks if mark.start < end and start < mark.end]
    surface = run.text[start:end]
    for mark in inside:
        if mark.end <= end:
            close = (f";{mark.alternative}" if mark.alternative else "") + ")"
            surface = surface[: mark.end - start] + close + surface[mark.end - start :]
            pron += ")" if mark.tag == "M" else ""
        if mark.start >= start:
            surface = f"{surface[: mark.start - start]}({mark.tag} {surface[mark.start - start :]}"
            pron = f"(M {pron}" if mark.tag == "M" else pron
    return surface, pron, bool(inside)


def _reduce(feature: dict[str, Any], surface: str, pron: str, rng: random.Random) -> tuple[dict[str, Any], str, str]:
    """Now and then: a lengthened particle <H>, a shortened final vowel (W heard;meant), an uncertain word (?)."""
    roll = rng.random()
    count = len(morae(pron))
    if feature["pos"] == "助詞" and pron in _LENGTHENED and roll < 0.02:
        feature.update(pron=pron + "ー", mora_size=2)
        return feature, surface, pron + "<H>"
    if feature["pos"] == "名詞" and count >= 4 and pron.endswith("ー") and roll < 0.03:
        short = pron[:-1]
        feature.update(pron=short, mora_size=count - 1, acc=min(feature["acc"], count - 1))
        return feature, surface, f"(W {short};{pron})"
    if feature["pos"] == "名詞" and roll > 0.99:
        return feature, f"(? {surface})", f"(? {pron})"
    return feature, surface, pron


def words_of(runs: list[Run], rng: random.Random) -> list[Word]:
    """All words of an utterance.  Each run starts a new accent phrase."""
    words: list[Word] = []
    for run in runs:
        new = _slip_words(run) if run.slip in ("F", "D", "D2") else _fluent_words(run, rng)
        new[0].feature["chain_flag"] = 0
        if run.slip == "L":
            new = _around(new, "L")
        elif run.slip == "R":
            new[0] = new[0]._replace(surface="(R ××)", pron="(R ××)", plain="××")  # the name is heard, not written
        words += new
    return words


def _around(words: list[Word], tag: str) -> list[Word]:
    """One tag around several words: opened before the first, closed after the last."""
    first, last = words[0], words[-1]
    if len(words) == 1:
        return [first._replace(surface=f"({tag} {first.surface})", pron=f"({tag} {first.pron})")]
    opened = first._replace(surface=f"({tag} {first.surface}", pron=f"({tag} {first.pron}")
    closed = last._replace(surface=last.surface + ")", pron=last.pron + ")")
    return [opened, *words[1:-1], closed]


def labels_of(words: list[Word]) -> list[str]:
    """Full-context labels for the synthesizer."""
    features: list[Any] = [word.feature for word in words]
    return pyopenjtalk.make_label(features)
