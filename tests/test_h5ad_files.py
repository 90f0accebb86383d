"""What anndata reads is used and comes back, in memory as on disk; what training does not need cannot stop it."""

import fcntl
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.io import write_elem
from refusals import CELLS, GENES, assert_named, cells, line_of, refused, refused_training, saved
from test_results import command

from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.cli.tune_command import tune
from cplmix_ray.data.io.write_h5ad import leave_out_unwritable

Make = Callable[[Path], Path]


def with_all_parts() -> anndata.AnnData:
    adata = cells()
    adata.obs["depth"] = np.asarray(adata.X.sum(1)).ravel()
    adata.obsm["X_user"] = np.arange(2.0 * CELLS).reshape(CELLS, 2)
    adata.uns["study"] = {"name": "small", "numbers": np.arange(3)}
    adata.raw = adata.copy()
    return adata


def text(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=object)


# Files that anndata reads


def anndata_0_12(path: Path) -> Path:
    """Strings as pandas 3 has them, nullable numbers, categories of all kinds, odd names and values in uns."""
    adata = with_all_parts()
    adata.obs_names, adata.var_names = adata.obs_names.astype("string"), adata.var_names.astype("string")
    adata.obs["who"] = pd.array([f"cell {i}" if i % 5 else pd.NA for i in range(CELLS)], dtype="string")
    adata.obs["arrow"] = pd.array([f"cell {i}" for i in range(CELLS)], dtype="string[pyarrow]")
    adata.obs["some"] = pd.array([i if i % 7 else pd.NA for i in range(CELLS)], dtype="Int64")
    adata.obs["whether"] = pd.array([True if i % 7 else pd.NA for i in range(CELLS)], dtype="boolean")
    adata.obs["missing"] = pd.Categorical(["a" if i % 3 else None for i in range(CELLS)])
    adata.obs["ordered"] = pd.Categorical(["b", "a"] * (CELLS // 2), categories=["b", "a"], ordered=True)
    adata.obs["numbers"] = pd.Categorical([1, 5] * (CELLS // 2))
    adata.obs["length/width"] = 1.5
    adata.obsm["frame"] = pd.DataFrame({"who": adata.obs["who"]}, index=adata.obs_names)
    fields = [("type a", "O"), ("type b", "O")]
    adata.uns["ranks"] = {"names": np.array([("x", "y"), ("z", "x")], dtype=fields), "n/a": None, "a/b": {"c/d": 1}}
    adata.uns["words"] = pd.array(["a", pd.NA, "b"], dtype="string")
    adata.uns["table"] = pd.DataFrame({"a": [1, 2]})
    with anndata.settings.override(allow_write_nullable_strings=True):
        return saved(adata, path)


def sparse_and_byte_attributes(path: Path) -> Path:
    """Text attributes as bytes, as writers in other languages leave them."""
    adata = with_all_parts()
    adata.obsm["sparse"], adata.obsp["near"] = sp.csr_matrix(np.eye(CELLS)), sp.csc_matrix(np.eye(CELLS))

    def to_bytes(_: str, node: h5py.Group) -> None:
        for name, value in node.attrs.items():
            if isinstance(value, str):
                node.attrs[name] = np.bytes_(value)

    with h5py.File(saved(adata, path), "r+") as file:
        file.visititems(to_bytes)
    return path


def anndata_0_7(path: Path) -> Path:
    """Levels in a group __categories, to which the codes refer, as SeuratDisk writes them too."""
    with h5py.File(saved(with_all_parts(), path), "r+") as file:
        obs = file["obs"]
        codes = obs["cell_type/codes"][:].astype(np.int32)
        obs.create_group("__categories")["cell_type"] = obs["cell_type/categories"][:]
        del obs["cell_type"], file.attrs["encoding-type"], file.attrs["encoding-version"]
        obs["cell_type"] = codes
        obs["cell_type"].attrs["categories"] = obs["__categories/cell_type"].ref
        for frame in (obs, file["var"]):
            frame.attrs["encoding-version"] = "0.1.0"
    return path


def anndata_0_6(path: Path) -> Path:
    """obs and var as compound arrays of byte strings."""
    adata = with_all_parts()
    with h5py.File(path, "w") as file:
        for name in ("X", "raw.X"):
            group = file.create_group(name)
            group.attrs["h5sparse_format"] = np.bytes_("csr")
            group.attrs["h5sparse_shape"] = adata.shape
            for part in ("data", "indices", "indptr"):
                group[part] = getattr(adata.X, part)
        obs = np.zeros(CELLS, [("CellID", "S10"), ("cell_type", "i1"), ("depth", "f4")])
        obs["CellID"], obs["cell_type"], obs["depth"] = adata.obs_names.to_numpy().astype("S"), [0, 1] * (CELLS // 2), 3
        var = np.zeros(GENES, [("CellID", "S10"), ("length", "i8")])
        var["CellID"] = adata.var_names.to_numpy().astype("S")
        file["obs"], file["var"], file["uns/cell_type_categories"] = obs, var, np.array([b"a", b"b"])
        file["uns/numbers"] = np.arange(3)
        states = np.zeros(CELLS, [("X_user", "f8", (2,))])
        states["X_user"] = adata.obsm["X_user"]
        file["obsm"], file["raw.var"] = states, var
    return path


READ_BY_ANNDATA: list[Make] = [anndata_0_12, sparse_and_byte_attributes, anndata_0_7, anndata_0_6]


def assert_equal(one, other) -> None:
    if isinstance(one, dict):
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, pd.DataFrame):
        assert list(one.index) == list(other.index)
        pd.testing.assert_frame_equal(one.reset_index(drop=True), other[list(one)].reset_index(drop=True))
    elif isinstance(one, pd.api.extensions.ExtensionArray):
        pd.testing.assert_extension_array_equal(one, other)
    elif sp.issparse(one):
        assert (one != other).nnz == 0
    else:
        np.testing.assert_array_equal(one, other)


def assert_all_is_there(before: anndata.AnnData, after: anndata.AnnData, on_disk: bool) -> None:
    for part in ("obs", "var", "obsm", "varm", "uns", *(() if on_disk else ("layers", "obsp"))):
        one, other = getattr(before, part), getattr(after, part)
        assert_equal(one, other) if part in ("obs", "var") else assert_equal(dict(one), dict(other))
    if not on_disk:
        assert_equal(before.X, after.X)
        assert (before.raw is None) == (after.raw is None)
        if before.raw is not None:
            assert_equal(before.raw.X, after.raw.X)
            assert_equal(before.raw.var, after.raw.var)


def read(path: Path) -> anndata.AnnData:
    with warnings.catch_warnings(action="ignore"):  # about the age of the file
        return anndata.read_h5ad(path)


def trained_and_predicted(folder: Path, path: Path, backed: str) -> tuple[list[anndata.AnnData], str]:
    """Run train and predict; return both result files and the messages of train."""
    out, annotated = folder / "run", folder / "annotated.h5ad"
    words = line_of("--data", str(path), "--out", str(out), "--labels-key", "cell_type", "--backed", backed)
    said = command(train, *words)
    command(predict, "--run", out, "--data", path, "--out", annotated, "--backed", backed)
    return [read(out / "result.h5ad"), read(annotated)], said


@pytest.mark.parametrize("backed", ["no", "yes"])
@pytest.mark.parametrize("make", READ_BY_ANNDATA, ids=lambda make: make.__name__)
def test_what_anndata_reads_is_used_and_comes_back(tmp_path, make, backed):
    folder = tmp_path / "a földer"
    folder.mkdir()
    path = make(folder / "cells of mine.h5ad")
    (tmp_path / "link.h5ad").symlink_to(path)
    results, said = trained_and_predicted(tmp_path, tmp_path / "link.h5ad", backed)
    for result in results:
        assert_all_is_there(read(path), result, backed == "yes")
        assert {"cplmix_category", "cplmix_confidence"} <= set(result.obs)
    assert "left out" not in said and "lack" not in said


@pytest.mark.parametrize("backed", ["no", "yes"])
def test_a_column_of_the_reserved_name_is_kept_under_another(tmp_path, backed):
    """SeuratDisk writes raw/var so: its index is `features`, and a column `_index` repeats it."""
    adata, frames = with_all_parts(), ("raw/var", "var", "obs", "obsm/frame")
    adata.obsm["frame"] = pd.DataFrame({"a": np.arange(CELLS)}, index=adata.obs_names)
    with h5py.File(saved(adata, tmp_path / "cells.h5ad"), "r+") as file:
        for frame in frames:
            group = file[frame]
            columns = ["_index", *group.attrs["column-order"]]
            group.move("_index", "features")
            group.attrs["_index"] = "features"
            group.copy("features", "_index")
            group.attrs.create("column-order", text(columns), dtype=h5py.string_dtype())
    results, said = trained_and_predicted(tmp_path, tmp_path / "cells.h5ad", backed)
    assert [f"{frame}/_index" in said for frame in frames] == [backed == "no", True, True, True]  # raw stays on disk
    for result in results:
        tables = [result.var, result.obs, result.obsm["frame"], *([result.raw.var] if backed == "no" else [])]
        assert all(list(table["index_"]) == list(table.index) for table in tables)


# Entries that cannot be read, and are not needed


def frame_of_other_cells(file: h5py.File) -> None:
    write_elem(file["obsm/frame"], "_index", text([f"other {i}" for i in range(CELLS)]))


def too_short(file: h5py.File) -> None:
    file["obsm/short"] = np.zeros((CELLS - 1, 2))


def beyond_the_cells(file: h5py.File) -> None:
    file["obsp/near/indices"][3] = CELLS + 9


def beyond_the_genes(file: h5py.File) -> None:
    file["raw/X/indices"][3] = GENES + 9


def of_the_future(file: h5py.File) -> None:
    file["uns/study/future"] = 1
    file["uns/study/future"].attrs["encoding-type"] = "quantum"


def awkward_array(file: h5py.File) -> None:
    """Readable only with a package that is not required, and with its contents, which are not there."""
    file.create_group("obsm/ragged").attrs.update({"encoding-type": "awkward-array", "encoding-version": "0.1.0"})


def column_of_the_future(file: h5py.File) -> None:
    file["obs/depth"].attrs["encoding-type"] = "quantum"


def name_with_control_characters(file: h5py.File) -> None:
    file["uns/\x1b[2Jname"] = 1
    file["uns/\x1b[2Jname"].attrs["encoding-type"] = "quantum"


def part_of_another_program(file: h5py.File) -> None:
    file["reductions/pca"] = np.zeros(3)


UNREADABLE = {
    "obsm/frame": frame_of_other_cells,
    "obsm/short": too_short,
    "obsp/near": beyond_the_cells,
    "raw": beyond_the_genes,
    "uns/study/future": of_the_future,
    "obsm/ragged": awkward_array,
    "obs/depth": column_of_the_future,
    "uns/\\x1b[2Jname": name_with_control_characters,
    "reductions": part_of_another_program,
}


def damaged(path: Path, damage: Callable[[h5py.File], None]) -> Path:
    adata = with_all_parts()
    adata.obsm["frame"] = pd.DataFrame({"a": np.arange(CELLS)}, index=adata.obs_names)
    adata.obsp["near"] = sp.csr_matrix(np.eye(CELLS))
    with h5py.File(saved(adata, path), "r+") as file:
        damage(file)
    return path


@pytest.mark.parametrize("backed", ["no", "yes"])
def test_entries_that_are_not_needed_are_left_out_and_named(tmp_path, backed):
    def damage(file: h5py.File) -> None:
        for each in UNREADABLE.values():
            each(file)

    path = damaged(tmp_path / "cells.h5ad", damage)
    results, said = trained_and_predicted(tmp_path, path, backed)
    assert "\x1b" not in said
    named = {key for key in UNREADABLE if f"{key} of {path}" in said}
    assert named == set(UNREADABLE) - ({"raw", "obsp/near"} if backed == "yes" else set())  # those stay on disk
    for result in results:
        assert list(result.obs["cell_type"]) == ["a", "b"] * (CELLS // 2) and "depth" not in result.obs
        np.testing.assert_array_equal(result.obsm["X_user"], with_all_parts().obsm["X_user"])
        assert set(result.obsm) == {"X_user", "X_cplmix", "cplmix_probs"}
        assert set(result.uns["study"]) == {"name", "numbers"} and result.raw is None


def test_a_search_names_what_is_left_out_too(tmp_path, capsys):
    path = damaged(tmp_path / "cells.h5ad", too_short)
    words = ["--data", path, "--out", tmp_path / "out", "--metric", "acc"]
    assert_named(refused(tune, tmp_path, words), "--labels-key")  # after the file was read
    assert f"obsm/short of {path}" in capsys.readouterr().out


def test_an_entry_that_cannot_be_written_is_left_out_and_named():
    adata = with_all_parts()
    adata.uns["study"]["ragged"] = np.array([np.arange(2), np.arange(3)], dtype=object)
    adata.obs = pd.concat([adata.obs, adata.obs[["depth"]]], axis=1)
    notes = leave_out_unwritable(adata, "cells.h5ad")
    assert [note.partition(" of cells.h5ad ")[0] for note in notes] == ["obs/depth", "uns/study/ragged"]
    assert list(adata.obs) == ["cell_type", "depth"] and set(adata.uns["study"]) == {"name", "numbers"}
    assert leave_out_unwritable(adata, "cells.h5ad") == ()


# What is needed


def unknown(key: str) -> Callable[[h5py.File], None]:
    return lambda file: file[key].attrs.modify("encoding-type", "quantum")


@pytest.mark.parametrize("backed", ["no", "yes"])
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("X", ()),
        ("layers/spliced", ("--layer", "spliced")),
        ("obs/cell_type", ("--labels-key", "cell_type")),
        ("obs/depth", ("--state-key", "depth")),
        ("var/_index", ()),
    ],
)
def test_what_is_needed_and_cannot_be_read_is_named_first(tmp_path, key, words, backed):
    line = refused_training(tmp_path, damaged(tmp_path / "cells.h5ad", unknown(key)), "--backed", backed, *words)
    assert line.startswith(f"error: {key} of {tmp_path / 'cells.h5ad'} ")
    assert "quantum" in line


@pytest.mark.parametrize("backed", ["no", "yes"])
def test_a_file_that_is_open_for_writing_elsewhere(tmp_path, backed):
    path = saved(cells(), tmp_path / "cells.h5ad")
    with path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as HDF5 does
        assert_named(refused_training(tmp_path, path, "--backed", backed), f"{path} is open for writing", "close")


@pytest.mark.parametrize("backed", ["no", "yes"])
@pytest.mark.parametrize(("length", "cause"), [(9000, "is truncated"), (0, "is no .h5ad file")])
def test_a_file_that_is_cut_off_or_empty(tmp_path, length, cause, backed):
    path = saved(cells(), tmp_path / "cells.h5ad")
    path.write_bytes(path.read_bytes()[:length])
    assert_named(refused_training(tmp_path, path, "--backed", backed), f"{path} {cause}", ";")
