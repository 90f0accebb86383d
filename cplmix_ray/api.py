"""The Python API: a model class for AnnData objects, similar to those of scvi-tools."""

import tempfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from cplmix_ray.checkpoints.checkpoint import write_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import RunConfig, load_preset
from cplmix_ray.config.families import default_settings
from cplmix_ray.config.files import parse_config
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.evaluation.trained_model import TrainedModel, newest_checkpoint
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.runs.callbacks import Progress
from cplmix_ray.runs.run import run_training
from cplmix_ray.training.events import Snapshot
from cplmix_ray.utils.durable import unwritten
from cplmix_ray.utils.errors import InputError

_SETUP = "_cplmix_ray_setup"


class _NoProgress:
    """Shows nothing."""

    def say(self, line: str) -> None: ...
    def advance(self, step: int, figures: dict[str, float]) -> None: ...


class CplMixVAE:
    """Coupled mixture VAE on an AnnData object.

    >>> CplMixVAE.setup_anndata(adata, layer="counts", labels_key="cell_type")
    >>> model = CplMixVAE(adata, n_categories=20, preset="cells")
    >>> model.train()
    >>> adata.obs["type"] = model.get_assignments()
    >>> adata.obsm["X_state"] = model.get_latent_representation()

    Args:
        adata: cells x genes, prepared with :meth:`setup_anndata`.
        n_categories: number of categories K (cell types to find).
        n_arms: number of coupled autoencoders A; default: that of the preset, or 2.
        preset: preset to start from, as on the command line (``preset="cells"``).
        settings: any other setting by its name, as on the command line (``lr=3e-3``, ``likelihood="nb"``).

    Raises:
        InputError: a setting is unknown or out of bounds.
    """

    def __init__(
        self,
        adata: anndata.AnnData,
        n_categories: int = 10,
        n_arms: int | None = None,
        preset: str | None = None,
        **settings: Any,
    ):
        self.adata = adata
        arms = {} if n_arms is None else {"n_arms": n_arms}
        base = default_settings() if preset is None else load_preset(preset)
        self.config = _with_settings(base, {"n_categories": n_categories, **arms, **settings})
        self.metrics: dict[str, Any] = {}
        self._trained: TrainedModel | None = None

    @staticmethod
    def setup_anndata(adata: anndata.AnnData, layer: str | None = None, labels_key: str | None = None) -> None:
        """Select the matrix with the expression values and the column with known types, which is used for scores only.

        Args:
            layer: name of a layer; None selects X.
            labels_key: name of a column of obs.
        """
        source_from_anndata(adata, layer, labels_key)
        adata.uns[_SETUP] = {"layer": layer or "", "labels_key": labels_key or ""}

    def train(self, max_steps: int | None = None, progress: Progress | None = None, **settings: Any) -> dict[str, Any]:
        """Train from the start and return the scores.

        Args:
            progress: shows messages and the progress; default: nothing is shown.
            settings: settings of this training by name; they override those of the constructor.
        """
        if max_steps is not None:
            settings["max_steps"] = max_steps
        self.config = _with_settings(self.config, settings)
        data = build_dataset(self._source(self.adata), self.config)
        with tempfile.TemporaryDirectory() as scratch:
            run = run_training(self.config, data, RunFolder(scratch), progress or _NoProgress())
        self.metrics, self._trained = run.metrics, run.model
        return self.metrics

    def get_assignments(self, adata: anndata.AnnData | None = None) -> pd.Series:
        """Category of each cell, "0".."K-1", as a categorical series with the names of the cells as its index."""
        probs_nk, names = self._infer("probs_nk", adata)
        categories = [str(k) for k in range(probs_nk.shape[1])]
        codes = pd.Categorical.from_codes(probs_nk.argmax(axis=1), categories=categories)
        return pd.Series(codes, index=names, name="cplmix_category")

    def get_probabilities(self, adata: anndata.AnnData | None = None) -> np.ndarray:
        """Consensus posterior, shape (n, K)."""
        return self._infer("probs_nk", adata)[0]

    def get_latent_representation(self, adata: anndata.AnnData | None = None) -> np.ndarray:
        """Mean of the state of each cell given the consensus category, shape (n, d)."""
        return self._infer("state_nd", adata)[0]

    def save(self, path: str | Path) -> None:
        """Write the model as a checkpoint, which the commands can read too.

        Raises:
            InputError: the model is not trained, or the folder already contains a run or is not writable.
            DiskError: the disk is full or fails.
        """
        model, folder = self._require_trained(), RunFolder(path)
        folder.require_room(resume=False)
        facts = {
            "config": model.config.model_dump(mode="json"),
            "preparations": {name: each.as_dict() for name, each in model.preparations.items()},
            "n_cells": self.adata.n_obs,
            "seconds": self.metrics.get("seconds", 0.0),
        }
        try:
            write_checkpoint(folder.checkpoints, Snapshot(model.step, model.model.parts()), facts, keep=1)
        except OSError as error:
            raise unwritten(folder.checkpoints, error) from None

    @classmethod
    def load(cls, path: str | Path, adata: anndata.AnnData) -> "CplMixVAE":
        """Read a saved model or the model of a run folder.

        Args:
            path: folder of the model or run.
            adata: cells with the genes that the model was trained on.

        Raises:
            InputError: there is no model, or genes are missing.
        """
        checkpoint = newest_checkpoint(path)
        trained = TrainedModel.from_checkpoint(checkpoint)
        model = cls(adata)
        model.config, model._trained = trained.config, trained
        trained.prepare(model._source(adata))  # raises an error if genes are missing
        model.metrics = {"steps": checkpoint.step, "seconds": checkpoint.manifest["seconds"]}
        return model

    def _source(self, adata: anndata.AnnData):
        setup = self.adata.uns.get(_SETUP, {"layer": "", "labels_key": ""})
        labels_key = setup["labels_key"] if adata is self.adata else ""
        return source_from_anndata(adata, setup["layer"] or None, labels_key or None)

    def _infer(self, output: str, adata: anndata.AnnData | None) -> tuple[np.ndarray, pd.Index]:
        model, cells = self._require_trained(), self.adata if adata is None else adata
        return model.infer(model.prepare(self._source(cells)), [output])[output], cells.obs_names

    def _require_trained(self) -> TrainedModel:
        if self._trained is None:
            raise InputError("The model is not trained yet; call train() first.")
        return self._trained


def _with_settings(base: RunConfig, settings: dict[str, Any]) -> RunConfig:
    """``base`` with settings given by their names, without their sections."""
    tree = base.model_dump()
    section_of = {name: section for section, part in tree.items() if isinstance(part, dict) for name in part}
    for name, given in settings.items():
        value = given.item() if isinstance(given, np.generic) else given
        if name in section_of:
            tree[section_of[name]][name] = value
        elif name in tree and name not in set(section_of.values()):
            tree[name] = value
        else:
            raise InputError(f"There is no setting '{name}'; see python -m cplmix_ray.train --help for the names.")
    return parse_config(tree, "CplMixVAE")
