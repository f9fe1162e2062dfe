"""streaming_decode.py, sammo parity and sammo transcribe on a small corpus with a random model."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch
from fixtures.data import make_corpus
from fixtures.export import missing
from fixtures.streaming import make_model, speech
from fixtures.training import checkpoint_of
from lhotse import CutSet

from sammo.checkpoint import write_checkpoint
from sammo.commands import decode as simulated
from sammo.commands import export, parity, streaming_decode, transcribe
from sammo.data.manifests import read_cuts, write_cuts
from sammo.data.tokens import load_tokenizer
from sammo.errors import UserError
from sammo.export import onnx, verify
from sammo.scoring import read_results
from sammo.streaming.decoding import delay_summary


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A corpus, and an experiment directory for each encoder with epoch-1.pt."""
    directory = tmp_path_factory.mktemp("streaming")
    make_corpus(directory, train=2, valid=5)
    for part in ("eval1", "valid"):  # speech-like audio instead of noise, so that the models have something to say
        for index, cut in enumerate(CutSet.from_file(directory / f"fbank/csj_cuts_{part}.jsonl.gz")):
            source = cut.recording.sources[0].source
            soundfile.write(source, speech(cut.duration, index).numpy(), 16000)
    tokenizer = load_tokenizer(directory / "lang_char")
    for name in ("sammo", "zipformer"):
        model = make_model(name, tokenizer.vocab_size)
        (directory / name).mkdir()
        write_checkpoint(directory / name / "epoch-1.pt", checkpoint_of(model, tokenizer.fingerprint))
    return directory


def options(module, work, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(["--lang", str(work / "lang_char"), *map(str, words)])


def decode(work, name, *words):
    common = ["--exp-dir", work / name, "--manifest-dir", work / "fbank", "--parts", "eval1"]
    common += ["--decoding-method", "greedy_search"]
    return streaming_decode.run(options(streaming_decode, work, *common, *words))


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "][1:]


@pytest.mark.parametrize("name", ["sammo", "zipformer"])
def test_parity_command(work, name, capsys):
    args = ["--exp-dir", work / name, "--manifest-dir", work / "fbank", "--parts", "valid,eval1"]
    args += ["--chunk-size", "16,64", "--left-context-frames", "64,128", "--num-decode-streams", 3]
    args += ["--decoding-method", "greedy_search"]
    assert parity.run(options(parity, work, *args)) == 0
    table = rows(capsys.readouterr().out)
    assert len(table) == 3 * 2 * 2 * (1 if name == "sammo" else 2)
    for whole, streamed, halved in zip(table[::3], table[1::3], table[2::3]):
        assert [row[3] for row in (whole, streamed)] == ["simulated", "chunk by chunk"]
        assert streamed[4] == streamed[5] == streamed[6] == "5" and float(streamed[7]) < 1e-3
        assert streamed[8:] == whole[8:] and streamed[8] != "0.00"
        assert halved[3] == "chunk by chunk, state in float16" and (halved[7] == "-" or float(halved[7]) > 1e-6)
        assert float(streamed[8]) == pytest.approx(sum(map(float, streamed[9:12])), abs=0.02)


def test_parity_fails_where_streaming_differs(work, capsys, monkeypatch):
    from sammo.streaming.states import StateStore

    forget = StateStore.take
    monkeypatch.setattr(StateStore, "take", lambda self: torch.utils._pytree.tree_map(torch.zeros_like, forget(self)))
    args = ["--exp-dir", work / "sammo", "--manifest-dir", work / "fbank", "--parts", "eval1", "--chunk-size", "32"]
    assert parity.run(options(parity, work, *args)) == 1
    captured = capsys.readouterr()
    assert rows(captured.out)[1][5] != "5" and "different: eval1 eval1-0" in captured.err


@missing("onnx", "onnxruntime", "sherpa_onnx")
def test_every_command_runs_an_export(work, tmp_path, capsys, monkeypatch):
    for module in (onnx, verify):
        monkeypatch.setattr(module, "CHUNKS", 4)
    model = ["--exp-dir", work / "sammo", "--chunk-size", 16]
    assert "lacks" in error_of(streaming_decode, work, *model, "--runtime", "onnxruntime", "--onnx-dir", tmp_path)
    assert "no directory" in error_of(transcribe, work, *model, "--runtime", "openvino", "a.wav")
    assert "pass --manifest-dir" in error_of(export, work, *model, "--int8", "true", "--manifest-dir", tmp_path)
    tokens = ["--tokens", work / "lang_char/tokens.txt", "--enable-int8-quantization", 1]
    export.run(options(export, work, *model, *tokens, "--manifest-dir", work / "fbank"))
    assert (work / "sammo/onnx-16/encoder.int8.onnx").is_file()

    words = [*model, "--manifest-dir", work / "fbank", "--parts", "eval1", "--decoding-method", "greedy_search"]
    ways = ["--runtime", "onnxruntime,sherpa-onnx", "--precision", "float32,int8", "--num-decode-streams", 3]
    capsys.readouterr()
    assert parity.run(options(parity, work, *words, *ways)) == 0
    whole, exact, int8, sherpa, _ = rows(capsys.readouterr().out)
    assert [row[3] for row in (exact, int8, sherpa)] == ["onnxruntime", "onnxruntime-int8", "sherpa-onnx"]
    assert exact[5:7] == ["5", "5"] and exact[8:] == whole[8:]
    assert (
        sherpa[7] == "-" and sherpa[8] != "0.00" and sherpa[-1] == "0"
    )  # it prints no <unk>, which this model says often

    assert decode(work, "sammo", "--res-dir", tmp_path, "--chunk-size", 16) == 0
    assert decode(work, "sammo", "--res-dir", tmp_path, "--chunk-size", 16, "--runtime", "onnxruntime") == 0
    first, second = sorted(tmp_path.glob("recogs-*"))
    assert "onnxruntime" in first.name + second.name and first.read_text() == second.read_text()
    # Another export of the same weights, of other rounding, is decoded anew.
    assert sorted("export" in result.inputs for result in read_results(tmp_path)) == [False, True]

    soundfile.write(tmp_path / "a.wav", speech(2.0, 7).numpy(), 16000)
    texts = []
    for more in ([], ["--runtime", "onnxruntime"]):
        assert transcribe.run(options(transcribe, work, *model, "--quiet", *more, tmp_path / "a.wav")) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and len(texts[0].split("\t")[1]) > 3


def error_of(command, work, *words):
    with pytest.raises(UserError) as error:
        command.run(options(command, work, *words))
    return str(error.value)


def test_streaming_decode_writes_results(work, tmp_path):
    words = ["--res-dir", tmp_path, "--chunk-size", "16,32", "--partial-results", "--num-decode-streams", 3]
    assert decode(work, "sammo", *words) == 0
    found = read_results(tmp_path)
    assert [(item.setting.chunk_size, item.setting.streaming) for item in found] == [(16, True), (32, True)]
    assert all(len(item.cut_ids) == 5 for item in found)
    delays = found[0].extra["delay_seconds"]
    assert delays["tokens"] > 5 and 0 < delays["p50"] <= delays["p99"] < 0.7
    partials = next(tmp_path.glob("partials-*chunk-16*")).read_text().splitlines()
    assert all(len(line.split("\t")) == 3 for line in partials) and len(partials) > 10
    stamp = [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]
    assert decode(work, "sammo", *words) == 0  # nothing is decoded twice
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())] == stamp
    manifests = shutil.copytree(work / "fbank", tmp_path / "fbank")
    path = manifests / "csj_cuts_eval1.jsonl.gz"
    write_cuts(path, list(read_cuts(path))[1:])  # but what other manifests hold is
    assert decode(work, "sammo", *words, "--manifest-dir", manifests) == 0
    assert [len(item.cut_ids) for item in read_results(tmp_path)] == [4, 4]


def test_the_number_of_streams_changes_nothing(work, tmp_path):
    outputs = []
    for streams in (1, 2, 50):
        res_dir = tmp_path / str(streams)
        words = ["--res-dir", res_dir, "--chunk-size", 32, "--num-decode-streams", streams]
        assert decode(work, "zipformer", *words, "--decoding-method", "modified_beam_search") == 0
        outputs.append(next(res_dir.glob("recogs-*")).read_text())
    assert outputs[0] == outputs[1] == outputs[2]


def test_results_equal_those_of_decode_py(work, tmp_path):
    for name in ("sammo", "zipformer"):
        words = ["--exp-dir", work / name, "--manifest-dir", work / "fbank", "--parts", "eval1"]
        words += [
            "--chunk-size",
            "16,64",
            "--decoding-method",
            "greedy_search",
            "--num-workers",
            0,
            "--res-dir",
            tmp_path / "simulated",
        ]
        simulated.run(options(simulated, work, *words))
        assert decode(work, name, "--chunk-size", "16,64", "--res-dir", tmp_path / "streaming") == 0
    texts = [
        {
            path.name.replace(kind, ""): path.read_text()
            for path in (tmp_path / kind).glob("*s-*.txt")
            if "errs" not in path.name
        }
        for kind in ("simulated", "streaming")
    ]
    assert len(texts[0]) == 8 and texts[0] == texts[1]  # recogs- and timestamps-


def test_half_precision_states_are_filed_apart(work, tmp_path):
    for dtype in ("float32", "float16"):
        assert decode(work, "sammo", "--res-dir", tmp_path, "--chunk-size", 32, "--state-dtype", dtype) == 0
    sizes = {item.setting.state_dtype: item.setting.state_bytes for item in read_results(tmp_path)}
    assert sizes["float32"] == 2 * sizes["float16"]


def test_a_cut_without_audio_is_given_up(work, tmp_path, caplog):
    broken = tmp_path / "fbank"
    broken.mkdir()
    cuts = list(CutSet.from_file(work / "fbank/csj_cuts_eval1.jsonl.gz"))
    cuts[2].recording.sources[0].source = str(tmp_path / "gone.wav")
    CutSet(cuts).to_file(broken / "csj_cuts_eval1.jsonl.gz")
    args = ["--exp-dir", work / "sammo", "--manifest-dir", broken, "--parts", "eval1", "--res-dir", tmp_path / "res"]
    args += ["--decoding-method", "greedy_search"]
    assert streaming_decode.run(options(streaming_decode, work, *args)) == 1
    assert list(read_results(tmp_path / "res")[0].failed) == ["eval1-002"]
    assert streaming_decode.run(options(streaming_decode, work, *args)) == 1  # decoded again, not "before"
    assert "eval1-002 was given up" in caplog.text
    assert decode(work, "sammo", "--res-dir", tmp_path / "whole", "--chunk-size", 32) == 0
    texts = [next((tmp_path / name).glob("recogs-*")).read_text().splitlines() for name in ("res", "whole")]
    assert [a == b for a, b in zip(*texts)].count(False) <= 1  # the hypothesis of the cut that is gone
    cuts[2].recording.sources[0].source = str(work / "fbank/eval1-002.wav")
    CutSet(cuts).to_file(broken / "csj_cuts_eval1.jsonl.gz")
    assert streaming_decode.run(options(streaming_decode, work, *args)) == 0
    assert not read_results(tmp_path / "res")[0].failed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--chunk-size", "18"], "chunk size 18"),
        (["--chunk-size", "-1"], "above 0"),
        (["--num-decode-streams", "0"], "--num-decode-streams must be 1 to 100000"),
        (["--parts", "eval9"], "eval9"),
        (["--epoch", "7"], "epoch-7.pt"),
        (["--left-context-frames", "-1"], "left context"),
    ],
)
def test_bad_options_are_one_line(work, tmp_path, words, message):
    with pytest.raises(UserError, match=message) as caught:
        decode(work, "sammo", "--res-dir", tmp_path, *words)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*"))


def test_transcribe(work, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", speech(2.0, 7).numpy(), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.flac", np.stack([speech(1.5, 8).numpy()] * 2, axis=1), 16000)
    bad = speech(1.0, 9).numpy()
    bad[9000] = np.nan
    soundfile.write(tmp_path / "bad.wav", bad, 16000, subtype="FLOAT")
    files = [str(tmp_path / name) for name in ("a.wav", "bad.wav", "missing.wav", "b.flac")]
    model = ["--checkpoint", work / "sammo/epoch-1.pt", "--chunk-size", 16]
    for streams in (1, 4):
        args = options(transcribe, work, *model, "--num-streams", streams, "--timestamps", *files)
        assert transcribe.run(args) == 1
        captured = capsys.readouterr()
        texts = dict(line.split("\t") for line in captured.out.splitlines() if "\t" in line)
        assert set(texts) == {files[0], files[3]} and all(texts.values())
        errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 2 and any("NaN" in line for line in errors)
        partial = [line.split("s  ", 1)[1] for line in captured.err.splitlines() if line.startswith(files[0])]
        assert len(partial) > 1 and texts[files[0]].startswith(partial[0])
    args = options(transcribe, work, *model, "--quiet", files[0])
    assert transcribe.run(args) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out == f"{files[0]}\t{texts[files[0]]}\n"


def test_transcribe_goes_on_behind_odd_files(work, tmp_path, capsys):
    """A file without a header, a name that is not UTF-8, one of 5,000 characters, one that is cut short, a pipe."""
    soundfile.write(tmp_path / "a.wav", speech(1.5, 7).numpy(), 16000)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "x.raw").write_bytes(content)
    (tmp_path / "short.wav").write_bytes(content[: len(content) // 2])
    (tmp_path / "\udcff.wav").write_bytes(content)
    os.mkfifo(tmp_path / "pipe.wav")
    names = ["x.raw", "short.wav", "pipe.wav", "a" * 5000, "\udcff.wav", "a.wav"]
    files = [str(tmp_path / name) for name in names]
    model = ["--checkpoint", work / "sammo/epoch-1.pt", "--chunk-size", 16, "--quiet"]
    sys.stdout.reconfigure(errors="backslashreplace")  # run_main sees to it
    assert transcribe.run(options(transcribe, work, *model, *files)) == 1
    captured = capsys.readouterr()
    texts = dict(line.split("\t") for line in captured.out.splitlines())
    assert list(texts) == [files[-2].replace("\udcff", "\\udcff"), files[-1]]
    assert len(set(texts.values())) == 1 and texts[files[-1]] != ""
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4 and "% of its audio is missing" in errors[1]
    assert transcribe.run(options(transcribe, work, *model, "--allow-truncated", "true", files[1])) == 0
    text = capsys.readouterr().out.split("\t")[1].strip()
    assert text and texts[files[-1]].startswith(text[:-2])


def test_delay_summary():
    assert delay_summary([]) == {"tokens": 0}
    summary = delay_summary([0.1 * value for value in range(1, 101)])
    assert summary["tokens"] == 100 and summary["mean"] == pytest.approx(5.05)
    assert summary["p50"] == pytest.approx(5.0) and summary["max"] == pytest.approx(10.0)
    json.dumps(summary)
