"""Every mixer by the one protocol; Gated DeltaNet against the original's own numbers."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
import torch
from fixtures.encoder import small_encoder
from fixtures.paths import REFERENCE
from hypothesis import given, settings
from hypothesis import strategies as st

from sammo.encoder import EncoderConfig, build_encoder, encoder_config
from sammo.encoder.mixers import MIXERS, gated_delta
from sammo.encoder.mixers.gated_delta import GatedDelta, gated_delta_rule
from sammo.encoder.mixers.mamba2 import Mamba2
from sammo.engines import Engines, anywhere
from sammo.errors import UserError

VALUES = REFERENCE / "gated_delta_rule.npz"


def close(actual, expected, atol=1e-4):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


# ------------------------------------------------------------------------------------ gated delta rule


@pytest.mark.parametrize("block", [8, 32, 128])
@pytest.mark.parametrize("case", ["zero_init", "with_init"])
def test_rule_and_its_gradients_are_the_originals(case, block, monkeypatch):
    monkeypatch.setattr(gated_delta, "BLOCK", block)
    arrays = np.load(VALUES)
    assert "K**-0.5" in json.loads(bytes(arrays["meta"]))["scale"]
    ref = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "meta"}
    names = ["q", "k", "v", "beta", "g"] + ["initial_state"] * (case == "with_init")
    inputs = [ref[name].clone().requires_grad_() for name in names]
    o, final = gated_delta_rule(*inputs, engine="torch")
    close(o, ref[f"{case}/o"])
    close(final, ref[f"{case}/final_state"])
    ((o * ref["go"]).sum() + (final * ref["gh"]).sum()).backward()
    for name, value in zip(names, inputs):
        close(value.grad, ref[f"{case}/g_{name}"])


@pytest.mark.parametrize("frames", [0, 1, 31, 33, 200])
def test_rule_is_the_recurrence(frames):
    torch.manual_seed(frames)
    q, k = torch.nn.functional.normalize(torch.randn(2, 1, frames, 2, 4).double(), dim=-1)
    v = torch.randn(1, frames, 2, 3).double()
    beta, g = torch.rand(1, frames, 2).double(), -torch.rand(1, frames, 2).double()
    S = torch.randn(1, 2, 4, 3).double()
    o, final = gated_delta_rule(q, k, v, beta, g, S)
    expected = torch.zeros_like(v)
    for t in range(frames):
        S = S * g[:, t, :, None, None].exp()
        update = beta[:, t, :, None] * (v[:, t] - torch.einsum("nhkv,nhk->nhv", S, k[:, t]))
        S = S + torch.einsum("nhk,nhv->nhkv", k[:, t], update)
        expected[:, t] = torch.einsum("nhkv,nhk->nhv", S, q[:, t]) / 2
    torch.testing.assert_close(o, expected)
    torch.testing.assert_close(final, S)


def published_interface(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False):
    """What flash-linear-attention's chunk_gated_delta_rule computes, and what it demands of types."""
    assert q.dtype == k.dtype == v.dtype == torch.bfloat16 and scale is None and output_final_state
    assert g.dtype == torch.float32 and (initial_state is None or initial_state.dtype == torch.float32)
    assert all(x.is_contiguous() for x in (q, k, v, g, beta))
    return gated_delta._rule_torch(q, k, v, beta, g, initial_state)


@pytest.mark.parametrize("with_state", [False, True])
def test_call_of_the_kernels(with_state, monkeypatch):
    package = types.ModuleType("fla.ops.gated_delta_rule")
    package.chunk_gated_delta_rule = published_interface
    monkeypatch.setitem(sys.modules, "fla.ops.gated_delta_rule", package)
    monkeypatch.setattr(gated_delta, "DELTA_ENGINES", Engines("delta rule", {"fla": anywhere, "torch": anywhere}))
    beta, g, state = torch.rand(2, 40, 2), -torch.rand(2, 40, 2), torch.randn(2, 2, 8, 8) if with_state else None
    q, v = torch.randn(2, 2, 2, 40, 8).transpose(2, 3).bfloat16()
    q = k = torch.nn.functional.normalize(q, dim=-1)
    inputs = (q, k, v, beta, g, state)
    for one, other in zip(*(gated_delta_rule(*inputs, engine) for engine in ("auto", "torch"))):
        assert one.dtype == other.dtype and (one - other).abs().max() < 0.05
    with pytest.raises(UserError, match="take half precision, not torch.float32"):
        gated_delta_rule(*(x.float() for x in (q, k, v)), beta, g, state, engine="fla")


@pytest.mark.gpu
def test_kernels_of_flash_linear_attention():
    reason = "no GPU" if not torch.cuda.is_available() else gated_delta.DELTA_ENGINES.reasons_against("cuda")["fla"]
    if reason:
        pytest.skip(reason)
    torch.manual_seed(0)
    q, k = torch.nn.functional.normalize(torch.randn(2, 2, 300, 4, 24), dim=-1).bfloat16()
    v, beta, g = torch.randn(2, 300, 4, 48).bfloat16(), torch.rand(2, 300, 4).bfloat16(), -torch.rand(2, 300, 4)
    state = torch.randn(2, 4, 24, 48)
    results = []
    for engine in ("fla", "torch"):
        leaves = [x.cuda().detach().requires_grad_() for x in (q, k, v, beta, g, state)]
        o, final = gated_delta_rule(*leaves, engine=engine)
        (o.float().sin().sum() + final.sum()).backward()
        results.append([o, final, *(leaf.grad for leaf in leaves)])
    for one, other in zip(*results):
        assert (one.float() - other.float()).abs().max() <= 3e-2 * other.float().abs().max()


def test_unknown_engine():
    x = torch.zeros(1, 1, 1, 1)
    with pytest.raises(UserError, match="unknown delta rule engine 'triton': choose auto, fla, torch"):
        gated_delta_rule(x, x, x, x[..., 0], x[..., 0], engine="triton")
    encoder = build_encoder(encoder_config("sammo", "tiny", mixer="gated_delta"))
    with pytest.raises(UserError, match="unknown delta rule engine"):
        encoder.set_engines(scan="triton")
    encoder.set_engines(scan="torch", conv="torch")
    assert encoder.engines() == {"delta rule": "torch", "convolution": "torch"}


# ------------------------------------------------------------------------------------ blocks


@pytest.mark.parametrize("conv_bias", [False, True])
@pytest.mark.parametrize("kind", [Mamba2, GatedDelta])
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 90), max_size=4))
def test_cutting_a_sequence_anywhere_changes_nothing(kind, conv_bias, cuts):
    torch.manual_seed(0)
    options = dict(heads=2) if kind is GatedDelta else dict(d_state=8, head_dim=4)
    block = kind(d_model=12, d_inner=16, conv_bias=conv_bias, **options).eval()
    u = torch.randn(2, 90, 12)
    whole, last = block(u)
    state, pieces = block.init_state(2), []
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 90]):
        piece, state = block(u[:, start:stop], state=state)
        pieces.append(piece)
    close(torch.cat(pieces, dim=1), whole, atol=1e-5)
    for a, b in zip(state, last):
        close(a, b, atol=1e-5)


def test_the_bias_of_the_convolution():
    """As PyTorch's convolution adds it; the original has one, the paper's parameter count leaves none."""
    block = Mamba2(8, 8, d_state=4, head_dim=4, conv_bias=True)
    x = torch.randn(2, 20, 16)
    y, _ = block.convolve(x, None)
    expected = torch.nn.functional.silu(block.conv1d(torch.nn.functional.pad(x, (0, 0, 3, 0)).transpose(1, 2)))
    close(y, expected.transpose(1, 2), atol=1e-6)
    assert sum(p.numel() for p in block.parameters()) == 16 + sum(p.numel() for p in Mamba2(8, 8, 4, 4).parameters())


def test_heads_start_with_time_constants_in_seconds():
    encoder = build_encoder(encoder_config("sammo", "tiny", mixer="gated_delta"))
    for seconds in encoder.time_constants().values():
        seconds = seconds.sort().values
        close(seconds[[0, -1]].log(), torch.tensor([0.04, 4.0]).log(), atol=1e-3)
    assert not build_encoder(encoder_config("zipformer", "tiny")).time_constants()


# ------------------------------------------------------------------------------------ in an encoder


def test_medium_mixers_are_of_one_size():
    """The numbers of ``sammo info``: the mixers differ by less than 3 % of their parameters."""
    sizes = {}
    with torch.device("meta"):
        for mixer in ("nla", "mamba2", "gated_delta", "none"):
            encoder = build_encoder(encoder_config("sammo", "medium", mixer=mixer))
            sizes[mixer] = sum(p.numel() for _, module in encoder.mixers() for p in module.parameters())
    assert sizes == {"nla": 6_826_272, "mamba2": 6_725_386, "gated_delta": 6_892_640, "none": 0}


def test_the_leaf_that_every_frame_rewrites():
    for mixer in MIXERS:
        encoder = small_encoder("sammo", mixer=mixer, delta_heads=2)
        layer = encoder.init_state(1).stacks[0][0]
        leaf = MIXERS[mixer].recurrent_leaf
        assert leaf is None or getattr(layer.mixer, leaf).ndim == 4
    assert [MIXERS[mixer].recurrent_leaf for mixer in ("nla", "none", "mamba2")] == [None, None, "ssm"]


@pytest.mark.parametrize(
    "name, mixer, left, called",
    [
        ("sammo", None, None, "sammo"),
        ("zipformer", None, None, "zipformer"),
        ("zipformer", "mamba2", False, "sammo"),
        ("sammo", "nla", True, "zipformer"),
        ("sammo", "gated_delta", None, "sammo-gated_delta"),
        ("zipformer", "none", None, "zipformer-none"),
    ],
)
def test_the_two_changes_are_two_values(name, mixer, left, called):
    config = encoder_config(name, "tiny", mixer=mixer, left_context=left)
    assert config.name == called and EncoderConfig.from_dict(config.to_dict()) == config


def test_configurations_from_before_mixers_were_values():
    for name in ("sammo", "zipformer"):
        config = encoder_config(name, "tiny", mamba_time_constants=(), mamba_output_scale=0.05)
        values = config.to_dict()
        for field in ("encoder", "mixer", "left_context", "mamba_conv_bias", "delta_heads"):
            del values[field]
        assert EncoderConfig.from_dict({"name": name, **values}) == config
    with pytest.raises(UserError, match="unknown name missing encoder, left_context, mixer"):
        EncoderConfig.from_dict({"name": "other", **values})
    with pytest.raises(UserError, match="delta_heads 5"):
        encoder_config("sammo", "tiny", mixer="gated_delta", delta_heads=5)
