"""Files at which HDF5 itself goes round in circles are met by another process, and named."""

import os
import signal
import threading
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import psutil
import pytest
from refusals import cells, refused_training

from cplmix_ray.data import rehearsal
from cplmix_ray.data.read import read_source
from cplmix_ray.data.rehearsal import rehearsed
from cplmix_ray.errors import InputError

HEAP, FIRST_SIZE = b"GCOL", 24
"""Where HDF5 keeps strings: a heap begins with its name, and 24 bytes on is the size of its first one."""


def endless(path: Path) -> Path:
    """Cells with one number altered, from which HDF5 does not return."""
    cells().write_h5ad(path)
    content = bytearray(path.read_bytes())
    at = content.index(HEAP) + FIRST_SIZE
    content[at : at + 8] = (2**64 - 16).to_bytes(8, "little")
    path.write_bytes(content)
    return path


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(rehearsal, "_SECONDS", 1)


@pytest.mark.parametrize("backed", ["no", "yes", "auto"])
def test_a_file_that_is_never_read_to_its_end(soon, tmp_path, backed):
    path = endless(tmp_path / "cells.h5ad")
    line = refused_training(tmp_path, path, "--backed", backed)
    assert (
        line == f"error: {path} is damaged: reading it does not come to an end; take another copy, or write it again."
    )


def test_a_file_that_ends_the_process(tmp_path):
    path = endless(tmp_path / "cells.h5ad")

    def strike():
        while not (children := psutil.Process().children()):
            time.sleep(0.01)
        time.sleep(1)  # it is in HDF5 by now
        os.kill(children[0].pid, signal.SIGSEGV)

    thread = threading.Thread(target=strike)
    thread.start()
    with pytest.raises(InputError, match=r"cells\.h5ad is damaged: reading it ends the process \(SIGSEGV\)"):
        read_source(str(path))
    thread.join()


def test_what_python_can_say_is_left_to_the_reader(tmp_path):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="may be truncated or no"):
        read_source(str(path))


def test_a_sound_file_is_met_once_until_it_changes(tmp_path, monkeypatch):
    path, started, start = tmp_path / "cells.h5ad", [], rehearsal.subprocess.run
    monkeypatch.setattr(rehearsal.subprocess, "run", lambda *args, **kw: started.append(args) or start(*args, **kw))
    for adata in (cells(), cells(1)[:30].copy()):
        adata.write_h5ad(path)
        for _ in range(2):
            with rehearsed(path) as file:
                assert "X" in file
    assert len(started) == 2


def test_every_part_is_met_and_large_ones_in_part(tmp_path, monkeypatch):
    path, read, take = tmp_path / "cells.h5ad", {}, h5py.Dataset.__getitem__
    adata = cells()
    adata.uns["deep"] = {"er": {"yet": np.arange(3)}}
    adata.obsm["wide"] = np.zeros((adata.n_obs, 60_000), np.int8)
    anndata.AnnData.write_h5ad(adata, path, compression="gzip")

    def seen(node, rows):
        values = take(node, rows)
        read.setdefault(node.name, []).append(values.size if hasattr(values, "size") else 1)
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", seen)
    limits = []
    monkeypatch.setattr(rehearsal, "_begin", limits.append)
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    rehearsal._meet(str(path), 5)
    with h5py.File(path) as file:
        named = []
        file.visititems(lambda name, node: named.append(f"/{name}") if isinstance(node, h5py.Dataset) else None)
    assert sorted(read) == sorted(named) and "/uns/deep/er/yet" in read
    assert read["/obsm/wide"] == [16 * 60_000, 60_000]
    assert read["/X/data"][0] == adata.X.nnz
    assert len(limits) > len(named)
