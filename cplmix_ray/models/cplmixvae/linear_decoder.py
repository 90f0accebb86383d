"""A decoder in which every category has a mean and loadings of the state: x = mu_c + W_c s + noise, s ~ N(0, I).

Given its category, a cell is Gaussian with the covariance W_c W_c' + psi I, as in mixtures of probabilistic principal
component analysers (Tipping and Bishop 1999). The posterior of the state has a closed form, so that it needs no encoder
and cannot collapse: with M_c = I + W_c' W_c / psi,

    E[s | x, c] = M_c^-1 W_c' (x - mu_c) / psi.

q(s | x, c) is the best Gaussian with a diagonal covariance: that mean, and the variances 1 / (M_c)_jj. The bound is
tight where the columns of W_c are orthogonal. All of this is for the weight beta = 1 of the KL divergence.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cplmix_ray.distributions.likelihood import Likelihood
from cplmix_ray.nn.gene_layers import SquaredError, append_ones, of_arm
from cplmix_ray.nn.rows import Rows

_SCALE_MEANS, _SCALE_LOADINGS, _SCALE = 100.0, 2.0, 10.0
"""Factors of the means, of the loadings, and of the other parameters. Adam changes every parameter by about the
learning rate at a step: mean expression differs more between categories than the weights of a network do, and has to be
learned before the loadings are, which would explain the difference otherwise."""
_INITIAL = 0.015


class LinearDecoder(nn.Module):
    """Means and loadings of K categories, for each set of weights.

    Args:
        n_sets: sets of weights: the arms held here, or 1 where all arms share one.

    Attributes:
        weight: of [c, c (x) s, 1], (s, g, K + K d + 1).
        centre, log_spread: location and log-scale of the state in each category before it is standardised, (s, K d).
            Which part of the expression belongs to mu_c, and the lengths of W_c and s, are determined by the prior of
            s alone, and would be learned slowly through the weights of the genes.
        log_noise: log of the noise variance psi of a gene, (s, 1).
    """

    def __init__(self, n_sets: int, n_categories: int, state_dim: int, n_genes: int):
        super().__init__()
        self.n_categories, self.state_dim = n_categories, state_dim
        self.weight = nn.Parameter(torch.zeros(n_sets, n_genes, n_categories * (1 + state_dim) + 1))
        self.centre = nn.Parameter(torch.zeros(n_sets, n_categories * state_dim))
        self.log_spread = nn.Parameter(torch.zeros(n_sets, n_categories * state_dim))
        self.log_noise = nn.Parameter(torch.zeros(n_sets, 1))

    def reset_parameters(self, arm_set: int, generator: torch.Generator) -> None:
        """Initialise one set of weights with small Gaussian loadings, means of zero and unit noise."""
        k, n_genes = self.n_categories, self.weight.shape[1]
        with torch.no_grad():
            for parameter in self.parameters():
                parameter[arm_set] = 0.0
            loadings = torch.empty(k * self.state_dim, n_genes).normal_(0.0, _INITIAL, generator=generator)
            self.weight[arm_set, :, k:-1] = loadings.t()

    def forward(self, s_and: Tensor, c_ank: Tensor) -> Tensor:
        """Expected cells, (A, n, g)."""
        weight_sgw, location = self._weights()
        return torch.matmul(self._inputs(s_and, c_ank, location), weight_sgw.mT)

    def loss(self, likelihood: Likelihood, rows: Sequence[Rows], s_and: Tensor, c_ank: Tensor) -> Tensor:
        """-E log p(x|s,c) in nats, the mean over cells, shape (A,)."""
        assert likelihood.squared_error_offset is not None
        weight_sgw, location = self._weights()
        squares_a = SquaredError.apply(self._inputs(s_and, c_ank, location), weight_sgw, rows)
        log_noise_a = _SCALE * self.log_noise[:, 0].expand(len(rows))
        constant_a = 0.5 * log_noise_a + likelihood.squared_error_offset
        return 0.5 * squares_a * torch.exp(-log_noise_a) + rows[0].shape[1] * constant_a

    def posterior(self, rows: Sequence[Rows], c_ank: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(s|c,x), each (A, n, d), averaged over the categories with weights c.

        The bound is at its maximum in q, so that its gradient in the weights is that at fixed q. Centre and spread have
        a gradient here, because the standardised state depends on them.
        """
        found = [self._posterior_of(arm, x, c_nk) for arm, (x, c_nk) in enumerate(zip(rows, c_ank, strict=True))]
        means, variances = zip(*found, strict=True)
        return torch.stack(means), torch.stack(variances).log()

    def means_and_loadings(self, arm: int) -> tuple[Tensor, Tensor]:
        """mu (K, g) and W (K, d, g) of an arm, in the units of the prepared cells."""
        weight_sgw, (centre_sw, spread_sw) = self._weights()
        weight_wg, k = of_arm(weight_sgw, arm).t(), self.n_categories
        w_kdg = (_SCALE_LOADINGS * weight_wg[k:-1]).unflatten(0, (k, self.state_dim))
        centre_kd, spread_kd = (of_arm(each, arm).unflatten(0, w_kdg.shape[:2]) for each in (centre_sw, spread_sw))
        mu_kg = _SCALE_MEANS * weight_wg[:k] + weight_wg[-1] + torch.einsum("kd,kdg->kg", centre_kd, w_kdg)
        return mu_kg, spread_kd.unsqueeze(-1) * w_kdg

    def _posterior_of(self, arm: int, x: Rows, c_nk: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            mu_kg, w_kdg = self.means_and_loadings(arm)
            noise = (_SCALE * of_arm(self.log_noise, arm)).exp()
            eye_dd = torch.zeros(self.state_dim, self.state_dim, device=mu_kg.device).fill_diagonal_(1.0)
            m_kdd = eye_dd + torch.bmm(w_kdg, w_kdg.mT) / noise
            onto_kdg = torch.linalg.solve(m_kdd, w_kdg) / noise
            offset_w = torch.einsum("kdg,kg->kd", onto_kdg, mu_kg).flatten()
            s_nkd = (x.matmul(onto_kdg.flatten(0, 1).t().contiguous()) - offset_w).unflatten(1, m_kdd.shape[:2])
            variance_kd = m_kdd.diagonal(dim1=1, dim2=2).reciprocal()
        c_nk = c_nk.detach()
        centre_kd, spread_kd = (of_arm(each, arm).unflatten(0, m_kdd.shape[:2]) for each in self._weights()[1])
        # With the unstandardised state fixed: factors and terms of 1 and 0 whose gradients are those of (s - centre) /
        # spread, from the KL divergence; in the expected cell they cancel against those of ``_inputs``.
        one_kd, zero_kd = spread_kd.detach() / spread_kd, (centre_kd.detach() - centre_kd) / spread_kd
        mean_nd = torch.einsum("nk,nkd,kd->nd", c_nk, s_nkd, one_kd) + c_nk @ zero_kd
        return mean_nd, c_nk @ (variance_kd * one_kd.square())

    def _weights(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Weights (s, g, w), with centre and spread of the state, each (s, K d).

        Outside training the means contain the centre and the loadings the spread, and the loadings of each category are
        rotated to their principal axes, the longest first and the gene with the largest loading positive. The
        distribution of the cells stays as it is.
        """
        centre_sw, spread_sw = _SCALE * self.centre, torch.exp(_SCALE * self.log_spread)
        if self.training:
            return self.weight, (centre_sw, spread_sw)
        shape = self.n_categories, self.state_dim
        w_skdg = self.weight[..., shape[0] : -1].mT.unflatten(1, shape)
        ratio_skd = _SCALE_LOADINGS / _SCALE_MEANS * centre_sw.unflatten(1, shape)
        mu_skg = self.weight[..., : shape[0]].mT + torch.einsum("skd,skdg->skg", ratio_skd, w_skdg)
        w_skdg = w_skdg * spread_sw.unflatten(1, shape).unsqueeze(-1)
        _, axes_skdd = torch.linalg.eigh(w_skdg @ w_skdg.mT)
        w_skdg = axes_skdd.flip(-1).mT @ w_skdg
        largest_skd1 = w_skdg.gather(-1, w_skdg.abs().argmax(-1, keepdim=True))
        w_skdg = torch.where(largest_skd1 < 0, -w_skdg, w_skdg)
        weight_sgw = torch.cat([mu_skg.mT, w_skdg.flatten(1, 2).mT, self.weight[..., -1:]], dim=-1)
        return weight_sgw, (torch.zeros_like(centre_sw), torch.ones_like(spread_sw))

    def _inputs(self, s_and: Tensor, c_ank: Tensor, location: tuple[Tensor, Tensor]) -> Tensor:
        """[c, c (x) (centre + spread s), 1], (A, n, K + K d + 1)."""
        centre_s1kd, spread_s1kd = (
            each.unflatten(1, (self.n_categories, self.state_dim)).unsqueeze(1) for each in location
        )
        products = c_ank.unsqueeze(-1) * (centre_s1kd + spread_s1kd * s_and.unsqueeze(-2))
        return append_ones(torch.cat([_SCALE_MEANS * c_ank, _SCALE_LOADINGS * products.flatten(-2)], dim=-1))
