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
from refusals import assert_named, cells, refused_training

from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.validation import subprocess_probe
from cplmix_ray.data.validation.hdf5_safety import list_objects
from cplmix_ray.data.validation.subprocess_probe import open_probed
from cplmix_ray.utils.errors import InputError

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


def named_in(file: h5py.File) -> dict[str, h5py.Group | h5py.Dataset]:
    """What HDF5 itself finds in a file, each once."""
    found = {}
    file.visititems(lambda name, node: found.update({f"/{name}": node}))
    return found


def words_of(process: psutil.Process) -> list[str]:
    """Its command, none for one that has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(subprocess_probe, "_SECONDS", 1)


@pytest.mark.parametrize("backed", ["no", "yes", "auto"])
def test_a_file_that_is_never_read_to_its_end(soon, tmp_path, backed):
    path = endless(tmp_path / "cells.h5ad")
    line = refused_training(tmp_path, path, "--backed", backed)
    assert_named(line, path, "reading", "write")


def test_a_file_that_ends_the_process(tmp_path):
    path = endless(tmp_path / "cells.h5ad")

    def strike():
        while not (
            found := [child for child in psutil.Process().children() if subprocess_probe.__name__ in words_of(child)]
        ):
            time.sleep(0.01)
        time.sleep(1)  # it is in HDF5 by now
        os.kill(found[0].pid, signal.SIGSEGV)

    thread = threading.Thread(target=strike)
    thread.start()
    with pytest.raises(InputError, match=r"cells\.h5ad\b.*SIGSEGV"):
        read_source(str(path))
    thread.join()


def test_what_python_can_say_is_left_to_the_reader(tmp_path):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"cells\.h5ad"):
        read_source(str(path))


def test_a_sound_file_is_met_once_until_it_changes(tmp_path, monkeypatch):
    path, started, start = tmp_path / "cells.h5ad", [], subprocess_probe.subprocess.run
    monkeypatch.setattr(
        subprocess_probe.subprocess, "run", lambda *args, **kw: started.append(args) or start(*args, **kw)
    )
    for adata in (cells(), cells(1)[:30].copy()):
        adata.write_h5ad(path)
        for _ in range(2):
            with open_probed(path) as file:
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
    monkeypatch.setattr(subprocess_probe, "_start_timer", limits.append)
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    subprocess_probe._read_all(str(path), 5)
    with h5py.File(path) as file:
        named = [name for name, node in named_in(file).items() if isinstance(node, h5py.Dataset)]
    assert sorted(read) == sorted(named) and "/uns/deep/er/yet" in read
    assert read["/obsm/wide"] == [16 * 60_000, 60_000]
    assert read["/X/data"][0] == adata.X.nnz
    assert len(limits) > len(named)


def test_one_part_with_something_wrong_hides_no_other(tmp_path):
    path = tmp_path / "cells.h5ad"
    cells().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["layers/also"] = file["layers"]  # holds itself
        file["obs/soft"] = h5py.SoftLink("/X/data")
        file["layers/far"] = h5py.ExternalLink("other.h5", "/X")
        file.create_dataset("uns/vast", (10**12,), "f4", chunks=(100,))
        file["uns/well"] = np.arange(3)
        met = {node.name: sound for node, sound in list_objects(file, str(path))}
        named = {name: node for name, node in named_in(file).items() if name != "/layers/also"}
    assert met == {"/": True, **{name: name != "/uns/vast" for name in named}}
    assert {"/X/data", "/layers/spliced/data", "/uns/well", "/var/_index"} < set(met)
