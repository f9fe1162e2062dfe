"""The part that asks for a memory of a given length: pairs that differ in the word that decides and in nothing else."""

from __future__ import annotations

import random
import sys
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("pyopenjtalk")

import make_homophones  # noqa: E402
from fixtures.homophones import homophones_in  # noqa: E402
from mini_csj import acoustics, lexicon, voices  # noqa: E402
from mini_csj.grammar import pool_of  # noqa: E402

from sammo.corpora import CSJ  # noqa: E402
from sammo.data.manifests import read_cuts  # noqa: E402
from sammo.evidence.homophones import question_of  # noqa: E402


@pytest.fixture
def dry(monkeypatch):
    """No room: it would make the sounds of a pair, which begin at different samples, differ in their last digits."""
    monkeypatch.setattr(voices, "in_room", lambda sound, speaker, rng: sound)


@pytest.mark.parametrize("delay", [0.5, 1.0, 5.0])
def test_pairs_sound_alike_behind_the_field(dry, monkeypatch, delay):
    between = []
    make = make_homophones._between
    monkeypatch.setattr(make_homophones, "_between", lambda *args: between.append(make(*args)) or between[-1])
    (humanities, first), (sciences, second) = make_homophones.say(make_homophones.Pair(1, 0, delay))
    [(text, sound)] = between
    assert len(sound) == round(delay * acoustics.RATE)  # from the end of the field to the clause of the homophone
    (at, spelled), *more = homophones_in(humanities)
    assert not more and spelled == "機会" and homophones_in(sciences) == [(at, "機械")]
    assert humanities.startswith("文系") and sciences.startswith("理系") and humanities[2:at] == sciences[2:at]
    assert text or delay == 0.5
    before = humanities[humanities.rindex(text) + len(text) : at] if text else ""
    assert before in lexicon.I_ADJECTIVES or not text and humanities[:at].endswith(lexicon.I_ADJECTIVES)
    # After the field both are the same samples.
    behind = len(sound) + 1000
    assert np.array_equal(first[-behind:], second[-behind:]) and not np.array_equal(first[:8000], second[:8000])


def test_what_is_said_between_tells_nothing(dry):
    (text, _), _ = make_homophones.say(make_homophones.Pair(0, 1, 10.0))
    topics = {word for topic in lexicon.TOPICS.values() for word in (*topic.nouns, *topic.actions)}
    assert not [word for word in topics if word in text]
    rng = random.Random(0)
    before, behind = make_homophones._asking("化学", rng)
    assert pool_of(make_homophones._clause(rng)) == pool_of(f"{before}化学{behind}") == "eval"


def test_balanced():
    plan = make_homophones.plan()
    assert set(Counter((pair.delay, pair.group) for pair in plan).values()) == {make_homophones.PAIRS}
    for group in range(len(lexicon.HOMOPHONES)):
        first, second = make_homophones.spellings(group)
        topics = [topic for topic, word in lexicon.HOMOPHONES[group].by_topic.items() if word == first]
        assert {lexicon.FIELDS[topic] for topic in topics} == {"文系"}
        assert first != second


def test_part(tmp_path, monkeypatch):
    monkeypatch.setattr(make_homophones, "DELAYS", (0.5, 2.0))
    monkeypatch.setattr(make_homophones, "PAIRS", 1)
    directories = ["--fbank-dir", str(tmp_path / "fbank"), "--wav-dir", str(tmp_path / "wav")]
    monkeypatch.setattr(sys, "argv", ["make_homophones.py", *directories])
    make_homophones.main()
    cuts = list(read_cuts(CSJ.manifest_path(tmp_path / "fbank", "homophones")))
    assert len(cuts) == 2 * 2 * len(lexicon.HOMOPHONES)
    for cut in cuts:
        question, text = question_of(cut.id), cut.supervisions[0].custom["fluent"]
        assert [spelled for _, spelled in homophones_in(text)] == [question.right]
        assert cut.has_features and cut.duration > question.delay + 0.8
    before = {path: path.read_bytes() for path in (tmp_path / "wav").iterdir()}
    victim = sorted(path for path in before if path.suffix == ".txt")[3]
    for path in victim.parent.glob(victim.name.replace("-0.txt", "-?.*")):
        path.unlink()
    make_homophones.main()
    assert {path: path.read_bytes() for path in (tmp_path / "wav").iterdir()} == before
