"""Nothing that a manifest names runs, and what is no cut is one line, in every reader of manifests."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from add_transcript_mode import add_modes  # noqa: E402
from fixtures.data import make_corpus
from fixtures.paths import ROOT
from make_shar import make_shar  # noqa: E402

from sammo.corpora import CSJ
from sammo.data.datamodule import CsjDataModule, DataConfig
from sammo.data.manifests import read_cuts, read_recordings, read_records, read_supervisions
from sammo.data.shar import PLACES, places
from sammo.data.sources import Allowed, check_cut
from sammo.data.tokens import load_tokenizer
from sammo.errors import UserError
from sammo.preparation.validation import validate
from sammo.streaming.decoding import part_cuts


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("sources"), train=6, valid=2)


@pytest.fixture
def copy(corpus, tmp_path) -> Path:
    shutil.copytree(corpus.parent, tmp_path / "data")
    return tmp_path / "data/fbank"


def records(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, items: list) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        for item in items:
            lines.write((item if isinstance(item, str) else json.dumps(item)) + "\n")


def change(path: Path, edit) -> None:
    """Applies ``edit`` to the second cut of a manifest."""
    items = records(path)
    edit(items[1])
    write(path, items)


def evil(marker: Path) -> dict:
    """Edits of a cut that make lhotse run ``touch marker``, and one that makes it unpickle."""
    command = f"touch {marker}"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (marker,))

    def source(**values):
        return lambda cut: cut["recording"]["sources"][0].update(values)

    def features(**values):
        return lambda cut: cut["features"].update(values)

    def custom(cut):
        cut["custom"] = {
            "other": {**cut["recording"], "sources": [{"type": "command", "channels": [0], "source": command}]}
        }

    return {
        "command": source(type="command", source=command),
        "pipe": source(source=f"pipe:{command}"),
        "url": source(type="url", source=f"pipe:{command}"),
        "sphere": source(source=f"x; {command}; y.sph"),
        "opus": source(source=f"x'; {command}; 'y.OPUS"),
        "features by pipe": features(storage_type="numpy_files", storage_path=f"pipe:{command}"),
        "kaldi": features(storage_type="kaldiio", storage_path=f"{command} |"),
        "pickle": features(storage_type="memory_raw", storage_key=pickle.dumps(Payload()).decode("latin-1")),
        "custom": custom,
        "reverb": lambda cut: cut["recording"].update(
            transforms=[{"name": "ReverbWithImpulseResponse", "kwargs": {"rir": {}}}]
        ),
    }


ATTACKS = sorted(evil(Path("x")))


def module(fbank: Path, **options) -> CsjDataModule:
    defaults = {"manifest_dir": fbank, "max_duration": 12.0, "num_workers": 0, "drop_last": False}
    return CsjDataModule(DataConfig(**{**defaults, **options}), load_tokenizer(fbank.parent / "lang_char"))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("on_the_fly", [True, False])
def test_training_decoding_and_validation_run_nothing(copy, tmp_path, attack, on_the_fly):
    marker = tmp_path / "ran"
    for name in ("csj_cuts_train", "csj_cuts_eval1", "musan_cuts"):
        change(copy / f"{name}.jsonl.gz", evil(marker)[attack])
    data = module(copy, on_the_fly_feats=on_the_fly, enable_musan=False)
    tokenizer = data.tokenizer
    for use in (
        lambda: list(data.train_dataloader(1)),
        lambda: list(data.test_dataloader("eval1")),
        lambda: module(copy)._noise_cuts(),
        lambda: part_cuts(CSJ, copy, "eval1", "fluent", tokenizer),
        lambda: validate(copy / "csj_cuts_train.jsonl.gz", tokenizer, "fluent"),
        lambda: validate(copy / "musan_cuts.jsonl.gz", None, "fluent"),
        lambda: make_shar([copy / "csj_cuts_train.jsonl.gz"], tmp_path / "shar", 4, "recording", 1),
        lambda: add_modes(copy / "csj_cuts_train.jsonl.gz", {}),
    ):
        with pytest.raises(UserError) as caught:
            use()
        assert "\n" not in str(caught.value) and "-001: " in str(caught.value)
    assert not marker.exists()


def test_every_reader_checks():
    """lhotse's own readers, which check nothing, are called nowhere."""
    lhotse_reader = re.compile(
        r"(Set|Manifest)\w*\.from_(file|jsonl|json|yaml)|load_manifest|Lazy\w*Iterator|\.from_shar"
    )
    code = [*(ROOT / "sammo").rglob("*.py"), *(ROOT / "local").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    assert not [path for path in code if lhotse_reader.search(path.read_text(encoding="utf-8"))]


def test_recordings_and_supervisions_are_checked(copy):
    cut = records(copy / "csj_cuts_train.jsonl.gz")[0]
    write(copy / "r.jsonl.gz", [cut["recording"]])
    write(copy / "s.jsonl.gz", cut["supervisions"])
    assert len(list(read_recordings(copy / "r.jsonl.gz"))) == len(list(read_supervisions(copy / "s.jsonl.gz"))) == 1
    cut["recording"]["sources"][0]["type"] = "command"
    write(copy / "r.jsonl.gz", [cut["recording"]])
    with pytest.raises(UserError, match="a command to run .*refused"):
        list(read_recordings(copy / "r.jsonl.gz"))


def test_urls_only_where_asked_for(copy):
    path = copy / "csj_cuts_train.jsonl.gz"
    change(path, lambda cut: cut["recording"]["sources"][0].update(type="url", source="https://host/a.wav"))
    with pytest.raises(UserError, match="--allow-urls true"):
        list(read_cuts(path))
    assert len(list(read_cuts(path, Allowed(urls=True)))) == 6
    change(path, lambda cut: cut["recording"]["sources"][0].update(source="file:///etc/passwd"))
    with pytest.raises(UserError, match="not an http or https URL"):
        list(read_cuts(path, Allowed(urls=True)))


def test_shar_placeholders_only_in_shar(copy, tmp_path):
    make_shar([copy / "csj_cuts_train.jsonl.gz"], tmp_path / "shar", 3, "features", 1)
    with pytest.raises(UserError, match="stored as 'shar'"):
        list(read_cuts(tmp_path / "shar/cuts.000000.jsonl.gz"))


@pytest.mark.parametrize("field", ["recording", "features"])
def test_descriptions_inside_of_shar_archives_are_checked(copy, tmp_path, field):
    shar = tmp_path / "shar"
    make_shar([copy / "csj_cuts_train.jsonl.gz"], shar, 3, field, 1)
    good = list(
        module(copy, shar_dir=shar, enable_musan=False, on_the_fly_feats=field == "recording").train_dataloader(1)
    )
    assert sum(len(batch["cut_ids"]) for batch in good) == 6
    path = shar / f"{field}.000000.tar"
    with tarfile.open(path) as archive:
        files = [(member.name, archive.extractfile(member)) for member in archive]
        members = [(name, file.read()) for name, file in files if file is not None]
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            if name.endswith(".json"):
                item = json.loads(content)
                if field == "recording":
                    item["sources"].append({"type": "command", "channels": [0], "source": f"touch {tmp_path / 'ran'}"})
                else:
                    item["storage_type"] = "memory_raw"
                content = json.dumps(item).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    found = places(path)
    change(shar / "cuts.000000.jsonl.gz", lambda cut: cut["custom"].update({PLACES: {field: found[cut["id"]]}}))
    with pytest.raises(UserError, match="(a command to run|stored as 'memory_raw')"):
        list(module(copy, shar_dir=shar, enable_musan=False, on_the_fly_feats=field == "recording").train_dataloader(1))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{}",
        '{"shards": []}',
        '{"shards": [{"cuts": "../x", "count": 1}]}',
        '{"shards": [{"cuts": "x", "count": 1}]}',
        '{"shards": [{"cuts": "pipe:x", "count": 1, "y": "z"}]}',
    ],
)
def test_shar_index(copy, tmp_path, index):
    make_shar([copy / "csj_cuts_train.jsonl.gz"], tmp_path / "shar", 3, "features", 1)
    (tmp_path / "shar/index.json").write_text(index)
    with pytest.raises(UserError, match="index.json (is damaged|lists no shards)"):
        list(module(copy, shar_dir=tmp_path / "shar").train_dataloader(1))


def edit(**values):
    return lambda cut: cut.update(values)


@pytest.mark.parametrize(
    "edit, message",
    [
        (edit(id=None), "its id is missing"),
        (edit(id="a\nb"), "its id is"),
        (edit(type="MixedCut"), "its type is 'MixedCut'"),
        (edit(duration=float("nan")), "its duration is nan"),
        (edit(duration=float("inf")), "its duration is inf"),
        (edit(duration=10**400), "its duration is 1000"),
        (edit(duration="3"), "its duration is '3'"),
        (edit(duration=0), "its duration is 0"),
        (edit(start=-1), "its start is -1"),
        (edit(channel=None), "its channel is missing"),
        (edit(supervisions=None), "its supervisions are null"),
        (edit(supervisions=[None]), "a supervision is null"),
        (edit(features=None), "its features are null"),
        (edit(recording=None), "its recording is null"),
        (edit(unknown=1), "is no MonoCut"),
        (lambda cut: cut["supervisions"][0].update(start=float("nan")), "start of its supervision is nan"),
        (lambda cut: cut["supervisions"][0].update(text=["a"]), "text of its supervision is a list"),
        (lambda cut: cut["features"].update(num_frames=None), "num_frames of its features is missing"),
        (lambda cut: cut["features"].update(storage_key="a,b"), "not the places of chunks"),
        (lambda cut: cut["recording"].update(sources=[]), "sources are \\[\\]"),
        (lambda cut: cut["recording"].update(sampling_rate=0), "sampling_rate of its recording is 0"),
        (lambda cut: cut["recording"]["sources"][0].update(source="a\0b"), "path of its recording"),
        (lambda cut: cut["recording"]["sources"][0].update(source="x" * 5000), "path of its recording is 'xxx"),
    ],
)
def test_what_is_no_cut_is_one_line(copy, edit, message):
    path = copy / "csj_cuts_train.jsonl.gz"
    change(path, edit)
    with pytest.raises(UserError, match=message) as caught:
        list(read_cuts(path))
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["[]", "null", "{}", "3", '"x"', "[" * 100_000, '{"id": "\\ud800"}', "", "{", "1" * 5000]
)
def test_lines_that_are_no_cuts(copy, line):
    path = copy / "csj_cuts_train.jsonl.gz"
    write(path, [*records(path)[:1], line])
    with pytest.raises(UserError, match="line 2") as caught:
        list(read_records(path))
    assert "\n" not in str(caught.value)


def test_flipped_bits_in_a_manifest(copy):
    path = copy / "csj_cuts_train.jsonl.gz"
    whole, content = records(path), path.read_bytes()
    for position in range(10, len(content), 7):  # the bytes before hold a time stamp, which nothing depends on
        path.write_bytes(content[:position] + bytes([content[position] ^ 1 << position % 8]) + content[position + 1 :])
        try:
            found = list(read_records(path))
        except UserError:
            continue
        assert found == whole  # flipped in the file's name


def test_a_good_cut_has_no_problem(copy):
    assert check_cut(records(copy / "csj_cuts_train.jsonl.gz")[0]) is None


@pytest.mark.parametrize("values, message", [([[0.0] * 7], "have shape"), ([[float("nan")] * 80], "no numbers")])
def test_features_of_another_shape(copy, tmp_path, values, message):
    import numpy as np

    path = copy / "csj_cuts_train.jsonl.gz"
    frames = records(path)[1]["features"]["num_frames"]
    np.save(tmp_path / "bad.npy", np.array(values * frames, dtype=np.float32))
    change(
        path,
        lambda cut: cut["features"].update(
            storage_type="numpy_files", storage_path=str(tmp_path), storage_key="bad.npy"
        ),
    )
    with pytest.raises(UserError, match=f"cut train-001 .*{message}"):
        list(module(copy, enable_musan=False).train_dataloader(1))
