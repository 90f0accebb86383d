"""Runs commands that must reject their input, and checks their exit status, stderr and files."""

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.train_command import train

CELLS, GENES = 40, 12
# Options that a test does not set itself; small, so that a run that should have been rejected ends soon.
LINE = {"--n-categories": "3", "--max-steps": "2", "--engine": "local", "--hidden": "8", "--batch-size": "16"}


def cells(seed: int = 0) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2.0, (CELLS, GENES)).astype(np.float32)
    obs = pd.DataFrame({"cell_type": ["a", "b"] * (CELLS // 2)}, index=[f"cell_{i}" for i in range(CELLS)])
    var = pd.DataFrame(index=[f"gene_{i}" for i in range(GENES)])
    return anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=var, layers={"spliced": sp.csr_matrix(counts)})


def with_value(value: float, sparse: bool = True, layer: str | None = None) -> anndata.AnnData:
    """Cells in which gene_4 of cell_7 has this value, in X or in a layer."""
    adata = cells()
    counts = adata.X.toarray()
    counts[7, 4] = value
    matrix = sp.csr_matrix(counts) if sparse else counts
    if layer is None:
        adata.X = matrix
    else:
        adata.layers[layer] = matrix
    return adata


def tree_of(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@contextlib.contextmanager
def stderr_in(file: TextIO) -> Iterator[None]:
    """Redirect stderr to a file, for Python and for C libraries."""
    own = os.dup(2)
    try:
        os.dup2(file.fileno(), 2)
        with contextlib.redirect_stderr(file):
            yield
    finally:
        os.dup2(own, 2)
        os.close(own)


def refused(function: Callable, folder: Path, words: list, status: int = 2) -> str:
    """Run a command that must end with ``status`` and one line on stderr and leave ``folder`` unchanged.

    Returns:
        The line.
    """
    before = tree_of(folder)
    with (
        tempfile.TemporaryFile("w+", buffering=1, encoding="utf-8") as stderr,
        pytest.MonkeyPatch.context() as patch,
        stderr_in(stderr),
        warnings.catch_warnings(record=True) as warned,
    ):
        # A warning would be a second line on stderr. They are recorded, not raised, as in a real run.
        warnings.simplefilter("always")
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)  # as Python does by itself
        patch.setattr(sys, "argv", ["command", *(str(word) for word in words)])
        with pytest.raises(SystemExit) as left:
            run_command(function)
        stderr.seek(0)
        said = stderr.read()
    assert left.value.code == status, said
    assert tree_of(folder) == before, "files were added or changed"
    assert "Traceback" not in said
    assert [str(warning.message) for warning in warned] == []
    assert said.endswith("\n")
    assert len(said.splitlines()) == 1, said
    return said.strip()


def line_of(*words: str) -> list[str]:
    """``words``, completed with the options of ``LINE`` that they do not set, and with the preset that needs the least
    preparation of the cells if they name no other settings."""
    named = {"--config", "--preset", "--resume"} & set(words)
    return [
        *words,
        *(() if named else ("--preset", "published")),
        *(part for name, value in LINE.items() if name not in words for part in (name, value)),
    ]


def refused_training(folder: Path, data: object, *words: str) -> str:
    return refused(train, folder, line_of("--data", str(data), "--out", str(folder / "out"), *words))


def saved(adata: anndata.AnnData, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about duplicate names, which some tests need
        adata.write_h5ad(path)
    return path


def naming(*things: object) -> str:
    """Pattern for ``pytest.raises(match=...)``: a message of one line that names all of these, in any order."""
    return "^" + "".join(f"(?=.*{re.escape(str(thing))})" for thing in things) + r".*\Z"


def assert_named(line: str, *things: object) -> None:
    assert line.startswith("error: ")
    assert all(str(thing) in line for thing in things), line
