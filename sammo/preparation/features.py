"""Computes and stores features of many cuts with many processes; interrupted, it resumes where it stopped.

The cuts are divided into pieces. A piece is one lilcom archive and one manifest; the manifest is written last, so a
piece whose manifest exists is complete. lilcom chunks (one byte a value, 29 MB an hour of audio) are what icefall
stores: 500 hours and their two speed-perturbed copies take 45 GB where float32 would take 180 GB, and reading costs
far less than training does.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Sequence

import torch
from lhotse import LilcomChunkyWriter
from lhotse.cut import Cut
from lhotse.cut.data import DataCut

from sammo.corpora import Corpus
from sammo.data.features import make_extractor
from sammo.data.manifests import read_cuts, write_cuts
from sammo.data.problems import brief
from sammo.data.whole import shortfall
from sammo.errors import UserError
from sammo.progress import progress

SPEEDS = (0.9, 1.1)
MIN_PIECE, MAX_PIECE, PIECES = 180.0, 3600.0, 32  # seconds, seconds, pieces of a part that fits in between


def compute_features(cuts: Sequence[Cut], directory: Path, nj: int, desc: str) -> list[Cut]:
    """Stores the features of ``cuts`` below ``directory`` and returns the cuts with them, in the same order.

    Pieces that an earlier run completed for the same cuts are kept; those of other cuts are removed.

    Raises:
      UserError: the audio of a cut cannot be read; the first one is named.
    """
    directory = directory.resolve()
    key = _key(cuts)
    key_file = directory / "key"
    if not (key_file.is_file() and key_file.read_text(encoding="ascii") == key):
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        key_file.write_text(key, encoding="ascii")
    pieces = divide(cuts)
    todo = [(number, piece) for number, piece in enumerate(pieces) if not _manifest(directory, number).is_file()]
    try:
        _run(todo, directory, nj, desc)
    except BrokenProcessPool as error:
        raise UserError(f"{desc}: a process was killed, out of memory perhaps; run again with a lower --nj") from error
    done = [cut for number in range(len(pieces)) for cut in read_cuts(_manifest(directory, number))]
    if [cut.id for cut in done] != [cut.id for cut in cuts]:
        raise UserError(f"{directory} does not hold the features of its cuts; remove it and run prepare.sh again")
    return done


def store_part(
    corpus: Corpus, part: str, cuts: Sequence[Cut], fbank_dir: Path, nj: int, perturb_speed: bool = False
) -> None:
    """Writes the manifest of ``part`` below ``fbank_dir``, and its features beside it. ``perturb_speed``: of the training
    part also copies at other speeds, as parts of their own.

    Training manifests are shuffled once, so that a limited buffer sees many speakers.
    """
    _store(corpus, part, cuts, fbank_dir, nj)
    for speed in SPEEDS if perturb_speed and part == corpus.train else ():
        _store(corpus, f"{part}_sp{speed}", [cut.perturb_speed(speed) for cut in cuts], fbank_dir, nj)


def _store(corpus: Corpus, part: str, cuts: Sequence[Cut], fbank_dir: Path, nj: int) -> None:
    manifest = corpus.manifest_path(fbank_dir, part)
    manifest.unlink(missing_ok=True)  # it may point at features that are about to be replaced
    done = compute_features(cuts, fbank_dir / f"feats_{part}", nj, f"Fbank {part}")
    if part.startswith(corpus.train):
        random.Random(0).shuffle(done)
    write_cuts(manifest, done)


def divide(cuts: Sequence[Cut]) -> list[list[Cut]]:
    """Pieces of about equal duration; a function of the cuts alone, so that another --nj finds the same pieces."""
    total = sum(cut.duration for cut in cuts)
    size = min(MAX_PIECE, max(MIN_PIECE, total / PIECES))
    pieces: list[list[Cut]] = []
    filled = size
    for cut in cuts:
        if filled >= size:
            pieces.append([])
            filled = 0.0
        pieces[-1].append(cut)
        filled += cut.duration
    return pieces


def _run(todo: list[tuple[int, list[Cut]]], directory: Path, nj: int, desc: str) -> None:
    with ProcessPoolExecutor(nj) as pool:
        waiting = iter(todo)
        running = {pool.submit(_compute_piece, *job, directory) for _, job in zip(range(2 * nj), waiting)}
        bar = iter(progress(range(len(todo)), len(todo), desc))
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                problem = future.result()
                if problem:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise UserError(problem)
                next(bar, None)
                job = next(waiting, None)
                if job is not None:
                    running.add(pool.submit(_compute_piece, *job, directory))
        next(bar, None)  # lets the bar close


def _compute_piece(number: int, cuts: list[Cut], directory: Path) -> str | None:
    torch.set_num_threads(1)
    extractor = make_extractor()
    archive = directory / f"{number:05d}.lca"
    scratch = directory / f".{number:05d}.lca"
    done = []
    with LilcomChunkyWriter(scratch) as writer:
        for cut in cuts:
            source = _source(cut)
            try:
                lacking = shortfall(source)
                if lacking:
                    return f"the audio of cut {cut.id} ({source}) is cut short: {lacking}; copy it again"
                stored = cut.compute_and_store_features(extractor, writer)
            except Exception as error:  # lhotse's audio back-ends have no common error
                return f"the audio of cut {cut.id} ({source}) cannot be read: {brief(error)}"
            stored.features.storage_path = str(archive)
            done.append(stored)
    os.replace(scratch, archive)
    write_cuts(_manifest(directory, number), done)
    return None


def _manifest(directory: Path, number: int) -> Path:
    return directory / f"{number:05d}.jsonl.gz"


def _key(cuts: Sequence[Cut]) -> str:
    """sha256 over everything about ``cuts`` that decides their features, and where their audio is."""
    digest = hashlib.sha256(repr(make_extractor().config).encode())
    for cut in cuts:
        digest.update(f"{cut.id} {cut.start} {cut.duration} {_source(cut)}\n".encode())
    return digest.hexdigest()


def _source(cut: Cut) -> str:
    """The file with the audio of a cut of one recording."""
    assert isinstance(cut, DataCut) and cut.recording is not None
    return str(cut.recording.sources[0].source)
