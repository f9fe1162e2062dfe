"""Checkpoint to ONNX: three graphs that an unmodified sherpa-onnx runs, and the same in OpenVINO's format.

What a stream carries is in the states of :mod:`sammo.export.states`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, Iterator

import torch
from torch import Tensor, nn

from sammo import geometry
from sammo.checkpoint.schema import weights_digest
from sammo.data.tokens import Tokenizer, format_token_table
from sammo.decoding import load_system
from sammo.errors import UserError
from sammo.export.deployed import FILES, NAMES, SUFFIXES, TOKENS, default_directory, file_name, need
from sammo.export.graphs import DecoderGraph, EncoderGraph, JoinerGraph
from sammo.export.openvino import write_openvino
from sammo.export.quantize import halve, quantize, sensitive_products
from sammo.export.simplify import simplified
from sammo.export.verify import CHUNKS, STREAMS, speechlike, training_speech, verify
from sammo.options import Exports, ModelSource, Speech, check_chunking
from sammo.sums import write_sums
from sammo.transducer import Transducer

OPSET = 17  # the oldest with all operations; runtimes of 2022 and later have it
EXAMPLE_STREAMS = 2  # of the recorded batch; not 1, which would be taken for a size that broadcasts


def check_exportable(model: Transducer, exports: Exports) -> None:
    """UserError where this model has no export, or cannot do such chunks."""
    chunk_size, left = exports.chunk_size, exports.left_context_frames
    if model.config.blank_id != 0:
        raise UserError(f"the blank of this model is unit {model.config.blank_id}; sherpa-onnx takes only 0")
    if chunk_size <= 0 or left < 0:
        raise UserError(
            f"an export needs a chunk size above 0 and a left context that ends, got {chunk_size} and {left}"
        )
    check_chunking(chunk_size, left)
    model.encoder.check_chunk_size(chunk_size, left)


def export(source: ModelSource, exports: Exports, speech: Speech) -> None:
    """Writes the model of ``source`` to a directory.

    Args:
      exports: which files, for which chunks.
      speech: its training part is what files are compared on, where it is there, and what int8 needs.

    Raises:
      UserError: it cannot be exported, or an export does not compute what the model does; nothing is written then.
    """
    for module in ("onnx", "onnxruntime", *(("openvino", "nncf") if exports.openvino else ())):
        need(module)
    model, tokenizer, info = load_system(dataclasses.replace(source, device="cpu"))
    check_exportable(model, exports)
    logging.info(f"{info.encoder} {info.preset}, {info.checkpoint}")
    features = speech_for(exports, speech)
    config = model.config.encoder
    default = default_directory(source, config.left_context, exports.chunk_size, exports.left_context_frames)
    out_dir = exports.out_dir or default
    write_directory(model, tokenizer, exports, out_dir, features)
    logging.info(f"{out_dir} is complete: {_described(model, exports)}")


def speech_for(exports: Exports, speech: Speech) -> Tensor | None:
    """Features (2, T, 80) of the training part, on which exports are verified and 8-bit weights fitted. None, and a line in
    the log, where there is no such part.

    Raises:
      UserError: there is none, and 8 bits are asked for.
    """
    frames = (CHUNKS - 1) * geometry.STRIDE * exports.chunk_size + geometry.window(exports.chunk_size)
    features = training_speech(speech, frames)
    if features is None:
        if exports.int8:
            raise UserError(
                f"int8 is fitted to training speech, and {speech.manifest_dir} has none: pass --manifest-dir"
            )
        logging.info(f"no training speech in {speech.manifest_dir}: verified on noise that is modulated like speech")
    return features


def _described(model: Transducer, exports: Exports) -> str:
    left = f", left context of {exports.left_context_frames}" if model.config.encoder.left_context else ""
    return f"chunks of {exports.chunk_size} frames{left}"


def write_directory(
    model: Transducer, tokenizer: Tokenizer, exports: Exports, out_dir: Path, features: Tensor | None = None
) -> None:
    """Writes all files beside ``out_dir`` first, and moves them there once the runtimes have computed the same.

    features: (2, T, 80), speech of two streams; None: noise.
    """
    check_exportable(model, exports)
    out_dir = Path(out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"--out-dir {out_dir} is a file")
    graphs = make_graphs(model, exports)
    encoder = graphs["encoder"]
    if features is None:
        frames = (CHUNKS - 1) * geometry.STRIDE * encoder.chunk_size + encoder.window
        features = torch.stack([speechlike(frames, seed) for seed in range(STREAMS)])
    with _complete(out_dir) as work:
        for name, graph in graphs.items():
            write_graph(graph, work / file_name(name), metadata(model, graph))
        pieces = [tokenizer.piece(index) for index in range(tokenizer.vocab_size)]
        (work / TOKENS).write_text(format_token_table(pieces), encoding="utf-8")
        precisions = ["float32", *(["float16"] if exports.fp16 else []), *(["int8"] if exports.int8 else [])]
        if exports.fp16:
            for name in NAMES:
                halve(work / file_name(name), work / file_name(name, "float16"))
        if exports.int8:
            kept = sensitive_products(encoder, work / file_name("encoder"), features)
            for name in NAMES:
                quantize(work / file_name(name), work / file_name(name, "int8"), kept, exports.int8_signed)
        if exports.openvino:
            for precision in precisions:
                for name in NAMES:
                    path = work / file_name(name, precision, "openvino")
                    write_openvino(work / file_name(name), path, precision, kept if precision == "int8" else ())
        for runtime in ("onnxruntime", *(["openvino"] if exports.openvino else [])):
            for precision in precisions:
                deviation = verify(graphs, work, features, runtime, precision)
                logging.info(f"{runtime} {precision} and PyTorch: within {deviation:.1e} over {CHUNKS} chunks")


@contextlib.contextmanager
def _complete(out_dir: Path) -> Iterator[Path]:
    """A directory whose files take the place of an export in ``out_dir`` where no error comes."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".tmp-{out_dir.name}-", dir=out_dir.parent))
    try:
        yield work
        write_sums(work)
        out_dir.mkdir(exist_ok=True)
        files = (file_name(*parts) for parts in itertools.product(NAMES, FILES, SUFFIXES))
        for stale in (path for file in files for path in (out_dir / file, (out_dir / file).with_suffix(".bin"))):
            stale.unlink(missing_ok=True)
        for file in work.iterdir():
            os.replace(file, out_dir / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def make_graphs(model: Transducer, exports: Exports) -> dict[str, Any]:
    """Name -> graph."""
    encoder = EncoderGraph(model, exports.chunk_size, exports.left_context_frames)
    return {name: graph.eval() for name, graph in zip(NAMES, (encoder, DecoderGraph(model), JoinerGraph(model)))}


def metadata(model: Transducer, graph: nn.Module) -> dict[str, str | int]:
    """What sherpa-onnx reads of each graph, and what Sammo adds."""
    if isinstance(graph, EncoderGraph):
        return {
            "model_type": graph.layout.model_type,
            "T": graph.window,
            "decode_chunk_len": geometry.STRIDE * graph.chunk_size,
            **graph.layout.metadata(),
            "sammo_chunk_size": graph.chunk_size,
            "sammo_left_context": graph.left_context_frames,
            "sammo_weights": weights_digest(model.state_dict()),
        }
    if isinstance(graph, DecoderGraph):
        return {"vocab_size": model.config.vocab_size, "context_size": model.config.context_size}
    return {"joiner_dim": model.config.joiner_dim}


@torch.no_grad()
def write_graph(graph: Any, path: Path, values: dict[str, str | int]) -> None:
    """One graph with its metadata, for any number of streams."""
    import onnx

    example = graph.example(EXAMPLE_STREAMS)
    graph(*example)  # what modules derive from their weights is made now, and a constant in the graph
    axes = {name: {graph.axis(name): "N"} for name in (*graph.inputs, *graph.outputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sizes become constants is meant
        torch.onnx.export(
            graph,
            example,
            str(path),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    proto = simplified(path)
    if isinstance(graph, EncoderGraph):
        _make_lengths_optional(proto, graph.window)
    for key, value in values.items():
        proto.metadata_props.add(key=key, value=str(value))
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))


def _make_lengths_optional(proto: Any, window: int) -> None:
    """An input with a value of its own need not be given: runtimes that know of no lengths, as sherpa-onnx, run full
    windows, and Sammo's own can end an utterance within one."""
    import onnx

    lengths = next(value for value in proto.graph.input if value.name == "x_lens")
    lengths.type.tensor_type.shape.dim[0].dim_param = "N_or_1"
    proto.graph.initializer.append(onnx.helper.make_tensor("x_lens", onnx.TensorProto.INT64, [1], [window]))
