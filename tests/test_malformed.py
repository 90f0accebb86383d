"""Malformed files are rejected in one line with exit status 2, or used with finite results.

Each case is a few numbers, from which ``malformed`` makes the file; the cases are the same in every run.
"""

import contextlib
import faulthandler
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import DAMAGES, KINDS, write_h5ad, write_npz, yaml_of
from refusals import line_of, stderr_in, tree_of

from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.train_command import train
from cplmix_ray.runs import results  # noqa: F401  imported by the command where it is needed, which takes seconds

SECONDS = 60
"""A case that takes longer counts as hanging."""
NUMBERS = st.integers(0, 2**32 - 1)
H5AD_CASES = st.tuples(
    NUMBERS,
    st.sampled_from(KINDS),
    st.lists(st.integers(0, len(DAMAGES) - 1), min_size=1, max_size=2),
    st.sampled_from(["no", "no", "yes", "auto"]),
    st.sampled_from([(), ("--layer", "counts"), ("--likelihood", "nb"), ("--normalise", "none")]),
)


class CaseTimeout(BaseException):
    """Raised when a case hangs; no command catches it."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raise an error in a case that hangs in Python; end the process if it hangs in C."""

    def end(*_: object) -> None:
        raise CaseTimeout(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def end_of(function: Callable, folder: Path, words: list[str], named: str) -> int:
    """Run a command that may use what it is given, or refuse it; the status with which it ended.

    Status 1 is left to settings with which numbers overflow: it takes training to find out.
    """
    before, status = tree_of(folder), 0
    with (
        tempfile.TemporaryFile("w+", buffering=1, encoding="utf-8", errors="backslashreplace") as stderr,
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()),
        stderr_in(stderr),
        warnings.catch_warnings(record=True) as warned,
        time_limit(),
    ):
        warnings.simplefilter("always")
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)  # as Python does by itself
        patch.setattr(sys, "argv", ["command", *words])
        try:
            run_command(function)
        except SystemExit as left:
            status = left.code
        stderr.seek(0)
        said = stderr.read()
    assert "Traceback" not in said, said
    if status == 0:
        return status
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: "), said
    assert said.isprintable() or said[:-1].isprintable(), said
    if status == 1:
        assert re.search(r"\bat step \d+", said), said
        shutil.rmtree(folder / "out")
        return status
    assert status == 2, said
    assert named in said or "--" in said, said
    assert tree_of(folder) == before, "files were left behind or altered"
    assert [str(warning.message) for warning in warned] == []
    return status


def assert_finite_results(out: Path) -> None:
    """Check that the results of a run exist and are finite, and remove them."""
    metrics = json.loads((out / "metrics.json").read_text())
    assert all(np.isfinite(value) for value in metrics.values() if isinstance(value, float)), metrics
    with h5py.File(out / "result.h5ad", "r") as file:
        for name in ("obs/cplmix_confidence", "obsm/X_cplmix", "obsm/cplmix_probs"):
            assert np.isfinite(file[name][:]).all(), name
    shutil.rmtree(out)


def run_cases(cases: st.SearchStrategy, check: Callable, n: int) -> None:
    """Draw and check ``n`` cases, the same in every run."""
    tried = 0

    @settings(max_examples=n, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def one(case: object) -> None:
        nonlocal tried
        tried += 1
        check(case)

    one()
    assert tried >= n


def try_h5ad(folder: Path, case: tuple) -> int:
    seed, kind, damages, backed, words = case
    path = folder / "cells.h5ad"
    write_h5ad(path, kind, damages, seed)
    line = line_of("--data", str(path), "--out", str(folder / "out"), "--backed", backed, *words)
    status = end_of(train, folder, line, "cells.h5ad")
    if status == 0:
        assert_finite_results(folder / "out")
    return status


def try_npz(folder: Path, seed: int) -> int:
    path = folder / "images.npz"
    write_npz(path, seed)
    status = end_of(train, folder, line_of("--data", str(path), "--out", str(folder / "out")), "images.npz")
    if status == 0:
        assert_finite_results(folder / "out")
    return status


def try_yaml(folder: Path, seed: int) -> int:
    path = folder / "settings.yaml"
    path.write_bytes(yaml_of(seed))
    words = ["--data", "digits", "--subset", "60", "--config", str(path), "--out", str(folder / "out")]
    status = end_of(train, folder, [*words, "--max-steps", "2", "--engine", "local"], "settings.yaml")
    if status == 0:
        assert_finite_results(folder / "out")
    return status


FAST = {try_h5ad: 12, try_npz: 10, try_yaml: 12}
SLOW = {try_h5ad: 250, try_npz: 120, try_yaml: 150}
CASES = {try_h5ad: H5AD_CASES, try_npz: NUMBERS, try_yaml: NUMBERS}


def main(kind: str, n: int) -> None:
    """Try the cases in the current folder and print the exit status of each."""
    torch.set_num_threads(1)
    ends: list[int] = []
    tries = next(each for each in CASES if each.__name__ == kind)
    run_cases(CASES[tries], lambda case: ends.append(tries(Path.cwd(), case)), n)
    print(json.dumps(ends))


def ends_of(kind: Callable, n: int, folder: Path) -> list[int]:
    """Exit statuses of the cases, run in a separate process: damaged files can corrupt the state of HDF5."""
    command = [sys.executable, __file__, kind.__name__, str(n)]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ends = json.loads(done.stdout.splitlines()[-1])
    assert len(ends) >= n
    return ends


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_malformed_files_are_refused_or_used(tmp_path, kind):
    ends_of(kind, FAST[kind], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_more_than_five_hundred_malformed_files_are_refused_or_used(tmp_path, kind, fault_row):
    assert sum(SLOW.values()) >= 500
    ends = ends_of(kind, SLOW[kind], tmp_path)
    fault_row(
        f"a malformed file ({kind.__name__.removeprefix('try_')})",
        "wrong types, shapes, names, links, sizes and values, one or two a file",
        len(ends),
        f"{ends.count(2)} refused in one line, {ends.count(0)} used with finite results, {ends.count(1)} not finite",
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
