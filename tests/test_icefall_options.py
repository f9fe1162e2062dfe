"""Options as icefall calls them: taken where they mean something here, refused in one line where they do not."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from fixtures.paths import ROOT

from sammo import icefall_options
from sammo.commands import decode, export, streaming_decode, train
from sammo.errors import UserError
from sammo.options import from_args
from sammo.training.config import TrainConfig

COMMANDS = {"train": train, "decode": decode, "streaming_decode": streaming_decode, "export": export}


def parse(command: str, words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    COMMANDS[command].add_arguments(parser)
    return parser.parse_args(words.split())


@pytest.mark.parametrize(
    "command, words",
    [
        ("train", "--causal 1 --use-transducer true --use-fp16 1 --enable-musan 1 --bucketing-sampler True"),
        (
            "train",
            "--concatenate-cuts false --gap 1.0 --duration-factor 1 --return-cuts 1 --rnnt-type regular --delay-penalty 0.0",
        ),
        ("decode", "--causal 1 --max-sym-per-frame 1 --use-ctc 0 --skip-scoring False --pad-feature 0"),
        ("streaming_decode", "--causal true --max-sym-per-frame 1 --pad-feature 30"),
        ("export", "--causal 1 --dynamic-batch 1 --use-int32-inputs 0 --use-whisper-features false --fp16 false"),
    ],
)
def test_what_is_done_anyway(command, words):
    args = parse(command, words)
    assert not [name for name in vars(args) if name.startswith("icefall")]


def test_what_another_option_does():
    for command in COMMANDS:
        assert parse(command, "--bpe-model data/lang_bpe_500/bpe.model").lang == Path("data/lang_bpe_500")
        assert parse(command, "--tokens data/lang_char/tokens.txt").lang == Path("data/lang_char")
        assert parse(command, "--lang-dir data/x").lang == Path("data/x")
    assert parse("train", "--input-strategy OnTheFlyFeatures").on_the_fly_feats is True
    assert parse("decode", "--input-strategy PrecomputedFeatures").on_the_fly_feats is False
    assert parse("export", "--enable-int8-quantization 1 --fp16 True").int8 is True
    assert parse("export", "--int8 true --enable-int8-quantization 0").int8 is False
    assert parse("train", "--scan-for-oom-batches False").oom_scan == "false"
    scales = {"": 0.0, "--use-ctc true": 0.2, "--use-ctc 1 --ctc-loss-scale 0.5": 0.5, "--ctc-loss-scale 1": 1.0}
    scales["--use-ctc false --ctc-loss-scale 1"] = 0.0
    for words, scale in scales.items():
        assert from_args(TrainConfig, parse("train", words)).ctc_loss_scale == scale


@pytest.mark.parametrize(
    "command, words, message",
    [
        ("train", "--causal 0", "icefall's --causal 0: every encoder here is causal; --chunk-size -1"),
        ("train", "--use-transducer false", "every model here is a transducer"),
        ("train", "--full-libri 1", "the parts are the corpus's: --manifest-dir"),
        ("train", "--bpe-model data/unigram.model", "name its directory by --lang"),
        ("train", "--input-strategy AudioSamples", "use --on-the-fly-feats true or false"),
        ("decode", "--max-sym-per-frame 3", "at most one symbol a frame"),
        ("decode", "--num-encoder-layers 2,2,3,4,3,2", "read from its checkpoint"),
        ("decode", "--decode-chunk-len 32", "frames of 20 ms: --chunk-size, half as many"),
        ("decode", "--lm-exp-dir exp/lm", "--lm FILE --lm-scale X"),
        ("streaming_decode", "--encoder-dim 192", "read from its checkpoint"),
        ("export", "--dynamic-batch 0", "every export takes any number of streams"),
        ("export", "--use-whisper-features true", "features are lhotse's Fbank"),
        ("export", "--num-encoder-layers 2,2,3,4,3,2", "read from its checkpoint"),
        ("streaming_decode", "--pad-feature 0", "a stream always ends with 30 frames of silence"),
    ],
)
def test_refusals(command, words, message):
    with pytest.raises(UserError, match=message) as error:
        parse(command, words)
    assert "\n" not in str(error.value)


def test_all_are_in_the_documentation():
    page = (ROOT / "docs/differences.md").read_text(encoding="utf-8")
    tables = (icefall_options.COMMON, icefall_options.DATA, icefall_options.TRAIN, icefall_options.DECODE)
    tables += (icefall_options.EXPORT,)
    names = [name for table in tables for entry in table for name in entry.names]
    assert [name for name in names if f"`--{name}" not in page] == []
