"""Packages: written whole, read only undamaged, and taken wherever an experiment is."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from fixtures.streaming import make_model, speech
from fixtures.training import checkpoint_of, small_config

import sammo
from sammo import cli
from sammo.checkpoint import load_model, write_checkpoint
from sammo.commands import info, package
from sammo.corpora import CSJ
from sammo.data.tokens import character_table, format_token_table, load_tokenizer
from sammo.decoding import default_directory, load_system, working_directory
from sammo.errors import UserError
from sammo.options import ModelSource, Search
from sammo.scoring import write_results
from sammo.sums import write_sums
from sammo.training.finetuning import init_from
from sammo.transducer import Transducer

LETTERS = "abcdefghijklmnopqrstuvwxyzäöüß0123456"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """An experiment with a model that emits, its units, and results."""
    directory = tmp_path_factory.mktemp("package")
    lang = directory / "lang"
    lang.mkdir()
    (lang / "tokens.txt").write_text(format_token_table(character_table([LETTERS])), encoding="utf-8")
    tokenizer = load_tokenizer(lang)
    (directory / "exp").mkdir()
    model = make_model("sammo", tokenizer.vocab_size)
    write_checkpoint(directory / "exp/epoch-1.pt", checkpoint_of(model, tokenizer.fingerprint))
    return directory


def make(work, out, *words, model="exp"):
    args = cli.parse(["package", str(work / model), str(out), "--lang", str(work / "lang"), *map(str, words)])
    package.run(args)
    return out


def weights_of(path):
    return load_model(path)[0].state_dict()


@pytest.fixture(scope="module")
def packaged(work):
    return make(work, work / "packages/tiny")


def test_a_package_is_the_model(work, packaged):
    ours, theirs = weights_of(work / "exp"), weights_of(packaged)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    model, tokenizer, facts = sammo.from_pretrained(packaged)
    assert not model.training and tokenizer.fingerprint == facts.tokenizer == load_tokenizer(work / "lang").fingerprint
    assert facts.checkpoint.startswith("tiny, batch 10, sha256 ") and facts.preset == "tiny"
    assert {path.name for path in packaged.iterdir()} == {
        *"README.md SHA256SUMS config.json lang_type model.safetensors tokens.txt".split()
    }
    for line in (packaged / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((packaged / name).read_bytes()).hexdigest() == digest
        assert (packaged / name).stat().st_mode & 0o444 == 0o444


def test_half_precision_halves_the_file_and_says_so(work, packaged, tmp_path):
    half = make(work, tmp_path / "half", "--dtype", "float16")
    sizes = [(path / "model.safetensors").stat().st_size for path in (half, packaged)]
    assert 0.5 < sizes[0] / sizes[1] < 0.65
    ours, theirs = weights_of(packaged), weights_of(half)
    rounded = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert all(torch.equal(ours[name].half().float(), theirs[name]) for name in rounded)
    assert len(rounded) > 50 and all(ours[name].ndim == 2 for name in rounded)
    assert not any(name.startswith(("joiner", "predictor")) for name in rounded)
    assert load_model(half)[1].checkpoint != load_model(packaged)[1].checkpoint.replace("tiny", "half")
    assert "MB, matrices in float16" in (half / "README.md").read_text()
    model = make_model("sammo", 40)
    model.simple_am_proj.weight.data[1] = 1e6
    write_checkpoint(tmp_path / "large.pt", checkpoint_of(model, load_tokenizer(work / "lang").fingerprint))
    with pytest.raises(UserError, match="simple_am_proj.weight .* float16 cannot hold"):
        make(work, tmp_path / "large", "--dtype", "float16", model=tmp_path / "large.pt")
    assert not (tmp_path / "large").exists()


@pytest.mark.parametrize("where", ["exp_dir", "checkpoint"])
def test_one_resolver_takes_it_with_its_units(packaged, where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = ModelSource(**{where: packaged})
    assert load_system(source).tokenizer.vocab_size == 40
    # A package stays as it is: what is made of it goes elsewhere.
    assert working_directory(source) == Path("exp/tiny")
    assert default_directory(source, Search()) == Path("exp/tiny/modified_beam_search")
    for option in ({"epoch": 1}, {"iter": 5}, {"avg": 2}):
        with pytest.raises(UserError, match="is a package, which holds one model"):
            load_system(ModelSource(exp_dir=packaged, **option))
    (tmp_path / "lang").mkdir()
    (tmp_path / "lang/tokens.txt").write_text(format_token_table(character_table(["xyz"])))
    with pytest.raises(UserError, match="other output units"):
        load_system(ModelSource(exp_dir=packaged, lang=tmp_path / "lang"))


def test_info_and_fine_tuning_take_it(work, packaged, capsys):
    info.run(cli.parse(["info", "--json", str(packaged)]))
    facts = json.loads(capsys.readouterr().out)
    assert facts["vocab_size"] == 40 and facts["preset"] == "tiny" and facts["encoder"] == "sammo"
    fresh = Transducer(load_model(packaged)[0].config)
    init_from(fresh, packaged, 1, load_tokenizer(work / "lang").fingerprint)
    theirs = weights_of(packaged)
    assert all(torch.equal(value, theirs[name]) for name, value in fresh.state_dict().items())
    with pytest.raises(UserError, match="--init-from: .* is a package"):
        init_from(fresh, packaged, 3, "units")


def test_a_package_is_packaged_again(work, packaged, tmp_path):
    again = make(work, tmp_path / "tiny", model=packaged)
    assert (again / "model.safetensors").read_bytes() == (packaged / "model.safetensors").read_bytes()
    make(work, again, "--dtype", "float16")  # replaces it
    assert (again / "model.safetensors").stat().st_size < (packaged / "model.safetensors").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_nothing_that_is_no_package_is_overwritten(work, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/final.tex").write_text("")
    for out, message in (("thesis", "exists and is no package"), ("thesis/final.tex", "exists and is no package")):
        with pytest.raises(UserError, match=message):
            make(work, tmp_path / out)
    with pytest.raises(UserError, match="no name for a package"):
        make(work, tmp_path / "a,b")
    with pytest.raises(UserError, match="--notes .* no such file"):
        make(work, tmp_path / "new", "--notes", tmp_path / "nothing.md")
    with pytest.raises(UserError, match="no directory"):
        make(work, tmp_path / "new", "--results", tmp_path / "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_the_card_shows_results_of_these_weights_only(work, tmp_path):
    from sammo.decoding import Chunking, describe
    from sammo.options import Speech

    source = ModelSource(exp_dir=work / "exp", lang=work / "lang")
    model, _, facts = load_system(source)
    setting = describe(model, facts, source, Search(), Speech(), Chunking(32, 0))
    utterances = [("a", "abcdefgh", "abcdefgx", []), ("b", "hallo", "hallo", [])]
    write_results(tmp_path / "res", setting, "eval1", utterances, corpus=CSJ)
    write_results(tmp_path / "res", setting, "eval2", utterances, corpus=CSJ, failed={"a": "lost"})
    other = setting.__class__(**{**vars(setting), "checkpoint": "epoch-7, batch 9, sha256 0"})
    write_results(tmp_path / "other", other, "eval1", [("a", "abc", "xyz", [])], corpus=CSJ)
    (tmp_path / "notes.md").write_text("Learned from letters.")
    words = ["--results", tmp_path / "res", "--notes", tmp_path / "notes.md", "--dataset", "letters"]
    card = (make(work, tmp_path / "with", *words) / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sammo\n") and 'license: "apache-2.0"\nlanguage: "ja"\n' in card
    assert '- {type: cer, value: 7.69, name: "CER, chunk 32 (0.64 s)"}' in card
    assert "## Character error rates on letters" in card and "| 7.69 (" in card and "eval2" not in card
    assert "Learned from letters." in card and "--dataset letters" in card and "90 KiB between chunks" in card
    with pytest.raises(UserError, match="no complete results of these weights"):
        make(work, tmp_path / "without", "--results", tmp_path / "other")
    assert "error rate" not in (make(work, tmp_path / "without") / "README.md").read_text()


def test_any_damaged_file_is_one_line(packaged, tmp_path):
    for name in ("README.md", "config.json", "lang_type", "model.safetensors", "tokens.txt"):
        copy = Path(shutil.copytree(packaged, tmp_path / name))
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name} is damaged: its sha256"):
            load_model(copy)
        (copy / name).unlink()
        with pytest.raises(UserError, match=f"lacks {name}"):
            load_model(copy)
    copy = Path(shutil.copytree(packaged, tmp_path / "sums"))
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="lacks SHA256SUMS"):
        load_model(copy)
    for line in ("nonsense", f"{'0' * 64}  ../secret", f"{'0' * 64}  /etc/passwd", "\udcff"):
        (copy / "SHA256SUMS").write_text(line, errors="surrogateescape")
        with pytest.raises(UserError, match="SHA256SUMS"):
            load_model(copy)


def lie(packaged, path, change):
    """A copy whose configuration is changed and whose checksums are right."""
    copy = Path(shutil.copytree(packaged, path))
    content = json.loads((copy / "config.json").read_text())
    change(content)
    (copy / "config.json").write_text(json.dumps(content))
    write_sums(copy)
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other"), "its format is 'other'"),
        (lambda c: c.update(version=2), "of version 2 .* update Sammo"),
        (lambda c: c.pop("epoch"), "it has no epoch"),
        (lambda c: c.update(epoch="1"), "its epoch is a str, not a int"),
        (lambda c: c.update(transcript_mode="../../x"), "its transcript_mode is '../../x', no name"),
        (lambda c: c.update(model=[]), "cannot be used"),
        (lambda c: c["model"].update(vocab_size=41), "does not hold the model that it describes"),
        (lambda c: c["model"].update(vocab_size=10**12), "cannot be used"),
        (
            lambda c: c["model"]["encoder"].update(num_layers=[1, 1, 150, 1]),
            "does not hold the model that it describes",
        ),
    ],
)
def test_a_configuration_that_lies(packaged, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load_model(lie(packaged, tmp_path / "copy", change))


def test_weights_that_lie(packaged, tmp_path):
    copy = Path(shutil.copytree(packaged, tmp_path / "copy"))
    weights = safetensors.torch.load_file(copy / "model.safetensors")
    odd = [
        {**weights, "more": torch.zeros(1)},
        {name: value for name, value in weights.items() if "joiner" not in name},
        {name: value[..., None] for name, value in weights.items()},
        {name: value * float("nan") for name, value in weights.items()},
        {name: value.to(torch.int64) for name, value in weights.items()},
    ]
    for content in odd:
        safetensors.torch.save_file(content, copy / "model.safetensors")
        write_sums(copy)
        with pytest.raises(UserError, match="does not hold the model that it describes|something else than weights"):
            load_model(copy)
    for data in (b"", b"\xff" * 64, b"[" * 1000):
        (copy / "model.safetensors").write_bytes(data)
        write_sums(copy)
        with pytest.raises(UserError, match="holds no weights"):
            load_model(copy)


def test_no_package(tmp_path):
    with pytest.raises(UserError, match="is no package"):
        sammo.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="no checkpoint, experiment directory or package"):
        load_model(tmp_path / "nothing")


def test_byte_pairs_travel_with_their_checksum(tmp_path):
    from sammo.preparation.units import train_byte_pairs as train

    lang = tmp_path / "lang"
    lang.mkdir()
    (lang / "bpe.model").write_bytes(train(["あいうえお", "あいあいう", "うえおかき"] * 5, 16))
    (lang / "bpe.model.sha256").write_text(hashlib.sha256((lang / "bpe.model").read_bytes()).hexdigest())
    fingerprint = load_tokenizer(lang).fingerprint
    write_checkpoint(tmp_path / "a.pt", checkpoint_of(Transducer(small_config(vocab_size=16)), fingerprint))
    package.run(cli.parse(["package", str(tmp_path / "a.pt"), str(tmp_path / "bpe"), "--lang", str(lang)]))
    _, tokenizer, _ = sammo.from_pretrained(tmp_path / "bpe")
    assert tokenizer.kind == "bpe" and tokenizer.fingerprint == fingerprint
    assert (tmp_path / "bpe/bpe.model.sha256").is_file()
    card = (tmp_path / "bpe/README.md").read_text()
    assert "16 units (bpe)" in card and "language:" not in card


def test_an_export_in_a_package_is_of_its_weights(work, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from sammo.options import Deployment
    from sammo.search import make_searcher
    from sammo.streaming.recognizer import StreamingRecognizer
    from sammo.streaming.runtimes import make_runtime
    from sammo.streaming.session import Sessions

    out = make(work, tmp_path / "both", "--dtype", "float16", "--onnx-chunk-size", "16")
    assert "onnx-16/encoder.onnx" in (out / "SHA256SUMS").read_text()
    deployment = Deployment("onnxruntime", out / "onnx-16")
    with pytest.raises(UserError, match="from other weights"):
        make_runtime(load_model(work / "exp")[0], deployment, 16)
    # A session goes from one runtime to the other.
    model, tokenizer, _ = sammo.from_pretrained(out)
    found = []
    for runtime in (None, make_runtime(model, deployment, 16)):
        owners = [
            Sessions(StreamingRecognizer(model, make_searcher(model), 16, runtime=chosen), tokenizer)
            for chosen in (None, runtime)
        ]
        session = owners[0].open()
        session.feed(speech(1.5, 3))
        owners[0].run()
        session = owners[1].open(snapshot=session.snapshot())
        session.feed(speech(1.5, 4))
        session.finish()
        owners[1].run()
        found.append(session.events()[-1].tokens)
    assert found[0] == found[1] and len(found[0]) > 10
    with pytest.raises(UserError, match="chunks of 16 frames only"):
        owners[1].open(chunk_size=32)
    (out / "onnx-16/decoder.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="decoder.onnx is damaged"):
        load_model(out)


def test_8_bits_are_fitted_to_training_speech(work, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from sammo.export import onnx
    from sammo.export.verify import STREAMS, speechlike

    words = ("--onnx-chunk-size", "16", "--int8", "--manifest-dir", tmp_path / "fbank")
    with pytest.raises(UserError, match="int8 is fitted to training speech, and .*fbank has none: pass --manifest-dir"):
        make(work, tmp_path / "int8", *words)
    assert not (tmp_path / "int8").exists()

    asked, fitted = [], []

    def training_speech(speech, frames):
        asked.append(speech.manifest_dir)
        return torch.stack([speechlike(frames, seed + 7) for seed in range(STREAMS)])

    def sensitive_products(graph, path, features):
        fitted.append(features)
        return []

    monkeypatch.setattr(onnx, "training_speech", training_speech)
    monkeypatch.setattr(onnx, "sensitive_products", sensitive_products)
    monkeypatch.setattr(onnx, "verify", lambda *_: 0.0)
    out = make(work, tmp_path / "int8", *words)
    assert (out / "onnx-16/encoder.int8.onnx").is_file() and "--manifest-dir" in (out / "README.md").read_text()
    assert asked == [tmp_path / "fbank"] and torch.equal(fitted[0][0], speechlike(fitted[0].shape[1], 7))
