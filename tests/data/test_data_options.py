"""Options of batches: as typed, by default, and refused."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from sammo.data.config import DataConfig
from sammo.errors import UserError
from sammo.options import add_options, from_args


def test_options_round_trip(tmp_path):
    parser = argparse.ArgumentParser()
    add_options(parser, DataConfig)
    assert from_args(DataConfig, parser.parse_args([])) == DataConfig()
    given = ["--manifest-dir", "x", "--max-duration", "650", "--enable-musan", "false", "--transcript-mode", "number"]
    config = from_args(DataConfig, parser.parse_args(given))
    assert (config.manifest_dir, config.max_duration, config.enable_musan) == (Path("x"), 650.0, False)
    with pytest.raises(UserError, match="--max-duration"):
        from_args(DataConfig, parser.parse_args(["--max-duration", "0"]))


def test_workers_are_as_many_as_the_cores_that_a_process_has(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert DataConfig().workers() == 8 and DataConfig(num_workers=0).workers() == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert DataConfig().workers() == 3 and DataConfig(num_workers=5).workers() == 5
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert DataConfig().workers() == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"min_duration": -1.0}, "--min-duration must be seconds, 0 for no bound, got -1"),
        ({"max_cut_duration": float("nan")}, "--max-cut-duration must be seconds"),
        ({"min_duration": 3.0, "max_cut_duration": 2.0}, "--min-duration 3 is above --max-cut-duration 2"),
    ],
)
def test_bad_bounds(options, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**options)


@pytest.mark.parametrize("text", ["2", "0:2", "1:-1", "a:2", "1:2;2:3"])
def test_bad_curriculum(text):
    with pytest.raises(UserError, match="--curriculum is EPOCHS:SECONDS"):
        DataConfig(curriculum=text).longest(1)
