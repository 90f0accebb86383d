"""Layers with a leading arm axis, so that a worker runs its arms as one batched matrix product."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """y_a = x_a W_a + b_a for every arm a.

    Args:
        n_sets: sets of weights: the arms held here, or 1 where all arms share one.
        n_in, n_out: widths.
        bias: left out before a batch normalisation, which would cancel it: its gradient would be rounding error, and
            Adam makes full steps of that.
    """

    def __init__(self, n_sets: int, n_in: int, n_out: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_sets, n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_sets, 1, n_out)) if bias else None

    def draw(self, arm_set: int, generator: torch.Generator) -> None:
        """Initialise one set uniformly within +-1/sqrt(n_in) from that arm's generator."""
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
            y_ano = torch.bmm(x_ani, self.weight)
        return y_ano if self.bias is None else y_ano + self.bias


class PackedBatchNorm(nn.Module):
    """Batch normalisation of every arm over its own minibatch (Ioffe and Szegedy 2015).

    The running statistics are kept per arm even where the affine parameters are shared: arms see other copies.
    """

    momentum, eps = 0.05, 1e-3
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, n_sets: int, n_arms: int, width: int, affine: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_sets, 1, width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(n_sets, 1, width)) if affine else None
        self.register_buffer("running_mean", torch.zeros(n_arms, 1, width))
        self.register_buffer("running_var", torch.ones(n_arms, 1, width))

    def forward(self, x_anh: Tensor) -> Tensor:
        if self.training:
            var, mean = torch.var_mean(x_anh, dim=1, keepdim=True, correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var, self.momentum)
        else:
            mean, var = self.running_mean, self.running_var
        x_anh = (x_anh - mean) * (var + self.eps).rsqrt()
        return x_anh if self.weight is None or self.bias is None else x_anh * self.weight + self.bias


class PackedMLP(nn.Module):
    """Hidden layers: linear, batch normalisation where asked for, ReLU."""

    def __init__(self, n_sets: int, n_arms: int, widths: tuple[int, ...], batch_norm: bool):
        super().__init__()
        pairs = list(pairwise(widths))
        self.linears = nn.ModuleList([PackedLinear(n_sets, i, o, bias=not batch_norm) for i, o in pairs])
        self.norms = nn.ModuleList([PackedBatchNorm(n_sets, n_arms, o) for _, o in pairs] if batch_norm else [])

    def forward(self, x_ani: Tensor) -> Tensor:
        for layer, linear in enumerate(self.linears):
            x_ani = linear(x_ani)
            if self.norms:
                x_ani = self.norms[layer](x_ani)
            x_ani = torch.relu(x_ani)
        return x_ani
