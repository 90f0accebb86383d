"""The cells are in memory once, however many arms look at them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is counted as Linux counts it")
def test_four_arms_share_one_copy_of_the_cells():
    """Sizes in MB, in a process of its own."""
    script = Path(__file__).parent / "memory_of_arms.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    print(seen)
    cells, (few,), (one,), four = seen["cells"], seen["few"], seen["one"], seen["four"]
    assert len(four) == 4
    assert all(arm["store"] > 0.95 * cells for arm in (one, *four)), "an arm did not look at all the cells"
    assert few["store"] < 0.2 * cells
    assert sum(arm["store_share"] for arm in four) < 1.1 * cells, "the cells are in the store more than once"
    assert all(arm["own"] < few["own"] + 0.25 * cells for arm in (one, *four)), "an arm has a copy of its own"
