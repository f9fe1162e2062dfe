"""The websocket of our own, /v1/stream: docs/serving.md describes it message by message."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

from sammo.data.features import SAMPLING_RATE
from sammo.data.tokens import Tokenizer
from sammo.errors import UserError
from sammo.files import parse_json
from sammo.options import Endpointing
from sammo.serve.answers import close_reason, shown
from sammo.serve.engine import Client
from sammo.serve.pcm import PcmDecoder
from sammo.serve.server import Server
from sammo.streaming.session import Event

PROTOCOL_ERROR, TRY_LATER, TIMED_OUT = 1008, 1013, 1001  # close codes of RFC 6455
GONE = (WebSocketDisconnect, WebSocketDisconnected)  # the client has left: what is told first, and from then on
START = {"type", "sample_rate", "format", "chunk_size", "endpoint", "reset_encoder", "resume"}


async def stream_socket(socket: WebSocket) -> None:
    """One client, from its start message to its end."""
    server: Server = socket.app.state.server
    if not await server.admit(socket):
        return
    await socket.accept()
    try:
        client, decoder, key = await _start(socket, server)
    except WebSocketDisconnect:
        return
    except UserError as refused:
        await _refuse(socket, str(refused))
        return
    except asyncio.TimeoutError:
        await _refuse(socket, "no start message came", TIMED_OUT)
        return
    started = {"type": "started", "id": key, "received": client.received, "state_bytes": server.state_bytes}
    sender = asyncio.create_task(_send(socket, client, server.tokenizer, {**started, "chunk_size": client.chunk_size}))
    receiver = asyncio.create_task(_receive(socket, server, client, decoder))
    error: str | None = None
    gone = False
    try:
        await asyncio.wait((receiver, sender), return_when=asyncio.FIRST_COMPLETED)
        if not sender.done():  # else the stream was given up while more was to come
            await receiver
        await sender
    except GONE:
        gone = True
    except UserError as caught:
        error = str(caught)
    except asyncio.TimeoutError:
        error = f"nothing came for {server.options.idle_seconds:g} s"
    finally:
        receiver.cancel()
        sender.cancel()
        await asyncio.gather(receiver, sender, return_exceptions=True)  # both may have failed, of the same
    if gone or error:
        await server.parking.park(key, client)
        client.close()
    else:
        server.parking.forget(key)
    if error:
        await _refuse(socket, error)
    elif not gone:
        await _close(socket)


async def _start(socket: WebSocket, server: Server) -> tuple[Client, PcmDecoder, str]:
    """(the client's session, what takes its audio, its key) from its first message."""
    message = await _message(socket, server)
    if not isinstance(message, dict) or message.get("type") != "start":
        raise UserError('the first message must be {"type": "start", ...}')
    unknown = sorted(message.keys() - START)
    if unknown:
        raise UserError(f"the start message knows no {shown(unknown[0], 40)}; it has {', '.join(sorted(START))}")
    rate = message.get("sample_rate", SAMPLING_RATE)
    decoder = PcmDecoder(rate, message.get("format", "s16le"))
    chunk_size = message.get("chunk_size")
    if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int)):
        raise UserError(f"chunk_size must be a whole number of frames of 20 ms, got {shown(chunk_size)}")
    endpoint, reset = message.get("endpoint", True), message.get("reset_encoder", False)
    if not isinstance(endpoint, bool) or not isinstance(reset, bool):
        raise UserError("endpoint and reset_encoder must be true or false")
    snapshot = None
    key = message.get("resume")
    if key is not None:
        if rate != SAMPLING_RATE:
            raise UserError(f"a stream can be resumed at {SAMPLING_RATE} Hz only")
        snapshot = server.parking.take(key)
    key = key or server.parking.new_key()
    endpointing = Endpointing(enable_endpoint=endpoint, reset_encoder=reset)
    try:
        client = await server.engine.open(endpointing, chunk_size, snapshot, server.parking.keeper(key))
    except UserError:
        if snapshot is not None:  # it can be asked for again, otherwise or later
            server.parking.hold(key, snapshot)
        raise
    return client, decoder, key


async def _receive(socket: WebSocket, server: Server, client: Client, decoder: PcmDecoder) -> None:
    """Until the client has finished."""
    longest = 60 * server.options.max_minutes
    while True:
        message = await _message(socket, server)
        if isinstance(message, bytes):
            await client.feed(decoder.accept(message))
            if client.posted > longest:
                raise UserError(f"streams end after {server.options.max_minutes:g} minutes")
        elif message.get("type") == "chunk_size":
            frames = message.get("frames")
            if isinstance(frames, bool) or not isinstance(frames, int):
                raise UserError(f"frames must be a whole number of frames of 20 ms, got {shown(frames)}")
            await client.set_chunk_size(frames)
            await socket.send_json({"type": "chunk_size", "frames": frames})
        elif message.get("type") == "finish":
            await client.feed(decoder.finish())
            client.finish()
            return
        else:
            raise UserError(f"no message of type {shown(message.get('type'), 40)}: chunk_size, finish, or audio")


async def _send(socket: WebSocket, client: Client, tokenizer: Tokenizer, started: dict[str, Any]) -> None:
    await socket.send_json(started)
    async for event, taken in client.events():
        await socket.send_json({**event_message(event, tokenizer), "taken": round(taken, 3)})
    await socket.send_json({"type": "done", "seconds": round(client.posted, 3)})


def event_message(event: Event, tokenizer: Tokenizer) -> dict[str, Any]:
    """A partial or final result in JSON types."""
    message: dict[str, Any] = {
        "type": "final" if event.final else "partial",
        "utterance": event.utterance,
        "text": event.text,
        "start": round(event.start, 3),
        "end": round(event.end, 3),
    }
    if event.final:
        pairs = zip(event.tokens, event.timestamps)
        message["tokens"] = [{"token": tokenizer.piece(token), "time": round(time, 3)} for token, time in pairs]
    else:
        message["kept"] = len(tokenizer.decode(event.tokens[: event.kept]))  # characters that stood there before
    return message


async def _message(socket: WebSocket, server: Server) -> Any:
    """The next message: bytes, or a JSON object. UserError for anything else."""
    received = await asyncio.wait_for(socket.receive(), server.options.idle_seconds)
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received.get("code", 1006))
    if received.get("bytes") is not None:
        return received["bytes"]
    try:
        found = parse_json(received.get("text") or "")
    except ValueError:
        raise UserError("text messages must be JSON objects; audio comes in binary messages") from None
    if not isinstance(found, dict):
        raise UserError("text messages must be JSON objects; audio comes in binary messages")
    return found


async def _refuse(socket: WebSocket, reason: str, code: int = PROTOCOL_ERROR) -> None:
    logging.info(f"a stream was ended: {reason}")
    try:
        await socket.send_json({"type": "error", "message": reason})
        await socket.close(code, close_reason(reason))
    except (RuntimeError, WebSocketDisconnect):  # it is gone already
        pass


async def _close(socket: WebSocket) -> None:
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await socket.close()
