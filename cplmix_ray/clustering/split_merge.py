"""Split and merge moves (SMEM, Ueda et al. 2000), by which a mixture leaves a local optimum of its likelihood.

Expectation maximisation moves components gradually: it never takes a component that divides one type and gives it to
two types that share another. A move merges two components and splits a third, so that K stays; it is kept if the
likelihood is higher after expectation maximisation. Where the first components come from hardly matters then.
"""

import numpy as np

from cplmix_ray.clustering.student_mixture import Mixture, fit_mixture, moments, scale_matrices

_TRIES = 10
"""Moves that are tried, the most promising first, until none is kept."""
_REPEATED = 2
"""Tries with the same split, and with the same merge."""
_SHORT, _NEAR = 15, 0.02
"""Iterations after which a move is given up if its mean log-likelihood is lower than before by more nats than _NEAR."""
_GAIN = 1e-3
"""Increase of the mean log-likelihood, in nats, above which a move is kept."""
_FEWEST = 10
"""Smallest number of cells of a component that may be split; each half has half as many or more."""


@np.errstate(invalid="ignore")  # see fit_mixture
def split_and_merge(points_np: np.ndarray, mixture: Mixture, shrinkage: float) -> Mixture:
    """Merge two components and split another as long as that increases the likelihood.

    Args:
        points_np: the points that it was fitted to.
        shrinkage: as in :func:`fit_mixture`.
    """
    improved: Mixture | None = mixture
    while improved is not None:
        mixture = improved
        improved = _improved(points_np, mixture, shrinkage)
    return mixture


def _improved(points_np: np.ndarray, mixture: Mixture, shrinkage: float) -> Mixture | None:
    halves = _halves(points_np, mixture.q_nk)
    for first, second, split in _promising(points_np, mixture.q_nk, halves, shrinkage):
        start_nk = _moved(mixture.q_nk, first, second, split, *halves[split])
        found = fit_mixture(points_np, start_nk, shrinkage, _SHORT)
        if found.log_likelihood > mixture.log_likelihood - _NEAR:
            found = fit_mixture(points_np, found.q_nk, shrinkage)
        if found.log_likelihood > mixture.log_likelihood + _GAIN:
            return found
    return None


def _moved(
    q_nk: np.ndarray, first: int, second: int, split: int, cells_m: np.ndarray, upper_m: np.ndarray
) -> np.ndarray:
    """Posterior after a move: ``first`` takes the cells of ``second``, and that takes the upper half of ``split``."""
    start_nk = q_nk.copy()
    start_nk[:, first] += start_nk[:, second]
    start_nk[:, second] = 0.0
    upper = cells_m[upper_m]
    start_nk[upper, second] = start_nk[upper, split]
    start_nk[upper, split] = 0.0
    return 0.98 * start_nk + 0.02 / start_nk.shape[1]


def _halves(points_np: np.ndarray, q_nk: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """For each component that may be split: its cells, and which of them are in the upper half, by 2-means from the
    halves of the leading axis, in the units of the common covariance."""
    _, scatter_1pp = moments(points_np, q_nk, pooled=True)
    white_np = (
        points_np @ np.linalg.inv(np.linalg.cholesky(scale_matrices(scatter_1pp, q_nk.sum(0), len(q_nk), np.inf))[0]).T
    )
    found, category_n = {}, q_nk.argmax(axis=1)
    for k in range(q_nk.shape[1]):
        cells_m = np.flatnonzero(category_n == k)
        if len(cells_m) < _FEWEST:
            continue
        own_mp = white_np[cells_m] - white_np[cells_m].mean(axis=0)
        _, axes_pp = np.linalg.eigh(own_mp.T @ own_mp)
        upper_m = own_mp @ axes_pp[:, -1] > 0
        for _ in range(10):
            if not _FEWEST / 2 <= upper_m.sum() <= len(upper_m) - _FEWEST / 2:
                break
            d2_m, other_m = (((own_mp - own_mp[half].mean(axis=0)) ** 2).sum(axis=1) for half in (upper_m, ~upper_m))
            upper_m = d2_m < other_m
        if _FEWEST / 2 <= upper_m.sum() <= len(upper_m) - _FEWEST / 2:
            found[k] = cells_m, upper_m
    return found


def _promising(
    points_np: np.ndarray, q_nk: np.ndarray, halves: dict[int, tuple[np.ndarray, np.ndarray]], shrinkage: float
) -> list[tuple[int, int, int]]:
    """Moves (first, second, split) in descending order of the likelihood that they promise for fixed assignments."""
    n, n_k = q_nk.shape
    cells_k = q_nk.sum(axis=0) + 1e-6
    mean_kp, scatter_kpp = moments(points_np, q_nk)
    common_1pp = scale_matrices(scatter_kpp, cells_k, n, np.inf)

    def value(cells_m: np.ndarray, scatter_mpp: np.ndarray) -> np.ndarray:
        """Log-likelihood of components as Gaussians with given cells and scatter, up to a constant."""
        scale_mpp = common_1pp
        if np.isfinite(shrinkage):
            scale_mpp = (scatter_mpp + shrinkage * common_1pp) / (cells_m + shrinkage)[:, None, None]
        trace_m = (np.linalg.inv(scale_mpp) * scatter_mpp).sum(axis=(1, 2))
        return cells_m * np.log(cells_m / n) - 0.5 * (cells_m * np.linalg.slogdet(scale_mpp)[1] + trace_m)

    value_k = value(cells_k, scatter_kpp)
    first_m, second_m = np.triu_indices(n_k, k=1)
    both_m, apart_mp = cells_k[first_m] + cells_k[second_m], mean_kp[first_m] - mean_kp[second_m]
    loss_m = np.empty(len(both_m))
    for row in range(n_k - 1):  # all pairs at once would take K^2 p^2 numbers
        at = np.flatnonzero(first_m == row)
        between = (cells_k[row] * cells_k[second_m[at]] / both_m[at])[:, None, None]
        scatter_mpp = scatter_kpp[row] + scatter_kpp[second_m[at]]
        scatter_mpp = scatter_mpp + between * apart_mp[at][:, :, None] * apart_mp[at][:, None, :]
        loss_m[at] = value_k[row] + value_k[second_m[at]] - value(both_m[at], scatter_mpp)
    gain_k = {}
    for k, (cells_m, upper_m) in halves.items():
        parts_m2 = np.stack([upper_m, ~upper_m], axis=1).astype(points_np.dtype)
        whole, parts = (
            value(weight_mj.sum(axis=0), moments(points_np[cells_m], weight_mj)[1]).sum()
            for weight_mj in (np.ones_like(parts_m2[:, :1]), parts_m2)
        )
        gain_k[k] = parts - whole
    likely = np.argsort(loss_m, kind="stable")[: 2 * n_k]
    moves = [
        (gain - loss_m[m], int(first_m[m]), int(second_m[m]), k)
        for m in likely
        for k, gain in gain_k.items()
        if k not in (first_m[m], second_m[m])
    ]
    return _varied([(first, second, split) for _, first, second, split in sorted(moves, reverse=True)])


def _varied(moves: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The first _TRIES moves, leaving out those whose merge or split was chosen _REPEATED times."""
    chosen: list[tuple[int, int, int]] = []
    for move in moves:
        merges = sum(move[:2] == other[:2] for other in chosen)
        splits = sum(move[2] == other[2] for other in chosen)
        if merges < _REPEATED and splits < _REPEATED:
            chosen.append(move)
        if len(chosen) == _TRIES:
            break
    return chosen
