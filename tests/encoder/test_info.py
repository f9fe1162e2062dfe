"""``sammo info``: the paper's parameter counts and DESIGN's state sizes, as printed."""

from __future__ import annotations

import argparse
import json

import pytest

from sammo.commands import info as command


def run(capsys, *words: str) -> str:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args(words))
    return capsys.readouterr().out


@pytest.mark.parametrize("encoder, total", [("zipformer", 71_778_237), ("sammo", 71_677_351)])
def test_medium(capsys, encoder, total):
    words = ("--encoder", encoder, "--preset", "medium", "--vocab-size", "3266", "--json")
    facts = json.loads(run(capsys, *words))
    parts = facts["parameters"]
    assert parts.pop("total") == total
    inner = parts.pop("encoder without front-end")
    assert sum(parts.values()) == total
    assert inner + parts["front-end"] + 529_408 + 2_051 * 3266 == total
    assert parts["front-end"] == 611_953 and "agree" in facts["paper"]
    if encoder == "zipformer":
        assert parts["non-linear attention"] == 6_826_272
    for row in facts["streaming"]:
        left = row["left_context_frames"]
        wanted = 110_464 + 2_752 * left if encoder == "zipformer" else 688_672
        assert row["values"] == wanted and row["bytes"] == 4 * wanted
        # About 0.62 G multiply-adds in a chunk of 0.64 s: 1.24 GFLOP.
        assert 0.90e9 < row["multiply_adds_per_second"] < 1.02e9
    assert {row["chunk_size"] for row in facts["streaming"]} == {16, 32, 64, 128}


def test_options_and_tables(capsys):
    text = run(capsys, "--encoder", "sammo", "--preset", "tiny", "--vocab-size", "50", "--d-state", "16")
    assert "another model" in text and "| total |" in text and "| 16 (0.32 s) | none |" in text
    for mixer in ("| **mamba2** (Mamba-2) |", "| gated_delta (Gated DeltaNet) |", "| none (no mixer) | 0 | 0 | 0 |"):
        assert mixer in text
    more = run(capsys, "--encoder", "sammo", "--preset", "tiny", "--vocab-size", "50", "--d-state", "32")
    assert more != text


def test_mixers_and_encoders(capsys):
    words = ("--preset", "tiny", "--vocab-size", "50", "--json")
    facts = json.loads(run(capsys, "--encoder", "sammo", "--mixer", "gated_delta", "--left-context", "true", *words))
    assert facts["encoder"] == "zipformer-gated_delta" and facts["paper"] == "the paper has no such model"
    assert facts["parameters"]["Gated DeltaNet"] == facts["mixers"][2]["parameters"] > 0
    assert {row["left_context_frames"] for row in facts["streaming"]} == {64, 128, 256}
    facts = json.loads(run(capsys, "--encoder", "conformer", *words))
    assert facts["encoder"] == "conformer" and facts["parameters"]["no mixer"] == 0
