"""mini-CSJ: the words, the grammar, the tags, and the plan of the corpus.  Nothing is synthesized here."""

from __future__ import annotations

import collections
import random
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyopenjtalk")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "local"))

from lhotse.recipes import csj  # noqa: E402
from mini_csj import grammar, lexicon, sdb, talks, words  # noqa: E402

CHARACTERS_PER_SECOND = 7.0  # of speech, as measured on the corpus


def reading(text: str) -> str:
    return "".join(words.clean(feature["pron"]) for feature in words.analyze(text))


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    """Fluent text of every utterance of the default corpus by part, without its sound."""
    out = collections.defaultdict(list)
    for talk in talks.plan_corpus(hours=2.0, eval_minutes=7.0, seed=0):
        rng = random.Random(talks.stream(0, talk.id, "text"))
        draw, length = grammar.Grammar(talk.topic, talk.pool, rng, talk.number), 0
        while length < talk.seconds * CHARACTERS_PER_SECOND:
            runs = draw.utterance()
            out[talk.part].append("".join(run.text for run in runs if run.slip in ("", "L")))
            length += sum(len(run.text) for run in runs)
    return out


def test_no_two_words_sound_alike_and_all_are_shift_jis():
    every = lexicon.all_words()
    assert len(every) == len(set(every)) >= 350
    sounds = collections.defaultdict(list)
    for word in every:
        word.encode(sdb.ENCODING)
        sounds[reading(lexicon.spoken(word))].append(word)
    assert [alike for alike in sounds.values() if len(alike) > 1] == []


def test_a_word_is_read_the_same_everywhere():
    rng = random.Random(3)
    for topic in lexicon.TOPICS:
        draw = grammar.Grammar(topic, "train", rng)
        nouns = {noun: reading(lexicon.spoken(noun)) for noun in (*draw.topic.nouns, *draw.topic.actions)}
        for _ in range(40):
            text = draw.clause().text
            sound = reading(text)
            for noun, expected in nouns.items():
                if lexicon.spoken(noun) in text:
                    assert expected in sound, (text, noun)


def test_at_least_600_characters_and_every_word_is_heard(texts):
    train = "\n".join(texts["train"])
    assert len(set(train) - {"\n"}) >= 600
    for word in lexicon.all_words():
        form = word[:-1] if word in {verb.plain for verb in lexicon.VERBS} else lexicon.spoken(word)
        assert form in train, word
    tests = "".join("".join(texts[part]) for part in ("eval1", "eval2", "eval3", "valid"))
    assert sum(character not in train for character in tests) < 1e-3 * len(tests)  # 1 of 11075


def test_no_evaluation_sentence_in_training(texts):
    train = set(texts["train"])
    for part in ("eval1", "eval2", "eval3", "valid", "excluded"):
        assert not train & set(texts[part])
    assert not set(texts["valid"]) & set(texts["eval1"] + texts["eval2"] + texts["eval3"])


def test_clauses_stay_in_their_pool():
    for pool in grammar.POOLS:
        draw = grammar.Grammar("arts", pool, random.Random(0))
        assert {grammar.pool_of(draw.clause(final).text) for final in (True, False) for _ in range(20)} == {pool}
    with pytest.raises(ValueError, match="pool"):
        grammar.Grammar("arts", "test", random.Random(0))


def test_plan_has_every_id_of_lhotse():
    plan = talks.plan_corpus(hours=2.0, eval_minutes=7.0, seed=0)
    by_part = collections.defaultdict(list)
    for talk in plan:
        by_part[talk.part].append(talk)
    for number, ids in enumerate(csj._EVAL, start=1):
        assert {talk.id for talk in by_part[f"eval{number}"]} == set(ids)
        assert sum(talk.seconds for talk in by_part[f"eval{number}"]) == pytest.approx(7 * 60)
    assert {talk.id for talk in by_part["valid"]} == set(csj._VALID)
    assert {talk.id for talk in by_part["excluded"]} == set(csj._A01M0056)
    assert sum(talk.seconds for talk in by_part["train"]) == pytest.approx(7200)
    assert any(talk.dialogue for talk in by_part["train"])
    assert {talk.volume for talk in by_part["train"]} == {"core", "noncore"}
    assert {talk.topic for talk in by_part["train"]} == set(lexicon.TOPICS)
    assert len({talk.id for talk in plan}) == len(plan)
    assert {t.id for t in by_part["train"]} != {t.id for t in talks.plan_corpus(2.0, 7.0, 1) if t.part == "train"}


@pytest.mark.parametrize(
    "value, kanji",
    [(2, "二"), (10, "十"), (100, "百"), (1000, "千"), (2015, "二千十五"), (340, "三百四十"), (9999, "九千九百九十九")],
)
def test_kanji_number(value, kanji):
    assert grammar.kanji_number(value) == kanji
    assert grammar.full_width(value).isdecimal() and int(grammar.full_width(value)) == value


def test_tags_are_balanced_and_wrap_the_right_words():
    rng = random.Random(1)
    seen = collections.Counter()
    for topic in lexicon.TOPICS:
        draw = grammar.Grammar(topic, "train", rng)
        for _ in range(40):
            line = words.words_of(draw.utterance(), rng)
            for column in ("".join(word.surface for word in line), "".join(word.pron for word in line)):
                assert column.count("(") == column.count(")")
                assert re.fullmatch(r"[^\x00-\x7f]*", re.sub(r"\((F|D2?|A|M|W|L|R|\?) |<H>|[();]", "", column)), column
                seen.update(re.findall(r"\((\S+) ", column))
            for number in re.findall(r"\(A ([一二三四五六七八九十百千]+);([０-９]+)\)", "".join(w.surface for w in line)):
                assert grammar.kanji_number(int(number[1])) == number[0]
            assert words.labels_of(line)
    assert set(seen) == {"F", "D", "D2", "A", "M", "W", "L", "R", "?"}


def test_a_tag_may_close_inside_a_word():
    run = grammar.Run("社員が三百人あります", (grammar.Mark(3, 5, "A", "３００"),))
    assert "".join(word.surface for word in words.words_of([run], random.Random(0))) == "社員が(A 三百;３００)人あります"


def test_fragment_and_repair_are_spoken():
    runs = [grammar.Run("研究を", slip="D"), grammar.Run("研究"), grammar.Run("が", slip="D2"), grammar.Run("を調べます")]
    line = words.words_of(runs, random.Random(0))
    assert [word.surface for word in line[:4]] == ["(D ケ)", "研究", "(D2 が)", "を"]
    phones = [label.split("-")[1].split("+")[0] for label in words.labels_of(line)]
    assert "".join(phones[1:-1]).startswith("kekeNkyuugaoshira")


def test_sdb_lines_have_all_columns():
    line = words.words_of([grammar.Run("音声を調べました")], random.Random(0))
    rows = [row.split("\t") for row in sdb.sdb_lines("A01M0001", [sdb.Segment(0.5, 2.25, line)])]
    assert all(len(row) == sdb.COLUMNS for row in rows)
    assert rows[0][2:4] == ["A01M0001", "0001 00000.500-00002.250 L:-001-001"]
    assert [row[11] for row in rows] == ["名詞", "助詞", "動詞", "助動詞", "助動詞"]
    assert rows[1][14] == "格助詞" and rows[2][12] == "下一段"
    assert sdb.encode(["音"]) == "音\n".encode("shift_jis")
