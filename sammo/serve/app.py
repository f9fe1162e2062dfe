"""The routes, and what starts and ends with the server."""

from __future__ import annotations

import contextlib
import logging
import socket as sockets
from pathlib import Path
from typing import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sammo import __version__
from sammo.errors import UserError
from sammo.serve.config import ServeOptions
from sammo.serve.realtime import realtime_socket
from sammo.serve.server import Server
from sammo.serve.stream_socket import stream_socket
from sammo.serve.transcriptions import transcriptions
from sammo.streaming.session import Sessions

PAGE = Path(__file__).parent / "page"
MAX_MESSAGE = 1 << 20  # bytes of a websocket message: half a minute of audio
OPEN_PATHS = ("/health",)  # answered without a token
# The page needs nothing from elsewhere, and shows nothing that scripts could be hidden in.
HEADERS = {
    "content-security-policy": "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
}


class Gate:
    """Admits or refuses a request before its body is read; the page itself may be loaded without a token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # websockets ask for themselves, before they accept
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        server: Server = scope["app"].state.server
        refused = server.reason_against(request)
        if refused and refused[0] == 401 and (scope["path"] in OPEN_PATHS or _is_page(scope["path"])):
            refused = None
        if refused is not None:
            server.metrics.refused.labels(str(refused[0])).inc()
            await JSONResponse({"error": {"message": refused[1]}}, refused[0])(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _is_page(path: str) -> bool:
    return not path.startswith("/v1/") and path != "/metrics"


async def _health(request: Request) -> Response:
    server: Server = request.app.state.server
    streams = len(server.engine.sessions)
    return JSONResponse({"status": "ok", "version": __version__, "model": server.model, "streams": streams})


async def _metrics(request: Request) -> Response:
    return Response(request.app.state.server.metrics.text(), media_type="text/plain; version=0.0.4")


async def _models(request: Request) -> Response:
    server: Server = request.app.state.server
    model = {"id": "sammo", "object": "model", "owned_by": "sammo", "description": server.model}
    return JSONResponse({"object": "list", "data": [model]})


async def _nothing_there(request: Request, error: Exception) -> Response:
    """What is no path of the server, or not asked for as it has to be; programs want JSON of it."""
    assert isinstance(error, HTTPException)
    if _is_page(request.url.path):
        return PlainTextResponse(error.detail, error.status_code, error.headers)
    what = f"{request.method} {request.url.path}: {error.detail.lower()}"
    found = {"error": {"message": what, "type": "invalid_request_error", "code": None}}
    return JSONResponse(found, error.status_code, error.headers)


def make_app(server: Server) -> Starlette:
    """The application around ``server``."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        server.engine.start()
        yield
        await server.engine.stop()

    interfaces = [
        Route("/models", _models),
        Route("/audio/transcriptions", transcriptions, methods=["POST"]),
        WebSocketRoute("/realtime", realtime_socket),
        WebSocketRoute("/stream", stream_socket),
    ]
    routes = [
        Route("/health", _health),
        Route("/metrics", _metrics),
        Mount("/v1", routes=interfaces),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    answers = {HTTPException: _nothing_there}
    app = Starlette(routes=routes, middleware=[Middleware(Gate)], exception_handlers=answers, lifespan=lifespan)
    app.state.server = server
    return app


def listen(options: ServeOptions) -> sockets.socket:
    """The socket to serve at; UserError where the address is taken or not ours."""
    family = sockets.AF_INET6 if ":" in options.host else sockets.AF_INET
    socket = sockets.socket(family, sockets.SOCK_STREAM)
    socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
    try:
        socket.bind((options.host, options.port))
        socket.listen(128)
    except OSError as error:
        socket.close()
        raise UserError(
            f"cannot listen at {options.host}:{options.port} ({error.strerror or error}); is another server there? "
            "choose another --port"
        ) from error
    return socket


def uvicorn_config(app: Starlette, options: ServeOptions) -> uvicorn.Config:
    """How ``app`` is served: the limits on what clients may send."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=65536,
        limit_concurrency=4 * options.max_clients + 64,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    logging.getLogger("uvicorn.error").addFilter(_clients_fault)
    return config


def _clients_fault(record: logging.LogRecord) -> bool:
    """A client's text that is no UTF-8 is worth a line, and not uvicorn's traceback."""
    if str(record.msg).startswith("Invalid UTF-8"):
        record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
    return True


def serve(sessions: Sessions, options: ServeOptions, model: str, state_bytes: int) -> None:
    """Until SIGINT or SIGTERM; UserError where it cannot begin."""
    server = Server(sessions, options, model, state_bytes)
    socket = listen(options)
    port = socket.getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"{model}, {state_bytes / 1024:.0f} KiB a stream", flush=True)
    fragment = "/#token=..." if options.secret else ""
    print(f"http://{host}:{port}{fragment}  (Ctrl-C ends the server)", flush=True)
    config = uvicorn_config(make_app(server), options)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    with socket:
        uvicorn.Server(config).run(sockets=[socket])
