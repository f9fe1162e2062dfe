"""The package in models/: whole, small, and what a newcomer sees."""

from __future__ import annotations

import soundfile
import torch
from fixtures.paths import ROOT

import sammo
from sammo import cli
from sammo.commands import transcribe
from sammo.options import OWN_PACKAGE, Endpointing
from sammo.search import make_searcher
from sammo.streaming.recognizer import StreamingRecognizer
from sammo.streaming.session import Sessions

SAMPLE = ROOT / "models/sample.wav"


def test_it_is_small_and_says_what_it_is():
    assert sum(path.stat().st_size for path in OWN_PACKAGE.rglob("*")) < 5_000_000
    assert SAMPLE.stat().st_size < 200_000
    card = (OWN_PACKAGE / "README.md").read_text(encoding="utf-8")
    assert (
        "Learned from synthetic speech only" in card and "Character error rates" in card and "Creative Commons" in card
    )


def test_transcribe_needs_no_option(capsys):
    assert transcribe.run(cli.parse(["transcribe", str(SAMPLE)])) == 0
    captured = capsys.readouterr()
    text = SAMPLE.with_suffix(".txt").read_text(encoding="utf-8")
    assert captured.out == f"{SAMPLE}\t{text}" and text.startswith("理系の講義では")
    assert captured.err.splitlines()[-1].endswith("state 90 KiB a stream")


def test_a_session_of_it_changes_its_width_and_moves():
    """Token for token what it gives where it does not move."""
    model, tokenizer, _ = sammo.from_pretrained(OWN_PACKAGE)
    samples = torch.from_numpy(soundfile.read(SAMPLE, dtype="float32")[0])
    found = []
    for moves in (False, True):
        owners = [Sessions(StreamingRecognizer(model, make_searcher(model), 32), tokenizer) for _ in range(2)]
        session = owners[0].open(endpointing=Endpointing(enable_endpoint=False))
        session.feed(samples[:40_000])
        owners[0].run()
        session.chunk_size = 16
        if moves:
            session = owners[1].open(endpointing=Endpointing(enable_endpoint=False), snapshot=session.snapshot())
        session.feed(samples[40_000:])
        session.finish()
        owners[moves].run()
        last = session.events()[-1]
        found.append((last.text, last.tokens, last.timestamps))
    assert found[0] == found[1] and "化学" in found[0][0]
