"""The model card of a package: README.md with the front matter that model hubs read."""

from __future__ import annotations

import json
from typing import Sequence

from sammo import __version__, geometry
from sammo.corpora import AN4, CSJ, Corpus
from sammo.decoding import System
from sammo.encoder.state import state_numel
from sammo.export.options import PackageOptions
from sammo.scoring import PartResult
from sammo.scoring.report import chunk_name, markdown
from sammo.scoring.table import choose_corpus, tabulate

LANGUAGES = {CSJ.name: "ja", AN4.name: "en"}
LEFT_CONTEXT = 128  # frames, of the state that the card counts where an encoder keeps any


def model_card(
    name: str,
    system: System,
    options: PackageOptions,
    results: Sequence[PartResult],
    notes: str,
    command: str,
    size: int,
) -> str:
    """Markdown.

    Args:
      name: of the package.
      results: of these weights; may be empty.
      notes: Markdown on the training data and the limits.
      command: what made the package.
      size: bytes of the weights.
    """
    card = [_front_matter(name, options, results), f"# {name}", _summary(system, options, size)]
    if notes:
        card.append(notes)
    card.append(_use(name, options.onnx_chunk_size))
    if results:
        corpus, results = choose_corpus(results)
        # One level deeper than in a report of its own.
        first, *rest = (f"#{line}" if line.startswith("#") else line for line in _report(results, corpus))
        card.append("\n".join([f"{first} on {options.dataset or corpus.name}", *rest]))
    card.append(_origin(system, command))
    return "\n\n".join(card) + "\n"


def _front_matter(name: str, options: PackageOptions, results: Sequence[PartResult]) -> str:
    """YAML; strings are written as JSON, which it takes."""
    corpus = choose_corpus(results)[0] if results else None
    language = options.language or (LANGUAGES.get(corpus.name, "") if corpus else "")
    lines = ["---", "library_name: sammo", "pipeline_tag: automatic-speech-recognition"]
    lines += [f"license: {json.dumps(options.license)}"] + ([f"language: {json.dumps(language)}"] if language else [])
    lines += ["tags: [streaming, transducer]"]
    if corpus:
        metric = corpus.metric.lower()
        lines += [f"metrics: [{metric}]", "model-index:", f"- name: {json.dumps(name)}", "  results:"]
        for part in sorted({result.part for result in results}):
            dataset = json.dumps(f"{options.dataset or corpus.name}, {part}", ensure_ascii=False)
            lines += ["  - task: {type: automatic-speech-recognition}"]
            lines += [f"    dataset: {{name: {dataset}, type: {corpus.name}}}", "    metrics:"]
            for chunk, rate in sorted(
                (result.setting.chunk_size, result.rate(corpus.metric)) for result in results if result.part == part
            ):
                what = json.dumps(f"{corpus.metric}, chunk {chunk_name(chunk)}")
                lines += [f"    - {{type: {metric}, value: {rate:.2f}, name: {what}}}"]
    return "\n".join([*lines, "---"])


def _report(results: Sequence[PartResult], corpus: Corpus) -> list[str]:
    return markdown(tabulate(results), corpus).strip().split("\n")


def _summary(system: System, options: PackageOptions, size: int) -> str:
    model, info, config = system.model, system.info, system.model.config.encoder
    parameters = sum(parameter.numel() for parameter in model.parameters())
    left = LEFT_CONTEXT if config.left_context else 0
    state = 4 * state_numel(model.encoder.init_state(1, left)) / 1024
    past = f"with a left context of {left / geometry.RATE:g} s" if left else "whatever has been said before"
    return (
        f"Streaming speech recognition: a transducer with the encoder {info.encoder} ({info.preset}), "
        f"{parameters / 1e6:.1f} M parameters ({size / 1e6:.1f} MB, matrices in {options.dtype}), "
        f"{system.tokenizer.vocab_size} units ({system.tokenizer.kind}).\n"
        f"A stream keeps {state:.0f} KiB between chunks, {past}."
    )


def _use(name: str, exports: Sequence[int]) -> str:
    lines = ["## Use", "", "```bash", f"sammo transcribe --exp-dir {name} speech.wav", "```", "", "```python"]
    lines += ["import sammo", "", f'model, tokenizer, info = sammo.from_pretrained("{name}")', "```", ""]
    lines += ["Every command of Sammo that takes an experiment takes this directory in its place."]
    lines += [f"`onnx-{n}` is for sherpa-onnx and `--runtime onnxruntime`, in chunks of {n} frames." for n in exports]
    return "\n".join(lines)


def _origin(system: System, command: str) -> str:
    info = system.info
    averaged = ", averaged over the batches between them" if ".." in info.checkpoint else ""
    transcripts = f' on "{info.transcript_mode}" transcripts' if info.transcript_mode else ""
    return (
        f"## How it was made\n\nTrained for {info.epoch} epochs, {info.batch_idx_train:,} batches{transcripts}. "
        f"Weights: {info.checkpoint}{averaged}.\nPackaged by Sammo {__version__}:\n\n```bash\n{command}\n```"
    )
