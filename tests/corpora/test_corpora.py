"""A corpus is a value: which one, its parts and manifests, the units that it needs."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import subprocess
import sys

import pytest
from fixtures.an4 import ROOT

from sammo.corpora import AN4, CORPORA, CSJ, Corpus, corpus_named, find_corpus, write_marker
from sammo.corpora.__main__ import main as corpora_main
from sammo.corpora.corpus import own_corpus
from sammo.data.config import DataConfig
from sammo.data.datamodule import CsjDataModule
from sammo.data.tokens import CharTokenizer, character_table
from sammo.errors import UserError
from sammo.options import add_options, from_args


def test_what_is_known():
    assert CORPORA == {"csj": CSJ, "an4": AN4}
    assert CSJ.parts == ("train", "valid", "eval1", "eval2", "eval3", "excluded")
    assert (CSJ.default_mode, CSJ.unit, CSJ.metric, CSJ.has_words) == ("fluent", "char", "CER", False)
    assert AN4.parts == ("train", "valid", "test") and (AN4.default_mode, AN4.metric, AN4.has_words) == (
        "",
        "WER",
        True,
    )
    assert CSJ.chosen(["valid", "tests"]) == ["valid", "eval1", "eval2", "eval3"]
    assert AN4.chosen(["tests"]) == ["test"] and AN4.chosen(["test", "other"]) == ["test", "other"]
    assert str(CSJ.manifest_path("data/fbank", "train_sp0.9")) == "data/fbank/csj_cuts_train_sp0.9.jsonl.gz"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(CSJ, "metric", "WER")  # noqa: B010  an assignment would be a finding of the types


def test_the_corpus_is_the_one_named_or_prepared_or_csj(tmp_path):
    assert find_corpus(tmp_path) is CSJ
    write_marker(tmp_path, AN4)
    assert find_corpus(tmp_path) is AN4 and find_corpus(tmp_path, "csj") is CSJ
    other = Corpus("librispeech", ("test-clean", "test-other"), "{part}.jsonl.gz", unit="bpe", metric="WER")
    write_marker(tmp_path, other)
    assert find_corpus(tmp_path) == find_corpus(tmp_path, "librispeech") == other
    with pytest.raises(UserError, match="unknown corpus 'ted'"):
        find_corpus(tmp_path, "ted")
    wrong = [{"metric": "XER"}, {"unit": 1}, {"manifest": "../{part}"}, {"tests": ["a/b"]}, {"parts": []}, {"name": ""}]
    wrong += [{"tests": "abc"}, {"tests": ["a", "a"]}, {"valid": "train"}, {"default_mode": "x"}, {"default_mode": 0}]
    described = other.to_json()
    assert isinstance(described, dict)
    contents = [json.dumps({"corpus": described | change}) for change in wrong]
    for content in (
        "",
        "[" * 100_000,
        "[]",
        "{}",
        '"an4"',
        '{"corpus": "ted"}',
        '{"corpus": {"name": "x"}}',
        *contents,
    ):
        (tmp_path / "corpus.json").write_text(content)
        with pytest.raises(UserError, match="corpus.json is damaged"):
            find_corpus(tmp_path)
        assert find_corpus(tmp_path, "an4") is AN4
    (tmp_path / "corpus.json").unlink()
    os.mkfifo(tmp_path / "corpus.json")
    with pytest.raises(UserError, match="corpus.json is damaged .it is no regular file"):
        find_corpus(tmp_path)


@pytest.mark.parametrize(
    "words, printed",
    [
        (["parts", "csj"], "train valid eval1 eval2 eval3 excluded"),
        (["tests", "an4"], "test"),
        (["unit", "an4"], "char"),
        (["tests", "nowhere"], "eval1 eval2 eval3"),
    ],
)
def test_shell_scripts_ask_for_parts(words, printed, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["corpora", *words])
    corpora_main()
    assert capsys.readouterr().out.strip() == printed


def test_unknown_name_is_one_line_with_the_choices():
    with pytest.raises(UserError, match="^unknown corpus 'ted'; it is one of csj, an4$"):
        corpus_named("ted")
    parser = argparse.ArgumentParser()
    add_options(parser, DataConfig)
    with pytest.raises(UserError, match="unknown corpus 'ted'"):
        from_args(DataConfig, parser.parse_args(["--corpus", "ted"]))


@pytest.mark.parametrize("module", ["decode", "streaming_decode", "parity", "memory"])
def test_commands_decode_the_test_parts_of_any_corpus(module):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"sammo.commands.{module}").add_arguments(parser)
    args = parser.parse_args([])
    assert args.parts == ("tests",) and not args.corpus


@pytest.mark.parametrize("script", ["train.py", "decode.py"])
def test_scripts_of_the_second_recipe(script):
    """egs/an4 has the scripts of egs/csj, with the library beside them."""
    done = subprocess.run(
        [sys.executable, ROOT / "egs/an4/ASR/sammo" / script, "--help"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "--corpus" in done.stdout


def test_units_without_spaces_are_refused_where_words_count(tmp_path):
    write_marker(tmp_path, AN4)
    with pytest.raises(UserError, match="an4 has words, but its units have no space between them; .*--words"):
        CsjDataModule(DataConfig(manifest_dir=tmp_path), CharTokenizer(character_table(["YES NO"])))
    module = CsjDataModule(
        DataConfig(manifest_dir=tmp_path), CharTokenizer(character_table(["YES NO"], has_words=True))
    )
    assert module.corpus is AN4 and module.mode == ""
    assert CsjDataModule(DataConfig(manifest_dir=tmp_path, corpus="csj"), module.tokenizer).mode == "fluent"


def test_chosen_parts():
    assert CSJ.chosen(["valid", "tests", "eval1"]) == ["valid", *CSJ.tests]
    with pytest.raises(UserError, match="--parts names no part; csj has "):
        CSJ.chosen([])


@pytest.mark.parametrize(("name", "part"), [("mine", "../../x"), ("mine", "a/b"), ("../mine", "test"), ("mine", "..")])
def test_parts_of_a_table_lead_nowhere(name, part):
    """They become parts of the names of manifests."""
    with pytest.raises(UserError, match="one of its parts or modes is no word"):
        own_corpus(name, [part], False, "char")
    assert own_corpus("mine", ["test-2"], False, "char").tests == ("test-2",)
