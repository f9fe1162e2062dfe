"""16-bit PCM without a header, whose byte order is found in the samples, and NIST SPHERE files."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import NamedTuple, Sequence

import numpy as np

from sammo.data.frames import SAMPLING_RATE
from sammo.errors import UserError
from sammo.files import atomic_path

BYTE_ORDERS = {"little": "<i2", "big": ">i2"}
MIN_SAMPLES = 800  # 50 ms: fewer say little about neighbouring samples
CLEAR = 0.2  # difference of two correlations that tells the byte orders apart; speech at 16 kHz has 0.5 and more


class Pcm(NamedTuple):
    """samples: (S,) int16 in the machine's order, one channel; sampling_rate in Hz."""

    samples: np.ndarray
    sampling_rate: int


def correlation(samples: np.ndarray) -> float:
    """Correlation of neighbouring samples, -1 to 1; 0 where all are the same. samples: (S,)."""
    centred = samples.astype(np.float64) - samples.mean()
    energy = float(centred @ centred)
    return float(centred[:-1] @ centred[1:]) / energy if energy else 0.0


def order_evidence(data: bytes) -> float:
    """How much smoother ``data`` is as big-endian than as little-endian samples, -2 to 2; 0 says nothing.

    Speech changes slowly from sample to sample. Read in the wrong order the fast low byte weighs 256 times the slow
    high one, and what is left is close to white noise.
    """
    data = data[: len(data) - len(data) % 2]
    if len(data) // 2 < MIN_SAMPLES:
        return 0.0
    return correlation(np.frombuffer(data, ">i2")) - correlation(np.frombuffer(data, "<i2"))


def byte_order(files: Sequence[Path]) -> str:
    """ "big" or "little", the order of the samples in all of ``files`` (16 bit, no header).

    Raises UserError where the samples do not tell, and where some files clearly have the other order.
    """
    evidence = [order_evidence(path.read_bytes()) for path in files]
    telling = [value for value in evidence if value]
    middle = float(np.median(telling)) if telling else 0.0
    if abs(middle) < CLEAR:
        raise UserError(
            f"the byte order of {len(files)} files such as {files[0]} cannot be told by their samples: "
            "too short or silent; pass --byte-order big or little"
        )
    other = [path for path, value in zip(files, evidence) if value * middle < 0 and abs(value) > CLEAR]
    if other:
        raise UserError(
            f"{len(other)} of {len(files)} files have another byte order than the rest: {some(other)}; convert them, "
            "or pass --byte-order big or little if all have the same"
        )
    return "big" if middle > 0 else "little"


def read_raw(path: Path, order: str) -> Pcm:
    """16 kHz, 16 bit, one channel, no header; UserError for half a sample or none."""
    data = path.read_bytes()
    if not data or len(data) % 2:
        raise UserError(f"{path} holds {len(data)} bytes, which is no number of 16-bit samples")
    return Pcm(np.frombuffer(data, BYTE_ORDERS[order]).astype(np.int16), SAMPLING_RATE)


def read_sphere(path: Path) -> Pcm:
    """An uncompressed NIST SPHERE file of 16 bit and one channel; UserError for another.

    The header is text: "NIST_1A", its own length in bytes, lines "name -type value", "end_head".
    """
    data = path.read_bytes()
    magic, _, rest = data[:16].partition(b"\n")
    if magic != b"NIST_1A" or not rest.strip().isdigit():
        raise UserError(f"{path} is not a NIST SPHERE file")
    length = int(rest)
    fields = {}
    for line in data[:length].decode("latin-1").split("\n")[2:]:
        if line.strip() == "end_head":
            break
        name, _, value = line.partition(" ")
        fields[name] = value.partition(" ")[2].strip()
    coding = fields.get("sample_coding", "pcm")
    if coding != "pcm":
        raise UserError(f"{path} is compressed ({coding}); convert it first, with sph2pipe -f sph -p for instance")
    if fields.get("sample_n_bytes") != "2" or fields.get("channel_count", "1") != "1":
        raise UserError(
            f"{path} has {fields.get('sample_n_bytes')} bytes a sample and {fields.get('channel_count')} channels, "
            "expected 2 and 1"
        )
    order = {"01": "little", "10": "big"}.get(fields.get("sample_byte_format", ""))
    if order is None or not fields.get("sample_rate", "").isdigit():
        raise UserError(f"{path}: its header has no sample_byte_format 01 or 10, or no sample_rate")
    count = int(fields.get("sample_count", "0")) or (len(data) - length) // 2
    if count < 1 or len(data) < length + 2 * count:
        raise UserError(f"{path} ends early: {len(data) - length} bytes for {count} samples")
    samples = np.frombuffer(data, BYTE_ORDERS[order], count, length).astype(np.int16)
    return Pcm(samples, int(fields["sample_rate"]))


def write_wav(path: Path, pcm: Pcm) -> None:
    """A WAV file of 16 bit, whole or not at all."""
    with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(pcm.sampling_rate)
        file.writeframes(pcm.samples.astype("<i2").tobytes())


def some(items: Sequence) -> str:
    """The first five of ``items`` in a line."""
    return ", ".join(map(str, items[:5])) + (", ..." if len(items) > 5 else "")
