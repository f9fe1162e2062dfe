"""Incremental features are lhotse's offline features, however the audio is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sammo.streaming.features import OnlineFbank, make_fbank, num_frames, samples_for_frames


def speech_like(num_samples: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(num_samples) / 16000
    tone = 0.3 * torch.sin(2 * torch.pi * 220 * time) * (0.5 + 0.5 * torch.sin(2 * torch.pi * 3 * time))
    return tone + 0.01 * torch.randn(num_samples, generator=generator) + 0.05


def stream(samples: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    fbank, edges = OnlineFbank(), [0, *sorted(cuts), samples.numel()]
    parts = [fbank.accept(samples[a:b]) for a, b in zip(edges, edges[1:])]
    frames = torch.cat([*parts, fbank.finish()])
    assert fbank.num_frames == frames.size(0)
    return frames


@settings(max_examples=150, deadline=None)
@given(data=st.data(), num_samples=st.integers(200, 9000), seed=st.integers(0, 3))
def test_any_split_equals_offline(data, num_samples, seed):
    cuts = data.draw(st.lists(st.integers(0, num_samples), max_size=12))
    samples = speech_like(num_samples, seed)
    offline = make_fbank().extract(samples, 16000)
    online = stream(samples, cuts)
    assert online.shape == offline.shape == (num_frames(num_samples), 80)
    torch.testing.assert_close(online, offline, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_samples", [200, 279, 280, 281, 399, 400, 401, 559, 560, 1599, 1600, 1679, 1680, 1681])
@pytest.mark.parametrize("piece", [1, 79, 160, 161, 10000])
def test_edges(num_samples, piece):
    samples = speech_like(num_samples)
    online = stream(samples, list(range(0, num_samples, piece)))
    torch.testing.assert_close(online, make_fbank().extract(samples, 16000), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_samples", [0, 1, 2, 79, 80, 119, 120, 130, 199])
def test_audio_too_short_for_a_reflection_still_gives_frames(num_samples):
    frames = stream(speech_like(num_samples), [num_samples // 2])
    assert frames.shape == (num_frames(num_samples), 80) and frames.isfinite().all()


def test_digital_silence_is_finite():
    frames = stream(torch.zeros(4000), [100, 2000])
    torch.testing.assert_close(frames, make_fbank().extract(torch.zeros(4000), 16000))
    assert frames.isfinite().all()


def test_frames_come_as_soon_as_they_can():
    samples = speech_like(4000)
    for frames in (1, 2, 7):
        need = samples_for_frames(frames)
        assert OnlineFbank().accept(samples[: need - 1]).size(0) == frames - 1
        assert OnlineFbank().accept(samples[:need]).size(0) == frames


def test_little_is_held_between_pieces():
    fbank = OnlineFbank()
    for _ in range(50):
        fbank.accept(speech_like(3333))
        assert fbank.pending.untyped_storage().nbytes() <= 4 * 559


def test_a_finished_stream_takes_no_more():
    fbank = OnlineFbank()
    fbank.accept(speech_like(1000))
    fbank.finish()
    assert fbank.finish().size(0) == 0
    with pytest.raises(ValueError, match="finished"):
        fbank.accept(speech_like(10))
