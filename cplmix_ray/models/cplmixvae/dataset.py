"""Data sets of coupled mixture VAEs: preparation, augmentations, neighbors, initial clustering."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.neighbors.index import NeighborIndex
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.training_set import MAIN, Modality, TrainingSet
from cplmix_ray.distributions.likelihood import DEFAULTS, LIKELIHOODS
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig, ModelSettings
from cplmix_ray.models.vaegan.frozen import FrozenAugmenter, read_augmenter
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.registry import AUGMENTATIONS

if TYPE_CHECKING:  # workers need no reader of files
    from cplmix_ray.data.dataset import Dataset
    from cplmix_ray.data.neighbors.graph import Clusterer
    from cplmix_ray.data.source import Source


@dataclass(frozen=True)
class ArmTables:
    """Tables that are computed from the cells before training.

    Attributes:
        neighbors: (n, m) rows of training cells near each training cell; None if augmentations need none.
        guess: (n, m) initial categories of every training cell, -1 for other cells; None without initial clustering.
            The first is that of the whole cell; others, if any, are those of each arm's share of it.
        neighbor_index: finds neighbors among the cells in memory, for cells on disk.
        augmenter: makes learned augmentations; part of the tables because workers do not read its files.
        n_categories: K of the initial clustering, if there is one.
    """

    neighbors: np.ndarray | None = None
    guess: np.ndarray | None = None
    neighbor_index: NeighborIndex | None = None
    augmenter: FrozenAugmenter | None = None
    n_categories: int | None = None


def build_arm_dataset(source: "Source", config: CplMixVAEConfig, root: str | Path = "") -> "Dataset":
    """Check, prepare and split the cells, find neighbors, and read the augmenter.

    Args:
        root: folder to which a relative --augmenter refers, if it is not the current folder.

    Raises:
        InputError: the values do not fit the likelihood or an augmentation.
    """
    from cplmix_ray.data.covariates import batches_of, design_matrix, encode_covariates, fit_covariates
    from cplmix_ray.data.dataset import Dataset
    from cplmix_ray.data.neighbors.graph import find_neighbors
    from cplmix_ray.data.preprocessing.fit import fit_preparation
    from cplmix_ray.data.preprocessing.preparation import check_finite
    from cplmix_ray.data.splits import split_source
    from cplmix_ray.models.vaegan.frozen import build_augmenter

    check_finite(source.matrix, source)
    if config.model.encoder_view == "content" and source.image_shape is None:
        raise InputError(
            "--encoder-view content is for images, whose content has a position and a size; use --encoder-view whole "
            "for cells."
        )
    train_idx, val_idx = split_source(source, config.input.val_fraction, config.seed)
    fitted = fit_preparation(source, config.input, config.model.likelihood)
    _require_decoder_for(resolved_likelihood(config, fitted.preparation), config, source.name)
    kinds, augmenter = augmentations_for(config, fitted.preparation, fitted.matrix), None
    if "learned" in kinds:
        augmenter = read_augmenter(Path(root) / str(config.copies.augmenter))
        augmenter.require_fit(fitted.preparation, source.name)
        build_augmenter(augmenter)  # workers do so too; here, weights that do not fit are found before they start
    given = config.input
    if given.labels_key is not None and given.labels_key in (given.batch_key, *given.covariates):
        raise InputError(
            f"The column '{given.labels_key}' is given with --labels-key and as a covariate, and known types must not "
            f"enter the model; leave out one of the two."
        )
    covariates, found = fit_covariates(source.adata.obs, given.batch_key, given.covariates, train_idx, source.name)
    values, unknown = encode_covariates(source.adata.obs, covariates, source.name)
    fitted = replace(fitted, preparation=replace(fitted.preparation, covariates=covariates))
    neighbors = find_neighbors(
        fitted,
        source,
        train_idx,
        seed=config.seed,
        n_neighbors=config.copies.n_neighbours if any(AUGMENTATIONS[kind].needs_neighbors for kind in kinds) else None,
        n_components=config.copies.neighbour_pcs,
        cluster=_initial_clustering(config),
        in_clustering=config.copies.neighbour_space != "components",
        design_nv=design_matrix(covariates, values, slice(None)) if covariates else None,
        batch_n=values[covariates[0].name] if covariates and covariates[0].name == given.batch_key else None,
    )
    tables = ArmTables(neighbors.neighbours, neighbors.guess, neighbors.places, augmenter, neighbors.n_categories)
    main = Modality(fitted.matrix, fitted.preparation)
    training = TrainingSet({MAIN: main}, train_idx, val_idx, tables, covariates=values)
    notes = (*source.notes, *fitted.notes, *found, *unknown, *_disk_notes(training), *_found_categories(config, tables))
    batch_n = batches_of(source.adata.obs, given.batch_key)
    return Dataset(training, source.labels_n, source.name, notes, source.truth_nm, source.factors, batch_n)


def _initial_clustering(config: CplMixVAEConfig) -> "Clusterer | None":
    """The initial clustering of the settings; None if nothing uses one."""
    from cplmix_ray.data.neighbors.initial_clustering import cluster_by_ensemble, cluster_by_mixtures

    if config.clustered_by is None:
        return None
    if config.clustered_by == "ensemble":
        return partial(cluster_by_ensemble, n_categories=config.model.n_k, seed=config.seed)
    return partial(
        cluster_by_mixtures,
        n_categories=None if config.model.n_categories == "auto" else config.model.n_categories,
        n_arms=config.model.n_arms,
        start=config.alignment.mixture_start,
        seed=config.seed,
    )


def _found_categories(config: CplMixVAEConfig, tables: ArmTables) -> tuple[str, ...]:
    if config.model.n_categories != "auto":
        return ()
    what = "type" if tables.n_categories == 1 else "types"
    return (f"--n-categories auto: tests tell {tables.n_categories} {what} apart in these cells.",)


def resolved_likelihood(config: CplMixVAEConfig, preparation: Preparation) -> str:
    """The likelihood, with 'auto' replaced by the default for the kind of data."""
    return DEFAULTS[preparation.kind] if config.model.likelihood == "auto" else config.model.likelihood


def resolved_model(config: CplMixVAEConfig, preparation: Preparation) -> ModelSettings:
    """The settings of the arms, with every 'auto' replaced by what it means for the data."""
    likelihood = resolved_likelihood(config, preparation)
    decoder, reconstruct = config.model.decoder, config.model.reconstruct
    if decoder == "auto":
        fits = preparation.kind != "images" and LIKELIHOODS[likelihood].squared_error_offset is not None
        decoder = "linear" if fits else "network"
    if reconstruct == "auto":
        reconstruct = "cell" if decoder == "linear" else "copy"
    settled = {"likelihood": likelihood, "decoder": decoder, "reconstruct": reconstruct}
    return config.model.model_copy(update=settled)


def _require_decoder_for(likelihood: str, config: CplMixVAEConfig, name: str) -> None:
    if config.model.decoder == "linear" and LIKELIHOODS[likelihood].squared_error_offset is None:
        raise InputError(
            f"--decoder linear requires the likelihood gaussian, and that of {name} is {likelihood}; add --likelihood "
            f"gaussian, for which cells are log-expression, or leave out --decoder linear."
        )


def augmentations_for(config: CplMixVAEConfig, preparation: Preparation, matrix: Matrix) -> tuple[str, ...]:
    """Names of the augmentations, with 'auto' resolved for this kind of data.

    Neighbors are not available for images that are generated on demand, all of which would have to be compared. For
    cells on disk they are found among the cells that are in memory together.

    Raises:
        InputError: an augmentation does not fit the data.
    """
    names, kind = config.copies.copies, preparation.kind
    if names == ("none",):
        return ()
    fitting = {name: AUGMENTATIONS[name] for name in AUGMENTATIONS.names() if kind in AUGMENTATIONS[name].kinds}
    usable = [name for name, entry in fitting.items() if not (matrix.on_demand and entry.needs_neighbors)]
    if names == ("auto",):
        return tuple(name for name in usable if kind in fitting[name].default_for)
    for name in names:
        if name not in fitting:
            what = {"images": "images", "counts": "raw counts", "log": "log-expression"}[kind]
            raise InputError(
                f"--copies {name} does not fit {what}; choose one or more of {', '.join(fitting)}, or none."
            )
        if name not in usable:
            raise InputError(
                f"--copies {name} requires all images in memory, and these are generated on demand; choose one or more "
                f"of {', '.join(usable)}, or none."
            )
    return names


def _disk_notes(training: TrainingSet) -> tuple[str, ...]:
    """Notes on differences in results for cells on disk."""
    matrix = training.matrix
    if not matrix.on_disk or matrix.note is None:
        return ()
    if training.tables.neighbor_index is None or len(training.train_idx) <= matrix.buffer_cells:
        return (matrix.note,)
    return (
        matrix.note,
        f"Neighbours of a cell are found among the {matrix.buffer_cells:,} cells that are in memory with it.",
    )
