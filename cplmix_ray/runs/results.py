"""Results of a run in AnnData objects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np

from cplmix_ray.config.files import dump_config
from cplmix_ray.data.io.write_h5ad import write_cells
from cplmix_ray.data.source import Source
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.runs.fingerprint import fingerprint
from cplmix_ray.runs.run import RunResult
from cplmix_ray.version import __version__


def write_result(path: Path, source: Source, run: RunResult) -> None:
    """Write the cells of a run with its results and its fingerprint as an `.h5ad` file.

    Args:
        source: the cells as they were read; they are not changed.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    write_cells(path, annotated(source, run))


def annotated(source: Source, run: RunResult) -> anndata.AnnData:
    """A copy of the cells with the results of a run and its fingerprint."""
    result = source.adata.copy()
    annotate(result, run.outputs, run.model, run.metrics)
    result.uns["cplmix_ray"]["fingerprint"] = fingerprint(source, run.model.config)
    return result


def annotate(
    adata: anndata.AnnData,
    outputs: Mapping[str, np.ndarray],
    model: TrainedModel,
    metrics: Mapping[str, Any],
    key: str = "cplmix",
) -> None:
    """Add the outputs of a model in place, with names that begin with ``key``, and its provenance to uns."""
    model.family.annotate(adata, outputs, model.config, key)
    for name, table in model.family.gene_tables(model.model, model.preparations).items():
        adata.varm[f"{key}_{name}"] = table.reindex(adata.var_names)  # NaN for genes that were not selected
    adata.uns["cplmix_ray" if key == "cplmix" else f"{key}_ray"] = {
        "version": __version__,
        "config": dump_config(model.config),
        "seed": model.config.seed,
        "step": model.step,
        "consensus": float(metrics.get("consensus", float("nan"))),
        "metrics": {name: value for name, value in metrics.items() if isinstance(value, int | float | str)},
    }


def with_unknown(adata: anndata.AnnData, key: str) -> None:
    """Give cells whose novelty is above 1 the category "unknown", in place."""
    category = adata.obs[f"{key}_category"].cat.add_categories("unknown")
    adata.obs[f"{key}_category"] = category.mask(adata.obs[f"{key}_novelty"] > 1, "unknown")
