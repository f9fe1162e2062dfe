"""Exported models: onnxruntime, OpenVINO and sherpa-onnx compute what PyTorch does."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from fixtures.export import missing, pieces, small_model, tokenizer
from fixtures.streaming import SETTINGS, VOCAB_SIZE, make_model, speech

from sammo.encoder.state import pack_state
from sammo.errors import UserError
from sammo.export import deployed, onnx, quantize, verify
from sammo.export.deployed import OnnxSession, multiplies_bfloat16
from sammo.export.graphs import EncoderGraph
from sammo.export.onnx import check_exportable, write_directory, write_graph
from sammo.options import Deployment, Exports
from sammo.search import make_searcher
from sammo.streaming.parity import Utterance, compare, decode_streaming, torch_way
from sammo.streaming.recognizer import StreamingRecognizer
from sammo.streaming.runtimes import make_runtime
from sammo.sums import write_sums
from sammo.transducer import Transducer, model_config

CHUNK = 32
FILE_NAMES = {"encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt", "SHA256SUMS"}
PIECES = pieces(VOCAB_SIZE)
LEFT = dict(SETTINGS)

needs_onnx = missing("onnx", "onnxruntime")
needs_sherpa = missing("onnx", "onnxruntime", "sherpa_onnx")
needs_openvino = missing("onnx", "onnxruntime", "openvino", "nncf")


@pytest.fixture(autouse=True, scope="module")
def fewer_chunks():
    """Six chunks show a state that is lost as well as fifty do."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (verify, onnx):
            patch.setattr(module, "CHUNKS", 6)
        yield


@pytest.fixture(scope="module", params=["sammo", "zipformer"])
def model(request) -> Transducer:
    made = make_model(request.param)
    with torch.no_grad():  # sherpa-onnx leaves out <unk>, which decode.py counts as an error
        made.joiner.output_linear.bias[-2:] = -100.0
    return made


@pytest.fixture(scope="module")
def left(model) -> int:
    return LEFT[model.config.encoder.name]


@pytest.fixture(scope="module")
def directory(model, left, fewer_chunks, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "onnx"
    write_directory(model, tokenizer(VOCAB_SIZE), Exports(CHUNK, left), out)
    return out


@needs_onnx
def test_files(model, directory):
    assert {path.name for path in directory.iterdir()} == FILE_NAMES
    assert not [path for path in directory.parent.iterdir() if path != directory]
    values = deployed.load_session(directory, "encoder").metadata
    kinds = {"sammo": "lstm", "zipformer": "zipformer2"}
    assert values["model_type"] == kinds[model.config.encoder.name]
    assert (values["T"], values["decode_chunk_len"]) == ("77", "64")


@needs_onnx
def test_onnxruntime_finds_the_same_tokens(model, left, directory):
    runtime = make_runtime(model, Deployment("onnxruntime", directory), CHUNK, left)
    lengths = (1.3, 4.0, 2.27, 0.1, 3.1)
    audio = [speech(seconds, seed) for seed, seconds in enumerate(lengths)]
    utterances = [Utterance(str(index), lambda samples=samples: samples, "") for index, samples in enumerate(audio)]
    for method in ("greedy_search", "modified_beam_search"):
        searcher = make_searcher(model, method)
        ways = [torch_way(model, searcher, CHUNK, left, 3, runtime=runtime)]
        found = compare(model, searcher, utterances, str, CHUNK, left, 3, ways)[1]
        assert found.identical == len(audio) and 0 < found.max_deviation < 1e-3
    tokens = [decoded.tokens for decoded in decode_streaming(model, searcher, audio, CHUNK, left, 3, runtime=runtime)]
    assert sum(map(len, tokens)) > 20


@needs_onnx
def test_snapshots_go_from_one_runtime_to_the_other(model, left, directory):
    audio, searcher = speech(4.0, 7), make_searcher(model, "greedy_search")
    want = decode_streaming(model, searcher, [audio], CHUNK, left, 1)[0].tokens
    torch_streams = StreamingRecognizer(model, searcher, CHUNK, left)
    runtime = make_runtime(model, Deployment("onnxruntime", directory), CHUNK, left)
    onnx_streams = StreamingRecognizer(model, searcher, CHUNK, left, runtime=runtime)
    for first, second in ((torch_streams, onnx_streams), (onnx_streams, torch_streams)):
        begun = first.open()
        begun.accept_audio(audio[:30000])
        while first.ready(begun):
            first.step()
        resumed = second.open(snapshot=first.snapshot(begun))
        resumed.accept_audio(audio[30000:])
        resumed.finish()
        while not resumed.done:
            second.step()
        begun.fail("taken up elsewhere")
        first.step()
        assert resumed.result.tokens == want


@needs_sherpa
def test_sherpa_onnx_transcribes_as_pytorch_does(model, left, directory):
    import sherpa_onnx

    audio = [speech(seconds, seed) for seed, seconds in ((11, 5.0), (12, 7.3))]
    recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(directory / "tokens.txt"),
        encoder=str(directory / "encoder.onnx"),
        decoder=str(directory / "decoder.onnx"),
        joiner=str(directory / "joiner.onnx"),
        num_threads=1,
        decoding_method="greedy_search",
    )
    streams = [recognizer.create_stream() for _ in audio]
    for stream, samples in zip(streams, audio):
        for piece in samples.split(1600):
            stream.accept_waveform(16000, piece.numpy())
    while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
        recognizer.decode_streams(ready)
    texts = [recognizer.get_result(stream) for stream in streams]
    searcher = make_searcher(model, "greedy_search")
    for text, decoded in zip(texts, decode_streaming(model, searcher, audio, CHUNK, left, 2)):
        # sherpa-onnx waits for whole windows, so that the end of the audio is still to come.
        want = "".join(PIECES[token] for token in decoded.tokens)
        assert len(text) > 10 and want.startswith(text.replace(" ", ""))


# ------------------------------------------------------------------------------------ every encoder, every precision


@needs_onnx
@pytest.mark.parametrize(
    "name, options, chunk",
    [
        ("sammo", dict(), 64),  # several blocks of the scan
        ("sammo", dict(mixer="gated_delta"), 64),
        ("sammo", dict(mixer="none"), 16),
        ("sammo", dict(left_context=True), 16),
        ("zipformer", dict(mask_padding=False), 16),  # as icefall's
        ("conformer", dict(), 16),
    ],
)
def test_every_encoder_exports(tmp_path, name, options, chunk):
    """write_directory compares the files with PyTorch; a state that is not carried would show."""
    model = small_model(name, **options)
    write_directory(model, tokenizer(12), Exports(chunk, 32), tmp_path / "onnx")
    runtime = make_runtime(model, Deployment("onnxruntime", tmp_path / "onnx"), chunk, 32)
    packed, own = pack_state(runtime.init_state()), pack_state(model.encoder.init_state(1, 32))
    assert torch.equal(packed, own)


@pytest.fixture(scope="module")
def smaller(fewer_chunks, tmp_path_factory):
    """A model and its export in all precisions and for all runtimes."""
    made, out = small_model("zipformer"), tmp_path_factory.mktemp("precisions") / "onnx"
    write_directory(made, tokenizer(12), Exports(16, 32, fp16=True, int8=True, openvino=True), out)
    return made, out


@needs_openvino
def test_precisions(smaller):
    """What is written narrower is smaller, and further from PyTorch than float32 is, but not far."""
    made, out = smaller
    audio, deviation = [speech(2.0, 5)], {}
    frames = made.joiner.encoder_proj(
        decode_streaming(made, make_searcher(made, "greedy_search"), audio, 16, 32, 1)[0].frames
    ).detach()
    for runtime in ("onnxruntime", "openvino"):
        for precision in ("float32", "float16", "bfloat16", "int8"):
            if precision == "bfloat16" and (runtime == "onnxruntime" or not multiplies_bfloat16()):
                continue
            exported = make_runtime(made, Deployment(runtime, out, precision), 16, 32)
            found = decode_streaming(made, make_searcher(made, "greedy_search"), audio, 16, 32, 1, runtime=exported)[0]
            deviation[runtime, precision] = float((found.frames - frames).abs().max() / frames.abs().max())
    assert max(deviation["onnxruntime", "float32"], deviation["openvino", "float32"]) < 1e-4
    for (_, precision), found in deviation.items():
        assert precision == "float32" or 1e-5 < found < 0.2, deviation
    full, *narrow = ((out / f"encoder{kind}.bin").stat().st_size for kind in ("", ".fp16", ".int8"))
    assert all(size < 0.7 * full for size in narrow)


@needs_openvino
def test_signals_arrive_after_models_are_gone(smaller):
    """OpenVINO's plugin, loaded twice and unloaded in that order, leaves a stack for signals that is no more: the next signal
    that wants it ends the process."""
    code = """
import faulthandler, os, signal, sys
from sammo.export.deployed import OpenVinoSession
faulthandler.enable()
faulthandler.register(signal.SIGUSR1)
first, second = (OpenVinoSession(sys.argv[1], 1) for _ in range(2))
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(smaller[1] / "encoder.xml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "<module>" in done.stderr, done.stderr


@needs_openvino
def test_openvino_computes_softplus(smaller):
    """And no logarithm, which it computes value by value."""
    graph = (smaller[1] / "encoder.xml").read_text()
    assert graph.count('type="SoftPlus"') > 10 and 'type="Log"' not in graph


@needs_onnx
def test_weights_with_a_sign_are_the_same_values(tmp_path):
    graph = EncoderGraph(small_model("sammo"), 16)
    write_graph(graph, tmp_path / "encoder.onnx", {})
    features, outputs = torch.stack([verify.speechlike(900, seed) for seed in range(2)]), []
    for signed in (False, True):
        quantize.quantize(tmp_path / "encoder.onnx", tmp_path / "int8.onnx", signed=signed)
        session = OnnxSession(tmp_path / "int8.onnx", 1)
        outputs.append([chunk[0] for chunk in quantize.run_chunks(graph, session, features, 3)])
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-5)


@needs_onnx
def test_layers_that_lose_most_stay_in_float(tmp_path):
    """One input feature of a layer that is a thousand times as large as the others takes all steps of 8 bits."""
    model = small_model("sammo")
    graph = EncoderGraph(model, 16)
    with torch.no_grad():
        layer = model.encoder.stacks[0].layers[0].feedforward1
        layer.in_proj.bias[0] = 2000.0
        layer.out_proj.linear.weight[:, 0] = 0.0
    write_graph(graph, tmp_path / "encoder.onnx", {})
    features = torch.stack([verify.speechlike(900, seed) for seed in range(2)])
    errors = dict(quantize.product_errors(graph, tmp_path / "encoder.onnx", features))
    worst = max(errors, key=errors.__getitem__)
    assert "stacks.0/layers.0/feedforward1" in worst, worst
    assert quantize.sensitive_products(graph, tmp_path / "encoder.onnx", features)[0] == worst
    quantize.quantize(tmp_path / "encoder.onnx", tmp_path / "all.onnx")
    quantize.quantize(tmp_path / "encoder.onnx", tmp_path / "kept.onnx", [worst])
    whole = OnnxSession(tmp_path / "encoder.onnx", 1)
    wanted = next(quantize.run_chunks(graph, whole, features, 1))[0]
    off = {}
    for name in ("all", "kept"):
        session = OnnxSession(tmp_path / f"{name}.onnx", 1)
        off[name] = abs(next(quantize.run_chunks(graph, session, features, 1))[0] - wanted).max()
    assert off["kept"] < 0.5 * off["all"], off


# ------------------------------------------------------------------------------------ what cannot be


@needs_openvino
def test_what_cannot_run_is_one_line(smaller, tmp_path, monkeypatch):
    made, out = smaller

    def problem(
        runtime: str = "onnxruntime", model: Transducer = made, chunk: int = 16, left: int = 32, **options
    ) -> str:
        with pytest.raises(UserError) as error:
            make_runtime(model, Deployment(runtime, **options), chunk, left)
        return str(error.value)

    assert "needs --onnx-dir" in problem()
    assert "is of exported models" in problem("torch", precision="int8")
    assert "no bfloat16 on CPUs" in problem(onnx_dir=out, precision="bfloat16")
    assert "no directory" in problem(onnx_dir=tmp_path / "none")
    assert "lacks encoder.onnx; make it again with sammo export" in problem(onnx_dir=tmp_path)
    assert "lacks encoder.int8.xml" in problem("openvino", onnx_dir=tmp_path, precision="int8")
    assert "sammo export --openvino true --int8 true" in problem("openvino", onnx_dir=tmp_path, precision="int8")
    assert "for --chunk-size 16, not 32: pass 16" in problem(onnx_dir=out, chunk=32)
    assert "for --left-context-frames 32, not 64: pass 32" in problem(onnx_dir=out, left=64)
    assert "other weights" in problem(onnx_dir=out, model=Transducer(made.config).eval())
    for suffix, runtime in ((".onnx", "onnxruntime"), (".xml", "openvino")):
        copy = shutil.copytree(out, tmp_path / runtime)
        encoder = copy / f"encoder{suffix}"
        encoder.write_bytes(encoder.read_bytes()[: encoder.stat().st_size // 2])
        assert f"encoder{suffix} is damaged: its sha256 is not" in problem(runtime, onnx_dir=copy)
        write_sums(copy)
        assert f"no model that {runtime} can load" in problem(runtime, onnx_dir=copy)
        encoder.write_bytes((out / f"joiner{suffix}").read_bytes())
        (copy / "encoder.bin").write_bytes((out / "joiner.bin").read_bytes())
        write_sums(copy)
        assert "was not made by this version of sammo export" in problem(runtime, onnx_dir=copy)
        (copy / "tokens.txt").unlink()
        assert f"lacks tokens.txt; {deployed.AGAIN}" in problem(runtime, onnx_dir=copy)
        (copy / "SHA256SUMS").unlink()
        assert "lacks SHA256SUMS: nothing tells whether" in problem(runtime, onnx_dir=copy)
    monkeypatch.setattr(deployed, "is_installed", lambda module: False)
    assert "openvino is not installed: pip install -r requirements-deploy.txt" in problem("openvino", onnx_dir=out)


@needs_onnx
@pytest.mark.parametrize(
    ("lie", "line"),
    [
        (lambda proto: rename(proto, "sammo_weights", "0" * 64), "other weights"),
        (lambda proto: rename(proto, "sammo_chunk_size", "many"), "was not made by this version"),
        (lambda proto: scale(proto, -1.0), "gives frames that are .* off from the checkpoint's"),
        (lambda proto: scale(proto, float("nan")), "gives frames that are nan% off"),
    ],
)
def test_a_file_is_what_it_says(tmp_path, lie, line):
    """Checksums made anew do not help a file that was changed."""
    import onnx as library

    made = small_model("sammo")
    write_directory(made, tokenizer(12), Exports(16), tmp_path / "out")
    make_runtime(made, Deployment("onnxruntime", tmp_path / "out"), 16)
    proto = library.load(str(tmp_path / "out/encoder.onnx"))
    lie(proto)
    library.save(proto, str(tmp_path / "out/encoder.onnx"))
    write_sums(tmp_path / "out")
    with pytest.raises(UserError, match=line) as caught:
        make_runtime(made, Deployment("onnxruntime", tmp_path / "out"), 16)
    assert "\n" not in str(caught.value)


def rename(proto, key, value):
    next(item for item in proto.metadata_props if item.key == key).value = value


def scale(proto, factor):
    """Multiplies the frames."""
    from onnx import TensorProto, helper

    node = next(node for node in proto.graph.node if "encoder_out" in node.output)
    node.output[list(node.output).index("encoder_out")] = "before"
    proto.graph.initializer.append(helper.make_tensor("factor", TensorProto.FLOAT, [], [factor]))
    proto.graph.node.append(helper.make_node("Mul", ["before", "factor"], ["encoder_out"]))


def test_what_cannot_be_exported_is_one_line():
    for name, options, chunk, left, line in (
        ("sammo", dict(blank_id=3), 32, 0, "takes only 0"),
        ("sammo", {}, 30, 0, "use a positive multiple of 4"),
        ("sammo", {}, -1, 0, "above 0"),
        ("zipformer", {}, 32, -1, "left context that ends"),
        ("zipformer", {}, 32, 30, "left context 30 does not work"),
    ):
        model = Transducer(model_config(name, "tiny", vocab_size=9, **options))
        with pytest.raises(UserError, match=line):
            check_exportable(model, Exports(chunk, left))
    with pytest.raises(UserError, match="256 channels, and sherpa-onnx runs a zipformer2 with 128 at most"):
        EncoderGraph(small_model("zipformer", frontend_channels=(4, 8, 256)), 16, 32)


def test_a_snapshot_of_another_model_is_one_line():
    made = small_model("sammo")
    recognizer = StreamingRecognizer(made, make_searcher(made, "greedy_search"), CHUNK)
    snapshot = recognizer.snapshot(recognizer.open())
    with pytest.raises(UserError, match="of another model"):
        recognizer.open(snapshot=snapshot._replace(state=torch.zeros(1, 7)))


@needs_onnx
def test_an_export_that_deviates_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(verify.TOLERANCES, "float32", -1.0)
    with pytest.raises(UserError, match="other values than PyTorch"):
        write_directory(small_model("sammo"), tokenizer(12), Exports(8), tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_an_export_takes_the_place_of_the_one_before(tmp_path):
    made, out = small_model("conformer"), tmp_path / "onnx"
    write_directory(made, tokenizer(12), Exports(8, 32, fp16=True), out)
    (out / "README.md").write_text("mine")
    assert (out / "encoder.fp16.onnx").is_file()
    write_directory(made, tokenizer(12), Exports(8, 32), out)
    assert {path.name for path in out.iterdir()} == {*FILE_NAMES, "README.md"}
