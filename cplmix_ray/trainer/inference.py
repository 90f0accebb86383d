"""Posteriors of given cells, with no sampling."""

from collections.abc import Iterator

import numpy as np
import torch

from cplmix_ray.arm import PackedArms
from cplmix_ray.minibatch import Rows
from cplmix_ray.simplex import centre
from cplmix_ray.trainer.reading import Reader

BATCH = 2048


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


@torch.no_grad()
def consensus_states(network: PackedArms, rows: Reader, idx_n: np.ndarray) -> np.ndarray:
    """Each arm's mean state given the consensus posterior, shape (A, n, d) float32."""
    blocks = [np.zeros((network.n_arms, 0, network.model.state_dim), np.float32)]
    for cells in _batches(network, rows, idx_n):
        encoded = network.encode(cells)
        c_ank = centre(encoded.log_q_ank).expand(network.n_arms, -1, -1)
        blocks.append(network.state(encoded.z_anb, c_ank)[0].cpu().numpy())
    return np.concatenate(blocks, axis=1)


def _batches(network: PackedArms, rows: Reader, idx_n: np.ndarray) -> Iterator[list[Rows]]:
    network.eval()
    for start in range(0, len(idx_n), BATCH):
        part = idx_n[start : start + BATCH]
        yield [rows(torch.as_tensor(part))] * network.n_arms
