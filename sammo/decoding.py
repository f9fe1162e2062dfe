"""Decoding whole utterances, chunks made by the attention mask (simulated streaming): what decode.py does."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any, Iterable, NamedTuple, Sequence

import torch
from torch import Tensor

from sammo import geometry
from sammo.checkpoint import ModelInfo, check_tokenizer, load_model
from sammo.data.datamodule import CsjDataModule, DataConfig, add_data_arguments
from sammo.data.tokens import Tokenizer, load_tokenizer
from sammo.device import choose_device
from sammo.encoder.mixers import MIXERS, engine_names
from sammo.encoder.state import state_numel
from sammo.options import check_chunking, check_threads, integers, parse_bool
from sammo.progress import progress
from sammo.scoring import DecodeSetting, has_results, write_results
from sammo.search import Searcher, make_searcher
from sammo.search.factory import METHODS
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


def with_tails(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Utterances followed by geometry.TAIL_PADDING frames of silence, counted in the lengths, as when streamed.

    features (N, T, 80), lengths (N,) -> (N, T + 30, 80), (N,).
    """
    padded = torch.nn.functional.pad(features, (0, 0, 0, geometry.TAIL_PADDING))
    beyond = torch.arange(padded.shape[1], device=features.device) >= lengths[:, None]
    return padded.masked_fill(beyond[:, :, None], geometry.PADDING_VALUE), lengths + geometry.TAIL_PADDING


def chunkings(model: Transducer, chunk_sizes: Sequence[int], left_contexts: Sequence[int]) -> list[Chunking]:
    """All combinations, each once: some encoders see no left context, and a chunk without end needs none.

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
            check_chunking(chunk, left)
            model.encoder.check_chunk_size(chunk, left)
            if Chunking(chunk, left) not in found:
                found.append(Chunking(chunk, left))
    return found


@torch.inference_mode()
def decode_batches(
    model: Transducer,
    searcher: Searcher,
    batches: Iterable[dict[str, Any]],
    tokenizer: Tokenizer,
    settings: Sequence[Chunking],
) -> dict[Chunking, list[Decoded]]:
    """Decodes ``batches`` of the data module at each of ``settings``, loading every batch once."""
    model.eval()
    device = next(model.parameters()).device
    results: dict[Chunking, list[Decoded]] = {setting: [] for setting in settings}
    for batch in batches:
        features, lengths = with_tails(batch["features"].to(device), batch["lengths"].to(device))
        for setting in settings:
            encoded = model.encoder(
                features,
                lengths,
                chunk_size=setting.chunk_size,
                left_context_frames=setting.left_context_frames,
            )
            for cut, text, (best, *_) in zip(batch["cuts"], batch["texts"], searcher(encoded.frames, encoded.lengths)):
                times = [frame / geometry.OUTPUT_RATE for frame in best.timestamps]
                results[setting].append(Decoded(cut.id, text, tokenizer.decode(best.tokens), times))
    return results


# ------------------------------------------------------------------------------------ decode.py


def names(text: str) -> list[str]:
    """argparse type: "eval1,eval2" -> ["eval1", "eval2"]."""
    return [item for item in text.split(",") if item]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model to decode with, and where."""
    group = parser.add_argument_group("model", "Its architecture is read from the checkpoint.")
    group.add_argument("--exp-dir", type=Path, default=Path("exp"), help="--exp-dir of train.py (default: exp)")
    group.add_argument("--checkpoint", type=Path, help="A checkpoint file instead, best-valid.pt for instance.")
    group.add_argument("--epoch", type=int, default=0, help="Decode epoch-N.pt (default: the newest checkpoint).")
    group.add_argument("--iter", type=int, default=0, help="Decode checkpoint-N.pt.")
    group.add_argument("--avg", type=int, default=1, help="Checkpoints to average over (default: 1).")
    group.add_argument(
        "--use-averaged-model",
        type=parse_bool,
        default=True,
        help="Average over all batches of those checkpoints, not only over their ends (default: true).",
    )
    group.add_argument("--lang", type=Path, default=Path("data/lang_char"), help="Language directory: the output units.")
    group.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(default: auto)")
    group.add_argument("--scan-engine", default="auto", choices=engine_names("scan"), help="Of the mixer (default: auto).")
    group.add_argument("--conv-engine", default="auto", choices=engine_names("conv"), help="Of the mixer (default: auto).")
    group.add_argument("--num-threads", type=int, default=0, help="CPU threads; 0: as PyTorch chooses.")


def load_model_for(args: argparse.Namespace, tokenizer: Tokenizer) -> tuple[Transducer, ModelInfo]:
    """The model of the options, which must have been trained with the units of ``tokenizer``, and what it is."""
    check_threads(args.num_threads)
    if args.num_threads > 0:
        torch.set_num_threads(args.num_threads)
    model, info = load_model(
        args.checkpoint or args.exp_dir,
        epoch=args.epoch,
        iteration=args.iter,
        avg=args.avg,
        use_averaged_model=args.use_averaged_model,
        device=choose_device(args.device),
    )
    model.encoder.set_engines(scan=args.scan_engine, conv=args.conv_engine)
    check_tokenizer(info, tokenizer.fingerprint, args.lang)
    return model, info


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of decode.py."""
    add_model_arguments(parser)
    group = parser.add_argument_group("decoding")
    group.add_argument(
        "--parts", "--test-sets", type=names, default=["tests"], help="Parts: valid,eval1,tests (default: tests, all of those)."
    )
    group.add_argument("--chunk-size", type=integers, default=(32,), help="Frames of 20 ms: 16,32,64,128 (default: 32).")
    group.add_argument(
        "--left-context-frames",
        type=integers,
        default=(128,),
        help="Frames of 20 ms that Zipformer's attention sees before a chunk: 64,128,256 (default: 128).",
    )
    group.add_argument("--decoding-method", default="modified_beam_search", choices=METHODS, help="(default: %(default)s)")
    group.add_argument("--beam-size", type=int, default=4, help="Hypotheses of modified_beam_search (default: 4).")
    group.add_argument("--blank-penalty", type=float, default=0.0, help="Above 0: fewer deletions (default: 0).")
    group.add_argument("--temperature", type=float, default=1.0, help="Divides the logits (default: 1).")
    group.add_argument("--beam", type=float, default=20.0, help="Beam of fast_beam_search (default: 20).")
    group.add_argument("--max-contexts", type=int, default=8, help="Of fast_beam_search (default: 8).")
    group.add_argument("--max-states", type=int, default=64, help="Of fast_beam_search (default: 64).")
    group.add_argument("--res-dir", type=Path, help="Where results go (default: EXP_DIR/METHOD).")
    group.add_argument("--force", action="store_true", help="Decode again what was decoded from the same weights.")
    add_data_arguments(parser)
    # Features from the audio, as streaming_decode.py computes them: the stored ones are compressed with losses.
    parser.set_defaults(num_workers=1, on_the_fly_feats=True)


def run(args: argparse.Namespace) -> int:
    """Decodes the parts at all chunk sizes and left contexts and writes the results; raises UserError."""
    tokenizer = load_tokenizer(args.lang)
    model, info = load_model_for(args, tokenizer)
    args.transcript_mode = args.transcript_mode or info.transcript_mode
    data = CsjDataModule(DataConfig.from_args(args), tokenizer)
    settings = {
        chunking: describe(model, info, args, chunking)
        for chunking in chunkings(model, args.chunk_size, args.left_context_frames)
    }
    searcher = _searcher(args, model)
    res_dir = args.res_dir or default_directory(args)
    logging.info(f"{info.encoder} {info.preset}, {info.checkpoint}")
    for part in data.corpus.chosen(args.parts):
        open_settings = [
            chunking
            for chunking, setting in settings.items()
            if args.force or not has_results(res_dir, setting, part, data.corpus.metric)
        ]
        if len(open_settings) < len(settings):
            done = len(settings) - len(open_settings)
            logging.info(f"{part}: {done} of {len(settings)} settings were decoded before (--force decodes again)")
        if open_settings:
            _decode_part(model, searcher, data, tokenizer, part, {c: settings[c] for c in open_settings}, res_dir)
    logging.info(f"results are in {res_dir}")
    return 0


def _decode_part(
    model: Transducer,
    searcher: Searcher,
    data: CsjDataModule,
    tokenizer: Tokenizer,
    part: str,
    settings: dict[Chunking, DecodeSetting],
    res_dir: Path,
) -> None:
    loader = data.test_dataloader(part)
    begin = time.monotonic()
    results = decode_batches(
        model, searcher, progress(loader, total=len(loader), desc=f"decoding {part}"), tokenizer, list(settings)
    )
    seconds = time.monotonic() - begin
    for chunking, decoded in results.items():
        corpus = data.corpus
        rates = write_results(res_dir, settings[chunking], part, decoded, metric=corpus.metric, corpus=corpus.name)
        logging.info(
            f"{part}, chunk {chunking.chunk_size}, left context {chunking.left_context_frames}: "
            f"{', '.join(map(str, rates))}, {len(decoded)} utterances"
        )
    logging.info(f"{part}: {len(settings)} settings in {seconds:.1f} s")


def describe(model: Transducer, info: ModelInfo, args: argparse.Namespace, chunking: Chunking) -> DecodeSetting:
    """What a result was made by: everything in ``args`` that can change it; ``info`` of load_model."""
    encoder = model.config.encoder
    state_bytes = 0
    if chunking.chunk_size != -1 and chunking.left_context_frames != -1:
        state_bytes = 4 * state_numel(model.encoder.init_state(1, chunking.left_context_frames))
    return DecodeSetting(
        encoder=info.encoder,
        preset=info.preset,
        method=args.decoding_method,
        beam_size=args.beam_size if args.decoding_method == "modified_beam_search" else 1,
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
        experiment=str(_experiment(args).resolve()),
        search="-".join(f"{name.replace('_', '-')}-{value:g}" for name, value in _search_options(args)),
        transcript_mode=args.transcript_mode or info.transcript_mode,
        features="computed" if getattr(args, "on_the_fly_feats", True) else "stored",
    )


def _search_options(args: argparse.Namespace) -> list[tuple[str, float]]:
    """The options of the search that have not their usual values; those of fast_beam_search for it alone."""
    usual = {"blank_penalty": 0.0, "temperature": 1.0}
    if args.decoding_method == "fast_beam_search":
        usual.update(beam=20.0, max_contexts=8, max_states=64)
    return [(name, value) for name in usual if (value := getattr(args, name, usual[name])) != usual[name]]


def _searcher(args: argparse.Namespace, model: Transducer) -> Searcher:
    return make_searcher(
        model,
        args.decoding_method,
        args.beam_size,
        blank_penalty=args.blank_penalty,
        temperature=args.temperature,
        beam=args.beam,
        max_states=args.max_states,
        max_contexts=args.max_contexts,
    )


def _experiment(args: argparse.Namespace) -> Path:
    """The directory of the training run that the options name."""
    if not args.checkpoint:
        return args.exp_dir
    return args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent


def default_directory(args: argparse.Namespace) -> Path:
    """Where results go without --res-dir."""
    directory = _experiment(args)
    which = f"-{args.checkpoint.stem}" if args.checkpoint else f"-iter-{args.iter}" if args.iter else ""
    return directory / f"{args.decoding_method}{which}"
