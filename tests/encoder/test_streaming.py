"""Simulated, chunk-wise and batched encoding are the same thing, and padding and the future do not
reach what they must not."""

from __future__ import annotations

import pytest
import torch
from fixtures.encoder import LEFT, small_encoder, stream
from hypothesis import given, settings
from hypothesis import strategies as st

from sammo.encoder import ENCODER_PRESETS
from sammo.encoder.mixers import MIXERS
from sammo.encoder.state import (
    cast_state,
    map_state,
    pack_state,
    select_state,
    stack_states,
    state_leaves,
    state_numel,
    unpack_state,
)
from sammo.errors import UserError

NAMES = tuple(ENCODER_PRESETS)
ENCODERS = {name: small_encoder(name) for name in NAMES}
# Every mixer with and without a left context, where no preset has it.
for mixer in MIXERS:
    for name in ("sammo", "zipformer"):
        encoder = small_encoder(name, mixer=mixer)
        ENCODERS.setdefault(encoder.config.name, encoder)
ENCODERS["conformer-nla"] = small_encoder("conformer", mixer="nla")
TOLERANCE = 2e-5


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def features(frames: int, num: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, frames, 80, generator=torch.Generator().manual_seed(seed))


def simulated(encoder, x, chunk, left=LEFT, lengths=None):
    lengths = torch.full((x.shape[0],), x.shape[1]) if lengths is None else lengths
    return encoder(x, lengths, chunk_size=chunk, left_context_frames=left)


def same(a, b):
    torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("chunk", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("frames", [9, 30, 141, 307])
def test_streaming_equals_simulated(name, chunk, frames):
    encoder, x = ENCODERS[name], features(frames, num=2)
    out = simulated(encoder, x, chunk)
    streamed = stream(encoder, x, chunk)
    same(streamed[:, : out.frames.shape[1]], out.frames)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_splitting_a_stream_changes_nothing(data):
    """Windows of any number of chunks, batched with streams of other lengths."""
    encoder = ENCODERS[data.draw(st.sampled_from(list(ENCODERS)))]
    chunk = data.draw(st.sampled_from([4, 8, 16]))
    left = data.draw(st.sampled_from([0, 8, 32, 64]))
    lengths = torch.tensor(data.draw(st.lists(st.integers(9, 240), min_size=1, max_size=3)))
    x = features(int(lengths.max()), num=len(lengths), seed=data.draw(st.integers(0, 3)))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=70, max_size=70))
    with torch.no_grad():
        streamed = stream(encoder, x, chunk, left, lambda i: sizes[i], lengths=lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = simulated(encoder, x[row : row + 1, :length], chunk, left)
            frames = int(alone.lengths)
            same(streamed[row, :frames], alone.frames[0, :frames])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk", [8, 16, 32, 64, -1])
@pytest.mark.parametrize("left", [16, -1])
def test_padding_changes_nothing(name, chunk, left):
    encoder = ENCODERS[name]
    lengths = torch.tensor([200, 7, 8, 9, 33, 134, 135, 199, 163])
    x = features(200, num=len(lengths))
    batch = simulated(encoder, x, chunk, left, lengths)
    assert torch.isfinite(batch.frames).all()
    x2 = x.clone()
    for row, length in enumerate(lengths):
        x2[row, length:] = 1e3
    other_padding = simulated(encoder, x2, chunk, left, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = simulated(encoder, x[row : row + 1, :length], chunk, left)
        valid = int(batch.lengths[row])
        assert valid == int(alone.lengths) == ((max(length - 7, 0) // 2) + 1) // 2
        same(batch.frames[row, :valid], alone.frames[0, :valid])
        same(other_padding.frames[row, :valid], batch.frames[row, :valid])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk", [8, 16, 32, 64])
def test_later_chunks_do_not_reach_earlier_outputs(name, chunk):
    encoder, x = ENCODERS[name], features(2 * 3 * chunk + 13)
    before = simulated(encoder, x, chunk).frames
    for boundary in (1, 2):
        changed = x.clone()
        first_unused = 2 * boundary * chunk + 13  # end of the window of the chunk before
        changed[:, first_unused:] += 1.0
        after = simulated(encoder, changed, chunk).frames
        cut = boundary * chunk // 2
        assert torch.equal(before[:, :cut], after[:, :cut])
        assert not torch.allclose(before[:, cut:], after[:, cut:])


def test_only_state_crosses_chunks_in_sammo():
    """With the Mamba state and the convolution caches reset at a boundary, what came before it has
    no effect: nothing else carries over. The state holds nothing else."""
    encoder, chunk = ENCODERS["sammo"], 16
    x = features(2 * chunk + 13)
    after_this = encoder(features(2 * chunk + 13, seed=1), torch.tensor([45]), encoder.init_state(1))
    after_that = encoder(features(2 * chunk + 13, seed=2), torch.tensor([45]), encoder.init_state(1))
    lengths = torch.tensor([45])
    ys = [encoder(x, lengths, out.state).frames for out in (after_this, after_that)]
    assert not torch.allclose(*ys)
    zeroed = [map_state(torch.zeros_like, out.state) for out in (after_this, after_that)]
    assert torch.equal(*[encoder(x, lengths, state).frames for state in zeroed])
    for layers in after_this.state.stacks:
        for layer in layers:
            assert layer.keys == layer.values1 == layer.values2 == ()
    assert after_this.state.seen == ()


def test_left_context_is_ignored_by_sammo():
    encoder, x = ENCODERS["sammo"], features(100)
    assert torch.equal(simulated(encoder, x, 16, 64).frames, simulated(encoder, x, 16, -1).frames)
    sizes = {state_numel(encoder.init_state(1, left)) for left in (0, 64, 256)}
    assert len(sizes) == 1


@pytest.mark.parametrize("left", [0, 16, 24, 64, 160, -1])
def test_left_context_blocks_equal_masks(left):
    """Long utterances use blocks with copied left context, short ones a mask over all frames."""
    encoder, chunk = ENCODERS["zipformer"], 16
    x = features(2 * 320 + 7)
    out = simulated(encoder, x, chunk, left).frames
    if left != -1:
        same(stream(encoder, x, chunk, left)[:, : out.shape[1]], out)
    half = simulated(encoder, x[:, : 2 * 96 + 13], chunk, left).frames
    same(half[:, :48], out[:, :48])


@pytest.mark.parametrize("name", NAMES)
def test_state_operations(name):
    encoder = ENCODERS[name]
    x = features(45, num=3)
    state = encoder(x, torch.full((3,), 45), encoder.init_state(3, LEFT)).state
    assert {leaf.shape[0] for leaf in state_leaves(state)} == {3}

    def equal(a, b):
        return all(torch.equal(p, q) for p, q in zip(state_leaves(a), state_leaves(b), strict=True))

    assert equal(stack_states([select_state(state, [row]) for row in range(3)]), state)
    flat = pack_state(state)
    counters = int(encoder.config.left_context)
    assert flat.shape == (3, state_numel(state) + counters)
    assert equal(unpack_state(flat, encoder.init_state(1, LEFT)), state)
    picked = select_state(state, [2, 0])
    assert equal(picked, stack_states([select_state(state, [2]), select_state(state, [0])]))
    half = cast_state(state, torch.float16)
    assert {leaf.dtype for leaf in state_leaves(half)} <= {torch.float16, torch.int64}
    assert type(half) is type(state) and type(half.stacks[0][0]) is type(state.stacks[0][0])
    assert all(not leaf.any() for leaf in state_leaves(encoder.init_state(2, LEFT)))


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_change_are_used(name):
    """Values derived from weights are kept between calls; a changed weight must undo them."""
    encoder = small_encoder(name, seed=3)
    other = small_encoder(name, seed=4)
    x = features(100)
    first = simulated(encoder, x, 16).frames
    encoder.load_state_dict(other.state_dict())
    assert torch.equal(simulated(encoder, x, 16).frames, simulated(other, x, 16).frames)
    assert not torch.allclose(first, simulated(other, x, 16).frames)


@pytest.mark.parametrize("name", NAMES)
def test_chunk_sizes_that_cannot_be(name):
    encoder, x = ENCODERS[name], features(100)
    multiple = encoder.config.chunk_multiple
    for chunk in (0, -2, multiple + 1, 8 * multiple + 1):
        with pytest.raises(UserError, match="chunk size"):
            encoder.check_chunk_size(chunk)
        with pytest.raises(UserError, match="chunk size"):
            simulated(encoder, x, chunk)
    with pytest.raises(UserError, match="window"):
        encoder(x[:, :46], torch.tensor([46]), encoder.init_state(1, LEFT), chunk_size=16)
    if encoder.config.left_context:
        with pytest.raises(UserError, match="left context"):
            encoder.init_state(1, 7)
        with pytest.raises(UserError, match="left context"):
            simulated(encoder, x, 16, -3)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_encode(name):
    encoder = ENCODERS[name]
    out = encoder(torch.zeros(2, 0, 80), torch.zeros(2, dtype=torch.int64))
    assert out.frames.shape == (2, 0, encoder.out_dim) and out.lengths.tolist() == [0, 0]
