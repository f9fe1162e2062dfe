"""sammo homophones: who remembers the word that decides spells right, who does not is right in half of the cases."""

from __future__ import annotations

import json

import pytest

from sammo import cli
from sammo.corpora import CSJ
from sammo.errors import UserError
from sammo.evidence.homophones import PART, Question, measure, question_of
from sammo.scoring import DecodeSetting, write_results
from sammo.scoring.results import read_results

DELAYS = (0.5, 20.0)
QUESTIONS = [
    Question(*spellings, delay, number)
    for delay in DELAYS
    for number in range(4)
    for spellings in (("科学", "化学"), ("化学", "科学"))
]


def decode(directory, spell, encoder="sammo", part=PART, left=0):
    """Results of a system that writes ``spell`` (question -> text) in the place of the homophone."""
    setting = DecodeSetting(
        encoder, "tiny", "greedy_search", 1, 64, left, 1, 1, True, 32, "float32", 1000, False, "epoch-1, batch 1"
    )
    rows = [(q.cut_id, f"話ですが{q.right}です", f"話ですが{spell(q)}です", []) for q in QUESTIONS]
    write_results(directory, setting, part, rows, corpus=CSJ)
    return read_results(directory)


def remembers(seconds):
    """A system that knows the word for so long, and afterwards always writes one spelling."""
    return lambda question: question.right if question.delay <= seconds else "科学"


def test_ids_hold_the_question():
    assert all(question_of(question.cut_id) == question for question in QUESTIONS)
    assert question_of("科学-化学-0.5s-3") == Question("科学", "化学", 0.5, 3)
    for other in ("A01M0056_0001", "科学-化学-s-3", "科学-化学-1s"):
        with pytest.raises(ValueError, match="asks for no homophone"):
            question_of(other)


def test_forgetting_is_chance(tmp_path):
    [result] = decode(tmp_path, remembers(1.0))
    near, far = measure(result, "sammo")
    assert (near.delay, near.right, near.other, near.neither) == (0.5, 8, 0, 0)
    assert (far.delay, far.right, far.other, far.accuracy) == (20.0, 4, 4, 0.5)


def test_what_is_in_neither_spelling_is_no_guess(tmp_path):
    [result] = decode(tmp_path, lambda question: "下学" if question.number == 0 else question.right)
    near, _ = measure(result, "sammo")
    assert (near.right, near.other, near.neither, near.accuracy) == (6, 0, 2, 1.0)


def test_command(tmp_path, capsys):
    decode(tmp_path / "sammo", remembers(20.0))
    decode(tmp_path / "zipformer", remembers(1.0), "zipformer", left=32)
    decode(tmp_path / "silent", lambda question: "", "conformer", left=32)
    decode(tmp_path / "sammo", remembers(20.0), part="eval1")  # is left out
    args = cli.parse(["homophones", *(str(tmp_path / name) for name in ("sammo", "zipformer", "silent"))])
    assert args.run(args) == 0
    text = capsys.readouterr().out
    assert "between 22 and 78 in 95 of 100" in text  # of 8
    assert "at most 8 (Conformer, left 32" in text
    rows = {line.split("|")[1].split(",")[0].strip(): line for line in text.splitlines() if line.startswith("| ")}
    for system, cells in {"Sammo": ["100", "100"], "Zipformer": ["100", "50"], "Conformer": ["50", "50"]}.items():
        assert [cell.strip() for cell in rows[system].split("|")[2:-1]] == cells
    assert (tmp_path / "sammo/homophones.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "sammo/homophones.json").read_text())
    assert found["format"] == "sammo-homophones-1" and len(found["answers"]) == 6


def test_other_parts(tmp_path):
    decode(tmp_path, remembers(1.0), part="eval1")
    args = cli.parse(["homophones", str(tmp_path)])
    with pytest.raises(UserError, match="no results on the part homophones with chunks in"):
        args.run(args)
    path = next(tmp_path.glob("cer-*.json"))
    record = json.loads(path.read_text())
    record["utterances"] = {"A01M0056_0001": next(iter(record["utterances"].values()))}
    record.update(part=PART, cer=0.0)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="no result on the part homophones: 'A01M0056_0001' asks for no homophone"):
        args.run(args)
