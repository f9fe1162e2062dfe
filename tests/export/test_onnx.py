"""Exported models: onnxruntime and sherpa-onnx compute what PyTorch does."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from fixtures.streaming import VOCAB_SIZE, make_model, speech

from sammo.data.tokens import BLANK, SOS_EOS, UNKNOWN, CharTokenizer
from sammo.encoder.state import pack_state, unpack_state
from sammo.errors import UserError
from sammo.export import deployed, verify
from sammo.export.graphs import EncoderGraph, StateLayout
from sammo.export.onnx import check_exportable, write_directory
from sammo.options import Deployment
from sammo.recording import softplus
from sammo.search import make_searcher
from sammo.streaming.parity import Utterance, compare, decode_streaming
from sammo.streaming.recognizer import StreamingRecognizer
from sammo.streaming.runtimes import OnnxRuntime, make_runtime
from sammo.transducer import Transducer, model_config

CHUNK = 32
PIECES = [BLANK, *(chr(0x3042 + index) for index in range(VOCAB_SIZE - 3)), UNKNOWN, SOS_EOS]


def missing(*modules: str) -> pytest.MarkDecorator:
    """Skips where a package of requirements-deploy.txt is not installed."""
    lacking = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"needs {', '.join(lacking)}")


needs_onnx = missing("onnx", "onnxruntime")
needs_sherpa = missing("onnx", "onnxruntime", "sherpa_onnx")


@pytest.fixture(scope="module")
def model() -> Transducer:
    made = make_model("sammo")
    with torch.no_grad():  # sherpa-onnx leaves out <unk>, which decode.py counts as an error
        made.joiner.output_linear.bias[-2:] = -100.0
    return made


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "onnx"
    write_directory(model, CharTokenizer(PIECES), CHUNK, out, int8=True)
    return out


def test_the_packed_state_is_the_state(model):
    layout = StateLayout.of(model.encoder)
    state = model.encoder.init_state(3)
    packed = torch.randn(3, sum(layout))
    hidden, cell = layout.split(packed)
    assert hidden.shape == (1, 3, layout.hidden) and cell.shape == (1, 3, layout.cell)
    assert torch.equal(layout.join(hidden, cell), packed)
    assert torch.equal(pack_state(unpack_state(packed, state)), packed)
    assert pack_state(state).shape == packed.shape and not pack_state(state).any()


def test_the_graph_is_the_encoder(model):
    graph, features = EncoderGraph(model, CHUNK), torch.randn(2, 77, 80)
    _, *state, lengths = graph.example(2)
    with torch.no_grad():
        out, hidden, cell = graph(features, *state, lengths)
        want = model.encoder(features, lengths, model.encoder.init_state(2), chunk_size=CHUNK)
        torch.testing.assert_close(out, model.joiner.encoder_proj(want.frames))
    torch.testing.assert_close(graph.layout.join(hidden, cell), pack_state(want.state))


def test_softplus_of_exports():
    class Softplus(torch.nn.Module):
        def forward(self, x):
            return softplus(x)

    x = torch.linspace(-120.0, 120.0, 1001)
    traced = torch.jit.trace(Softplus(), x)
    torch.testing.assert_close(traced(x), torch.nn.functional.softplus(x), atol=2e-7, rtol=1e-6)


@needs_onnx
def test_files(directory):
    names = {"encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt", "encoder.int8.onnx", "joiner.int8.onnx"}
    assert {path.name for path in directory.iterdir()} == names
    assert not [path for path in directory.parent.iterdir() if path != directory]
    values = deployed.load_session(directory / "encoder.onnx").get_modelmeta().custom_metadata_map
    assert (values["model_type"], values["T"], values["decode_chunk_len"]) == ("lstm", "77", "64")


@needs_onnx
def test_onnxruntime_finds_the_same_tokens(model, directory):
    runtime = OnnxRuntime(directory, model, CHUNK)
    lengths = (1.3, 4.0, 2.27, 0.1, 3.1)
    audio = [speech(seconds, seed) for seed, seconds in enumerate(lengths)]
    utterances = [Utterance(str(index), lambda samples=samples: samples, "") for index, samples in enumerate(audio)]
    for method in ("greedy_search", "modified_beam_search"):
        searcher = make_searcher(model, method)
        found = compare(model, searcher, utterances, str, CHUNK, 0, 3, runtime=runtime)
        assert not found.different and found.max_deviation < 1e-3
    tokens = [decoded.tokens for decoded in decode_streaming(model, searcher, audio, CHUNK, 0, 3, runtime=runtime)]
    assert sum(map(len, tokens)) > 20


@needs_onnx
def test_snapshots_go_from_one_runtime_to_the_other(model, directory):
    audio, searcher = speech(4.0, 7), make_searcher(model, "greedy_search")
    want = decode_streaming(model, searcher, [audio], CHUNK, 0, 1)[0].tokens
    torch_streams = StreamingRecognizer(model, searcher, CHUNK)
    onnx_streams = StreamingRecognizer(model, searcher, CHUNK, runtime=OnnxRuntime(directory, model, CHUNK))
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
def test_sherpa_onnx_transcribes_as_pytorch_does(model, directory):
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
    for text, decoded in zip(texts, decode_streaming(model, searcher, audio, CHUNK, 0, 2)):
        # sherpa-onnx waits for whole windows, so that the end of the audio is still to come.
        want = "".join(PIECES[token] for token in decoded.tokens)
        assert len(text) > 10 and want.startswith(text.replace(" ", ""))


@needs_onnx
def test_what_cannot_run_is_one_line(model, directory, tmp_path, monkeypatch):
    def problem(**options) -> str:
        chunk = options.pop("chunk_size", CHUNK)
        with pytest.raises(UserError) as error:
            make_runtime(options.pop("model", model), Deployment("onnxruntime", **options), chunk)
        return str(error.value)

    assert "needs --onnx-dir" in problem()
    assert "no directory" in problem(onnx_dir=tmp_path / "none")
    assert "lacks encoder.onnx" in problem(onnx_dir=tmp_path)
    assert "chunks of 32 frames, not 16" in problem(onnx_dir=directory, chunk_size=16)
    assert "other weights" in problem(onnx_dir=directory, model=Transducer(model.config).eval())
    content = (directory / "encoder.onnx").read_bytes()
    (tmp_path / "encoder.onnx").write_bytes(content[: len(content) // 2])
    assert "no ONNX model that onnxruntime can load" in problem(onnx_dir=tmp_path)
    (tmp_path / "encoder.onnx").write_bytes((directory / "joiner.onnx").read_bytes())
    assert "was not made by sammo export" in problem(onnx_dir=tmp_path)
    monkeypatch.setattr(deployed, "is_installed", lambda module: False)
    assert "onnxruntime is not installed: pip install -r requirements-deploy.txt" in problem(onnx_dir=directory)


def test_what_cannot_be_exported_is_one_line(model):
    for name, options, chunk, line in (
        ("zipformer", {}, 32, "keeps a left context: sherpa-onnx runs such models as zipformer2"),
        ("sammo", dict(mixer="gated_delta"), 32, "triangular systems"),
        ("sammo", dict(blank_id=3), 32, "takes only 0"),
        ("sammo", {}, 30, "use a positive multiple of 4"),
        ("sammo", {}, -1, "above 0"),
    ):
        with pytest.raises(UserError, match=line):
            check_exportable(Transducer(model_config(name, "tiny", vocab_size=9, **options)), chunk)


def test_a_snapshot_of_another_model_is_one_line(model):
    recognizer = StreamingRecognizer(model, make_searcher(model, "greedy_search"), CHUNK)
    snapshot = recognizer.snapshot(recognizer.open())
    with pytest.raises(UserError, match="of another model"):
        recognizer.open(snapshot=snapshot._replace(state=torch.zeros(1, 7)))


@needs_onnx
def test_an_export_that_deviates_is_not_kept(model, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="other values than PyTorch"):
        write_directory(model, CharTokenizer(PIECES), 8, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())
