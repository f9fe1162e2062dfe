"""How often homophones are spelled as a word says that was heard a given time before: from results.

The part of which this is, and what its cuts are called, is made by ``local/make_homophones.py``. An utterance asks for one
homophone, and its like with the other spelling, the same sounds behind another first word, is asked for as often: who has
forgotten that word is right in half of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sammo.errors import UserError

if TYPE_CHECKING:
    from sammo.scoring.results import PartResult

PART = "homophones"
CHANCE = 0.5
_CUT_ID = re.compile(r"([^-]+)-([^-]+)-(\d+(?:\.\d+)?)s-(\d+)")


class Question(NamedTuple):
    """What an utterance asks: the spelling that is right, the one that sounds alike, the seconds from the end of the word
    that decides to the clause of the homophone, and the number of the utterance among those of which all this is the same."""

    right: str
    other: str
    delay: float
    number: int

    @property
    def cut_id(self) -> str:
        """What the cut is called: all of the question."""
        return f"{self.right}-{self.other}-{self.delay:g}s-{self.number}"


def question_of(cut_id: str) -> Question:
    """The inverse of :attr:`Question.cut_id`; ValueError for other ids."""
    match = _CUT_ID.fullmatch(cut_id)
    if match is None:
        raise ValueError(f"{cut_id!r} asks for no homophone")
    return Question(match[1], match[2], float(match[3]), int(match[4]))


class Answers(NamedTuple):
    """Of one system, chunk size and delay in seconds: utterances whose homophone is spelled right, in the other way, and
    in neither. Chunks and left contexts in frames of 20 ms."""

    system: str
    chunk_size: int
    left_context_frames: int
    delay: float
    right: int
    other: int
    neither: int
    reset: bool = False  # nothing empties the state here

    @property
    def sequences(self) -> int:
        """Utterances whose homophone is spelled in either way."""
        return self.right + self.other

    @property
    def accuracy(self) -> float:
        """Share of those that are spelled right; that of guessing where there are none."""
        return self.right / self.sequences if self.sequences else CHANCE


def measure(result: PartResult, system: str) -> list[Answers]:
    """The answers of ``system`` at one chunk size, the shortest delay first.

    Raises:
      UserError: the result is of another part, or the file of its texts cannot be read.
    """
    from sammo.evidence.timing import read_texts  # not above: local/make_homophones.py takes the questions alone

    found: dict[float, list[int]] = {}
    texts = read_texts(result)
    for cut_id in result.cut_ids:
        try:
            question = question_of(cut_id)
        except ValueError as error:
            raise UserError(f"{result.path} is no result on the part {PART}: {error}") from error
        said = "".join(texts.get(cut_id, ([], []))[1])
        place = 0 if question.right in said else 1 if question.other in said else 2
        found.setdefault(question.delay, [0, 0, 0])[place] += 1
    chunk, left = result.setting.chunk_size, result.setting.left_context_frames
    answers = []
    for delay, (right, other, neither) in sorted(found.items()):
        answers.append(Answers(system, chunk, left, delay, right, other, neither))
    return answers
