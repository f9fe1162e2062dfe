"""POST /v1/audio/transcriptions as OpenAI's clients call it: a file in, its text out."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any, AsyncIterator, Iterator

from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from torch import Tensor

from sammo.data.features import SAMPLING_RATE
from sammo.errors import UserError
from sammo.options import Endpointing
from sammo.serve.answers import shown
from sammo.serve.engine import BROKEN, TooMany
from sammo.serve.server import Server
from sammo.streaming.audio import stream_audio
from sammo.streaming.formats import SUBTITLES, cues
from sammo.streaming.session import Event

FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
IGNORED = {
    "model",
    "prompt",
    "temperature",
    "chunking_strategy",
    "include[]",
}  # said by clients, and without meaning here
FIELDS = {"file", "response_format", "language", "timestamp_granularities[]", "stream"} | IGNORED
PIECE = 1.0  # seconds of audio that are read at a time


class Refused(Exception):
    """A request that cannot be served: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def transcriptions(request: Request) -> Response:
    """The handler."""
    server: Server = request.app.state.server
    try:
        _check_length(request, server)
        async with request.form(max_files=1, max_fields=32) as form:
            unknown = sorted(form.keys() - FIELDS)
            if unknown:
                raise Refused(400, f"this server knows no field {shown(unknown[0], 40)}")
            if str(form.get("stream", "false")).lower() == "true":
                raise Refused(400, "stream is for the websockets here: /v1/realtime and /v1/stream")
            wanted = str(form.get("response_format") or "json")
            if wanted not in FORMATS:
                raise Refused(400, f"response_format must be one of {', '.join(FORMATS)}, got {shown(wanted, 40)}")
            words = "word" in form.getlist("timestamp_granularities[]")
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                raise Refused(400, "the field file must hold an audio file")
            events, seconds = await _recognize(server, upload)
    except ClientDisconnect:
        return Response(status_code=400)
    except Refused as error:
        server.metrics.refused.labels(str(error.status)).inc()
        return _error(error.status, str(error))
    except UserError as error:
        status = 503 if isinstance(error, TooMany) else 500 if str(error) == BROKEN else 400
        return _error(status, str(error))
    return _answer(server, events, seconds, wanted, words)


def _check_length(request: Request, server: Server) -> None:
    try:
        length = int(request.headers.get("content-length", ""))
    except ValueError:
        raise Refused(411, "uploads need a Content-Length") from None
    if length > server.options.max_upload_mb * 1e6:
        raise Refused(413, f"files may have {server.options.max_upload_mb:g} MB (--max-upload-mb)")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(415, "the file comes as multipart/form-data, in the field file")


async def _recognize(server: Server, upload: UploadFile) -> tuple[list[Event], float]:
    """The utterances of the file and its seconds."""
    # A name of our own: what the client calls the file is never opened.
    handle, name = tempfile.mkstemp(prefix="sammo-upload-")
    try:
        with os.fdopen(handle, "wb") as file:
            while data := await upload.read(1 << 20):
                file.write(data)
        client = await server.engine.open(Endpointing())
        try:
            events: list[Event] = []

            async def collect() -> None:
                async for event, _ in client.events():
                    if event.final:
                        events.append(event)

            collecting = asyncio.create_task(collect())
            async for piece in _pieces(Path(name), 60 * server.options.max_minutes):
                await client.feed(piece)
            client.finish()
            await collecting
            return events, client.posted
        except UserError as error:
            raise type(error)(str(error).replace(name, "the file")) from error
        finally:
            client.close()
    finally:
        os.unlink(name)


async def _pieces(path: Path, longest: float) -> AsyncIterator[Tensor]:
    """Reads on another thread: others are served meanwhile."""
    loop, seconds = asyncio.get_running_loop(), 0.0
    pieces: Iterator[Tensor] = stream_audio(path, seconds=PIECE)
    while (piece := await loop.run_in_executor(None, next, pieces, None)) is not None:
        seconds += piece.numel() / SAMPLING_RATE
        if seconds > longest:
            raise Refused(413, f"files may have {longest / 60:g} minutes (--max-minutes)")
        yield piece


def _answer(server: Server, events: list[Event], seconds: float, wanted: str, words: bool) -> Response:
    tokenizer = server.tokenizer
    text = (" " if tokenizer.has_words else "").join(event.text for event in events)
    if wanted == "text":
        return PlainTextResponse(text + "\n")
    if wanted in SUBTITLES:
        head, cue = SUBTITLES[wanted]
        found = [part for event in events for part in cues(event, tokenizer)]
        body = head + "\n".join(cue(number, *part) for number, part in enumerate(found, start=1))
        return PlainTextResponse(body, media_type="text/vtt" if wanted == "vtt" else "application/x-subrip")
    usage = {"type": "duration", "seconds": round(seconds, 3)}
    if wanted == "json":
        return _json({"text": text, "usage": usage})
    record: dict[str, Any] = {"task": "transcribe", "language": "", "duration": round(seconds, 3), "text": text}
    record["segments"] = [_segment(number, event) for number, event in enumerate(events)]
    if words:
        units = [(tokenizer.piece(token), t) for event in events for token, t in zip(event.tokens, event.timestamps)]
        record["words"] = [{"word": unit, "start": round(t, 3), "end": round(t + 0.04, 3)} for unit, t in units]
    return _json({**record, "usage": usage})


def _segment(number: int, event: Event) -> dict[str, Any]:
    """What of a segment has no meaning here is 0, as clients expect it to be there."""
    empty = {"seek": 0, "temperature": 0.0, "avg_logprob": 0.0, "compression_ratio": 0.0, "no_speech_prob": 0.0}
    times = {"start": round(event.start, 3), "end": round(event.end, 3)}
    return {"id": number, **times, "text": event.text, "tokens": list(event.tokens), **empty}


def _json(record: dict[str, Any]) -> Response:
    return Response(json.dumps(record, ensure_ascii=False), media_type="application/json")


def _error(status: int, reason: str) -> Response:
    return JSONResponse({"error": {"message": reason, "type": "invalid_request_error", "code": None}}, status)
