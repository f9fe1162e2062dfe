"""The realtime websocket /v1/realtime as OpenAI's clients speak it, for transcription sessions.

Deltas only append: a partial result that takes something back is held until it agrees again or is final; ``completed``
has the whole text. Audio is 16-bit PCM at the session's rate, 24 kHz unless it says otherwise.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import secrets
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from sammo.errors import UserError
from sammo.options import Endpointing
from sammo.serve.answers import close_reason, shown
from sammo.serve.engine import Client
from sammo.serve.pcm import PcmDecoder
from sammo.serve.server import Server
from sammo.serve.stream_socket import PROTOCOL_ERROR, TIMED_OUT, _close, _message

RATE = 24000  # Hz


def _id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(8)}"


class Realtime:
    """One client's session."""

    def __init__(self, socket: WebSocket, server: Server) -> None:
        self._socket, self._server = socket, server
        self._rate, self._endpoints = RATE, True
        self._client: Client | None = None
        self._decoder = PcmDecoder(RATE)
        self._sender: asyncio.Task | None = None
        self._id = _id("sess")
        self._seconds = 0.0

    async def run(self) -> None:
        """Until the client leaves or is sent away."""
        await self._send("session.created", session=self._described())
        try:
            while True:
                message = await _message(self._socket, self._server)
                if isinstance(message, bytes):
                    raise UserError("audio comes as input_audio_buffer.append, in base64")
                await self._handle(message)
        except WebSocketDisconnect:
            pass
        except UserError as error:
            await self._end(str(error), PROTOCOL_ERROR)
        except asyncio.TimeoutError:
            await self._end(f"nothing came for {self._server.options.idle_seconds:g} s", TIMED_OUT)
        finally:
            await self._drop()

    async def _handle(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind in ("session.update", "transcription_session.update"):
            await self._update(message.get("session"))
        elif kind == "input_audio_buffer.append":
            await self._append(message.get("audio"))
        elif kind == "input_audio_buffer.commit":
            await self._commit()
        elif kind == "input_audio_buffer.clear":
            await self._drop()
            await self._send("input_audio_buffer.cleared")
        else:
            # As that API does it: an error message, and the session goes on.
            await self._error(f"this server transcribes; it has no {shown(kind, 60)}")

    async def _update(self, session: Any) -> None:
        try:
            rate, endpoints = _settings(session, self._rate)
        except UserError as error:
            await self._error(str(error))
            return
        if rate != self._rate:
            await self._commit()
        self._rate, self._endpoints = rate, endpoints
        await self._send("session.updated", session=self._described())

    async def _append(self, audio: Any) -> None:
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, TypeError, ValueError):
            await self._error("audio must be base64")
            return
        if self._client is None:
            self._decoder = PcmDecoder(self._rate)
            endpointing = Endpointing(enable_endpoint=self._endpoints)
            self._client = await self._server.engine.open(endpointing)
            self._sender = asyncio.create_task(self._results(self._client))
        self._seconds += len(data) / 2 / self._rate
        if self._seconds > 60 * self._server.options.max_minutes:
            raise UserError(f"streams end after {self._server.options.max_minutes:g} minutes")
        await self._client.feed(self._decoder.accept(data))

    async def _commit(self) -> None:
        """What was said becomes final; the next audio begins a new stream."""
        client, sender = self._client, self._sender
        if client is None or sender is None:
            return
        await client.feed(self._decoder.finish())  # which may end it
        client.finish()
        await sender
        self._client = self._sender = None

    async def _drop(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)  # it may have failed of a client that left
        if self._client is not None:
            self._client.close()
        self._client = self._sender = None

    async def _results(self, client: Client) -> None:
        item, told = _id("item"), ""
        prefix = "conversation.item.input_audio_transcription"
        before: str | None = None
        try:
            async for event, _ in client.events():
                if event.text.startswith(told) and len(event.text) > len(told):
                    delta, told = event.text[len(told) :], event.text
                    await self._send(f"{prefix}.delta", item_id=item, content_index=0, delta=delta)
                if event.final:
                    await self._send("input_audio_buffer.committed", item_id=item, previous_item_id=before)
                    usage = {"type": "duration", "seconds": round(event.end - event.start, 3)}
                    await self._send(
                        f"{prefix}.completed", item_id=item, content_index=0, transcript=event.text, usage=usage
                    )
                    before, item, told = item, _id("item"), ""
        except UserError as error:
            await self._error(str(error))
            self._client = None

    def _described(self) -> dict[str, Any]:
        audio = {"format": {"type": "audio/pcm", "rate": self._rate}}
        audio |= {"turn_detection": {"type": "server_vad"} if self._endpoints else None}
        audio |= {"transcription": {"model": "sammo"}}
        return {"type": "transcription", "object": "realtime.session", "id": self._id, "audio": {"input": audio}}

    async def _send(self, kind: str, **values: Any) -> None:
        await self._socket.send_json({"type": kind, "event_id": _id("event"), **values})

    async def _error(self, reason: str) -> None:
        error = {"type": "invalid_request_error", "code": None, "message": reason, "param": None, "event_id": None}
        await self._send("error", error=error)

    async def _end(self, reason: str, code: int) -> None:
        try:
            await self._error(reason)
            await self._socket.close(code, close_reason(reason))
        except (RuntimeError, WebSocketDisconnect):
            pass


def _settings(session: Any, rate: int) -> tuple[int, bool]:
    """(sampling rate, whether pauses end utterances) of a session.update; UserError for what cannot be."""
    if not isinstance(session, dict):
        raise UserError("session must be an object")
    audio = (session.get("audio") or {}).get("input") if isinstance(session.get("audio") or {}, dict) else None
    if not isinstance(audio or {}, dict):
        raise UserError("session.audio.input must be an object")
    # The older shape of the same session has these at its top.
    form = (audio or {}).get("format", session.get("input_audio_format"))
    if isinstance(form, dict):
        if form.get("type", "audio/pcm") != "audio/pcm":
            raise UserError(f"the only format is audio/pcm, got {shown(form.get('type'), 40)}")
        rate = form.get("rate", rate)
        PcmDecoder(rate)
    elif form not in (None, "pcm16"):
        raise UserError(f"the only format is pcm16, got {shown(form, 40)}")
    detection = (audio or session).get("turn_detection", {})
    return rate, detection is not None


async def realtime_socket(socket: WebSocket) -> None:
    """One client."""
    server: Server = socket.app.state.server
    if not await server.admit(socket):
        return
    # Clients in browsers bring their key as a subprotocol, and one of those offered must be chosen.
    offered = socket.scope.get("subprotocols", [])
    await socket.accept("realtime" if "realtime" in offered else None)
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await Realtime(socket, server).run()
    await _close(socket)
