"""The disentanglement score of Kim and Mnih (2018), where it is known from which factors the data were made."""

from collections.abc import Callable

import numpy as np

VOTES, ROWS = 800, 100
"""Votes that make the classifier, as many that test it, and rows of a vote."""
COLLAPSED = 0.05
"""A state dimension whose mean varies less than this says nothing of the data; the variance of the prior is 1."""


def disentanglement(
    state_nd: np.ndarray, category_n: np.ndarray, factors_nf: np.ndarray, seed: int
) -> dict[str, float]:
    """Share of votes from which the fixed factor is told: 1 where each factor has dimensions of its own.

    A vote fixes one factor at one of its values, draws rows that have it, and names the latent dimension that varies
    least among them, relative to its variance over all rows. The classifier gives each dimension the factor for which
    it was named most often; the score is how often that is right for other votes. The category is one dimension more:
    its variance is that of the one-hot vector, 1 - sum_k p_k^2. Dimensions that have collapsed take no part.

    Args:
        state_nd: mean states; category_n: categories; factors_nf: classes of the factors, each of two or more values.
        seed: of the rows and factors drawn.

    Returns:
        ``disentanglement``, or nothing where there are no factors.
    """
    if not factors_nf.size:
        return {}
    variances = _relative_variances(state_nd, category_n)
    if variances is None:
        return {"disentanglement": 0.0}
    rng, rows_of = np.random.default_rng([seed, 0xD15E]), [_rows_by_class(column) for column in factors_nf.T]
    n_factors = len(rows_of)

    def votes() -> tuple[np.ndarray, np.ndarray]:
        factor_v = rng.integers(n_factors, size=VOTES)
        named_v = np.empty(VOTES, np.int64)
        for vote, factor in enumerate(factor_v):
            same = rows_of[factor][rng.integers(len(rows_of[factor]))]
            named_v[vote] = variances(same[rng.integers(len(same), size=ROWS)]).argmin()
        return factor_v, named_v

    factor_v, named_v = votes()
    table = np.zeros((named_v.max() + 1, n_factors), np.int64)
    np.add.at(table, (named_v, factor_v), 1)
    # A dimension never named before is given the factor most often fixed.
    usual = np.bincount(factor_v).argmax()
    told = np.where(table.sum(axis=1) > 0, table.argmax(axis=1), usual)
    factor_v, named_v = votes()
    answers = np.where(named_v < len(told), told[np.minimum(named_v, len(told) - 1)], usual)
    return {"disentanglement": float(np.mean(answers == factor_v))}


def _relative_variances(state_nd: np.ndarray, category_n: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """Variances of the live dimensions among given rows, each relative to that over all rows; None if none is live."""
    whole_d = state_nd.var(axis=0)
    live = np.flatnonzero(whole_d > COLLAPSED)
    whole = _gini(category_n)
    if not len(live) and whole == 0.0:
        return None
    scaled_nd = state_nd[:, live] / np.sqrt(whole_d[live])

    def variances(idx_n: np.ndarray) -> np.ndarray:
        of_state = scaled_nd[idx_n].var(axis=0)
        return of_state if whole == 0.0 else np.append(of_state, _gini(category_n[idx_n]) / whole)

    return variances


def _gini(category_n: np.ndarray) -> float:
    """Variance of the one-hot vector, summed over categories."""
    share_k = np.bincount(category_n) / max(1, len(category_n))
    return float(1.0 - np.square(share_k).sum())


def _rows_by_class(class_n: np.ndarray) -> list[np.ndarray]:
    """Rows of each class that occurs."""
    order = np.argsort(class_n, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(class_n[order])) + 1)
