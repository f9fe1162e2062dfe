"""What benchmarks/fuzz.py mutates: a family makes its files once and reads a mutation of one of them a case."""

from __future__ import annotations

import argparse
import copy
import gzip
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any, Callable

import numpy as np
import soundfile
import torch

from sammo.corpora import CSJ
from sammo.data.config import DataConfig
from sammo.data.features import collate_on_the_fly, collate_precomputed, make_extractor
from sammo.data.manifests import read_cuts, survey_manifests
from sammo.data.shar import SharCuts, shar_manifests
from sammo.data.sources import SHAR
from sammo.data.tokens import CHECKSUM, character_table, format_token_table, load_tokenizer
from sammo.model_options import ModelOptions
from sammo.options import add_options, from_args
from sammo.scoring import DecodeSetting, read_results, write_results
from sammo.scoring.report import comma_separated, markdown
from sammo.scoring.table import choose_averages, choose_corpus, tabulate
from sammo.streaming.audio import MAX_AMPLITUDE, read_audio
from sammo.training.config import TrainConfig

TEXT = "あいうえお"
COMMAND = "touch executed"


class Family:
    """``case`` returns None, a line about a silently wrong result, or raises what the reader raises."""

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)

    def case(self, directory: Path, rng: random.Random) -> str | None:
        raise NotImplementedError


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Flipped bits, other bytes, pieces cut out, doubled, zeroed or exchanged."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if not data:
            break
        # The beginning is where headers are.
        at = rng.randrange(min(len(data), rng.choice((64, 512, len(data)))))
        size = rng.choice((1, 2, 4, 8, 64, 1024))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", rng.randbytes(4)))
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size]
        elif kind == 4:
            data[at : at + size] = bytes(len(data[at : at + size]))
        else:
            data[at:at] = rng.randbytes(size)
    return bytes(data)


class Audio(Family):
    """Files of every format that is read: cut short they must be refused, otherwise be plausible audio."""

    FORMATS = (
        ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_16"),
        ("RF64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), ("NIST", "PCM_16"),
        ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("PVF", "PCM_16"),
    )  # fmt: skip

    def __init__(self, directory: Path):
        super().__init__(directory)
        samples = np.random.default_rng(0).normal(0, 0.1, (6000, 1)).astype(np.float32)
        self.seeds = []
        for format, subtype in self.FORMATS:
            path = directory / "seed"
            soundfile.write(
                path, np.repeat(samples, 1 + len(self.seeds) % 2, axis=1), 16000, format=format, subtype=subtype
            )
            self.seeds.append((format, path.read_bytes()))

    def case(self, directory: Path, rng: random.Random) -> str | None:
        format, content = rng.choice(self.seeds)
        cut = rng.random() < 0.3
        path = directory / f"case.{rng.choice(('wav', format.lower(), 'raw', 'sph', 'opus'))}"
        size = rng.randrange(len(content)) if cut else 0
        path.write_bytes(content[:size] if cut else mutate(content, rng))
        samples = read_audio(path)
        if cut:
            return f"{format} cut to {size} of {len(content)} bytes: {samples.numel()} samples accepted"
        if not samples.isfinite().all() or samples.abs().max() > 2 * MAX_AMPLITUDE:
            return f"{format}: samples up to {samples.abs().max()}"
        return None


ODD = (
    None, True, 0, -1, 1e308, float("nan"), float("inf"), -float("inf"), 10**400, 2**63, 0.5, "", "x", "a\nb", "\ud800", "a\0b",
    "x" * 5000, [], {}, [None], [[]], {"a": 1}, "/dev/zero", "/dev/stdin", "pipe:" + COMMAND, "http://127.0.0.1:9/x",
    "../../etc/passwd", f"x; {COMMAND}; y.sph", f"x'; {COMMAND}; '.opus", "-", f"$({COMMAND}).sph",
)  # fmt: skip
HOSTILE = (
    {"type": "command", "channels": [0], "source": COMMAND},
    {"type": "url", "channels": [0], "source": "http://127.0.0.1:9/a.wav"},
    {"type": "memory", "channels": [0], "source": "RIFF"},
    {"type": "shar", "channels": [0], "source": ""},
    {"type": "file", "channels": [0], "source": "pipe:" + COMMAND},
)
STORED = (
    "memory_raw",
    "memory_lilcom",
    "memory_npy",
    "kaldiio",
    "lilcom_url",
    "lilcom_hdf5",
    "shar",
    "numpy_files",
    "lilcom_files",
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values inside of ``value``."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def put(value: Any, path: tuple, item: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = item


def odd_json(value: Any, rng: random.Random) -> Any:
    """A copy of ``value`` with one to three values replaced, removed or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        found = places(value)
        if not found:
            return rng.choice(ODD)
        path = rng.choice(found)
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        kind = rng.randrange(6)
        if kind == 0:
            del parent[path[-1]]
        elif kind == 1 and isinstance(parent, dict):
            parent[rng.choice(("type", "id", "sources", "custom", "width", "extra"))] = parent.pop(path[-1])
        elif kind == 2:
            parent[path[-1]] = copy.deepcopy(rng.choice(HOSTILE))
        else:
            parent[path[-1]] = copy.deepcopy(rng.choice(ODD))
    return value


class Manifests(Family):
    """Cuts with audio, features and custom fields, in files of their own and in Shar archives, bits and values changed."""

    def __init__(self, directory: Path):
        super().__init__(directory)
        from lhotse import LilcomChunkyWriter, Recording, SupervisionSegment
        from lhotse.cut import MonoCut
        from lhotse.shar import SharWriter

        cuts = []
        for index, seconds in enumerate((0.3, 0.5, 0.4)):
            path = directory / f"{index}.wav"
            soundfile.write(path, np.random.default_rng(index).normal(0, 0.1, int(16000 * seconds)), 16000)
            segment = SupervisionSegment(f"s{index}", f"r{index}", 0.0, seconds, text=TEXT, custom={"fluent": TEXT})
            recording = Recording.from_file(path, recording_id=f"r{index}")
            cuts.append(MonoCut(f"c{index}", 0.0, seconds, 0, recording=recording, supervisions=[segment]))
        with LilcomChunkyWriter(directory / "feats") as writer:
            cuts = [cut.compute_and_store_features(make_extractor(), writer) for cut in cuts]
        self.items = [cut.to_dict() for cut in cuts]
        self.packed = gzip.compress("".join(json.dumps(item) + "\n" for item in self.items).encode())
        self.archive = Path(cuts[0].features.storage_path)
        self.features = self.archive.read_bytes()
        self.shar = directory / "shar"
        self.shar.mkdir(exist_ok=True)
        with SharWriter(self.shar, fields={"features": "lilcom"}, shard_size=3, warn_unused_fields=False) as writer:
            for cut in cuts:
                writer.write(cut.drop_recording())
        shard = {
            "cuts": "cuts.000000.jsonl.gz",
            "features": "features.000000.tar",
            "count": 3,
            "speed_perturbed": False,
        }
        (self.shar / "index.json").write_text(json.dumps({"shards": [shard]}))
        self.extractor = make_extractor()

    def case(self, directory: Path, rng: random.Random) -> str | None:
        kind = rng.randrange(5)
        if kind == 4:
            return self._shar(directory, rng)
        path = directory / "case.jsonl.gz"
        items, changed = self.items, kind in (0, 1)
        if changed:
            items = [odd_json(item, rng) if rng.random() < 0.5 else item for item in self.items]
            if rng.random() < 0.3:
                items[rng.randrange(3)] = self._hostile(rng)
            try:
                text = "".join(json.dumps(item) + "\n" for item in items)
            except ValueError:
                text = "[]"
            path.write_bytes(gzip.compress(text.encode()))
        elif kind == 2:
            path.write_bytes(mutate(self.packed, rng))
        else:
            path.write_bytes(self.packed)
        self.archive.write_bytes(mutate(self.features, rng) if kind == 3 else self.features)
        survey_manifests("case", [path], "fluent", None)
        cuts = list(read_cuts(path))
        if not changed and [cut.to_dict() for cut in cuts] != self.items:
            return "other cuts than were written"
        on_the_fly = rng.random() < 0.5
        for cut in cuts:
            features, lengths = collate_on_the_fly([cut], self.extractor) if on_the_fly else collate_precomputed([cut])
            if features.ndim != 3 or features.shape[2] != 80 or not torch.isfinite(features).all():
                return f"features of shape {tuple(features.shape)}"
        return None

    def _hostile(self, rng: random.Random) -> dict:
        item = copy.deepcopy(self.items[0])
        kind = rng.randrange(4)
        if kind == 0:
            item["recording"]["sources"] = [copy.deepcopy(rng.choice(HOSTILE))]
        elif kind == 1:
            item["features"].update(
                storage_type=rng.choice(STORED), storage_path=rng.choice(("pipe:" + COMMAND, ".", "x"))
            )
        elif kind == 2:
            item["custom"] = {"x": {**item["recording"], "sources": [copy.deepcopy(rng.choice(HOSTILE))]}}
        else:
            item["recording"]["sources"][0]["source"] = rng.choice([odd for odd in ODD if isinstance(odd, str)])
        return item

    def _shar(self, directory: Path, rng: random.Random) -> str | None:
        copied = directory / "case-shar"
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(self.shar, copied)
        path = copied / rng.choice(("index.json", "cuts.000000.jsonl.gz", "features.000000.tar"))
        if path.suffix == ".json" and rng.random() < 0.7:
            path.write_text(json.dumps(odd_json(json.loads(path.read_text()), rng)))
        else:
            path.write_bytes(mutate(path.read_bytes(), rng))
        survey = survey_manifests("train", shar_manifests(copied, False), "", None, allowed=SHAR)
        cuts = list(SharCuts(copied, survey))
        for cut in cuts:
            collate_precomputed([cut])
        return None if [cut.id for cut in cuts] == ["c0", "c1", "c2"] else f"cuts {[cut.id for cut in cuts]}"


class Results(Family):
    """Result files: reports show what their counts say, or refuse them."""

    def __init__(self, directory: Path):
        super().__init__(directory)
        setting = DecodeSetting(
            encoder="sammo", preset="tiny", method="greedy_search", beam_size=1, chunk_size=64, left_context_frames=0,
            epoch=3, avg=1, use_averaged_model=True, d_state=32, state_dtype="float32", state_bytes=4000, streaming=True,
            checkpoint="epoch-3", experiment=str(directory), transcript_mode="fluent",
        )  # fmt: skip
        rows = [("a", TEXT, "あいえお", [0.1]), ("b", "かき", "かきく", [0.1, 0.2])]
        write_results(directory / "seed", setting, "eval1", rows, {"delay": 1.0}, corpus=CSJ, failed={"b": "gone"})
        [path] = (directory / "seed").glob("cer-*.json")
        self.record = json.loads(path.read_text(encoding="utf-8"))

    def case(self, directory: Path, rng: random.Random) -> str | None:
        case = directory / "case"
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        content = json.dumps(self.record).encode()
        if rng.random() < 0.6:
            content = json.dumps(odd_json(self.record, rng)).encode("utf-8", "replace")
        else:
            content = mutate(content, rng)
        (case / "cer-eval1-x.json").write_bytes(content)
        corpus, results = choose_corpus(read_results(case))
        results, notes = choose_averages(results, corpus)
        text = markdown(tabulate(results), corpus, notes)
        comma_separated(tabulate(results), corpus.metric)
        text.encode()
        counts = [list(count) for count in results[0].counts["CER"]]
        try:
            noted = json.loads(content)
        except ValueError:
            return "read, although it is no JSON"
        return None if counts == list(noted["utterances"].values()) else "other counts than were written"


class Lang(Family):
    """Language directories, characters and BPE: units under other ids have another fingerprint."""

    def __init__(self, directory: Path):
        super().__init__(directory)
        import sentencepiece

        (directory / "char").mkdir(exist_ok=True)
        (directory / "bpe").mkdir(exist_ok=True)
        table = format_token_table(character_table([TEXT, "かきくけこ"]))
        (directory / "char/tokens.txt").write_text(table, encoding="utf-8")
        (directory / "char/lang_type").write_text("char\n")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([TEXT, "かきくけこ", "あいかき"] * 5), model_prefix=str(directory / "bpe/bpe"),
            vocab_size=20, model_type="bpe", character_coverage=1.0, user_defined_symbols=["<blk>", "<sos/eos>"], unk_id=2,
            bos_id=-1, eos_id=-1, minloglevel=2, num_threads=1,
        )  # fmt: skip
        model = (directory / "bpe/bpe.model").read_bytes()
        (directory / "bpe" / CHECKSUM).write_text(hashlib.sha256(model).hexdigest())
        self.seeds = {path: path.read_bytes() for path in (directory / "char/tokens.txt", directory / "bpe/bpe.model")}
        self.whole = {path: load_tokenizer(path.parent) for path in self.seeds}

    def case(self, directory: Path, rng: random.Random) -> str | None:
        path = rng.choice(list(self.seeds))
        try:
            path.write_bytes(mutate(self.seeds[path], rng))
            found, whole = load_tokenizer(path.parent), self.whole[path]
            same = [found.encode(text) == whole.encode(text) for text in (TEXT, "かきくけこ", "x")]
            found.decode(found.encode(TEXT))
            return None if all(same) or found.fingerprint != whole.fingerprint else "same fingerprint, other units"
        finally:
            path.write_bytes(self.seeds[path])


class Options(Family):
    """Values of training's, the data's and the model's options that no one would type."""

    VALUES = ("0", "-1", "1", "10", "nan", "inf", "-inf", "1e400", "1000000000", "9" * 400, "", " ", "x", "a,b", "1,2,3", "1,1,1,1",
              "true", "\udcff", "x" * 5000, "/dev/zero", "8:2", "1:nan", "0.5", "1e-300")  # fmt: skip

    def __init__(self, directory: Path):
        super().__init__(directory)
        self.parser = argparse.ArgumentParser()
        for schema in (ModelOptions, TrainConfig, DataConfig):
            add_options(self.parser, schema)
        self.names = [action.option_strings[-1] for action in self.parser._actions if action.option_strings[0] != "-h"]

    def case(self, directory: Path, rng: random.Random) -> str | None:
        words = ["--preset", "tiny"]
        for _ in range(rng.choice((1, 1, 2, 4))):
            words += [f"{rng.choice(self.names)}={rng.choice(self.VALUES)}"]
        args = self.parser.parse_args(words)
        config, data = from_args(TrainConfig, args), from_args(DataConfig, args)
        model = from_args(ModelOptions, args).to_config(40)
        layers = sum(model.encoder.num_layers)
        numbers = [value for item in (config, data) for value in vars(item).values() if isinstance(value, float)]
        if not all(np.isfinite(numbers)) or layers > 1000 or data.num_workers > 10_000:
            return f"accepted {words}"
        return None


DATA_FAMILIES: dict[str, Callable[[Path], Family]] = {
    "audio": Audio,
    "manifests": Manifests,
    "results": Results,
    "lang": Lang,
    "options": Options,
}
