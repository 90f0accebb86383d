"""What a run writes is whole or not there, and a run that is killed again and again ends as if nothing had happened."""

import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anndata
import numpy as np
import pytest
import safetensors.torch
import test_engines
import torch
import yaml
from bitwise import assert_bitwise
from disks import fill
from killable import (
    NEVER,
    Child,
    Kill,
    replace_trees,
    run_augment,
    run_train,
    sample,
    write_cells_in_little_space,
    write_checkpoints,
    write_config_and_metrics,
)
from processes import process_tree, still_running
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_engines import STEPS, config_of

from cplmix_ray import CplMixVAE
from cplmix_ray.checkpoints import checkpoint as checkpoint_files
from cplmix_ray.checkpoints.checkpoint import latest_checkpoint, read_checkpoint, write_checkpoint
from cplmix_ray.checkpoints.manifest import pack
from cplmix_ray.cli.train_command import train as train_command
from cplmix_ray.config import load_config
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.evaluation.trained_model import TrainedModel, settings_of
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.vaegan.frozen import MANIFEST, WEIGHTS
from cplmix_ray.runs.event_file import ScalarFile
from cplmix_ray.training.events import Snapshot
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.durable import aside
from cplmix_ray.utils.errors import InputError

data = test_engines.data
EVERY, N_STEPS = 6, 80
LINE = (
    f"--preset published --hidden 24 --bottleneck 8 --batch-size 64 --max-steps {N_STEPS} --checkpoint-every {EVERY} "
    f"--evaluate-every 9 "
    f"--log-every 2 --threads 1 --seed 5"
).split()
DRIVER_ROUNDS = int(os.environ.get("CPLMIX_RAY_DRIVER_ROUNDS", "1"))
"""Rounds of five kills of a driver; each kill takes some ten seconds."""
PREPARATION = Preparation("images", ("p0", "p1"), image_shape=(1, 2)).as_dict()
FACTS = {
    "config": CplMixVAEConfig().model_dump(mode="json"),
    "preparations": {"main": PREPARATION},
    "n_cells": 4,
    "seconds": 1.5,
}


def is_sample(arms: dict, number: int, size: int = 12) -> bool:
    """Whether these are the tensors of a sample, every one and bit for bit."""
    return arms.keys() == sample(number, size).keys() and all(
        torch.equal(arms[arm][name], tensor)
        for arm, tensors in sample(number, size).items()
        for name, tensor in tensors.items()
    )


# Killed while it writes

WRITTEN = [(1, 1), (2, 2), (3, 3), (3, 4)]
"""Checkpoints by step and sample: the last one once more for a step that is there."""


def killed_at_operation(folder: Path, keep: int, at: int) -> bool:
    """Whether the process was killed before its ``at``-th operation on files; what it leaves is looked at."""
    child = Child(write_checkpoints, folder, WRITTEN, keep, at)
    status = child.end()
    done = int(child.seen[0])
    checkpoint, wrong = latest_checkpoint(folder)
    if done:
        assert not wrong, (at, wrong)
        n_whole = next(
            n for n in (done, done + 1) if n <= len(WRITTEN) and is_sample(checkpoint.parts, WRITTEN[n - 1][1])
        )
        assert checkpoint.step == WRITTEN[n_whole - 1][0], at
    elif checkpoint is not None:
        assert is_sample(checkpoint.parts, 1), at
    for path in folder.glob("step-*"):  # older ones, which are about to go
        assert read_checkpoint(path), at
    if status == 0:
        assert done == len(WRITTEN)
    else:
        assert status == -9
        write_checkpoint(folder, Snapshot(4, sample(5)), {}, keep)
        assert is_sample(latest_checkpoint(folder)[0].parts, 5)
        left = sorted(path.name for path in folder.iterdir())
        assert len(left) <= keep and not [name for name in left if name.startswith(".")], (at, left)
    return status == -9


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_operation_on_files_leaves_a_whole_checkpoint(tmp_path, every, fault_row):
    kills = []
    for keep in (1, 2):
        at = 1
        while killed_at_operation(tmp_path / f"{keep}-{at}", keep, at):
            kills.append((keep, at))
            at += every
        assert at > 70  # the operations of four checkpoints
    fault_row(
        "kill -9 while a checkpoint is written",
        "before every operation on files of writing four checkpoints, the last for a step that is there",
        len(kills),
        "the newest complete one is read, never half of one; the next write clears what was left",
        0,
    )


@pytest.mark.slow
def test_a_kill_at_any_time_leaves_a_whole_checkpoint(tmp_path, fault_row):
    """In the middle of operations too: four megabytes an arm take some milliseconds."""
    size, rng, times = 1 << 20, random.Random(0), 25
    written = [(step, step % 3) for step in range(1, 400)]
    for n in range(times):
        child = Child(write_checkpoints, tmp_path / str(n), written, 1, 0, size)
        while not child.seen[0]:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        assert child.kill() == -9
        done = int(child.seen[0])
        checkpoint, wrong = latest_checkpoint(tmp_path / str(n))
        assert not wrong and checkpoint.step in (done, done + 1)
        assert is_sample(checkpoint.parts, checkpoint.step % 3, size)
        shutil.rmtree(tmp_path / str(n))
    fault_row("kill -9 while a checkpoint is written", "at random times", times, "the newest complete one is read", 0)


def test_settings_and_scores_are_the_old_or_the_new_ones_wherever_they_are_killed(tmp_path):
    for at in itertools.count(1, 2):
        folder = tmp_path / str(at)
        child = Child(write_config_and_metrics, folder, at)
        status, done = child.end(), int(child.seen[0])
        if (folder / "config.yaml").exists():
            assert load_config(folder / "config.yaml").seed in (max(done, 1), done + 1)
        if (folder / "metrics.json").exists():
            assert json.loads((folder / "metrics.json").read_text())["seed"] in (max(done, 1), done + 1)
        assert not done or (folder / "metrics.json").exists()
        if status == 0:
            break
    assert at > 15


def test_a_folder_that_replaces_another_is_whole_wherever_it_is_killed(tmp_path):
    """As best/ of a search is."""
    for at in itertools.count(1, 5):
        child = Child(replace_trees, tmp_path / str(at), at)
        status, done, best = child.end(), int(child.seen[0]), tmp_path / str(at) / "best"
        kept = best if best.exists() else aside(best)
        assert kept.exists() or not done, at
        if kept.exists():
            found = {(kept / name).read_text() for name in ("config.yaml", "checkpoints/a")}
            assert len(found) == 1 and int(found.pop()) in (max(done, 1), done + 1), at
        if status == 0:
            break
    assert at > 60


# What is there, and what goes


def test_what_lies_beyond_a_new_checkpoint_stays_and_older_ones_count(tmp_path):
    """A run that went on from step 100, as 500 was damaged, keeps what it writes then."""
    for step in (100, 500):
        write_checkpoint(tmp_path, Snapshot(step, sample(step)), {}, keep=2)
    (tmp_path / "step-00000500" / "arm-0.safetensors").unlink()
    write_checkpoint(tmp_path, Snapshot(200, sample(200)), {}, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000200", "step-00000500"]
    checkpoint, wrong = latest_checkpoint(tmp_path)
    assert checkpoint.step == 200 and "step-00000500" in wrong[0]
    write_checkpoint(tmp_path, Snapshot(500, sample(1)), {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000500"]
    assert is_sample(latest_checkpoint(tmp_path)[0].parts, 1)


def test_steps_are_compared_as_numbers(tmp_path):
    for step in (99_999_999, 100_000_000):
        write_checkpoint(tmp_path, Snapshot(step, sample(1)), {}, keep=2)
    assert latest_checkpoint(tmp_path)[0].step == 100_000_000


def test_a_reader_finds_one_while_a_run_goes_on(tmp_path, monkeypatch):
    """What it has listed may be gone when it reads: here the run is faster once."""
    read, steps = checkpoint_files._read, [2]
    write_checkpoint(tmp_path, Snapshot(1, sample(1)), {}, keep=1)

    def late(path: Path) -> bytes:
        if steps:
            write_checkpoint(tmp_path, Snapshot(steps.pop(), sample(2)), {}, keep=1)
        return read(path)

    monkeypatch.setattr(checkpoint_files, "_read", late)
    checkpoint, wrong = latest_checkpoint(tmp_path)
    assert checkpoint.step == 2 and wrong == []


# Damage


def test_a_flipped_bit_anywhere_is_noticed(tmp_path, fault_row):
    path, rng = write_checkpoint(tmp_path, Snapshot(7, sample(1)), FACTS, keep=1), random.Random(0)
    assert read_checkpoint(path).step == 7
    unnoticed, n = [], 0
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for at in rng.sample(range(8 * len(whole)), 100):
            damaged = bytearray(whole)
            damaged[at // 8] ^= 1 << at % 8
            file.write_bytes(damaged)
            checkpoint, wrong = latest_checkpoint(tmp_path)
            n += 1
            if checkpoint is not None or len(wrong) != 1:
                unnoticed.append((file.name, at))
        file.write_bytes(whole)
    assert unnoticed == [] and n == 300
    assert read_checkpoint(path).step == 7
    fault_row(
        "flipped bit", "one at random in each file of a checkpoint", n, "noticed; an older checkpoint is read", None
    )


def test_a_truncated_or_missing_file_is_noticed(tmp_path, fault_row):
    path, n = write_checkpoint(tmp_path, Snapshot(7, sample(1)), FACTS, keep=1), 0
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for length in (None, 0, 1, 8, 79, len(whole) // 2, len(whole) - 1):
            file.unlink(missing_ok=True)
            if length is not None:
                file.write_bytes(whole[:length])
            checkpoint, wrong = latest_checkpoint(tmp_path)
            assert checkpoint is None and "step-00000007" in wrong[0], (file.name, length)
            n += 1
        file.write_bytes(whole)
    fault_row("truncated or missing file", "each file of a checkpoint at six lengths, and removed", n, "noticed", None)


SECRET = "../../secret.safetensors"
ABSURD: list[dict] = [
    {"format": 5},
    {"format": [4]},
    {"step": -1},
    {"step": "7"},
    {"step": 8},
    {"step": True},
    {"files": {}},
    {"files": ["arm-0.safetensors"]},
    {"files": {SECRET: "0" * 64}},
    {"files": {"/etc/hostname": "0" * 64}},
    {"files": {"arm-0.safetensors": "0" * 64}},
    {"files": {f"arm-{arm}.safetensors": "0" * 64 for arm in range(3)}},
    {"files": {"arm-0.safetensors\n../x": "0" * 64}},
    {"config": None},
    {"config": {"model": {"n_arms": 10**15}}},
    {"config": {"model": {"n_arms": 2.0}}},
    {"preparations": {}},
    {"preparations": {"main": 3}},
    {"preparations": {"main": {**PREPARATION, "var_names": 3}}},
    {"preparations": {"main": {**PREPARATION, "more": 3}}},
    {"n_cells": None},
    {"seconds": float("nan")},
    {"seconds": "1"},
]


def as_older(manifest: dict, number: int) -> bytes:
    """The file of a manifest as formats 2 and 3 had it: one preparation, and no checksum of its own in format 2."""
    older = {"format": number, **{name: value for name, value in manifest.items() if name not in ("format", "sha256")}}
    if "preparations" in older:
        older["preparation"] = older.pop("preparations").get("main", {})
    return pack(older) if number == 3 else json.dumps(older, indent=1).encode()


@pytest.mark.parametrize("number", [4, 3, 2], ids="format {}".format)
@pytest.mark.parametrize("absurd", ABSURD, ids=str)
def test_an_absurd_manifest_is_damage(tmp_path, absurd, number):
    """Whoever writes the checksum can write it for anything; no file but those of arms is opened for it."""
    path = write_checkpoint(tmp_path / "run", Snapshot(7, sample(1)), FACTS, keep=1)
    shutil.copy(path / "arm-0.safetensors", tmp_path / "secret.safetensors")
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest.pop("sha256")
    manifest |= absurd
    number = absurd.get("format", number)
    (path / "manifest.json").write_bytes(as_older(manifest, number) if number in (2, 3) else pack(manifest))
    checkpoint, wrong = latest_checkpoint(tmp_path / "run")
    assert checkpoint is None and "is damaged" in wrong[0] and "\n" not in wrong[0]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"3", b"null", b"{}", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"1" * 5000, b'{"format": 4}'],
    ids=lambda content: repr(content[:12]),
)
def test_a_manifest_that_is_none_is_damage(tmp_path, content):
    path = write_checkpoint(tmp_path, Snapshot(7, sample(1)), FACTS, keep=1)
    (path / "manifest.json").write_bytes(content)
    assert latest_checkpoint(tmp_path)[0] is None


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    path = write_checkpoint(tmp_path, Snapshot(7, sample(1)), FACTS, keep=1)
    (path / "arm-0.safetensors").unlink()
    os.mkfifo(path / "arm-0.safetensors")
    assert "arm-0.safetensors" in latest_checkpoint(tmp_path)[1][0]


@pytest.mark.parametrize("number", [2, 3])
def test_checkpoints_of_older_formats_are_read(tmp_path, number):
    """Written out by hand: their manifests have one preparation, and settings without a family."""
    config = {name: value for name, value in FACTS["config"].items() if name != "family"}
    path, files = tmp_path / "step-00000007", {}
    path.mkdir()
    for part, tensors in sample(1).items():
        data = safetensors.torch.save(tensors)
        (path / f"{part}.safetensors").write_bytes(data)
        files[f"{part}.safetensors"] = hashlib.sha256(data).hexdigest()
    body = json.dumps(
        {
            "format": number,
            "step": 7,
            "files": files,
            "version": "0.1.0",
            "config": config,
            "preparation": PREPARATION,
            "n_cells": 4,
            "seconds": 1.5,
        },
        indent=1,
    )
    if number == 3:
        checksum = hashlib.sha256(body.removeprefix("{").encode()).hexdigest()
        body = f'{{"sha256": "{checksum}",\n{body.removeprefix("{")}'
    (path / "manifest.json").write_text(body)
    checkpoint, wrong = latest_checkpoint(tmp_path)
    assert wrong == [] and checkpoint.step == 7 and is_sample(checkpoint.parts, 1)
    (preparation,) = checkpoint.manifest["preparations"].values()
    assert Preparation.from_dict(preparation) == Preparation.from_dict(PREPARATION)
    assert settings_of(checkpoint) == CplMixVAEConfig()


@pytest.mark.parametrize("number", [2, 3])
def test_a_run_of_an_older_version_is_resumed(tmp_path, number):
    """Half of a run, its files as older versions wrote them, ends where a whole run does."""
    words = [*LINE, "--checkpoint-every", "2", "--engine", "local", "--hidden", "8"]
    train_command([*words, "--max-steps", "8", "--out", str(tmp_path / "whole")])
    train_command([*words, "--max-steps", "4", "--out", str(tmp_path / "run")])
    for file in (tmp_path / "run" / "checkpoints").glob("step-*/manifest.json"):
        manifest = json.loads(file.read_bytes())
        del manifest["config"]["family"]
        file.write_bytes(as_older(manifest, number))
    settings = tmp_path / "run" / "config.yaml"
    tree = yaml.safe_load(settings.read_text())
    del tree["family"]
    settings.write_text(yaml.safe_dump(tree))
    train_command(["--resume", "--engine", "local", "--max-steps", "8", "--out", str(tmp_path / "run")])
    one, other = (latest_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("run", "whole"))
    assert one.step == other.step == 8
    assert_bitwise(one.parts, other.parts)


def test_a_run_none_of_whose_checkpoints_is_whole_is_not_begun_anew_unsaid(tmp_path):
    words = [*LINE, "--max-steps", "4", "--checkpoint-every", "2", "--engine", "local", "--out", str(tmp_path)]
    train_command(words)
    for path in (tmp_path / "checkpoints").iterdir():
        (path / "arm-0.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"checkpoints.*step-00000004.*remove") as said:
        train_command([*words, "--resume"])
    assert "\n" not in str(said.value)


def test_the_arms_of_other_settings_are_named(tmp_path):
    write_checkpoint(tmp_path / "checkpoints", Snapshot(7, sample(1)), FACTS, keep=1)
    with pytest.raises(InputError, match="step-00000007"):
        TrainedModel.load(tmp_path)
    write_checkpoint(tmp_path / "checkpoints", Snapshot(8, sample(1)), {}, keep=1)
    with pytest.raises(InputError, match="step-00000008"):
        TrainedModel.load(tmp_path)


@pytest.mark.filterwarnings("ignore::cplmix_ray.CplMixWarning")
def test_a_save_that_was_killed_can_be_done_again(tmp_path):
    cells = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (60, 8)).astype(np.float32))
    CplMixVAE.setup_anndata(cells)
    model = CplMixVAE(cells, n_categories=3, hidden=(8,), bottleneck=4, engine="local", threads=1, n_neighbours=5)
    model.train(max_steps=3)
    (tmp_path / "model" / "checkpoints" / ".partial-step-00000003").mkdir(parents=True)
    model.save(tmp_path / "model")
    loaded = CplMixVAE.load(tmp_path / "model", cells)
    np.testing.assert_array_equal(loaded.get_probabilities(), model.get_probabilities())


# Full disks


def start(out: Path, *words: str, kill: Kill = NEVER) -> Child:
    return Child(run_train, [*LINE, "--engine", "local", "--out", str(out), *words], log_of(out), kill)


def log_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.log")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing happens to."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert start(out).end() == 0, log_of(out).read_text()
    return out


def assert_ended_alike(out: Path, whole: Path) -> None:
    """The same weights bit for bit, the same scores, the same points in TensorBoard, and nothing half-written."""
    (one, wrong), (other, _) = latest_checkpoint(out / "checkpoints"), latest_checkpoint(whole / "checkpoints")
    assert one.step == other.step and not wrong
    assert_bitwise(one.parts, other.parts)
    assert scores(out) == scores(whole)
    assert points(out) == points(whole)
    assert not [path for path in out.rglob(".*") if path.is_file() or path.parent != out]
    if (whole / WEIGHTS).exists():  # an augmenter
        assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
        assert (out / MANIFEST).read_bytes() == (whole / MANIFEST).read_bytes()
        return
    results = [anndata.read_h5ad(each / "result.h5ad") for each in (out, whole)]
    np.testing.assert_array_equal(*(result.obsm["cplmix_probs"] for result in results))


def scores(out: Path) -> dict:
    # What the steps of the last process took and sent: it may have had none to do.
    own = ("seconds", "step_ms", "coupling_wait_ms", "coupling_bytes", "missed_checkpoints", "restarts", "lost_steps")
    return {k: v for k, v in json.loads((out / "metrics.json").read_text()).items() if k not in own}


def points(out: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_disk_that_is_full_for_a_while_costs_no_run(tmp_path, whole, disk, fault_row):
    out = tmp_path / "run"
    disk(tmp_path, 4000)
    child, ballast = start(out), None
    while not list(out.glob("checkpoints/step-*")):
        time.sleep(0.001)
    ballast = fill(tmp_path)
    log = log_of(out)  # it is on the full disk too, so what is said is seen later
    while child.seen[0] < 40:
        time.sleep(0.001)
    assert not list(out.glob("checkpoints/step-0000003*"))
    ballast.unlink()
    assert child.end() == 0, log.read_text()
    said = log.read_text()
    missed = json.loads((out / "metrics.json").read_text())["missed_checkpoints"]
    told = [line for line in said.splitlines() if "No space left on device" in line and "TensorBoard" not in line]
    assert len(told) == missed >= 3 and all(re.search(r"\bstep \d+", line) for line in told)
    assert any("checkpoints/step-" in line for line in told) and "Traceback" not in said
    assert_ended_alike(out, whole)
    fault_row(
        "full disk",
        "a small tmpfs, filled after the first checkpoint and emptied at step 40 of 80",
        1,
        f"{missed} checkpoints missed and said, training went on; weights, scores and points as in a whole run",
        0,
        0,
    )


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_run_with_one_sentence(tmp_path, whole, disk, fault_row):
    out = tmp_path / "disk" / "run"
    disk(out.parent, 4000)
    child = start(out)
    while not list(out.glob("checkpoints/step-*")):
        time.sleep(0.001)
    fill(out.parent)
    log_of(out).unlink()  # as if lines went elsewhere, which the full disk does not hold
    assert child.end() == 1
    newest, wrong = latest_checkpoint(out / "checkpoints")
    assert newest is not None and not wrong and not (out / "metrics.json").exists()
    (out.parent / "ballast").unlink()
    begun = time.monotonic()
    again = start(out, "--resume")
    assert again.end() == 0, log_of(out).read_text()
    assert_ended_alike(out, whole)
    fault_row(
        "full disk",
        "a small tmpfs, filled after the first checkpoint for good",
        1,
        "exit 1 at the end with a sentence that names the newest whole checkpoint; resumed bitwise after room was made",
        N_STEPS - newest.step,
        again.seen[1] - begun,
    )


@pytest.mark.slow
def test_no_room_for_the_result_leaves_none_and_resume_makes_it(tmp_path, whole, disk):
    """The checkpoints fit, the annotated cells do not."""
    out, checkpoint = tmp_path / "disk" / "run", latest_checkpoint(whole / "checkpoints")[0]
    need = sum(path.stat().st_size for path in checkpoint.path.iterdir()) // 1024
    disk(out.parent, 2 * need + 100)
    log = log_of(tmp_path / "elsewhere")
    words = [*LINE, "--engine", "local", "--out", str(out), "--keep-checkpoints", "1"]
    assert Child(run_train, words, log, NEVER).end() == 1
    said = log.read_text()
    *before, last = said.splitlines()
    assert "result.h5ad" in last and "No space left on device" in last, said
    assert "Traceback" not in said and not any("No space" in line for line in before)
    assert (out / "metrics.json").exists() and not [path for path in out.iterdir() if "result" in path.name]
    disk(out.parent, 20_000)
    assert Child(run_train, [*words, "--resume"], log, NEVER).end() == 0
    assert_ended_alike(out, whole)


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_is_named(tmp_path, whole, disk, fault_row):
    out = tmp_path / "run"
    disk(out / "checkpoints", 4000)
    child = start(out)
    while not list(out.glob("checkpoints/step-*")):
        time.sleep(0.001)
    while True:  # busy while a file is written
        with contextlib.suppress(AssertionError):
            disk(out / "checkpoints", 4000, "ro")
            break
    assert child.end() == 1
    said = log_of(out).read_text()
    newest = latest_checkpoint(out / "checkpoints")[0]
    assert "Read-only file system" in said and "Traceback" not in said
    assert str(newest.path) in said.splitlines()[-1] and "step 80" in said.splitlines()[-1]
    disk(out / "checkpoints", 4000, "rw")
    assert start(out, "--resume").end() == 0
    assert_ended_alike(out, whole)
    fault_row(
        "read-only folder",
        "checkpoints/ remounted read-only after the first checkpoint",
        1,
        "each missed checkpoint said, exit 1 at the end with a sentence; resumed bitwise once it could be written",
        N_STEPS - newest.step,
    )


def test_cells_are_whole_or_not_there_however_much_room_there_is(tmp_path, disk):
    disk(tmp_path / "disk", 100)
    child = Child(write_cells_in_little_space, tmp_path / "disk", tmp_path / "log")
    assert (child.end(), (tmp_path / "log").read_text()) == (0, "")
    assert child.seen[1] == 25 and 0 < child.seen[0] < 25


def test_scalars_wait_while_the_disk_is_full(tmp_path, disk):
    said: list[str] = []
    disk(tmp_path / "disk", 64)
    file = ScalarFile(tmp_path / "disk", 1, said.append)
    ballast = fill(tmp_path / "disk")
    for step in range(1, 200):
        file.add(step, {"a": step, "b": -step})
        if step % 20 == 0:
            file.flush()
    assert len(said) == 1 and "No space left on device" in said[0]
    ballast.unlink()
    file.close()
    assert len(said) == 2 and "TensorBoard" in said[1]
    shutil.copytree(tmp_path / "disk", tmp_path / "tensorboard")
    assert points(tmp_path) == {
        tag: [(n, float(sign * n)) for n in range(1, 200)] for tag, sign in (("a", 1), ("b", -1))
    }


def test_a_place_that_cannot_be_written_to_is_named_before_any_work(tmp_path, disk):
    disk(tmp_path / "disk", 64, "ro")
    with pytest.raises(InputError, match=r"disk/run\b.*Read-only file system.*--out"):
        train_command([*LINE, "--engine", "local", "--out", str(tmp_path / "disk" / "run")])


# Killed again and again

STAGES = ["--align-steps", "45", "--overcluster", "2", "--marginal", "1"]
"""A first stage, whose end falls between two checkpoints."""


def kills_of(rng: random.Random, places: Sequence[str]) -> Iterator[Kill]:
    """A kill at each of these places, in random steps of random operations."""
    for place in places:
        at = {"checkpoint": rng.randint(1, 60), "export": rng.randint(1, 10), "time": rng.uniform(0, 0.05)}
        yield Kill(place, at.get(place, 1))


def drive(
    out: Path, words: Sequence[str], kills: Iterator[Kill], rng: random.Random, command: Callable = run_train
) -> list[dict]:
    """Start, kill, resume, until it ends by itself; what was seen of each kill."""
    seen: list[dict] = []
    for kill in itertools.chain(kills, itertools.repeat(NEVER)):
        newest, wrong = latest_checkpoint(out / "checkpoints")
        assert not wrong
        base = newest.step if newest else 0
        if kill.place in ("step", "half step", "event"):
            kill = Kill(kill.place, base + rng.randint(1, 2 * EVERY - 1))
        if kill.place not in (NEVER.place, *AFTER_TRAINING, *AUGMENTER) and base > N_STEPS - 4 * EVERY:
            # So near to the end, no kill goes past the next checkpoint: the others are still to come.
            kill = Kill(
                "event" if "ray" in words else "step", base + rng.randint(1, max(1, min(EVERY, N_STEPS - base)))
            )
        begun, family = time.monotonic(), {}
        child = Child(command, [*words, "--out", str(out), *(["--resume"] if seen else [])], log_of(out), kill)
        while child.process.exitcode is None:
            if time.monotonic() - begun > 300:
                child.kill()
                raise AssertionError(log_of(out).read_text())
            family |= process_tree(child.process.pid) if "ray" in words else {}
            child.process.join(0.1)
        if seen and child.seen[1]:
            seen[-1]["recovered"] = child.seen[1] - begun
        if child.end() == 0:
            return seen
        assert child.end() == -9, log_of(out).read_text()
        left, wrong = latest_checkpoint(out / "checkpoints")
        at, kept = int(child.seen[0]), left.step if left else 0
        assert not wrong and kept >= base and at - kept <= EVERY, (kill, at, kept)
        gone = gone_after(family, 30, but=LINGER)
        seen.append(
            {"place": kill.place, "step": at or base, "lost": max(0, at - kept), "gone": gone, "family": family}
        )
    raise AssertionError


LINGER = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""They hold no device and no cells, and look for their Ray a while longer."""


def gone_after(family: dict[int, str], within: float, but: tuple[str, ...] = ()) -> float:
    """Seconds until none of these processes is there, those with certain titles left out."""
    begun = time.monotonic()
    while left := {pid: title for pid, title in still_running(family).items() if not title.startswith(but)}:
        assert time.monotonic() - begun < within, left
        time.sleep(0.05)
    return time.monotonic() - begun


def row_of(seen: list[dict]) -> tuple:
    """Where kills fell, how many there were, what happened, and the largest losses."""
    places = "; ".join(f"{place} {n}" for place, n in sorted(Counter(kill["place"] for kill in seen).items()))
    return (
        f"{places}; at steps {' '.join(str(kill['step']) for kill in seen)}",
        len(seen),
        "resumed each time; weights bitwise, scores and TensorBoard's points equal to those of an uninterrupted run",
        max(kill["lost"] for kill in seen),
        max(kill.get("recovered", 0) for kill in seen),
    )


EVERYWHERE = ["step", "checkpoint", "step", "evaluation", "time", "step", "checkpoint"] * 3
AFTER_TRAINING = ["metrics", "result", "result"]
AUGMENTER = ["export", "metrics"]
"""What comes after the training of an augmenter."""


@pytest.mark.parametrize(
    ("places", "more"),
    [
        (["step", "checkpoint", "result"], []),
        pytest.param(EVERYWHERE + AFTER_TRAINING, [], marks=pytest.mark.slow),
        pytest.param(["step", "checkpoint"] * 3, STAGES, marks=pytest.mark.slow),
    ],
    ids=["few", "many", "first stage"],
)
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(tmp_path, whole, places, more, fault_row):
    rng, words = random.Random(len(places)), [*LINE, "--engine", "local", *more]
    if more:
        whole = tmp_path / "whole"
        assert drive(whole, words, iter(()), rng) == []
    seen = drive(tmp_path / "run", words, kills_of(rng, places), rng)
    assert len(seen) == len(places) and seen[-1]["place"] == places[-1]
    assert_ended_alike(tmp_path / "run", whole)
    fault_row("kill -9 of a packed run", *row_of(seen))


AUGMENT = (
    f"--hidden 24 --latent-dim 4 --noise-dim 3 --discriminator-hidden 16 --batch-size 64 --max-steps {N_STEPS} "
    f"--checkpoint-every {EVERY} --evaluate-every 9 --log-every 2 --threads 1 --seed 5 --engine local"
).split()


@pytest.mark.parametrize(
    ("places", "more"),
    [
        (["half step"], ["--max-steps", "24"]),
        pytest.param(
            ["step", "checkpoint", "half step", "evaluation", "time", "half step", "export", *AUGMENTER],
            ["--clip", "5", "--lr-schedule", "cosine"],
            marks=pytest.mark.slow,
        ),
        pytest.param(["half step", "checkpoint", "step", "export"], ["--replicas", "2"], marks=pytest.mark.slow),
    ],
    ids=["once", "many", "replicas"],
)
def test_an_augmenter_killed_again_and_again_ends_as_if_nothing_had_happened(tmp_path, places, more, fault_row):
    """Both networks, their optimisers and the file that train reads."""
    rng, words, whole = random.Random(len(places)), [*AUGMENT, *more], tmp_path / "whole"
    assert drive(whole, words, iter(()), rng, run_augment) == []
    seen = drive(tmp_path / "run", words, kills_of(rng, places), rng, run_augment)
    assert len(seen) == len(places) and seen[-1]["place"] == places[-1]
    assert_ended_alike(tmp_path / "run", whole)
    parts = latest_checkpoint(whole / "checkpoints")[0].parts
    assert parts.keys() == {"generator", "discriminator"}
    assert all(any(name.startswith("adam/") for name in tensors) for tensors in parts.values())
    fault_row("kill -9 of an augmenter's run", *row_of(seen))


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_driver_of_actors_killed_again_and_again_takes_its_ray_along(tmp_path, fault_row):
    rng, words = random.Random(DRIVER_ROUNDS), [*LINE, "--engine", "ray", *STAGES]
    whole, killed = tmp_path / "whole", tmp_path / "run"
    assert drive(whole, words, iter(()), rng) == []
    places = ["event", "checkpoint", "evaluation", "event", "result"] * DRIVER_ROUNDS
    places.sort(key="result".__eq__)
    seen = drive(killed, words, kills_of(rng, places), rng)
    assert len(seen) == len(places) and seen[-1]["place"] == places[-1]
    assert_ended_alike(killed, whole)
    made, times, happened, lost, seconds = row_of(seen)
    happened += f"; arms and Ray gone after {max(kill['gone'] for kill in seen):.1f} s"
    last = [gone_after(kill["family"], 120) for kill in seen][-1]
    happened += f", Ray's agents by themselves within two minutes ({last:.0f} s more for the last)"
    fault_row("kill -9 of the driver of two actors", made, times, happened, lost, seconds)


@pytest.mark.parametrize(
    ("n_arms", "first", "second"),
    [
        (2, [(0,), (1,)], [(0, 1)]),
        pytest.param(2, [(0, 1)], [(0,), (1,)], marks=pytest.mark.slow),
        pytest.param(4, [(0, 1), (2, 3)], [(0, 1, 2, 3)], marks=pytest.mark.slow),
    ],
    ids=["actors to packed", "packed to actors", "2 actors of 2 to packed"],
)
def test_a_checkpoint_on_disk_does_not_know_the_layout(ray_cluster, data, tmp_path, fault_row, n_arms, first, second):
    config = config_of(n_arms)
    half = config.model_copy(update={"training": config.training.model_copy(update={"max_steps": STEPS // 2})})
    write_checkpoint(
        tmp_path, test_engines.run(half, data, *first)[2][-1], FACTS | {"config": config.model_dump(mode="json")}, 1
    )
    read, _ = latest_checkpoint(tmp_path)
    rest = test_engines.run(config, data, *second, start=Start(read.step, read.parts))
    expected = test_engines.run(config, data, tuple(range(n_arms)))
    for name, values in rest[0].items():
        np.testing.assert_allclose(values, expected[0][name][STEPS // 2 :], rtol=1e-4, atol=1e-5, err_msg=name)
    log_q, log_q_expected = (run[1][-1].outputs["log_q_ank"] for run in (rest, expected))
    np.testing.assert_allclose(log_q, log_q_expected, rtol=1e-4, atol=1e-4)
    layouts = " to ".join(f"{len(arms)} worker{'s' if len(arms) > 1 else ''}" for arms in (first, second))
    made = f"resumed from the disk: {layouts}"
    fault_row(f"another layout, {n_arms} arms", made, 1, "losses and posteriors equal")
