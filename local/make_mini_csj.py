#!/usr/bin/env python3
"""Write a small synthetic corpus in the disc layout of CSJ, for `lhotse prepare csj`, and a MUSAN-shaped noise set.

    local/make_mini_csj.py --out download/mini_csj --hours 2 --nj 2 --musan-out download/mini_musan

The same options give the same bytes whatever --nj is.  An interrupted run goes on where it stopped.
See local/mini_csj/README.md for the text, the tags, and the licenses of the voice and the dictionary.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout works without installation

from sammo.errors import UserError, run_main  # noqa: E402
from sammo.options import processes


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="corpus directory (WAV/, MORPH/SDB/)")
    parser.add_argument("--hours", type=float, default=2.0, help="hours of speech in core and noncore together")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other speakers and other sentences")
    parser.add_argument("--nj", type=processes, default=os.cpu_count() or 1, help="number of processes")
    parser.add_argument("--voices", type=Path, help="directory with further .htsvoice files")
    parser.add_argument("--musan-out", type=Path, help="also write a MUSAN-shaped noise set here")
    parser.add_argument("--eval-minutes", type=float, default=7.0, help=argparse.SUPPRESS)  # speech in each of eval1-3
    parser.add_argument("--musan-minutes", type=float, default=5.0, help=argparse.SUPPRESS)
    return parser


def find_voices(directory: Path | None) -> tuple[str, ...]:
    """Paths of the voices to use, "" for the built-in one first."""
    from mini_csj.voices import check_voice

    if directory is None:
        return ("",)
    if not directory.is_dir():
        raise UserError(f"--voices: no such directory: {directory}")
    found = sorted(directory.rglob("*.htsvoice"))
    if not found:
        raise UserError(f"--voices: no .htsvoice file below {directory}")
    for path in found:
        try:
            check_voice(path)
        except ValueError as error:
            raise UserError(f"--voices: {path} cannot be loaded ({error})") from error
    return ("", *(str(path) for path in found))


def check(args: argparse.Namespace) -> None:
    if not 0 < args.hours <= 1000:
        raise UserError(f"--hours must be above 0 and at most 1000, not {args.hours}")
    if not 0 < args.eval_minutes <= 600:
        raise UserError(f"--eval-minutes must be above 0 and at most 600, not {args.eval_minutes}")
    if not 0 < args.musan_minutes <= 600:
        raise UserError(f"--musan-minutes must be above 0 and at most 600, not {args.musan_minutes}")


def main() -> int:
    args = get_parser().parse_args()
    check(args)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        from mini_csj import build, musan, talks, voices
    except ImportError as error:
        raise UserError(f"cannot load the speech synthesizer ({error}); run: pip install pyopenjtalk-plus") from error

    begin = time.monotonic()
    settings = build.Settings(args.seed, find_voices(args.voices))
    common = {"seed": args.seed, "voices": [build.voice_identity(voice) for voice in settings.voices]}
    plan = talks.plan_corpus(args.hours, args.eval_minutes, args.seed)
    try:
        build.claim(args.out, {"hours": args.hours, "eval_minutes": args.eval_minutes, **common})
        build.write_bytes(args.out / "LICENSE", voices.NOTICE.encode())
        build.write_bytes(args.out / build.HOMOPHONES_NAME, build.homophone_table(plan))
        jobs = [(talk, build.build_talk, (args.out, talk, settings)) for talk in plan]
        reports = build.run_jobs(jobs, args.nj, "mini-CSJ talks")
        if args.musan_out is not None:
            items = musan.plan_musan(args.musan_minutes)
            build.claim(args.musan_out, {"set": "musan", "minutes": args.musan_minutes, **common})
            musan.write_texts(args.musan_out, items)
            jobs = [(item, musan.build_item, (args.musan_out, item, settings)) for item in items]
            noise = build.run_jobs(jobs, args.nj, "noise set")
            logging.info(
                "noise set: %d files, %.1f minutes, in %s", len(noise), sum(noise.values()) / 60, args.musan_out
            )
    except OSError as error:
        raise UserError(f"cannot write: {error}; the next run goes on from here") from error
    for part in ("train", "valid", "eval1", "eval2", "eval3", "excluded"):
        rows = [reports[talk] for talk in plan if talk.part == part]
        speech, count = sum(row.speech for row in rows), sum(row.utterances for row in rows)
        logging.info("%-8s %4d talks, %6d utterances, %7.1f minutes of speech", part, len(rows), count, speech / 60)
    made = sum(report.made for report in reports.values())
    logging.info("%d talks made, %d there already, %.0f s", made, len(reports) - made, time.monotonic() - begin)
    return 0


if __name__ == "__main__":
    run_main(main)
