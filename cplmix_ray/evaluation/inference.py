"""Posteriors of given cells, with no sampling."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cplmix_ray.couplings.simplex import centre
from cplmix_ray.data.device_transfer import Reader
from cplmix_ray.models.cplmixvae.network import PackedArms
from cplmix_ray.nn.rows import Rows

BATCH = 2048
"""Cells that are asked about at once."""


@torch.no_grad()
def posteriors(network: PackedArms, rows: Reader, idx_n: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Each arm's log-posterior of the cells as they are, without copies.

    Returns:
        log q(c|x), shape (A, n, K) float32, and each arm's reconstruction loss in nats a cell, at the mean state and
        the arm's own posterior.
    """
    blocks, loss_a = [], torch.zeros(network.n_arms)
    for cells in _batches(network, rows, idx_n):
        encoded = network.encode(cells)
        q_ank = encoded.log_q_ank.exp()
        mu_and, _ = network.state(encoded.z_anb, q_ank)
        loss_a += network.reconstruction(cells, mu_and, q_ank).cpu() * q_ank.shape[1]
        blocks.append(encoded.log_q_ank.cpu().numpy())
    if not blocks:
        return np.zeros((network.n_arms, 0, network.model.n_categories), np.float32), [float("nan")] * network.n_arms
    return np.concatenate(blocks, axis=1), (loss_a / len(idx_n)).tolist()


@dataclass(frozen=True)
class Answers:
    """What all arms say of n cells.

    Attributes:
        log_q_ank: each arm's log-posterior, float32.
        probs_nk: consensus posterior, the Aitchison mean of the arms' posteriors, float32.
        state_nd: mean state of arm 0 given the consensus posterior, float32.
        reconstruction: each arm's loss in nats a cell, as ``posteriors`` gives it; NaN where it is not wanted.
    """

    log_q_ank: np.ndarray
    probs_nk: np.ndarray
    state_nd: np.ndarray
    reconstruction: list[float]


@torch.no_grad()
def answers(network: PackedArms, blocks: Iterable[Rows], n: int, reconstruct: bool = True) -> Answers:
    """Ask arms that are all in this network, in one pass: every cell is read and encoded once.

    Args:
        blocks: all cells, in order; one is held at a time.
        n: how many cells they are.
        reconstruct: whether the reconstruction loss is wanted, which takes half of the time.
    """
    network.eval()
    n_arms, k, d = network.n_arms, network.model.n_categories, network.model.state_dim
    log_q_ank, loss_a = np.empty((n_arms, n, k), np.float32), torch.zeros(n_arms)
    probs_nk, state_nd, at = np.empty((n, k), np.float32), np.empty((n, d), np.float32), 0
    for block in blocks:
        cells, to = [block] * n_arms, slice(at, at + block.shape[0])
        encoded = network.encode(cells)
        if reconstruct:
            q_ank = encoded.log_q_ank.exp()
            mu_and, _ = network.state(encoded.z_anb, q_ank)
            loss_a += network.reconstruction(cells, mu_and, q_ank).cpu() * block.shape[0]
        consensus_nk = centre(encoded.log_q_ank)
        mu_and, _ = network.state(encoded.z_anb, consensus_nk.expand(n_arms, -1, -1))
        log_q_ank[:, to], probs_nk[to] = encoded.log_q_ank.cpu().numpy(), consensus_nk.cpu().numpy()
        state_nd[to] = mu_and[0].cpu().numpy()
        at = to.stop
    return Answers(log_q_ank, probs_nk, state_nd, (loss_a / (n if reconstruct else 0)).tolist())


def _batches(network: PackedArms, rows: Reader, idx_n: np.ndarray) -> Iterator[list[Rows]]:
    network.eval()
    for start in range(0, len(idx_n), BATCH):
        part = idx_n[start : start + BATCH]
        yield [rows(torch.as_tensor(part))] * network.n_arms
