"""decode.py: what it decodes, writes, skips and refuses."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest
import torch
from fixtures.data import make_corpus
from fixtures.streaming import make_model
from fixtures.training import Letters, checkpoint_of, make_batch

from sammo import decoding
from sammo.checkpoint import write_checkpoint
from sammo.commands import decode as command
from sammo.data.manifests import read_cuts, write_cuts
from sammo.data.tokens import load_tokenizer
from sammo.decoding import Chunking, chunkings, decode_batches, with_tails
from sammo.errors import UserError
from sammo.geometry import PADDING_VALUE
from sammo.scoring import read_results
from sammo.scoring.cer import total
from sammo.search import make_searcher


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A corpus, and an experiment directory for each encoder with epoch-1.pt and epoch-2.pt."""
    directory = tmp_path_factory.mktemp("decode")
    make_corpus(directory, train=2, valid=5)
    tokenizer = load_tokenizer(directory / "lang_char")
    for name in ("sammo", "zipformer"):
        model = make_model(name, tokenizer.vocab_size)
        (directory / name).mkdir()
        for epoch in (1, 2):
            checkpoint = checkpoint_of(model, tokenizer.fingerprint, epoch, transcript_mode="disfluent")
            write_checkpoint(directory / name / f"epoch-{epoch}.pt", checkpoint)
    return directory


def decode(work, name, *words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    common = ["--exp-dir", work / name, "--manifest-dir", work / "fbank", "--lang", work / "lang_char"]
    common += ["--parts", "eval1"]
    return command.run(parser.parse_args([str(word) for word in (*common, "--num-workers", 0, *words)]))


def test_tails():
    features = torch.zeros(2, 7, 80)
    padded, lengths = with_tails(features, torch.tensor([7, 4]))
    assert padded.shape == (2, 37, 80) and lengths.tolist() == [37, 34]
    assert padded[0, :7].eq(0).all() and padded[0, 7:].eq(PADDING_VALUE).all()
    assert padded[1, :4].eq(0).all() and padded[1, 4:].eq(PADDING_VALUE).all()


@pytest.mark.parametrize("frames", [0, 7])
def test_tails_of_other_lengths(frames):
    padded, lengths = with_tails(torch.zeros(2, 7, 80), torch.tensor([7, 4]), frames)
    assert padded.shape == (2, 7 + frames, 80) and lengths.tolist() == [7 + frames, 4 + frames]


def test_left_contexts_of_whole_chunks():
    """icefall's: max(left // chunk, 1) chunks."""
    model = make_model("zipformer")
    exact = chunkings(model, [32, 128], [64, 144, -1])
    assert exact == [Chunking(chunk, left) for chunk in (32, 128) for left in (64, 144, -1)]
    assert chunkings(model, [32, 128, -1], [64, 144, -1], round_left_context=True) == [
        Chunking(32, 64), Chunking(32, 128), Chunking(32, -1), Chunking(128, 128), Chunking(128, -1), Chunking(-1, -1)
    ]  # fmt: skip
    assert chunkings(make_model("sammo"), [128], [64], round_left_context=True) == [Chunking(128, 0)]


@pytest.mark.parametrize("name", ["sammo", "zipformer"])
def test_batches_do_not_matter(name):
    model = make_model(name)
    tokenizer = Letters(model.config.vocab_size)
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([290, 200, 131])
    features = torch.randn(3, 290, 80, generator=generator).cumsum(1) * 0.3
    batch = make_batch(features, lengths, [[1], [2], [3]], "cut")
    alone = [
        make_batch(features[row : row + 1, :length], lengths[row : row + 1], [[row + 1]], "cut")
        for row, length in enumerate(lengths)
    ]
    settings = chunkings(model, [16, 32, -1], [64])
    wanted = ((16, 64), (32, 64), (-1, -1))
    assert settings == [Chunking(chunk, 0 if name == "sammo" else left) for chunk, left in wanted]
    searcher = make_searcher(model, "modified_beam_search", 4)
    together = decode_batches(model, searcher, [batch], tokenizer, settings)
    separate = decode_batches(model, searcher, alone, tokenizer, settings)
    for setting in settings:
        assert [(d.hypothesis, d.times) for d in together[setting]] == [
            (d.hypothesis, d.times) for d in separate[setting]
        ]
        assert any(d.hypothesis for d in together[setting])
        for decoded in together[setting]:
            assert len(decoded.times) == len(decoded.hypothesis)
            assert all(time == pytest.approx(round(time / 0.04) * 0.04) for time in decoded.times)
    assert any(together[settings[0]][row] != together[settings[2]][row] for row in range(3))


def test_writes_skips_and_forces(work, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    words = ["--chunk-size", "16,32", "--left-context-frames", "64,128", "--res-dir", tmp_path, "--beam-size", 2]
    assert decode(work, "zipformer", *words) == 0
    results = read_results(tmp_path)
    assert {(r.setting.chunk_size, r.setting.left_context_frames) for r in results} == {
        (16, 64), (16, 128), (32, 64), (32, 128)
    }  # fmt: skip
    for result in results:
        setting = result.setting
        assert (setting.encoder, setting.preset, setting.epoch, setting.avg) == ("zipformer", "tiny", 2, 1)
        assert setting.beam_size == 2 and not setting.streaming and setting.d_state == 0
        assert len(result.cut_ids) == 5
    assert len({result.setting.state_bytes for result in results}) == 2
    # The transcript mode is the checkpoint's: its references begin with a filler.
    recogs = next(tmp_path.glob("recogs-eval1-*.txt")).read_text(encoding="utf-8")
    assert "ref=['え'" in recogs
    assert len(list(tmp_path.glob("errs-*.txt"))) == 4

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode_batches", None)  # would fail if it were called
        assert decode(work, "zipformer", *words) == 0
        assert "4 of 4 settings were decoded before" in caplog.text
        with pytest.raises(TypeError):
            decode(work, "zipformer", *words, "--force")
    caplog.clear()
    words[1] = "16,32,64"
    assert decode(work, "zipformer", *words) == 0
    assert "4 of 6 settings were decoded before" in caplog.text and len(read_results(tmp_path)) == 6
    # Other weights of the same name are decoded again.
    path = next(tmp_path.glob("cer-*.json"))
    record = json.loads(path.read_text(encoding="utf-8"))
    record["setting"]["checkpoint"] = "something else"
    path.write_text(json.dumps(record), encoding="utf-8")
    caplog.clear()
    assert decode(work, "zipformer", *words) == 0
    assert "5 of 6 settings were decoded before" in caplog.text


def test_whatever_changes_a_result_is_decoded_and_filed_apart(work, tmp_path):
    words = ["--res-dir", tmp_path, "--decoding-method", "modified_beam_search"]
    changes = [
        [],
        ["--blank-penalty", 1],
        ["--temperature", 2],
        ["--beam-size", 2],
        ["--pad-feature", 0],
        ["--transcript-mode", "number"],
        ["--on-the-fly-feats", "false"],
        ["--checkpoint", work / "sammo/epoch-1.pt"],
    ]
    for count, change in enumerate(changes, start=1):
        assert decode(work, "sammo", *words, *change) == 0
        assert len(read_results(tmp_path)) == count
    assert decode(work, "zipformer", *words) == 0 and len(read_results(tmp_path)) == len(changes) + 1
    assert len({result.setting for result in read_results(tmp_path)}) == len(changes) + 1


def test_another_manifest_is_decoded_anew(work, tmp_path, caplog):
    """Of the same name, with as many cuts of the same ids: only a text has changed."""
    caplog.set_level("INFO")
    manifests = shutil.copytree(work / "fbank", tmp_path / "fbank")
    words = ["--res-dir", tmp_path / "results", "--decoding-method", "greedy_search", "--manifest-dir", manifests]
    assert decode(work, "sammo", *words) == 0
    path = manifests / "csj_cuts_eval1.jsonl.gz"
    cuts = list(read_cuts(path))
    write_cuts(path, cuts)  # packed otherwise
    assert decode(work, "sammo", *words) == 0 and "1 of 1 settings were decoded before" in caplog.text
    (before,) = read_results(tmp_path / "results")
    text = cuts[0].supervisions[0].custom["disfluent"]
    cuts[0].supervisions[0].custom["disfluent"] = text + text
    write_cuts(path, cuts)
    caplog.clear()
    assert decode(work, "sammo", *words) == 0
    assert "eval1: decoded before from another manifest; decoding it again" in caplog.text
    (after,) = read_results(tmp_path / "results")
    assert total(after.counts["CER"]).ref == total(before.counts["CER"]).ref + len(text)
    assert after.inputs["manifest"] != before.inputs["manifest"] and after.inputs["units"] == before.inputs["units"]
    # Results of before manifests were noted are not taken for those of this one.
    record = json.loads(after.path.read_text(encoding="utf-8"))
    del record["inputs"]
    after.path.write_text(json.dumps(record), encoding="utf-8")
    caplog.clear()
    assert decode(work, "sammo", *words) == 0 and "another manifest and units; decoding" in caplog.text


def test_other_hotwords_are_decoded_anew(work, tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "names.txt"
    words = ["--res-dir", tmp_path / "results", "--hotwords", path]
    for text, count in (("あい", 1), ("あい", 1), ("うえ", 2)):
        path.write_text(text, encoding="utf-8")
        assert decode(work, "sammo", *words) == 0 and len(read_results(tmp_path / "results")) == count
    assert caplog.text.count("were decoded before") == 1


def test_default_directories(work):
    decode(work, "sammo", "--decoding-method", "greedy_search", "--epoch", 1, "--left-context-frames", "64,128")
    (result,) = read_results(work / "sammo/greedy_search")
    assert result.setting.d_state == 32 and result.setting.left_context_frames == 0 and result.setting.epoch == 1
    decode(work, "sammo", "--checkpoint", work / "sammo/epoch-2.pt", "--decoding-method", "greedy_search")
    assert len(read_results(work / "sammo/greedy_search-epoch-2")) == 1


@pytest.mark.parametrize(
    "name, words, message",
    [
        ("sammo", ["--epoch", 7], "no .*epoch-7.pt; there are epoch-1...2"),
        ("sammo", ["--epoch", 2, "--avg", 3], "--avg 3 goes beyond the beginning of training"),
        ("sammo", ["--chunk-size", "32,18"], "chunk size 18 does not work with this model: use a positive multiple"),
        ("zipformer", ["--left-context-frames", 30], "left context 30 does not work"),
        ("sammo", ["--pad-feature", -1], "--pad-feature must be 0 to 30000"),
        ("sammo", ["--checkpoint", "nothing.pt"], "no checkpoint, experiment directory or package nothing.pt"),
        ("sammo", ["--parts", "eval9"], "csj_cuts_eval9"),
        ("nobody", [], "no checkpoint, experiment directory or package"),
    ],
)
def test_refusals(work, name, words, message):
    with pytest.raises(UserError, match=message):
        decode(work, name, *words)


def test_other_units(work, tmp_path):
    table = (work / "lang_char/tokens.txt").read_text(encoding="utf-8")
    (tmp_path / "tokens.txt").write_text(table.replace("あ", "亜"), encoding="utf-8")
    with pytest.raises(UserError, match="epoch-1..epoch-2.* was trained with other output units than those in"):
        decode(work, "sammo", "--lang", tmp_path)
