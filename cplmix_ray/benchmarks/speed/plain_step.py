"""Plain training step of Eq. 7 to compare with.

One arm after the other, dense input, a pass over all values for every term of the loss, every pair of arms compared,
Adam with its defaults. With the same weights and noise its loss and gradients equal those of the package's step, as a
test checks.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import gumbel_softmax, mse_loss

from cplmix_ray.benchmarks.speed.case import Shape

_EPS = 1e-3
"""As in the package's batch normalisation."""


class PlainArm(nn.Module):
    """One autoencoder of torch.nn's layers, with the widths of the package's arms."""

    def __init__(self, shape: Shape):
        super().__init__()
        k, d, b = shape.n_categories, shape.state_dim, shape.bottleneck
        self.dropout = nn.Dropout(shape.dropout)
        self.encoder = _layers([shape.genes, *shape.hidden, b])
        self.bottleneck_norm = nn.BatchNorm1d(b, eps=_EPS, affine=False)
        self.category, self.state = nn.Linear(b, k), nn.Linear(b + k, 2 * d)
        self.decoder = _layers([k + d, b, *reversed(shape.hidden)])
        self.output = nn.Linear(shape.hidden[0], shape.genes)

    def forward(self, x_ng: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log q(c|x), mean and log-variance of q(s|c,x), and the reconstruction."""
        z_nb = self.bottleneck_norm(self.encoder(self.dropout(x_ng)))
        p_nk = torch.softmax(self.category(z_nb), dim=-1)
        log_q_nk = torch.log_softmax(p_nk * p_nk.shape[-1], dim=-1)
        c_nk = gumbel_softmax(log_q_nk, tau=1.0)
        mu_nd, log_var_nd = self.state(torch.cat([z_nb, c_nk], dim=-1)).chunk(2, dim=-1)
        s_nd = mu_nd + (0.5 * log_var_nd).exp() * torch.randn_like(mu_nd)
        return log_q_nk, mu_nd, log_var_nd, self.output(self.decoder(torch.cat([c_nk, s_nd], dim=-1)))


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out, eps=_EPS), nn.ReLU()]
    return nn.Sequential(*layers)


def plain_loss(cells: Sequence[Tensor], outputs: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Eq. 7 with all weights 1."""
    n_arms, total = len(outputs), torch.zeros(())
    for x_ng, (log_q_nk, mu_nd, log_var_nd, out_ng) in zip(cells, outputs, strict=True):
        reconstruction = 0.5 * mse_loss(out_ng, x_ng, reduction="sum") / len(x_ng)
        kl = 0.5 * (mu_nd.square() + log_var_nd.exp() - 1 - log_var_nd).sum(-1).mean()
        entropy = -(log_q_nk.exp() * log_q_nk).sum(-1).mean()
        total = total + max(n_arms - 1, 1) * (reconstruction + kl - entropy)
    for (one_nk, *_), (other_nk, *_) in combinations(outputs, 2):
        one_u, other_u = (log_q_nk / log_q_nk.exp().std(0, correction=0) for log_q_nk in (one_nk, other_nk))
        total = total + (one_u - other_u).square().sum(-1).mean()
    return total


class PlainStep:
    """Arms, optimiser and data; a call takes one step on the given cells and returns the loss.

    Args:
        values_ng: dense cells, float32.
    """

    def __init__(self, shape: Shape, values_ng: Tensor):
        self.values_ng = values_ng
        self.arms = nn.ModuleList(PlainArm(shape) for _ in range(shape.n_arms)).to(values_ng.device)
        self.optimiser = torch.optim.Adam(self.arms.parameters(), lr=1e-3)

    def __call__(self, idx_n: Tensor) -> float:
        cells = [self.values_ng[idx_n] for _ in self.arms]
        outputs = [arm(x_ng) for arm, x_ng in zip(self.arms, cells, strict=True)]
        loss = plain_loss(cells, outputs)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()
