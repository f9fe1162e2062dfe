"""sammo timing: errors fall into the place where they were made, and latency is what streaming waits."""

from __future__ import annotations

import json

import pytest
from fixtures.streaming import make_model, speech

from sammo import cli, geometry
from sammo.corpora import CSJ
from sammo.errors import UserError
from sammo.evidence.alignment import Said, write_ctm
from sammo.evidence.timing import BINS, emission, measure, place_in_chunk
from sammo.scoring import DecodeSetting, write_results
from sammo.scoring.cer import total
from sammo.scoring.results import read_results
from sammo.search import make_searcher
from sammo.streaming.recognizer import StreamingRecognizer, recognize

CHUNK = 32  # 0.64 s
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# In the middle of each quarter of the chunks, 26 letters in 6.5 chunks.
SAID = [Said(letter, t := 0.035 + 0.08 + 0.16 * i, t) for i, letter in enumerate(LETTERS)]


def decode(directory, hypothesis, times, name="sammo"):
    setting = DecodeSetting(
        name, "tiny", "greedy_search", 1, CHUNK, 0, 1, 1, True, 32, "float32", 1000, False, "epoch-1, batch 1"
    )
    write_results(directory, setting, "eval1", [("a", LETTERS, hypothesis, times)], corpus=CSJ)
    return read_results(directory)


def test_place():
    assert [place_in_chunk(said.begin, CHUNK) for said in SAID[:5]] == [1, 3, 5, 7, 1]
    assert place_in_chunk(0.0, CHUNK) == 0
    assert place_in_chunk(geometry.MARGIN / 200 + 0.6399, CHUNK) == BINS - 1


def test_errors_where_they_were_made(tmp_path):
    """Every letter in the first quarter of a chunk is wrong, one in the third is left out."""
    heard = "".join("?" if i % 4 == 0 else letter for i, letter in enumerate(LETTERS) if i != 6)
    timing = measure(decode(tmp_path, heard, []), {"a": SAID})
    counts = [total(place) for place in timing.places]
    assert [(count.ref, count.subs, count.dels) for count in counts[1::2]] == [
        (7, 7, 0),
        (7, 0, 0),
        (6, 0, 1),
        (6, 0, 0),
    ]
    assert not any(count.ref for count in counts[::2])


def test_latency(tmp_path):
    """The token is out when the chunk of its time stamp and what that looks ahead have come."""
    times = [said.end for said in SAID]
    timing = measure(decode(tmp_path, LETTERS, times), {"a": SAID})
    ends = [0.64 * (1 + int(time // 0.64)) + geometry.WINDOW_EXTRA / 100 for time in times]
    assert timing.latencies == pytest.approx([end - time for end, time in zip(ends, times)])


def test_emission_is_when_streaming_emits():
    model = make_model("sammo")
    recognizer = StreamingRecognizer(model, make_searcher(model, "greedy_search"), CHUNK, 0)
    audio = speech(4.0, 1)
    # Pieces as long as the features' step: what is out comes at the earliest.
    (stream,) = recognize(recognizer, [("a", lambda: audio.split(160))], 1)
    assert len(stream.available) > 10
    whole = [pair for pair in zip(stream.available, stream.timestamps) if pair[0] < 3.9]
    for available, timestamp in whole:
        assert 0 <= available - emission(timestamp, CHUNK) <= 0.03  # the last window's 25 ms


def test_command(tmp_path, capsys):
    decode(tmp_path / "sammo", LETTERS, [said.end for said in SAID])
    decode(tmp_path / "zipformer", "?" + LETTERS[1:], [said.end for said in SAID], "zipformer")
    write_ctm(tmp_path / "a.ctm", [("a", SAID)])
    args = ["timing", tmp_path / "sammo", tmp_path / "zipformer", "--alignment", tmp_path / "a.ctm"]
    args = cli.parse([str(word) for word in args])
    assert args.run(args) == 0
    assert "## Chunks of 32 frames (0.64 s)" in capsys.readouterr().out
    record = json.loads((tmp_path / "sammo/timing.json").read_text())
    assert [system["places"][1]["subs"] for system in record["systems"]] == [0, 1]
    assert (tmp_path / "sammo/timing.png").stat().st_size > 10000


def test_nothing_aligned(tmp_path):
    with pytest.raises(UserError, match="is in the alignment"):
        measure(decode(tmp_path, LETTERS, []), {"b": SAID})
    (path,) = tmp_path.glob("recogs-*")
    path.write_text("a: ref=__import__('os')\n")
    with pytest.raises(UserError, match="decode again"):
        measure(read_results(tmp_path), {"a": SAID})
