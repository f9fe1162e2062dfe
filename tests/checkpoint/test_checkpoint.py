"""Checkpoint files: whole or not at all, refused when damaged, found again, averaged."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import zipfile

import pytest
import torch
from fixtures.training import ROOT, ListData, differences, make_trainer, random_batch

from sammo.checkpoint import (
    check_tokenizer,
    load_model,
    newest_checkpoint,
    read_checkpoint,
    remove_unfinished,
    write_checkpoint,
    write_content,
)
from sammo.checkpoint.averaging import average_between, average_states
from sammo.errors import UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three epochs of 4 batches, averaged every 2, and checkpoints every 3 batches."""
    exp_dir = tmp_path_factory.mktemp("exp")
    data = ListData([random_batch(seed) for seed in range(4)])
    make_trainer(exp_dir, data, num_epochs=3, save_every_n=3).run()
    return exp_dir


@pytest.fixture
def copy(trained, tmp_path):
    for path in trained.glob("*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def same(model, weights):
    return all(torch.equal(value, weights[name].float()) for name, value in model.state_dict().items())


def test_round_trip(trained, tmp_path):
    checkpoint = read_checkpoint(trained / "checkpoint-9.pt")
    write_checkpoint(tmp_path / "epoch-1.pt", checkpoint)
    assert differences(read_checkpoint(tmp_path / "epoch-1.pt"), checkpoint) == []
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-1.pt"]
    head = read_checkpoint(tmp_path / "epoch-1.pt", ())
    assert head.batch_idx_train == 9 and head.model == head.model_avg == {} and head.training is None


def test_decoding_needs_no_training():
    code = (
        "import sys, sammo.decoding, sammo.streaming.decoding, sammo.streaming.parity, sammo.streaming.transcribe, "
        "sammo.export.icefall, sammo.checkpoint\n"
        "print([name for name in sys.modules if name.startswith('sammo.training')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


# ------------------------------------------------------------------------------------ what is in the file


def version_1(path):
    """The content of a checkpoint file, in the schema of the first version."""
    content = torch.load(path, weights_only=True)
    del content["sha256"]
    training = content.pop("training") or {}
    if training:
        training["seconds"] = training.pop("wall_seconds")
    return {**content, **training, "format": "sammo-checkpoint-1"}


def test_first_version_can_be_read(copy):
    expected = {path.name: read_checkpoint(path) for path in copy.glob("*.pt")}
    info = load_model(copy, epoch=3, avg=2)[1]
    for path in copy.glob("*.pt"):
        torch.save(version_1(path), path)
        assert differences(read_checkpoint(path), expected[path.name]) == []
    assert expected["best-valid.pt"].training is None and expected["epoch-3.pt"].training is not None
    assert load_model(copy, epoch=3, avg=2)[1] == info


def laughs():
    """A list that is small in a file and in memory; written out, it is larger than any disk."""
    item = [0] * 10
    for _ in range(40):
        item = [item] * 10
    return item


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": "sammo-checkpoint-99"}, r"epoch-3.pt was written by a newer version of Sammo \(schema 99;"),
        ({"format": "other"}, "epoch-3.pt is no checkpoint of Sammo"),
        ({"format": laughs()}, "epoch-3.pt is no checkpoint of Sammo"),
        ({"preset": laughs()}, "its preset is a list, not a str"),
        ({"epoch": None}, "epoch-3.pt cannot be used: it has no epoch"),
        ({"epoch": "three"}, "its epoch is a str, not a int"),
        ({"epoch_done": 1}, "its epoch_done is a int, not a bool"),
        ({"batch_idx_train": True}, "its batch_idx_train is a bool, not a int"),
        ({"average_period": 0}, "its average_period is 0"),
        ({"model": [1]}, "its model is a list, not a dict"),
        ({"model_avg": {"x": 1}}, "x in its model_avg is not a tensor"),
        ({"model_config": {"vocab_size": 3}}, "missing"),
        ({"model_config": {"encoder": 7}}, "missing|cannot be used"),
        ({"sha256": None}, "it has no sha256"),
        ({"sha256": {}}, "model_avg does not have its checksum"),
        ({"training": {"optimizer": {}}}, "it has no scheduler"),
        ({"training": 3}, "its training is a int, not a dict"),
        ({"preset": "../../tiny"}, "its preset is '../../tiny', no name"),
        ({"transcript_mode": "a|b\n"}, "its transcript_mode is .* no name"),
        ({"epoch": -1}, "its epoch is -1"),
        ({"model_avg": {"x": torch.zeros(1).expand(1 << 20, 1 << 20)}}, "x in its model_avg is no tensor of numbers"),
        ({"model_avg": {"x": torch.zeros(2, 2).to_sparse()}}, "x in its model_avg is no tensor of numbers"),
        ({"model_avg": {"x": torch.zeros(1 << 20, device="meta")}}, "x in its model_avg is no tensor of numbers"),
    ],
)
def test_wrong_content_is_one_line(copy, change, message):
    content = torch.load(copy / "epoch-3.pt", weights_only=True)
    for name, value in change.items():
        content[name] = value
        if value is None:
            del content[name]
    torch.save(content, copy / "epoch-3.pt")
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(copy / "epoch-3.pt") if "training" in change else load_model(copy, epoch=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [1, 2])
def test_no_tensor_is_taken_from_elsewhere(copy, version):
    content = torch.load(copy / "epoch-3.pt", weights_only=True) if version == 2 else version_1(copy / "epoch-3.pt")
    name = next(iter(content["model_avg"]))
    whole = content["model_avg"]
    content["model_avg"] = {key: value for key, value in whole.items() if key != name}
    torch.save(content, copy / "epoch-3.pt")
    with pytest.raises(UserError, match=f"its averaged model has no {name}"):
        load_model(copy, epoch=3)
    content["model_avg"] = {**whole, name: torch.zeros(1, 2, 3)}
    torch.save(content, copy / "epoch-3.pt")
    with pytest.raises(UserError, match=f"{name} has the shape .* in its averaged model"):
        load_model(copy, epoch=3)
    content["model"], content["model_avg"] = ({"a": torch.zeros(1)} for _ in range(2))
    content["format"] = "sammo-checkpoint-1"
    torch.save(content, copy / "epoch-3.pt")
    with pytest.raises(UserError, match="does not hold the model that it describes: .*frontend") as caught:
        load_model(copy / "epoch-3.pt")
    assert "\n" not in str(caught.value)


def test_a_configuration_takes_no_more_memory_than_the_file(copy):
    """200 layers of the largest width would be 10 TB."""
    content = torch.load(copy / "epoch-3.pt", weights_only=True)
    content["model_config"]["encoder"] |= {
        "encoder_dim": [65536] * 2,
        "unmasked_dim": [64] * 2,
        "num_layers": [200] * 2,
    }
    torch.save(content, copy / "epoch-3.pt")
    with pytest.raises(
        UserError, match="does not hold the model that it describes: its configuration asks for many more"
    ):
        load_model(copy / "epoch-3.pt")
    for place, field in ((content["model_config"], "vocab_size"), (content["model_config"]["encoder"], "mixer")):
        whole, place[field] = place[field], laughs()
        torch.save(content, copy / "epoch-3.pt")
        with pytest.raises(UserError, match=f"epoch-3.pt cannot be used: model option {field} has a list, where"):
            load_model(copy / "epoch-3.pt")
        place[field] = whole
    content["model_config"]["encoder"]["encoder_dim"] = [32, torch.zeros(2)]
    torch.save(content, copy / "epoch-3.pt")
    with pytest.raises(UserError, match="epoch-3.pt cannot be used: model option encoder_dim has a Tensor, where int"):
        load_model(copy / "epoch-3.pt")


def test_weights_that_are_not_finite(trained, tmp_path):
    checkpoint = read_checkpoint(trained / "epoch-3.pt")
    name = list(checkpoint.model)[3]
    weights = {**checkpoint.model, name: torch.full_like(checkpoint.model[name], float("nan"))}
    write_checkpoint(tmp_path / "x.pt", dataclasses.replace(checkpoint, model=weights))
    with pytest.raises(UserError, match=f"x.pt .*{name} is not finite, as after a training that diverged"):
        load_model(tmp_path / "x.pt", use_averaged_model=False)
    load_model(tmp_path / "x.pt")


@pytest.mark.parametrize("overlap", [True, False])
def test_a_zip_bomb_is_not_unpacked(tmp_path, overlap):
    """2,000 records in the same MiB, or one of zeros that are compressed."""
    path = tmp_path / "epoch-1.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if overlap else zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 20))
        archive.filelist *= 2000 if overlap else 1
    with pytest.raises(UserError, match="epoch-1.pt is damaged or no checkpoint .its records are not those"):
        read_checkpoint(path)


def test_weights_alone_cannot_be_resumed(trained, tmp_path):
    trainer = make_trainer(tmp_path, ListData([random_batch(0)]))
    with pytest.raises(UserError, match="a model and no state of training: it can be decoded, not resumed"):
        trainer.load(read_checkpoint(trained / "best-valid.pt"))
    checkpoint = read_checkpoint(trained / "epoch-3.pt")
    training = dataclasses.replace(checkpoint.training, scheduler={"nonsense": 1})
    listed = dataclasses.replace(checkpoint.training, scheduler={"epoch": [], "batch": 3})
    for state in (training, listed):
        with pytest.raises(UserError, match="does not fit what train.py keeps"):
            trainer.load(dataclasses.replace(checkpoint, training=state))


# ------------------------------------------------------------------------------------ damaged files


def test_newest_is_the_one_with_most_batches(copy):
    path, checkpoint = newest_checkpoint(copy)
    assert path.name == "epoch-3.pt" and checkpoint.batch_idx_train == 12 and checkpoint.epoch_done
    (copy / "epoch-3.pt").unlink()
    assert newest_checkpoint(copy)[0].name == "checkpoint-12.pt"
    (copy / "checkpoint-12.pt").unlink()
    assert newest_checkpoint(copy)[0].name == "checkpoint-9.pt"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_truncated_falls_back(copy, share, caplog):
    for name in ("epoch-3.pt", "checkpoint-12.pt"):
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[: int(share * len(whole))])
    path, checkpoint = newest_checkpoint(copy)
    assert path.name == "checkpoint-9.pt" and checkpoint.batch_idx_train == 9
    assert "epoch-3.pt is damaged" in caplog.text and "taking checkpoint-9.pt instead" in caplog.text


def test_flipped_bit_falls_back(copy, caplog):
    for name in ("epoch-3.pt", "checkpoint-12.pt"):
        with zipfile.ZipFile(copy / name) as archive:
            largest = max(archive.infolist(), key=lambda info: info.file_size)
        data = bytearray((copy / name).read_bytes())
        data[largest.header_offset + largest.file_size // 2] ^= 1
        (copy / name).write_bytes(data)
    assert newest_checkpoint(copy)[0].name == "checkpoint-9.pt"
    assert "Bad CRC-32" in caplog.text


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("use_averaged_model", [True, False])
def test_no_flipped_bit_is_decoded(copy, version, use_averaged_model):
    path = copy / "epoch-3.pt"
    if version == 1:
        torch.save(version_1(path), path)
    before = load_model(path, use_averaged_model=use_averaged_model)[1]
    whole = path.read_bytes()
    draw = random.Random(0)
    noticed = 0
    for _ in range(60):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            assert load_model(path, use_averaged_model=use_averaged_model)[1] == before  # it was in what is not read
        except UserError as error:
            noticed += 1
            assert "\n" not in str(error) and "epoch-3.pt" in str(error)
    assert noticed > (40 if version == 1 else 5)
    path.write_bytes(whole)


def test_all_damaged(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / "epoch-1.pt").write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint in .* can be read, 1 are damaged .*delete them to start anew"):
        newest_checkpoint(tmp_path)


def test_no_code_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("code was run",)

    torch.save({"format": "sammo-checkpoint-1", "model": Evil()}, tmp_path / "epoch-1.pt")
    with pytest.raises(UserError, match="damaged or no checkpoint .it holds more than tensors, numbers and text"):
        read_checkpoint(tmp_path / "epoch-1.pt")
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="no checkpoint of Sammo"):
        read_checkpoint(tmp_path / "other.pt")


def test_unfinished_files_go(copy):
    (copy / ".tmp-77-epoch-4.pt").write_bytes(b"half")
    remove_unfinished(copy)
    assert not list(copy.glob(".tmp*"))


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from sammo.errors import run_main
from sammo.checkpoint import write_content
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
run_main(lambda: write_content(Path(sys.argv[1]), {"weights": torch.zeros(100000)}))
"""


def test_full_disk_keeps_the_checkpoint_before(tmp_path):
    path = tmp_path / "epoch-1.pt"
    write_content(path, {"weights": torch.ones(3)})
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: checkpoint {path} could not be written (File too large")
    assert ended.stderr.count("\n") == 1 and "earlier checkpoints are intact (epoch-1.pt)" in ended.stderr
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["epoch-1.pt"]


# ------------------------------------------------------------------------------------ averages


def test_average_between_is_the_mean_of_that_range():
    models = [{"w": torch.randn(5, dtype=torch.float64)} for _ in range(10)]
    running = [average_states(models[: n + 1]) for n in range(10)]
    between = average_between(running[3], 4, running[9], 10)["w"]
    torch.testing.assert_close(between, average_states(models[4:])["w"])


def test_load_model_averages(trained):
    found = {epoch: read_checkpoint(trained / f"epoch-{epoch}.pt") for epoch in (1, 2, 3)}
    model, info = load_model(trained, epoch=2, use_averaged_model=False)
    assert same(model, found[2].model) and not model.training
    model, _ = load_model(trained, epoch=3, avg=2, use_averaged_model=False)
    assert same(model, average_states([found[2].model, found[3].model]))
    model, _ = load_model(trained, epoch=3, avg=3)
    assert same(model, found[3].model_avg)
    model, info = load_model(trained, epoch=3, avg=1)
    expected = average_between(found[2].model_avg, 8, found[3].model_avg, 12)
    assert same(model, expected)
    assert info.epoch == 3 and info.avg == 1 and info.batch_idx_train == 12
    assert info.encoder == "sammo" and info.preset == "tiny" and info.tokenizer == "letters"
    assert info.checkpoint.startswith("epoch-2..epoch-3, batch 12, sha256 ")
    assert load_model(trained, avg=1)[1] == info  # the newest


def test_load_model_by_batch_and_by_file(trained):
    found = {batch: read_checkpoint(trained / f"checkpoint-{batch}.pt") for batch in (3, 9, 12)}
    model, info = load_model(trained, iteration=12, avg=1)
    # checkpoint-9 was averaged last after batch 8.
    assert same(model, average_between(found[9].model_avg, 8, found[12].model_avg, 12))
    model, info = load_model(trained / "best-valid.pt")
    assert same(model, read_checkpoint(trained / "best-valid.pt").model_avg)
    with pytest.raises(UserError, match="other output units than those in data/lang"):
        check_tokenizer(info, "something else", "data/lang")
    check_tokenizer(info, "letters", "data/lang")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epoch": 9}, r"no .*epoch-9\.pt; there are checkpoint-3,6,9,12 and epoch-1\.\.\.3"),
        ({"epoch": 2, "avg": 3}, "--avg 3 goes beyond the beginning of training: with --epoch 2 at most 2"),
        ({"epoch": 2, "avg": 0}, "--avg must be at least 1"),
        ({"iteration": 10}, "no .*checkpoint-10.pt"),
        ({"iteration": 9, "avg": 5}, "--avg 5 goes beyond what exists: with --iter 9 at most 3"),
        ({"iteration": 9, "epoch": 1}, "--epoch or --iter, not both"),
    ],
)
def test_load_model_refuses(trained, options, message):
    with pytest.raises(UserError, match=message):
        load_model(trained, **options)


def test_load_model_without_what_it_needs(copy, tmp_path_factory):
    (copy / "epoch-2.pt").unlink()
    with pytest.raises(UserError, match="--epoch 3 --avg 1 needs epoch-2.pt, which is not there"):
        load_model(copy, epoch=3, avg=1)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UserError, match="no checkpoint in .*; run train.py"):
        load_model(empty)
    with pytest.raises(UserError, match="no checkpoint, experiment directory or package"):
        load_model(empty / "nothing")


def test_no_average_was_taken(tmp_path):
    data = ListData([random_batch(1)])
    make_trainer(tmp_path, data, average_period=200).run()
    with pytest.raises(UserError, match="never updated .*: take a larger --avg or pass --use-averaged-model false"):
        load_model(tmp_path, epoch=2)
    load_model(tmp_path, epoch=2, use_averaged_model=False)
