"""The family of benchmarks/fuzz.py that talks to ``sammo serve``: websockets and uploads, down to their bytes."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import logging
import random
import socket as sockets
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Mapping

import soundfile
import torch
from fuzz_families import ODD, Family, mutate, odd_json
from fuzz_models import small_model

from sammo.data.tokens import BLANK, SOS_EOS, UNKNOWN, CharTokenizer
from sammo.engines import is_installed
from sammo.errors import UserError
from sammo.search import make_searcher
from sammo.streaming.recognizer import StreamingRecognizer
from sammo.streaming.session import Sessions

NEEDED = ("starlette", "uvicorn", "websockets", "python_multipart", "prometheus_client")
CHUNK = 16  # frames of 20 ms
QUIET = 0.1  # seconds without an answer after which a client that has said all leaves
KEY = "k" * 22  # of a stream that is kept for whoever resumes it
TEXT, BINARY, CLOSE = 1, 2, 8  # opcodes of RFC 6455
NORMAL = (1000).to_bytes(2, "big")  # its code of a connection that ends as it should
BYE = {"type": "bye"}  # the last message: what answers it has heard all before
SETTINGS = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": None}}}
HEAD_END = b"\r\n\r\n"
BOUNDARY = "xyzxyzxyz"


def frame(content: bytes, code: int, first: int = 0x80) -> bytes:
    """A frame of a client, whose mask of zeros leaves ``content`` as it is."""
    size = len(content)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xff" + size.to_bytes(8, "big")
    return bytes([first | code]) + length + bytes(4) + content


def request(method: str, path: str, headers: Mapping[str, object], body: bytes = b"") -> bytes:
    """What a client sends, to localhost unless ``headers`` say otherwise."""
    named = {"Host": "localhost", **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "replace") + body


def upgrade(path: str) -> bytes:
    key = base64.b64encode(bytes(16)).decode()
    names = {"Upgrade": "websocket", "Connection": "Upgrade"}
    return request("GET", path, {**names, "Sec-WebSocket-Key": key, "Sec-WebSocket-Version": 13})


def messages_of(answer: bytes) -> list[tuple[int, bytes]]:
    """(opcode, content) of the whole frames behind the head of an answer to :func:`upgrade`."""
    rest, found = answer.partition(HEAD_END)[2], []
    while len(rest) >= 2:
        size, begin = rest[1], 2
        if size >= 126:
            begin = 4 if size == 126 else 10
            size = int.from_bytes(rest[2:begin], "big")
        if len(rest) < begin + size:
            break
        found.append((rest[0] & 15, rest[begin : begin + size]))
        rest = rest[begin + size :]
    return found


class Served(Family):
    """Clients that send what no client should, beside one that behaves: they get answers, and it gets its text.

    A server of its own a case, its connections are pairs of sockets. Half of the hostile clients send well-formed messages
    with odd values, the others what mutations leave of the bytes.
    """

    def __init__(self, directory: Path):
        super().__init__(directory)
        logging.disable(logging.WARNING)
        import sammo.serve.app  # noqa: F401  here, once for all children

        self.model = small_model().eval()
        self.tokenizer = CharTokenizer([BLANK, *"abcdefghi", UNKNOWN, SOS_EOS])
        noise = 0.2 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
        whole = (noise.clamp(-1, 1) * 32767).short()
        self.pcm, samples = whole.numpy().astype("<i2").tobytes(), whole / 32768
        file = io.BytesIO()
        soundfile.write(file, noise[:8000].numpy(), 16000, format="WAV", subtype="PCM_16")
        self.wav = file.getvalue()
        with torch.no_grad():  # so that it says something
            self.model.joiner.output_linear.weight.mul_(20)
        session = self._sessions().open()
        session.feed(samples[:8000])
        self.parked = session.snapshot()
        self.expected = self._alone(samples)
        if not all(self.expected):
            raise AssertionError("the well-behaved client hears nothing")
        gc.collect()
        gc.freeze()  # what is collected after each case is its own

    def _sessions(self) -> Sessions:
        searcher = make_searcher(self.model, "greedy_search")
        return Sessions(StreamingRecognizer(self.model, searcher, CHUNK), self.tokenizer)

    def _alone(self, samples: torch.Tensor) -> list[str]:
        sessions = self._sessions()
        session = sessions.open()
        session.feed(samples)
        session.finish()
        sessions.run()
        return [event.text for event in session.events() if event.final]

    def case(self, directory: Path, rng: random.Random) -> str | None:
        problems = _Problems()
        logging.getLogger().addHandler(problems)
        kept = directory / "uploads"
        kept.mkdir(exist_ok=True)
        tempfile.tempdir = str(kept)
        try:
            found = asyncio.run(self._beside(rng, problems))
            gc.collect()  # tasks whose exceptions nobody has asked for
        finally:
            logging.getLogger().removeHandler(problems)
            tempfile.tempdir = None
        if problems.first is not None:
            raise problems.first
        if found != self.expected:
            return f"the stream beside hears {found}, alone {self.expected}"
        left = [path.unlink() or path.name for path in kept.iterdir()]
        if left:
            return f"{left} are left"
        if self.refused and not self.wrong:
            raise UserError(self.refused)
        return self.wrong

    async def _beside(self, rng: random.Random, problems: _Problems) -> list[str]:
        """The final texts of a client that behaves, while another one does not."""
        from uvicorn.server import ServerState

        from sammo.serve.app import make_app, uvicorn_config
        from sammo.serve.config import ServeOptions
        from sammo.serve.server import Server

        asyncio.get_running_loop().set_exception_handler(problems.of_loop)
        options = ServeOptions(max_clients=3, max_minutes=0.1, max_upload_mb=1.0)
        server = Server(self._sessions(), options, "small", 1000)
        server.parking._held[KEY] = (time.time(), self.parked)
        config, state = uvicorn_config(make_app(server), options), ServerState()
        config.load()
        logging.getLogger("uvicorn").addHandler(problems)  # it hands nothing on, and is configured anew each time

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            ours, theirs = sockets.socketpair()
            make: Any = config.http_protocol_class
            await asyncio.get_running_loop().connect_accepted_socket(lambda: make(config, state, {}), theirs)
            return await asyncio.open_connection(sock=ours)

        server.engine.start()
        self.refused, self.wrong = "", None
        reader, writer = await connect()
        start = {"type": "start", "sample_rate": 16000, "format": "s16le"}
        writer.write(upgrade("/v1/stream"))
        answer = await reader.readuntil(HEAD_END)  # servers drop what comes before they have agreed
        writer.write(_text(start) + frame(self.pcm[:16_000], BINARY))
        await self._attack(rng, server, connect)
        writer.write(frame(self.pcm[16_000:], BINARY) + _text({"type": "finish"}))
        answer += await _read(reader, b'"done"', None)
        writer.close()
        await server.engine.stop()
        told = [json.loads(content) for code, content in messages_of(answer) if code == TEXT]
        return [message["text"] for message in told if message["type"] == "final"]

    async def _attack(self, rng: random.Random, server: Any, connect: Callable) -> None:
        """One hostile client; what is not as it should be goes to ``wrong``, what it is told to ``refused``."""
        path, content = rng.choice((self._stream, self._realtime, self._upload, self._plain))(rng)
        if rng.random() < 0.3 and content:  # half frames and others
            content = mutate(content, rng) if rng.random() < 0.6 else content[: rng.randrange(len(content))]
        reader, writer = await connect()
        answer, place = b"", 0
        if path:
            writer.write(upgrade(path) if rng.random() < 0.95 else mutate(upgrade(path), rng))
            answer = await _read(reader, HEAD_END)
        while place < len(content):
            size = rng.choice((1, 7, 1000, 1 << 20, 1 << 20))
            writer.write(content[place : place + size])
            place += size if size > 7 else len(content) // 20 + 1  # few pieces, whatever the length
            await asyncio.sleep(0)
        if rng.random() < 0.8:  # others are gone before they hear an answer
            answer += await _read(reader, b"'bye'")
        try:
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            pass
        for _ in range(400):
            if len(server.engine.sessions) <= 1:
                break
            await asyncio.sleep(0.005)
        else:
            self.wrong = f"its session stays open after {answer[-200:]!r}"
        self._judge(answer, server)

    def _judge(self, answer: bytes, server: Any) -> None:
        head = answer.partition(b"\r\n")[0].split(b" ")
        if len(head) > 1 and head[1].startswith(b"5") and head[1] != b"503":
            self.wrong = answer[:500].decode("utf-8", "replace")
        if len(head) > 1 and head[1].startswith(b"4"):
            self.refused = head[1].decode()
        if not answer.startswith(b"HTTP/1.1 101"):
            return
        for code, content in messages_of(answer):
            if code == CLOSE and content[:2] != NORMAL:
                self.refused = self.refused or f"closed: {content[2:].decode()}"
            told: dict[str, Any] = json.loads(content) if code == TEXT else {"type": ""}
            if told["type"] == "error":
                reason = told["message"] if "message" in told else told["error"]["message"]
                if not reason.isprintable():
                    self.wrong = f"an error of several lines: {reason!r}"
                if "'bye'" not in reason:
                    self.refused = reason
                if KEY not in server.parking._held:
                    self.wrong = "a stream that could not be resumed is lost"
            if told["type"] == "started":
                return

    def _stream(self, rng: random.Random) -> tuple[str, bytes]:
        """A conversation with /v1/stream: its path, and what is sent once it is open."""
        start: dict[str, Any] = {"type": "start", "sample_rate": rng.choice((16000, 16000, 8000, 44100, 767_999))}
        start |= {"format": rng.choice(("s16le", "f32le")), "chunk_size": 32, "endpoint": True, "reset_encoder": False}
        if rng.random() < 0.3:
            start = {"type": "start", "resume": KEY, "chunk_size": rng.choice((16, 16, 17, 1 << 40, -16))}
        said = [start, self._audio(rng), {"type": "chunk_size", "frames": 64}, self._audio(rng), {"type": "finish"}]
        return "/v1/stream", b"".join(_odd_messages(said, rng))

    def _realtime(self, rng: random.Random) -> tuple[str, bytes]:
        """A conversation with /v1/realtime."""
        append = "input_audio_buffer.append"
        audio = [base64.b64encode(self._audio(rng)).decode() for _ in range(2)]
        said: list[Any] = [{"type": "session.update", "session": SETTINGS}, {"type": append, "audio": audio[0]}]
        said += [{"type": "input_audio_buffer.clear"}] if rng.random() < 0.3 else []
        older = {"input_audio_format": "pcm16", "turn_detection": {"type": "server_vad"}}
        said += [{"type": "transcription_session.update", "session": older}, {"type": append, "audio": audio[1]}]
        said += [{"type": "input_audio_buffer.commit"}]
        return "/v1/realtime?intent=transcription", b"".join(_odd_messages(said, rng)) + _text(BYE)

    def _audio(self, rng: random.Random) -> bytes:
        """Bytes of any number, whole samples or not."""
        size = rng.choice((0, 1, 2, 3, 1001, 8000, 30_000))
        return rng.choice((self.pcm[:size], self.pcm[:size], rng.randbytes(size), b"\xff" * size, b"\x7f" * size))

    def _upload(self, rng: random.Random) -> tuple[str, bytes]:
        """A form with a file for /v1/audio/transcriptions."""
        fields: dict[str, object] = {"model": "sammo", "response_format": rng.choice(("json", "srt", "verbose_json"))}
        fields["timestamp_granularities[]"] = "word"
        for _ in range(rng.choice((0, 1, 1, 3))):
            odd = str(rng.choice(ODD))[:2000]
            name = rng.choice((*fields, odd, "file", "stream", "language", 'a"\r\nX: y'))
            fields[name] = rng.choice((odd, odd, "true", "x" * 300_000))
        file = mutate(self.wav, rng) if rng.random() < 0.6 else self.wav
        name = rng.choice(("a.wav", "../../etc/passwd", "/dev/zero", "", "a\0b", "x" * 5000, "あ.wav", '"'))
        parts = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{fields[key]}\r\n' for key in fields
        ]
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        body = "".join(parts).encode("utf-8", "replace") + head.encode() + file + f"\r\n--{BOUNDARY}--\r\n".encode()
        headers: dict[str, object] = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        headers |= {"Content-Length": len(body), "Connection": "close"}
        if rng.random() < 0.3:
            lengths = ("0", "-1", "1", len(body) - 5, "1_0", "٣", "9" * 400, "nan", "")
            types = ("", "text/plain", "multipart/form-data", "multipart/form-data; boundary=" + "y" * 5000)
            headers |= rng.choice(
                ({"Content-Length": rng.choice(lengths)}, {"Content-Type": rng.choice(types)},
                 {"Transfer-Encoding": "chunked"}, {"Host": "evil.example"}, {"Authorization": "Bearer \xff"})
            )  # fmt: skip
        return "", request("POST", "/v1/audio/transcriptions", headers, body)

    @staticmethod
    def _plain(rng: random.Random) -> tuple[str, bytes]:
        """A request of any other path, whole or not."""
        odd = str(rng.choice(ODD))[:2000]
        paths = (
            "/",
            "/health",
            "/metrics",
            "/v1/models",
            "/v1/stream",
            "/v1/realtime",
            "/../config.py",
            "/%2e%2e/x",
            "*",
        )
        path = rng.choice((*paths, f"/{odd}", f"/?token={odd}", "/" + "x" * 70_000, "/%00", "/%ff", "//localhost/"))
        names = (
            "Host",
            "Origin",
            "Authorization",
            "Content-Length",
            "Connection",
            "Range",
            "Upgrade",
            "If-None-Match",
            odd,
        )
        values = (odd, "bytes=0-", "bytes=9-1", "websocket", "Bearer \xe9", "[::1", "http://[", "1" * 5000)
        headers = {rng.choice(names): rng.choice(values) for _ in range(rng.randrange(3))}
        return "", request(rng.choice(("GET", "GET", "POST", "HEAD", "X")), path, headers)


async def _read(reader: asyncio.StreamReader, end: bytes, quiet: float | None = QUIET) -> bytes:
    """What comes until there was ``end``, the other side has closed, or it says nothing more for ``quiet`` seconds."""
    answer = b""
    try:
        while end not in answer and (piece := await asyncio.wait_for(reader.read(1 << 16), quiet)):
            answer += piece
    except (TimeoutError, ConnectionError):
        pass
    return answer


def _text(message: Any) -> bytes:
    return frame(json.dumps(message).encode(), TEXT)


def _odd_messages(said: list[Any], rng: random.Random) -> list[bytes]:
    """Frames of ``said``, bytes as binary ones, with messages lost, doubled, exchanged, of odd values or the other kind."""
    said = list(said)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at, kind = rng.randrange(len(said)), rng.randrange(6)
        if kind == 0 and len(said) > 1:
            del said[at]
        elif kind == 1:
            said.insert(at, said[rng.randrange(len(said))])
        elif kind == 2:
            other = rng.randrange(len(said))
            said[at], said[other] = said[other], said[at]
        elif isinstance(said[at], dict):
            try:
                said[at] = odd_json(said[at], rng)
                json.dumps(said[at])
            except ValueError:  # a number of more digits than Python writes
                said[at] = "1" * 5000
    frames = []
    for message in said:
        content = message if isinstance(message, bytes) else json.dumps(message).encode()
        code = BINARY if isinstance(message, bytes) else TEXT
        if rng.random() < 0.1:
            code = rng.choice((TEXT, BINARY, 0, CLOSE, 9, 3))
        if rng.random() < 0.1 and len(content) > 1:  # in two fragments
            frames += [frame(content[:1], code, 0), frame(content[1:], 0)]
        else:
            frames.append(frame(content, code, 0xF0 if rng.random() < 0.02 else 0x80))
    return frames


class _Problems(logging.Handler):
    """The first error that was logged, or that the event loop was told of."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.first: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.first = self.first or error or AssertionError(record.getMessage())

    def of_loop(self, _: Any, context: dict[str, Any]) -> None:
        self.first = self.first or context.get("exception") or AssertionError(context["message"])


SERVER_FAMILIES: dict[str, Callable[[Path], Family]] = {}
if all(map(is_installed, NEEDED)):
    SERVER_FAMILIES["server"] = Served
