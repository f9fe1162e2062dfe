"""What all handlers share: the model, the limits, who is let in."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from sammo.data.tokens import Tokenizer
from sammo.serve.config import ServeOptions
from sammo.serve.engine import Engine
from sammo.serve.metrics import Metrics
from sammo.serve.parking import Parking
from sammo.streaming.session import Sessions

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Server:
    """One model behind one address."""

    def __init__(self, sessions: Sessions, options: ServeOptions, model: str, state_bytes: int) -> None:
        """model: its line for people; state_bytes: what a stream keeps between chunks."""
        self.options, self.model, self.state_bytes = options, model, state_bytes
        self.metrics = Metrics()
        self.metrics.state.set(state_bytes)
        self.engine = Engine(sessions, options.max_clients, self.metrics)
        self.parking = Parking(options.state_dir, 60 * options.keep_minutes, 16 * options.max_clients)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.engine.sessions.tokenizer

    def reason_against(self, connection: HTTPConnection) -> tuple[int, str] | None:
        """Status and reason for which a request is refused; None lets it in."""
        host = _host_name(connection.headers.get("host", ""))
        if self.options.loopback and host not in LOOPBACK and host != self.options.host:
            return 421, "this server is asked for by its loopback address"  # a name that was rebound to it
        origin = connection.headers.get("origin")
        if origin is not None and not self._own(origin, connection) and origin not in self.options.allow_origin:
            return 403, "pages of other origins may not use this server (--allow-origin)"
        secret = self.options.secret
        if secret and not hmac.compare_digest(_token(connection).encode(), secret.encode()):
            return 401, "the token is missing or wrong"
        return None

    async def admit(self, socket: WebSocket) -> bool:
        """Whether a websocket may be accepted; it has been closed otherwise."""
        refused = self.reason_against(socket)
        if refused is None:
            return True
        self.metrics.refused.labels(str(refused[0])).inc()
        await socket.close(1008, refused[1])
        return False

    @staticmethod
    def _own(origin: str, connection: HTTPConnection) -> bool:
        return origin.partition("://")[2] == connection.headers.get("host", "")


def _host_name(host: str) -> str:
    """The name in a Host header, without its port; "" for what is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _token(connection: HTTPConnection) -> str:
    kind, _, value = connection.headers.get("authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else connection.query_params.get("token", "")
