"""Backed AnnData objects: obs, var and obsm are taken from memory, and only X is read from the file."""

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from refusals import naming

from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.io.h5ad_backed import closed_for_others
from cplmix_ray.data.matrix.on_disk import OnDiskMatrix
from cplmix_ray.utils.errors import InputError

CELLS, GENES = 30, 6


def cells() -> anndata.AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (CELLS, GENES)).astype(np.float32)
    obs = pd.DataFrame({"cell_type": ["a", "b"] * (CELLS // 2)}, index=[f"cell_{i}" for i in range(CELLS)])
    var = pd.DataFrame(index=[f"gene_{i}" for i in range(GENES)])
    return anndata.AnnData(sp.csr_matrix(counts), obs, var, layers={"twice": sp.csr_matrix(2 * counts)})


@pytest.fixture
def path(tmp_path) -> Path:
    cells().write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture(params=["r", "r+"])
def backed(path, request):
    adata = anndata.read_h5ad(path, backed=request.param)
    yield adata
    adata.file.close()


def dense(source) -> np.ndarray:
    block = source.matrix.block()
    return block.toarray() if sp.issparse(block) else block


def test_labels_and_names_are_those_of_the_object(backed):
    backed.obs["cell_type"] = pd.Categorical(["b", "a"] * (CELLS // 2))
    backed.obs["mine"] = ["x"] * CELLS
    backed.obs_names = [f"renamed_{i}" for i in range(CELLS)]
    backed.var_names = [f"renamed_{i}" for i in range(GENES)]
    backed.obsm["mine"] = np.ones((CELLS, 2))
    source = source_from_anndata(backed, labels_key="cell_type")
    assert isinstance(source.matrix, OnDiskMatrix)
    assert list(source.labels_n[:2]) == ["b", "a"]
    assert set(source_from_anndata(backed, labels_key="mine").labels_n) == {"x"}
    assert (source.adata.obs_names[0], source.adata.var_names[0]) == ("renamed_0", "renamed_0")
    assert "mine" in source.adata.obsm
    np.testing.assert_array_equal(dense(source), cells().X.toarray())


def test_rows_of_obs_that_were_sorted_stay_with_the_rows_of_x_at_their_place(backed):
    """As anndata has it for objects in memory: obs is replaced, X is not touched."""
    backed.obs = backed.obs.sort_values("cell_type")
    source = source_from_anndata(backed, labels_key="cell_type")
    assert list(source.labels_n) == sorted(source.labels_n)
    np.testing.assert_array_equal(dense(source), cells().X.toarray())


def test_a_layer_that_was_changed_is_taken_as_it_is(backed):
    backed.layers["twice"] = sp.csr_matrix(3 * backed.layers["twice"])
    backed.layers["new"] = np.ones((CELLS, GENES), np.float32)
    np.testing.assert_array_equal(dense(source_from_anndata(backed, "twice")), 6 * cells().X.toarray())
    np.testing.assert_array_equal(dense(source_from_anndata(backed, "new")), 1)


def test_a_view_has_its_own_cells_and_genes(backed):
    view = backed[[7, 3, 20], [4, 1]]
    source = source_from_anndata(view, labels_key="cell_type")
    np.testing.assert_array_equal(dense(source), cells()[[7, 3, 20], [4, 1]].X.toarray())
    assert list(source.adata.obs_names) == ["cell_7", "cell_3", "cell_20"]


@pytest.mark.filterwarnings("ignore:This internal function:FutureWarning")  # anndata's own
def test_values_written_through_the_object_are_read(path):
    adata = anndata.read_h5ad(path, backed="r+")
    adata.X = sp.csr_matrix(5 * cells().X)
    source = source_from_anndata(adata)
    np.testing.assert_array_equal(dense(source), 5 * cells().X.toarray())
    adata.X = sp.csr_matrix(7 * cells().X)  # the object can still be written to
    np.testing.assert_array_equal(dense(source_from_anndata(adata)), 7 * cells().X.toarray())
    adata.file.close()


def test_a_file_open_for_writing_is_closed_for_other_processes_and_opened_again(path):
    adata = anndata.read_h5ad(path, backed="r+")
    with closed_for_others(adata), h5py.File(path):
        assert not adata.file.is_open
    assert adata.file["obs"].file.mode == "r+"
    adata.file.close()
    with closed_for_others(cells()):  # nothing to close
        pass


def test_a_file_that_is_gone_or_another_is_refused(path):
    adata = anndata.read_h5ad(path, backed="r")
    path.rename(path.with_name("elsewhere.h5ad"))
    with pytest.raises(InputError, match=naming(path, "removed", "anndata.read_h5ad")):
        source_from_anndata(adata)
    cells()[::-1].copy().write_h5ad(path)
    with pytest.raises(InputError, match=naming(path, "replaced", "anndata.read_h5ad")):
        source_from_anndata(adata)
    adata.file.close()
    path.unlink()
    cells()[:9].copy().write_h5ad(path)
    with pytest.raises(InputError, match=naming(path, (9, GENES), (CELLS, GENES))):
        source_from_anndata(adata)


def test_an_object_without_x_names_the_remedy(tmp_path):
    adata = cells()
    adata.X = None
    adata.write_h5ad(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(InputError, match="layer"):
        source_from_anndata(adata)
    assert source_from_anndata(adata, "twice").matrix.shape == (CELLS, GENES)
    adata.file.close()
