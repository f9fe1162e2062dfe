"""sammo serve: many clients, each with the text that it would have alone."""

from __future__ import annotations

import gc
import json
import logging
import re
import threading
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
from fixtures.serving import CHUNK, expected, finals, loud_model, open_stream, pcm, rest, serving  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.sync.client import connect  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return loud_model()


@pytest.fixture(scope="module")
def server(model):
    with serving(model, max_clients=6, idle_seconds=5) as (port, running):
        yield port, running


def wait_until_idle(server) -> None:
    """Clients that left are noticed a moment later."""
    for _ in range(100):
        if len(server.engine.sessions) == 0:
            return
        time.sleep(0.1)
    raise AssertionError("sessions of clients that are gone are still open")


def stream(port: int, data: bytes, piece: int = 3200, wait: float = 0.0, **start) -> list[dict]:
    with open_stream(port, **start) as socket:
        for place in range(0, len(data), piece):
            socket.send(data[place : place + piece])
            time.sleep(wait)
        socket.send(json.dumps({"type": "finish"}))
        return rest(socket)


def test_messages(model, server):
    samples, data = pcm(3.0, 1)
    messages = stream(server[0], data, piece=1001)  # samples are cut in two
    assert [message["type"] for message in messages if message["type"] != "partial"] == ["started", "final", "done"]
    assert messages[0]["received"] == 0 and messages[0]["chunk_size"] == CHUNK
    assert finals(messages) == expected(model, samples)
    final = messages[-2]
    assert "".join(item["token"] for item in final["tokens"]) == final["text"]
    assert final["start"] == final["tokens"][0]["time"] <= final["end"] and messages[-1]["seconds"] == 3.0
    text = ""
    for message in messages[1:-2]:  # greedy search: each partial only appends
        assert message["text"].startswith(text) and message["kept"] == len(text)
        text = message["text"]


def test_clients_at_once(model, server):
    """More chunks a batch, other widths beside: nobody's text changes."""
    audio = [pcm(2.0 + 0.3 * seed, seed) for seed in range(5)]
    found: dict[int, list[str]] = {}

    def run(number: int) -> None:
        width = {} if number % 2 == 0 else {"chunk_size": 32}
        found[number] = finals(stream(server[0], audio[number][1], wait=0.01, **width))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in (0, 2, 4):
        assert found[number] == expected(model, audio[number][0])
    assert all(found[number] for number in (1, 3))


def test_width_changes_in_mid_stream(server):
    _, data = pcm(4.0, 3)
    with open_stream(server[0]) as socket:
        socket.send(data[:64000])
        socket.send(json.dumps({"type": "chunk_size", "frames": 64}))
        socket.send(data[64000:])
        socket.send(json.dumps({"type": "finish"}))
        messages = rest(socket)
    assert {"type": "chunk_size", "frames": 64} in messages and finals(messages)


HOSTILE = {
    "garbage": (["\x00\xff{{{"], "JSON"),
    "half a message": (['{"type": "start"'], "JSON"),
    "a list": (["[1]"], "JSON"),
    "no start": (['{"type": "finish"}'], "first message"),
    "text for audio": (['{"type": "start"}', "audio"], "JSON"),
    "another sampling rate": (['{"type": "start", "sample_rate": -5}'], "sample_rate"),
    "a rate that is no number": (['{"type": "start", "sample_rate": "fast"}'], "sample_rate"),
    "an unknown wish": (['{"type": "start", "model": "x"}'], "knows no 'model'"),
    "a chunk of ten minutes": (['{"type": "start", "chunk_size": 30000}'], "other streams wait"),
    "a longer one later": (['{"type": "start"}', '{"type": "chunk_size", "frames": 1024}'], "other streams wait"),
    "an odd chunk": (['{"type": "start"}', '{"type": "chunk_size", "frames": 7}'], "multiple"),
    "another's stream": (['{"type": "start", "resume": "../../etc/passwd"}'], "no such stream"),
    "a format that is a list": (['{"type": "start", "format": []}'], "format must be s16le or f32le, got a list"),
    "half a character": ([r'{"type": "start", "sample_rate": "\ud800"}'], "sample_rate"),
    "half a character later": (['{"type": "start"}', r'{"type": "chunk_size", "frames": "\ud800"}'], "frames"),
    "a long word": (['{"type": "start"}', json.dumps({"type": "あ" * 99})], "no message of type 'あああ"),
    "too deep": (['{"type": "start"}', '{"type": ' + "[" * 100_000], "JSON"),
    "not a number": (['{"type": "start", "format": "f32le"}', b"\xff" * 64], "not finite|numbers|NaN|nan"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_clients(model, server, name):
    """A well-behaved client beside them has its text, and they have a reason."""
    samples, data = pcm(2.0, 7)
    messages, reason = HOSTILE[name]
    with open_stream(server[0]) as good:
        good.send(data[:32000])
        with connect(f"ws://127.0.0.1:{server[0]}/v1/stream", proxy=None) as bad:
            for message in messages:
                bad.send(message)
            told = rest(bad)
        good.send(data[32000:])
        good.send(json.dumps({"type": "finish"}))
        assert finals(rest(good)) == expected(model, samples)
    assert told[-1]["type"] == "error" and told[-1]["message"].isprintable()
    assert re.search(reason, told[-1]["message"])
    assert bad.close_code == 1008 and told[-1]["message"].startswith(bad.close_reason)


def test_text_that_is_no_utf8_is_one_line_in_the_log(server, caplog):
    log = logging.getLogger("uvicorn.error")
    log.addHandler(caplog.handler)
    try:
        with connect(f"ws://127.0.0.1:{server[0]}/v1/stream", proxy=None) as bad:
            start = b'{"type": "start"}'
            # In one packet: the client is gone when its session has just begun, and that must end with it.
            bad.socket.sendall(
                b"\x81" + bytes([0x80 | len(start)]) + bytes(4) + start + b"\x81\x81" + bytes(4) + b"\xe3"
            )
            rest(bad)
    finally:
        log.removeHandler(caplog.handler)
    found = [record for record in caplog.records if "UTF-8" in record.getMessage()]
    assert found and all(record.levelname == "WARNING" and not record.exc_info for record in found)
    wait_until_idle(server[1])


def test_client_that_leaves_while_both_ways_are_busy(server, caplog):
    """Sending and receiving fail at once; neither error is left for the event loop to complain about."""
    start, change = b'{"type": "start"}', b'{"type": "chunk_size", "frames": 64}'
    for number in range(4):
        with connect(f"ws://127.0.0.1:{server[0]}/v1/stream", proxy=None) as bad:
            texts = [b"\x81" + bytes([0x80 | len(text)]) + bytes(4) + text for text in (start, change)]
            bad.socket.sendall(b"".join(texts) + b"\x81\x81" + bytes(4) + b"\xe3")
    wait_until_idle(server[1])
    gc.collect()
    said = [record.getMessage() for record in caplog.records]
    assert not [line for line in said if "never retrieved" in line or "ASGI" in line]


def test_too_much_at_once(model, server):
    """A message beyond the limit ends that client; 100 times real time only waits."""
    samples, data = pcm(2.0, 8)
    with open_stream(server[0]) as bad:
        with pytest.raises(ConnectionClosed):
            bad.send(b"\0" * (3 << 20))  # of which the server reads the length, and may be gone before the rest
            while True:
                bad.recv(timeout=20)
    _, much = pcm(12.0, 9)
    with open_stream(server[0]) as fast, open_stream(server[0]) as good:
        for place in range(0, len(much), 32000):
            fast.send(much[place : place + 32000])
        good.send(data)
        good.send(json.dumps({"type": "finish"}))
        assert finals(rest(good)) == expected(model, samples)


def test_silent_client_is_sent_away(server):
    begin = time.monotonic()
    with open_stream(server[0]) as socket:
        assert rest(socket)[-1] == {"type": "error", "message": "nothing came for 5 s"}
    assert time.monotonic() - begin < 15


def test_no_more_than_the_limit(model, server):
    """Connections beyond it are told so; when one goes, the next comes in."""
    port, running = server
    wait_until_idle(running)
    sockets = [open_stream(port) for _ in range(6)]
    try:
        for socket in sockets:
            assert json.loads(socket.recv())["type"] == "started"
        with open_stream(port) as refused:
            assert "all 6 streams" in rest(refused)[-1]["message"]
    finally:
        for socket in sockets:
            socket.close()
    samples, data = pcm(1.0, 2)
    wait_until_idle(running)
    assert finals(stream(port, data)) == expected(model, samples)


def test_resume_after_a_lost_connection(model, server):
    samples, data = pcm(4.0, 5)
    with open_stream(server[0]) as first:
        started = json.loads(first.recv())
        first.send(data[:70000])
        while json.loads(first.recv())["type"] != "partial":
            pass
        first.socket.close()  # without a word
    time.sleep(0.5)
    with open_stream(server[0], resume=started["id"], chunk_size=17) as refused:
        assert "multiple" in rest(refused)[-1]["message"]  # which loses nothing
    with open_stream(server[0], resume=started["id"]) as second:
        again = json.loads(second.recv())
        assert again["received"] == 35000 and again["id"] == started["id"]
        second.send(data[2 * again["received"] :])
        second.send(json.dumps({"type": "finish"}))
        assert finals(rest(second)) == expected(model, samples)
    with open_stream(server[0], resume=started["id"]) as third:
        assert "no such stream" in rest(third)[-1]["message"]


def test_a_resumed_stream_has_the_width_that_it_had(server):
    with open_stream(server[0], chunk_size=32) as first:
        started = json.loads(first.recv())
        first.socket.close()
    time.sleep(0.5)
    with open_stream(server[0], resume=started["id"]) as second:
        assert started["chunk_size"] == json.loads(second.recv())["chunk_size"] == 32


def test_streams_survive_the_server(model, tmp_path):
    """What was kept after the last chunk, and the client's audio from there on, give the text of one go."""
    samples, data = pcm(4.0, 6)
    with serving(model, state_dir=tmp_path) as (port, _):
        socket = open_stream(port)
        started = json.loads(socket.recv())
        socket.send(data[:70000])
        while json.loads(socket.recv())["type"] != "partial":
            pass
        time.sleep(0.5)
        kept = {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")}  # no half ones
    # As kill -9 leaves it: what the end of the server wrote is taken back.
    for path in tmp_path.iterdir():
        path.unlink()
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    assert list(kept) == [f"{started['id']}.stream"]
    with serving(model, state_dir=tmp_path) as (port, _), open_stream(port, resume=started["id"]) as second:
        again = json.loads(second.recv())
        assert 0 < again["received"] <= 35000
        second.send(data[2 * again["received"] :])
        second.send(json.dumps({"type": "finish"}))
        assert finals(rest(second)) == expected(model, samples)
        assert not list(tmp_path.iterdir())


def test_damaged_state_is_one_stream(model, tmp_path):
    key = "A" * 22
    (tmp_path / f"{key}.stream").write_bytes(b"damaged")
    with serving(model, state_dir=tmp_path) as (port, _):
        with open_stream(port, resume=key) as socket:
            assert rest(socket)[-1]["type"] == "error"
        samples, data = pcm(1.0, 2)
        assert finals(stream(port, data)) == expected(model, samples)
