"""A short stretch of what ``endurance.py`` does for as long as one likes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_runs_under_damage_end_as_they_would_and_leave_nothing_held():
    command = [sys.executable, str(Path(__file__).parent / "endurance.py"), "--rounds", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    seen = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    assert (seen["runs"], seen["searches"]) == (2, 1) and seen["killed"] + seen["frozen"] >= 1
    assert seen["other_weights"] == seen["other_rows"] == 0
    first, last = seen["first"], seen["last"]
    assert last["cpus_held"] == last["groups"] == last["store_held_mib"] == 0
    assert last["files"] <= first["files"] + 4 and last["threads"] <= first["threads"] + 4
    assert last["own_mib"] <= first["own_mib"] + 40
