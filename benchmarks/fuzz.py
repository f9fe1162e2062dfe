#!/usr/bin/env python3
"""Damaged, odd and hostile files: every case ends in a result or in one line, in bounded time and memory.

Makes real files (audio, manifests with features, results, language directories), mutates them and reads them with the
library's own readers, each in a child process with limits. What counts as a failure:

  traceback  any exception but UserError, and what run_main prints as one line
  hang       more than --seconds of CPU time, or ten times that by the clock
  crash      the process died, of a signal or of memory
  executed   a program was started, a pickle read or a connection opened (seen by an audit hook, not by its effects)
  wrong      accepted, but not what the undamaged file says, where a checksum, a length or a range can tell

Usage: benchmarks/fuzz.py [--cases 10000] [--seed 0] [--families audio,manifests,...] [--keep DIR]
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", default="", help="Separated by commas (default: all).")
    parser.add_argument("--seconds", type=float, default=10.0, help="CPU time of a case (default: 10).")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="Stop after so long, with a table of less.")
    parser.add_argument("--keep", type=Path, help="Where to leave the files (default: nowhere).")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # --help answers before what follows is loaded


import torch
from fuzz_families import DATA_FAMILIES, Family
from fuzz_models import MODEL_FAMILIES
from fuzz_server import SERVER_FAMILIES
from fuzz_streams import STREAM_FAMILIES
from fuzz_text import TEXT_FAMILIES

from sammo.errors import OUTSIDE, UserError, run_main

FAMILIES: dict[str, Callable[[Path], Family]] = {
    **DATA_FAMILIES,
    **TEXT_FAMILIES,
    **MODEL_FAMILIES,
    **STREAM_FAMILIES,
    **SERVER_FAMILIES,
}
OUTCOMES = ("accepted", "refused", "traceback", "hang", "crash", "executed", "wrong")
BAD = OUTCOMES[2:]
BATCH = 50  # cases a child process runs before the next one is forked
WAIT = 10  # times --seconds, which counts CPU time, may pass by the clock: other programs run, too
MEMORY = 2 << 30  # bytes that a child may allocate beyond what it starts with
# Audit events of starting programs, reading pickles and opening connections.
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen")
FORBIDDEN += ("pickle.find_class", "socket.connect")


class Hang(BaseException):
    """Not an Exception, so that no reader takes it for an error of the file."""


def run_case(family: Family, directory: Path, seed: int) -> tuple[str, str]:
    """(outcome, what happened) of one case, a function of the family's files and ``seed``."""
    seen: list[str] = []
    _WATCHED.append(seen)
    try:
        problem = family.case(directory, random.Random(seed))
        outcome, text = ("wrong", problem) if problem else ("accepted", "")
    except UserError as error:
        outcome, text = ("refused", str(error)) if "\n" not in str(error) else ("traceback", f"two lines: {error}")
    except SystemExit as error:
        outcome, text = "refused", str(error)
    except Hang:
        outcome, text = "hang", ""
    except MemoryError:
        outcome, text = "crash", "MemoryError"
    except OSError as error:
        outcome, text = ("refused" if error.errno in OUTSIDE else "traceback"), repr(error)
    except BaseException as error:  # noqa: BLE001
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
        outcome, text = "traceback", f"{type(error).__name__}: {str(error)[:200]} ({place})"
    finally:
        _WATCHED.pop()
    return ("executed", seen[0]) if seen else (outcome, text)


_WATCHED: list[list[str]] = []


def _watch(event: str, arguments: Any) -> None:
    if _WATCHED and event in FORBIDDEN:
        _WATCHED[-1].append(f"{event} {str(arguments)[:200]}")


def run_batch(family: Family, directory: Path, seeds: list[int], seconds: float) -> list[tuple[str, str]]:
    """The outcomes of the cases ``seeds``; where one kills its process, the others run in another."""
    found: list[tuple[str, str]] = []
    while len(found) < len(seeds):
        todo = seeds[len(found) :]
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(family, directory, todo, seconds, writer)
        os.close(writer)
        lines, hung = _read_lines(reader, len(todo), 2 * WAIT * seconds)
        os.close(reader)
        if hung:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        found += [tuple(json.loads(line)) for line in lines]
        if len(found) < len(seeds):
            found.append(("hang", "") if hung else ("crash", f"status {status}"))
    return found


def _work(family: Family, directory: Path, seeds: list[int], seconds: float, writer: int) -> None:
    """A child's life: one line of JSON a case; never returns."""
    code = 1
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        torch.set_num_threads(1)
        faulthandler.disable()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # decoders print what they think of damaged files
            os.dup2(null, descriptor)

        def hang(*_: Any) -> None:
            raise Hang

        signal.signal(signal.SIGALRM, hang)
        signal.signal(signal.SIGPROF, hang)
        for seed in seeds:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_REAL, WAIT * seconds)
            outcome = run_case(family, directory, seed)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.write(writer, (json.dumps([outcome[0], outcome[1][:500]]) + "\n").encode())
        code = 0
    finally:
        os._exit(code)


def _read_lines(reader: int, count: int, seconds: float) -> tuple[list[str], bool]:
    """Lines until the other end closes or is silent for ``seconds``."""
    buffer = b""
    while buffer.count(b"\n") < count:
        ready, _, _ = select.select([reader], [], [], seconds)
        if not ready:
            return buffer.decode().splitlines(), True
        piece = os.read(reader, 65_536)
        if not piece:
            break
        buffer += piece
    return buffer.decode().splitlines()[: buffer.count(b"\n")], False


def fuzz(
    directory: Path,
    cases: int,
    seed: int = 0,
    families: list[str] | None = None,
    seconds: float = 10.0,
    progress: Callable[[str], None] = lambda line: None,
    minutes: float = float("inf"),
) -> tuple[dict[str, Counter], list[str]]:
    """Runs ``cases``, divided over the families; returns outcomes by family, and a line for each failure.

    minutes: an equal share of them for each family, whatever is left of its cases then.
    """
    sys.addaudithook(_watch)
    torch.set_num_threads(1)  # a child has none of the others, and would wait for them
    names = families or list(FAMILIES)
    counts: dict[str, Counter] = {}
    failures, begin = [], time.monotonic()
    for number, name in enumerate(names):
        family = FAMILIES[name](directory / name)
        share = cases // len(names) + (number < cases % len(names))
        counts[name] = Counter()
        seeds = [seed * 1_000_000_000 + number * 100_000_000 + index for index in range(share)]
        for start in range(0, share, BATCH):
            if time.monotonic() > begin + 60 * minutes * (number + 1) / len(names):
                break
            batch = seeds[start : start + BATCH]
            for case, (outcome, text) in zip(batch, run_batch(family, directory / name, batch, seconds)):
                counts[name][outcome] += 1
                if outcome in BAD:
                    failures.append(f"{name} {case}: {outcome}: {text}")
                    progress(failures[-1])
    return counts, failures


def table(counts: dict[str, Counter]) -> str:
    """The outcomes as Markdown."""
    lines = ["| family | cases | " + " | ".join(OUTCOMES) + " |", "|---|" + "---:|" * (len(OUTCOMES) + 1)]
    whole: Counter = sum(counts.values(), Counter())
    for name, found in [*counts.items(), ("**all**", whole)]:
        lines.append(f"| {name} | {sum(found.values())} | " + " | ".join(str(found[kind]) for kind in OUTCOMES) + " |")
    return "\n".join(lines)


def main() -> int:
    args = parse_args()
    names = [name for name in args.families.split(",") if name] or list(FAMILIES)
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or args.cases < 1:
        raise UserError(f"--families are {', '.join(FAMILIES)}, --cases at least 1; got {args.families}, {args.cases}")
    directory = args.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    begin, spent = time.monotonic(), time.process_time()
    try:
        counts, failures = fuzz(
            directory, args.cases, args.seed, names, args.seconds, lambda line: print(line, flush=True), args.minutes
        )
    finally:
        if args.keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    times = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = time.process_time() - spent + times.ru_utime + times.ru_stime
    print(table(counts))
    print(f"\nseed {args.seed}, {time.monotonic() - begin:.0f} s, {spent:.0f} s of CPU time")
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
