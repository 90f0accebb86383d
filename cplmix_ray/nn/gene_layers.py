"""The two layers as wide as the genes, in which six sevenths of a step's arithmetic lies.

Each arm's product is taken on its own rows, which may stay sparse. Nothing of the size cells x genes is made: the first
layer hides inputs block by block, and the output layer is fused with its likelihood.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cplmix_ray.distributions import Likelihood
from cplmix_ray.nn.dense_rows import block_height
from cplmix_ray.nn.rows import Rows


def of_arm(weight: Tensor, arm: int) -> Tensor:
    """The weights of an arm: its own, or those that all share."""
    return weight[min(arm, len(weight) - 1)]


class RowsProduct(torch.autograd.Function):
    """x_a W_a for each arm's rows x_a, shape (A, n, h); the gradient is of the weights alone."""

    @staticmethod
    def forward(ctx, weight_sgh: Tensor, rows: Sequence[Rows]) -> Tensor:  # type: ignore[override]
        ctx.rows, ctx.n_sets = rows, len(weight_sgh)
        return torch.stack([x.times(of_arm(weight_sgh, arm)) for arm, x in enumerate(rows)])

    @staticmethod
    def backward(ctx, d_anh: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        slopes = [x.transposed_times(d_nh) for x, d_nh in zip(ctx.rows, d_anh, strict=True)]
        return _for_sets(slopes, ctx.n_sets), None


class OutputLayer(nn.Module):
    """The last layer of the decoders: o = heads * g numbers from h hidden ones, and the loss that they lead to.

    Args:
        n_sets: sets of weights: the arms held here, or 1 where all arms share one.

    Attributes:
        weight: (s, o, h + 1), genes first, as sparse rows read it; the last column is the offset.
    """

    def __init__(self, n_sets: int, n_hidden: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_sets, n_out, n_hidden + 1))

    def draw(self, arm_set: int, generator: torch.Generator) -> None:
        """Initialise one set uniformly within +-1/sqrt(h) from that arm's generator."""
        n_out, width = self.weight.shape[1:]
        bound = 1.0 / math.sqrt(width - 1)
        with torch.no_grad():
            values_wo = torch.empty(width, n_out).uniform_(-bound, bound, generator=generator)
            self.weight[arm_set].copy_(values_wo.t())

    def forward(self, h_anh: Tensor) -> Tensor:
        """The likelihood's numbers of every gene, shape (A, n, o)."""
        return torch.matmul(with_one(h_anh), self.weight.mT)

    def loss(self, likelihood: Likelihood, rows: Sequence[Rows], h_anh: Tensor, log_theta_s1g: Tensor | None) -> Tensor:
        """-E log p(x|s,c) of each arm, the mean over its cells, shape (A,).

        Args:
            h_anh: the decoder's last hidden layer.
            log_theta_s1g: log-dispersion, for likelihoods that have one.
        """
        full_anh = with_one(h_anh)
        if likelihood.beyond_squares is not None:
            squares_a = SquaredError.apply(full_anh, self.weight, rows)
            return 0.5 * squares_a + rows[0].shape[1] * likelihood.beyond_squares
        learns = torch.is_grad_enabled()
        return BlockwiseLoss.apply(full_anh, self.weight, log_theta_s1g, rows, likelihood, learns)


def with_one(h_anh: Tensor) -> Tensor:
    """[h, 1], which the offset is a weight of."""
    return nn.functional.pad(h_anh, (0, 1), value=1.0)


class SquaredError(torch.autograd.Function):
    """E ||x - h W'||^2 without h W' (Vincent et al. 2015, section 4); h has its column of ones.

    ||x - h W'||^2 = ||x||^2 - 2 <h, x W> + <h, h W'W>, so that cells meet genes in x W and x'h alone, which are sparse
    where the cells are; W'W is no wider than a hidden layer.
    """

    @staticmethod
    def forward(ctx, h_anh, weight_sgh, rows):  # type: ignore[override]
        losses, slopes = [], []
        for arm, x in enumerate(rows):
            weight_gh, h_nh = of_arm(weight_sgh, arm), h_anh[arm]
            hg_nh, xw_nh = torch.mm(h_nh, torch.mm(weight_gh.t(), weight_gh)), x.times(weight_gh)
            squares_n = x.squares() + (h_nh * (hg_nh - 2.0 * xw_nh)).sum(-1)
            losses.append(squares_n.mean())
            slopes.append(hg_nh.sub_(xw_nh))
        ctx.save_for_backward(h_anh, weight_sgh, torch.stack(slopes))
        ctx.rows = rows
        return torch.stack(losses)

    @staticmethod
    def backward(ctx, slope_a):  # type: ignore[override]
        h_anh, weight_sgh, slope_anh = ctx.saved_tensors
        scale_a = 2.0 * slope_a / h_anh.shape[1]
        slope_agh = weight_sgh.new_empty(len(ctx.rows), *weight_sgh.shape[1:])
        for arm, x in enumerate(ctx.rows):
            h_nh = h_anh[arm] * scale_a[arm]
            torch.mm(of_arm(weight_sgh, arm), torch.mm(h_nh.t(), h_anh[arm]), out=slope_agh[arm])
            slope_agh[arm].sub_(x.transposed_times(h_nh))
        return slope_anh * scale_a[:, None, None], _summed_if_shared(slope_agh, len(weight_sgh)), None


class BlockwiseLoss(torch.autograd.Function):
    """The same for any likelihood: blocks of cells go through the output layer and the likelihood one after the other,
    and each leaves its part of the gradients behind."""

    @staticmethod
    def forward(ctx, h_anh, weight_soh, log_theta_s1g, rows, likelihood, learns):  # type: ignore[override]
        parts = []
        for arm, x in enumerate(rows):
            log_theta_1g = None if log_theta_s1g is None else of_arm(log_theta_s1g, arm)
            parts.append(_by_blocks(likelihood, x, h_anh[arm], of_arm(weight_soh, arm), log_theta_1g, learns))
        ctx.slopes, ctx.n_sets = [slopes for _, slopes in parts], len(weight_soh)
        return torch.stack([loss for loss, _ in parts])

    @staticmethod
    def backward(ctx, slope_a):  # type: ignore[override]
        scaled = [[each.mul_(slope_a[arm]) for each in slopes] for arm, slopes in enumerate(ctx.slopes)]
        ctx.slopes = None  # they were scaled in place
        h, weight, *theta = zip(*scaled, strict=True)
        slope_theta = _for_sets(theta[0], ctx.n_sets) if theta else None
        return torch.stack(h), _for_sets(weight, ctx.n_sets), slope_theta, None, None, None


def _by_blocks(
    likelihood: Likelihood, x: Rows, h_nh: Tensor, weight_oh: Tensor, log_theta_1g: Tensor | None, learns: bool
) -> tuple[Tensor, list[Tensor]]:
    """The mean loss of an arm's cells, and its gradients by h, W and, where there is one, log theta."""
    n = x.shape[0]
    height = min(n, block_height(len(weight_oh), h_nh.device))
    total, theta = h_nh.new_zeros(()), [] if log_theta_1g is None else [log_theta_1g.detach().requires_grad_(learns)]
    slopes = [torch.empty_like(h_nh), torch.zeros_like(weight_oh), *(torch.zeros_like(each) for each in theta)]
    left_nh, right_oh = h_nh.to(x.dtype), weight_oh.to(x.dtype)
    for start in range(0, n, height):
        at = slice(start, min(start + height, n))
        out_mo = torch.mm(left_nh[at], right_oh.t()).to(h_nh.dtype).requires_grad_(learns)
        with torch.set_grad_enabled(learns):
            loss = -likelihood.log_prob(x.block(at.start, at.stop), out_mo, theta[0] if theta else None).sum() / n
        total += loss.detach()
        if learns:
            d_mo, *d_theta = torch.autograd.grad(loss, [out_mo, *theta])
            d_mo = d_mo.to(x.dtype)
            slopes[0][at] = torch.mm(d_mo, right_oh)
            slopes[1] += torch.mm(d_mo.t(), left_nh[at])
            for slope, more in zip(slopes[2:], d_theta, strict=True):
                slope.add_(more)
    return total, slopes


def _for_sets(slopes: Sequence[Tensor], n_sets: int) -> Tensor:
    """Gradients of the arms as gradients of the sets of weights: summed where all arms share one."""
    return _summed_if_shared(torch.stack(list(slopes)), n_sets)


def _summed_if_shared(slope_a: Tensor, n_sets: int) -> Tensor:
    return slope_a if n_sets == len(slope_a) else slope_a.sum(0, keepdim=True)
