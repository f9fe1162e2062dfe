"""sammo transcribe: sources, formats, partial results, endpoints."""

from __future__ import annotations

import functools
import io
import json
import re
import sys
import types
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from fixtures.streaming import make_model, speech
from fixtures.training import checkpoint_of

from sammo import cli
from sammo.checkpoint import write_checkpoint
from sammo.commands import transcribe
from sammo.data.tokens import CharTokenizer, character_table, format_token_table, load_tokenizer
from sammo.errors import UserError
from sammo.options import frames
from sammo.streaming.formats import LONGEST_CUE, clock, cues
from sammo.streaming.live import PCM
from sammo.streaming.options import PCM_FORMATS
from sammo.streaming.output import Screen, columns_of, ending
from sammo.streaming.session import Event

LETTERS = "abcdefghijklmnopqrstuvwxyzäöüß0123456"
OFTEN = "--rule1-min-trailing-silence 0.4 --rule2-min-trailing-silence 0.2 --rule3-min-utterance-length 1.5".split()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A checkpoint, its units, and three files of 16 bits."""
    directory = tmp_path_factory.mktemp("transcribe")
    (directory / "lang").mkdir()
    (directory / "lang/tokens.txt").write_text(format_token_table(character_table([LETTERS])), encoding="utf-8")
    tokenizer = load_tokenizer(directory / "lang")
    checkpoint = checkpoint_of(make_model("sammo", tokenizer.vocab_size), tokenizer.fingerprint)
    write_checkpoint(directory / "epoch-1.pt", checkpoint)
    (directory / "audio/deep").mkdir(parents=True)
    for index, name in enumerate(("a.wav", "b.flac", "deep/c.wav")):
        soundfile.write(directory / "audio" / name, speech(2.5 + index, index).numpy(), 16000, subtype="PCM_16")
    (directory / "audio/notes.txt").write_text("no audio")
    return directory


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """The model is read once for all runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcribe_module(), "load_system", functools.cache(transcribe_module().load_system))
        yield


def run(work, capsys, *words, code=0):
    """stdout and stderr."""
    model = ["--checkpoint", work / "epoch-1.pt", "--lang", work / "lang", "--chunk-size", "16"]
    args = cli.parse(["transcribe", *map(str, [*model, *words])])
    assert transcribe.run(args) == code
    return capsys.readouterr()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("words, small, threads", [((), 1e7, 1), ((), 1, 2), (("--num-threads", 2), 1e7, 2)])
def test_a_small_model_needs_one_thread(work, capsys, monkeypatch, two_threads, words, small, threads):
    monkeypatch.setattr(transcribe_module(), "SMALL", small)
    run(work, capsys, work / "audio/a.wav", "--quiet", *words)
    assert torch.get_num_threads() == threads


def texts(out):
    return dict(line.split("\t") for line in out.splitlines() if "\t" in line)


def test_a_directory_is_its_audio_and_streams_change_nothing(work, capsys):
    alone = texts(run(work, capsys, work / "audio", "--quiet").out)
    assert list(alone) == [str(work / "audio" / name) for name in ("a.wav", "b.flac", "deep/c.wav")]
    together = run(work, capsys, "--num-streams", 3, work / "audio", "--chunk-size", "0.32s", *OFTEN)
    assert texts(together.out) == alone and all(len(text) > 5 for text in alone.values())  # endpoints change no token
    summary = together.err.splitlines()[-1]
    assert re.fullmatch(
        r"10\.5 s of audio, real-time factor \d+\.\d+, latency 0\.\d+ s \(median; 90 %: 0\.\d+\) and \d+ ms of "
        r"computation \(99 %: \d+\), state 90 KiB a stream",
        summary,
    )
    half = run(work, capsys, work / "audio/a.wav", "--state-dtype", "float16").err.splitlines()[-1]
    assert half.endswith("state 45 KiB a stream")


def test_json_has_utterances_and_token_times(work, capsys):
    name = str(work / "audio/deep/c.wav")
    lines = [json.loads(line) for line in run(work, capsys, name, "--format", "json", *OFTEN).out.splitlines()]
    assert [line["utterance"] for line in lines] == list(range(len(lines))) and len(lines) >= 2
    assert all(line["file"] == name for line in lines)
    for line in lines:
        units = [unit["token"] for unit in line["tokens"] if unit["token"] != "<sos/eos>"]
        assert "".join(units) == line["text"] != ""
        assert line["start"] == line["tokens"][0]["time"] and line["end"] >= line["tokens"][-1]["time"]
    whole = texts(run(work, capsys, name, "--quiet", "--enable-endpoint", "false").out)[name]
    assert "".join(line["text"] for line in lines) == whole
    timed = run(work, capsys, name, "--quiet", "--timestamps").out.splitlines()[1:]
    assert [float(line.split()[0]) for line in timed] == [unit["time"] for line in lines for unit in line["tokens"]]


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles(work, capsys, tmp_path, form):
    name = work / "audio/deep/c.wav"
    out = run(work, capsys, name, "--format", form, "--quiet", *OFTEN).out
    pattern = r"(?:(\d+)\n)?(\d\d):(\d\d):(\d\d)[.,](\d{3}) --> \d\d:\d\d:(\d\d)[.,](\d{3})\n(.+)\n"
    found = re.findall(pattern, out)
    starts = [int(second) + int(part) / 1000 for _, _, _, second, part, *_ in found]
    assert len(found) >= 2 and starts == sorted(starts)
    assert out.startswith("WEBVTT\n\n00:0" if form == "vtt" else "1\n00:0") and ("," in out) == (form == "srt")
    assert "".join(item[-1] for item in found) == texts(run(work, capsys, name, "--quiet").out)[str(name)]
    with pytest.raises(UserError, match="subtitles of 3 files need a file each"):
        run(work, capsys, work / "audio", "--format", form)
    assert run(work, capsys, work / "audio", "--format", form, "--quiet", "--out-dir", tmp_path, *OFTEN).out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{stem}.{form}" for stem in "abc"]
    assert (tmp_path / f"c.{form}").read_text() == out


def test_files_are_written_whole_or_not(work, capsys, tmp_path):
    (tmp_path / "a.wav").write_bytes((work / "audio/a.wav").read_bytes()[:30_000])
    out = tmp_path / "out"
    captured = run(work, capsys, tmp_path / "a.wav", work / "audio/b.flac", "--out-dir", out, "--quiet", code=1)
    assert [path.name for path in out.iterdir()] == ["b.txt"] and "cut short" in captured.err
    assert (
        f"{work}/audio/b.flac\t{(out / 'b.txt').read_text()}" == run(work, capsys, work / "audio/b.flac", "--quiet").out
    )
    with pytest.raises(UserError, match="would both be written to"):
        run(work, capsys, tmp_path / "a.wav", work / "audio/a.wav", "--out-dir", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def pipe(monkeypatch, data, terminal=False):
    stdin = types.SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: terminal)
    monkeypatch.setattr(sys, "stdin", stdin)


def test_raw_samples_from_standard_input(work, capsys, monkeypatch):
    samples, _ = soundfile.read(work / "audio/a.wav", dtype="int16")
    expected = texts(run(work, capsys, work / "audio/a.wav", "--quiet").out).popitem()[1]
    pipe(monkeypatch, samples.tobytes())
    assert "".join(run(work, capsys, "-", "--quiet", *OFTEN).out.split("\n")) == expected
    pipe(monkeypatch, (samples / np.float32(32768)).astype("<f4").tobytes())
    captured = run(work, capsys, "-", "--pcm-format", "f32le", *OFTEN)
    lines = captured.out.splitlines()
    assert len(lines) >= 2 and "".join(lines) == expected  # an utterance a line, as it ends
    assert "2.5 s of audio" in captured.err
    wide = np.repeat(samples, 3)
    soundfile.write(work / "wide.wav", wide, 48000)
    expected = texts(run(work, capsys, work / "wide.wav", "--quiet").out).popitem()[1]
    pipe(monkeypatch, wide.tobytes())
    assert "".join(run(work, capsys, "-", "--sampling-rate", 48000, "--quiet").out.split()) == expected


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        (b"RIFF" + bytes(5000), [], "is an audio file, and raw samples were expected"),
        (b"\xff\xff\xff\x7f" * 4000, ["--pcm-format", "f32le"], "samples are NaN|sample.s. are NaN"),
        (bytes(100), ["--sampling-rate", "10"], "--sampling-rate must be"),
    ],
)
def test_bad_raw_samples_are_one_line(work, capsys, monkeypatch, data, words, message):
    pipe(monkeypatch, data)
    err = run(work, capsys, "-", "--quiet", *words, code=1).err
    assert re.search(f"^error: .*({message})", err) and err.count("\n") == 1


def test_raw_samples_end_on_request(work, capsys, monkeypatch):
    """As Ctrl-C asks for: what was heard until then is final."""
    samples, _ = soundfile.read(work / "audio/a.wav", dtype="int16")
    whole = "".join(texts(run(work, capsys, work / "audio/a.wav", "--quiet").out).popitem()[1])
    asked = []
    monkeypatch.setattr(transcribe_module(), "StopRequest", lambda: Stop(asked))
    pipe(monkeypatch, samples.tobytes())
    stdin: Any = sys.stdin
    read = stdin.buffer.read1
    reads = []
    stdin.buffer = types.SimpleNamespace(
        read1=lambda size: (reads.append(1), asked.append(1) if len(reads) == 15 else None, read(size))[2]
    )
    text = run(work, capsys, "-", "--quiet").out.strip()
    assert len(reads) == 15 and 5 < len(text) < len(whole) and whole[:5] == text[:5]


def test_odd_ends_of_raw_samples(work, capsys, monkeypatch, caplog):
    for data in (b"", b"\x01", bytes(7)):
        pipe(monkeypatch, data)
        assert run(work, capsys, "-", "--quiet").out == ""
    assert "ended within a sample: 1 byte(s) of 2" in caplog.text


def test_what_cannot_be_transcribed(work, capsys, monkeypatch, tmp_path):
    cases = {
        (): "name audio files or directories",
        ("-", "a.wav"): "cannot be mixed with files",
        ("--mic", "a.wav"): "leave the files out",
        (str(tmp_path),): "no audio files below",
        ("a.wav", "--num-streams", "0"): "--num-streams must be 1 to",
    }
    for words, message in cases.items():
        with pytest.raises(UserError, match=message):
            run(work, capsys, *words)
    pipe(monkeypatch, b"", terminal=True)
    with pytest.raises(UserError, match="there are none: pipe them in"):
        run(work, capsys, "-")


def fake_microphone(monkeypatch, samples, rates=(16000,), own_rate=16000, error=None):
    """A sounddevice whose microphone hears ``samples`` and then asks for the end."""
    module: Any = types.ModuleType("sounddevice")
    module.PortAudioError = type("PortAudioError", (Exception,), {})
    module.opened = []

    def check_input_settings(device, channels, dtype, samplerate):
        if error:
            raise module.PortAudioError(error)
        if samplerate not in rates:
            raise module.PortAudioError("Invalid sample rate")

    class InputStream:
        def __init__(self, samplerate, blocksize, device, channels, dtype, callback):
            module.opened.append((samplerate, device))
            self.blocks = [samples[i : i + blocksize, None] for i in range(0, len(samples), blocksize)]
            self.callback = callback

        def __enter__(self):
            for number, block in enumerate(self.blocks):
                self.callback(block, len(block), None, types.SimpleNamespace(input_overflow=number == 1))

        def __exit__(self, *_):
            pass

    def query_devices(device, kind):
        if error:
            raise ValueError(error)
        return {"default_samplerate": float(own_rate)}

    module.check_input_settings, module.query_devices, module.InputStream = (
        check_input_settings,
        query_devices,
        InputStream,
    )
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


@pytest.mark.parametrize("rate", [16000, 48000])
def test_the_microphone(work, capsys, monkeypatch, caplog, rate):
    import sammo.streaming.live as live

    samples, _ = soundfile.read(work / "audio/a.wav", dtype="float32")
    samples = np.repeat(samples, rate // 16000)
    soundfile.write(work / "heard.wav", samples, rate, subtype="PCM_16")
    expected = texts(run(work, capsys, work / "heard.wav", "--quiet").out).popitem()[1]
    module = fake_microphone(monkeypatch, samples, rates=(rate,), own_rate=rate)
    # The end is asked for when the queue is empty, as Ctrl-C would.
    stop = []
    monkeypatch.setattr(live.queue, "SimpleQueue", lambda: Ending(stop))
    monkeypatch.setattr(transcribe_module(), "StopRequest", lambda: Stop(stop))
    out = run(work, capsys, "--mic", "--mic-device", "3", "--quiet").out
    assert "".join(out.split()) == expected and module.opened == [(rate, 3)]
    assert "audio was lost 1 time(s)" in caplog.text


def transcribe_module():
    import sammo.streaming.transcribe

    return sammo.streaming.transcribe


class Ending:
    """A queue that asks for the end when it is empty."""

    def __init__(self, stop):
        self.items, self.stop = [], stop

    def put(self, item):
        self.items.append(item)

    def get(self, timeout):
        import queue

        if not self.items:
            self.stop.append(True)
            raise queue.Empty
        return self.items.pop(0)


class Stop:
    def __init__(self, stop):
        self.stop = stop

    @property
    def received(self):
        return True if self.stop else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_microphone_that_is_missing_is_one_line(work, capsys, monkeypatch):
    fake_microphone(monkeypatch, np.zeros(0, np.float32), error="No input device\nmatching 'x'")
    err = run(work, capsys, "--mic", "--mic-device", "x", "--quiet", code=1).err
    assert err.startswith("error: the microphone 'x' cannot be used (No input device matching") and err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    err = run(work, capsys, "--mic", "--quiet", code=1).err
    assert err == "error: the microphone needs the package sounddevice: pip install sounddevice\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_partial_results_are_drawn_in_place_on_a_terminal(work, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(work, capsys, work / "audio/deep/c.wav", *OFTEN)
    drawn = terminal.getvalue()
    assert drawn.count("\n") == 1 and drawn.endswith("KiB a stream\n")  # one line stays: the summary
    shown = drawn.split("\r\x1b[K")
    assert len(shown) > 5 and shown[0] == "" and all(len(line) <= 39 for line in shown[:-1])
    assert shown[-2] == "" or not shown[-1].startswith(" ")  # cleared before what stays


def test_the_end_of_a_long_text_is_what_fits():
    assert columns_of("aあ\u3099b") == 4
    assert ending("あいうえお", 10) == "あいうえお" and ending("あいうえお", 7) == "…うえお"
    assert ending("", 0) == "" and ending("abc", 0) == "…"
    page = io.StringIO()
    Screen(page).show("x  ", 1.5, "long " * 50)
    assert page.getvalue() == "x     1.50 s  " + "long " * 50 + "\n"  # in full where nothing is redrawn


def test_cues_are_cut_at_pauses():
    tokenizer = CharTokenizer(["<blk>", *"abcdefghij", "<unk>", "<sos/eos>"])
    times = (0.0, 1.0, 2.0, 4.0, 5.0, 6.5, 7.0, 8.0)
    tokens = tuple(range(1, 9))
    event = Event(0, True, tokenizer.decode(tokens), tokens, times, (0.1,) * 8, 0)
    assert list(cues(event, tokenizer)) == [(0.0, 4.0, "abc"), (4.0, 8.04, "defgh")]
    assert all(end - start <= LONGEST_CUE for start, end, _ in cues(event, tokenizer))
    words = CharTokenizer(["<blk>", *"abc", "\u2581", "<unk>", "<sos/eos>"])
    event = Event(0, True, "", (1, 2, 4, 3, 1, 4, 2), (0.0, 1.0, 2.0, 3.0, 5.5, 6.5, 7.0), (0.1,) * 7, 0)
    assert [text for *_, text in cues(event, words)] == ["ab", "ca b"]  # before a space only
    assert clock(3723.4567, ",") == "01:02:03,457" and clock(0.9996, ".") == "00:00:01.000"
    assert set(PCM) == set(PCM_FORMATS)


@pytest.mark.parametrize(("text", "value"), [("32", (32,)), ("0.64s,16", (32, 16)), ("-1", (-1,)), ("1.28s", (64,))])
def test_frames(text, value):
    assert frames(text) == value


@pytest.mark.parametrize("text", ["", "x", "0.65", "0.65.1s", "0.011s", "nans", "infs", "1e300s", "s"])
def test_frames_that_are_none(text, capsys):
    with pytest.raises(SystemExit):
        cli.parse(["transcribe", "a.wav", "--chunk-size", text])
    assert "argument --chunk-size" in capsys.readouterr().err
