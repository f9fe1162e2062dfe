"""Decoding whole utterances, chunks made by the attention mask (simulated streaming): what decode.py does."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Iterable, NamedTuple, Sequence

import torch
from torch import Tensor

from sammo import geometry
from sammo.checkpoint import ModelInfo, check_tokenizer, is_package, load_model
from sammo.corpora import Corpus, find_corpus
from sammo.data.config import DataConfig
from sammo.data.datamodule import CsjDataModule
from sammo.data.dataset import Batch
from sammo.data.manifests import manifest_digest
from sammo.data.tokens import Tokenizer, find_lang, load_tokenizer
from sammo.device import choose_device
from sammo.encoder.config import ENCODER_PRESETS
from sammo.encoder.mixers import MIXERS
from sammo.encoder.state import state_numel
from sammo.lm import NgramLM, file_digest
from sammo.options import ModelSource, Results, Search, Speech, WholeChunks, check_chunking, check_threads
from sammo.progress import progress
from sammo.scoring import DecodeSetting, has_results, write_results
from sammo.search import Searcher, hotwords_digest, make_searcher, read_hotwords
from sammo.transducer import Transducer


class Chunking(NamedTuple):
    """Embed frames of 20 ms; -1: the whole utterance, all that was before."""

    chunk_size: int
    left_context_frames: int


class Decoded(NamedTuple):
    """One utterance; ``times`` are the seconds at which the tokens were emitted."""

    cut_id: str
    reference: str
    hypothesis: str
    times: list[float]


def with_tails(features: Tensor, lengths: Tensor, frames: int = geometry.TAIL_PADDING) -> tuple[Tensor, Tensor]:
    """Utterances followed by ``frames`` of silence, counted in the lengths; as many as by default when streamed.

    features (N, T, 80), lengths (N,) -> (N, T + frames, 80), (N,).
    """
    padded = torch.nn.functional.pad(features, (0, 0, 0, frames))
    beyond = torch.arange(padded.shape[1], device=features.device) >= lengths[:, None]
    return padded.masked_fill(beyond[:, :, None], geometry.PADDING_VALUE), lengths + frames


def chunkings(
    model: Transducer, chunk_sizes: Sequence[int], left_contexts: Sequence[int], round_left_context: bool = False
) -> list[Chunking]:
    """All combinations, each once: some encoders see no left context, and a chunk without end needs none.

    Args:
      model: which of them it can do, and whether it keeps left context.
      chunk_sizes, left_contexts: embed frames (20 ms); -1 without end.
      round_left_context: left contexts are whole chunks, at least one, as in icefall's Zipformer2.get_chunk_info.

    Raises:
      UserError: the model cannot do one of them.
    """
    found = []
    for chunk in chunk_sizes:
        for left in left_contexts:
            if not model.config.encoder.left_context:
                left = 0
            elif chunk == -1:
                left = -1
            elif round_left_context and chunk > 0 and left >= 0:
                left = max(left // chunk, 1) * chunk
            check_chunking(chunk, left)
            model.encoder.check_chunk_size(chunk, left)
            if Chunking(chunk, left) not in found:
                found.append(Chunking(chunk, left))
    return found


@torch.inference_mode()
def decode_batches(
    model: Transducer,
    searcher: Searcher,
    batches: Iterable[Batch],
    tokenizer: Tokenizer,
    settings: Sequence[Chunking],
    tail: int = geometry.TAIL_PADDING,
) -> dict[Chunking, list[Decoded]]:
    """Decodes ``batches`` of the data module at each of ``settings``, loading every batch once.

    Args:
      model, searcher, tokenizer: those that belong together.
      batches: of the data module.
      settings: chunk sizes and left contexts.
      tail: feature frames of silence behind every utterance.
    """
    model.eval()
    device = next(model.parameters()).device
    results: dict[Chunking, list[Decoded]] = {setting: [] for setting in settings}
    for batch in batches:
        features, lengths = with_tails(batch["features"].to(device), batch["lengths"].to(device), tail)
        for setting in settings:
            encoded = model.encoder(
                features,
                lengths,
                chunk_size=setting.chunk_size,
                left_context_frames=setting.left_context_frames,
            )
            found = searcher(encoded.frames, encoded.lengths)
            for cut_id, text, (best, *_) in zip(batch["cut_ids"], batch["texts"], found):
                times = [frame / geometry.OUTPUT_RATE for frame in best.timestamps]
                results[setting].append(Decoded(cut_id, text, tokenizer.decode(best.tokens), times))
    return results


# ------------------------------------------------------------------------------------ decode.py


class System(NamedTuple):
    """A trained model, in evaluation mode, with its output units, and what it is."""

    model: Transducer
    tokenizer: Tokenizer
    info: ModelInfo


def lang_of(source: ModelSource, speech: Speech = Speech()) -> Path:  # noqa: B008, a frozen dataclass
    """The language directory that the options name: --lang, a package's own, or that of the corpus of ``speech``."""
    path = source.checkpoint or source.exp_dir
    if source.lang is not None or is_package(path):
        return source.lang or path
    return find_lang(None, speech.manifest_dir, find_corpus(speech.manifest_dir, speech.corpus))


def load_system(source: ModelSource, speech: Speech = Speech()) -> System:  # noqa: B008, a frozen dataclass
    """What the options name: a checkpoint, an experiment or a package, which has its units in it.

    speech: whose units are taken where neither --lang nor a package has any.

    Raises:
      UserError: it is not there or damaged, or it was trained with other units than those of --lang.
    """
    check_threads(source.num_threads)
    if source.num_threads > 0:
        torch.set_num_threads(source.num_threads)
    lang = lang_of(source, speech)
    tokenizer = load_tokenizer(lang)
    model, info = load_model(
        source.checkpoint or source.exp_dir,
        epoch=source.epoch,
        iteration=source.iter,
        avg=source.avg,
        use_averaged_model=source.use_averaged_model,
        device=choose_device(source.device),
    )
    model.encoder.set_engines(scan=source.scan_engine, conv=source.conv_engine)
    check_tokenizer(info, tokenizer.fingerprint, lang)
    return System(model, tokenizer, info)


def searcher_for(model: Transducer, search: Search, tokenizer: Tokenizer) -> Searcher:
    """The search of the options."""
    options = dataclasses.asdict(search)
    path, score = options.pop("hotwords"), options.pop("hotwords_score")
    if path is not None:
        options["context_graph"] = read_hotwords(path, score, tokenizer.encode, tokenizer.unk_id)
    path = options.pop("lm")
    if path is not None and search.lm_scale > 0:
        pieces = [tokenizer.piece(index) for index in range(tokenizer.vocab_size)]
        options["lm"] = NgramLM(path, pieces, tokenizer.unk_id, next(model.parameters()).device)
    return make_searcher(model, options.pop("decoding_method"), **options)


def decode(
    source: ModelSource,
    chunks: WholeChunks,
    search: Search,
    data: DataConfig,
    parts: Sequence[str],
    results: Results,
) -> None:
    """Decodes ``parts`` at all chunk sizes and left contexts and writes the results."""
    model, tokenizer, info = load_system(source, data)
    data = dataclasses.replace(data, transcript_mode=data.transcript_mode or info.transcript_mode)
    module = CsjDataModule(data, tokenizer)
    settings = {
        chunking: describe(model, info, source, search, data, chunking, chunks.pad_feature)
        for chunking in chunkings(model, chunks.chunk_size, chunks.left_context_frames, chunks.round_left_context)
    }
    searcher = searcher_for(model, search, tokenizer)
    res_dir = results.res_dir or default_directory(source, search)
    logging.info(f"{info.encoder} {info.preset}, {info.checkpoint}")
    for part in module.corpus.chosen(parts):
        inputs = inputs_of(module.corpus, data, part, tokenizer)
        open_settings = [
            chunking
            for chunking, setting in settings.items()
            if results.force or not has_results(res_dir, setting, part, module.corpus.metric, inputs)
        ]
        if len(open_settings) < len(settings):
            done = len(settings) - len(open_settings)
            logging.info(f"{part}: {done} of {len(settings)} settings were decoded before (--force decodes again)")
        if open_settings:
            chosen = {chunking: settings[chunking] for chunking in open_settings}
            _decode_part(model, searcher, module, tokenizer, part, chosen, res_dir, chunks.pad_feature, inputs)
    logging.info(f"results are in {res_dir}")


def _decode_part(
    model: Transducer,
    searcher: Searcher,
    data: CsjDataModule,
    tokenizer: Tokenizer,
    part: str,
    settings: dict[Chunking, DecodeSetting],
    res_dir: Path,
    tail: int,
    inputs: dict[str, str],
) -> None:
    loader = data.test_dataloader(part)
    begin = time.monotonic()
    batches = progress(loader, total=len(loader), desc=f"decoding {part}")
    results = decode_batches(model, searcher, batches, tokenizer, list(settings), tail)
    seconds = time.monotonic() - begin
    for chunking, decoded in results.items():
        rates = write_results(res_dir, settings[chunking], part, decoded, corpus=data.corpus, inputs=inputs)
        logging.info(
            f"{part}, chunk {chunking.chunk_size}, left context {chunking.left_context_frames}: "
            f"{', '.join(map(str, rates))}, {len(decoded)} utterances"
        )
    logging.info(f"{part}: {len(settings)} settings in {seconds:.1f} s")


def inputs_of(corpus: Corpus, speech: Speech, part: str, tokenizer: Tokenizer) -> dict[str, str]:
    """What a result of ``part`` depends on beside what :func:`describe` says: digests by kind.

    Raises:
      UserError: there is no manifest of that part, or it is damaged.
    """
    manifest = corpus.manifest_path(speech.manifest_dir, part)
    return {"manifest": manifest_digest(manifest), "units": tokenizer.fingerprint[:16]}


def describe(
    model: Transducer,
    info: ModelInfo,
    source: ModelSource,
    search: Search,
    speech: Speech,
    chunking: Chunking,
    tail: int = geometry.TAIL_PADDING,
) -> DecodeSetting:
    """What a result was made by: everything in the options that can change it."""
    encoder = model.config.encoder
    usual = ENCODER_PRESETS.get(info.encoder, {}).get("mixer")
    state_bytes = 0
    if chunking.chunk_size != -1 and chunking.left_context_frames != -1:
        state_bytes = 4 * state_numel(model.encoder.init_state(1, chunking.left_context_frames))
    return DecodeSetting(
        encoder=info.encoder,
        preset=info.preset,
        method=search.decoding_method,
        beam_size=search.beam_size if search.decoding_method == "modified_beam_search" else 1,
        chunk_size=chunking.chunk_size,
        left_context_frames=chunking.left_context_frames,
        epoch=info.epoch,
        avg=info.avg,
        use_averaged_model=info.use_averaged_model,
        d_state=encoder.d_state if "d_state" in MIXERS[encoder.mixer].options else 0,
        state_dtype="float32",
        state_bytes=state_bytes,
        streaming=False,
        checkpoint=info.checkpoint,
        experiment=str(_experiment(source).resolve()),
        search="-".join(_unusual(search) + ([] if tail == geometry.TAIL_PADDING else [f"pad-feature-{tail}"])),
        transcript_mode=speech.transcript_mode or info.transcript_mode,
        features="stored" if isinstance(speech, DataConfig) and not speech.on_the_fly_feats else "computed",
        mixer="" if encoder.mixer == usual else encoder.mixer,
    )


def _unusual(search: Search) -> list[str]:
    """The options of the search that have not their usual values; those of fast_beam_search for it alone."""
    names = ["blank_penalty", "temperature"]
    if search.decoding_method == "fast_beam_search":
        names += ["beam", "max_contexts", "max_states"]
    usual = {item.name: item.default for item in dataclasses.fields(search)}
    values = {name: getattr(search, name) for name in names}
    found = [f"{name.replace('_', '-')}-{value:g}" for name, value in values.items() if value != usual[name]]
    if search.hotwords is not None:
        found.append(f"hotwords-{hotwords_digest(search.hotwords)}-{search.hotwords_score:g}")
    if search.lm is not None and search.lm_scale > 0:
        found.append(f"lm-{file_digest(search.lm)}-{search.lm_scale:g}")
    return found


def _experiment(source: ModelSource) -> Path:
    """The directory of the training run that the options name."""
    if source.checkpoint is None:
        return source.exp_dir
    return source.checkpoint if source.checkpoint.is_dir() else source.checkpoint.parent


def working_directory(source: ModelSource) -> Path:
    """Where goes what is made of a model: its experiment, or for a package, which stays as it is, exp/NAME."""
    directory = _experiment(source)
    return Path("exp") / directory.resolve().name if is_package(directory) else directory


def default_directory(source: ModelSource, search: Search) -> Path:
    """Where results go without --res-dir."""
    directory = working_directory(source)
    which = f"-iter-{source.iter}" if source.iter else ""
    if source.checkpoint and source.checkpoint.is_file():
        which = f"-{source.checkpoint.stem}"
    return directory / f"{search.decoding_method}{which}"
