"""Rows of a minibatch, dense, sparse or in shares: the same products; masks by their law; the gene-wide layers."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
import torch
from torch import Tensor

from cplmix_ray.data.device_transfer import row_reader
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.distributions.likelihood import LIKELIHOODS
from cplmix_ray.nn import dense_rows as dense_module
from cplmix_ray.nn.dense_rows import DenseRows, GatheredRows
from cplmix_ray.nn.dropout_masks import dropout_mask
from cplmix_ray.nn.gene_layers import OutputLayer, RowsProduct, append_ones
from cplmix_ray.nn.packed_layers import ArmProduct, PackedBatchNorm
from cplmix_ray.nn.rows import Rows, StackedRows
from cplmix_ray.nn.sparse_rows import SparseRows

CPU = torch.device("cpu")
N, G = 7, 40
UNLIKELY = 1e-4


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(density: float = 0.3, dtype: type = np.float64, seed: int = 0) -> sp.csr_matrix:
    """A cell without any value and a gene without any are in it."""
    found = sp.random(N, G, density, format="lil", dtype=dtype, random_state=np.random.default_rng(seed))
    found[2], found[:, 5] = 0, 0
    return found.tocsr()


def each_kind(csr: sp.csr_matrix) -> dict[str, Rows]:
    values = torch.from_numpy(csr.toarray())
    return {
        "dense": DenseRows(values),
        "sparse": SparseRows.from_csr(csr),
        "gathered": GatheredRows(np.vstack([csr.toarray(), np.ones((2, G))])[::-1].copy(), np.arange(N + 1, 1, -1)),
        "dense shares": StackedRows([DenseRows(values[:3]), DenseRows(values[3:])]),
        "sparse shares": StackedRows([SparseRows.from_csr(csr[:4]), SparseRows.from_csr(csr[4:])]),
    }


KINDS = list(each_kind(matrix()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 3, 33, 48])
def test_products_and_sums_are_those_of_the_matrix(kind, width):
    csr = matrix()
    rows, x_ng = each_kind(csr)[kind], torch.from_numpy(csr.toarray())
    weight_gh, d_nh = (torch.randn(n, width, generator=generator_of(n), dtype=torch.float64) for n in (G, N))
    torch.testing.assert_close(rows.matmul(weight_gh), x_ng @ weight_gh)
    torch.testing.assert_close(rows.transposed_matmul(d_nh), x_ng.T @ d_nh)
    torch.testing.assert_close(rows.row_sums(), x_ng.sum(1))
    torch.testing.assert_close(rows.row_square_sums(), x_ng.square().sum(1))
    torch.testing.assert_close(rows.dense(), x_ng)
    for start, stop in ((0, 3), (2, 6), (6, 7)):
        torch.testing.assert_close(rows.block(start, stop), x_ng[start:stop])


@pytest.mark.parametrize("kind", KINDS)
def test_values_change_one_by_one_and_cells_by_their_factors(kind):
    csr = matrix()
    rows, x_ng = each_kind(csr)[kind], torch.from_numpy(csr.toarray())
    factor_n = torch.arange(1.0, N + 1, dtype=torch.float64)
    changed = rows.scale_rows(factor_n).map_values(torch.log1p)
    torch.testing.assert_close(changed.dense(), torch.log1p(x_ng * factor_n[:, None]))
    torch.testing.assert_close(rows.dense(), x_ng)  # what was given is left alone


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_inputs_are_zero_and_the_others_scaled_the_same_in_every_product(kind, monkeypatch):
    monkeypatch.setattr(dense_module, "BLOCK", 3 * G)  # several blocks of cells
    csr = matrix(0.9)
    rows, x_ng = each_kind(csr)[kind], torch.from_numpy(csr.toarray())
    hidden = rows.dropout(0.25, [generator_of(1), generator_of(2)])
    seen_ng = hidden.dense()
    assert set(np.unique((seen_ng / x_ng)[x_ng != 0].numpy().round(6))) == {0.0, round(1 / 0.75, 6)}
    weight_gh, d_nh = (torch.randn(n, 33, generator=generator_of(n), dtype=torch.float64) for n in (G, N))
    torch.testing.assert_close(hidden.matmul(weight_gh), seen_ng @ weight_gh)
    torch.testing.assert_close(hidden.transposed_matmul(d_nh), seen_ng.T @ d_nh)
    assert rows.dropout(0.0, [generator_of(1), generator_of(2)]).dense().equal(x_ng)


def test_shares_hide_what_each_would_hide_alone():
    values = torch.from_numpy(matrix(0.9).toarray())
    together = StackedRows([DenseRows(values[:3]), DenseRows(values[3:])]).dropout(
        0.5, [generator_of(1), generator_of(2)]
    )
    apart = [DenseRows(v).dropout(0.5, [generator_of(s)]).dense() for v, s in ((values[:3], 1), (values[3:], 2))]
    assert together.dense().equal(torch.cat(apart))


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.2, 0.9, 0.001, 0.9999])
def test_masks_keep_with_their_probability_each_value_on_its_own(rate):
    n = 400_000
    mask, chance = dropout_mask((n,), rate, generator_of(3))
    assert mask.dtype == torch.uint8 and set(mask.unique().tolist()) <= {0, 1}
    assert chance == pytest.approx(1 - rate, abs=2**-16)
    assert scipy.stats.binomtest(int(mask.sum()), n, chance).pvalue > UNLIKELY
    # Neighbours in memory, which come from the same word, know nothing of each other.
    for lag in (1, 3, 7, 8, 64):
        both = int((mask[:-lag] & mask[lag:]).sum())
        assert scipy.stats.binomtest(both, n - lag, chance**2).pvalue > UNLIKELY / 10


@pytest.mark.parametrize("shape", [(0,), (3, 0), (5, 13), (1,)])
def test_masks_have_the_shape_asked_for_and_come_back_with_the_seed(shape):
    for rate in (0.5, 0.25, 0.3):
        mask, _ = dropout_mask(shape, rate, generator_of(4))
        assert mask.shape == shape
        assert mask.equal(dropout_mask(shape, rate, generator_of(4))[0])
    first, second = dropout_mask((5, 13), 0.5, generator_of(4))[0], dropout_mask((5, 13), 0.5, generator_of(5))[0]
    assert not first.equal(second)


def test_the_reader_keeps_rows_sparse_where_most_values_are_zero():
    idx_n = torch.tensor([3, 0, 6])
    for values, kind in (
        (matrix(0.1), SparseRows),
        (matrix(0.9), DenseRows),
        (matrix(0.1).toarray(), DenseRows),
        (matrix(0.1, np.float32).toarray(), GatheredRows),
    ):
        rows = row_reader(InMemoryMatrix(values), CPU)(idx_n)
        assert type(rows) is kind
        expected = values[idx_n.numpy()]
        np.testing.assert_array_equal(rows.dense(), expected.toarray() if sp.issparse(expected) else expected)


# Layers


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layer_has_the_gradient_of_a_product(kind, shared):
    rows = [each_kind(matrix(seed=s))[kind] for s in (0, 1, 2)]
    x_ang = torch.stack([x.dense() for x in rows])
    weight = torch.randn(1 if shared else 3, G, 4, generator=generator_of(1), dtype=torch.float64).requires_grad_()
    ours, plain = RowsProduct.apply(weight, rows), torch.matmul(x_ang, weight)
    torch.testing.assert_close(ours, plain)
    (slope,), (expected,) = (torch.autograd.grad(y.square().sum(), weight) for y in (ours, plain))
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LIKELIHOODS.names())
def test_the_fused_loss_is_the_likelihood_of_the_layers_output(name, kind, shared, monkeypatch):
    """In value and in the gradients by hidden layer, weights and dispersion, with a weight for each arm."""
    monkeypatch.setattr(dense_module, "BLOCK", 3 * G)
    likelihood = LIKELIHOODS[name]
    csrs = [matrix(0.3, seed=s) for s in (0, 1)]
    for csr in csrs:
        csr.data = np.ceil(4 * csr.data) if likelihood.counts else csr.data.clip(0, 1)
    rows = [each_kind(csr)[kind] for csr in csrs]
    x_ang = torch.stack([x.dense() for x in rows])
    layer = OutputLayer(1 if shared else 2, 5, likelihood.heads * G).double()
    for arm in range(len(layer.weight)):
        layer.reset_parameters(arm, generator_of(arm))
    h_anh = torch.randn(2, N, 5, generator=generator_of(9), dtype=torch.float64).requires_grad_()
    log_theta = torch.randn(len(layer.weight), 1, G, generator=generator_of(8), dtype=torch.float64).requires_grad_()
    given = [h_anh, layer.weight, *([log_theta] if likelihood.has_dispersion else [])]
    theta = log_theta if likelihood.has_dispersion else None
    ours = layer.loss(likelihood, rows, h_anh, theta)
    plain = -likelihood.log_prob(x_ang, layer(h_anh), theta).mean(-1)
    torch.testing.assert_close(ours, plain)
    weights = torch.tensor([0.7, -1.3], dtype=torch.float64)
    slopes, expected = (torch.autograd.grad((weights * y).sum(), given) for y in (ours, plain))
    for slope, other in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, other)
    with torch.no_grad():
        torch.testing.assert_close(layer.loss(likelihood, rows, h_anh, theta), plain)


def test_the_squared_error_is_right_in_float32_where_the_fit_is_close():
    """Taken apart, it is a difference of large numbers; a fit to a hundredth of the values' spread is still told."""
    h_nh = torch.randn(500, 20, generator=generator_of(0))
    layer = OutputLayer(1, 20, 800)
    layer.reset_parameters(0, generator_of(1))
    with torch.no_grad():
        fit_ng = layer(h_nh[None])[0]
        x_ng = fit_ng + 0.01 * fit_ng.std() * torch.randn(fit_ng.shape, generator=generator_of(2))
        exact = 0.5 * (x_ng - fit_ng).double().square().sum(-1).mean() + 400 * math.log(2 * math.pi)
        ours = layer.loss(LIKELIHOODS["gaussian"], [DenseRows(x_ng)], h_nh[None], None)
    assert float(ours) == pytest.approx(float(exact), rel=1e-4)


def test_the_offset_is_the_last_column_of_the_output_layers_weights():
    layer = OutputLayer(2, 3, 4)
    for arm in (0, 1):
        layer.reset_parameters(arm, generator_of(arm))
    h_anh = torch.randn(2, 5, 3, generator=generator_of(3))
    torch.testing.assert_close(layer(h_anh), torch.bmm(h_anh, layer.weight[..., :-1].mT) + layer.weight[:, None, :, -1])
    assert append_ones(h_anh)[..., -1].eq(1).all()


def numerical(function, *given: Tensor) -> None:
    assert torch.autograd.gradcheck(function, [t.double().requires_grad_() for t in given])


def test_gradients_in_closed_form_are_those_of_finite_differences():
    draw = torch.randn(2, 6, 3, generator=generator_of(1))
    norm = PackedBatchNorm(2, 2, 3).double()
    numerical(norm, draw)
    numerical(PackedBatchNorm(1, 2, 3, affine=False).double(), draw)
    numerical(ArmProduct.apply, draw, torch.randn(2, 3, 4, generator=generator_of(2)))


def test_half_precision_rounds_the_cells_and_products_and_nothing_else():
    """Sums come out in 32 bits, with the relative error of 8 bits of mantissa."""
    csr = matrix(0.3, np.float32)
    weight_gh = torch.randn(G, 33, generator=generator_of(1))
    for kind, rows in each_kind(csr).items():
        rounded = rows.to_dtype(torch.bfloat16)
        product, exact = rounded.matmul(weight_gh), rows.matmul(weight_gh)
        assert product.dtype == torch.float32, kind
        assert not product.equal(exact), kind
        torch.testing.assert_close(product, exact, rtol=0.02, atol=0.05)
        assert rounded.row_square_sums().dtype == torch.float32
        assert rounded.dropout(0.5, [generator_of(1)] * 2).matmul(weight_gh).dtype == torch.float32
        torch.testing.assert_close(
            rounded.transposed_matmul(exact), rows.transposed_matmul(exact), rtol=0.02, atol=0.05
        )
