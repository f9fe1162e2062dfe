"""A few hundred cases of benchmarks/fuzz.py, and that it sees what it looks for."""

from __future__ import annotations

import logging
import os
import pickle
import random
import subprocess
import time
from pathlib import Path

import fuzz_families  # noqa: E402
import pytest
from fuzz import FAMILIES, fuzz, table  # noqa: E402


@pytest.mark.parametrize("family", list(FAMILIES))
def test_no_case_fails(tmp_path, family):
    cases = 40 if family in ("checkpoints", "exports") else 80  # they take a model each
    counts, failures = fuzz(tmp_path, cases, seed=1, families=[family])
    assert failures == []
    assert sum(counts[family].values()) == cases and counts[family]["refused"] > 8, table(counts)


@pytest.fixture(autouse=True)
def quiet_again():
    """Families silence the log of their process, which here is that of all tests."""
    yield
    logging.disable(logging.NOTSET)


class Sick(fuzz_families.Family):
    """Does what the harness must notice, in turn."""

    def case(self, directory, rng):
        kind = rng.random()
        if kind < 0.15:
            return "wrong"
        if kind < 0.3:
            os.kill(os.getpid(), 11)
        if kind < 0.45:
            raise ValueError
        if kind < 0.6:
            time.sleep(60)
        if kind < 0.7:
            subprocess.run(["true"])
        if kind < 0.8:
            pickle.loads(pickle.dumps(Path("x")))
        if kind < 0.9:
            bytearray(16 << 30)


def test_the_harness_sees(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "sick", Sick)
    counts, failures = fuzz(tmp_path, 40, families=["sick"], seconds=0.1)
    found = counts["sick"]
    assert sum(found.values()) == 40 and all(
        found[kind] for kind in ("wrong", "traceback", "hang", "crash", "executed")
    )
    assert len(failures) == 40 - found["accepted"] and "| **all** | 40 |" in table(counts)


def test_cases_are_functions_of_their_number():
    content = bytes(range(256))
    assert fuzz_families.mutate(content, random.Random(3)) == fuzz_families.mutate(content, random.Random(3)) != content
