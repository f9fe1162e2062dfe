"""mini-CSJ: the words, the grammar, the tags, and the plan of the corpus.  Nothing is synthesized here."""

from __future__ import annotations

import collections
import random
import re
from typing import NamedTuple

import pytest

pytest.importorskip("pyopenjtalk")

from fixtures.homophones import homophones_in  # noqa: E402
from lhotse.recipes import csj  # noqa: E402
from mini_csj import grammar, lexicon, script, sdb, talks, words  # noqa: E402

CHARACTERS_PER_SECOND = 7.5  # of speech, as measured on the corpus


def reading(text: str) -> str:
    return "".join(words.clean(feature["pron"]) for feature in words.analyze(text))


def all_words() -> list[str]:
    """Every content word that is no homophone, once."""
    found = [word for topic in lexicon.TOPICS.values() for word in topic.nouns + topic.actions]
    found += lexicon.GENERAL_NOUNS + lexicon.GENERAL_ACTIONS + lexicon.I_ADJECTIVES + lexicon.NA_ADJECTIVES
    return found + [verb.plain for verb in lexicon.VERBS]


class Spoken(NamedTuple):
    """Fluent text of an utterance, the topic of its talk, whether a paragraph begins with it, and whether it is a short one."""

    text: str
    topic: str
    opens: bool
    short: bool


@pytest.fixture(scope="module")
def lines() -> dict[str, list[Spoken]]:
    """Every utterance of the default corpus by part, without its sound: its length is estimated."""
    out = collections.defaultdict(list)
    for talk in talks.plan_corpus(hours=2.0, eval_minutes=7.0, seed=0):
        rng = random.Random(talks.stream(0, talk.id, "text"))
        writer = script.Script(grammar.Grammar(talk.topic, talk.pool, rng, talk.number), rng, talk.seconds)
        room = script.JOINED
        while writer.left > 1.5:
            line = writer.next(room)
            seconds = sum(len(run.text) for run in line.runs) / CHARACTERS_PER_SECOND
            room = (script.JOINED if line.opens else room) - seconds - 0.5
            writer.said(line, seconds)
            text = "".join(run.text for run in line.runs if run.slip in ("", "L"))
            out[talk.part].append(Spoken(text, talk.topic, line.opens, writer.is_short))
    return out


@pytest.fixture(scope="module")
def texts(lines) -> dict[str, list[str]]:
    return {part: [line.text for line in rows] for part, rows in lines.items()}


def test_only_the_homophones_sound_alike_and_all_words_are_shift_jis():
    spellings = [word for group in lexicon.HOMOPHONES for word in group.spellings]
    every = all_words() + spellings
    assert len(every) == len(set(every)) >= 350
    sounds = collections.defaultdict(list)
    for word in every:
        word.encode(sdb.ENCODING)
        sounds[reading(lexicon.spoken(word))].append(word)
    alike = {sound: tuple(words) for sound, words in sounds.items() if len(words) > 1}
    assert alike == {group.reading: group.spellings for group in lexicon.HOMOPHONES}


def test_homophones_have_the_same_labels_by_themselves_and_in_clauses():
    frames = (
        "{}",
        "新しい{}を調べました",
        "問題では{}だけでなく手順が必要です",
        "小さい{}です",
        "今年は古い{}や問題があるので",
    )
    for group in lexicon.HOMOPHONES:
        for frame in frames:
            heard, labels = set(), set()
            for spelling in group.spellings:
                text = frame.format(spelling)
                features = words.analyze(text)  # the front-end itself, which knows the spelling
                assert spelling in [feature["string"] for feature in features], text
                heard.add(tuple((feature["pron"], feature["acc"]) for feature in features))
                line = words.words_of([grammar.Run(text)], random.Random(0))
                assert spelling in [word.plain for word in line]
                labels.add(tuple(words.labels_of(line)))
            assert len(heard) == len(labels) == 1, (group, frame)


def test_topics_share_the_spellings_evenly():
    for group in lexicon.HOMOPHONES:
        counts = collections.Counter(group.by_topic.values())
        assert list(group.by_topic) == list(lexicon.TOPICS)
        assert sorted(counts.values()) == [4, 4]
        # One thing to remember: the field that the topic belongs to.
        assert {topic for topic in lexicon.TOPICS if group.by_topic[topic] == group.spellings[0]} == set(
            lexicon.HUMANITIES
        )


def test_neutral_clauses_hold_no_word_of_any_topic():
    topical = [lexicon.spoken(word) for topic in lexicon.TOPICS.values() for word in topic.nouns + topic.actions]
    for topic in lexicon.TOPICS:
        draw = grammar.Grammar(topic, "eval", random.Random(2))
        for final in (True, False) * 30:
            text = draw.neutral(final).text
            found = homophones_in(text)
            assert 1 <= len(found) <= 3 and {spelling for _, spelling in found} <= set(draw.homophones.values())
            assert [word for word in topical if word in text] == []
            assert all(after - before >= 5 for (before, _), (after, _) in zip(found, found[1:])), text
            assert homophones_in(draw.clause(final).text) == []


def homophone_events(rows):
    """(group, spelling, two characters before it, distance in characters to the last topic word of the paragraph or None)."""
    groups = {spelling: group for group in lexicon.HOMOPHONES for spelling in group.spellings}
    paragraph = ""
    for line in rows:
        at = 0 if line.opens else len(paragraph)
        paragraph = paragraph[:at] + line.text
        topic = lexicon.TOPICS[line.topic]
        cues = [lexicon.FIELDS[line.topic], *(lexicon.spoken(word) for word in topic.nouns + topic.actions)]
        for start, spelling in homophones_in(paragraph):
            if start >= at:
                ends = [paragraph.rfind(cue, 0, start) + len(cue) for cue in cues if cue in paragraph[:start]]
                distance = start - max(ends) if ends else None
                yield groups[spelling], spelling, paragraph[max(0, start - 2) : start], distance


def test_homophones_are_frequent_and_their_cue_is_seconds_away(lines):
    for part in ("train", "valid", "eval1", "eval2", "eval3"):
        rows = [line for line in lines[part] if not line.short]
        characters = sum(len(line.text) for line in rows)
        events = list(homophone_events(rows))
        assert 0.12 < 2 * len(events) / characters < 0.2, part
        distances = [distance for *_, distance in events if distance is not None]
        assert len(distances) >= 0.9 * len(events)
        seconds = sorted(distance / CHARACTERS_PER_SECOND for distance in distances)  # without pauses
        assert seconds[len(seconds) // 20] > 0.8 and 2.5 < seconds[len(seconds) // 2] < 6


def test_short_utterances_hold_homophones_only_beside_their_topic(lines):
    short = [line for rows in lines.values() for line in rows if line.short and homophones_in(line.text)]
    assert len(short) > 100
    for line in short:
        topic = lexicon.TOPICS[line.topic]
        cues = [lexicon.FIELDS[line.topic], *(lexicon.spoken(word) for word in topic.nouns + topic.actions)]
        assert any(cue in line.text for cue in cues), line


def test_spelling_cannot_be_guessed_from_the_clause(lines):
    """What a predictor of two characters, or anybody who knows the clause alone, can learn is no better than chance."""
    train = collections.defaultdict(collections.Counter)
    for group, spelling, before, _ in homophone_events([line for line in lines["train"] if not line.short]):
        train[group.reading][spelling] += 1
        train[group.reading, before][spelling] += 1
    for group in lexicon.HOMOPHONES:
        counts = train[group.reading]
        assert set(counts) == set(group.spellings)
        assert max(counts.values()) < 1.6 * sum(counts.values()) / len(counts), counts
    right, chance, count = 0, 0.0, 0
    for part in ("eval1", "eval2", "eval3", "valid"):
        for group, spelling, before, _ in homophone_events(lines[part]):
            seen = train[group.reading, before] or train[group.reading]
            right += seen.most_common(1)[0][0] == spelling
            chance += 1 / len(group.spellings)
            count += 1
    assert count > 500 and right < chance + 0.08 * count, (right, chance, count)


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
    for word in all_words():
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
        writer = script.Script(draw, rng, 200.0)
        for _ in range(60):
            spoken = writer.next(script.JOINED)
            writer.said(spoken, 3.0)
            line = words.words_of(spoken.runs, rng)
            for column in ("".join(word.surface for word in line), "".join(word.pron for word in line)):
                assert column.count("(") == column.count(")")
                assert re.fullmatch(r"[^\x00-\x7f]*", re.sub(r"\((F|D2?|A|M|W|L|R|\?) |<H>|[();]", "", column)), column
                seen.update(re.findall(r"\((\S+) ", column))
            for number in re.findall(
                r"\(A ([一二三四五六七八九十百千]+);([０-９]+)\)", "".join(w.surface for w in line)
            ):
                assert grammar.kanji_number(int(number[1])) == number[0]
            assert words.labels_of(line)
    assert set(seen) == {"F", "D", "D2", "A", "M", "W", "L", "R", "?"}


def test_a_tag_may_close_inside_a_word():
    run = grammar.Run("社員が三百人あります", (grammar.Mark(3, 5, "A", "３００"),))
    assert (
        "".join(word.surface for word in words.words_of([run], random.Random(0))) == "社員が(A 三百;３００)人あります"
    )


def test_fragment_and_repair_are_spoken():
    runs = [
        grammar.Run("研究を", slip="D"),
        grammar.Run("研究"),
        grammar.Run("が", slip="D2"),
        grammar.Run("を調べます"),
    ]
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
