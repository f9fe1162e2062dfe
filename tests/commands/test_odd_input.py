"""Values out of all bounds, names that are no text, outputs that take no Japanese: one line each, or it works."""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.paths import ROOT
from fixtures.streaming import make_model
from make_shar import make_shar  # noqa: E402
from transcript_modes import read_mode  # noqa: E402

from sammo.data.config import DataConfig
from sammo.data.tokens import CHECKSUM, BpeTokenizer, character_table, format_token_table, load_tokenizer
from sammo.decoding import chunkings
from sammo.errors import UserError, run_main
from sammo.files import atomic_write
from sammo.memory.command import conditions
from sammo.options import Streams, add_options, from_args
from sammo.search import make_searcher
from sammo.streaming.recognizer import StreamingRecognizer, recognize
from sammo.training.config import TrainConfig
from sammo.transducer import model_config


@pytest.fixture(scope="module")
def model():
    return make_model("sammo")


def data_config(*words):
    parser = argparse.ArgumentParser()
    add_options(parser, DataConfig)
    return from_args(DataConfig, parser.parse_args(words))


@pytest.mark.parametrize(
    "use, message",
    [
        (lambda model: TrainConfig(num_threads=100_000), "--num-threads must be 0 to 1024, got 100000: threads beyond"),
        (lambda model: TrainConfig(base_lr=float("nan")), "--base-lr must be a number, got nan"),
        (lambda model: TrainConfig(time_budget_minutes=float("inf")), "--time-budget-minutes must be a number"),
        (lambda model: TrainConfig(world_size=10**6), "--world-size must be 0 to 1024"),
        (lambda model: TrainConfig(seed=10**20), "--seed must be 0 to 4294967296, got 1000"),
        (lambda model: TrainConfig(dist_timeout_minutes=1e300), "--dist-timeout-minutes must be 0 to 1000000, got 1e"),
        (lambda model: Streams(num_decode_streams=0), "--num-decode-streams must be 1 to 100000, got 0"),
        (lambda model: conditions(model.encoder, [100_000_000], [1.0], None), "--chunk-size must be 1 to 30000"),
        (lambda model: data_config("--num-workers", "100000"), "--num-workers must be 0 to 1024"),
        (lambda model: data_config("--max-duration", "nan"), "--max-duration must be above 0"),
        (
            lambda model: chunkings(model, [100_000_000], [64]),
            "--chunk-size must be 1 to 30000, got 100000000: a chunk",
        ),
        (lambda model: chunkings(make_model("zipformer"), [32], [10**9]), "--left-context-frames must be 0 to 30000"),
        (lambda model: StreamingRecognizer(model, None, 100_000_000), "--chunk-size must be 1 to 30000"),
        (lambda model: list(recognize(None, [], 10**9)), "number of streams must be 1 to 100000"),
        (lambda model: make_searcher(model, "modified_beam_search", 1_000_000), "beam_size must be .* at most 1000"),
        (lambda model: make_searcher(model, "modified_beam_search", 0), "beam_size must be at least 1"),
        (lambda model: make_searcher(model, temperature=float("inf")), "temperature must be positive"),
        (lambda model: make_searcher(model, blank_penalty=float("nan")), "blank_penalty must be a number"),
        (
            lambda model: model_config("sammo", "tiny", 40, num_layers=(10**9, 1, 1, 1)),
            "num_layers is 1000000000, at most 200",
        ),
        (lambda model: model_config("sammo", "tiny", 10**9), "vocab_size is 1000000000"),
        (lambda model: model_config("sammo", "tiny", 40, mamba_head_dim=0), "mamba_head_dim .* must be positive"),
        (lambda model: model_config("sammo", "tiny", 40, mamba_expand=float("inf")), "mamba_expand is inf, no number"),
        (lambda model: TrainConfig(num_threads=10**400).check(), "--num-threads must be 0 to 1024, got 1000"),
        (lambda model: model_config("sammo", "tiny", 40, joiner_dim=10**9), "joiner_dim is 1000000000"),
    ],
)
def test_bounds_have_a_reason(model, use, message):
    with pytest.raises(UserError, match=message):
        use(model)


def test_shard_size(tmp_path):
    from fixtures.data import make_cuts

    make_cuts(tmp_path, "train", 1, 0).to_file(tmp_path / "cuts.jsonl.gz")
    with pytest.raises(UserError, match="--shard-size must be at least 1"):
        make_shar([tmp_path / "cuts.jsonl.gz"], tmp_path / "shar", 0, "features", 1)
    command = [ROOT / "prepare.sh", "--shard-size", "0", "--data-dir", tmp_path / "data"]
    result = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr == "error: --shard-size must be at least 1 cut\n"


@pytest.mark.parametrize(
    "encoding, shown",
    [("ascii", b"\xff.wav\t\\u3042\n"), ("latin-1", b"\xff.wav\t\\u3042\n"), ("utf-8", b"\xff.wav\t\xe3\x81\x82\n")],
)
def test_any_name_and_text_can_be_printed(encoding, shown):
    code = r"from sammo.errors import run_main; run_main(lambda: print('\udcff.wav\t\u3042'))"
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert result.stdout == shown and result.stderr == b"" and result.returncode == 0


@pytest.mark.parametrize("make", [lambda p: Path("/" + "a" * 5000), lambda p: p / "file" / "below", lambda p: p])
def test_paths_that_are_none(tmp_path, capsys, make):
    (tmp_path / "file").write_text("")
    path = make(tmp_path)
    with pytest.raises(SystemExit) as ending:
        run_main(lambda: open(path).close())
    error = capsys.readouterr().err
    assert ending.value.code == 1 and error.startswith("error: ") and error.count("\n") == 1 and len(error) < 2100


@pytest.mark.parametrize("what", ["directory", "/dev/zero", "fifo", "large"])
def test_mode_files_that_are_none(tmp_path, what):
    path = Path(what) if what.startswith("/") else tmp_path / what
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "large":
        path.write_bytes(bytes(2 << 20))
    with pytest.raises(UserError, match="no transcript-mode file"):
        read_mode(path)


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = (
        "import os, sys; from sammo.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file: file.write('half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "tokens.txt"
    subprocess.run([sys.executable, "-c", code, path], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert len(list(tmp_path.glob(".tmp-*-tokens.txt"))) == 1
    (tmp_path / ".tmp-elsewhere.1-tokens.txt").write_text("of another host, which may still be writing")
    with atomic_write(tmp_path / "other.txt"), atomic_write(path) as file:  # one that is being written stays
        file.write("whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp-elsewhere.1-tokens.txt", "other.txt", "tokens.txt"]


def test_flipped_bits_in_a_language_directory(tmp_path):
    """Another table, which checkpoints refuse by its fingerprint, or one line."""
    table = format_token_table(character_table(["あいう"])).encode()
    whole = None
    for content in (table, *(flipped(table, bit) for bit in range(0, 8 * len(table), 3))):
        (tmp_path / "tokens.txt").write_bytes(content)
        try:
            found = load_tokenizer(tmp_path)
        except UserError as error:
            assert "\n" not in str(error)
            continue
        assert whole is None or found.fingerprint != whole.fingerprint
        whole = whole or found
    for content in (b"\xff", b"", b"bp", bytes(200)):
        (tmp_path / "lang_type").write_bytes(content)
        with pytest.raises(UserError, match="unknown lang type"):
            load_tokenizer(tmp_path)


def flipped(content: bytes, bit: int) -> bytes:
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def test_flipped_bits_in_a_bpe_model(tmp_path):
    from sammo.preparation.units import train_byte_pairs as train

    content = train(["あいうえお", "あいあいう", "うえおかき"] * 5, 16)
    path = tmp_path / "bpe.model"
    path.write_bytes(content)
    whole = load_tokenizer(tmp_path)
    (tmp_path / CHECKSUM).write_text(hashlib.sha256(content).hexdigest() + "\n")
    assert load_tokenizer(tmp_path).fingerprint == whole.fingerprint
    for bit in range(0, 8 * len(content), 61):
        path.write_bytes(flipped(content, bit))
        with pytest.raises(UserError, match="is damaged"):
            load_tokenizer(tmp_path)
        try:
            BpeTokenizer(path)
        except UserError as error:
            assert "\n" not in str(error)
