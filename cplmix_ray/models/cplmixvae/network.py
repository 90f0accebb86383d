"""The arms of a worker: encoder, categorical head, state head, decoder (Marghi et al. 2021, Fig. 1 and Eq. 7)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cplmix_ray.collectives.shards import Shards
from cplmix_ray.config import Model
from cplmix_ray.distributions import Likelihood
from cplmix_ray.nn.arm_rows import Cells, rows_of_arms
from cplmix_ray.nn.dense_rows import DenseRows
from cplmix_ray.nn.gene_layers import OutputLayer
from cplmix_ray.nn.image_moments import view, view_side
from cplmix_ray.nn.packed_layers import PackedBatchNorm, PackedLinear, PackedMLP
from cplmix_ray.nn.rows import Rows

_LOG_VAR_BOUND = 12.0
"""State variances stay within e^+-12; beyond, float32 gains nothing and one bad minibatch could overflow."""

_SMALLEST = 1e-20
"""Pooled probabilities have a logarithm."""


@dataclass(frozen=True)
class ArmShape:
    """What the data adds to the model's settings: width, likelihood, unit of the library size (counts only), and the
    (height, width) of images."""

    n_genes: int
    likelihood: Likelihood
    library: float = 1.0
    image_shape: tuple[int, int] | None = None


@dataclass(frozen=True)
class Encoded:
    """What the state is read from, and the log of the categorical posterior log q(c|x).

    Attributes:
        z_anb: bottleneck (A, n, b), and next to it what the view of the content leaves out, (A, n, b + 3).
        log_q_ank: (A, n, K), or fine categories.
    """

    z_anb: Tensor
    log_q_ank: Tensor


class PackedArms(nn.Module):
    """``n_arms`` autoencoders side by side; every tensor leads with the arm axis.

    Args:
        n_arms: arms held by this worker.
        model: widths, temperatures and switches.
        shape: width of the data and its likelihood.
        precision: type in which products with the cells are taken; None: that of the weights.
    """

    pool: Tensor | None

    def __init__(self, n_arms: int, model: Model, shape: ArmShape, precision: torch.dtype | None = None):
        super().__init__()
        self.precision = precision
        self.n_arms, self.model, self.shape = n_arms, model, shape
        n_sets = 1 if model.shared_parameters else n_arms
        n_k, n_d, n_b = model.n_categories, model.state_dim, model.bottleneck
        content = model.encoder_view == "content"
        if content:
            assert shape.image_shape is not None
            n_in = view_side(shape.image_shape) ** 2
        else:
            n_in = shape.n_genes
        state_in = n_b + 3 * content + (n_k if model.state_given_category else 0)
        back = tuple(reversed(model.hidden))
        self.encoder = PackedMLP(n_sets, n_arms, (n_in, *model.hidden, n_b), model.batch_norm)
        # With its scale fixed, the bottleneck cannot fade to nothing and take every posterior to uniform with it.
        self.bottleneck_norm = PackedBatchNorm(n_sets, n_arms, n_b, affine=False)
        self.pose_norm = PackedBatchNorm(n_sets, n_arms, 3, affine=False) if content else None
        self.category_head = PackedLinear(n_sets, n_b, model.n_fine)
        # Which category a fine one belongs to, as a 0-1 matrix; every arm holds the same.
        pool = torch.eye(n_k).repeat(n_arms, model.overcluster, 1) if model.overcluster > 1 else None
        self.register_buffer("pool", pool)
        self.state_head = PackedLinear(n_sets, state_in, 2 * n_d)
        self.decoder = PackedMLP(n_sets, n_arms, (n_k + n_d, n_b, *back), model.batch_norm)
        self.output = OutputLayer(n_sets, back[-1] if back else n_b, shape.likelihood.heads * shape.n_genes)
        self.log_theta = (
            nn.Parameter(torch.zeros(n_sets, 1, shape.n_genes)) if shape.likelihood.has_dispersion else None
        )

    def share_out(self, shards: Shards) -> None:
        """From now on minibatches are shared out so."""
        for module in self.modules():
            if isinstance(module, PackedBatchNorm):
                module.shards = shards

    def draw(self, generators: list[torch.Generator]) -> None:
        """Initialise each set of weights from the generator of the arm that owns it."""
        for arm_set, generator in enumerate(generators):
            for module in self.modules():
                if isinstance(module, PackedLinear | OutputLayer):
                    module.draw(arm_set, generator)

    def encoder_input(self, x: Rows) -> Rows:
        """What the encoder sees: log-expression as it is; counts scaled to the usual library size, then log1p."""
        if not self.shape.likelihood.counts:
            return x
        return x.scaled(self.shape.library / x.totals().clamp_min(1.0)).changed(torch.log1p)

    def encode(
        self,
        cells: Cells,
        dropout: float = 0.0,
        generators: Sequence[Sequence[torch.Generator]] | None = None,
        fine: bool = False,
    ) -> Encoded:
        """q(c|x): of the K categories, or the plain softmax over the fine categories of the first stage.

        Args:
            cells: each arm's rows, or a tensor (A, n, g).
            dropout: share of the inputs that are hidden.
            generators: of each arm, one for each share of the minibatch that is held here.
            fine: stop at the fine categories.
        """
        rows = [self.encoder_input(x) for x in rows_of_arms(cells)]
        if dropout:
            assert generators is not None
            rows = [x.hidden(dropout, own) for x, own in zip(rows, generators, strict=True)]
        seen, pose_an3 = self._view(rows)
        z_anb = self.bottleneck_norm(self.encoder([self._rounded(x) for x in seen]))
        logits_ank = self.category_head(z_anb)
        # Place and size are for the state alone: the category knows nothing of them.
        z_anb = z_anb if pose_an3 is None else torch.cat([z_anb, pose_an3], dim=-1)
        return Encoded(z_anb, torch.log_softmax(logits_ank, dim=-1) if fine else self._posterior(logits_ank))

    def _view(self, rows: list[Rows]) -> tuple[list[Rows], Tensor | None]:
        """What the encoder sees, and the place and size that are kept from it."""
        if self.pose_norm is None or self.shape.image_shape is None:
            return rows, None
        squares_mg, pose_m3 = view(torch.cat([x.dense() for x in rows]), self.shape.image_shape)
        pose_an3 = pose_m3.view(len(rows), -1, 3)
        return [DenseRows(squares_ng) for squares_ng in squares_mg.chunk(len(rows))], self.pose_norm(pose_an3)

    def _posterior(self, logits_ank: Tensor) -> Tensor:
        """log q over the K categories; tempered, softmax(p / tau) of the probabilities p, which bounds log q below."""
        tempered = self.model.posterior == "tempered"
        if self.pool is None and not tempered:
            return torch.log_softmax(logits_ank, dim=-1)
        p_ank = torch.softmax(logits_ank, dim=-1)
        if self.pool is not None:
            p_ank = torch.bmm(p_ank, self.pool)
        if tempered:
            return torch.log_softmax(p_ank / self.model.temperature, dim=-1)
        return p_ank.clamp_min(_SMALLEST).log()

    def merge(self, groups: Tensor) -> None:
        """Take over which of the K categories every fine one belongs to, shape (fine,), for all arms."""
        assert self.pool is not None
        with torch.no_grad():
            self.pool.copy_(nn.functional.one_hot(groups, self.model.n_categories).to(self.pool))

    def state(self, z_anb: Tensor, c_ank: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(s|c,x), each (A, n, d)."""
        inputs = torch.cat([z_anb, c_ank], dim=-1) if self.model.state_given_category else z_anb
        mu_and, log_var_and = self.state_head(inputs).chunk(2, dim=-1)
        return mu_and, log_var_and.clamp(-_LOG_VAR_BOUND, _LOG_VAR_BOUND)

    def decode(self, s_and: Tensor, c_ank: Tensor) -> Tensor:
        """The likelihood's numbers for each gene, (A, n, heads * g)."""
        return self.output(self.decoder(torch.cat([c_ank, s_and], dim=-1)))

    def reconstruction(self, cells: Cells, s_and: Tensor, c_ank: Tensor) -> Tensor:
        """-E log p(x|s,c), the mean over cells, shape (A,); what ``decode`` gives is never in memory all at once."""
        h_anh = self.decoder(torch.cat([c_ank, s_and], dim=-1))
        rows = [self._rounded(x) for x in rows_of_arms(cells)]
        return self.output.loss(self.shape.likelihood, rows, h_anh, self.log_theta)

    def _rounded(self, x: Rows) -> Rows:
        return x if self.precision is None else x.in_precision(self.precision)
