"""sammo endurance: talks are what their utterances are alone, but for the state."""

from __future__ import annotations

import json

import pytest
import torch
from fixtures.data import make_corpus
from fixtures.streaming import make_model
from fixtures.training import Letters, checkpoint_of

from sammo import cli
from sammo.checkpoint import write_checkpoint
from sammo.data.tokens import load_tokenizer
from sammo.decoding import Chunking, with_tails
from sammo.evidence.endurance import Utterance, decode_talks, join
from sammo.scoring import count_errors
from sammo.search import make_searcher

CHUNK = 16
LENGTHS = (190, 260, 131)


@pytest.fixture(scope="module", params=[("sammo", 0), ("zipformer", 32)], ids=["sammo", "zipformer"])
def system(request):
    name, left = request.param
    return make_model(name), Chunking(CHUNK, left)


@pytest.fixture(scope="module")
def utterances():
    generator = torch.Generator().manual_seed(3)
    return [Utterance(torch.randn(n, 80, generator=generator).cumsum(0) * 0.3, "abcdefgh") for n in LENGTHS]


def whole(system, utterance):
    """Errors of simulated streaming."""
    model, chunking = system
    features, lengths = with_tails(utterance.features[None], torch.tensor([len(utterance.features)]))
    with torch.inference_mode():
        encoded = model.encoder(features, lengths, **dict(zip(("chunk_size", "left_context_frames"), chunking)))
        ((best, *_),) = make_searcher(model, "greedy_search")(encoded.frames, encoded.lengths)
    return count_errors(utterance.text, Letters(40).decode(best.tokens))


def decode(system, utterances, reset_every=0.0, pause=0.0):
    model, chunking = system
    talks = join([len(item.features) for item in utterances], 20.0, 2, CHUNK, pause, 0)
    search = make_searcher(model, "greedy_search")
    found = decode_talks(model, search, utterances, talks, Letters(40), chunking, "CER", reset_every)
    return talks, found


def test_talks():
    talks = join(LENGTHS, 20.0, 2, CHUNK, 0.5, 0)
    for talk in talks:
        assert talk.length * CHUNK / 50 >= 20 and sorted(talk.utterances[:3]) == [0, 1, 2]
        for index, first, after in zip(talk.utterances, talk.chunks, [*talk.chunks[1:], talk.length]):
            assert (after - first) * CHUNK >= LENGTHS[index] / 2 + 25  # the utterance and its pause
    assert talks[0].utterances != talks[1].utterances


def test_alone_and_emptied_before_every_utterance_are_what_decoding_gives(system, utterances):
    """A window that looked into the neighbour, or a token counted for it, would show."""
    talks, found = decode(system, utterances, reset_every=0.01, pause=0.4)
    order = [index for talk in talks for index in talk.utterances]
    expected = [whole(system, utterances[index]) for index in order]
    assert len({count.errors for count in expected}) > 1
    assert found.alone == expected
    # Joined, more silence follows, in which a random model may hear something; every other talk ends with none.
    ends = [len(talks[0].utterances) - 1, len(order) - 1]
    assert [found.joined[row] for row in ends] == [found.alone[row] for row in ends]
    assert all(joined.ref + joined.ins >= alone.ref + alone.ins for joined, alone in zip(found.joined, found.alone))


def test_the_state_is_carried(system, utterances):
    _, found = decode(system, utterances)
    assert found.joined != found.alone
    stacks = len(system[0].encoder.stacks) if system[0].config.encoder.name == "sammo" else 0
    assert len(found.norms) == stacks
    assert all(len(norm.values) == len(found.norm_minutes) and min(norm.values) > 0 for norm in found.norms)


def test_command(tmp_path, capsys):
    fbank = make_corpus(tmp_path, train=2, valid=3)
    tokenizer = load_tokenizer(tmp_path / "lang_char")
    (tmp_path / "exp").mkdir()
    model = make_model("sammo", tokenizer.vocab_size)
    write_checkpoint(tmp_path / "exp/epoch-1.pt", checkpoint_of(model, tokenizer.fingerprint))
    args = ["endurance", "--exp-dir", tmp_path / "exp", "--manifest-dir", fbank, "--lang", tmp_path / "lang_char"]
    args += ["--parts", "eval1", "--num-workers", 0, "--minutes", 1.2, "--talks", 2]
    args = cli.parse([str(word) for word in args])
    assert args.run(args) == 0
    out = capsys.readouterr().out
    assert "| 0 to 1 min |" in out and "| 1 to 2 min |" in out and "Root mean square" in out
    record = json.loads((tmp_path / "exp/endurance/endurance.json").read_text())
    assert record["talks"]["count"] == 2
