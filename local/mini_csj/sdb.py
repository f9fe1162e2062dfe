"""SDB files: one word a line, tab-separated, Shift-JIS, as on the discs of the real corpus.

Columns (from 0): 0 serial number, 1 unit, 2 talk, 3 "segment start-end channel:talker-phrase", 4 phrase number,
5 written form with tags, 6 lemma reading, 7 lemma, 8 origin (empty), 9 written form without tags, 10 pronunciation
with tags,
11 part of speech, 12 conjugation type, 13 conjugation form, 14 kind of particle, 15 euphonic change, 16 other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .words import Word

ENCODING = "shift_jis"
COLUMNS = 17

# The front-end's names for parts of speech (IPADIC) and the corpus's.
_POS = {
    "フィラー": "感動詞",
    "接続詞": "接続詞",
    "連体詞": "連体詞",
    "接頭詞": "接頭辞",
    "副詞": "副詞",
    "記号": "記号",
}
_CONJUGATION = {
    "一段": "下一段", "サ変・スル": "サ行変格", "五段・ワ行促音便": "ワア行五段", "五段・カ行イ音便": "カ行五段",
    "五段・ガ行": "ガ行五段", "五段・サ行": "サ行五段", "五段・バ行": "バ行五段", "五段・マ行": "マ行五段",
    "五段・ラ行": "ラ行五段", "形容詞・イ段": "形容詞型", "形容詞・アウオ段": "形容詞型",
}  # fmt: skip
_FORM = {
    "基本形": "終止形", "連用形": "連用形", "連用タ接続": "連用形", "未然形": "未然形", "体言接続": "連体形",
    "仮定形": "仮定形", "未然ウ接続": "未然形", "命令ｏ": "命令形",
}  # fmt: skip
_PARTICLE = {"連体化": "格助詞", "格助詞": "格助詞", "係助詞": "係助詞", "接続助詞": "接続助詞", "終助詞": "終助詞",
             "並立助詞": "格助詞", "副助詞": "副助詞"}  # fmt: skip


class Segment(NamedTuple):
    """Words between two pauses; start and end in seconds from the beginning of the recording; channel "L" or "R"."""

    start: float
    end: float
    words: list[Word]
    channel: str = "L"


def _morphology(word: Word) -> list[str]:
    """Columns 11-16."""
    feature = word.feature
    pos, group = word.pos or feature["pos"], feature["pos_group1"]
    if pos == "名詞":
        pos = (
            "代名詞"
            if group == "代名詞"
            else "形状詞"
            if group == "形容動詞語幹"
            else "接尾辞"
            if group == "接尾"
            else "名詞"
        )
    pos = _POS.get(pos, pos)
    conjugates = pos in ("動詞", "形容詞", "助動詞")
    kind = _CONJUGATION.get(feature["ctype"], "") if conjugates else ""
    form = _FORM.get(feature["cform"], "") if conjugates else ""
    particle = _PARTICLE.get(group, "") if pos == "助詞" else ""
    change = ""
    if pos == "動詞" and feature["cform"] == "連用タ接続":
        change = {"ッ": "促音便", "ン": "撥音便"}.get(feature["pron"][-1:], "イ音便")
    return [pos, kind, form, particle, change, ""]


def sdb_lines(talk: str, segments: Iterable[Segment]) -> list[str]:
    """The lines of one SDB file, segments numbered from 1 in the order given.  Times are written to the millisecond."""
    lines: list[str] = []
    for number, segment in enumerate(segments, start=1):
        for index, word in enumerate(segment.words, start=1):
            when = f"{number:04d} {segment.start:09.3f}-{segment.end:09.3f} {segment.channel}:-{index:03d}-{index:03d}"
            row = [f"{len(lines) + 1:07d}", "短", talk, when, f"{index:03d}", word.surface]
            row += [word.feature["read"], word.feature["orig"], "", word.plain, word.pron, *_morphology(word)]
            lines.append("\t".join(row))
    return lines


def encode(lines: list[str]) -> bytes:
    """Shift-JIS bytes; the last line ends with a line break, which the reader relies on to close the last segment."""
    return ("\n".join(lines) + "\n").encode(ENCODING)
