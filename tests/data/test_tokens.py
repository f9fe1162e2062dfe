"""Output units: tables that are right, and every way in which one can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sammo.data.tokens import CharTokenizer, character_table, format_token_table, load_tokenizer
from sammo.errors import UserError

TEXTS = ["音声の話をします", "エーアイＡＩの話", "二回続けた"]


def write(directory: Path, content: str) -> Path:
    (directory / "tokens.txt").write_text(content, encoding="utf-8")
    return directory


def test_order_and_round_trip(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path, format_token_table(character_table(TEXTS))))
    characters = sorted(set("".join(TEXTS)))
    assert [tokenizer.piece(i) for i in range(tokenizer.vocab_size)] == ["<blk>", *characters, "<unk>", "<sos/eos>"]
    assert tokenizer.blank_id == 0 and tokenizer.unk_id == len(characters) + 1
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == TEXTS
    assert tokenizer.encode("音 声　の") == tokenizer.encode("音声の")
    assert tokenizer.encode("犬") == [tokenizer.unk_id]
    assert tokenizer.decode([0, 0]) == ""


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc", "Z"])), min_size=1))
def test_any_text_survives_its_own_table(texts):
    tokenizer = CharTokenizer(character_table(texts))
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == "".join(text.split())


def test_fingerprint_tells_tables_apart(tmp_path):
    one = CharTokenizer(character_table(TEXTS))
    assert one.fingerprint == CharTokenizer(character_table(reversed(TEXTS))).fingerprint
    assert one.fingerprint != CharTokenizer(character_table(TEXTS[:2])).fingerprint
    assert load_tokenizer(write(tmp_path, format_token_table(character_table(TEXTS)))).fingerprint == one.fingerprint


@pytest.mark.parametrize(
    "content, message",
    [
        ("<blk> 0\nあ 1\nあ 2\n<unk> 3\n", "line 3: unit 'あ' is already in line 2"),
        ("<blk> 0\nあ 1\nい 1\n<unk> 2\n", "line 3: id 1 already belongs to 'あ'"),
        ("<blk> 0\nあ 2\n<unk> 3\n", "1 is missing"),
        ("<blk> 0\nあ\n<unk> 2\n", "line 2: expected 'unit id', found 'あ'"),
        ("あ 0\n<blk> 1\n<unk> 2\n", "unit 0 must be <blk>"),
        ("<blk> 0\nあ 1\n", "the unit <unk> is missing"),
        ("", "is empty"),
    ],
)
def test_malformed_tables(tmp_path, content, message):
    with pytest.raises(UserError, match="tokens.txt") as error:
        load_tokenizer(write(tmp_path, content))
    assert message in str(error.value)


def test_absent_or_unreadable(tmp_path):
    with pytest.raises(UserError, match="no language directory"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no .*tokens.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokens.txt").write_bytes("<blk> 0\nあ 1\n".encode("shift_jis"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_tokenizer(tmp_path)
    (tmp_path / "lang_type").write_text("phone")
    with pytest.raises(UserError, match="unknown lang type"):
        load_tokenizer(tmp_path)
    (tmp_path / "lang_type").write_text("bpe")
    (tmp_path / "bpe.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        load_tokenizer(tmp_path)


def test_bpe(tmp_path):
    from sammo.preparation.units import train_byte_pairs as train

    (tmp_path / "bpe.model").write_bytes(train(TEXTS * 20, 40))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.blank_id, tokenizer.unk_id) == ("bpe", 40, 0, 2)
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == TEXTS
    assert len(tokenizer.encode(TEXTS[0])) < len(TEXTS[0])
    assert tokenizer.encode("犬") == [tokenizer.unk_id]
    with pytest.raises(UserError, match="no BPE model of 10 units"):
        train(TEXTS, 10)
    with pytest.raises(UserError, match="no BPE model of 9000 units"):
        train(TEXTS, 9000)


def test_the_space_between_words_is_a_unit(tmp_path):
    pieces = character_table(["GO ON", "YES"], has_words=True)
    assert pieces == ["<blk>", *"EGNOSY", "▁", "<unk>", "<sos/eos>"]
    tokenizer = load_tokenizer(write(tmp_path, format_token_table(pieces)))
    assert tokenizer.has_words and not CharTokenizer(character_table(["GO ON"])).has_words
    ids = tokenizer.encode(" GO  ON\t")
    assert [tokenizer.piece(i) for i in ids] == ["G", "O", "▁", "O", "N"]
    assert tokenizer.decode(ids) == "GO ON" and tokenizer.encode("") == []
    space = ids[2]
    assert tokenizer.decode([space, 0, *ids, space, space, *ids, space]) == "GO ON GO ON"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("ABCDE ", max_size=12), min_size=1))
def test_words_survive_their_own_table(texts):
    tokenizer = CharTokenizer(character_table(texts, has_words=True))
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == " ".join(text.split())


def test_bpe_keeps_spaces_only_where_asked(tmp_path):
    from sammo.preparation.units import train_byte_pairs as train

    texts = ["RUBOUT G M E F THREE NINE", "THREE THREE NINE", "ENTER NINE", "GO"] * 5
    for name, has_words in (("words", True), ("text", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bpe.model").write_bytes(train(texts, 30, has_words))
    words, text = (load_tokenizer(tmp_path / name) for name in ("words", "text"))
    assert words.has_words and not text.has_words
    assert [words.decode(words.encode(line)) for line in texts] == texts
    assert words.encode("  GO ") == words.encode("GO") and words.piece(words.encode("GO")[0]).startswith("▁")
    assert text.decode(text.encode("GO ENTER")) == "GOENTER"
