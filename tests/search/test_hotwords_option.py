"""Hotwords from a file to the commands; how they are rewarded is in test_search_hotwords.py."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest
import torch
from fixtures.streaming import make_model

from sammo.commands import decode, parity, streaming_decode, transcribe
from sammo.data.tokens import CharTokenizer, character_table
from sammo.decoding import _unusual, searcher_for
from sammo.errors import UserError
from sammo.options import Search, from_args
from sammo.search import read_hotwords

TOKENIZER = CharTokenizer(character_table(["あいうえおかきくけこさしすせそ"]))


def read(path: Path, text: str | bytes, score: float = 2.0):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_hotwords(path, score, TOKENIZER.encode, TOKENIZER.unk_id)


def test_phrases_and_scores(tmp_path):
    graph = read(tmp_path / "words.txt", "あい\n\n  うえ お  :3.5\r\nか :1\n")
    first = [graph.children[0][token] for token in TOKENIZER.encode("あうか")]
    assert [graph.token_score[node] for node in first] == [2.0, 3.5, 1.0] and len(graph.children[0]) == 3
    node = 0
    for token in TOKENIZER.encode("うえお"):  # spaces are no units of Japanese
        node = graph.children[node][token]
    assert graph.is_end[node]


@pytest.mark.parametrize(
    "text, score, message",
    [
        ("あい\n亜い\n", 2.0, "words.txt, line 2: '亜い' has letters that the model has no units for"),
        ("あい :x", 2.0, "line 1: the score 'x' is no number"),
        ("あい :nan", 2.0, "line 1: a score must be above 0 and at most 100, got nan"),
        ("あい :0", 2.0, "line 1: a score must be above 0"),
        ("あい", -1.0, "--hotwords-score must be above 0"),
        (" \n", 2.0, "holds no hotwords"),
        (b"\xff\xfe", 2.0, "is not UTF-8"),
    ],
)
def test_refusals(tmp_path, text, score, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path / "words.txt", text, score)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="no file of hotwords"):
        read_hotwords(tmp_path, 1.0, TOKENIZER.encode, 0)


@pytest.mark.parametrize("command", [decode, streaming_decode, transcribe, parity])
def test_commands_take_them(command):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    audio = ["a.wav"] if command is transcribe else []
    for words in ("--hotwords x.txt --hotwords-score 3", "--context-file x.txt --context-score 3"):
        search = from_args(Search, parser.parse_args([*audio, *words.split()]))
        assert (search.hotwords, search.hotwords_score) == (Path("x.txt"), 3.0)


def test_they_are_found(tmp_path):
    """A phrase that the model would not write appears once it is rewarded enough, and is part of what a result is."""
    model = make_model("sammo", TOKENIZER.vocab_size)
    path = tmp_path / "words.txt"
    path.write_text("そけい")
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 40, model.config.encoder.out_dim, generator=generator)
    plain = Search(beam_size=8)
    biased = dataclasses.replace(plain, hotwords=path, hotwords_score=30.0)
    texts = []
    for search in (plain, biased):
        with torch.inference_mode():
            ((best, *_),) = searcher_for(model, search, TOKENIZER)(frames, torch.tensor([40]))
        texts.append(TOKENIZER.decode(best.tokens))
    assert "そけい" not in texts[0] and "そけい" in texts[1]
    assert _unusual(plain) == [] and len(_unusual(biased)) == 1
    names = set(_unusual(biased)) | set(_unusual(dataclasses.replace(biased, hotwords_score=2.0)))
    path.write_text("そけ")
    assert len(names | set(_unusual(biased))) == 3
    with pytest.raises(UserError, match="need --decoding-method modified_beam_search, not greedy_search"):
        searcher_for(model, dataclasses.replace(biased, decoding_method="greedy_search"), TOKENIZER)
