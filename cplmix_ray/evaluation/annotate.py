"""What was inferred, as the keys that users find in their AnnData object."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from cplmix_ray.config.files import dump_config
from cplmix_ray.data.io.write_h5ad import write_cells
from cplmix_ray.evaluation.trained_model import Inferred, TrainedModel
from cplmix_ray.training.run import Outcome
from cplmix_ray.version import __version__


def write_result(path: Path, adata: anndata.AnnData, outcome: Outcome) -> None:
    """Write the cells of a run with its results as an `.h5ad`; the given object is left alone.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    result = adata.copy()
    annotate(result, outcome.inferred, outcome.model, outcome.metrics)
    write_cells(path, result)


def annotate(
    adata: anndata.AnnData, inferred: Inferred, model: TrainedModel, metrics: dict[str, Any], key: str = "cplmix"
) -> None:
    """Add the results in place: obs category and confidence, obsm state and probabilities, uns provenance."""
    n_categories = model.config.model.n_categories
    adata.obs[f"{key}_category"] = pd.Categorical.from_codes(
        inferred.category_n, categories=[str(k) for k in range(n_categories)]
    )
    adata.obs[f"{key}_confidence"] = inferred.confidence_n.astype(np.float32, copy=False)
    adata.obsm[f"X_{key}"] = inferred.state_nd.astype(np.float32, copy=False)
    adata.obsm[f"{key}_probs"] = inferred.probs_nk.astype(np.float32, copy=False)
    adata.uns["cplmix_ray" if key == "cplmix" else f"{key}_ray"] = {
        "version": __version__,
        "config": dump_config(model.config),
        "seed": model.config.seed,
        "step": model.step,
        "consensus": float(metrics.get("consensus", float("nan"))),
        "metrics": {name: value for name, value in metrics.items() if isinstance(value, int | float | str)},
    }
