"""A decoder in which every category has a mean and loadings of the state: x = mu_c + W_c s + noise, s ~ N(0, I).

With covariates v (batch, condition), whose mean over cells is 0, mu_c + (B + B_c) v takes the place of mu_c: effects B
that all categories share, and effects B_c of a category. The latter are fitted by ridge regression (:meth:`fit`) and do
not change in training, which would fit those of few cells to their noise.

Given its category, a cell is Gaussian with the covariance W_c W_c' + psi I, as in mixtures of probabilistic principal
component analysers (Tipping and Bishop 1999). The posterior of the state has a closed form, so that it needs no encoder
and cannot collapse: with M_c = beta I + W_c' W_c / psi, where beta is the weight of the KL divergence,

    E[s | x, c] = M_c^-1 W_c' (x - mu_c) / psi.

q(s | x, c) is the Gaussian with a diagonal covariance that maximises E log p(x|s,c) - beta KL(q || p): that mean, and
the variances beta / (M_c)_jj. For beta = 1 the bound is tight where the columns of W_c are orthogonal.

Outside training, the state is measured from the same point in every category, so that it continues where two
categories divide a type; see :meth:`LinearDecoder._weights`.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from cplmix_ray.distributions.likelihood import Likelihood
from cplmix_ray.nn.gene_layers import SquaredError, append_ones, of_arm
from cplmix_ray.nn.rows import Rows

_SCALE_MEANS, _SCALE_EFFECTS, _SCALE_LOADINGS, _SCALE = 100.0, 10.0, 2.0, 10.0
"""Factors of the means, of the effects of covariates, of the loadings, and of the other parameters. Adam changes every
parameter by about the learning rate at a step: mean expression differs more between categories than the weights of a
network do, and has to be learned before the loadings are, which would explain the difference otherwise."""
_INITIAL = 0.015
"""Standard deviation of the initial loadings, before they are multiplied by _SCALE_LOADINGS."""
_SMALLEST_BETA = 1e-4
"""Lower bound of beta in the posterior, whose variances are zero for beta = 0."""
_SMALLEST_NOISE = 1e-3
"""Share of the variance of all cells below which a fitted noise variance is an artefact: categories of few cells, cells
that occur several times, or not more genes than axes. Training then starts from the variance of all cells."""


_COMMON_SHRINKAGE, _OWN_SHRINKAGE = 1.0, 50.0
"""Cells with whose weight fitted effects of covariates are shrunk: those of all categories to 0, and what a category
adds to these."""


class LinearDecoder(nn.Module):
    """Means and loadings of K categories, for each set of weights.

    Args:
        n_sets: sets of weights: the arms held here, or 1 where all arms share one.
        beta: weight of the KL divergence of the state.
        n_covariates: number v of columns of the covariates.

    Attributes:
        weight: of [c, c (x) s, v, 1], (s, g, K + K d + v + 1).
        own_effects: of c (x) v, (s, g, K v); zeros before :meth:`fit`.
        centre, log_spread: location and log-scale of the state in each category before it is standardised, (s, K d).
            Which part of the expression belongs to mu_c, and the lengths of W_c and s, are determined by the prior of
            s alone, and would be learned slowly through the weights of the genes.
        log_noise: log of the noise variance psi of a gene, (s, 1).
    """

    own_effects: Tensor

    def __init__(
        self,
        n_sets: int,
        n_categories: int,
        state_dim: int,
        n_genes: int,
        beta: float = 1.0,
        n_covariates: int = 0,
    ):
        super().__init__()
        self.n_categories, self.state_dim, self.beta = n_categories, state_dim, max(beta, _SMALLEST_BETA)
        self.n_covariates = n_covariates
        widths = n_categories, n_categories * state_dim, n_covariates
        ends = list(accumulate(widths))
        self._means, self._loadings, self._common = (
            slice(end - width, end) for width, end in zip(widths, ends, strict=True)
        )
        self.weight = nn.Parameter(torch.zeros(n_sets, n_genes, ends[-1] + 1))
        if n_covariates:
            self.register_buffer("own_effects", torch.zeros(n_sets, n_genes, n_categories * n_covariates))
        self.centre = nn.Parameter(torch.zeros(n_sets, n_categories * state_dim))
        self.log_spread = nn.Parameter(torch.zeros(n_sets, n_categories * state_dim))
        self.log_noise = nn.Parameter(torch.zeros(n_sets, 1))

    def reset_parameters(self, arm_set: int, generator: torch.Generator) -> None:
        """Initialise one set of weights with small Gaussian loadings, means of zero and unit noise."""
        n_genes = self.weight.shape[1]
        with torch.no_grad():
            for parameter in self.parameters():
                parameter[arm_set] = 0.0
            loadings = torch.empty(self.n_categories * self.state_dim, n_genes)
            self.weight[arm_set, :, self._loadings] = loadings.normal_(0.0, _INITIAL, generator=generator).t()

    @torch.no_grad()
    def fit(self, arm_set: int, cells: Iterable[tuple[int, Tensor, Tensor]]) -> None:
        """Maximum likelihood given the categories: means, principal components and noise (Tipping and Bishop 1999).

        Effects of covariates are found first, by ridge regression.

        Args:
            cells: categories with their cells (m, g) and the covariates of these (m, v); it is iterated over twice. A
                category without cells has the mean of the others, and one with d cells or fewer keeps its loadings. If
                none of the cells differ, all parameters stay as they are.
        """
        k, n_genes = self.n_categories, self.weight.shape[1]
        mean_kg, axes_kdg = self.weight.new_zeros(k, n_genes), self.weight.new_zeros(k, self.state_dim, n_genes)
        cells_k, variance_kd = self.weight.new_zeros(k), self.weight.new_zeros(k, self.state_dim)
        rest, within = self.weight.new_zeros(()), self.weight.new_zeros(())
        common_vg, own_kvg = self._fitted_effects(cells)
        for category, x_ng, v_nv in cells:
            x_ng = x_ng - v_nv @ (common_vg + own_kvg[category])
            cells_k[category], mean_kg[category] = len(x_ng), x_ng.mean(0)
            found = _principal_components(x_ng - mean_kg[category], self.state_dim)
            variance_kd[category], axes_kdg[category] = found
            scatter = (x_ng - mean_kg[category]).square().sum()
            within += scatter
            rest += scatter - len(x_ng) * variance_kd[category].sum()
        grand_g = cells_k @ mean_kg / cells_k.sum().clamp_min(1.0)
        total = within + cells_k @ (mean_kg - grand_g).square().sum(1)
        if not total > 0:
            return
        noise = rest / (cells_k.sum() * max(n_genes - self.state_dim, 1))
        variance = total / (cells_k.sum() * n_genes)
        noise = torch.where(noise > _SMALLEST_NOISE * variance, noise, variance)
        fitted_k = cells_k > self.state_dim
        lengths_kd = (variance_kd - noise).clamp_min(0.01 * noise).sqrt()
        weight_gw = self.weight[arm_set]
        weight_gw[:, -1] = grand_g
        weight_gw[:, self._means] = torch.where(cells_k > 0, (mean_kg - grand_g).t() / _SCALE_MEANS, 0.0)
        weight_gw[:, self._common] = common_vg.t() / _SCALE_EFFECTS
        if self.n_covariates:
            self.own_effects[arm_set] = own_kvg.flatten(0, 1).t() / _SCALE_EFFECTS
        loadings_kdg = lengths_kd.unsqueeze(-1) * axes_kdg / _SCALE_LOADINGS
        fitted_w = fitted_k.repeat_interleave(self.state_dim)
        weight_gw[:, self._loadings][:, fitted_w] = loadings_kdg[fitted_k].flatten(0, 1).t()
        self.centre[arm_set], self.log_spread[arm_set] = 0.0, 0.0
        self.log_noise[arm_set] = noise.log() / _SCALE

    def _fitted_effects(self, cells: Iterable[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Effects of the covariates on the genes that all categories share (v, g), and what those of each category add
        (K, v, g), from the differences between cells of one category."""
        n_v, n_genes = self.n_covariates, self.weight.shape[1]
        square_kvv = self.weight.new_zeros(self.n_categories, n_v, n_v)
        product_kvg = self.weight.new_zeros(self.n_categories, n_v, n_genes)
        if not n_v:
            return product_kvg[0], product_kvg
        for category, x_ng, v_nv in cells:
            v_nv = v_nv - v_nv.mean(0)
            square_kvv[category], product_kvg[category] = v_nv.t() @ v_nv, v_nv.t() @ (x_ng - x_ng.mean(0))
        one_vv = torch.zeros_like(square_kvv[0]).fill_diagonal_(1.0)
        common_vg = torch.linalg.solve(square_kvv.sum(0) + _COMMON_SHRINKAGE * one_vv, product_kvg.sum(0))
        rest_kvg = product_kvg - square_kvv @ common_vg
        return common_vg, torch.linalg.solve(square_kvv + _OWN_SHRINKAGE * one_vv, rest_kvg)

    def forward(self, s_and: Tensor, c_ank: Tensor, v_anv: Tensor | None = None) -> Tensor:
        """Expected cells, (A, n, g).

        Args:
            v_anv: columns of the covariates, (A, n, v); None if there are none.
        """
        weight_sgw, location, _ = self._weights()
        return torch.matmul(self._inputs(s_and, c_ank, location, v_anv), weight_sgw.mT)

    def loss(
        self,
        likelihood: Likelihood,
        rows: Sequence[Rows],
        s_and: Tensor,
        c_ank: Tensor,
        v_anv: Tensor | None = None,
    ) -> Tensor:
        """-E log p(x|s,c) in nats, the mean over cells, shape (A,)."""
        assert likelihood.squared_error_offset is not None
        weight_sgw, location, _ = self._weights()
        squares_a = SquaredError.apply(self._inputs(s_and, c_ank, location, v_anv), weight_sgw, rows)
        log_noise_a = _SCALE * self.log_noise[:, 0].expand(len(rows))
        constant_a = 0.5 * log_noise_a + likelihood.squared_error_offset
        return 0.5 * squares_a * torch.exp(-log_noise_a) + rows[0].shape[1] * constant_a

    def posterior(self, rows: Sequence[Rows], c_ank: Tensor, v_anv: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(s|c,x), each (A, n, d), averaged over the categories with weights c.

        The bound is at its maximum in q, so that its gradient in the weights is that at fixed q. Centre and spread have
        a gradient here, because the standardised state depends on them.
        """
        found = [
            self._posterior_of(arm, x, c_nk, None if v_anv is None else v_anv[arm])
            for arm, (x, c_nk) in enumerate(zip(rows, c_ank, strict=True))
        ]
        means, variances = zip(*found, strict=True)
        return torch.stack(means), torch.stack(variances).log()

    def means_and_loadings(self, arm: int) -> tuple[Tensor, Tensor]:
        """Expected cells (K, g) at s = 0 and loadings W (K, d, g) of an arm, in the units of the prepared cells."""
        weight_sgw, (centre_sw, spread_sw), _ = self._weights()
        weight_wg = of_arm(weight_sgw, arm).t()
        w_kdg = (_SCALE_LOADINGS * weight_wg[self._loadings]).unflatten(0, (self.n_categories, self.state_dim))
        centre_kd, spread_kd = (of_arm(each, arm).unflatten(0, w_kdg.shape[:2]) for each in (centre_sw, spread_sw))
        mu_kg = (
            _SCALE_MEANS * weight_wg[self._means]
            + weight_wg[self._common.stop]
            + torch.einsum("kd,kdg->kg", centre_kd, w_kdg)
        )
        return mu_kg, spread_kd.unsqueeze(-1) * w_kdg

    def effects(self, arm: int) -> Tensor:
        """Effects B + B_c of the covariates on the genes in each category, (K, v, g), for an arm."""
        weight_wg = of_arm(self.weight, arm).t()
        own_kvg = of_arm(self.own_effects, arm).t().unflatten(0, (self.n_categories, self.n_covariates))
        return _SCALE_EFFECTS * (weight_wg[self._common] + own_kvg)

    def _posterior_of(self, arm: int, x: Rows, c_nk: Tensor, v_nv: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            mu_kg, w_kdg = self.means_and_loadings(arm)
            noise = (_SCALE * of_arm(self.log_noise, arm)).exp()
            prior_kd = of_arm(self._weights()[2], arm).unflatten(0, w_kdg.shape[:2])
            beta_dd = torch.zeros(self.state_dim, self.state_dim, device=mu_kg.device).fill_diagonal_(self.beta)
            m_kdd = beta_dd + torch.bmm(w_kdg, w_kdg.mT) / noise
            onto_kdg = torch.linalg.solve(m_kdd, w_kdg) / noise
            prior_kd = self.beta * torch.linalg.solve(m_kdd, prior_kd.unsqueeze(-1)).squeeze(-1)
            offset_w = (torch.einsum("kdg,kg->kd", onto_kdg, mu_kg) - prior_kd).flatten()
            s_nkd = (x.matmul(onto_kdg.flatten(0, 1).t().contiguous()) - offset_w).unflatten(1, m_kdd.shape[:2])
            if v_nv is not None:
                s_nkd = s_nkd - torch.einsum("kdg,kvg,nv->nkd", onto_kdg, self.effects(arm), v_nv)
            variance_kd = self.beta / m_kdd.diagonal(dim1=1, dim2=2)
        c_nk = c_nk.detach()
        centre_kd, spread_kd = (of_arm(each, arm).unflatten(0, m_kdd.shape[:2]) for each in self._weights()[1])
        # With the unstandardised state fixed: factors and terms of 1 and 0 whose gradients are those of (s - centre) /
        # spread, from the KL divergence; in the expected cell they cancel against those of ``_inputs``.
        one_kd, zero_kd = spread_kd.detach() / spread_kd, (centre_kd.detach() - centre_kd) / spread_kd
        mean_nd = torch.einsum("nk,nkd,kd->nd", c_nk, s_nkd, one_kd) + c_nk @ zero_kd
        return mean_nd, c_nk @ (variance_kd * one_kd.square())

    def _weights(self) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Weights of the decoder (s, g, w), location and scale of the state, and the mean of its prior, each (s, K d).

        Outside training the means contain the centre and the loadings the spread, and the loadings of each category are
        rotated to their principal axes, the longest first. Signs of an axis agree between categories with similar
        loadings. The state 0 is the projection of the same point in every category, the mean of all mu_c, so that
        the prior is N(m_c, I). The distribution of the cells stays as it is.
        """
        centre_sw, spread_sw = _SCALE * self.centre, torch.exp(_SCALE * self.log_spread)
        if self.training:
            return self._with_own_effects([self.weight]), (centre_sw, spread_sw), torch.zeros_like(centre_sw)
        shape = self.n_categories, self.state_dim
        w_skdg = self.weight[..., self._loadings].mT.unflatten(1, shape)
        mu_skg = _SCALE_MEANS * self.weight[..., self._means].mT
        mu_skg = mu_skg + _SCALE_LOADINGS * torch.einsum("skd,skdg->skg", centre_sw.unflatten(1, shape), w_skdg)
        w_skdg = _SCALE_LOADINGS * w_skdg * spread_sw.unflatten(1, shape).unsqueeze(-1)
        _, axes_skdd = torch.linalg.eigh(w_skdg @ w_skdg.mT)
        w_skdg = axes_skdd.flip(-1).mT @ w_skdg
        w_skdg = w_skdg * _signs(w_skdg).unsqueeze(-1)
        from_mean_skg = mu_skg - mu_skg.mean(1, keepdim=True)
        noise_s11 = (_SCALE * self.log_noise).exp().unsqueeze(-1)
        prior_skd = torch.einsum("skdg,skg->skd", w_skdg, from_mean_skg)
        prior_skd = prior_skd / (self.beta * noise_s11 + w_skdg.square().sum(-1))
        mu_skg = mu_skg - torch.einsum("skd,skdg->skg", prior_skd, w_skdg)
        parts = [mu_skg.mT / _SCALE_MEANS, w_skdg.flatten(1, 2).mT / _SCALE_LOADINGS]
        parts.append(self.weight[..., self._loadings.stop :])
        location = torch.zeros_like(centre_sw), torch.ones_like(spread_sw)
        return self._with_own_effects(parts), location, prior_skd.flatten(1)

    def _with_own_effects(self, parts: list[Tensor]) -> Tensor:
        parts = [*parts, self.own_effects] if self.n_covariates else parts
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _inputs(self, s_and: Tensor, c_ank: Tensor, location: tuple[Tensor, Tensor], v_anv: Tensor | None) -> Tensor:
        """[c, c (x) (centre + spread s), v, 1, c (x) v], (A, n, K + K d + v + 1 + K v)."""
        centre_s1kd, spread_s1kd = (
            each.unflatten(1, (self.n_categories, self.state_dim)).unsqueeze(1) for each in location
        )
        products = c_ank.unsqueeze(-1) * (centre_s1kd + spread_s1kd * s_and.unsqueeze(-2))
        parts = [_SCALE_MEANS * c_ank, _SCALE_LOADINGS * products.flatten(-2)]
        if v_anv is None:
            return append_ones(torch.cat(parts, dim=-1))
        by_category = (c_ank.unsqueeze(-1) * v_anv.unsqueeze(-2)).flatten(-2)
        shared_anw = append_ones(torch.cat([*parts, _SCALE_EFFECTS * v_anv], dim=-1))
        return torch.cat([shared_anw, _SCALE_EFFECTS * by_category], dim=-1)


def _principal_components(x_ng: Tensor, n_components: int) -> tuple[Tensor, Tensor]:
    """PCA of centred cells: variances (d,) and axes (d, g), zeros where there are fewer than d components."""
    n, n_genes = x_ng.shape
    gram = x_ng @ x_ng.t() if n < n_genes else x_ng.t() @ x_ng
    squares_j, vectors_ij = (each.flip(-1)[..., :n_components] for each in torch.linalg.eigh(gram))
    axes_jg = (x_ng.t() @ vectors_ij).t() if n < n_genes else vectors_ij.t()
    missing = n_components - len(squares_j)
    largest_j1 = axes_jg.gather(-1, axes_jg.abs().argmax(-1, keepdim=True))
    axes_jg = torch.where(largest_j1 < 0, -axes_jg, axes_jg)  # the sign of eigenvectors depends on the machine
    variance_d = nn.functional.pad(squares_j.clamp_min(0.0) / n, (0, missing))
    return variance_d, nn.functional.pad(nn.functional.normalize(axes_jg, dim=-1), (0, 0, 0, missing))


def _signs(w_skdg: Tensor) -> Tensor:
    """Signs (s, K, d) with which the loadings of an axis agree between categories as far as they are similar.

    They are those of the leading eigenvector of the cosines between categories, normalised so that a category counts as
    much if few others are similar. The gene with the largest sum of loadings over categories is positive.
    """
    unit_sdkg = nn.functional.normalize(w_skdg, dim=-1).transpose(1, 2)
    cosine_sdkk = unit_sdkg @ unit_sdkg.mT
    cosine_sdkk = cosine_sdkk - torch.diag_embed(cosine_sdkk.diagonal(dim1=-2, dim2=-1))
    root_sdk = cosine_sdkk.abs().sum(-1).clamp_min(1e-12).sqrt()
    leading_sdk = torch.linalg.eigh(cosine_sdkk / (root_sdk.unsqueeze(-1) * root_sdk.unsqueeze(-2)))[1][..., -1]
    sign_sdk = torch.where(leading_sdk < 0, -1.0, 1.0)
    common_sdg = (sign_sdk.unsqueeze(-1) * unit_sdkg).sum(-2)
    largest_sd1 = common_sdg.gather(-1, common_sdg.abs().argmax(-1, keepdim=True))
    return (sign_sdk * torch.where(largest_sd1 < 0, -1.0, 1.0)).transpose(1, 2)
