"""The Python API: a model class for AnnData objects, similar to those of scvi-tools."""

import contextlib
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anndata
import numpy as np
import pandas as pd

from cplmix_ray.analysis.differential_expression import Comparison, differential_expression
from cplmix_ray.analysis.expression import batch_of, cells_at, expected_expression, genes_of
from cplmix_ray.analysis.splits import cells_of_run, split_table
from cplmix_ray.checkpoints.checkpoint import write_only_checkpoint
from cplmix_ray.checkpoints.reference_file import write_reference
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import load_preset
from cplmix_ray.config.by_name import with_settings
from cplmix_ray.config.python_names import in_python
from cplmix_ray.data.anndata_setup import AnnDataSetup
from cplmix_ray.data.covariates import batches_of
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.io.h5ad_backed import closed_for_others
from cplmix_ray.data.source import Source
from cplmix_ray.data.training_set import PreparedCells
from cplmix_ray.data.validation.anndata_type import described, require_anndata
from cplmix_ray.evaluation.trained_model import TrainedModel, newest_checkpoint
from cplmix_ray.metrics.batch_mixing import batch_table
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.registry import build_dataset, family_of
from cplmix_ray.runs.history import History
from cplmix_ray.runs.run import run_training
from cplmix_ray.training.events import Snapshot
from cplmix_ray.utils.durable import unwritten
from cplmix_ray.utils.errors import ArgumentTypeError, CplMixWarning, InputError, TrainingError
from cplmix_ray.utils.output_lock import lock_folder
from cplmix_ray.utils.progress import Display, shown_check


@contextlib.contextmanager
def _errors_in_python() -> Iterator[None]:
    """Write the options of the commands that an error names as arguments of Python."""
    try:
        yield
    except (InputError, TrainingError) as error:
        error.args = (in_python(str(error), CplMixVAEConfig),)
        raise


class _Notes(Display):
    """A progress display that issues its messages as Python warnings."""

    def say(self, line: str) -> None:
        """Issue a warning that points to the line of the user's code that called this package."""
        frame, level = sys._getframe(), 1
        while frame.f_back and frame.f_globals["__name__"].startswith(("cplmix_ray.", "contextlib")):
            frame, level = frame.f_back, level + 1
        warnings.warn(in_python(line, CplMixVAEConfig), CplMixWarning, stacklevel=level)


class CplMixVAE:
    """Coupled mixture VAE on an AnnData object.

    >>> CplMixVAE.setup_anndata(adata, layer="counts", labels_key="cell_type")
    >>> model = CplMixVAE(adata, n_categories=20)
    >>> model.train()
    >>> adata.obs["type"] = model.get_assignments()
    >>> adata.obsm["X_state"] = model.get_latent_representation()
    >>> new_adata.obs["type"] = model.get_assignments(new_adata)

    What the user should know of the data or the training is a warning of the class ``cplmix_ray.CplMixWarning``.

    Args:
        adata: cells x genes, prepared with :meth:`setup_anndata`.
        n_categories: number of categories K (cell types to find); "auto": as many as tests tell apart in the cells.
        n_arms: number of coupled autoencoders A; default: that of the preset.
        preset: preset to start from, as on the command line; ``preset="published"`` is the published objective.
        settings: any other setting by its name, as on the command line (``lr=3e-3``, ``likelihood="nb"``); the command
            ``cplmix train --help`` explains all of them.

    Attributes:
        config: the settings: of the last training, or those given if the model is not trained.
        metrics: scores of the trained model.
        history: values that were logged in training, a row for each logged step; the columns have the names that
            ``cplmix train`` gives them in TensorBoard (``model.history["loss/total"].plot()``).

    Raises:
        InputError: a setting is unknown or out of bounds, or ``adata`` is no AnnData object.
    """

    @_errors_in_python()
    def __init__(
        self,
        adata: anndata.AnnData,
        n_categories: int | Literal["auto"] = 10,
        n_arms: int | None = None,
        preset: str = "cells",
        **settings: Any,
    ):
        require_anndata(adata)
        self.adata = adata
        arms = {} if n_arms is None else {"n_arms": n_arms}
        self._given = with_settings(load_preset(preset), {"n_categories": n_categories, **arms, **settings})
        self.config = self._given
        self.metrics: dict[str, Any] = {}
        self.history = History().table()
        self._trained: TrainedModel | None = None

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in family_of(self.config).facts(self.config).items())
        trained = "not trained" if self._trained is None else f"trained for {self._trained.step} steps"
        return f"{type(self).__name__}({facts}) of {self.adata.n_obs} cells x {self.adata.n_vars} genes, {trained}"

    @staticmethod
    @_errors_in_python()
    def setup_anndata(
        adata: anndata.AnnData,
        layer: str | None = None,
        labels_key: str | None = None,
        batch_key: str | None = None,
        categorical_covariate_keys: Sequence[str] = (),
        continuous_covariate_keys: Sequence[str] = (),
        **unknown: Any,
    ) -> None:
        """Select the matrix with the expression values, and columns of obs.

        The choice is stored in ``uns``. A view in memory becomes an object of its own.

        Args:
            layer: name of a layer, or "raw" for ``adata.raw`` with its own genes; None selects X.
            labels_key: known types, which are used for scores only.
            batch_key: batch (sample, donor, technology, condition) whose effect is removed from categories and states.
            categorical_covariate_keys: further groups of cells that the decoder receives.
            continuous_covariate_keys: numbers that the decoder receives, such as a percentage of mitochondrial genes.

        Raises:
            InputError: there is no such layer or column, a column cannot be used as what it is given for, or another
                argument is given.
        """
        AnnDataSetup.checked(
            adata,
            layer=layer,
            labels_key=labels_key,
            batch_key=batch_key,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            **unknown,
        ).keep_in(adata)

    @_errors_in_python()
    def train(self, max_steps: int | None = None, progress: bool = True, **settings: Any) -> dict[str, Any]:
        """Train from the start and return the scores. If it is interrupted, the model stays as it was.

        With ``engine="auto"``, the default, and at least two GPUs or CPU cores, the arms run on a Ray that is started
        and ended by each training. ``engine="local"`` trains in this process, with the same numbers up to rounding.

        Args:
            max_steps: number of training steps; default: that of the settings.
            progress: show a progress bar in a notebook or a terminal, or some lines elsewhere.
            settings: settings of this training only, by name; they override those of the constructor.
        """
        if not isinstance(progress, bool):
            raise ArgumentTypeError(f"progress must be True or False, not {described(progress)}.")
        if max_steps is not None:
            settings["max_steps"] = max_steps
        setup = self._setup()
        config = with_settings(self._given, settings).with_settings(
            input={
                "data": "adata",
                "layer": setup.layer,
                "labels_key": setup.labels_key,
                "batch_key": setup.batch_key,
                "covariates": setup.covariates,
            }
        )
        display = _Notes(lines_on_stderr=True)
        source = source_from_anndata(self.adata, setup.layer, setup.labels_key, state_key=config.input.state_key)
        with closed_for_others(self.adata), tempfile.TemporaryDirectory() as scratch:
            if progress:
                source.matrix.scan(shown_check(lines_on_stderr=True))
            data = build_dataset(source, config)
            for note in data.notes:
                display.say(note)
            try:
                run = run_training(
                    config,
                    data,
                    RunFolder(scratch),
                    display,
                    announce=lambda _, first, last: display.begin(first, last) if progress else None,
                )
            finally:
                display.end()
        self.config, self.metrics, self._trained, self.history = config, run.metrics, run.model, run.history.table()
        family, settled = run.model.family, run.model.config
        found = family.cell_remarks(run.outputs, self.adata.obs, settled)
        for line in (*family.remarks(run.metrics, run.outputs, settled), *found):
            display.say(line)
        return self.metrics

    @_errors_in_python()
    def get_assignments(self, adata: anndata.AnnData | None = None, unknown: bool = False) -> pd.Series:
        """Category of each cell, "0".."K-1", as a categorical series with the names of the cells as its index.

        Args:
            unknown: give cells with a novelty above 1 (:meth:`get_novelty`) the category "unknown".
        """
        probs_nk, names = self._infer("probs_nk", adata)
        categories = [str(k) for k in range(probs_nk.shape[1])]
        codes = pd.Categorical.from_codes(probs_nk.argmax(axis=1), categories=categories)
        category_n = pd.Series(codes, index=names, name="cplmix_category")
        if not unknown:
            return category_n
        novelty_n = self._compared("novelty_n", adata)[0]
        return category_n.cat.add_categories("unknown").mask(novelty_n > 1, "unknown")

    @_errors_in_python()
    def get_confidence(self, adata: anndata.AnnData | None = None) -> pd.Series:
        """Calibrated probability that each cell belongs to its category (docs/metrics.md#confidence).

        Raises:
            InputError: the model has no reference cells: it was trained on images, or saved by an earlier version.
        """
        confidence_n, names = self._compared("confidence_n", adata)
        return pd.Series(confidence_n, index=names, name="cplmix_confidence")

    @_errors_in_python()
    def get_novelty(self, adata: anndata.AnnData | None = None) -> pd.Series:
        """How unlike the training cells a cell is; 1 % of the validation cells are above 1 (docs/metrics.md#novelty).

        Raises:
            InputError: the model has no reference cells: it was trained on images, or saved by an earlier version.
        """
        novelty_n, names = self._compared("novelty_n", adata)
        return pd.Series(novelty_n, index=names, name="cplmix_novelty")

    @_errors_in_python()
    def get_probabilities(self, adata: anndata.AnnData | None = None) -> np.ndarray:
        """Consensus of the arms' posteriors (their normalised geometric mean), shape (n, K)."""
        return self._infer("probs_nk", adata)[0]

    @_errors_in_python()
    def get_latent_representation(self, adata: anndata.AnnData | None = None) -> np.ndarray:
        """Mean of the state of each cell given the consensus category, shape (n, d)."""
        return self._infer("state_nd", adata)[0]

    @_errors_in_python()
    def get_loadings(self) -> pd.DataFrame:
        """Change of each gene with the state in each category, in units of the prepared cells (log-expression).

        Rows are the genes that the model was trained on; the columns "category:dimension" belong to the columns of
        :meth:`get_latent_representation`. A cell of category c has the expected expression mu_c + W_c s.

        Raises:
            InputError: the model is not trained, or its decoder has no loadings.
        """
        model = self._require_trained()
        tables = model.family.gene_tables(model.model, model.preparations)
        if "loadings" not in tables:
            raise InputError("This model has no loadings of the state; train it with --decoder linear.")
        return tables["loadings"]

    @_errors_in_python()
    def get_normalized_expression(
        self,
        adata: anndata.AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        transform_batch: str | Sequence[str] | None = None,
        gene_list: Sequence[str] | None = None,
        transform_covariates: Mapping[str, Any] | None = None,
        return_numpy: bool = False,
    ) -> pd.DataFrame | np.ndarray:
        """Expected expression of cells given their categories and states, cells x genes.

        The unit is that of the prepared cells: log-expression, or for count likelihoods the counts of a cell with the
        median library size of the training cells. The noise of a cell is not part of it: with the linear decoder,
        the change from one batch to another is exactly the effect of the batch in the cell's category.

        >>> as_stimulated = model.get_normalized_expression(control_cells, transform_batch="stim")

        Args:
            indices: positions of the cells, or a mask; default: all cells.
            transform_batch: decode the cells as if they were of this batch; of several, the mean over them.
            gene_list: names of genes; default: all that the model was trained on.
            transform_covariates: values in place of the cells' own of any covariates, ``{"condition": "stim"}``.
            return_numpy: return an array and not a DataFrame.

        Raises:
            InputError: a batch, covariate, gene or cell is unknown.
        """
        cells = self.adata if adata is None else adata
        require_anndata(cells)
        as_if = dict(transform_covariates or {})
        if transform_batch is not None:
            as_if[batch_of(self._require_trained())] = transform_batch
        model, source, prepared = self._prepared(cells if indices is None else cells_at(cells, indices))
        genes, names = genes_of(model, gene_list)
        x_ng = expected_expression(model, prepared, as_if, genes)
        return x_ng if return_numpy else pd.DataFrame(x_ng, index=source.adata.obs_names, columns=names)

    @_errors_in_python()
    def differential_expression(
        self,
        groupby: str,
        group1: str,
        group2: str,
        adata: anndata.AnnData | None = None,
        within: str | None = None,
        sample_key: str | None = None,
    ) -> pd.DataFrame:
        """Compare two groups of cells (conditions) inside each category by the Wilcoxon rank-sum test.

        >>> table = model.differential_expression("condition", "stim", "ctrl", sample_key="donor")

        Args:
            groupby: column of obs; it need not be a covariate of the model.
            group1, group2: values of it; fold changes are those from group2 to group1.
            within: column of obs whose values are used in place of the inferred categories.
            sample_key: column of obs with the biological sample (donor) of each cell. Samples are then compared too:
                a test of cells takes differences between donors for effects of the condition.

        Returns:
            A row for each category and gene of the matrix, the smallest p-values first; the columns are those of
            :func:`cplmix_ray.analysis.differential_expression.differential_expression`.

        Raises:
            InputError: a column or group does not exist, or no category has enough cells of both groups.
        """
        model, source, _ = self._prepared(adata)
        table, notes = differential_expression(model, source, Comparison(groupby, group1, group2, within, sample_key))
        for note in notes:
            _Notes().say(note)
        return table

    @_errors_in_python()
    def split_table(self, adata: anndata.AnnData | None = None, key: str | None = None) -> pd.DataFrame:
        """Test which neighbouring categories are separate types, as the command ``cplmix splits`` does.

        Args:
            key: column of obs whose values are tested in place of the inferred categories, such as "leiden".

        Returns:
            A row for each pair; the columns are those of :func:`cplmix_ray.analysis.splits.split_table`.

        Raises:
            InputError: there is no such column, or there are no two categories to compare.
        """
        model, source, _ = self._prepared(adata)
        return split_table(cells_of_run(model, source, key), source.name, model.config.seed)

    @_errors_in_python()
    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the model as a checkpoint, which the commands can read too.

        Args:
            path: folder of the model; it may contain other files.
            overwrite: replace a saved model; if that fails, the old one is kept.

        Raises:
            InputError: the model is not trained, or the folder contains a model or is not writable.
            DiskError: the disk is full or fails.
        """
        model, folder = self._require_trained(), RunFolder(path)
        facts = {
            "config": model.config.model_dump(mode="json"),
            "preparations": {name: each.as_dict() for name, each in model.preparations.items()},
            "n_cells": self.adata.n_obs,
            "seconds": self.metrics.get("seconds", 0.0),
            "metrics": self.metrics,
            "history": self.history.reset_index().to_dict("list"),
        }
        with lock_folder(folder.path, _Notes().say):
            folder.require_room_for_model(overwrite)
            try:
                written = write_only_checkpoint(folder.checkpoints, Snapshot(model.step, model.model.parts()), facts)
                if model.reference:
                    write_reference(written, model.reference)
            except OSError as error:
                raise unwritten(folder.checkpoints, error) from None

    @classmethod
    @_errors_in_python()
    def load(cls, path: str | Path, adata: anndata.AnnData) -> "CplMixVAE":
        """Read a saved model or the model of a run folder.

        Args:
            path: folder of the model or run.
            adata: cells with the genes that the model was trained on. Without :meth:`setup_anndata`, they are read
                from the layer that the model was trained on.

        Raises:
            InputError: there is no model, or genes are missing.
        """
        checkpoint = newest_checkpoint(path)
        trained = TrainedModel.from_checkpoint(checkpoint)
        model = cls(adata)
        model.config = model._given = trained.config
        model._trained = trained
        trained.prepare(model._source(adata))  # raises an error if genes are missing
        facts = checkpoint.manifest
        model.metrics = facts.get("metrics", {"steps": checkpoint.step, "seconds": facts["seconds"]})
        if "history" in facts:
            model.history = pd.DataFrame(facts["history"]).set_index("step")
        return model

    @_errors_in_python()
    def batch_table(self, adata: anndata.AnnData | None = None) -> pd.DataFrame:
        """Batches of the cells of each category, as in the file ``batches.csv`` of a run (see docs/metrics.md).

        Raises:
            InputError: the model was trained without a batch key, or the cells have no or only one batch.
        """
        cells = self.adata if adata is None else adata
        category_n, key = self.get_assignments(adata).cat.codes.to_numpy(), self.config.input.batch_key
        batch_n = batches_of(cells.obs, key)
        if batch_n is None:
            reason = "The model was trained without a batch key" if key is None else f"obs['{key}'] has no two batches"
            raise InputError(f"{reason}, so there are no batches to compare.")
        return batch_table(category_n, batch_n)

    def _source(self, adata: anndata.AnnData) -> Source:
        return source_from_anndata(adata, self._setup().layer)

    def _setup(self) -> AnnDataSetup:
        """What was given to ``setup_anndata``; without a setup, what the model was trained with, except for labels."""
        trained = self.config.input
        return AnnDataSetup.of(self.adata) or AnnDataSetup(
            trained.layer, batch_key=trained.batch_key, categorical_covariate_keys=trained.covariates
        )

    def _prepared(self, adata: anndata.AnnData | None) -> tuple[TrainedModel, Source, PreparedCells]:
        """The trained model, and cells prepared for it; what the user should know of them is said."""
        model, cells = self._require_trained(), self.adata if adata is None else adata
        require_anndata(cells)
        source = self._source(cells)
        prepared = model.prepare(source)
        for note in model.notes(source):
            _Notes().say(note)
        return model, source, prepared

    def _infer(self, output: str, adata: anndata.AnnData | None) -> tuple[np.ndarray, pd.Index]:
        model, source, prepared = self._prepared(adata)
        return model.infer(prepared, [output])[output], source.adata.obs_names

    def _compared(self, output: str, adata: anndata.AnnData | None) -> tuple[np.ndarray, pd.Index]:
        model, source, prepared = self._prepared(adata)
        if not model.reference:
            raise InputError(
                "This model has no reference cells to compare cells with; train a model on cells with this version."
            )
        wanted = [name for name, each in model.family.outputs.items() if each.predicted]
        return model.compared(prepared, model.infer(prepared, wanted))[output], source.adata.obs_names

    def _require_trained(self) -> TrainedModel:
        if self._trained is None:
            raise InputError("The model is not trained yet; call train() first.")
        return self._trained
