"""Concurrent streams: each result is the one that the utterance gives alone and offline."""

from __future__ import annotations

import random

import pytest
import torch
from fixtures.streaming import SETTINGS, make_model, speech

from sammo.errors import UserError
from sammo.search import make_searcher
from sammo.streaming.parity import decode_simulated, decode_streaming
from sammo.streaming.recognizer import StreamingRecognizer, recognize

# 0.01 s is one feature frame; 0.32 s one chunk of 16; 1.28 s ends near a chunk of 64.
DURATIONS = [0.01, 0.05, 0.32, 0.64, 1.0, 1.28, 1.7, 2.6, 3.3]
AUDIO = [speech(seconds, seed) for seed, seconds in enumerate(DURATIONS)]


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda setting: setting[0])
def system(request):
    name, left = request.param
    model = make_model(name)
    return model, make_searcher(model, "greedy_search"), left


def pairs(decoded):
    return [(item.tokens, item.timestamps) for item in decoded]


@pytest.mark.parametrize("chunk_size", [16, 32, 64, 128])
def test_streaming_equals_simulated(system, chunk_size):
    model, searcher, left = system
    simulated = decode_simulated(model, searcher, AUDIO, chunk_size, left)
    assert sum(len(item.tokens) for item in simulated) > 20
    for num_streams, piece in ((1, 4000), (4, 777), (len(AUDIO), 16000)):
        order = random.Random(num_streams).sample(range(len(AUDIO)), len(AUDIO))
        streaming = decode_streaming(model, searcher, AUDIO, chunk_size, left, num_streams, order=order, piece=piece)
        assert pairs(streaming) == pairs(simulated)
        for a, b in zip(simulated, streaming):
            torch.testing.assert_close(a.frames, b.frames, atol=1e-4, rtol=1e-3)


def test_beam_search(system):
    model, _, left = system
    searcher = make_searcher(model, "modified_beam_search", beam_size=4)
    simulated = decode_simulated(model, searcher, AUDIO, 32, left)
    assert pairs(decode_streaming(model, searcher, AUDIO, 32, left, 3)) == pairs(simulated)


@pytest.mark.parametrize("seed", range(5))
def test_streams_come_and_go_at_any_time(system, seed):
    model, searcher, left = system
    draw = random.Random(seed)
    simulated = decode_simulated(model, searcher, AUDIO, 16, left)
    recognizer = StreamingRecognizer(model, searcher, 16, left)
    waiting, fed, done = list(range(len(AUDIO))), {}, {}
    while waiting or recognizer.streams:
        if waiting and (not recognizer.streams or draw.random() < 0.5):
            stream = recognizer.open(waiting.pop())
            fed[stream] = 0
        for stream in recognizer.streams:
            if stream.finished:
                continue
            size = draw.choice([0, 300, 5000, 20000])
            rest = AUDIO[stream.key][fed[stream] :]
            fed[stream] += size
            stream.accept_audio(rest[:size])
            if size >= rest.numel():
                stream.finish()
        for stream in recognizer.step():
            if stream.done:
                done[stream.key] = (stream.result.tokens, stream.result.timestamps)
    assert [done[key] for key in range(len(AUDIO))] == pairs(simulated)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e4])
def test_a_bad_stream_leaves_the_others_alone(system, value):
    model, searcher, left = system
    good = [3, 5, 7]
    alone = decode_streaming(model, searcher, [AUDIO[key] for key in good], 32, left, 1)
    bad = speech(2.0, 50)
    bad[20000] = value
    audio = [AUDIO[3], bad, AUDIO[5], torch.zeros(0), AUDIO[7]]
    result = decode_streaming(model, searcher, audio, 32, left, 5)
    assert pairs(result[::2]) == pairs(alone)
    assert "after 1.25 s" in result[1]
    assert result[3].tokens == []


def test_an_encoder_that_overflows_stops_one_stream_only(system):
    model, searcher, left = system
    recognizer = StreamingRecognizer(model, searcher, 32, left)
    streams = [recognizer.open(key) for key in range(3)]
    for stream in streams:
        stream.accept_audio(speech(3.0, stream.key))
    streams[1].frames[70:] = float("nan")
    while recognizer.step():
        pass
    for stream in recognizer.streams:
        stream.finish()
    while recognizer.step():
        pass
    assert "not finite" in streams[1].error
    alone = decode_streaming(model, searcher, [speech(3.0, 0), speech(3.0, 2)], 32, left, 1)
    assert pairs(alone) == [(s.result.tokens, s.result.timestamps) for s in (streams[0], streams[2])]


def test_a_source_that_fails_stops_one_stream_only(system):
    model, searcher, left = system

    def broken():
        yield AUDIO[4]
        raise UserError("the cable fell out")

    recognizer = StreamingRecognizer(model, searcher, 16, left)
    streams = {s.key: s for s in recognize(recognizer, [("bad", broken), ("good", lambda: [AUDIO[5]])], 2)}
    assert streams["bad"].error == "the cable fell out"
    assert streams["good"].error is None
    assert streams["good"].result.tokens == decode_streaming(model, searcher, [AUDIO[5]], 16, left, 1)[0].tokens


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_state_can_be_kept_in_16_bit(system, dtype):
    model, searcher, left = system
    full = decode_streaming(model, searcher, AUDIO, 32, left, 4)
    half = decode_streaming(model, searcher, AUDIO, 32, left, 4, state_dtype=dtype)
    for a, b in zip(full, half):
        torch.testing.assert_close(a.frames, b.frames, atol=0.1, rtol=0.1)
    recognizer = StreamingRecognizer(model, searcher, 32, left, dtype)
    stream = recognizer.open()
    stream.accept_audio(AUDIO[-1])
    recognizer.step()
    packed = recognizer.snapshot(stream).state
    assert packed.dtype == dtype


def test_restart_from_a_snapshot_is_exact(system):
    model, searcher, left = system
    recognizer = StreamingRecognizer(model, searcher, 16, left)
    first = recognizer.open("first")
    first.accept_audio(AUDIO[-1][:23456])
    while recognizer.step():
        pass
    elsewhere = StreamingRecognizer(model, searcher, 16, left)
    second = elsewhere.open("second", recognizer.snapshot(first))
    for owner, stream in ((recognizer, first), (elsewhere, second)):
        stream.accept_audio(AUDIO[-1][23456:])
        stream.finish()
        while owner.step():
            pass
        assert stream.done
    assert second.result.tokens == first.result.tokens and second.available == first.available


def test_delays_and_partial_results(system):
    model, searcher, left = system
    recognizer = StreamingRecognizer(model, searcher, 32, left)
    partials = []
    (stream,) = recognize(
        recognizer,
        [("a", lambda: AUDIO[-1].split(1600))],
        on_partial=lambda stream: partials.append(list(stream.result.tokens)),
    )
    assert len(partials) >= 5
    for shorter, longer in zip(partials, partials[1:]):  # greedy search takes nothing back
        assert longer[: len(shorter)] == shorter
    assert len(stream.delays) == len(stream.result.tokens) > 3
    assert stream.available == sorted(stream.available)
    # A token waits for the rest of its chunk, at most, and the window's look-ahead.
    inside = [delay for delay, time in zip(stream.delays, stream.timestamps) if time < 2.5]
    assert all(0 < delay <= 0.64 + 0.15 for delay in inside)


def test_states_stay_stacked_while_the_members_stay(system, monkeypatch):
    import sammo.streaming.states as states

    model, searcher, left = system
    calls = []
    monkeypatch.setattr(states, "stack_states", lambda parts, f=states.stack_states: (calls.append(1), f(parts))[1])
    decode_streaming(model, searcher, [speech(3.0, seed) for seed in range(3)], 16, left, 3)
    assert len(calls) == 1


@pytest.mark.parametrize("chunk_size", [0, -1, 3])
def test_a_chunk_the_model_cannot_do(system, chunk_size):
    model, searcher, left = system
    with pytest.raises(UserError, match="chunk"):
        StreamingRecognizer(model, searcher, chunk_size, left)
