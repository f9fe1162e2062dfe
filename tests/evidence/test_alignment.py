"""sammo align: the most probable path of CTC, and its file."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from fixtures.data import make_corpus
from fixtures.streaming import make_model
from fixtures.training import checkpoint_of
from torch import nn

from sammo import cli
from sammo.checkpoint import write_checkpoint
from sammo.data.tokens import CharTokenizer, load_tokenizer
from sammo.errors import UserError
from sammo.evidence.alignment import Said, read_ctm, seconds_of_frame, token_frames, units_said, write_ctm


def brute_force(log_probs: torch.Tensor, tokens: list[int]) -> list[int]:
    """The most probable labelling of frames that collapses to ``tokens``."""
    frames, vocab = log_probs.shape
    best, found = -torch.inf, None
    for path in itertools.product(range(vocab), repeat=frames):
        collapsed = [label for i, label in enumerate(path) if label and (i == 0 or path[i - 1] != label)]
        score = sum(float(log_probs[i, label]) for i, label in enumerate(path))
        if collapsed == tokens and score > best:
            best, found = score, list(path)
    assert found is not None
    return found


@pytest.mark.parametrize("tokens", [[1, 2], [1, 1], [2], [1, 2, 2]])
def test_the_most_probable_path(tokens):
    log_probs = torch.randn(6, 3, generator=torch.Generator().manual_seed(len(tokens))).log_softmax(-1)
    path = brute_force(log_probs, tokens)
    spans, frame = [], 0
    for label, run in itertools.groupby(path):
        length = len(list(run))
        if label:
            spans.append((frame, frame + length - 1))
        frame += length
    assert token_frames(log_probs, tokens, 0) == spans


def test_what_cannot_be_aligned():
    log_probs = torch.zeros(3, 3).log_softmax(-1)
    assert token_frames(log_probs, [1, 1, 2], 0) is None  # a repeated unit needs a blank between
    assert token_frames(log_probs, [], 0) == []


def test_words_last_from_their_first_to_their_last_token():
    tokenizer = CharTokenizer(["<blk>", "<unk>", "\u2581", "A", "B"])
    tokens = tokenizer.encode("AB A")
    spans = [(1, 2), (4, 4), (5, 5), (9, 9)]
    found = units_said(tokens, spans, tokenizer, "WER")
    assert found == [
        Said("AB", seconds_of_frame(1), seconds_of_frame(4)),
        Said("A", seconds_of_frame(9), seconds_of_frame(9)),
    ]
    assert [unit for unit, *_ in units_said(tokens, spans, tokenizer, "CER")] == ["A", "B", "A"]


def test_file(tmp_path):
    path = tmp_path / "a.ctm"
    said = [Said("あ", 0.035, 0.075), Said("い", 0.5, 0.5)]
    assert write_ctm(path, [("b", said), ("a", said[:1])]) == 2
    assert path.read_text(encoding="utf-8").splitlines()[0] == "a 1 0.035 0.040 あ"
    assert [unit for unit, *_ in read_ctm(path)["b"]] == ["あ", "い"]


@pytest.mark.parametrize("line", ["a 1 0.1 x あ", "a 1 nan 0.1 あ", "a 1 0.1", "a 1 0.1 -1 あ"])
def test_a_line_that_is_no_ctm(tmp_path, line):
    path = tmp_path / "a.ctm"
    path.write_text(f"a 1 0.1 0.1 い\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2: expected utterance, channel"):
        read_ctm(path)


def test_command(tmp_path, capsys):
    fbank = make_corpus(tmp_path, train=2, valid=3)
    tokenizer = load_tokenizer(tmp_path / "lang_char")
    model = make_model("sammo", tokenizer.vocab_size)
    args = ["align", "--exp-dir", tmp_path / "exp", "--manifest-dir", fbank, "--lang", tmp_path / "lang_char"]
    args = cli.parse([str(word) for word in [*args, "--parts", "eval1", "--num-workers", 0]])
    (tmp_path / "exp").mkdir()
    write_checkpoint(tmp_path / "exp/epoch-1.pt", checkpoint_of(model, tokenizer.fingerprint))
    with pytest.raises(UserError, match="no CTC layer"):
        args.run(args)
    model.config = dataclasses.replace(model.config, use_ctc=True)
    model.add_module("ctc_output", nn.Linear(model.encoder.out_dim, tokenizer.vocab_size))
    write_checkpoint(tmp_path / "exp/epoch-1.pt", checkpoint_of(model, tokenizer.fingerprint))
    assert args.run(args) == 0
    assert "3 utterances" in capsys.readouterr().out
    found = read_ctm(tmp_path / "exp/alignment.ctm")
    for said in found.values():
        assert all(before.end < after.begin for before, after in zip(said, said[1:]))
