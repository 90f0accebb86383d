"""The Python API, in the idiom of the single-cell ecosystem."""

import tempfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from cplmix_ray.checkpoints.checkpoint import write_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import Config, load_preset
from cplmix_ray.config.files import parse_config
from cplmix_ray.data.dataset import build_dataset, source_from_anndata
from cplmix_ray.distributed.events import Snapshot
from cplmix_ray.evaluation.trained_model import Inferred, TrainedModel, newest_checkpoint
from cplmix_ray.training.callbacks import Progress
from cplmix_ray.training.run import conduct
from cplmix_ray.utils.durable import unwritten
from cplmix_ray.utils.errors import InputError

_SETUP = "_cplmix_ray_setup"


class _Silent:
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
        n_categories: K, the types to look for.
        n_arms: A, the coupled autoencoders; default: the preset's, or 2.
        preset: recipe to start from, as on the command line (``preset="cells"``).
        settings: any other setting by its bare name, as on the command line (``lr=3e-3``, ``likelihood="nb"``).

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
        recipe = Config() if preset is None else load_preset(preset)
        self.config = _nested({"n_categories": n_categories, **arms, **settings}, recipe)
        self.metrics: dict[str, Any] = {}
        self._trained: TrainedModel | None = None

    @staticmethod
    def setup_anndata(adata: anndata.AnnData, layer: str | None = None, labels_key: str | None = None) -> None:
        """Say which matrix holds the expression and which column the known types; labels serve for scores only."""
        source_from_anndata(adata, layer, labels_key)
        adata.uns[_SETUP] = {"layer": layer or "", "labels_key": labels_key or ""}

    def train(self, max_steps: int | None = None, progress: Progress | None = None, **settings: Any) -> dict[str, Any]:
        """Train from the start and return the scores.

        Args:
            settings: settings of this training by bare name, over those of the constructor.
        """
        if max_steps is not None:
            settings["max_steps"] = max_steps
        self.config = _nested(settings, self.config)
        data = build_dataset(self._source(self.adata), self.config)
        with tempfile.TemporaryDirectory() as scratch:
            outcome = conduct(self.config, data, RunFolder(scratch), progress or _Silent())
        self.metrics, self._trained = outcome.metrics, outcome.model
        return self.metrics

    def get_assignments(self, adata: anndata.AnnData | None = None) -> pd.Series:
        """Category of each cell, "0".."K-1", as a categorical series with the cells' names."""
        inferred, names = self._infer(adata)
        n_categories = self.config.model.n_categories
        codes = pd.Categorical.from_codes(inferred.category_n, categories=[str(k) for k in range(n_categories)])
        return pd.Series(codes, index=names, name="cplmix_category")

    def get_probabilities(self, adata: anndata.AnnData | None = None) -> np.ndarray:
        """Consensus posterior, shape (n, K)."""
        return self._infer(adata)[0].probs_nk

    def get_latent_representation(self, adata: anndata.AnnData | None = None) -> np.ndarray:
        """Mean state of each cell given the consensus, shape (n, d)."""
        return self._infer(adata)[0].state_nd

    def save(self, path: str | Path) -> None:
        """Write the model as a checkpoint that the commands read too.

        Raises:
            InputError: the model is not trained, the folder holds a run, or it cannot be written to.
            DiskError: the disk is full or fails.
        """
        model, folder = self._require_trained(), RunFolder(path)
        folder.require_room(resume=False)
        facts = {
            "config": model.config.model_dump(mode="json"),
            "preparation": model.preparation.as_dict(),
            "n_cells": self.adata.n_obs,
            "seconds": self.metrics.get("seconds", 0.0),
        }
        try:
            write_checkpoint(folder.checkpoints, Snapshot(model.step, model.group.snapshot()), facts, keep=1)
        except OSError as error:
            raise unwritten(folder.checkpoints, error) from None

    @classmethod
    def load(cls, path: str | Path, adata: anndata.AnnData) -> "CplMixVAE":
        """Read a saved model or a run folder, for cells with the genes it was trained on.

        Raises:
            InputError: there is no model, or genes are missing.
        """
        checkpoint = newest_checkpoint(path)
        trained = TrainedModel.of(checkpoint)
        model = cls(adata)
        model.config, model._trained = trained.config, trained
        trained.values_of(model._source(adata))  # raises where var_names differ
        model.metrics = {"steps": checkpoint.step, "seconds": checkpoint.manifest["seconds"]}
        return model

    def _source(self, adata: anndata.AnnData):
        setup = self.adata.uns.get(_SETUP, {"layer": "", "labels_key": ""})
        labels_key = setup["labels_key"] if adata is self.adata else ""
        return source_from_anndata(adata, setup["layer"] or None, labels_key or None)

    def _infer(self, adata: anndata.AnnData | None) -> tuple[Inferred, pd.Index]:
        model, cells = self._require_trained(), self.adata if adata is None else adata
        return model.infer(model.values_of(self._source(cells)), reconstruct=False), cells.obs_names

    def _require_trained(self) -> TrainedModel:
        if self._trained is None:
            raise InputError("The model is not trained yet; call train() first.")
        return self._trained


def _nested(settings: dict[str, Any], base: Config | None = None) -> Config:
    """Settings by bare name, put into their sections."""
    tree = (base or Config()).model_dump()
    home = {name: section for section, part in tree.items() if isinstance(part, dict) for name in part}
    for name, given in settings.items():
        value = given.item() if isinstance(given, np.generic) else given
        if name in home:
            tree[home[name]][name] = value
        elif name in tree and name not in set(home.values()):
            tree[name] = value
        else:
            raise InputError(f"There is no setting '{name}'; see python -m cplmix_ray.train --help for the names.")
    return parse_config(tree, "CplMixVAE")
