"""Sizes, configuration and what only happens in training."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from fixtures.encoder import small_encoder

from sammo import geometry
from sammo.cpu import DerivedWeights
from sammo.encoder import ENCODER_PRESETS, EncoderConfig, build_encoder, encoder_config
from sammo.encoder.resample import Bypass
from sammo.encoder.state import state_numel
from sammo.errors import UserError
from sammo.regularize import BiasNorm, Whiten, load_regularizer_state, regularizer_state, set_batch_count

NAMES = tuple(ENCODER_PRESETS)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def medium():
    with torch.device("meta"):
        return {name: build_encoder(encoder_config(name, "medium")) for name in NAMES}


def test_medium_parameters(medium):
    """Predictor, joiner and the simple projections hold 529,408 + 2,051 V parameters more."""
    rest = 529_408 + 2_051 * 3266
    for encoder in (medium["sammo"], medium["zipformer"]):
        assert count(encoder.frontend) == 611_953
    # 5,760 of the original's 63,944,070 are never used and left out.
    assert count(medium["zipformer"]) - 611_953 == 63_944_070 - 5_760
    assert count(medium["zipformer"]) + rest == 71_778_237
    assert count(medium["sammo"]) + rest == 71_677_351
    for preset in ("medium", "small", "tiny"):
        with torch.device("meta"):
            sizes = [count(build_encoder(encoder_config(name, preset))) for name in NAMES]
        assert max(sizes) < 1.03 * min(sizes)


def test_medium_state(medium):
    for left in (0, 64, 128, 256):
        state = medium["zipformer"].init_state(1, left, device="meta")
        assert state_numel(state) == 110_464 + 2_752 * left
        assert state_numel(medium["sammo"].init_state(1, left, device="meta")) == 688_672
    half = encoder_config("sammo", "medium", d_state=64)
    with torch.device("meta"):
        saved = 688_672 - state_numel(build_encoder(half).init_state(1, device="meta"))
    # The SSM state halves; so do the projections B and C within the Mamba convolution's cache.
    assert saved == 276_480 + 3 * 2 * 64 * 16


def test_geometry_is_that_of_the_front_end():
    frontend = small_encoder("sammo").frontend
    for frames in (*range(9, 16), 45):
        x = torch.zeros(1, frames, 80)
        assert frontend(x, torch.tensor([frames]))[0].shape[1] == geometry.embed_frames(frames)
    lengths = torch.arange(60)
    for count in (geometry.embed_frames, geometry.output_frames):
        assert count(lengths).tolist() == [count(int(length)) for length in lengths]
    assert geometry.embed_frames(geometry.window(16)) == 16 + geometry.LOOKAHEAD
    assert geometry.embed_frames(geometry.MINIMUM) == 1 and geometry.embed_frames(geometry.MINIMUM - 1) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["medium", "small", "tiny"])
def test_config_round_trip(name, preset):
    import json

    config = encoder_config(name, preset, chunk_sizes=[32, -1])
    values = json.loads(json.dumps(config.to_dict()))
    assert EncoderConfig.from_dict(values) == config
    with pytest.raises(UserError, match="missing pos_dim"):
        EncoderConfig.from_dict({k: v for k, v in values.items() if k != "pos_dim"})
    with pytest.raises(UserError, match="unknown colour"):
        EncoderConfig.from_dict({**values, "colour": 1})


@pytest.mark.parametrize(
    "overrides, message",
    [
        (dict(name="hmm"), "unknown encoder"),
        (dict(mixer="hmm"), "unknown mixer 'hmm': choose nla, mamba2"),
        (dict(encoder="hmm"), "unknown encoder"),
        (dict(preset="huge"), "unknown preset"),
        (dict(colour=1), "unknown encoder option"),
        (dict(num_heads=(4, 4)), "num_heads"),
        (dict(conv_kernel=(4, 3, 3, 3)), "odd"),
        (dict(mamba_head_dim=7), "mamba_head_dim"),
        (dict(mamba_groups=5), "mamba_groups"),
        (dict(d_state=0), "d_state"),
        (dict(name="conformer", downsampling=(4,)), "downsampled by 2"),
    ],
)
def test_bad_configurations(overrides, message):
    with pytest.raises(UserError, match=message):
        build_encoder(encoder_config(**{"name": "sammo", "preset": "tiny", **overrides}))


@pytest.mark.parametrize("name", NAMES)
def test_training_step_repeats_exactly(name):
    """Everything random comes from Python's and PyTorch's generators; what Whiten remembers can be
    restored. So a step can be repeated bit for bit."""
    encoder = small_encoder(name).train()
    set_batch_count(encoder, 10)
    x, lengths = torch.randn(3, 120, 80), torch.tensor([120, 100, 60])

    def steps(encoder):
        gradients = []
        for _ in range(3):
            encoder.zero_grad()
            encoder(x, lengths).frames.square().mean().backward()
            gradients += [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
        return gradients

    saved = {name: i % 2 == 0 for i, name in enumerate(regularizer_state(encoder))}
    load_regularizer_state(encoder, saved)
    random.seed(1)
    torch.manual_seed(1)
    first = steps(encoder)
    again = copy.deepcopy(encoder)
    for module in again.modules():
        if isinstance(module, Whiten):
            module.exceeded = not module.exceeded
    load_regularizer_state(again, saved)
    random.seed(1)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, steps(again), strict=True))
    assert all(torch.isfinite(g).all() for g in first)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name):
    encoder = small_encoder(name).train()
    x, lengths = torch.randn(2, 120, 80), torch.tensor([120, 90])
    encoder(x, lengths).frames.sum().backward()
    # linear_pos only learns in batches that do not skip the positions.
    missing = [n for n, p in encoder.named_parameters() if p.grad is None]
    assert not [n for n in missing if "linear_pos" not in n]


@pytest.mark.parametrize("name", NAMES)
def test_training_mode_without_randomness_is_evaluation(name):
    """Late in training, with the remaining rates set to zero, both modes compute the same."""
    encoder = small_encoder(name)
    x, lengths = torch.randn(2, 150, 80), torch.tensor([150, 110])
    wanted = encoder(x, lengths, chunk_size=16, left_context_frames=32).frames
    encoder.train()
    for module in encoder.modules():
        if hasattr(module, "schedule"):
            module.value = 0.0
    for stack in encoder.stacks:
        stack.position_dropout.p = 0.0
    encoder._feature_masks = lambda x: None
    ours = encoder(x, lengths, chunk_size=16, left_context_frames=32).frames
    torch.testing.assert_close(ours, wanted, atol=2e-5, rtol=0)


def test_feature_masks_agree_between_stacks():
    encoder = small_encoder("sammo")
    torch.manual_seed(0)
    masks = encoder._feature_masks(torch.zeros(400, 1, 32))
    assert [mask.shape for mask in masks] == [(400, 1, 32), (400, 1, 48), (400, 1, 32)]
    assert masks[0].all() and masks[2].all()  # nothing beyond unmasked_dim
    wide = masks[1][:, 0]
    assert wide[:, :32].all()
    kept, kept_both = wide[:, 32:40].mean(), wide[:, 40:].mean()
    assert abs(kept - 0.875) < 0.06 and abs(kept_both - 0.875**2) < 0.06
    assert (wide[:, 40:] <= wide[:, 32:33]).all()


def test_layer_drop_schedule():
    """Layers warm up one after the other, from half of the sequences to a small rate."""
    encoder = build_encoder(encoder_config("zipformer", "tiny", warmup_batches=1000.0))
    rates = [layer.bypass.skip_rate for stack in encoder.stacks for layer in stack.layers]
    begins = [rate.schedule.xs[0] for rate in rates]
    assert begins == sorted(begins) and begins[0] == 200.0 and rates[-1].schedule.xs[1] == 1000.0
    assert rates[0].schedule.ys == [0.5, 0.035]
    assert rates[1].schedule.ys[1] == pytest.approx(0.035 * 2**0.5)


def test_bypass_limits_and_skips():
    bypass = Bypass(4, skip_rate=0.5)
    a, b = torch.zeros(200, 1, 4), torch.ones(200, 1, 4)
    torch.manual_seed(0)
    values = bypass(a, b)[:, 0, 0]
    assert set(values.tolist()) == {0.0, 0.5} and 60 < (values > 0).sum() < 140
    set_batch_count(bypass, 0)
    assert float(bypass.scale_min) == 0.9  # the scale of 0.5 is below: gradients push it up
    random.seed(0)
    grads = set()
    for _ in range(20):
        bypass.scale.grad = None
        bypass(a, b).sum().backward()
        grads.add(bool((bypass.scale.grad <= 0).all()))
    assert grads == {True, False}
    assert torch.equal(bypass.eval()(a, b), torch.full_like(a, 0.5))


def test_derived_weights():
    derived, weight = DerivedWeights(), torch.nn.Parameter(torch.ones(2))
    calls = []

    def make():
        calls.append(1)
        return weight * 2

    with torch.no_grad():
        derived("double", make, weight)
        assert derived("double", make, weight).tolist() == [2, 2] and len(calls) == 1
        weight.add_(1)
        assert derived("double", make, weight).tolist() == [4, 4] and len(calls) == 2
        assert not copy.deepcopy(derived)._kept
    assert derived("double", make, weight).requires_grad and len(calls) == 3


@pytest.mark.parametrize("name", NAMES)
def test_training_after_inference_mode(name):
    """What decoding keeps of a length it meets first is of use to training at that length."""
    encoder = small_encoder(name)
    x, lengths = torch.randn(1, 183, 80), torch.tensor([183])
    with torch.inference_mode():
        encoder(x, lengths, chunk_size=16, left_context_frames=32)
    encoder.train()
    encoder(x, lengths, chunk_size=16, left_context_frames=32).frames.square().mean().backward()


@pytest.mark.parametrize("name", NAMES)
def test_autocast(name):
    """In mixed precision the sums that layers add to stay in float32, as in the original."""
    encoder = small_encoder(name)
    x, lengths = torch.randn(2, 120, 80), torch.tensor([120, 90])
    wanted = encoder(x, lengths, chunk_size=16, left_context_frames=32).frames
    types = []
    for module in encoder.modules():
        if isinstance(module, (Bypass, BiasNorm)):
            module.register_forward_hook(lambda module, inputs, out: types.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        frames = encoder(x, lengths, chunk_size=16, left_context_frames=32).frames
        assert set(types) == {torch.float32} and frames.dtype == torch.float32
        assert (frames - wanted).norm() < 0.05 * wanted.norm()
        encoder.train()
        loss = encoder(x, lengths, chunk_size=16).frames.square().mean()
    loss.backward()
    grads = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert all(torch.isfinite(grad).all() and grad.dtype == torch.float32 for grad in grads)
