"""Disentanglement score of Kim and Mnih (2018), for data whose generating factors are known."""

from collections.abc import Callable

import numpy as np

VOTES, ROWS = 800, 100
"""Votes to fit the classifier and as many to test it, and rows of a vote."""
COLLAPSED = 0.05
"""A dimension whose mean state has a smaller variance counts as collapsed; the variance of the prior is 1.

The published evaluations leave out dimensions by their KL divergence from the prior (at most 0.1 nats) instead.
"""


def disentanglement(
    state_nd: np.ndarray, category_n: np.ndarray, factors_nf: np.ndarray, seed: int
) -> dict[str, float]:
    """Accuracy with which the fixed factor of a vote is predicted from the latent dimension of least variance.

    A vote fixes one factor at one of its values and draws rows that have it. It elects
    d* = argmin_d Var_vote(z_d) / Var_all(z_d). A majority classifier maps each d* to the factor that it was elected for
    most often; the score is its accuracy on other votes, 1 where each factor has dimensions of its own. The category is
    an additional dimension whose variance is that of its one-hot vector, 1 - sum_k p_k^2 (an extension of the published
    score, which is for continuous dimensions). Collapsed dimensions are left out.

    Args:
        state_nd: mean states; category_n: categories; factors_nf: classes of the factors, each of two or more values.
        seed: seed of the rows and factors drawn.

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
        elected_v = np.empty(VOTES, np.int64)
        for vote, factor in enumerate(factor_v):
            same = rows_of[factor][rng.integers(len(rows_of[factor]))]
            elected_v[vote] = variances(same[rng.integers(len(same), size=ROWS)]).argmin()
        return factor_v, elected_v

    factor_v, elected_v = votes()
    table = np.zeros((elected_v.max() + 1, n_factors), np.int64)
    np.add.at(table, (elected_v, factor_v), 1)
    # A dimension that no vote elected is mapped to the factor that was fixed most often.
    most_fixed = np.bincount(factor_v).argmax()
    factor_of = np.where(table.sum(axis=1) > 0, table.argmax(axis=1), most_fixed)
    factor_v, elected_v = votes()
    answers = np.where(elected_v < len(factor_of), factor_of[np.minimum(elected_v, len(factor_of) - 1)], most_fixed)
    return {"disentanglement": float(np.mean(answers == factor_v))}


def _relative_variances(state_nd: np.ndarray, category_n: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """Function from rows to the relative variances of the dimensions that are not collapsed; None if all are."""
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
