"""``sammo package``: writes what :mod:`sammo.checkpoint.package` reads, with a model card for model hubs."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor

from sammo.checkpoint import load_model
from sammo.checkpoint.package import DTYPES, WEIGHTS, Origin, is_package, write_model
from sammo.checkpoint.schema import Weights, weights_digest
from sammo.data.tokens import CHECKSUM, BpeTokenizer, Tokenizer, format_token_table
from sammo.decoding import lang_of, load_system
from sammo.errors import UserError
from sammo.export.card import model_card
from sammo.export.deployed import directory_name
from sammo.export.options import PackageOptions
from sammo.options import Exports, ModelSource, Speech
from sammo.scoring import PartResult, read_results
from sammo.sums import write_sums

CARD = "README.md"
LARGEST_NOTES = 1 << 20  # bytes
_NAME = re.compile(r"[\w.-]{1,96}", re.ASCII)


def package(source: ModelSource, out: Path, options: PackageOptions, command: str, speech: Speech) -> None:
    """Writes the model of ``source`` to ``out``; a package that is there is replaced once the new one is complete.

    Args:
      command: for the card, what makes it.
      speech: its training part is what exports are compared on, where it is there, and what int8 needs.

    Raises:
      UserError: the model or what goes with it cannot be read, or ``out`` is something else; nothing is written then.
    """
    name = out.resolve().name
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name for a package: letters, digits, '.', '_' and '-', at most 96 of them")
    if out.exists() and not (is_package(out) or (out.is_dir() and not any(out.iterdir()))):
        raise UserError(f"{out} exists and is no package; give another directory, or move it away")
    system = load_system(source)
    weights = _stored(system.model.state_dict(), options.dtype)
    notes = _read_notes(options.notes)
    stored = {key: value.float() for key, value in weights.items()}
    own = f"{name}, batch {system.info.batch_idx_train}, sha256 {weights_digest(stored)[:16]}"
    made_of = [system.info.checkpoint, own]
    results = _results(source, options.results, made_of)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".tmp-{name}-", dir=out.parent))
    try:
        origin = Origin(
            name=name,
            preset=system.info.preset,
            epoch=system.info.epoch,
            avg=system.info.avg,
            use_averaged_model=system.info.use_averaged_model,
            batch_idx_train=system.info.batch_idx_train,
            tokenizer=system.info.tokenizer,
            transcript_mode=system.info.transcript_mode,
            checkpoint=system.info.checkpoint,
        )
        write_model(work, system.model.config, origin, weights)
        _write_units(work, system.tokenizer, lang_of(source))
        system.model.load_state_dict(stored)
        for chunk_size in options.onnx_chunk_size:
            from sammo.export.onnx import speech_for, write_directory

            exports = Exports(chunk_size, int8=options.int8)
            left = exports.left_context_frames
            directory = work / directory_name(system.model.config.encoder.left_context, chunk_size, left)
            write_directory(system.model, system.tokenizer, exports, directory, speech_for(exports, speech))
        size = (work / WEIGHTS).stat().st_size
        card = model_card(name, system, options, results, notes, command, size)
        (work / CARD).write_text(card, encoding="utf-8")
        write_sums(work)
        load_model(work)
        os.chmod(work, 0o755)  # what mkdtemp makes is for its owner alone
        _replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    logging.info(f"{out}: {system.info.encoder} {system.info.preset}, {size / 1e6:.1f} MB, {own}")


def _stored(weights: Weights, dtype: str) -> dict[str, Tensor]:
    stored = {}
    for name, value in weights.items():
        # Little of a model is this, and it decides more than its share: with it in 16 bits, too, tokens change.
        whole = value.ndim != 2 or name.startswith(("predictor.", "joiner."))
        stored[name] = value.detach().cpu().to(torch.float32 if whole else DTYPES[dtype])
    for name, value in stored.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"{name} has values that {dtype} cannot hold; pass --dtype float32")
    return stored


def _write_units(directory: Path, tokenizer: Tokenizer, lang: Path) -> None:
    """The language directory's own files, written anew where they are a table."""
    (directory / "lang_type").write_text(f"{tokenizer.kind}\n", encoding="utf-8")
    if isinstance(tokenizer, BpeTokenizer):
        for name in ("bpe.model", CHECKSUM):
            if (lang / name).is_file():
                shutil.copyfile(lang / name, directory / name)
    pieces = [tokenizer.piece(index) for index in range(tokenizer.vocab_size)]
    (directory / "tokens.txt").write_text(format_token_table(pieces), encoding="utf-8")


def _replace(work: Path, out: Path) -> None:
    old = work.with_name(work.name + "-old")
    if out.exists():
        os.replace(out, old)
    try:
        os.replace(work, out)
    except OSError:
        if old.exists():
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _read_notes(path: Path | None) -> str:
    if path is None:
        return ""
    if not path.is_file() or path.stat().st_size > LARGEST_NOTES:
        raise UserError(f"--notes {path}: no such file, or larger than {LARGEST_NOTES >> 20} MiB")
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"--notes {path} is not UTF-8 (byte {error.start})") from error


def _results(source: ModelSource, directory: Path | None, made_of: Sequence[str]) -> list[PartResult]:
    """Those of the very weights that are packaged; UserError where --results has none."""
    if directory is None:
        if source.checkpoint is not None or not any(source.exp_dir.rglob("cer-*.json")):
            return []
        found = read_results(source.exp_dir)
    else:
        found = read_results(directory)
    found = [result for result in found if result.setting.checkpoint in made_of and not result.failed]
    if directory is not None and not found:
        raise UserError(
            f"--results {directory}: no complete results of these weights ({made_of[-1]}); decode with them"
        )
    return found
