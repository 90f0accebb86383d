"""Layers with a leading arm axis, so that a worker computes all its arms in one batched matrix product."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cplmix_ray.collectives.shards import WHOLE, Shards
from cplmix_ray.nn.gene_layers import RowsProduct
from cplmix_ray.nn.rows import Rows


class ArmProduct(torch.autograd.Function):
    """The batched product x_a W_a as one product for each arm, which is twice as fast on a CPU."""

    @staticmethod
    def forward(ctx, x_ani: Tensor, weight_aio: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x_ani, weight_aio)
        return _products(x_ani, weight_aio)

    @staticmethod
    def backward(ctx, d_ano: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x_ani, weight_aio = ctx.saved_tensors
        d_x = _products(d_ano, weight_aio.mT) if ctx.needs_input_grad[0] else None
        return d_x, _products(x_ani.mT, d_ano) if ctx.needs_input_grad[1] else None


def _products(left: Tensor, right: Tensor) -> Tensor:
    out = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
    for arm in range(len(left)):
        torch.mm(left[arm], right[arm], out=out[arm])
    return out


class PackedLinear(nn.Module):
    """y_a = x_a W_a + b_a for every arm a.

    Args:
        n_sets: sets of weights: the arms held here, or 1 where all arms share one.
        n_in, n_out: widths.
        bias: whether there is one. Batch normalisation would cancel it, its gradient would be rounding error, and Adam
            would turn that into full steps.
    """

    def __init__(self, n_sets: int, n_in: int, n_out: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_sets, n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_sets, 1, n_out)) if bias else None

    def reset_parameters(self, arm_set: int, generator: torch.Generator) -> None:
        """Initialise one set of weights uniformly within +-1/sqrt(n_in) from that arm's generator."""
        bound = 1.0 / math.sqrt(self.weight.shape[1])
        with torch.no_grad():
            for parameter in self.parameters():
                values = torch.empty(parameter.shape[1:]).uniform_(-bound, bound, generator=generator)
                parameter[arm_set].copy_(values)

    def forward(self, x_ani: Tensor) -> Tensor:
        if self.weight.shape[0] != x_ani.shape[0]:
            y_ano = torch.matmul(x_ani, self.weight[0])
        elif self.bias is not None:
            return torch.baddbmm(self.bias, x_ani, self.weight)
        else:
            y_ano = (
                ArmProduct.apply(x_ani, self.weight) if x_ani.device.type == "cpu" else torch.bmm(x_ani, self.weight)
            )
        return y_ano if self.bias is None else y_ano + self.bias

    def of_rows(self, rows: Sequence[Rows]) -> Tensor:
        """The same for the rows of each arm, dense or sparse."""
        y_ano = RowsProduct.apply(self.weight, rows)
        return y_ano if self.bias is None else y_ano + self.bias


class BatchNormFunction(torch.autograd.Function):
    """Batch normalisation, with scale and shift if there are weights; also returns mean and variance, each (A, 1, h).

    The gradient is in closed form, which is four times faster than autograd.
    """

    @staticmethod
    def forward(ctx, x_anh, weight_s1h, bias_s1h, eps: float, shards: Shards):  # type: ignore[override]
        ctx.shards = shards
        mean_a1h = shards.average(column_means(x_anh))
        y_anh = x_anh - mean_a1h
        var_a1h = shards.average(column_means(y_anh.square()))
        scale_a1h = (var_a1h + eps).rsqrt()
        y_anh.mul_(scale_a1h)
        ctx.save_for_backward(y_anh, scale_a1h, weight_s1h)
        ctx.mark_non_differentiable(mean_a1h, var_a1h)
        if weight_s1h is None or bias_s1h is None:
            return y_anh.clone(), mean_a1h, var_a1h
        return torch.addcmul(bias_s1h, y_anh, weight_s1h), mean_a1h, var_a1h

    @staticmethod
    def backward(ctx, d_anh: Tensor, *_: Tensor):  # type: ignore[override]
        y_anh, scale_a1h, weight_s1h = ctx.saved_tensors
        here = torch.stack([column_means(d_anh), column_means(d_anh * y_anh)])
        mean_a1h, mean_dy_a1h = ctx.shards.average(here)
        d_x = (d_anh - mean_a1h).addcmul_(y_anh, mean_dy_a1h, value=-1.0)
        if weight_s1h is None:
            return d_x.mul_(scale_a1h), None, None, None, None
        d_bias, d_weight = here * d_anh.shape[1]
        if len(weight_s1h) != len(d_anh):  # shared by all arms
            d_bias, d_weight = d_bias.sum(0, keepdim=True), d_weight.sum(0, keepdim=True)
        return d_x.mul_(scale_a1h * weight_s1h), d_weight, d_bias, None, None


def column_means(x_anh: Tensor) -> Tensor:
    """Mean over the minibatch, shape (A, 1, h); a product with ones is several times faster than ``mean``."""
    n_arms, n, _ = x_anh.shape
    return torch.bmm(x_anh.new_full((n_arms, 1, n), 1.0 / n), x_anh)


class PackedBatchNorm(nn.Module):
    """Batch normalisation of every arm over its own minibatch (Ioffe and Szegedy 2015).

    If the minibatch is split over workers (``shards``), mean and variance are those of the whole minibatch. Running
    statistics are kept for each arm even if the affine parameters are shared, as arms get differently augmented cells.
    """

    momentum, eps = 0.05, 1e-3
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, n_sets: int, n_arms: int, width: int, affine: bool = True):
        super().__init__()
        self.shards = WHOLE
        self.weight = nn.Parameter(torch.ones(n_sets, 1, width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(n_sets, 1, width)) if affine else None
        self.register_buffer("running_mean", torch.zeros(n_arms, 1, width))
        self.register_buffer("running_var", torch.ones(n_arms, 1, width))

    def forward(self, x_anh: Tensor) -> Tensor:
        if self.training:
            y_anh, mean, var = BatchNormFunction.apply(x_anh, self.weight, self.bias, self.eps, self.shards)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var, self.momentum)
            return y_anh
        y_anh = (x_anh - self.running_mean) * (self.running_var + self.eps).rsqrt()
        return y_anh if self.weight is None or self.bias is None else torch.addcmul(self.bias, y_anh, self.weight)


class PackedMLP(nn.Module):
    """Hidden layers: linear, optional batch normalisation, ReLU.

    Args:
        n_extra: number of columns that are appended to the input of every layer, such as covariates.
    """

    def __init__(self, n_sets: int, n_arms: int, widths: tuple[int, ...], batch_norm: bool, n_extra: int = 0):
        super().__init__()
        pairs = [(i + n_extra, o) for i, o in pairwise(widths)]
        self.linears = nn.ModuleList([PackedLinear(n_sets, i, o, bias=not batch_norm) for i, o in pairs])
        self.norms = nn.ModuleList([PackedBatchNorm(n_sets, n_arms, o) for _, o in pairs] if batch_norm else [])

    def forward(self, x_ani: Tensor | Sequence[Rows], extra_anv: Tensor | None = None) -> Tensor:
        h_ano = x_ani
        for layer, linear in enumerate(self.linears):
            assert isinstance(linear, PackedLinear)
            if extra_anv is not None:
                assert isinstance(h_ano, Tensor)
                h_ano = torch.cat([h_ano, extra_anv], dim=-1)
            h_ano = linear(h_ano) if isinstance(h_ano, Tensor) else linear.of_rows(h_ano)
            if self.norms:
                h_ano = self.norms[layer](h_ano)
            h_ano = torch.relu(h_ano)
        assert isinstance(h_ano, Tensor)
        return h_ano
