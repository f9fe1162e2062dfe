"""Checkpoint to ONNX: three graphs that an unmodified sherpa-onnx runs as an LSTM transducer.

sherpa-onnx starts two states of a fixed size with zeros, hands them over from chunk to chunk and does not look into
them. A state of Sammo is just that, so all of it goes in their place; see :class:`sammo.export.graphs.StateLayout`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sammo import geometry
from sammo.checkpoint.schema import weights_digest
from sammo.data.tokens import Tokenizer, format_token_table
from sammo.decoding import load_system
from sammo.errors import UserError
from sammo.export.deployed import NAMES, TOKENS, file_name, need
from sammo.export.graphs import DecoderGraph, EncoderGraph, JoinerGraph
from sammo.export.verify import verify
from sammo.options import ModelSource, check_chunking
from sammo.transducer import Transducer

OPSET = 17  # the oldest with all operations; runtimes of 2022 and later have it
EXAMPLE_STREAMS = 2  # of the recorded batch; not 1, which would be taken for a size that broadcasts


def check_exportable(model: Transducer, chunk_size: int) -> None:
    """UserError where this model has no export, or cannot do chunks of so many embed frames."""
    config = model.config.encoder
    if config.left_context:
        raise UserError(
            f"{config.name} keeps a left context: sherpa-onnx runs such models as zipformer2, which is not exported "
            "yet; models without left context are"
        )
    if config.mixer == "gated_delta":
        raise UserError("the mixer gated_delta solves triangular systems, an operation that ONNX lacks: no export")
    if model.config.blank_id != 0:
        raise UserError(f"the blank of this model is unit {model.config.blank_id}; sherpa-onnx takes only 0")
    if chunk_size <= 0:
        raise UserError(f"an export needs a chunk size above 0, got {chunk_size}")
    check_chunking(chunk_size)
    model.encoder.check_chunk_size(chunk_size)


def export(source: ModelSource, chunk_size: int, out_dir: Path, int8: bool = False) -> None:
    """Writes the model of ``source`` to ``out_dir``, for chunks of so many frames of 20 ms.

    Args:
      int8: also write the encoder and the joiner with their linear layers in 8 bits.

    Raises:
      UserError: it cannot be exported, or an export does not compute what the model does; nothing is written then.
    """
    for module in ("onnx", "onnxruntime"):
        need(module)
    model, tokenizer, info = load_system(dataclasses.replace(source, device="cpu"))
    check_exportable(model, chunk_size)
    logging.info(f"{info.encoder} {info.preset}, {info.checkpoint}")
    write_directory(model, tokenizer, chunk_size, out_dir, int8)
    logging.info(f"{out_dir} is complete: chunks of {chunk_size} frames")


def write_directory(
    model: Transducer, tokenizer: Tokenizer, chunk_size: int, out_dir: Path, int8: bool = False
) -> None:
    """Writes all files beside ``out_dir`` first, and moves them there once onnxruntime has computed the same."""
    check_exportable(model, chunk_size)
    out_dir = Path(out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"--out-dir {out_dir} is a file")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".tmp-{out_dir.name}-", dir=out_dir.parent))
    try:
        graphs = make_graphs(model, chunk_size)
        for name, graph in graphs.items():
            write_graph(graph, work / file_name(name), metadata(model, graph))
        pieces = [tokenizer.piece(index) for index in range(tokenizer.vocab_size)]
        (work / TOKENS).write_text(format_token_table(pieces), encoding="utf-8")
        deviation = verify(graphs, work)
        logging.info(f"onnxruntime and PyTorch agree: within {deviation:.1e} over 50 chunks")
        if int8:
            for name in ("encoder", "joiner"):
                quantize(work / file_name(name), work / file_name(name, int8=True))
            deviation = verify(graphs, work, int8=True)
            logging.info(f"int8: within {deviation:.1e} over 50 chunks; sammo parity counts the tokens that change")
        _move(work, out_dir)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def make_graphs(model: Transducer, chunk_size: int) -> dict[str, Any]:
    """Name -> graph."""
    graphs = (EncoderGraph(model, chunk_size), DecoderGraph(model), JoinerGraph(model))
    return {name: graph.eval() for name, graph in zip(NAMES, graphs)}


def metadata(model: Transducer, graph: nn.Module) -> dict[str, str | int]:
    """What sherpa-onnx reads of each graph, and what Sammo adds."""
    if isinstance(graph, EncoderGraph):
        return {
            "model_type": "lstm",
            "T": geometry.window(graph.chunk_size),
            "decode_chunk_len": geometry.STRIDE * graph.chunk_size,
            "num_encoder_layers": 1,
            "d_model": graph.layout.hidden,
            "rnn_hidden_size": graph.layout.cell,
            "sammo_chunk_size": graph.chunk_size,
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
    outputs = graph(*example)  # what modules derive from their weights is made now, and a constant in the graph
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    tensors = zip((*graph.inputs, *graph.outputs), (*example, *outputs))
    # The streams are dimension 1 of h and c, and 0 of everything else.
    axes = {name: {1 if name.split("_")[-1] in ("h", "c") else 0: "N"} for name, _ in tensors}
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
    proto = onnx.load(str(path))
    if isinstance(graph, EncoderGraph):
        _make_lengths_optional(proto, geometry.window(graph.chunk_size))
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


def quantize(path: Path, out: Path) -> None:
    """Weights of linear layers in 8 bits, their inputs quantized as they come; the state stays in float32."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # a line a tensor that stays as it is
    try:
        quantize_dynamic(str(path), str(out), op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)


def _move(work: Path, out_dir: Path) -> None:
    out_dir.mkdir(exist_ok=True)
    for file in work.iterdir():
        os.replace(file, out_dir / file.name)
    stale = [out_dir / file_name(name, int8=True) for name in NAMES]
    newest = (out_dir / file_name("encoder")).stat().st_mtime
    for file in stale:  # of an export before
        if file.is_file() and file.stat().st_mtime < newest:
            file.unlink()
