"""Sentences for the user on categories without cells or with few of them."""

import numpy as np

from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig

_MOST_NAMES = 8


def size_remarks(category_n: np.ndarray, config: CplMixVAEConfig) -> list[str]:
    """A warning on categories that are empty or have fewer than ``min_cells_per_category`` cells."""
    n_categories, least = config.model.n_k, config.model.min_cells_per_category
    cells_k = np.bincount(category_n, minlength=n_categories)
    n_populated, n_large = int((cells_k > 0).sum()), int((cells_k >= max(1, least)).sum())
    if n_populated <= n_categories / 2:
        remedies = _remedies_for_empty_categories(config)
        return [f"Only {n_populated} of {n_categories} categories contain cells; try {remedies}."]
    if n_large == n_categories:
        return []
    parts = []
    if n_populated < n_categories:
        parts.append(f"contain no cells: {_listed([str(k) for k in np.flatnonzero(cells_k == 0)])}")
    if n_large < n_populated:
        small = [f"{k} ({cells_k[k]})" for k in np.flatnonzero((cells_k > 0) & (cells_k < least))]
        parts.append(f"have fewer than {least} cells (--min-cells-per-category): {_listed(small)}")
    return [
        f"Some categories {', and some '.join(parts)}; unless you expect types that are so rare, try --n-categories "
        f"{max(1, n_large)} or remove them with cplmix prune, and see in stability.csv of several --seeds which "
        f"categories come back."
    ]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _remedies_for_empty_categories(config: CplMixVAEConfig) -> str:
    """Settings with which arms use more categories. The plain softmax has no tau; with the coupling 'agreement' lambda
    does not matter, since a single category satisfies it."""
    if config.objective.coupling == "agreement":
        return f"a --marginal above {config.objective.marginal:g}, or more steps"
    tau = f"a --tau below {config.model.temperature:g}, " if config.model.posterior == "tempered" else ""
    return f"{tau}a smaller --lam, or more steps"
