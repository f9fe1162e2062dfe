"""sammo serve: OpenAI's client finds what it expects, and nobody else is let in."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket as sockets

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")
import torchaudio  # noqa: E402
from fixtures.serving import expected, finals, loud_model, open_stream, pcm, rest, save_wav, serving  # noqa: E402
from websockets.exceptions import InvalidStatus  # noqa: E402

from sammo import cli  # noqa: E402
from sammo.errors import UserError  # noqa: E402
from sammo.serve.app import listen  # noqa: E402
from sammo.serve.config import ServeOptions  # noqa: E402
from sammo.serve.realtime import Realtime  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return loud_model()


@pytest.fixture(scope="module")
def port(model):
    with serving(model, max_upload_mb=0.5, max_minutes=0.2) as (port, _):
        yield port


@pytest.fixture(scope="module")
def client(port):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)


def test_transcriptions(model, client, tmp_path):
    samples, _ = pcm(3.0, 1)
    path = save_wav(tmp_path / "a.wav", samples)
    (text,) = expected(model, samples)

    def ask(form: str, **more):
        with path.open("rb") as file:
            return client.audio.transcriptions.create(file=file, model="sammo", response_format=form, **more)

    assert ask("json").text == text
    assert ask("text") == text + "\n"
    found = ask("verbose_json", timestamp_granularities=["word"])
    assert found.text == text and found.duration == 3.0 and len(found.segments) == 1
    assert "".join(word.word for word in found.words) == text
    assert all(word.start < word.end <= 3.3 for word in found.words)
    assert ask("srt").startswith("1\n00:00:0") and " --> " in ask("srt")
    assert ask("vtt").startswith("WEBVTT\n\n00:00:0")


@pytest.mark.parametrize(
    "content, name, status, reason",
    [
        (b"not audio", "a.wav", 400, "the file is not audio"),
        (b"", "/etc/passwd", 400, "the file"),
        (b"\0" * 600_000, "a.wav", 413, "0.5 MB"),
    ],
)
def test_files_that_cannot_be(client, content, name, status, reason):
    with pytest.raises(openai.APIStatusError, match=reason) as caught:
        client.audio.transcriptions.create(file=(name, content), model="sammo")
    assert caught.value.status_code == status and "sammo-upload" not in str(caught.value)


def test_a_file_that_is_too_long(client, tmp_path):
    path = save_wav(tmp_path / "a.wav", pcm(13.0, 1)[0])
    with pytest.raises(openai.APIStatusError, match="0.2 minutes"), path.open("rb") as file:
        client.audio.transcriptions.create(file=file, model="sammo")


def test_an_unknown_format(client, tmp_path):
    path = save_wav(tmp_path / "a.wav", pcm(1.0, 1)[0])
    with pytest.raises(openai.BadRequestError, match="response_format"), path.open("rb") as file:
        client.audio.transcriptions.create(file=file, model="sammo", response_format="diarized_json")


def test_realtime(model, port):
    """Two commits: two transcripts, each the sum of its deltas, at 24 kHz."""
    audio = [pcm(2.0, seed)[0] for seed in (1, 2)]
    # What the server gets back is what resampling to 24 kHz and 16 bits leaves.
    loud = [torchaudio.functional.resample(samples, 16000, 24000) for samples in audio]
    sent = [(samples.clamp(-1, 1) * 32767).round().short() for samples in loud]

    async def run() -> list[tuple[str, str]]:
        base = f"127.0.0.1:{port}/v1"
        client = openai.AsyncOpenAI(base_url=f"http://{base}", websocket_base_url=f"ws://{base}", api_key="none")
        done = []
        async with client.realtime.connect(model="sammo") as connection:
            form = {"type": "audio/pcm", "rate": 24000}
            await connection.session.update(session={"type": "transcription", "audio": {"input": {"format": form}}})
            for samples in sent:
                for piece in samples.split(4800):
                    data = base64.b64encode(piece.numpy().tobytes()).decode()
                    await connection.input_audio_buffer.append(audio=data)
                await connection.input_audio_buffer.commit()
                deltas = ""
                async for event in connection:
                    assert event.type != "error", event
                    if event.type.endswith("transcription.delta"):
                        deltas += event.delta
                    if event.type.endswith("transcription.completed"):
                        done.append((deltas, event.transcript))
                        break
        return done

    done = asyncio.run(run())
    assert len(done) == 2 and all(deltas == transcript != "" for deltas, transcript in done)


def test_realtime_goes_on_after_an_error(port):
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{port}/v1/realtime", proxy=None) as socket:
        assert json.loads(socket.recv())["type"] == "session.created"
        for wrong in ({"type": "response.create"}, {"type": "input_audio_buffer.append", "audio": "!"}):
            socket.send(json.dumps(wrong))
            assert json.loads(socket.recv())["type"] == "error"
        socket.send(
            json.dumps({"type": "session.update", "session": {"audio": {"input": {"format": {"rate": 16000}}}}})
        )
        assert json.loads(socket.recv())["session"]["audio"]["input"]["format"]["rate"] == 16000


def test_realtime_commit_of_a_stream_that_has_just_failed():
    """Its results may end while the last audio waits for room."""

    class Failing:
        finished = False

        async def feed(self, samples):
            session._client = None

        def finish(self):
            self.finished = True

    async def run() -> bool:
        session._client, session._sender = client, asyncio.create_task(asyncio.sleep(0))
        await session._commit()
        return session._sender is None

    session, client = Realtime(None, None), Failing()
    assert asyncio.run(run()) and client.finished


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_health_and_metrics(port):
    assert json.loads(get(port, "/health")[1])["status"] == "ok"
    assert "sammo_streams 0.0" in get(port, "/metrics")[1]
    status, page = get(port, "/")
    assert status == 200 and "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


@pytest.mark.parametrize(
    "path, status, reason", [("/v1/nothing", 404, "not found"), ("/v1/audio/transcriptions", 405, "method not allowed")]
)
def test_what_a_program_asks_for_in_vain(port, path, status, reason):
    found, content = get(port, path)
    assert found == status and json.loads(content)["error"]["message"] == f"GET {path}: {reason}"


@pytest.mark.parametrize("path", ["/../pyproject.toml", "/..%2f..%2fpyproject.toml", "/%2e%2e/config.py"])
def test_nothing_but_the_page_is_read(port, path):
    assert get(port, path)[0] == 404


def test_other_origins_and_names(port):
    assert get(port, "/health", Host="evil.example")[0] == 421
    assert get(port, "/health", Origin="https://evil.example")[0] == 403
    assert get(port, "/health", Origin=f"http://127.0.0.1:{port}")[0] == 200
    assert get(port, "/health", Origin="http://[")[0] == 403 and get(port, "/health", Host="[::1")[0] == 421
    with pytest.raises(InvalidStatus), open_stream(port, headers={"Origin": "https://evil.example"}) as socket:
        rest(socket)


def test_the_token(model):
    samples, data = pcm(1.0, 2)
    with serving(model, token="geheim", allow_origin=("https://good.example",)) as (port, _):
        assert get(port, "/metrics")[0] == 401 and get(port, "/v1/models", Authorization="Bearer wrong")[0] == 401
        assert get(port, "/v1/models", Authorization="Bearer geheim")[0] == 200
        assert get(port, "/")[0] == 200  # the page asks with the token of its address
        with pytest.raises(InvalidStatus):
            open_stream(port)
        with open_stream(port, "?token=geheim", headers={"Origin": "https://good.example"}) as socket:
            socket.send(data)
            socket.send(json.dumps({"type": "finish"}))
            assert finals(rest(socket)) == expected(model, samples)


def test_other_machines_need_a_token(monkeypatch):
    monkeypatch.delenv("SAMMO_TOKEN", raising=False)
    with pytest.raises(UserError, match="give a --token"):
        ServeOptions(host="0.0.0.0")
    monkeypatch.setenv("SAMMO_TOKEN", "x")
    assert ServeOptions(host="0.0.0.0").secret == "x"


def test_two_servers_on_a_port():
    with sockets.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="another server"):
            listen(ServeOptions(port=taken.getsockname()[1]))


def test_what_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    args = cli.parse(["serve"])
    with pytest.raises(UserError, match="pip install -r requirements-serve.txt"):
        args.run(args)
