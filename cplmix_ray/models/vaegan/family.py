"""VAE-GANs that learn type-preserving augmentations, as a model family."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from cplmix_ray.config.run import RunConfig
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.training_set import MAIN, Modality, PreparedCells, TrainingSet
from cplmix_ray.models.base import Family, Model, Outcome, Output, Scores
from cplmix_ray.models.registry import register_family
from cplmix_ray.models.vaegan.config import VAEGANConfig
from cplmix_ray.models.vaegan.model import UNIT, VAEGAN
from cplmix_ray.models.vaegan.randomness import ORDER_KEY
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.threads import torch_threads

if TYPE_CHECKING:
    import anndata

    from cplmix_ray.data.dataset import Dataset
    from cplmix_ray.data.source import Source


class VAEGANFamily(Family):
    """VAE-GANs. Generator and discriminator are the two parts of one unit."""

    name: ClassVar[str] = "vaegan"
    config: ClassVar[type[RunConfig]] = VAEGANConfig
    unit: ClassVar[str] = UNIT
    outputs: ClassVar[dict[str, Output]] = {
        "log_likelihood_u": Output("log-likelihood", None, by_unit=True, predicted=False),
        "latent_nd": Output("latent mean", 0),
    }
    validated: ClassVar[tuple[str, ...]] = ("log_likelihood_u",)
    sampler_key: ClassVar[tuple[int, ...]] = ORDER_KEY

    def units(self, config: RunConfig) -> tuple[tuple[str, ...], ...]:
        return (("generator", "discriminator"),)

    def tags(self, config: RunConfig) -> list[str]:
        return ["augmenter"]

    def build_dataset(self, source: "Source", config: RunConfig, root: str | Path = "") -> "Dataset":
        """Prepare and split the cells as for coupled mixture VAEs, so that both models have the same values."""
        from cplmix_ray.data.dataset import Dataset
        from cplmix_ray.data.preprocessing.fit import fit_preparation
        from cplmix_ray.data.preprocessing.preparation import check_finite
        from cplmix_ray.data.splits import split_source

        if config.input.batch_key is not None or config.input.covariates:
            raise InputError("An augmenter has no use for covariates; leave out --batch-key and --covariates.")
        check_finite(source.matrix, source)
        fitted = fit_preparation(source, config.input)
        train_idx, val_idx = split_source(source, config.input.val_fraction, config.seed)
        if len(train_idx) < 2:
            raise InputError(f"{source.name} has {source.n_cells} cells; an augmenter needs at least 2 to train on.")
        training = TrainingSet({MAIN: Modality(fitted.matrix, fitted.preparation)}, train_idx, val_idx)
        notes = (*source.notes, *fitted.notes)
        return Dataset(training, source.labels_n, source.name, notes, source.truth_nm, source.factors)

    def prepare_again(
        self, source: "Source", config: RunConfig, preparations: Mapping[str, Preparation]
    ) -> PreparedCells:
        from cplmix_ray.data.preprocessing.prepare_again import prepare_again

        return PreparedCells({MAIN: Modality(prepare_again(source, preparations[MAIN]), preparations[MAIN])})

    def build(
        self, config: RunConfig, preparations: Mapping[str, Preparation], units: Sequence[int], device: torch.device
    ) -> Model:
        return VAEGAN(_own(config), preparations[MAIN], device)

    def validation_scores(self, outputs: Mapping[str, np.ndarray], data: "Dataset") -> tuple[Scores, list[Scores]]:
        return {}, [{"val_log_likelihood": float(value)} for value in outputs["log_likelihood_u"]]

    def evaluate(
        self,
        infer: Callable[[], dict[str, np.ndarray]],
        model: Model,
        data: "Dataset",
        config: RunConfig,
        say: Callable[[str], None],
    ) -> Outcome:
        """Measure how well copies keep the type of their cell, and how much they differ from it."""
        from cplmix_ray.models.vaegan.moments import cell_moments
        from cplmix_ray.models.vaegan.quality import Cells, measure

        assert isinstance(model, VAEGAN)
        training = data.training
        say("Measuring the copies.")
        with torch_threads(config.placement.threads):
            moments = cell_moments(training.matrix, training.train_idx)
            cells = Cells(training.matrix, training.train_idx, training.val_idx, data.labels_n)
            figures = measure(model.augmenter, cells, moments, config.seed)
        return Outcome({}, {**figures, "measured_on": "validation" if len(training.val_idx) else "training"})

    def export(
        self, folder: Path, model: Model, data: "Dataset", config: RunConfig, metrics: Mapping[str, Any]
    ) -> None:
        """Write the generator, for ``train --copies learned --augmenter FOLDER``."""
        from cplmix_ray.models.vaegan.frozen import freeze
        from cplmix_ray.version import __version__

        assert isinstance(model, VAEGAN)
        facts = {
            "version": __version__,
            "step": metrics["steps"],
            "seed": config.seed,
            "config": config.model_dump(mode="json"),
        }
        freeze(model.augmenter, data.training.preparation).write(folder, facts)

    def scores(
        self, outputs: Mapping[str, np.ndarray], source: "Source", config: RunConfig
    ) -> tuple[Scores, list[Scores]]:
        return {}, [{"log_likelihood": float(value)} for value in outputs["log_likelihood_u"]]

    def remarks(self, metrics: Mapping[str, Any], outputs: Mapping[str, np.ndarray], config: RunConfig) -> list[str]:
        lines = [
            f"Copies of the {metrics['n_measured']:g} {metrics['measured_on']} cells differ from their cell by "
            f"{metrics['copy_distance']:.3g} of its norm; noise-free copies by {metrics['noise_free_distance']:.3g}."
        ]
        if "type_kept" in metrics:
            lines.append(
                f"{metrics['type_kept']:.1%} of the copies keep their type, according to a classifier that is right "
                f"for {metrics['classifier_accuracy']:.1%} of the cells; {metrics['type_true']:.1%} have the known "
                f"type. "
                f"Of the noise-free copies, {metrics['noise_free_kept']:.1%} keep their type."
            )
        pairs = {"within": "cells of one type", "between": "cells of different types", "any": "any two cells"}
        ratios = [
            f"{metrics[f'diversity_{name}']:.3g} of the distance between {words}"
            for name, words in pairs.items()
            if f"diversity_{name}" in metrics
        ]
        if ratios:
            lines.append(f"Two copies of a cell differ by {metrics['copy_diversity']:.3g}: {', '.join(ratios)}.")
        return lines

    def annotate(
        self, adata: "anndata.AnnData", outputs: Mapping[str, np.ndarray], config: RunConfig, key: str
    ) -> None:
        adata.obsm[f"X_{key}"] = outputs["latent_nd"]


def _own(config: RunConfig) -> VAEGANConfig:
    assert isinstance(config, VAEGANConfig)
    return config


register_family(VAEGANFamily())
