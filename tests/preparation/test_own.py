"""sammo prepare: a folder or a table of recordings becomes a corpus that training and decoding take."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fixtures.an4 import speech_like
from fixtures.streaming import make_model
from fixtures.training import checkpoint_of

from sammo import cli
from sammo.checkpoint import write_checkpoint
from sammo.corpora import AN4, CSJ, find_corpus
from sammo.data.config import DataConfig
from sammo.data.datamodule import CsjDataModule
from sammo.data.manifests import read_records
from sammo.data.tokens import find_lang, load_tokenizer
from sammo.errors import UserError
from sammo.preparation import audio
from sammo.preparation.audio import Checked
from sammo.preparation.config import PrepareConfig
from sammo.preparation.own import divide, prepare
from sammo.preparation.recordings import Utterance, find_utterances

SENTENCES = ("good morning", "one two three", "please call me", "thank you all")
SPEAKERS = ("ann", "ben", "cid", "dot", "eva", "fay")


def write(path: Path, seconds: float, seed: int, rate: int = 16000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = speech_like(seconds * rate / 16000, seed)
    soundfile.write(path, np.repeat(samples[:, None], channels, 1), rate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six speakers; WAV, FLAC and Ogg of three rates, one or two channels; and what cannot be used."""
    directory = tmp_path_factory.mktemp("own") / "mine"
    kinds = ((".wav", 16000, 1), (".flac", 16000, 1), (".wav", 44100, 2), (".ogg", 48000, 1))
    for number, speaker in enumerate(SPEAKERS):
        for place in range(2):
            suffix, rate, channels = kinds[(2 * number + place) % 4]
            path = directory / speaker / f"take {place}{suffix}"
            write(path, 1.2 + 0.1 * place, 2 * number + place, rate, channels)
            path.with_suffix(".txt").write_text(f"{SENTENCES[(number + place) % 4]} \n", encoding="utf-8")
    bad = directory / "bad"
    for name in ("untold", "empty", "latin", "fast", "cut"):
        write(bad / f"{name}.wav", 1.0, 50)
    write(bad / "short.wav", 0.1, 51)
    write(bad / "long.wav", 31.0, 52)
    texts = {
        "empty": " \n",
        "fast": "word " * 20,
        "cut": "yes",
        "short": "yes",
        "long": "yes",
        "alone": "x",
        "noise": "x",
    }
    for name, text in texts.items():
        (bad / f"{name}.txt").write_text(text, encoding="utf-8")
    (bad / "latin.txt").write_bytes(b"caf\xe9")
    (bad / "cut.wav").write_bytes((bad / "cut.wav").read_bytes()[:20000])
    (bad / "noise.wav").write_bytes(b"no audio at all")
    (bad / "phone.m4a").write_bytes(b"")
    return directory


@pytest.fixture(scope="module")
def data(folder) -> Path:
    out = folder.parent / "data"
    corpus, hours = prepare(folder, PrepareConfig(out_dir=out, nj=1))
    assert corpus == find_corpus(out / "fbank") and 0 < hours < 0.01
    return out


def cuts(data: Path, part: str) -> list[dict]:
    return list(read_records(data / f"fbank/cuts_{part}.jsonl.gz"))


def test_parts_have_speakers_of_their_own(data):
    corpus = find_corpus(data / "fbank")
    assert corpus.parts == ("train", "valid", "test") and (corpus.metric, corpus.unit) == ("WER", "char")
    speakers = {part: {cut["supervisions"][0]["speaker"] for cut in cuts(data, part)} for part in corpus.parts}
    assert set.union(*speakers.values()) == set(SPEAKERS) and sum(map(len, speakers.values())) == len(SPEAKERS)
    assert len(speakers["train"]) == 4
    statistics = json.loads((data / "fbank/statistics.json").read_text())
    assert statistics["parts"]["train"]["cuts"] == 8 and statistics["parts"]["train"]["words"] > 16


def test_audio_is_16_khz_and_stays_where_it_is_if_it_was(data, folder):
    everything = [cut for part in ("train", "valid", "test") for cut in cuts(data, part)]
    assert len(everything) == 12
    for cut in everything:
        path = Path(cut["recording"]["sources"][0]["source"])
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.frames) == (16000, 1, cut["recording"]["num_samples"])
        assert cut["duration"] == pytest.approx(1.2 if cut["id"].endswith("0") else 1.3, abs=0.01)
        (original,) = folder.glob(f"{cut['id']}.[!t]*")
        ready = soundfile.info(original).samplerate == 16000
        assert path == original.resolve() if ready else path == (data / "audio" / f"{cut['id']}.wav").resolve()


def test_what_cannot_be_used_is_listed_with_the_reason(data):
    lines = (data / "unusable.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "file\treason"
    found = {Path(path).name: reason for path, reason in (line.split("\t") for line in lines[1:])}
    expected = {
        "untold.txt": "there is no such transcript",
        "empty.wav": "its transcript is empty",
        "latin.txt": "it is not UTF-8 (byte 3)",
        "alone.txt": "no audio beside it",
        "phone.m4a": ".m4a is not read; convert it to WAV or FLAC",
        "short.wav": "it has 0.10 s, fewer than --min-seconds 0.2",
        "long.wav": "it has 31.0 s, more than --max-seconds 30; cut it into utterances",
        "fast.wav": "its transcript has 80 characters for 1.00 s, more than can be said",
    }
    assert {name: reason for name, reason in found.items() if name in expected} == expected
    assert found["cut.wav"].startswith("is cut short, 37.6 %") and "--allow" not in found["cut.wav"]
    assert found["noise.wav"].startswith("is not audio that can be read") and len(found) == 10


def test_training_reads_it(data):
    lang = find_lang(None, data / "fbank", find_corpus(data / "fbank"))
    tokenizer = load_tokenizer(lang)
    assert lang == data / "lang_char" and tokenizer.has_words
    config = DataConfig(
        manifest_dir=data / "fbank", enable_musan=False, num_workers=0, min_duration=0.0, drop_last=False
    )
    batch = next(iter(CsjDataModule(config, tokenizer).train_dataloader(1)))
    assert sorted(batch["texts"]) == sorted(cut["supervisions"][0]["text"] for cut in cuts(data, "train"))
    assert batch["features"].isfinite().all()


def test_decoding_and_report(data, tmp_path, capsys):
    tokenizer = load_tokenizer(data / "lang_char")
    model = make_model("sammo", tokenizer.vocab_size)
    (tmp_path / "exp").mkdir()
    write_checkpoint(tmp_path / "exp/epoch-1.pt", checkpoint_of(model, tokenizer.fingerprint, transcript_mode=""))
    common = ["--manifest-dir", data / "fbank", "--exp-dir", tmp_path / "exp"]  # units lie beside the manifests
    run("ngram", *common[:2], "--out", tmp_path / "lm.arpa", "--order", 2)
    assert "of valid" in capsys.readouterr().out
    words = [*common, "--chunk-size", 32, "--lm", tmp_path / "lm.arpa", "--lm-scale", 0.5, "--parts", "valid,tests"]
    run("decode", *words, "--num-workers", 0)
    run("streaming-decode", *words)
    run("report", tmp_path / "exp", "--out-dir", tmp_path / "report")
    table = (tmp_path / "report/wer.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if "lm " in line and "0.5" in line]
    assert "WER in % over test" in table and any("simulated" in row for row in rows)
    texts = [path.read_text() for path in (tmp_path / "exp").rglob("recogs-*.txt") if "test" in path.name]
    assert len(texts) == 2 and texts[0] == texts[1] and "hyp=['" in texts[0]


def run(*words) -> None:
    args = cli.parse([str(word) for word in words])
    assert not args.run(args)


def test_a_second_run_reads_only_what_has_changed(data, folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "mine", ignore=shutil.ignore_patterns("bad"))
    read = []
    check = audio._check
    monkeypatch.setattr(
        audio, "_check", lambda utterance, directory: read.append(utterance.id) or check(utterance, directory)
    )
    config = PrepareConfig(out_dir=tmp_path / "data", nj=1)
    prepare(copy, config)
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.jsonl.gz")}
    assert len(read) == 12 and len(before) > 3
    notes = tmp_path / "data/audio/checked.jsonl"
    notes.write_text(notes.read_text()[:-20])  # killed while it noted the last one
    read.clear()
    prepare(copy, config)
    assert read == ["fay/take 1"]
    assert {path: path.read_bytes() for path in before} == before
    old = features(tmp_path)
    write(copy / "ann/take 0.wav", 1.2, 99)  # other speech, as long as it was
    read.clear()
    prepare(copy, PrepareConfig(out_dir=tmp_path / "data", nj=1, perturb_speed=True))
    assert read == ["ann/take 0"] and features(tmp_path) != old
    copies = [cuts(tmp_path / "data", f"train_sp{speed}") for speed in (0.9, 1.1)]
    assert [len(found) for found in copies] == [8, 8]


def features(directory: Path) -> dict[str, bytes]:
    """Of the part that ann is in, by archive."""
    (part,) = (
        part
        for part in ("train", "valid", "test")
        if any(cut["id"].startswith("ann") for cut in cuts(directory / "data", part))
    )
    return {path.name: path.read_bytes() for path in (directory / f"data/fbank/feats_{part}").glob("*.lca")}


# ------------------------------------------------------------------------------------ tables


def table(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path
    with open(path, "w", encoding="utf-8", newline="") as file:
        style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if path.suffix == ".tsv" else {}
        writer = csv.DictWriter(file, list(rows[0]), **style)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_tables(folder, tmp_path, suffix):
    rows = [
        {"path": str(folder / "ann/take 0.wav"), "text": "good  morning", "speaker": "Ann", "part": "dev"},
        {"path": str(folder / "ann/take 1.flac"), "text": 'say "yes", please', "speaker": "Ann", "part": ""},
        {"path": "nowhere.wav", "text": "x", "speaker": "", "part": ""},
        {"path": "", "text": "x", "speaker": "", "part": ""},
        {"path": "../../take.doc", "text": "x", "speaker": "", "part": ""},
    ]
    found, unusable = find_utterances(table(tmp_path / f"list{suffix}", rows))
    assert [(item.text, item.speaker, item.part) for item in found] == [
        ("good morning", "Ann", "valid"),
        ('say "yes", please', "Ann", ""),
    ]
    reasons = [item.reason for item in unusable]
    assert reasons == ["there is no such file", "it has no path", ".doc is not read; convert it to WAV or FLAC"]


def test_no_id_leads_out_of_the_corpus(tmp_path):
    write(tmp_path / "a/x.wav", 1.0, 1)
    (tmp_path / "b").mkdir()
    found, _ = find_utterances(table(tmp_path / "b/list.csv", [{"path": "../a/x.wav", "text": "yes"}]))
    assert [item.id for item in found] == ["a/x"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("list.csv", "file,text\na.wav,yes\n", "names no column path, only file, text"),
        ("list.tsv", "", "names no column path and text"),
        ("list.jsonl", '{"path": "a.wav"\n', "list.jsonl is no table"),
        ("list.jsonl", "[1]\n", "line 1 is no object"),
        ("list.jsonl", '{"path": {}, "text": "x"}\n', "no recording with a transcript .*its path is no text"),
        ("list.csv", b"path,text\n\xff,x\n", "is not UTF-8"),
        ("list.xls", "x", "is no table: give a .tsv, .csv or .jsonl"),
        ("missing.csv", None, "no folder or table"),
    ],
)
def test_tables_that_are_none(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / name, PrepareConfig(out_dir=tmp_path / "data", nj=1))
    assert not (tmp_path / "data/fbank").exists()


def test_nothing_usable_is_one_line_and_no_corpus(tmp_path):
    write(tmp_path / "mine/a.wav", 0.1, 1)
    (tmp_path / "mine/a.txt").write_text("yes")
    with pytest.raises(UserError, match="none of the 1 recordings .* can be used: see unusable.tsv"):
        prepare(tmp_path / "mine", PrepareConfig(out_dir=tmp_path / "data", nj=1))
    assert not (tmp_path / "data/fbank").exists()


# ------------------------------------------------------------------------------------ parts and units


def recorded(speakers: dict[str, int], part: str = "") -> list[tuple[Utterance, Checked]]:
    """A recording of so many samples for each name."""
    return [
        (Utterance(f"{name}-1", Path(name), "x", name, part), Checked("", 0, 0, "", samples))
        for name, samples in speakers.items()
    ]


def test_shares_are_about_those_asked_for():
    parts = divide(recorded({f"s{index}": 100 + index % 7 for index in range(200)}), 0.1, 0.05)
    assert 18 <= len(parts["valid"]) <= 22 and 9 <= len(parts["test"]) <= 11 and list(parts)[0] == "train"
    assert divide(recorded({f"s{index}": 100 for index in range(200)}), 0.1, 0.05).keys() == parts.keys()


def test_a_speaker_of_most_of_the_speech_stays_in_train():
    for name in ("a", "b", "c", "d"):  # wherever its checksum puts it
        parts = divide(recorded({**dict.fromkeys("abcd", 10), name: 1000}), 0.05, 0.05)
        assert name in {item[0].speaker for item in parts["train"]} and parts["test"] and parts["valid"]


def test_parts_that_the_table_names_are_kept():
    given = (
        recorded({"a": 10, "b": 10}, "test-clean") + recorded({"c": 10}, "test-other") + recorded({"d": 10, "e": 10})
    )
    parts = divide(given, 0.05, 0.05)
    assert list(parts) == ["train", "valid", "test-clean", "test-other"]
    assert [len(items) for items in parts.values()] == [1, 1, 2, 1]
    with pytest.raises(UserError, match="no recording is in the part train; the table has"):
        divide(recorded({"a": 10}, "test"), 0.05, 0.05)


def test_few_speakers(caplog):
    items = [(item[0]._replace(speaker="me"), item[1]) for item in recorded(dict.fromkeys("abcdef", 10))]
    with caplog.at_level(logging.WARNING):
        parts = divide(items, 0.05, 0.05)
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [4, 1, 1]
    assert "1 speaker(s) in train are too few" in caplog.text
    with pytest.raises(UserError, match="2 recordings are too few"):
        divide(items[:2], 0.05, 0.05)


def test_text_without_spaces_is_scored_by_characters(folder, tmp_path):
    rows = [
        {"path": str(path), "text": text, "speaker": path.parent.name}
        for path, text in zip(
            sorted(folder.glob("[!b]*/take 0.*[!t]")), ("おはようございます", "ありがとう", "こんにちは", "さようなら")
        )
    ]
    corpus, _ = prepare(
        table(tmp_path / "list.jsonl", rows),
        PrepareConfig(out_dir=tmp_path / "data", nj=1, lang_type="bpe", vocab_size=18, name="greetings"),
    )
    assert (corpus.metric, corpus.unit, corpus.name) == ("CER", "bpe", "greetings")
    lang = find_lang(None, tmp_path / "data/fbank", corpus)
    assert lang.name == "lang_bpe_18" and load_tokenizer(lang).kind == "bpe" and not load_tokenizer(lang).has_words


def test_units_are_the_corpus_s(tmp_path):
    manifests = tmp_path / "fbank"
    assert find_lang(Path("elsewhere"), manifests, CSJ) == Path("elsewhere")
    assert find_lang(None, manifests, CSJ) == tmp_path / "lang_char"  # which loading says is not there
    (tmp_path / "lang_bpe_250").mkdir()
    assert find_lang(None, manifests, AN4) == tmp_path / "lang_bpe_250"  # the only ones
    (tmp_path / "lang_char").mkdir()
    assert find_lang(None, manifests, AN4) == tmp_path / "lang_char"
    (tmp_path / "lang_bpe_500").mkdir()
    bpe = find_corpus(manifests).__class__("own", ("test",), "cuts_{part}.jsonl.gz", unit="bpe")
    with pytest.raises(UserError, match="own has several sets of units, .*lang_bpe_250, .*lang_bpe_500; choose one by"):
        find_lang(None, manifests, bpe)
