"""Shares of the molecules or genes of every cell, from each of which the cells are clustered alone."""

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.matrix.block import Block

_HALF = 0.5


def halves_of_cells(log_ng: Block, counts_ng: Block | None, n_shares: int, seed: int) -> Iterator[Block]:
    """Split the molecules of each cell at random into halves, and yield the log-expression of each half.

    Shares 2 i and 2 i + 1 divide the molecules between them. Given the expression of the cell they are independent if
    counts are Poisson distributed: every molecule is in either share with probability 1/2.

    Args:
        log_ng: log-expression log1p(f_n x), dense or CSR.
        counts_ng: the counts x; None if there are none: then a share consists of one half of the genes.
        n_shares: number of shares; if it is odd, the other half of the last pair is left out.
    """
    rng, n_genes = np.random.default_rng([seed, 0x5AE5]), log_ng.shape[1]
    factor_n1 = None if counts_ng is None else _factors(log_ng, counts_ng) / _HALF
    for _ in range(0, n_shares, 2):
        if counts_ng is None:
            genes = rng.permutation(n_genes)
            pair = [log_ng[:, np.sort(genes[at::2])] for at in (0, 1)]
        else:
            first_ng = _thinned(counts_ng, rng)
            pair = [_logged(share_ng, factor_n1) for share_ng in (first_ng, counts_ng - first_ng)]
        yield from pair[:n_shares]
        n_shares -= 2


def _factors(log_ng: Block, counts_ng: Block) -> np.ndarray:
    """f_n, by which counts were multiplied before log1p, (n, 1); it includes the genes that are not used."""
    linear_n, counts_n = (np.asarray(each.sum(axis=1), np.float64).ravel() for each in (np.expm1(log_ng), counts_ng))
    return (linear_n / np.maximum(counts_n, 1e-12))[:, None].astype(np.float32)


def _thinned(counts_ng: Block, rng: np.random.Generator) -> Block:
    if sp.issparse(counts_ng):
        return sp.csr_matrix(
            (_binomial(counts_ng.data, rng), counts_ng.indices, counts_ng.indptr), shape=counts_ng.shape
        )
    return _binomial(counts_ng, rng)


def _binomial(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.binomial(np.rint(counts).astype(np.int64), _HALF).astype(np.float32)


def _logged(counts_ng: Block, factor_n1: np.ndarray | None) -> Block:
    assert factor_n1 is not None
    if sp.issparse(counts_ng):
        scaled = sp.csr_matrix(counts_ng.multiply(factor_n1))
        return scaled.log1p().astype(np.float32)
    return np.log1p(counts_ng * factor_n1).astype(np.float32)
