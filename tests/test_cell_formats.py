"""Formats of cells other than .h5ad and tables: what is read of each, and what broken files of each say."""

import contextlib
import gzip
import json
import pickle
import shutil
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
import zarr
from anndata.io import write_elem

from cplmix_ray.data.io import h5ad_gz
from cplmix_ray.data.io.read import read_source
from cplmix_ray.utils.errors import InputError

N, G = 30, 8
TYPES = ["Gene Expression"] * (G - 2) + ["Antibody Capture"] * 2
SYMBOLS = ["a", "b", "b", "c", "d", "b", "cd3", "cd4"]
UNIQUE = ["a", "b", "b-1", "c", "d", "b-2"]


def counts() -> sp.csr_matrix:
    return sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (N, G)).astype("float32"))


def cells() -> anndata.AnnData:
    obs = pd.DataFrame({"cell_type": pd.Categorical(["x", "y", "z"] * (N // 3))}, index=[f"cell{i}" for i in range(N)])
    return anndata.AnnData(counts(), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(G)]))


def write_tenx_h5(path: Path, version: int = 3) -> None:
    matrix = counts()
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        for name in ("data", "indices", "indptr"):
            values = getattr(matrix, name)
            group[name] = values.astype("int32") if name == "data" else values
        group["shape"] = [G, N]
        group["barcodes"] = np.array([f"cell{i}-1" for i in range(N)], "S")
        ids = np.array([f"ENSG{i}" for i in range(G)], "S")
        if version == 3:
            features = group.create_group("features")
            features["id"], features["name"] = ids, np.array(SYMBOLS, "S")
            features["feature_type"], features["genome"] = np.array(TYPES, "S"), np.array(["GRCh38"] * G, "S")
            features["_all_tag_keys"] = np.array(["genome"], "S")
        else:
            group["genes"], group["gene_names"] = ids, np.array(SYMBOLS, "S")


def write_tenx_folder(folder: Path, packed: bool, old: bool = False, prefix: str = "") -> None:
    folder.mkdir(exist_ok=True)
    end, opened = (".gz", gzip.open) if packed else ("", open)
    with opened(folder / f"{prefix}matrix.mtx{end}", "wb") as file:
        scipy.io.mmwrite(file, counts().T.astype(int))
    columns = [[f"ENSG{i}" for i in range(G)], SYMBOLS, *([] if old else [TYPES])]
    with opened(folder / f"{prefix}{'genes' if old else 'features'}.tsv{end}", "wt") as file:
        file.writelines("\t".join(line) + "\n" for line in zip(*columns, strict=True))
    with opened(folder / f"{prefix}barcodes.tsv{end}", "wt") as file:
        file.writelines(f"cell{i}-1\n" for i in range(N))


def write_loom(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["matrix"], file["layers/spliced"] = counts().toarray().T, 2 * counts().toarray().T
        file["row_attrs/Gene"] = np.array(SYMBOLS, object)
        file["col_attrs/CellID"] = np.array([f"cell{i}" for i in range(N)], object)
        file["col_attrs/cell_type"] = np.array(["x", "y", "z"] * (N // 3), object)
        file["col_attrs/size"] = np.arange(N)
        file.create_group("row_graphs")


def write_h5mu(path: Path, *modalities: str) -> None:
    with h5py.File(path, "w") as file:
        for name in modalities:
            write_elem(file, f"mod/{name}", cells())
        obs = pd.DataFrame({"donor": ["d"] * N, "rna:n": range(N)}, index=cells().obs_names)
        write_elem(file, "obs", obs)


def write_gz(path: Path) -> None:
    cells().write_h5ad(path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    path.with_suffix("").unlink()


def write_zarr(store: object) -> None:
    with warnings.catch_warnings(action="ignore"):  # zarr's of its own future
        cells().write_zarr(store)


def write_zip(path: Path) -> None:
    with contextlib.closing(zarr.storage.ZipStore(path, mode="w")) as store:
        write_zarr(store)


def values_of(source) -> np.ndarray:
    block = source.matrix.block()
    return block.toarray() if sp.issparse(block) else np.asarray(block)


@pytest.mark.parametrize("name", ["c.h5ad.gz", "c.zarr", "c.zarr/", "c.zarr.zip", "c.h5mu"])
def test_an_object_is_read_whole(tmp_path, name):
    path = tmp_path / name
    if name.endswith("gz"):
        write_gz(path)
    elif name.endswith("zip"):
        write_zip(path)
    elif name.endswith("h5mu"):
        write_h5mu(path, "prot", "rna")
    else:
        write_zarr(path)
    source = read_source(f"{tmp_path}/{name}", labels_key="cell_type")
    np.testing.assert_array_equal(values_of(source), counts().toarray())
    assert list(source.adata.var_names) == list(cells().var_names)
    assert list(source.labels_n[:3]) == ["x", "y", "z"]
    assert ("donor" in source.adata.obs) == name.endswith("h5mu")
    assert any("prot" in note for note in source.notes) == name.endswith("h5mu")


@pytest.mark.parametrize("name", ["v3.h5", "v2.h5", "v3", "v3-plain", "v2", "v2/matrix.mtx", "p/p_matrix.mtx.gz"])
def test_the_genes_of_a_10x_file_are_read(tmp_path, name):
    write_tenx_h5(tmp_path / "v3.h5")
    write_tenx_h5(tmp_path / "v2.h5", version=2)
    write_tenx_folder(tmp_path / "v3", packed=True)
    write_tenx_folder(tmp_path / "v3-plain", packed=False)
    write_tenx_folder(tmp_path / "v2", packed=False, old=True)
    for prefix in ("p_", "q_"):
        write_tenx_folder(tmp_path / "p", packed=True, prefix=prefix)
    source = read_source(str(tmp_path / name))
    n_genes = G if name.startswith("v2") else G - 2  # older files have no types of features
    np.testing.assert_array_equal(values_of(source), counts().toarray()[:, :n_genes])
    assert list(source.adata.var_names[: G - 2]) == UNIQUE
    assert list(source.adata.var["gene_ids"])[:2] == ["ENSG0", "ENSG1"]
    assert source.adata.obs_names[0] == "cell0-1"
    assert any("2 genes" in note for note in source.notes)
    assert any("2 Antibody Capture" in note for note in source.notes) == (n_genes < G)


def test_a_matrix_of_cells_by_genes_is_taken_as_it_is(tmp_path):
    write_tenx_folder(tmp_path / "f", packed=False)
    scipy.io.mmwrite(tmp_path / "f" / "matrix.mtx", counts().astype(int))
    np.testing.assert_array_equal(values_of(read_source(str(tmp_path / "f"))), counts().toarray()[:, : G - 2])


def test_a_loom_file_is_read_with_its_layers(tmp_path):
    write_loom(tmp_path / "c.loom")
    source = read_source(str(tmp_path / "c.loom"), labels_key="cell_type")
    np.testing.assert_array_equal(values_of(source), counts().toarray())
    np.testing.assert_array_equal(values_of(read_source(str(tmp_path / "c.loom"), "spliced")), 2 * counts().toarray())
    assert list(source.adata.var_names[:6]) == UNIQUE
    assert list(source.labels_n[:3]) == ["x", "y", "z"]


def test_metadata_adds_labels_to_cells_that_have_none(tmp_path):
    write_tenx_h5(tmp_path / "c.h5")
    (tmp_path / "m.csv").write_text("cell,type\n" + "".join(f"cell{i}-1,t{i % 2}\n" for i in range(N - 1)))
    source = read_source(str(tmp_path / "c.h5"), None, "type", metadata=str(tmp_path / "m.csv"))
    assert (source.n_cells, set(source.labels_n)) == (N - 1, {"t0", "t1"})


WRITERS = {
    "c.h5": write_tenx_h5,
    "c.loom": write_loom,
    "c.h5mu": lambda path: write_h5mu(path, "rna"),
    "c.h5ad.gz": write_gz,
    "c.zarr.zip": write_zip,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kept", [0.0, 0.4, 0.9])
def test_a_file_cut_short_is_refused_by_name(tmp_path, name, kept):
    path = tmp_path / name
    WRITERS[name](path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(InputError, match=str(path)):
        read_source(str(path))


@pytest.mark.parametrize("name", ["matrix.mtx", "barcodes.tsv", "features.tsv"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_with_a_file_that_is_missing_or_cut_short_is_refused(tmp_path, name, packed):
    folder = tmp_path / "f"
    write_tenx_folder(folder, packed)
    path = folder / (name + (".gz" if packed else ""))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=str(folder)):
        read_source(str(folder))
    path.unlink()
    with pytest.raises(InputError, match=str(folder)):
        read_source(str(folder))


@pytest.mark.parametrize("removed", ["zarr.json", "X", "obs/_index", "X/.zarray", ".zgroup"])
def test_a_zarr_store_without_one_of_its_parts_is_refused(tmp_path, removed):
    path = tmp_path / "c.zarr"
    write_zarr(path)
    gone = path / removed
    if not gone.exists():
        pytest.skip("the other version of the format")
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(InputError, match=r"c\.zarr"):
        read_source(str(path))


class Touch:
    """An object whose pickle writes a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_zarr_store_cannot_run_code(tmp_path):
    path, trap = tmp_path / "c.zarr", tmp_path / "trap"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    write_elem(group, "/", cells())
    array = path / "obs" / "_index"
    settings = json.loads((array / ".zarray").read_text())
    (array / ".zarray").write_text(json.dumps({**settings, "filters": [{"id": "pickle"}], "compressor": None}))
    (array / "0").write_bytes(pickle.dumps(Touch(trap)))
    with pytest.raises(InputError, match="pickle"):
        read_source(str(path))
    assert not trap.exists()


def test_a_zarr_store_cannot_name_other_files(tmp_path):
    path = tmp_path / "c.zarr"
    write_zarr(path)
    (path / "X" / "far").symlink_to("/etc")
    with pytest.raises(InputError, match="link"):
        read_source(str(path))


def test_sizes_that_are_declared_are_not_believed(tmp_path, monkeypatch):
    write_tenx_folder(tmp_path / "f", packed=False)
    matrix = tmp_path / "f" / "matrix.mtx"
    matrix.write_text(f"%%MatrixMarket matrix coordinate integer general\n{G} {N} 99999999999\n1 1 1\n")
    with pytest.raises(InputError, match="cut short"):
        read_source(str(tmp_path / "f"))
    zarr.open_group(tmp_path / "z.zarr", mode="w").create_array("X", shape=(10**7, 10**6), chunks=(10, 10), dtype="f4")
    with pytest.raises(InputError, match="memory"):
        read_source(str(tmp_path / "z.zarr"))
    monkeypatch.setattr(h5ad_gz, "free_memory", lambda: 10_000)
    write_gz(tmp_path / "c.h5ad.gz")
    with pytest.raises(InputError, match="unpacks"):
        read_source(str(tmp_path / "c.h5ad.gz"))


def test_indices_beyond_the_genes_are_refused(tmp_path):
    write_tenx_h5(tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5", "a") as file:
        file["matrix/indices"][0] = 2**30
    with pytest.raises(InputError, match=r"c\.h5"):
        read_source(str(tmp_path / "c.h5"))


def test_several_choices_are_named(tmp_path):
    write_h5mu(tmp_path / "c.h5mu", "one", "two")
    with pytest.raises(InputError, match=r"one, two.*write_h5ad"):
        read_source(str(tmp_path / "c.h5mu"))
    for prefix in ("p_", "q_"):
        write_tenx_folder(tmp_path / "f", packed=False, prefix=prefix)
    with pytest.raises(InputError, match=r"p_matrix.mtx, q_matrix.mtx"):
        read_source(str(tmp_path / "f"))


@pytest.mark.parametrize("name", ["c.h5", "c.zarr", "c.loom", "f"])
def test_what_cannot_stay_on_disk_says_so(tmp_path, name):
    writers = {**WRITERS, "c.zarr": write_zarr, "f": lambda p: write_tenx_folder(p, True)}
    writers[name](tmp_path / name)
    with pytest.raises(InputError, match="--backed"):
        read_source(str(tmp_path / name), backed="yes")


@pytest.mark.parametrize(
    ("name", "line"),
    [("c.rds", "readRDS"), ("c.h5Seurat", "SeuratDisk"), ("c.parquet", "read_parquet"), ("c.cloupe", "Cell Ranger")],
)
def test_other_formats_name_what_converts_them(tmp_path, name, line):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=line):
        read_source(str(tmp_path / name))
    with pytest.raises(InputError, match="There is no"):
        read_source(str(tmp_path / f"missing-{name}"))
