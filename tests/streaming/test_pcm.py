"""Samples without a header: their byte order; SPHERE files."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from fixtures.an4 import AN4_DIR, speech_like, sphere
from pcm import Pcm, byte_order, read_raw, read_sphere, write_wav  # noqa: E402

from sammo.errors import UserError

CODES = {"little": "<i2", "big": ">i2"}


def write(path: Path, samples: np.ndarray, order: str) -> Path:
    path.write_bytes(samples.astype(CODES[order]).tobytes())
    return path


@pytest.mark.parametrize("order", ["little", "big"])
def test_byte_order_is_that_of_the_samples(tmp_path, order):
    files = [write(tmp_path / f"big-{i}.raw", speech_like(0.5, i), order) for i in range(3)]
    assert byte_order(files) == order
    # Files that say nothing, and one whose noise looks like neither, do not matter.
    files.append(write(tmp_path / "silent.raw", np.zeros(8000), order))
    files.append(write(tmp_path / "constant.raw", np.full(8000, 258), order))
    files.append(write(tmp_path / "short.raw", speech_like(0.02, 7), order))
    (tmp_path / "odd.raw").write_bytes(files[0].read_bytes()[:-1])
    files.append(write(tmp_path / "noise.raw", np.random.default_rng(0).integers(-9000, 9000, 8000), order))
    assert byte_order([*files, tmp_path / "odd.raw"]) == order


def test_byte_order_that_samples_do_not_tell(tmp_path):
    silent = [write(tmp_path / f"{i}.raw", np.zeros(8000), "big") for i in range(2)]
    short = [write(tmp_path / f"short-{i}.raw", speech_like(0.04, i), "big") for i in range(9)]
    noise = [write(tmp_path / "noise.raw", np.random.default_rng(0).integers(-9000, 9000, 8000), "big")]
    (tmp_path / "empty.raw").write_bytes(b"")
    for files in (silent, short, noise, [tmp_path / "empty.raw"], silent + short + noise):
        with pytest.raises(UserError, match="cannot be told by their samples.*--byte-order"):
            byte_order(files)


def test_mixed_byte_orders_are_refused(tmp_path):
    files = [write(tmp_path / f"{i}.raw", speech_like(0.5, i), "big") for i in range(4)]
    files.append(write(tmp_path / "other.raw", speech_like(0.5, 9), "little"))
    with pytest.raises(UserError, match="1 of 5 files have another byte order than the rest: .*other.raw"):
        byte_order(files)


@pytest.mark.parametrize("order", ["little", "big"])
def test_raw_to_wav(tmp_path, order):
    samples = np.array([0, 1, -1, 256, -32768, 32767], np.int16)
    pcm = read_raw(write(tmp_path / "a.raw", samples, order), order)
    assert pcm.sampling_rate == 16000 and pcm.samples.dtype == np.int16 and (pcm.samples == samples).all()
    write_wav(tmp_path / "a.wav", pcm)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (1, 2, 16000, 6)
        assert (np.frombuffer(file.readframes(6), "<i2") == samples).all()
    for content in (b"", b"abc"):
        (tmp_path / "b.raw").write_bytes(content)
        with pytest.raises(UserError, match=f"holds {len(content)} bytes"):
            read_raw(tmp_path / "b.raw", order)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sphere(tmp_path, order):
    samples = speech_like(0.1, 1)
    path = tmp_path / "a.sph"
    path.write_bytes(sphere(samples, order))
    pcm = read_sphere(path)
    assert pcm.sampling_rate == 16000 and (pcm.samples == samples).all()
    path.write_bytes(sphere(samples, order, sample_count=None, channel_count=None, sample_coding=None))
    assert (read_sphere(path).samples == samples).all()  # what the header leaves out has a usual value
    assert isinstance(pcm, Pcm)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sample_coding": "-s26 pcm,embedded-shorten-v2.00"}, "is compressed .*sph2pipe"),
        ({"sample_n_bytes": "-i 1"}, "1 bytes a sample"),
        ({"channel_count": "-i 2"}, "2 channels"),
        ({"sample_byte_format": "-s1 1"}, "no sample_byte_format"),
        ({"sample_rate": None}, "no sample_rate"),
        ({"sample_count": "-i 5000"}, "ends early: 3200 bytes for 5000 samples"),
    ],
)
def test_sphere_that_cannot_be_read(tmp_path, changes, message):
    path = tmp_path / "a.sph"
    path.write_bytes(sphere(speech_like(0.1, 1), "<", **changes))
    with pytest.raises(UserError, match=message):
        read_sphere(path)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"NIST_1A\nx\n", b"NIST_1A"])
def test_no_sphere(tmp_path, content):
    (tmp_path / "a.sph").write_bytes(content)
    with pytest.raises(UserError, match="is not a NIST SPHERE file"):
        read_sphere(tmp_path / "a.sph")


@pytest.mark.skipif(not AN4_DIR.is_dir(), reason="no AN4")
def test_real_speech_tells_its_byte_order(tmp_path):
    files = sorted((AN4_DIR / "wav").rglob("*.raw"))[::20]
    if not files:
        pytest.skip("this copy of AN4 has no .raw files")
    order = byte_order(files)
    swapped = []
    for path in files:
        swapped.append(tmp_path / path.name)
        swapped[-1].write_bytes(np.frombuffer(path.read_bytes(), "<i2").byteswap().tobytes())
    assert {order, byte_order(swapped)} == {"big", "little"}
    assert all(byte_order([path]) == order for path in files)  # each by itself, too
