"""A stream as bytes: safetensors with a version, what it belongs to, and a checksum over everything."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sammo.checkpoint.schema import weights_digest
from sammo.errors import UserError
from sammo.files import parse_json
from sammo.streaming.features import WINDOW, OnlineFbank
from sammo.streaming.recognizer import Snapshot, Stream, StreamingRecognizer

FORMAT, VERSION = "sammo-stream", 1
COUNTS = ("consumed", "begin", "finished", "chunk_size")  # of a Stream
FBANK = ("started", "finished", "num_samples", "num_frames")
MOST = 1 << 52  # of any count: 9,000 years of samples


def to_bytes(recognizer: StreamingRecognizer, stream: Stream, extra: Mapping[str, Any]) -> bytes:
    """Everything that another process with the same model needs to resume ``stream``.

    Args:
      extra: what the caller wants to find again, JSON types.
    """
    snapshot = recognizer.snapshot(stream)
    stream = snapshot.stream
    tensors = {
        "encoder": snapshot.state,
        "features": stream.frames,
        "audio": stream.fbank.pending,
        "available": torch.tensor(stream.available, dtype=torch.float64),
    }
    tensors |= {f"search.{name}": value for name, value in recognizer.searcher.to_tensors(stream.search_state).items()}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    facts = {
        "belongs_to": belongs_to(recognizer),
        "stream": {name: getattr(stream, name) for name in COUNTS},
        "fbank": {name: getattr(stream.fbank, name) for name in FBANK},
        "extra": dict(extra),
    }
    text = json.dumps(facts, sort_keys=True)
    metadata = {"format": FORMAT, "version": str(VERSION), "facts": text, "sha256": _digest(text, tensors)}
    return safetensors.torch.save(tensors, metadata)


def from_bytes(recognizer: StreamingRecognizer, data: bytes) -> tuple[Snapshot, dict[str, Any]]:
    """The inverse of :func:`to_bytes`: what ``recognizer.open`` takes, and what the caller had added.

    Raises:
      UserError: these bytes are damaged, of another version, or of another model, left context or search.
    """
    metadata = _metadata(data)
    if metadata.get("format") != FORMAT:
        raise UserError("these bytes are no snapshot of a stream")
    if metadata.get("version") != str(VERSION):
        raise UserError(f"the snapshot is of version {metadata.get('version')}; this Sammo reads version {VERSION}")
    try:
        tensors = safetensors.torch.load(data)
        text = metadata["facts"]
        if metadata["sha256"] != _digest(text, tensors):
            raise ValueError("it does not have its checksum")
        facts = parse_json(text)
        ours, theirs = belongs_to(recognizer), facts["belongs_to"]
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise UserError(
                    f"the snapshot was made with another {name.replace('_', ' ')} ({theirs.get(name)}, here {value})"
                )
        state = tensors["encoder"]
        if state.dtype not in (torch.float32, recognizer.state_dtype) or not bool(state.isfinite().all()):
            raise ValueError(f"its state has values that are not finite, or {state.dtype} ones")
        return Snapshot(_stream(recognizer, facts, tensors), state), dict(facts["extra"])
    except (safetensors.SafetensorError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"the snapshot is damaged: {error}") from error


def belongs_to(recognizer: StreamingRecognizer) -> dict[str, Any]:
    """What must be the same where a stream is resumed."""
    return {
        "model": recognizer.weights,
        "left_context": recognizer.left_context_frames,
        "kind_of_search": recognizer.searcher.facts(),
    }


def _stream(recognizer: StreamingRecognizer, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Stream:
    counts, of_fbank = facts["stream"], facts["fbank"]
    for name, value in (*counts.items(), *of_fbank.items()):
        if not isinstance(value, int) or not 0 <= value < MOST:
            raise ValueError(f"its {name} is {value!r}")
    features, audio, available = (tensors[name] for name in ("features", "audio", "available"))
    if features.ndim != 2 or features.shape[1] != recognizer.model.config.encoder.feature_dim:
        raise ValueError(f"its features are {tuple(features.shape)}")
    if audio.ndim != 1 or audio.numel() > 2 * WINDOW or audio.dtype != torch.float32 or features.dtype != audio.dtype:
        raise ValueError(f"its audio is {tuple(audio.shape)} {audio.dtype}")
    searcher = recognizer.searcher
    prefix = "search."
    state = searcher.from_tensors({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    result = searcher.result(state)[0]
    if available.shape != (len(result.tokens),):
        raise ValueError(f"it has {tuple(available.shape)} times for {len(result.tokens)} tokens")
    fbank = OnlineFbank(str(recognizer.device))
    fbank.pending = audio.to(recognizer.device)
    for name in FBANK:
        setattr(fbank, name, type(getattr(fbank, name))(of_fbank[name]))
    frames = features.to(recognizer.device)
    counts = {**counts, "finished": bool(counts["finished"])}
    return Stream(None, state, fbank, result, frames, available=available.tolist(), **counts)


def _metadata(data: bytes) -> dict[str, str]:
    """What a safetensors file says about itself; the library gives it for files only."""
    try:
        size = int.from_bytes(data[:8], "little")
        found = parse_json(data[8 : 8 + size])["__metadata__"] if size <= len(data) - 8 else {}
        return found if isinstance(found, dict) else {}
    except (ValueError, LookupError, TypeError):
        return {}


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{weights_digest(tensors)}\n{text}".encode()).hexdigest()
