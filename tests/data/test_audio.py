"""Audio files of every kind: samples at 16 kHz, or one clear line."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from sammo.errors import UserError
from sammo.streaming.audio import read_audio, stream_audio
from sammo.streaming.resample import OnlineResampler

TONE = (0.4 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_U8", 1e-2),
        ("wav", "PCM_16", 1e-4),
        ("wav", "PCM_24", 1e-6),
        ("wav", "PCM_32", 1e-6),
        ("wav", "FLOAT", 0),
        ("wav", "DOUBLE", 0),
        ("flac", "PCM_16", 1e-4),
        ("flac", "PCM_24", 1e-6),
    ],
)
def test_formats(tmp_path, suffix, subtype, tolerance):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, TONE, 16000, subtype=subtype)
    samples = read_audio(path)
    assert samples.dtype == torch.float32
    torch.testing.assert_close(samples, torch.from_numpy(TONE), atol=tolerance, rtol=0)


def test_channels(tmp_path):
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([TONE, np.zeros_like(TONE), TONE], axis=1), 16000, subtype="FLOAT")
    torch.testing.assert_close(read_audio(path), torch.from_numpy(TONE) * 2 / 3)
    assert torch.equal(read_audio(path, channel=2), torch.from_numpy(TONE))
    assert not read_audio(path, channel=1).any()
    with pytest.raises(UserError, match="3 channel.*no channel 3"):
        read_audio(path, channel=3)


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([8000, 11025, 22050, 24000, 32000, 44100, 48000]),
    size=st.integers(1, 9000),
    cuts=st.lists(st.floats(0, 1), max_size=6),
)
def test_resampling_any_split_equals_torchaudio(rate, size, cuts):
    samples = torch.randn(size, generator=torch.Generator().manual_seed(size))
    edges = [0, *sorted(int(cut * size) for cut in cuts), size]
    resampler = OnlineResampler(rate, 16000)
    online = torch.cat([*(resampler.accept(samples[a:b]) for a, b in zip(edges, edges[1:])), resampler.finish()])
    # In float64: torchaudio's filter is off by some 1e-5 in float32.
    wanted = torchaudio.functional.resample(samples.double(), rate, 16000).float()
    torch.testing.assert_close(online, wanted, atol=1e-5, rtol=0)


def test_an_odd_rate_needs_no_large_table(tmp_path):
    path = tmp_path / "odd.wav"
    time = np.arange(44099) / 44099
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * 440 * time), 44099, subtype="FLOAT")
    samples = read_audio(path)
    assert samples.numel() == 16000
    torch.testing.assert_close(samples[50:-50], torch.from_numpy(TONE)[50:-50], atol=2e-3, rtol=0)


def test_little_is_held_between_pieces():
    resampler = OnlineResampler(44100, 16000)
    for _ in range(20):
        resampler.accept(torch.randn(44100))
        assert resampler._held.untyped_storage().nbytes() < 4 * 200


def test_pieces_are_short(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(TONE, 5), 16000)
    assert max(piece.numel() for piece in stream_audio(path, seconds=0.5)) == 8000


def test_clipped_and_silent_audio_is_read(tmp_path):
    path = tmp_path / "clipped.wav"
    soundfile.write(path, np.clip(20 * TONE, -1, 1), 16000)
    assert read_audio(path).abs().max() <= 1
    soundfile.write(path, 0 * TONE, 16000)
    assert read_audio(path).numel() == 16000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path, value):
    samples = np.tile(TONE, 3)
    samples[20000] = value
    soundfile.write(tmp_path / "bad.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"bad\.wav, within 1 s after 1.00 s: 1 sample\(s\) are NaN"):
        read_audio(tmp_path / "bad.wav")


def test_integers_stored_as_floats(tmp_path):
    soundfile.write(tmp_path / "loud.wav", 32768 * TONE, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"samples reach 1\d+\.?\d*, but audio lies in"):
        read_audio(tmp_path / "loud.wav")


def test_no_audio(tmp_path):
    with pytest.raises(UserError, match="no audio file .*missing.wav"):
        read_audio(tmp_path / "missing.wav")
    with pytest.raises(UserError, match="no audio file"):
        read_audio(tmp_path)
    (tmp_path / "text.wav").write_text("this is not audio")
    with pytest.raises(UserError, match="not audio that can be read"):
        read_audio(tmp_path / "text.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(UserError, match="not audio that can be read"):
        read_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "header.wav", TONE[:0], 16000)
    with pytest.raises(UserError, match="holds no audio"):
        read_audio(tmp_path / "header.wav")


FILES = [
    ("WAV", "PCM_16"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"), ("WAV", "GSM610"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"),
    ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), ("NIST", "PCM_16"), ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip


@pytest.mark.parametrize("format, subtype", FILES)
def test_truncated_files(tmp_path, format, subtype, caplog):
    samples = np.random.default_rng(0).normal(0, 0.1, 48000).astype(np.float32)
    path = tmp_path / "file"
    soundfile.write(path, samples, 16000, format=format, subtype=subtype)
    content = path.read_bytes()
    whole = read_audio(path)
    assert whole.numel() >= 48000
    for share in np.random.default_rng(1).uniform(0.05, 0.999, 20):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match="cut short|damaged|not audio that can be read") as caught:
            read_audio(path)
        assert "\n" not in str(caught.value)
        try:
            rest = torch.cat(list(stream_audio(path, allow_truncated=True)))
        except UserError as error:
            assert any(text in str(error) for text in ("not audio that can", "damaged after 0.00", "no audio"))
        else:
            assert 0 < rest.numel() < whole.numel() and "is cut short" in caplog.text
            caplog.clear()


def test_how_much_is_missing(tmp_path):
    soundfile.write(tmp_path / "whole.wav", TONE, 16000)
    content = (tmp_path / "whole.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: 44 + 8000])
    with pytest.raises(
        UserError, match="cut short, 75 % of its audio is missing; copy it again, or pass --allow-truncated"
    ):
        read_audio(tmp_path / "cut.wav")
    assert torch.cat(list(stream_audio(tmp_path / "cut.wav", allow_truncated=True))).numel() == 4000


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_promises_nothing(tmp_path, size):
    soundfile.write(tmp_path / "a.wav", TONE, 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = size.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    if size:  # libsndfile takes 0 for no audio
        assert read_audio(tmp_path / "a.wav").numel() == 16000


def test_what_follows_the_audio_may_be_cut(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE, 16000)
    with open(tmp_path / "a.wav", "ab") as file:
        file.write(b"LIST\xff\0\0\0INFO")
    assert read_audio(tmp_path / "a.wav").numel() == 16000


def test_formats_that_cannot_tell_whether_they_are_whole(tmp_path):
    soundfile.write(tmp_path / "a.pvf", TONE, 16000, format="PVF")
    with pytest.raises(UserError, match="is PVF, which cannot tell"):
        read_audio(tmp_path / "a.pvf")


@pytest.mark.parametrize("name", ["a.raw", "x.RAW", "\udcff.raw"])
def test_no_header(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(bytes(32000))
    with pytest.raises(UserError, match="not audio that can be read"):
        read_audio(path)


def test_a_name_that_is_not_utf8(tmp_path):
    path = tmp_path / "\udcff\udc82.wav"
    soundfile.write(tmp_path / "a.wav", TONE, 16000)
    (tmp_path / "a.wav").rename(path)
    assert read_audio(path).numel() == 16000
