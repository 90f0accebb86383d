"""A decoder in which every category has a mean and loadings of the state: x = mu_c + W_c s + noise.

Given its category, a cell is Gaussian with the covariance W_c W_c' + psi I: probabilistic principal components of each
category (Tipping and Bishop 1999; mixtures of them: Tipping and Bishop 1999b). The posterior of the state has a closed
form, so that it needs no encoder and cannot collapse: with M_c = I + W_c' W_c / psi,

    E[s | x, c] = M_c^-1 W_c' (x - mu_c) / psi.

The state posterior is the best Gaussian with a diagonal covariance: that mean, and the variances 1 / (M_c)_jj. The bound
is tight where the columns of W_c are orthogonal.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cplmix_ray.distributions.likelihood import Likelihood
from cplmix_ray.nn.gene_layers import SquaredError, append_ones, of_arm
from cplmix_ray.nn.rows import Rows

_SCALE = 10.0
"""Factor of the weights. Adam changes every weight by about the learning rate at a step; mean expression differs by more
between categories than the weights of a network."""
_INITIAL = 0.003


class LinearDecoder(nn.Module):
    """Means and loadings of K categories, for each set of weights.

    Args:
        n_sets: sets of weights: the arms held here, or 1 where all arms share one.

    Attributes:
        weight: of [c, c (x) s, 1], (s, g, K + K d + 1).
        log_noise: log of the noise variance psi of a gene, divided by the factor of the weights, (s, 1).
    """

    def __init__(self, n_sets: int, n_categories: int, state_dim: int, n_genes: int):
        super().__init__()
        self.n_categories, self.state_dim = n_categories, state_dim
        self.weight = nn.Parameter(torch.zeros(n_sets, n_genes, n_categories * (1 + state_dim) + 1))
        self.log_noise = nn.Parameter(torch.zeros(n_sets, 1))

    def reset_parameters(self, arm_set: int, generator: torch.Generator) -> None:
        """Initialise one set of weights with small Gaussian loadings, means of zero and unit noise."""
        with torch.no_grad():
            weight_gw = self.weight[arm_set].zero_()
            n_genes, k = len(weight_gw), self.n_categories
            loadings = torch.empty(k * self.state_dim, n_genes).normal_(0.0, _INITIAL, generator=generator)
            weight_gw[:, k:-1] = loadings.t()
            self.log_noise[arm_set] = 0.0

    def forward(self, s_and: Tensor, c_ank: Tensor) -> Tensor:
        """Expected cells, (A, n, g)."""
        return torch.matmul(append_ones(self._inputs(s_and, c_ank)), self._weight().mT)

    def loss(self, likelihood: Likelihood, rows: Sequence[Rows], s_and: Tensor, c_ank: Tensor) -> Tensor:
        """-E log p(x|s,c) in nats, the mean over cells, shape (A,)."""
        assert likelihood.squared_error_offset is not None
        squares_a = SquaredError.apply(append_ones(self._inputs(s_and, c_ank)), self._weight(), rows)
        log_noise_a = _SCALE * self.log_noise[:, 0].expand(len(rows))
        constant_a = 0.5 * log_noise_a + likelihood.squared_error_offset
        return 0.5 * squares_a * torch.exp(-log_noise_a) + rows[0].shape[1] * constant_a

    @torch.no_grad()
    def posterior(self, rows: Sequence[Rows], c_ank: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(s|c,x), each (A, n, d), averaged over the categories with weights c.

        It has no gradient: the bound is at its maximum in q, so its gradient in the weights is that of the expected
        log-likelihood alone.
        """
        found = [self._posterior_of(arm, x, c_nk) for arm, (x, c_nk) in enumerate(zip(rows, c_ank, strict=True))]
        means, log_vars = zip(*found, strict=True)
        return torch.stack(means), torch.stack(log_vars)

    def means_and_loadings(self, arm: int) -> tuple[Tensor, Tensor]:
        """mu (K, g) and W (K, d, g) of an arm, in the units of the prepared cells."""
        weight_wg, k = of_arm(self._weight(), arm).t(), self.n_categories
        mu_kg = _SCALE * weight_wg[:k] + weight_wg[-1]
        return mu_kg, _SCALE * weight_wg[k:-1].reshape(k, self.state_dim, -1)

    def _weight(self) -> Tensor:
        """The weights; outside training with the loadings of each category rotated to their principal axes, the largest
        first and the gene with the largest loading positive, which leaves the distribution of the cells as it is."""
        if self.training:
            return self.weight
        k = self.n_categories
        w_skdg = self.weight[..., k:-1].mT.unflatten(1, (k, self.state_dim))
        _, axes_skdd = torch.linalg.eigh(w_skdg @ w_skdg.mT)
        w_skdg = axes_skdd.flip(-1).mT @ w_skdg
        largest_skd1 = w_skdg.gather(-1, w_skdg.abs().argmax(-1, keepdim=True))
        w_skdg = torch.where(largest_skd1 < 0, -w_skdg, w_skdg)
        return torch.cat([self.weight[..., :k], w_skdg.flatten(1, 2).mT, self.weight[..., -1:]], dim=-1)

    def _posterior_of(self, arm: int, x: Rows, c_nk: Tensor) -> tuple[Tensor, Tensor]:
        mu_kg, w_kdg = self.means_and_loadings(arm)
        noise = (_SCALE * of_arm(self.log_noise, arm)).exp()
        eye_dd = torch.zeros(self.state_dim, self.state_dim, device=mu_kg.device).fill_diagonal_(1.0)
        m_kdd = eye_dd + torch.bmm(w_kdg, w_kdg.mT) / noise
        onto_kdg = torch.linalg.solve(m_kdd, w_kdg) / noise
        offset_kd = torch.einsum("kdg,kg->kd", onto_kdg, mu_kg)
        s_nkd = x.matmul(onto_kdg.flatten(0, 1).t()).unflatten(1, (self.n_categories, -1)) - offset_kd
        mean_nd = torch.einsum("nk,nkd->nd", c_nk, s_nkd)
        variance_nd = c_nk @ m_kdd.diagonal(dim1=1, dim2=2).reciprocal()
        return mean_nd, variance_nd.log()

    def _inputs(self, s_and: Tensor, c_ank: Tensor) -> Tensor:
        products = (c_ank.unsqueeze(-1) * s_and.unsqueeze(-2)).flatten(-2)
        return _SCALE * torch.cat([c_ank, products], dim=-1)
