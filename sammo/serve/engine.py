"""One thread that runs the model for all clients of an event loop.

Clients never touch a session: they post what shall be done with it, and the thread does that between two steps. Each step
takes one chunk of every session that has one, as one batch a chunk width, so that a client that sends much has to wait
like the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from typing import Any, AsyncIterator, Callable, NamedTuple

import torch
from torch import Tensor

from sammo.data.features import SAMPLING_RATE
from sammo.errors import UserError
from sammo.options import Endpointing, check_range
from sammo.serve.metrics import Metrics
from sammo.streaming.session import Event, Session, Sessions

BROKEN = "this stream could not be computed; see the server's log"
LONGEST_SERVED_CHUNK = 512  # frames of 20 ms; a chunk is computed as one piece, and the other clients wait for it
BACKLOG = 20.0  # seconds of audio that may wait for the model before a client has to


class TimedEvent(NamedTuple):
    """An event, and the seconds of audio that chunks had taken when it came about."""

    event: Event
    taken: float


class TooMany(UserError):
    """All streams are taken."""


def _check_chunk_size(frames: int) -> None:
    """UserError for chunks of a client that all others would wait for."""
    check_range(
        "chunk_size", frames, 1, LONGEST_SERVED_CHUNK, "a chunk is computed as one piece, and other streams wait for it"
    )


class Client:
    """What the event loop knows of one session. Its methods are called on the loop, those with _ from the engine.

    Attributes:
      posted: seconds of audio sent to the engine.
      received: samples at 16 kHz that the session had received when it was opened; 0 unless it was resumed.
      chunk_size: frames of 20 ms of its chunks then.
    """

    def __init__(self, engine: Engine) -> None:
        self.posted = 0.0
        self.received = self.chunk_size = 0
        self._engine = engine
        self._session: Session | None = None
        self._taken = 0.0  # seconds that the model has consumed
        self._room = asyncio.Event()
        self._queue: asyncio.Queue[TimedEvent | str | None] = asyncio.Queue()  # at the end an error or None
        self._ended = False
        self.on_chunk: Callable[[Session], None] | None = None  # called on the engine's thread before events are told

    async def feed(self, samples: Tensor) -> None:
        """samples (S,) at 16 kHz; waits while the model is far behind."""
        self.posted += samples.numel() / SAMPLING_RATE
        self._engine.post(lambda: self._session and self._session.feed(samples))
        while self.posted - self._taken > BACKLOG and not self._ended:
            self._room.clear()
            await self._room.wait()

    def finish(self) -> None:
        """No more audio will come."""
        self._engine.post(lambda: self._session and self._session.finish())

    def close(self) -> None:
        """Forgets the session; nothing more comes."""
        self._engine.post(self._forget)

    async def set_chunk_size(self, frames: int) -> None:
        """Frames of 20 ms; UserError where the model cannot do it, or other clients would wait too long."""
        _check_chunk_size(frames)

        def change() -> None:
            if self._session is not None:
                self._session.chunk_size = frames

        await self._engine.call(change)

    async def snapshot(self) -> bytes:
        """The session as it is; UserError once it has ended."""
        return await self._engine.call(lambda: self._alive().snapshot())

    async def events(self) -> AsyncIterator[TimedEvent]:
        """Until the session has ended; UserError where it was given up."""
        while not isinstance(item := await self._queue.get(), (str, type(None))):
            yield item
        if item is not None:
            raise UserError(item)

    def _alive(self) -> Session:
        if self._session is None:
            raise UserError("this stream has ended")
        return self._session

    def _forget(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
            self._engine.tell(self, [], 0.0, done=True)

    def _deliver(self, events: list[Event], taken: float, done: bool, error: str | None) -> None:
        """On the loop."""
        for event in events:
            self._queue.put_nowait(TimedEvent(event, taken))
        self._taken = max(self._taken, taken)
        if done and not self._ended:
            self._ended = True
            self._queue.put_nowait(error)
        self._room.set()


class Engine:
    """Runs ``sessions`` on a thread of its own.

    Args:
      sessions: nobody else touches them from :meth:`start` to :meth:`stop`.
      limit: sessions at a time.
      metrics: takes what is counted.
    """

    def __init__(self, sessions: Sessions, limit: int, metrics: Metrics) -> None:
        self.sessions = sessions
        self._limit, self._metrics = limit, metrics
        self._commands: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """From the event loop that its clients live on."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after the step that is under way."""
        self._commands.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def post(self, command: Callable[[], Any]) -> None:
        """Has ``command`` run between two steps."""
        self._commands.put(command)

    async def call(self, command: Callable[[], Any]) -> Any:
        """The same, and waits for what it returns or raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future = loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_result(value) if error is None else future.set_exception(error)

        def run() -> None:
            try:
                value, error = command(), None
            except UserError as caught:
                value, error = None, caught
            loop.call_soon_threadsafe(settle, value, error)

        self._commands.put(run)
        return await future

    async def open(
        self,
        endpointing: Endpointing | None = None,
        chunk_size: int | None = None,
        snapshot: bytes | None = None,
        on_chunk: Callable[[Session], None] | None = None,
    ) -> Client:
        """A client's session; UserError where there are too many, or the model or the snapshot does not allow it."""
        if chunk_size is not None:
            _check_chunk_size(chunk_size)
        client = Client(self)
        client.on_chunk = on_chunk

        def start() -> None:
            if len(self.sessions) >= self._limit:
                raise TooMany(f"all {self._limit} streams of this server are taken; try again later")
            session = self.sessions.open(client, endpointing, chunk_size, snapshot)
            client._session = session
            client.received = round(session.duration * SAMPLING_RATE)
            client.chunk_size = session.chunk_size
            client.posted = client._taken = session.duration
            self._metrics.streams.set(len(self.sessions))

        await self.call(start)
        return client

    def tell(self, client: Client, events: list[Event], taken: float, done: bool, error: str | None = None) -> None:
        """Passes on, from the engine's thread, what has happened to a client's session."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
            self._loop.call_soon_threadsafe(client._deliver, events, taken, done, error)

    def _run(self) -> None:
        busy = False
        while True:
            if not self._work(block=not busy):
                return
            try:
                busy = self._step()
            except Exception:  # what one client sent must not end the others' streams for good
                logging.exception("a step failed; the streams in it are given up")
                self._give_up()
                busy = False

    def _work(self, block: bool) -> bool:
        """Runs what was posted; waits for something where ``block``. False: the engine ends."""
        while True:
            try:
                command = self._commands.get(block=block)
            except queue.Empty:
                return True
            if command is None:
                return False
            try:
                command()
            except Exception:
                logging.exception("a command of a client failed")
            block = False

    def _step(self) -> bool:
        began = time.perf_counter()
        with torch.inference_mode():
            moved = self.sessions.step()
        if not moved:
            return False
        for session in moved:
            client = session.key
            assert isinstance(client, Client)
            events = session.events()
            if client.on_chunk is not None and not session.done:
                client.on_chunk(session)
            for event in events:
                if event.final:
                    self._metrics.tokens.inc(len(event.tokens))
            self.tell(client, events, session.taken, session.done, session.error)
            if session.done:
                self._metrics.audio.inc(session.duration)
                client._session = None
        self._metrics.step.observe(time.perf_counter() - began)
        self._metrics.batch.observe(len(moved))
        self._metrics.streams.set(len(self.sessions))
        return True

    def _give_up(self) -> None:
        for session in self.sessions.all():
            client = session.key
            assert isinstance(client, Client)
            if session.ready:
                session.close()
                client._session = None
                self.tell(client, [], 0.0, done=True, error=BROKEN)
        self._metrics.streams.set(len(self.sessions))
