"""Predictor, joiner and the whole model."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from fixtures.paths import REFERENCE

from sammo.errors import UserError
from sammo.transducer import Joiner, ModelConfig, Predictor, Transducer, model_config, pad_tokens


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE / "search.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "meta"}


def test_predictor_gives_the_reference_values(reference):
    predictor = Predictor(30, 16, blank_id=0, context_size=2).eval()
    predictor.load_state_dict({k[len("w/decoder.") :]: v for k, v in reference.items() if k.startswith("w/decoder.")})
    y = reference["decoder/y"]
    torch.testing.assert_close(predictor(y), reference["decoder/out"], atol=1e-6, rtol=0)
    first = predictor(y[:, :2], pad=False)
    torch.testing.assert_close(first, reference["decoder/out_nopad"], atol=1e-6, rtol=0)


def test_joiner_gives_the_reference_values(reference):
    joiner = Joiner(24, 16, 16, 30)
    weights = {k[len("w/joiner.") :]: v for k, v in reference.items() if k.startswith("w/joiner.")}
    joiner.load_state_dict({k.replace("decoder_proj", "predictor_proj"): v for k, v in weights.items()})
    enc, pred = reference["joiner/enc"], reference["joiner/dec"]
    torch.testing.assert_close(joiner(enc, pred), reference["joiner/out"], atol=1e-5, rtol=0)
    projected = joiner(joiner.encoder_proj(enc), joiner.predictor_proj(pred), project=False)
    torch.testing.assert_close(projected, reference["joiner/out"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("context_size", [1, 2, 3])
def test_predictor_depends_on_its_context_only(context_size):
    predictor = Predictor(9, 8, context_size=context_size).eval()
    y = torch.randint(1, 9, (3, 6))
    out = predictor(y)
    assert out.shape == (3, 6, 8)
    context = y[:, 6 - context_size :]
    torch.testing.assert_close(predictor(context, pad=False), out[:, -1:])
    padded = torch.cat([torch.full((3, context_size - 1), -1), y], dim=1)
    torch.testing.assert_close(predictor(padded, pad=False), out)


@pytest.mark.parametrize("name, total", [("zipformer", 71_778_237), ("sammo", 71_677_351)])
def test_parameter_counts(name, total):
    """The paper's sizes, at the vocabulary of the published recipe."""
    with torch.device("meta"):
        model = Transducer(model_config(name, "medium", 3266))
    assert sum(p.numel() for p in model.parameters()) == total
    head = [model.predictor, model.joiner, model.simple_am_proj, model.simple_lm_proj]
    assert sum(p.numel() for part in head for p in part.parameters()) == 529_408 + 2_051 * 3266


def test_config_survives_json():
    config = model_config("sammo", "tiny", 60, joiner_dim=64, d_state=16, context_size=None)
    assert config.joiner_dim == 64 and config.encoder.d_state == 16 and config.context_size == 2
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"blank_id": 60}, "blank_id"),
        ({"predictor_dim": 10}, "predictor_dim"),
        ({"colour": 1}, "colour"),
    ],
)
def test_config_refuses_what_does_not_fit(change, message):
    values = model_config("sammo", "tiny", 60).to_dict()
    with pytest.raises(UserError, match=message):
        ModelConfig.from_dict({**values, **change})
    values.pop("joiner_dim")
    with pytest.raises(UserError, match="missing joiner_dim"):
        ModelConfig.from_dict(values)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Transducer(model_config("sammo", "tiny", 40)).eval()


def test_loss_of_an_utterance_does_not_depend_on_its_batch(model):
    features, lengths = torch.randn(3, 200, 80), torch.tensor([200, 150, 90])
    tokens = [[5, 6, 7, 8, 9, 9], [], [1, 2]]
    together = model(features, lengths, pad_tokens(tokens))
    assert together.simple.shape == together.pruned.shape == (3,)
    for i, utterance in enumerate(tokens):
        alone = model(features[i : i + 1, : lengths[i]], lengths[i : i + 1], pad_tokens([utterance]))
        torch.testing.assert_close(alone.simple[0], together.simple[i], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(alone.pruned[0], together.pruned[i], atol=1e-3, rtol=1e-4)
        assert alone.frames[0] == together.frames[i]


def test_ctc(model):
    """Summed over all alignments, of each utterance as if it were alone; a layer that only training with CTC has."""
    frames, lengths = torch.randn(3, 4, model.encoder.out_dim), torch.tensor([4, 3, 1])
    tokens = [[3, 3], [7], [1, 2]]
    assert model.loss(frames, lengths, pad_tokens(tokens)).ctc.tolist() == [0.0, 0.0, 0.0]
    assert not any("ctc" in name for name in model.state_dict())
    torch.manual_seed(0)
    model = Transducer(model_config("sammo", "tiny", 8, use_ctc=True)).eval()
    found = model.loss(frames, lengths, pad_tokens(tokens)).ctc
    assert found[2] == 0.0  # cannot be aligned
    for row in range(2):
        log_probs = model.ctc_output(frames[row, : lengths[row]]).log_softmax(-1)
        total = torch.tensor(float("-inf"))
        for path in itertools.product(range(8), repeat=int(lengths[row])):
            if [symbol for symbol, _ in itertools.groupby(path) if symbol] == tokens[row]:
                total = torch.logaddexp(total, log_probs[range(len(path)), path].sum())
        torch.testing.assert_close(found[row], -total, atol=1e-4, rtol=1e-5)


def test_unpruned_model_loss_is_the_full_loss(model):
    from sammo.transducer import full_loss

    frames, lengths = torch.randn(2, 12, model.encoder.out_dim), torch.tensor([12, 9])
    tokens = [[3, 4, 5], [7, 7]]
    pruned = model.loss(frames, lengths, pad_tokens(tokens), prune_range=9).pruned
    contexts = torch.tensor([[0, 3, 4, 5], [0, 7, 7, 0]])
    logits = model.joiner(frames[:, :, None], model.predictor(contexts)[:, None])
    boundary = torch.tensor([[0, 0, 3, 12], [0, 0, 2, 9]])
    torch.testing.assert_close(pruned, full_loss(logits, contexts[:, 1:], boundary), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("tokens", [[[], []], [[1], []], [list(range(1, 31)), [2]]])
def test_every_parameter_gets_a_finite_gradient(model, tokens):
    """Without symbols, with one, and with more symbols than frames."""
    model.zero_grad()
    features, lengths = torch.randn(2, 60, 80), torch.tensor([60, 45])
    loss = model(features, lengths, pad_tokens(tokens), prune_range=4, lm_scale=0.3, am_scale=0.1)
    assert torch.isfinite(loss.simple).all() and torch.isfinite(loss.pruned).all()
    (0.5 * loss.simple + loss.pruned).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_loss_in_bfloat16_is_near_float32(model):
    frames, lengths = torch.randn(2, 30, model.encoder.out_dim), torch.tensor([30, 22])
    tokens = [[3, 4, 5], [7, 7, 8, 9]]
    expected = model.loss(frames, lengths, pad_tokens(tokens))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(frames, lengths, pad_tokens(tokens))
    assert loss.simple.dtype == loss.pruned.dtype == torch.float32
    torch.testing.assert_close(loss.simple, expected.simple, rtol=0.01, atol=0.1)
    torch.testing.assert_close(loss.pruned, expected.pruned, rtol=0.01, atol=0.1)


def test_wrong_number_of_tokens(model):
    with pytest.raises(UserError, match="tokens of 3 utterances for a batch of 2"):
        model(torch.randn(2, 60, 80), torch.tensor([60, 45]), pad_tokens([[1], [2], [3]]))
