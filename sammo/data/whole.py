"""Is all of an audio file there? Its header says how long it should be; decoders that meet an early end say nothing.

libsndfile takes the shorter of what a WAV, AIFF, AU, W64 or Ogg file promises and what it holds, and libmpg123 goes on
behind frames that are damaged. A copy that was interrupted would pass for a short recording.
"""

from __future__ import annotations

import mmap
import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Callable, NamedTuple

# Sizes that programs write while they do not know the length (into a pipe): they promise nothing.
UNKNOWN_SIZES = {0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF}
LONGEST_PAGE = 65_307  # bytes of an Ogg page
W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"


class Shortfall(NamedTuple):
    """What is missing: ``have`` of ``promised`` in the same unit; promised 0: the end, and nobody knows how much."""

    have: int
    promised: int

    def __str__(self) -> str:
        if not self.promised:
            return "its end is missing"
        return f"{100 * (1 - self.have / self.promised):.3g} % of its audio is missing"


def shortfall(path: str | Path) -> Shortfall | None:
    """What the file at ``path`` lacks of what its header promises; None where it is whole or promises nothing."""
    status = os.stat(path)
    return _shortfall(os.fspath(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)  # a recording is asked for once a cut
def _shortfall(path: str, size: int, _mtime: int) -> Shortfall | None:
    with open(path, "rb") as file:
        start = file.read(16)
        for magic, check in CHECKS.items():
            if start.startswith(magic):
                file.seek(0)
                try:
                    return check(file, size)
                except (struct.error, ValueError, OSError):  # no header of its kind, which the decoder will say
                    return None
    return None


def _compare(have: int, promised: int) -> Shortfall | None:
    return Shortfall(max(have, 0), promised) if have < promised and promised not in UNKNOWN_SIZES else None


def _riff(file: BinaryIO, size: int) -> Shortfall | None:
    """WAV, little- and big-endian, and RF64, whose 64-bit size is in a chunk of its own."""
    order = ">" if file.read(12).startswith(b"RIFX") else "<"
    large = 0
    while True:
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if name == b"ds64":
            large = struct.unpack("<QQ", file.read(16))[1]
            file.seek(length - 16, os.SEEK_CUR)
        elif name == b"data":
            return _compare(size - file.tell(), large if length == 0xFFFFFFFF else length)
        else:
            file.seek(length + length % 2, os.SEEK_CUR)


def _aiff(file: BinaryIO, size: int) -> Shortfall | None:
    file.seek(12)
    while True:
        name, length = struct.unpack(">4sI", file.read(8))
        if name == b"SSND":
            return _compare(size - file.tell(), length)
        file.seek(length + length % 2, os.SEEK_CUR)


def _w64(file: BinaryIO, size: int) -> Shortfall | None:
    file.seek(40)
    while True:
        name, length = struct.unpack("<16sQ", file.read(24))
        if name.startswith(b"data"):
            return _compare(size - file.tell(), length - 24)
        if length < 24:
            return None
        file.seek((length + 7) // 8 * 8 - 24, os.SEEK_CUR)


def _au(file: BinaryIO, size: int) -> Shortfall | None:
    order = ">" if file.read(4) == b".snd" else "<"
    begin, length = struct.unpack(f"{order}II", file.read(8))
    return _compare(size - begin, length)


def _caf(file: BinaryIO, size: int) -> Shortfall | None:
    file.seek(8)
    while True:
        name, length = struct.unpack(">4sQ", file.read(12))
        if name == b"data":
            return _compare(size - file.tell(), length)
        file.seek(length, os.SEEK_CUR)


def _sphere(file: BinaryIO, size: int) -> Shortfall | None:
    begin = int(file.read(16).split()[1])
    fields = dict(line.split(b" ", 1) for line in file.read(min(begin, 65_536)).split(b"\n") if line.count(b" ") == 2)
    names = (b"sample_count", b"sample_n_bytes", b"channel_count")
    values = [int(fields[name].split()[1]) for name in names if name in fields]
    if len(values) < 3:
        return None
    count, width, channels = values
    return _compare(size - begin, count * width * channels)


def _ogg(file: BinaryIO, size: int) -> Shortfall | None:
    """Vorbis, Opus and FLAC in Ogg: the last page is whole and says that it is the last."""
    file.seek(max(0, size - 2 * LONGEST_PAGE))
    tail = file.read()
    place = tail.rfind(b"OggS\0")
    if place < 0 or len(tail) < place + 27:
        return Shortfall(size, 0)
    segments = tail[place + 27 : place + 27 + tail[place + 26]]
    end = place + 27 + tail[place + 26] + sum(segments)
    return None if end <= len(tail) and tail[place + 5] & 4 else Shortfall(size, 0)


# kbit/s by (version 1, layer) and index; Hz of MPEG 1 by index, halved for 2 and quartered for 2.5.
_RATES = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HERTZ = (44_100, 48_000, 32_000)


def _frame_bytes(header: bytes) -> int:
    """Bytes of the MP3 frame that begins with these 4; 0 where they begin none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate, hertz, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or rate in (0, 15) or hertz == 3:
        return 0
    bits = 1000 * _RATES[version == 3, layer][rate]
    frequency = _HERTZ[hertz] // {3: 1, 2: 2, 0: 4}[version]
    if layer == 1:
        return (12 * bits // frequency + padding) * 4
    return (144 if layer == 2 or version == 3 else 72) * bits // frequency + padding


def _mp3(file: BinaryIO, size: int) -> Shortfall | None:
    """Frame after frame to the end; fewer than the encoder noted, or a cut or damaged one, is a shortfall."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = 0
        if data[:3] == b"ID3":
            place = 10 + sum(byte << 7 * index for index, byte in enumerate(reversed(data[6:10])))
        place = next((at for at in range(place, min(place + 65_536, size)) if _frame_bytes(data[at : at + 4])), size)
        first = data[place : place + _frame_bytes(data[place : place + 4])]
        promised = 0
        for name in (b"Xing", b"Info"):
            at = first.find(name, 4, 64)
            if at > 0 and len(first) >= at + 12 and first[at + 7] & 1:
                promised = struct.unpack(">I", first[at + 8 : at + 12])[0] + 1  # it does not count itself
        frames = 0
        while length := _frame_bytes(data[place : place + 4]):
            if place + length > size:
                break
            place += length
            frames += 1
        rest = data[place : place + 8]
        if promised:
            return _compare(frames, promised)
        at_end = place >= size or rest.startswith((b"TAG", b"APETAGEX", b"LYRICS", b"ID3")) or not any(data[place:])
        return None if at_end else Shortfall(size, 0)


CHECKS: dict[bytes, Callable[[BinaryIO, int], Shortfall | None]] = {
    b"RIFF": _riff,
    b"RIFX": _riff,
    b"RF64": _riff,
    b"FORM": _aiff,
    W64_RIFF: _w64,
    b".snd": _au,
    b"dns.": _au,
    b"caff": _caf,
    b"NIST_1A\n": _sphere,
    b"OggS": _ogg,
    b"ID3": _mp3,
    b"\xff": _mp3,
}
