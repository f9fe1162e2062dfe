"""Audio without end as utterances: what a terminal or a server shows of a stream.

    sessions = Sessions(recognizer, tokenizer)
    session = sessions.open()
    session.feed(samples)          # as they come, 16 kHz
    sessions.step()                # one chunk of all sessions that have one, as one batch
    for event in session.events(): # partial results and final ones
        ...

Nothing here waits or starts threads: who feeds from several threads holds a lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sammo import geometry
from sammo.data.tokens import Tokenizer
from sammo.errors import UserError
from sammo.options import Endpointing
from sammo.streaming.endpoint import is_endpoint
from sammo.streaming.recognizer import Stream, StreamingRecognizer
from sammo.streaming.snapshot import from_bytes, to_bytes

TOKEN_SECONDS = 1 / geometry.OUTPUT_RATE  # the encoder output that a token stands at


@dataclass(frozen=True)
class Event:
    """The result of an utterance so far. It replaces the previous event of the same utterance.

    Attributes:
      utterance: its number in the stream, from 0; utterances without a token have none.
      final: it has ended and will never change.
      text: of all its tokens.
      tokens: their ids.
      timestamps: seconds from the beginning of the stream, one a token.
      delays: seconds from each time stamp to the audio that brought the token out.
      kept: how many leading tokens are the previous event's; greedy search never takes a token back.
    """

    utterance: int
    final: bool
    text: str
    tokens: tuple[int, ...]
    timestamps: tuple[float, ...]
    delays: tuple[float, ...]
    kept: int

    @property
    def start(self) -> float:
        """Seconds, of the first token."""
        return self.timestamps[0]

    @property
    def end(self) -> float:
        """Seconds, after the last token."""
        return self.timestamps[-1] + TOKEN_SECONDS


class Session:
    """One stream of audio; made by :meth:`Sessions.open`.

    Attributes:
      key: whatever the caller knows it by.
      stream: of the recognizer.
    """

    def __init__(self, sessions: Sessions, stream: Stream, endpointing: Endpointing, key: Any, utterance: int):
        self.key = key
        self.stream = stream
        self._sessions, self._endpointing = sessions, endpointing
        self._utterance = utterance
        self._shown: tuple[int, ...] = ()
        self._events: list[Event] = []

    @property
    def done(self) -> bool:
        """Nothing more will come."""
        return self.stream.done

    @property
    def error(self) -> str | None:
        """One line where the stream was given up; what came before stands."""
        return self.stream.error

    @property
    def duration(self) -> float:
        """Seconds of audio received."""
        return self.stream.duration

    @property
    def taken(self) -> float:
        """Seconds of it that chunks have taken."""
        return self.stream.consumed / geometry.FEATURE_RATE

    @property
    def ready(self) -> bool:
        """Whether the next step has something to do for it."""
        return self._sessions.recognizer.ready(self.stream)

    @property
    def chunk_size(self) -> int:
        """Frames of 20 ms that the next chunk takes. It may be set at any time and resets nothing.

        Raises:
          UserError: when set to what the model or the runtime cannot do; the session continues as before.
        """
        return self.stream.chunk_size

    @chunk_size.setter
    def chunk_size(self, frames: int) -> None:
        self._sessions.recognizer.set_chunk_size(self.stream, frames)

    def feed(self, samples: Tensor) -> None:
        """samples (S,) float at 16 kHz in [-1, 1], any S. Bad ones give this session up, with ``error`` set."""
        self.stream.accept_audio(samples)

    def finish(self) -> None:
        """No more audio will come; the last chunks and the last final event still do."""
        self.stream.finish()

    def close(self) -> None:
        """Forgets the session, whatever was still to come."""
        self._sessions.forget(self)

    def events(self) -> list[Event]:
        """What has happened since this was called last: partial events where the tokens changed, final ones."""
        events, self._events = self._events, []
        return events

    def snapshot(self) -> bytes:
        """The session as it is between two chunks, the audio that no chunk has taken included.

        :meth:`Sessions.open` of any process with the same model and search takes it and resumes token for token. Events
        are fetched before, they are not in it; the first one after it tells the whole utterance again.

        Raises:
          UserError: the session is done.
        """
        if self.done:
            raise UserError("this session has ended: there is nothing to take a snapshot of")
        return to_bytes(self._sessions.recognizer, self.stream, {"utterance": self._utterance})

    def update(self) -> None:
        """Turns what its stream has found into events. For :class:`Sessions`, after each chunk."""
        stream = self.stream
        length = (stream.consumed - stream.begin) / geometry.FEATURE_RATE
        last = stream.consumed / geometry.FEATURE_RATE - TOKEN_SECONDS
        silence = last - stream.timestamps[-1] if stream.timestamps else length
        over = stream.done or is_endpoint(self._endpointing, length, silence)
        tokens = tuple(stream.result.tokens)
        if tokens and (over or tokens != self._shown):
            pairs = zip(tokens, self._shown)
            kept = next((i for i, (new, old) in enumerate(pairs) if new != old), min(len(tokens), len(self._shown)))
            text = self._sessions.tokenizer.decode(tokens)
            times = tuple(stream.timestamps), tuple(stream.delays)
            self._events.append(Event(self._utterance, over, text, tokens, *times, kept))
        self._shown = tokens
        if over:
            self._utterance += bool(tokens)
            self._shown = ()
            if not stream.done:
                self._sessions.recognizer.restart(stream, self._endpointing.reset_encoder)


class Sessions:
    """The open sessions of one model.

    Args:
      recognizer: runs them; all of its streams are theirs.
      tokenizer: of its model.
    """

    def __init__(self, recognizer: StreamingRecognizer, tokenizer: Tokenizer) -> None:
        self.recognizer = recognizer
        self.tokenizer = tokenizer
        self._of: dict[Stream, Session] = {}

    def __len__(self) -> int:
        return len(self._of)

    def open(
        self,
        key: Any = None,
        endpointing: Endpointing | None = None,
        chunk_size: int | None = None,
        snapshot: bytes | None = None,
    ) -> Session:
        """A new session, or one resumed from ``snapshot``.

        Args:
          key: whatever the caller knows it by.
          endpointing: when utterances end; None: the default rules.
          chunk_size: frames of 20 ms; None: the recognizer's, or the snapshot's.
          snapshot: of :meth:`Session.snapshot`.

        Raises:
          UserError: a snapshot that is damaged or of another model, a chunk that the model cannot do.
        """
        utterance, held = 0, None
        if snapshot is not None:
            held, extra = from_bytes(self.recognizer, snapshot)
            utterance = extra.get("utterance")
            if not isinstance(utterance, int) or utterance < 0:
                raise UserError(f"the snapshot is damaged: it is at utterance {utterance!r}")
        stream = self.recognizer.open(key, held, chunk_size)
        session = self._of[stream] = Session(self, stream, endpointing or Endpointing(), key, utterance)
        return session

    def all(self) -> list[Session]:
        """The open ones."""
        return list(self._of.values())

    def step(self) -> list[Session]:
        """One chunk of every session that is ready. Returns the sessions that moved or ended; [] if there is nothing
        to do before more audio comes."""
        moved = []
        for stream in self.recognizer.step():
            session = self._of[stream]
            session.update()
            moved.append(session)
            if stream.done:
                self.forget(session)
        return moved

    def run(self) -> None:
        """Steps until no session has a whole chunk any more."""
        while self.step():
            pass

    def forget(self, session: Session) -> None:
        """Takes ``session`` out."""
        self._of.pop(session.stream, None)
        self.recognizer.close(session.stream)
