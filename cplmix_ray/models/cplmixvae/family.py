"""Coupled mixture VAEs as a model family (Marghi et al. 2021)."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from cplmix_ray.config.files import load_config
from cplmix_ray.config.run import RunConfig
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.training_set import MAIN, Modality, PreparedCells, TrainingSet
from cplmix_ray.models.base import Family, Model, Outcome, Output, Parts, Scores
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.registry import register_family
from cplmix_ray.utils.errors import InputError

if TYPE_CHECKING:
    import anndata
    import pandas as pd
    from matplotlib.figure import Figure

    from cplmix_ray.data.dataset import Dataset
    from cplmix_ray.data.source import Source


class CplMixVAEFamily(Family):
    """Coupled mixture VAEs. Every arm is a unit with one part."""

    name: ClassVar[str] = "cplmixvae"
    config: ClassVar[type[RunConfig]] = CplMixVAEConfig
    unit: ClassVar[str] = "arm"
    outputs: ClassVar[dict[str, Output]] = {
        "log_q_ank": Output("posterior", 1, by_unit=True),
        "reconstruction_a": Output("reconstruction", None, by_unit=True, predicted=False),
        "probs_nk": Output("consensus", 0),
        "state_nd": Output("state", 0),
    }
    validated: ClassVar[tuple[str, ...]] = ("log_q_ank", "reconstruction_a")

    def units(self, config: RunConfig) -> tuple[tuple[str, ...], ...]:
        return tuple((f"arm-{arm}",) for arm in range(_own(config).model.n_arms))

    def build_dataset(self, source: "Source", config: RunConfig, root: str | Path = "") -> "Dataset":
        from cplmix_ray.models.cplmixvae.dataset import build_arm_dataset

        self.check_source(source, config)
        return build_arm_dataset(source, _own(config), root)

    def prepare_again(
        self, source: "Source", config: RunConfig, preparations: Mapping[str, Preparation]
    ) -> PreparedCells:
        from cplmix_ray.data.covariates import encode_covariates
        from cplmix_ray.data.preprocessing.prepare_again import prepare_again
        from cplmix_ray.models.cplmixvae.dataset import resolved_likelihood

        preparation = preparations[MAIN]
        matrix = prepare_again(source, preparation, resolved_likelihood(_own(config), preparation))
        values, _ = encode_covariates(source.adata.obs, preparation.covariates, source.name)
        return PreparedCells({MAIN: Modality(matrix, preparation)}, covariates=values)

    def build(
        self, config: RunConfig, preparations: Mapping[str, Preparation], units: Sequence[int], device: torch.device
    ) -> Model:
        from cplmix_ray.models.cplmixvae.model import CoupledArms

        return CoupledArms(_own(config), preparations[MAIN], units, device)

    def check_source(self, source: "Source", config: RunConfig) -> None:
        n_categories = _own(config).model.n_categories
        if n_categories != "auto" and source.n_cells < n_categories:
            raise InputError(
                f"{source.name} has {source.n_cells} cells, fewer than --n-categories {n_categories}; lower "
                f"--n-categories or give more cells."
            )

    def dataset_keys(self, config: RunConfig) -> tuple[object, object]:
        own = _own(config)
        matrices = own.input, own.model.likelihood
        clustering = None
        if own.clustered_by is not None:
            mixtures = (own.model.n_arms, own.alignment.mixture_start) if own.clustered_by == "mixtures" else None
            clustering = own.clustered_by, own.model.n_categories, mixtures
        return matrices, (matrices, own.copies, own.seed, clustering)

    def search_metric(self, labelled: bool) -> str | None:
        return "acc" if labelled else "agreement"

    def resolve(self, config: RunConfig, data: TrainingSet) -> RunConfig:
        from cplmix_ray.models.cplmixvae.dataset import augmentations_for, resolved_model

        own = _own(config)
        kinds = augmentations_for(own, data.preparation, data.matrix) or ("none",)
        model = resolved_model(own, data.preparation)
        settled = {name: getattr(model, name) for name in ("likelihood", "decoder", "reconstruct")}
        if model.n_categories == "auto":
            settled["n_categories"] = data.tables.n_categories
        first_stage = own.alignment.steps(own.training.steps(len(data.train_idx)))
        clustering = own.clustered_by or own.alignment.initial_clustering
        return own.with_settings(
            copies={"copies": kinds},
            model=settled,
            alignment={"align_steps": first_stage, "initial_clustering": clustering},
        )

    def validation_scores(self, outputs: Mapping[str, np.ndarray], data: "Dataset") -> tuple[Scores, list[Scores]]:
        from cplmix_ray.couplings.simplex import centre
        from cplmix_ray.metrics.category_scores import score

        log_q_ank, losses = outputs["log_q_ank"], outputs["reconstruction_a"].tolist()
        consensus_nk = centre(torch.from_numpy(log_q_ank)).numpy()
        labels_n = None if data.labels_n is None else data.labels_n[data.training.val_idx]
        consensus, arms = score(log_q_ank, consensus_nk, labels_n)
        for scores, loss in zip(arms, losses, strict=True):
            scores["val_reconstruction"] = loss
        return consensus, arms

    def evaluate(
        self,
        infer: Callable[[], dict[str, np.ndarray]],
        model: Model,
        data: "Dataset",
        config: RunConfig,
        say: Callable[[str], None],
    ) -> Outcome:
        from cplmix_ray.models.cplmixvae.evaluation import all_scores
        from cplmix_ray.models.cplmixvae.model import CoupledArms
        from cplmix_ray.models.cplmixvae.reference_cells import fit_reference

        assert isinstance(model, CoupledArms)
        outputs, arrays = infer(), {}
        reference = fit_reference(model, data.training, outputs, _own(config).model.n_k, config.seed)
        if reference is not None:
            arrays = reference.arrays()
            outputs |= self.compare(model, data.training, outputs, arrays, new=False)
        return Outcome(outputs, all_scores(outputs, data, config.seed), arrays)

    def compare(
        self,
        model: Model,
        cells: PreparedCells,
        outputs: Mapping[str, np.ndarray],
        reference: Mapping[str, np.ndarray],
        new: bool,
    ) -> dict[str, np.ndarray]:
        """Calibrated confidence of the categories, ``confidence_n``, and of new cells their novelty, ``novelty_n``."""
        from cplmix_ray.models.cplmixvae.model import CoupledArms
        from cplmix_ray.models.cplmixvae.reference_cells import ReferenceCells, compare_with_reference

        assert isinstance(model, CoupledArms)
        kept = ReferenceCells.from_arrays(reference, model.preparation)
        return compare_with_reference(kept, model, cells, outputs, novelty=new)

    def annotate(
        self, adata: "anndata.AnnData", outputs: Mapping[str, np.ndarray], config: RunConfig, key: str
    ) -> None:
        from cplmix_ray.models.cplmixvae.evaluation import annotate_categories

        annotate_categories(adata, outputs, _own(config).model.n_k, key)

    def gene_tables(self, model: Model, preparations: Mapping[str, Preparation]) -> "dict[str, pd.DataFrame]":
        """Loadings of the state on the genes, in units of the prepared cells: a column for each category and state
        dimension, such as "3:0"."""
        from cplmix_ray.models.cplmixvae.evaluation import loadings_table
        from cplmix_ray.models.cplmixvae.model import CoupledArms

        assert isinstance(model, CoupledArms)
        loadings_kdg = model.loadings()
        return {} if loadings_kdg is None else {"loadings": loadings_table(loadings_kdg, preparations[MAIN].var_names)}

    def cell_tables(
        self, outputs: Mapping[str, np.ndarray], labels_n: np.ndarray | None, batch_n: "pd.Categorical | None"
    ) -> "dict[str, pd.DataFrame]":
        """With labels, confidence and share of correct cells by bin of confidence, as "reliability"; with batches,
        those of each category, as "batches"."""
        from cplmix_ray.metrics.batch_mixing import batch_table
        from cplmix_ray.metrics.calibration import both_reliability_tables

        probs_nk, tables = outputs["probs_nk"], {}
        if labels_n is not None:
            tables["reliability"] = both_reliability_tables(labels_n, probs_nk, outputs.get("confidence_n"))
        if batch_n is not None:
            tables["batches"] = batch_table(probs_nk.argmax(axis=1), batch_n)
        return tables

    def figures(self, tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
        """The reliability diagram."""
        from cplmix_ray.metrics.calibration import draw_reliability

        return {"reliability": draw_reliability(tables["reliability"])} if "reliability" in tables else {}

    def cell_counts(self, outputs: Mapping[str, np.ndarray]) -> list[str]:
        from cplmix_ray.models.cplmixvae.evaluation import cell_counts

        return cell_counts(outputs)

    def cell_remarks(self, outputs: Mapping[str, np.ndarray], obs: "pd.DataFrame", config: RunConfig) -> list[str]:
        from cplmix_ray.models.cplmixvae.batch_remarks import batch_remarks

        return batch_remarks(outputs["probs_nk"].argmax(axis=1), obs, config.input, config.seed)

    def scores(
        self, outputs: Mapping[str, np.ndarray], source: "Source", config: RunConfig
    ) -> tuple[Scores, list[Scores]]:
        from cplmix_ray.models.cplmixvae.evaluation import source_scores

        return source_scores(outputs, source, config.input.batch_key, config.seed)

    def unlabelled_scores(self, outputs: Mapping[str, np.ndarray]) -> Scores:
        from cplmix_ray.metrics.category_scores import score

        return score(outputs["log_q_ank"], outputs["probs_nk"], None)[0]

    def facts(self, config: RunConfig) -> dict[str, Any]:
        model = _own(config).model
        return {"n_categories": model.n_categories, "n_arms": model.n_arms}

    def summary(self, config: RunConfig) -> str:
        n_categories, first = _own(config).model.n_categories, _own(config).alignment.align_steps
        k = "found in the cells" if n_categories == "auto" else n_categories
        part = f"{100 * first:.0f} % of the steps" if first < 1 else f"{first} steps"
        return f"K = {k}, first stage (with another loss) {part}" if first else f"K = {k}"

    def remarks(self, metrics: Mapping[str, Any], outputs: Mapping[str, np.ndarray], config: RunConfig) -> list[str]:
        from cplmix_ray.models.cplmixvae.category_sizes import size_remarks

        first_stage = _own(config).alignment.align_steps
        found = size_remarks(outputs["probs_nk"].argmax(axis=1), _own(config))
        if 0 < metrics["steps"] <= first_stage:
            found.append(
                f"All {metrics['steps']} steps belong to the first stage, so state and decoder are not trained; raise "
                f"--max-steps or lower --align-steps."
            )
        return found

    def warn(self, terms: Mapping[str, Sequence[float]], step: int, config: RunConfig) -> str | None:
        floored = sum(terms["sigma_floored"])
        if not floored or _own(config).model.n_arms == 1:
            return None
        return (
            f"At step {step}, the standard deviation of {floored:g} categories (over all arms) is below --sigma-floor, "
            f"because no cell uses them or all cells use them equally; the coupling uses --sigma-floor for them."
        )

    def without_categories(self, config: RunConfig, parts: Parts, removed: Collection[int]) -> tuple[RunConfig, Parts]:
        from cplmix_ray.models.cplmixvae.category_removal import without_categories

        return without_categories(_own(config), parts, removed)

    def with_categories(self, data: TrainingSet, category_n: np.ndarray) -> TrainingSet:
        if data.tables.guess is None:
            return data
        return replace(data, tables=replace(data.tables, guess=category_n[:, None]))

    def keep_inputs(self, folder: Path, data: TrainingSet) -> None:
        if data.tables.augmenter is not None:
            data.tables.augmenter.write(folder / "augmenter", {})

    def with_kept_inputs(self, folder: Path, config: RunConfig) -> RunConfig:
        from cplmix_ray.models.vaegan.frozen import MANIFEST

        started = folder / "config.yaml"
        if 0 < _own(config).alignment.align_steps < 1 and started.exists():  # a share of the steps of the first start
            settled = _own(load_config(started)).alignment.align_steps
            config = config.with_settings(alignment={"align_steps": settled})
        given, kept = _own(config).copies.augmenter, folder / "augmenter"
        if given is None or (Path(given) / MANIFEST).exists() or not (kept / MANIFEST).exists():
            return config
        return config.with_settings(copies={"augmenter": str(kept)})

    def checkpoint_facts(self, data: TrainingSet) -> dict[str, Any]:
        augmenter = data.tables.augmenter
        return {"augmenter": None if augmenter is None else augmenter.checksum}


def _own(config: RunConfig) -> CplMixVAEConfig:
    assert isinstance(config, CplMixVAEConfig)
    return config


register_family(CplMixVAEFamily())
