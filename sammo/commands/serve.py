"""``sammo serve``: live transcription in the browser and over the network."""

from __future__ import annotations

import argparse
import importlib.util

from sammo.errors import UserError
from sammo.options import (
    OWN_PACKAGE,
    Chunks,
    Deployment,
    ModelSource,
    Search,
    Streams,
    add_options,
    from_args,
)
from sammo.serve.config import ServeOptions

NEEDED = ("starlette", "uvicorn", "websockets", "python_multipart", "prometheus_client")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_options(parser, ServeOptions, "server")
    add_options(parser, Chunks)
    add_options(parser, ModelSource, "model", "Its architecture is read from the checkpoint.", exp_dir=OWN_PACKAGE)
    add_options(parser, Search, "search", decoding_method="greedy_search")
    add_options(parser, Streams, without=("num_decode_streams",))
    add_options(parser, Deployment)


def run(args: argparse.Namespace) -> int:
    """Serves until it is stopped."""
    options, source = from_args(ServeOptions, args), from_args(ModelSource, args)
    chunks, search = from_args(Chunks, args), from_args(Search, args)
    streams, deployment = from_args(Streams, args), from_args(Deployment, args)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"sammo serve needs {', '.join(missing)}: pip install -r requirements-serve.txt")
    from sammo.serve.app import serve
    from sammo.streaming.transcribe import make_sessions, state_bytes

    sessions = make_sessions(source, chunks, search, streams, deployment)
    name = (source.checkpoint or source.exp_dir).resolve().name
    serve(sessions, options, name, state_bytes(sessions.recognizer))
    return 0
