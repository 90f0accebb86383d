"""Checkpoints are whole or not there, and a killed run ends where an uninterrupted one does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from bitwise import assert_bitwise

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint, read_checkpoint, write_checkpoint
from cplmix_ray.cli.train_command import train as train_command
from cplmix_ray.training.events import Snapshot


def snapshot(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    arms = {
        part: {"network/w": torch.randn(3, 4, generator=generator), "generators/x": generator.get_state()}
        for part in ("arm-0", "arm-1")
    }
    return Snapshot(step, arms)


def test_what_is_read_is_what_was_written(tmp_path):
    write_checkpoint(tmp_path, snapshot(7), {"seconds": 1.5}, keep=2)
    checkpoint, wrong = latest_checkpoint(tmp_path)
    assert (checkpoint.step, checkpoint.manifest["seconds"], wrong) == (7, 1.5, [])
    for arm, tensors in snapshot(7).parts.items():
        for name, tensor in tensors.items():
            assert torch.equal(checkpoint.parts[arm][name], tensor)


def test_only_the_newest_stay(tmp_path):
    for step in (1, 2, 3, 10):
        write_checkpoint(tmp_path, snapshot(step), {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000010"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "half-written"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, damage):
    write_checkpoint(tmp_path, snapshot(1), {}, keep=3)
    newest = write_checkpoint(tmp_path, snapshot(2), {}, keep=3)
    file = newest / "arm-1.safetensors"
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:50])
    elif damage == "remove":
        file.unlink()
    elif damage == "manifest":
        (newest / "manifest.json").write_text('{"format": 1, "st')
    else:
        newest.rename(tmp_path / ".partial-step-00000002")
    checkpoint, wrong = latest_checkpoint(tmp_path)
    assert checkpoint.step == 1
    assert damage == "half-written" or "step-00000002" in wrong[0]


def test_an_unknown_format_is_not_read(tmp_path):
    path = write_checkpoint(tmp_path, snapshot(1), {}, keep=1)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        read_checkpoint(path)


LINE = (
    "--preset published --hidden 24 --bottleneck 8 --batch-size 64 --max-steps 60 --checkpoint-every 7 --log-every 5 "
    "--threads 1 --seed 5"
)


def train(out: Path, *words: str, **kwargs) -> subprocess.Popen:
    command = [sys.executable, "-m", "cplmix_ray.train", *LINE.split(), "--out", str(out), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)


def train_here(out: Path, *words: str) -> None:
    """A whole run in this process, without the seconds that another takes to start."""
    train_command([*LINE.split(), "--out", str(out), "--engine", "local", *words])


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def weights(out: Path) -> dict:
    return latest_checkpoint(out / "checkpoints")[0].parts


def kill_after_checkpoint(process: subprocess.Popen, out: Path) -> None:
    """kill -9 as soon as a checkpoint is there, wherever the run is then."""
    for _ in range(2400):  # two minutes, on a machine that does much else
        if list(out.glob("checkpoints/step-*")) or process.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)


@pytest.mark.slow
def test_a_killed_run_resumes_bitwise(tmp_path):
    """One kill of the command itself; many, at chosen places and of drivers of actors, are in test_durability.py."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(train(whole, "--engine", "local"))
    kill_after_checkpoint(train(killed, "--engine", "local"), killed)
    assert not (killed / "result.h5ad").exists() or latest_checkpoint(killed / "checkpoints")[0].step == 60
    output = finish(train(killed, "--engine", "local", "--resume"))
    assert re.search(r"step-0*\d+", output)
    assert_bitwise(weights(whole), weights(killed))


def test_resume_without_a_checkpoint_starts_anew(tmp_path, capsys):
    train_here(tmp_path / "new", "--resume")
    assert "step 0" in capsys.readouterr().out


def test_a_finished_run_can_be_resumed_for_longer(tmp_path):
    longer, at_once = tmp_path / "longer", tmp_path / "at_once"
    train_here(longer, "--max-steps", "40")
    train_here(longer, "--max-steps", "60", "--resume")
    train_here(at_once)
    assert_bitwise(weights(longer), weights(at_once))
