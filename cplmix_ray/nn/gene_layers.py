"""The two layers as wide as the genes, which take six sevenths of a step's arithmetic.

Each arm's product is computed on its own rows, which may be sparse. No tensor of the size cells x genes is allocated:
the first layer applies dropout block by block, and the output layer is fused with its likelihood.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cplmix_ray.distributions.likelihood import Likelihood
from cplmix_ray.nn.dense_rows import block_height
from cplmix_ray.nn.rows import Rows


def of_arm(weight: Tensor, arm: int) -> Tensor:
    """The weights of an arm: its own, or those that all arms share."""
    return weight[min(arm, len(weight) - 1)]


class RowsProduct(torch.autograd.Function):
    """x_a W_a for each arm's rows x_a, shape (A, n, h); only the weights have a gradient."""

    @staticmethod
    def forward(ctx, weight_sgh: Tensor, rows: Sequence[Rows]) -> Tensor:  # type: ignore[override]
        ctx.rows, ctx.n_sets = rows, len(weight_sgh)
        return torch.stack([x.matmul(of_arm(weight_sgh, arm)) for arm, x in enumerate(rows)])

    @staticmethod
    def backward(ctx, d_anh: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradients = [x.transposed_matmul(d_nh) for x, d_nh in zip(ctx.rows, d_anh, strict=True)]
        return _gradients_of_sets(gradients, ctx.n_sets), None


class OutputLayer(nn.Module):
    """Output layer of the decoders, from h hidden units to o = heads * g parameters, with the likelihood's loss.

    Args:
        n_sets: sets of weights: the arms held here, or 1 where all arms share one.

    Attributes:
        weight: (s, o, h + 1), genes first as sparse products need it; the last column is the bias.
    """

    def __init__(self, n_sets: int, n_hidden: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_sets, n_out, n_hidden + 1))

    def reset_parameters(self, arm_set: int, generator: torch.Generator) -> None:
        """Initialise one set of weights uniformly within +-1/sqrt(h) from that arm's generator."""
        n_out, width = self.weight.shape[1:]
        bound = 1.0 / math.sqrt(width - 1)
        with torch.no_grad():
            values_wo = torch.empty(width, n_out).uniform_(-bound, bound, generator=generator)
            self.weight[arm_set].copy_(values_wo.t())

    def forward(self, h_anh: Tensor) -> Tensor:
        """The likelihood's parameters for every gene, shape (A, n, o)."""
        return torch.matmul(append_ones(h_anh), self.weight.mT)

    def loss(
        self,
        likelihood: Likelihood,
        rows: Sequence[Rows],
        h_anh: Tensor,
        log_theta_slg: Tensor | None,
        weight_anl: Tensor | None = None,
    ) -> Tensor:
        """-E log p(x|s,c) of each arm, the mean over its cells, shape (A,).

        Args:
            h_anh: the decoder's last hidden layer.
            log_theta_slg: log-dispersion of each gene, for likelihoods that have one; l = 1, or one of each batch.
            weight_anl: weights of these for each cell; None for l = 1.
        """
        full_anh = append_ones(h_anh)
        if likelihood.squared_error_offset is not None:
            squares_a = SquaredError.apply(full_anh, self.weight, rows)
            return 0.5 * squares_a + rows[0].shape[1] * likelihood.squared_error_offset
        needs_grad = torch.is_grad_enabled()
        return BlockwiseLoss.apply(full_anh, self.weight, log_theta_slg, weight_anl, rows, likelihood, needs_grad)


def append_ones(h_anh: Tensor) -> Tensor:
    """[h, 1]; the weight of the last column is the bias."""
    return nn.functional.pad(h_anh, (0, 1), value=1.0)


class SquaredError(torch.autograd.Function):
    """E ||x - h W'||^2 without computing h W' (Vincent et al. 2015, section 4); h includes a column of ones.

    ||x - h W'||^2 = ||x||^2 - 2 <h, x W> + <h, h W'W>, so that the only products as wide as the genes are x W and x'h,
    which are sparse if the cells are; W'W has the size of a hidden layer.
    """

    @staticmethod
    def forward(ctx, h_anh, weight_sgh, rows):  # type: ignore[override]
        losses, gradients = [], []
        for arm, x in enumerate(rows):
            weight_gh, h_nh = of_arm(weight_sgh, arm), h_anh[arm]
            hg_nh, xw_nh = torch.mm(h_nh, torch.mm(weight_gh.t(), weight_gh)), x.matmul(weight_gh)
            squares_n = x.row_square_sums() + (h_nh * (hg_nh - 2.0 * xw_nh)).sum(-1)
            losses.append(squares_n.mean())
            gradients.append(hg_nh.sub_(xw_nh))
        ctx.save_for_backward(h_anh, weight_sgh, torch.stack(gradients))
        ctx.rows = rows
        return torch.stack(losses)

    @staticmethod
    def backward(ctx, grad_a):  # type: ignore[override]
        h_anh, weight_sgh, grad_anh = ctx.saved_tensors
        scale_a = 2.0 * grad_a / h_anh.shape[1]
        grad_agh = weight_sgh.new_empty(len(ctx.rows), *weight_sgh.shape[1:])
        for arm, x in enumerate(ctx.rows):
            h_nh = h_anh[arm] * scale_a[arm]
            torch.mm(of_arm(weight_sgh, arm), torch.mm(h_nh.t(), h_anh[arm]), out=grad_agh[arm])
            grad_agh[arm].sub_(x.transposed_matmul(h_nh))
        return grad_anh * scale_a[:, None, None], _summed_if_shared(grad_agh, len(weight_sgh)), None


class BlockwiseLoss(torch.autograd.Function):
    """-E log p(x|h) for any likelihood. Blocks of cells pass the output layer and the likelihood one after the other;
    their gradients are summed in the forward pass."""

    @staticmethod
    def forward(ctx, h_anh, weight_soh, log_theta_slg, weight_anl, rows, likelihood, needs_grad):  # type: ignore[override]
        parts = []
        for arm, x in enumerate(rows):
            log_theta_lg = None if log_theta_slg is None else of_arm(log_theta_slg, arm)
            weight_nl = None if weight_anl is None else weight_anl[arm]
            weight_oh = of_arm(weight_soh, arm)
            parts.append(_by_blocks(likelihood, x, h_anh[arm], weight_oh, log_theta_lg, weight_nl, needs_grad))
        ctx.gradients, ctx.n_sets = [gradients for _, gradients in parts], len(weight_soh)
        return torch.stack([loss for loss, _ in parts])

    @staticmethod
    def backward(ctx, grad_a):  # type: ignore[override]
        scaled = [[each.mul_(grad_a[arm]) for each in gradients] for arm, gradients in enumerate(ctx.gradients)]
        ctx.gradients = None  # scaled in place, so a second backward pass would be wrong
        h, weight, *theta = zip(*scaled, strict=True)
        grad_theta = _gradients_of_sets(theta[0], ctx.n_sets) if theta else None
        return torch.stack(h), _gradients_of_sets(weight, ctx.n_sets), grad_theta, None, None, None, None


def _by_blocks(
    likelihood: Likelihood,
    x: Rows,
    h_nh: Tensor,
    weight_oh: Tensor,
    log_theta_lg: Tensor | None,
    weight_nl: Tensor | None,
    needs_grad: bool,
) -> tuple[Tensor, list[Tensor]]:
    """The mean loss of an arm's cells, and its gradients with respect to h, W and, if there is one, log theta."""
    n = x.shape[0]
    height = min(n, block_height(len(weight_oh), h_nh.device))
    total = h_nh.new_zeros(())
    theta = [] if log_theta_lg is None else [log_theta_lg.detach().requires_grad_(needs_grad)]
    gradients = [torch.empty_like(h_nh), torch.zeros_like(weight_oh), *(torch.zeros_like(each) for each in theta)]
    left_nh, right_oh = h_nh.to(x.dtype), weight_oh.to(x.dtype)
    for start in range(0, n, height):
        at = slice(start, min(start + height, n))
        out_mo = torch.mm(left_nh[at], right_oh.t()).to(h_nh.dtype).requires_grad_(needs_grad)
        with torch.set_grad_enabled(needs_grad):
            log_theta = theta[0] if theta else None
            if log_theta is not None and weight_nl is not None:
                log_theta = weight_nl[at] @ log_theta
            loss = -likelihood.log_prob(x.block(at.start, at.stop), out_mo, log_theta).sum() / n
        total += loss.detach()
        if needs_grad:
            d_mo, *d_theta = torch.autograd.grad(loss, [out_mo, *theta])
            d_mo = d_mo.to(x.dtype)
            gradients[0][at] = torch.mm(d_mo, right_oh)
            gradients[1] += torch.mm(d_mo.t(), left_nh[at])
            for gradient, more in zip(gradients[2:], d_theta, strict=True):
                gradient.add_(more)
    return total, gradients


def _gradients_of_sets(gradients: Sequence[Tensor], n_sets: int) -> Tensor:
    """Gradients of the sets of weights from those of the arms: summed if all arms share one set."""
    return _summed_if_shared(torch.stack(list(gradients)), n_sets)


def _summed_if_shared(grad_a: Tensor, n_sets: int) -> Tensor:
    return grad_a if n_sets == len(grad_a) else grad_a.sum(0, keepdim=True)
