"""Sessions: utterances, partial and final events, other chunk widths in mid-stream, snapshots; token for token."""

from __future__ import annotations

import json
import random

import pytest
import torch
from fixtures.streaming import SETTINGS, make_model, speech
from fixtures.training import Letters

from sammo import geometry
from sammo.errors import UserError
from sammo.options import Endpointing
from sammo.search import ContextGraph, make_searcher
from sammo.streaming.endpoint import is_endpoint
from sammo.streaming.parity import decode_streaming
from sammo.streaming.recognizer import StreamingRecognizer
from sammo.streaming.session import Sessions

AUDIO = speech(4.2, 3)
OFTEN = Endpointing(rule1_min_trailing_silence=0.4, rule2_min_trailing_silence=0.2, rule3_min_utterance_length=1.2)
NEVER = Endpointing(enable_endpoint=False)


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda setting: setting[0])
def system(request):
    name, left = request.param
    return make_model(name), left


def make_sessions(system, method="greedy_search", chunk_size=16, **options):
    model, left = system
    searcher = make_searcher(model, method, **options)
    return Sessions(StreamingRecognizer(model, searcher, chunk_size, left), Letters(40))


def run(sessions, session, audio, piece=1600, finish=True):
    """All events of one session."""
    events = []
    for samples in audio.split(piece) if audio.numel() else ():
        session.feed(samples)
        sessions.run()
        events += session.events()
    if finish:
        session.finish()
        sessions.run()
        events += session.events()
    return events


def finals(events):
    return [event for event in events if event.final]


def pairs(events):
    """Tokens and their times, over all final events."""
    return [pair for event in finals(events) for pair in zip(event.tokens, event.timestamps)]


def test_rules():
    rules = Endpointing()
    assert not is_endpoint(rules, 2.3, 2.3) and is_endpoint(rules, 2.4, 2.4)  # 1: nothing was said
    assert not is_endpoint(rules, 5.0, 1.1) and is_endpoint(rules, 5.0, 1.2)  # 2
    assert not is_endpoint(rules, 19.9, 0.0) and is_endpoint(rules, 20.0, 0.0)  # 3
    assert not is_endpoint(Endpointing(enable_endpoint=False), 1e6, 1e6)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="--rule2-min-trailing-silence"):
            Endpointing(rule2_min_trailing_silence=value)


@pytest.mark.parametrize("chunk_size", [16, 32])
def test_endpoints_change_no_token_while_the_state_is_kept(system, chunk_size):
    sessions = make_sessions(system, chunk_size=chunk_size)
    cut = run(sessions, sessions.open(endpointing=OFTEN), AUDIO)
    whole = run(sessions, sessions.open(endpointing=NEVER), AUDIO)
    assert len(finals(cut)) >= 3 and len(finals(whole)) == 1
    assert pairs(cut) == pairs(whole)
    assert [event.utterance for event in finals(cut)] == list(range(len(finals(cut))))
    model, left = system
    (reference,) = decode_streaming(model, make_searcher(model), [AUDIO], chunk_size, left, 1)
    assert [token for token, _ in pairs(cut)] == reference.tokens
    reset = run(sessions, sessions.open(endpointing=Endpointing(**{**vars(OFTEN), "reset_encoder": True})), AUDIO)
    assert pairs(reset) != pairs(cut)


def test_with_the_encoder_reset_an_utterance_is_what_a_stream_that_begins_there_gives(system):
    model, left = system
    searcher = make_searcher(model)
    found = []
    recognizer = StreamingRecognizer(model, searcher, 16, left)
    stream = recognizer.open()
    stream.accept_audio(AUDIO)
    features = stream.frames
    while recognizer.step():
        if stream.consumed - stream.begin == 128:  # every four chunks
            found += zip(stream.result.tokens, stream.result.timestamps)
            recognizer.restart(stream, reset_encoder=True)
    expected = []
    for begin in range(0, stream.consumed - 127, 128):
        other = StreamingRecognizer(model, searcher, 16, left)
        part = other.open()
        part.frames = features[begin : begin + 128 + geometry.WINDOW_EXTRA]
        while other.step():
            pass
        offset = begin // geometry.STRIDE // geometry.OUTPUT_DOWNSAMPLING
        expected += [(token, time + offset) for token, time in zip(part.result.tokens, part.result.timestamps)]
    assert found == expected and len(found) > 10


def test_partial_events_grow_and_final_ones_stand(system):
    sessions = make_sessions(system)
    events = run(sessions, sessions.open(endpointing=OFTEN), AUDIO)
    assert len(events) > len(finals(events)) + 3
    shown, open_utterance = (), 0
    for event in events:
        assert event.utterance == open_utterance
        assert event.kept == len(shown) and event.tokens[: event.kept] == shown  # greedy search takes nothing back
        assert event.text == Letters(40).decode(event.tokens)
        assert len(event.timestamps) == len(event.delays) == len(event.tokens) > 0
        assert 0 <= event.start < event.end and all(-0.31 < delay < 0.5 for delay in event.delays)
        shown, open_utterance = ((), open_utterance + 1) if event.final else (event.tokens, open_utterance)


def test_kept_says_what_a_beam_search_takes_back(system):
    sessions = make_sessions(system, "modified_beam_search", chunk_size=16)
    before = ()
    events = run(sessions, sessions.open(endpointing=NEVER), AUDIO)
    for event in events:
        same = [a == b for a, b in zip(event.tokens, before)]
        assert event.kept == (same.index(False) if False in same else len(same))
        before = event.tokens
    model, left = system
    (reference,) = decode_streaming(model, sessions.recognizer.searcher, [AUDIO], 16, left, 1)
    assert [token for token, _ in pairs(events)] == reference.tokens
    cut = finals(run(sessions, sessions.open(endpointing=OFTEN), AUDIO))
    assert len(cut) >= 3 and all(a.end <= b.start + 0.04 for a, b in zip(cut, cut[1:]))


def test_a_beam_search_goes_on_behind_what_it_found(system):
    """With one hypothesis it is the greedy one, and so nothing may change at a cut."""
    sessions = make_sessions(system, "modified_beam_search", beam_size=1)
    cut, whole = (run(sessions, sessions.open(endpointing=rules), AUDIO) for rules in (OFTEN, NEVER))
    assert pairs(cut) == pairs(whole) and len(finals(cut)) >= 3


@pytest.mark.parametrize("piece", [700, 16000])
def test_the_chunk_width_changes_in_mid_stream(system, piece):
    """The reference carries the encoder's state over the same widths by hand."""
    model, left = system
    sessions = make_sessions(system)
    session = sessions.open(endpointing=NEVER)
    widths = [16, 64, 32, 16, 16, 32]
    events, fed = [], 0
    for width in widths:
        session.chunk_size = width
        while not session.ready:
            session.feed(AUDIO[fed : fed + piece])
            fed += piece
        sessions.step()
        events += session.events()
    features = torch.cat([sessions.recognizer.open().fbank.accept(AUDIO)])
    state, frames, place = model.encoder.init_state(1, left), [], 0
    with torch.inference_mode():
        for width in widths:
            window = features[None, place : place + geometry.window(width)]
            lengths = torch.tensor([window.shape[1]])
            output = model.encoder(window, lengths, state, chunk_size=width, left_context_frames=left)
            state, place = output.state, place + geometry.STRIDE * width
            frames.append(output.frames)
        joined = torch.cat(frames, dim=1)
        (best,) = make_searcher(model)(joined, torch.tensor([joined.shape[1]]))[0]
    assert list(events[-1].tokens) == best.tokens and len(best.tokens) > 10
    assert [round(time * 25) for time in events[-1].timestamps] == best.timestamps


def test_a_width_that_cannot_be_done_changes_nothing(system):
    sessions = make_sessions(system)
    session = sessions.open()
    for width in (0, -1, 3, 10**9):
        with pytest.raises(UserError, match="chunk"):
            session.chunk_size = width
        with pytest.raises(UserError, match="chunk"):
            sessions.open(chunk_size=width)
    assert session.chunk_size == 16 and len(sessions) == 1


def test_sessions_of_several_widths_are_what_each_is_alone(system):
    draw = random.Random(0)
    audio = [speech(draw.uniform(0.5, 3.0), index) for index in range(5)]
    widths = [draw.choice([16, 32, 64]) for _ in audio]
    sessions = make_sessions(system)
    alone = [run(sessions, sessions.open(None, OFTEN, width), part) for part, width in zip(audio, widths)]
    together = {sessions.open(index, OFTEN, width): 0 for index, width in enumerate(widths)}
    found = {index: [] for index in range(len(audio))}
    while len(sessions):
        for session, fed in together.items():
            if fed >= audio[session.key].numel():
                continue
            size = draw.choice([0, 400, 9000])
            session.feed(audio[session.key][fed : fed + size])
            together[session] = fed + size
            if fed + size >= audio[session.key].numel():
                session.finish()
        for session in sessions.step():
            found[session.key] += session.events()
    assert [pairs(found[index]) for index in range(len(audio))] == [pairs(events) for events in alone]
    assert all(session.done for session in together)


SEARCHES = {
    "greedy": ("greedy_search", {}),
    "hotwords": ("modified_beam_search", {"beam_size": 3, "context_graph": ContextGraph([[3, 4, 5], [7, 8]], 1.5)}),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_session_moves(system, name):
    """At any place, into a recognizer with another width of its own; the audio that waits for a chunk goes with it."""
    method, options = SEARCHES[name]
    sessions = make_sessions(system, method, **options)
    stayed = run(sessions, sessions.open(endpointing=OFTEN), AUDIO)
    for samples in (100, 40_123):
        session = sessions.open(endpointing=OFTEN)
        before = run(sessions, session, AUDIO[:samples], finish=False)
        elsewhere = make_sessions(system, method, chunk_size=64, **options)
        moved = elsewhere.open(endpointing=OFTEN, snapshot=session.snapshot())
        assert moved.chunk_size == 16 and moved.duration == samples / 16000
        after = run(elsewhere, moved, AUDIO[samples:])
        assert pairs(before) + pairs(after) == pairs(stayed)
        assert [event.utterance for event in finals(before + after)] == list(range(len(finals(stayed))))
        # And what stays goes on as if nothing had been taken.
        assert pairs(before + run(sessions, session, AUDIO[samples:])) == pairs(stayed)


def test_what_an_endless_stream_keeps_does_not_grow():
    """Endpoints let go of what was found; without them the tokens are kept."""
    grown = []
    for rules in (OFTEN, NEVER):
        sessions = make_sessions((make_model("sammo"), 0), chunk_size=64)
        session, sizes = sessions.open(endpointing=rules), []
        for _ in range(6):
            run(sessions, session, AUDIO[: 3 * 20480], finish=False)  # whole chunks: what waits for one stays the same
            sizes.append(len(session.snapshot()))
        grown.append(sizes[-1] - sizes[1])
    slack = 1000  # bytes of an utterance
    assert grown[0] < slack < grown[1]


def test_a_finished_session_moves_and_one_that_has_ended_does_not(system):
    sessions = make_sessions(system)
    session = sessions.open()
    session.feed(AUDIO)
    session.finish()
    sessions.step()
    moved = make_sessions(system)
    other = moved.open(snapshot=session.snapshot())
    sessions.run(), moved.run()
    assert pairs(session.events()) == pairs(other.events()) != []
    with pytest.raises(UserError, match="has ended"):
        session.snapshot()


def test_snapshots_are_checked(system):
    sessions = make_sessions(system)
    session = sessions.open(endpointing=NEVER)
    run(sessions, session, AUDIO[:30_000], finish=False)
    data = session.snapshot()
    draw = random.Random(0)
    places = [*range(0, 40), *(draw.randrange(len(data)) for _ in range(60))]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << draw.randrange(8)
        with pytest.raises(UserError, match="snapshot"):
            sessions.open(snapshot=bytes(damaged))
    for odd in (b"", data[:7], data[:5000], data + b"x", b"\xff" * 100, b"garbage" * 100, b"[" * 100_000):
        with pytest.raises(UserError, match="snapshot"):
            sessions.open(snapshot=odd)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["version"] = "2"
    head = json.dumps(header).encode()
    with pytest.raises(UserError, match="of version 2; this Sammo reads version 1"):
        sessions.open(snapshot=len(head).to_bytes(8, "little") + head + data[8 + size :])
    assert len(sessions) == 1


def test_snapshots_of_another_model_or_search_are_refused(system):
    model, left = system
    sessions = make_sessions(system)
    data = sessions.open().snapshot()
    others = {
        "kind of search": make_sessions(system, temperature=2.0),
        "model": Sessions(
            StreamingRecognizer(make_model("sammo", 41), make_searcher(make_model("sammo", 41)), 16), Letters(41)
        ),
    }
    if left:
        others["left context"] = make_sessions((model, 2 * left))
    for what, other in others.items():
        with pytest.raises(UserError, match=f"another {what}"):
            other.open(snapshot=data)
    beam = make_sessions(system, "modified_beam_search", context_graph=ContextGraph([[3, 4]]))
    with pytest.raises(UserError, match="another kind of search"):
        make_sessions(system, "modified_beam_search", context_graph=ContextGraph([[3, 5]])).open(
            snapshot=beam.open().snapshot()
        )


def test_a_session_that_goes_wrong_leaves_what_it_had(system):
    sessions = make_sessions(system)
    good, bad, closed = sessions.open("good", OFTEN), sessions.open("bad", OFTEN), sessions.open("closed")
    alone = pairs(run(make_sessions(system), make_sessions(system).open(endpointing=OFTEN), AUDIO[:0]))
    assert alone == []
    for samples in AUDIO.split(8000):
        good.feed(samples)
        bad.feed(samples if bad.duration < 3 else samples * float("nan"))
        sessions.run()
    closed.close()
    good.finish()
    sessions.run()
    assert "NaN" in bad.error and bad.done and finals(bad.events())
    fresh = make_sessions(system)
    assert pairs(good.events()) == pairs(run(fresh, fresh.open(endpointing=OFTEN), AUDIO))
    assert len(sessions) == 0
