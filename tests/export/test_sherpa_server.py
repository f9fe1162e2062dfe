"""sherpa-onnx's websocket server runs exported models, and whatever becomes of it is one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import soundfile
import torch
from fixtures.export import missing, tokenizer
from fixtures.streaming import VOCAB_SIZE, make_model, speech

from sammo.decoding import Chunking
from sammo.errors import UserError
from sammo.export import onnx, verify
from sammo.export.onnx import write_directory
from sammo.options import Compared, Exports, ModelSource, Search, Streams
from sammo.search import make_searcher
from sammo.streaming import sherpa_server
from sammo.streaming.parity import Utterance, compare, make_ways
from sammo.streaming.sherpa import make_recognizer, silence_after, transcribe
from sammo.streaming.sherpa_server import SERVER, SherpaServer
from sammo.transducer import Transducer

CHUNK = 16
SERVED = "sherpa-onnx-server"  # of --runtime
CLIENT = SERVER.replace("server", "client")


def program(name: str) -> str | None:
    """Where a program of sherpa-onnx-bin is."""
    return shutil.which(name, path=os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])))


needs_server = pytest.mark.skipif(program(SERVER) is None, reason="needs sherpa-onnx-bin")
needs_client = missing("websockets")


@pytest.fixture(scope="module")
def model() -> Transducer:
    made = make_model("sammo")
    with torch.no_grad():  # sherpa-onnx leaves out <unk>
        made.joiner.output_linear.bias[-2:] = -100.0
    return made


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        for module in (verify, onnx):
            patch.setattr(module, "CHUNKS", 4)
        write_directory(model, tokenizer(VOCAB_SIZE), Exports(CHUNK), out)
    return out


@needs_server
@needs_client
@missing("onnx", "onnxruntime", "sherpa_onnx")
@pytest.mark.parametrize("method", ["greedy_search", "modified_beam_search"])
def test_the_server_transcribes_as_the_library_does(directory, method, tmp_path):
    """Streams of different lengths, more than are connected at a time; the client of sherpa-onnx hears the same."""
    silence = torch.zeros(silence_after(CHUNK))
    audio = [(speech(seconds, seed) * 32768).round() / 32768 for seed, seconds in enumerate((3.0, 0.7, 4.2, 2.0, 1.1))]
    padded = [torch.cat((samples, silence)) for samples in audio]
    search = Search(decoding_method=method)
    wanted = transcribe(make_recognizer(directory, search), padded, 3)
    assert all(wanted[:1] + wanted[2:]), wanted
    with SherpaServer(directory, search, CHUNK, 3) as server:
        process = server._process
        assert server.transcribe(padded) == wanted
        if client := program(CLIENT):
            soundfile.write(tmp_path / "a.wav", audio[0].numpy(), 16000, subtype="PCM_16")
            words = [f"--server-port={server._port}", "--seconds-per-message=0", str(tmp_path / "a.wav")]
            done = subprocess.run([client, *words], capture_output=True, text=True, check=True, timeout=100)
            results = [line[line.index("{") :] for line in done.stderr.splitlines() if '"text"' in line]
            # On a busy machine "Done!" may overtake the last result, and this client does not wait for it.
            last = json.loads(results[-1])
            assert last["text"] == wanted[0] if last["is_eof"] else last["text"] and wanted[0].startswith(last["text"])
    assert process.poll() is not None


@needs_server
@needs_client
@missing("onnx", "onnxruntime")
def test_it_is_a_way_of_parity(model, directory):
    search, compared = Search(decoding_method="greedy_search"), Compared(("sherpa-onnx", SERVED), onnx_dir=directory)
    searcher, to_text = make_searcher(model, "greedy_search"), tokenizer(VOCAB_SIZE).decode
    utterances = [Utterance(str(seed), lambda seed=seed: speech(2.0, seed), "くぐじずおあてぃ") for seed in (3, 4)]
    with ExitStack() as servers:
        ways = make_ways(model, searcher, Chunking(CHUNK, 0), ModelSource(), search, Streams(), compared, servers)
        _, library, server = compare(model, searcher, utterances, to_text, CHUNK, 0, 2, ways)
    assert (library.way, server.way, server.utterances, server.empty) == ("sherpa-onnx", SERVED, 2, 0)
    assert server.counts == library.counts and server.counts.ref == 16 and server.counts.errors > 0


@needs_server
@needs_client
@missing("onnx", "onnxruntime")
def test_a_port_that_is_taken_is_one_line(directory, monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        monkeypatch.setattr(sherpa_server, "free_port", lambda: other.getsockname()[1])
        with pytest.raises(UserError, match=r"ended with -6: what\(\): Address already in use$"):
            SherpaServer(directory, Search(), CHUNK, 1).__enter__()


@needs_server
@needs_client
def test_damaged_files_are_one_line(tmp_path):
    with pytest.raises(UserError, match="Load model from .* failed"):
        SherpaServer(empty_export(tmp_path), Search(), CHUNK, 1).__enter__()


# ------------------------------------------------------------------------------------ servers that do not serve


def empty_export(directory: Path) -> Path:
    """Files of the right names."""
    for name in ("encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt"):
        (directory / name).write_bytes(b"none")
    return directory


# Listens on --port, answers the handshake of a websocket, and then does what the test says with the messages.
LISTENING = """
from websockets.sync.server import serve
port = int(next(word for word in sys.argv if word.startswith("--port=")).split("=")[1])
with serve(handle, "", port) as server:
    print("Listening on:", port, file=sys.stderr, flush=True)
    server.serve_forever()
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes a program take the server's place."""

    def install(code: str) -> SherpaServer:
        script = tmp_path / "server"
        script.write_text(f"#!{sys.executable}\nimport os, sys, time\n{code}")
        script.chmod(0o755)
        monkeypatch.setattr(sherpa_server, "SERVER", str(script))
        return SherpaServer(empty_export(tmp_path), Search(), CHUNK, 2)

    return install


@needs_client
def test_a_server_that_does_not_start_is_one_line(fake, monkeypatch):
    with pytest.raises(UserError, match="server ended with 3: no such model$"):
        fake("print('first\\n no such   model', file=sys.stderr); sys.exit(3)").__enter__()
    monkeypatch.setattr(sherpa_server, "PATIENCE", 1.0)
    server = fake("time.sleep(100)")
    with pytest.raises(UserError, match="does not listen after 1 s"):
        server.__enter__()
    assert server._process.poll() is not None and not Path(server._directory.name).exists()


@needs_client
def test_a_server_that_stops_answering_is_one_line(fake, monkeypatch):
    audio = [torch.cat((speech(0.5, seed), torch.zeros(silence_after(CHUNK)))) for seed in range(5)]

    def problem(handle: str, patience: float = sherpa_server.PATIENCE) -> str:
        with fake(f"def handle(connection):\n    {handle}\n{LISTENING}") as server, monkeypatch.context() as patch:
            patch.setattr(sherpa_server, "PATIENCE", patience)
            with pytest.raises(UserError) as caught:
                server.transcribe(audio)
        return str(caught.value)

    assert "breaks off: " in problem("return")
    assert problem("print('out of memory', file=sys.stderr, flush=True); os._exit(7)").endswith(
        "ended with 7: out of memory"
    )
    assert "answers 'Hello', which is no result" in problem("connection.send('Hello'); time.sleep(9)")
    assert "has not answered for 1 s" in problem("time.sleep(100)", patience=1.0)


@needs_client
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_the_server_ends_with_a_process_that_is_killed(fake, tmp_path):
    fake(f"def handle(connection): pass\n{LISTENING}")
    code = """
import os, pathlib, signal, sys
from sammo.options import Search
from sammo.streaming import sherpa_server
sherpa_server.SERVER = sys.argv[1]
print(sherpa_server.SherpaServer(pathlib.Path(sys.argv[1]).parent, Search(), 16, 1).__enter__()._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "server")], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    for _ in range(100):
        status = Path(f"/proc/{done.stdout.strip()}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("the server still runs")


@needs_client
def test_a_server_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sherpa_server, "SERVER", "sherpa-onnx-no-such-server")
    with pytest.raises(UserError, match="sherpa-onnx-no-such-server is not installed: pip install -r"):
        SherpaServer(empty_export(tmp_path), Search(), CHUNK, 1)
