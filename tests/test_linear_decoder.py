"""The linear decoder: its posterior in closed form, what it learns, and where its loadings are found."""

import anndata as ad
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from cplmix_ray.api import CplMixVAE
from cplmix_ray.cli.train_command import train
from cplmix_ray.config.files import load_config
from cplmix_ray.distributions.gaussian import Gaussian
from cplmix_ray.models.cplmixvae.linear_decoder import LinearDecoder
from cplmix_ray.models.cplmixvae.objective import state_kl
from cplmix_ray.nn.adam import Adam
from cplmix_ray.nn.dense_rows import DenseRows
from cplmix_ray.utils.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::cplmix_ray.CplMixWarning")

K, D, G = 3, 2, 12


def no_covariates(x_ng: torch.Tensor) -> torch.Tensor:
    return x_ng.new_zeros(len(x_ng), 0)


def decoder_of(seed: int = 0, n_sets: int = 1, genes: int = G) -> LinearDecoder:
    """A decoder whose parameters are all away from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    decoder = LinearDecoder(n_sets, K, D, genes)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter.normal_(0.0, 0.2 if name == "weight" else 0.03, generator=generator)
    return decoder


def one_hot(c_n: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(c_n, K).float().unsqueeze(0)


def cells(n: int = 40, genes: int = G) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(n, genes, generator=generator), torch.randint(K, (n,), generator=generator)


@pytest.mark.parametrize("training", [True, False])
def test_posterior_is_the_conditional_of_the_joint_gaussian(training):
    """s | x from the covariance of (s, x), by solving with the g x g covariance of x. Outside training the loadings are
    orthogonal, so that the variances are those of the exact posterior, and the mean is measured from the mean of all
    categories instead of that of its own; in training the variances are those of the best diagonal Gaussian, one over
    the diagonal of the posterior precision."""
    decoder, (x_ng, c_n) = decoder_of().train(training), cells()
    mean_1nd, log_var_1nd = decoder.posterior([DenseRows(x_ng)], one_hot(c_n))
    mean_kg = decoder.train().means_and_loadings(0)[0].detach().double()
    w_kdg = decoder.train(training).means_and_loadings(0)[1].detach().double()
    noise = torch.exp(10.0 * decoder.log_noise[0]).double()
    for n, c in enumerate(c_n):
        w_dg = w_kdg[c]
        covariance_gg = w_dg.T @ w_dg + noise * torch.eye(G, dtype=torch.double)
        gain_dg = w_dg @ torch.linalg.inv(covariance_gg)
        exact_dd = torch.eye(D, dtype=torch.double) - gain_dg @ w_dg.T
        variance_d = exact_dd.inverse().diagonal().reciprocal() if training else exact_dd.diagonal()
        expected_d = gain_dg @ (x_ng[n].double() - (mean_kg[c] if training else mean_kg.mean(0)))
        torch.testing.assert_close(mean_1nd[0, n].double(), expected_d, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(log_var_1nd[0, n].exp().double(), variance_d, rtol=1e-3, atol=1e-5)


def test_the_rotation_outside_training_changes_no_expected_cell_and_orders_orthogonal_axes():
    decoder, (x_ng, c_n) = decoder_of(), cells()
    expected = []
    for training in (True, False):
        decoder.train(training)
        mean_1nd, _ = decoder.posterior([DenseRows(x_ng)], one_hot(c_n))
        expected.append(decoder(mean_1nd, one_hot(c_n)))
    torch.testing.assert_close(*expected, rtol=1e-3, atol=1e-3)
    w_kdg = decoder.means_and_loadings(0)[1].detach()
    gram_kdd = w_kdg @ w_kdg.mT
    lengths_kd = gram_kdd.diagonal(dim1=1, dim2=2)
    assert (lengths_kd[:, 0] > lengths_kd[:, 1]).all()
    assert (gram_kdd[:, 0, 1].abs() < 1e-4 * lengths_kd[:, 0]).all()


def test_signs_agree_between_categories_with_similar_loadings():
    """Two groups of categories with loadings of their own, each with noise and a random sign."""
    generator = torch.Generator().manual_seed(3)
    decoder, groups = LinearDecoder(1, 8, 1, 50), torch.arange(8) % 2
    common_pg = torch.randn(2, 50, generator=generator)
    signs_k1 = torch.randint(2, (8, 1), generator=generator) * 2.0 - 1.0
    loadings_kg = signs_k1 * (common_pg[groups] + 0.5 * torch.randn(8, 50, generator=generator))
    with torch.no_grad():
        decoder.weight[0, :, 8:-1] = loadings_kg.t()
    found_kg = decoder.eval().means_and_loadings(0)[1][:, 0].detach()
    cosine_kk = torch.nn.functional.cosine_similarity(found_kg[:, None], found_kg[None], dim=-1)
    assert (cosine_kk[groups[:, None] == groups] > 0.5).all()
    summed_g = torch.nn.functional.normalize(found_kg, dim=-1).sum(0)
    assert summed_g[summed_g.abs().argmax()] > 0


def test_the_state_continues_where_two_categories_divide_a_type():
    """Cells along one line, of which the lower half has another category than the upper, and opposite loadings."""
    decoder, line_g = LinearDecoder(1, 2, 1, G), torch.ones(G) / G**0.5
    s_n = torch.linspace(-3, 3, 61)
    x_ng, c_n = 5.0 + 2.0 * s_n[:, None] * line_g, (s_n > 0).long()
    noisy_ng = x_ng + 0.1 * torch.randn(len(x_ng), G)
    decoder.fit(0, [(k, noisy_ng[c_n == k], no_covariates(noisy_ng[c_n == k])) for k in range(2)])
    with torch.no_grad():
        decoder.weight[0, :, 2] *= -1
        decoder.eval()
        c_1nk = torch.nn.functional.one_hot(c_n, 2).float().unsqueeze(0)
        found_1nd, _ = decoder.posterior([DenseRows(x_ng)], c_1nk)
        expected_1ng = decoder(found_1nd, c_1nk)
    assert np.corrcoef(found_1nd[0, :, 0], s_n)[0, 1] ** 2 > 0.95
    torch.testing.assert_close(expected_1ng[0], x_ng, atol=0.2, rtol=0.0)


@pytest.mark.parametrize("beta", [0.2, 1.0, 4.0])
def test_posterior_maximises_the_bound_for_any_weight_of_the_divergence(beta):
    """The gradient of beta KL - E log p in mean and variance is zero, E log p in closed form."""
    decoder, (x_ng, c_n) = decoder_of(), cells()
    decoder.beta = beta
    c_1nk, rows = one_hot(c_n), [DenseRows(x_ng)]
    mean, log_var = (each.detach().requires_grad_() for each in decoder.posterior(rows, c_1nk))
    w_kdg = decoder.means_and_loadings(0)[1].detach()
    noise = torch.exp(10.0 * decoder.log_noise[0]).detach()
    spread_n = (log_var[0].exp() * w_kdg[c_n].square().sum(-1)).sum(-1) / (2 * noise)
    bound = decoder.loss(Gaussian(), rows, mean, c_1nk)[0] + spread_n.mean() + beta * state_kl(mean, log_var).mean()
    for gradient, terms in zip(
        torch.autograd.grad(bound, [mean, log_var]), (w_kdg.abs().sum() / noise, beta), strict=True
    ):
        assert gradient.abs().max() < 1e-4 * max(float(terms), 1.0)


def test_without_weight_of_the_divergence_the_posterior_is_finite():
    decoder, (x_ng, c_n) = LinearDecoder(1, K, D, G, beta=0.0), cells()
    mean, log_var = decoder.posterior([DenseRows(x_ng)], one_hot(c_n))
    assert mean.isfinite().all()
    assert log_var.isfinite().all()


def test_fit_is_the_maximum_likelihood_given_the_categories():
    """The gradient of the exact log-likelihood in all parameters is zero; a category has no cells, another one cell."""
    generator = torch.Generator().manual_seed(5)
    decoder = LinearDecoder(1, 4, D, G)
    decoder.reset_parameters(0, generator)
    scale_g = torch.linspace(3.0, 0.5, G)
    groups = [(k, k + scale_g.roll(3 * k) * torch.randn(n, G, generator=generator)) for k, n in ((0, 60), (2, 60))]
    decoder.fit(0, [(k, x, no_covariates(x)) for k, x in groups])
    x_ng, c_n = torch.cat([x for _, x in groups]), torch.tensor([0] * 60 + [2] * 60)
    mu_kg, w_kdg = decoder.means_and_loadings(0)
    noise = torch.exp(10.0 * decoder.log_noise[0])
    covariance_kgg = w_kdg.mT @ w_kdg + noise * torch.eye(G)
    loss = -torch.distributions.MultivariateNormal(mu_kg[c_n], covariance_kgg[c_n]).log_prob(x_ng).mean()
    for gradient in torch.autograd.grad(loss, [decoder.centre, decoder.log_spread, decoder.log_noise]):
        assert gradient.abs().max() < 2e-3
    assert (mu_kg[1] - x_ng.mean(0)).abs().max() < 1e-4
    decoder.fit(0, [(k, x, no_covariates(x)) for k, x in [*groups, (3, x_ng[:1])]])
    assert all(parameter.isfinite().all() for parameter in decoder.parameters())


@pytest.mark.parametrize("genes", [1, D, G])
def test_fit_to_cells_that_leave_no_noise(genes):
    """As many axes as genes, or duplicates of one cell in each category: the means are fitted all the same, and the
    noise is not the rounding error of the residuals, but the variance of the cells."""
    x_ng, c_n = cells(60, genes)
    if genes == G:
        x_ng = x_ng[:K][c_n]
    decoder = LinearDecoder(1, K, D, genes)
    decoder.fit(0, [(k, x_ng[c_n == k], no_covariates(x_ng[c_n == k])) for k in range(K)])
    mean_kg = torch.stack([x_ng[c_n == k].mean(0) for k in range(K)])
    torch.testing.assert_close(decoder.means_and_loadings(0)[0].detach(), mean_kg, rtol=1e-4, atol=1e-4)
    noise = float(torch.exp(10.0 * decoder.log_noise.detach()))
    assert noise == pytest.approx(float(x_ng.var(0, correction=0).mean()), rel=1e-3)


def test_the_bound_has_the_gradient_of_the_exact_likelihood():
    """With one state dimension a diagonal Gaussian is the exact posterior, so that bound and log p(x|c) are equal, and
    so are their gradients; the expectation over the posterior is taken by Gauss-Hermite quadrature."""
    torch.manual_seed(0)
    decoder = LinearDecoder(1, K, 1, G)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter.normal_(0.0, 0.2 if name == "weight" else 0.03)
    x_ng, c_n = cells()
    c_1nk, rows = one_hot(c_n), [DenseRows(x_ng)]
    mean_1nd, log_var_1nd = decoder.posterior(rows, c_1nk)
    points, weights = np.polynomial.hermite_e.hermegauss(5)
    losses = [
        weight * decoder.loss(Gaussian(), rows, mean_1nd + (0.5 * log_var_1nd).exp() * point, c_1nk)[0]
        for point, weight in zip(points, weights / weights.sum(), strict=True)
    ]
    bound = sum(losses) + state_kl(mean_1nd, log_var_1nd).mean()
    own = torch.autograd.grad(bound, list(decoder.parameters()))
    mu_kg, w_kdg = decoder.means_and_loadings(0)
    noise = torch.exp(10.0 * decoder.log_noise[0])
    covariance_kgg = w_kdg.mT @ w_kdg + noise * torch.eye(G)
    exact = -torch.distributions.MultivariateNormal(mu_kg[c_n], covariance_kgg[c_n]).log_prob(x_ng).mean()
    torch.testing.assert_close(bound, exact, rtol=1e-4, atol=1e-3)
    expected = torch.autograd.grad(exact, list(decoder.parameters()))
    for (name, _), one, other in zip(decoder.named_parameters(), own, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3 * float(other.abs().max()), msg=name)


def test_it_learns_the_principal_components_of_every_category():
    """Mean, subspace and noise of data that were drawn from such a model, against PCA of each category."""
    rng, genes, n = np.random.default_rng(0), 40, 600
    c_n = rng.integers(0, K, n)
    mean_kg, w_kdg = rng.normal(0, 2, (K, genes)), rng.normal(0, 1, (K, D, genes)) * np.array([[[1.2], [0.6]]])
    s_nd = rng.normal(size=(n, D))
    x_ng = mean_kg[c_n] + np.einsum("nd,ndg->ng", s_nd, w_kdg[c_n]) + rng.normal(0, 0.7, (n, genes))
    decoder = LinearDecoder(1, K, D, genes)
    decoder.reset_parameters(0, torch.Generator().manual_seed(0))
    optimiser = Adam(decoder.parameters(), 0.003)
    x, c_1nk, steps = torch.as_tensor(x_ng, dtype=torch.float32), one_hot(torch.as_tensor(c_n)), 600
    for step in range(steps):
        at = torch.as_tensor(rng.integers(0, n, 256))
        rows, c = [DenseRows(x[at])], c_1nk[:, at]
        mean, log_var = decoder.posterior(rows, c)
        s = mean + (0.5 * log_var).exp() * torch.as_tensor(rng.normal(size=mean.shape), dtype=torch.float32)
        loss = (decoder.loss(Gaussian(), rows, s, c) + state_kl(mean, log_var).mean(-1)).sum()
        optimiser.param_groups[0]["lr"] = 0.003 * 0.5 * (1 + np.cos(np.pi * step / steps))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    decoder.eval()
    found_1nd, _ = decoder.posterior([DenseRows(x)], c_1nk)
    loadings_kdg = decoder.means_and_loadings(0)[1].detach().numpy()
    mu_kg = decoder.train().means_and_loadings(0)[0].detach().numpy()
    for k in range(K):
        own = x_ng[c_n == k]
        pca = PCA(D).fit(own)
        angles = np.linalg.svd(np.linalg.qr(loadings_kdg[k].T)[0].T @ pca.components_.T)[1]
        assert angles.min() > 0.97, (k, angles)
        assert np.abs(mu_kg[k] - own.mean(axis=0)).max() < 0.35
        states = found_1nd[0, c_n == k].detach().numpy()
        assert np.abs(states.std(axis=0) - 1.0).max() < 0.3
        assert abs(np.corrcoef(states[:, 0], pca.transform(own)[:, 0])[0, 1]) > 0.97
    assert float(torch.exp(10.0 * decoder.log_noise.detach())) == pytest.approx(0.49, rel=0.1)


def test_packed_arms_equal_single_ones():
    both, (x_ng, c_n) = decoder_of(n_sets=2), cells()
    rows, c_ank = [DenseRows(x_ng), DenseRows(x_ng + 1)], one_hot(c_n).expand(2, -1, -1)
    mean, log_var = both.posterior(rows, c_ank)
    losses = both.loss(Gaussian(), rows, mean, c_ank)
    for arm in range(2):
        single = LinearDecoder(1, K, D, G)
        single.load_state_dict({name: tensor[arm : arm + 1] for name, tensor in both.state_dict().items()})
        mean_1, log_var_1 = single.posterior([rows[arm]], c_ank[:1])
        torch.testing.assert_close(mean_1[0], mean[arm])
        torch.testing.assert_close(log_var_1[0], log_var[arm])
        torch.testing.assert_close(single.loss(Gaussian(), [rows[arm]], mean_1, c_ank[:1])[0], losses[arm])


@pytest.fixture(scope="module")
def counts() -> ad.AnnData:
    """Poisson counts of three types; in each, eight genes follow a state."""
    rng = np.random.default_rng(0)
    n, genes = 240, 60
    c_n, s_n = rng.integers(0, 3, n), rng.normal(size=n)
    rate_ng = rng.gamma(5.0, 5.0, (3, genes))[c_n]
    for k in range(3):
        rate_ng[c_n == k, 8 * k : 8 * k + 8] = 25.0 * np.exp(0.7 * s_n[c_n == k, None])
    adata = ad.AnnData(rng.poisson(rate_ng).astype(np.float32))
    adata.var_names = [f"gene{g}" for g in range(genes)]
    adata.obs_names = [f"cell{n}" for n in range(n)]
    adata.obs["cell_type"] = c_n.astype(str)
    adata.obs["truth"] = s_n
    return adata


def test_loadings_name_the_genes_of_the_state(counts):
    adata = counts.copy()
    CplMixVAE.setup_anndata(adata, labels_key="cell_type")
    settings = {"decoder": "linear", "reconstruct": "cell", "state_dim": 1, "engine": "local", "neighbour_pcs": 10}
    model = CplMixVAE(adata, n_categories=3, **settings)
    assert model.train(max_steps=800, align_steps=150, progress=False)["acc"] > 0.85
    table, state_n = model.get_loadings(), model.get_latent_representation()[:, 0]
    assert list(table.index) == list(adata.var_names)
    for category, cells_of in adata.obs.groupby(model.get_assignments(), observed=True):
        kind = int(cells_of["cell_type"].mode()[0])
        strongest = set(table[f"{category}:0"].abs().nlargest(8).index)
        assert len(strongest & {f"gene{g}" for g in range(8 * kind, 8 * kind + 8)}) >= 7
        at = adata.obs_names.get_indexer(cells_of.index)
        assert abs(np.corrcoef(state_n[at], cells_of["truth"])[0, 1]) > 0.75


def test_loadings_are_in_the_result_and_missing_genes_are_nan(counts, tmp_path, capsys):
    counts.write_h5ad(tmp_path / "cells.h5ad")
    words = ["--data", str(tmp_path / "cells.h5ad"), "--n-categories", "3", "--max-steps", "20"]
    words += ["--decoder", "linear", "--hvg", "40", "--engine", "local", "--out", str(tmp_path / "out")]
    train(words)
    capsys.readouterr()
    table = ad.read_h5ad(tmp_path / "out" / "result.h5ad").varm["cplmix_loadings"]
    assert list(table.columns) == [f"{k}:{d}" for k in range(3) for d in range(2)]
    assert list(table.index) == list(counts.var_names)
    assert table.notna().all(axis=1).sum() == 40
    assert table.isna().all(axis=1).sum() == 20


def test_other_likelihoods_are_refused_with_the_remedy(counts, tmp_path):
    counts.write_h5ad(tmp_path / "cells.h5ad")
    words = ["--data", str(tmp_path / "cells.h5ad"), "--decoder", "linear", "--likelihood", "nb"]
    with pytest.raises(InputError, match=r"--decoder linear .* nb; add --likelihood gaussian"):
        train([*words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("likelihood", "settled"), [("auto", ("linear", "cell")), ("nb", ("network", "copy"))])
def test_preset_cells_chooses_the_decoder_by_the_likelihood(likelihood, settled, counts, tmp_path, capsys):
    counts.write_h5ad(tmp_path / "cells.h5ad")
    words = ["--preset", "cells", "--data", str(tmp_path / "cells.h5ad"), "--n-categories", "3", "--max-steps", "12"]
    train([*words, "--likelihood", likelihood, "--engine", "local", "--beta", "0.5", "--out", str(tmp_path / "out")])
    capsys.readouterr()
    model = load_config(tmp_path / "out" / "config.yaml").model
    assert (model.decoder, model.reconstruct) == settled


def test_a_model_without_loadings_says_so(counts):
    adata = counts.copy()
    model = CplMixVAE(adata, n_categories=3, engine="local", neighbour_pcs=10, decoder="network")
    model.train(max_steps=5, progress=False)
    with pytest.raises(InputError, match=r"no loadings.*decoder='linear'"):
        model.get_loadings()
