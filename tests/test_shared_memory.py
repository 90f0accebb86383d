"""The cells are in memory once, however many arms look at them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is counted as Linux counts it")
def test_four_arms_share_one_copy_of_the_cells():
    """Proportional set sizes in MB, in a process of its own."""
    script = Path(__file__).parent / "memory_of_arms.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    print({name: value if name == "cells" else [round(mb) for mb in value] for name, value in seen.items()})
    (base,), (one,) = seen["few"], seen["one"]
    assert len(seen["four"]) == 4
    assert one > base + 0.4 * seen["cells"], "one arm looked at all the cells"
    assert sum(seen["four"]) < one + 3 * base + 0.4 * seen["cells"]
