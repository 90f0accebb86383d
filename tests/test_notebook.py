"""A notebook that is executed: what a user sees in it of a training."""

import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # those of Jupyter are its own

CELLS = [
    """
import anndata, numpy as np, pandas as pd
rng = np.random.default_rng(0)
types = np.repeat([0, 1, 2], 50)
rates = rng.gamma(2.0, 1.0, (3, 60)) * np.where(rng.random((3, 60)) < 0.3, 6.0, 1.0)
adata = anndata.AnnData(rng.poisson(rates[types]).astype(np.float32), pd.DataFrame({"type": types.astype(str)}))
""",
    """
from cplmix_ray import CplMixVAE
CplMixVAE.setup_anndata(adata, labels_key="type")
model = CplMixVAE(adata, n_categories=3, hidden=(16,), bottleneck=6, batch_size=32, engine="{engine}", threads=1)
model
""",
    "_ = model.train(max_steps=60)",
    "_ = model.train(max_steps=20, progress=False)",
    'model.history["loss/total"].tail(1)',
    "adata.obs['found'] = model.get_assignments(); adata.obs['found'].head(2)",
]


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_notebook_shows_progress_notes_and_results(tmp_path, monkeypatch, engine):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", ":".join([str(Path(__file__).parents[1]), *filter(None, sys.path)]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    sources = [source.replace("{engine}", engine).strip() for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    kernel = {"display_name": "Python", "language": "python", "name": "python3"}
    notebook.metadata["kernelspec"] = kernel
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    made, trained, silent, history, found = (cell.outputs for cell in notebook.cells[1:])
    assert "not trained" in made[-1].data["text/plain"]
    bars = [each for each in trained if "<progress" in each.get("data", {}).get("text/html", "")]
    assert len(bars) == 1
    assert "<progress value='60' max='60'" in bars[0].data["text/html"]
    assert "step 60/60, 0 s left, loss" in bars[0].data["text/plain"]
    said = "".join(each.text for each in trained if each.output_type == "stream")
    assert "CplMixWarning: the AnnData object holds raw counts: cells are scaled to 10000" in said
    assert "train(max_steps=60)" in said  # the user's line
    assert not any(each.output_type == "display_data" for each in silent)
    assert "20" in history[-1].data["text/plain"]
    assert "Categories" in found[-1].data["text/plain"]
