"""The networks of the arms: encoder, categorical head, state head, decoder (Marghi et al. 2021, Fig. 1 and Eq. 7)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cplmix_ray.collectives.shards import Shards
from cplmix_ray.data.covariates import Covariate, width_of
from cplmix_ray.distributions.likelihood import Likelihood
from cplmix_ray.models.cplmixvae.config import ModelSettings
from cplmix_ray.models.cplmixvae.linear_decoder import LinearDecoder
from cplmix_ray.nn.dense_rows import ArmRows, DenseRows, rows_of_arms
from cplmix_ray.nn.gene_layers import OutputLayer
from cplmix_ray.nn.image_moments import content_view, view_side
from cplmix_ray.nn.packed_layers import PackedBatchNorm, PackedLinear, PackedMLP
from cplmix_ray.nn.rows import Rows

_LOG_VAR_BOUND = 12.0
"""Bound of the log-variance of the state, so that one bad minibatch cannot overflow."""

_SMALLEST = 1e-20
"""Lower bound of pooled probabilities, so that their logarithm is finite."""


@dataclass(frozen=True)
class ArmShape:
    """Properties of the data that the networks depend on: number of genes, likelihood, library size to which counts are
    scaled, (height, width) of images, and the encoding of covariates, the batch first."""

    n_genes: int
    likelihood: Likelihood
    library: float = 1.0
    image_shape: tuple[int, int] | None = None
    covariates: tuple[Covariate, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """Output of the encoder.

    Attributes:
        z_anb: bottleneck (A, n, b), from which the state is computed; with the encoder view 'content' it is
            concatenated with position and size of the content, (A, n, b + 3).
        log_q_ank: log q(c|x), (A, n, K) or (A, n, number of fine categories).
    """

    z_anb: Tensor
    log_q_ank: Tensor


class PackedArms(nn.Module):
    """``n_arms`` autoencoders computed in batched products; the first axis of every tensor is the arm.

    Args:
        n_arms: number of arms on this worker.
        model: settings of the arms.
        shape: properties of the data.
        precision: data type of products with the cells; None: that of the weights.
        beta: weight of the KL divergence of the state, on which the state posterior of a linear decoder depends.
    """

    pool: Tensor | None

    def __init__(
        self,
        n_arms: int,
        model: ModelSettings,
        shape: ArmShape,
        precision: torch.dtype | None = None,
        beta: float = 1.0,
    ):
        super().__init__()
        self.precision = precision
        self.n_arms, self.model, self.shape = n_arms, model, shape
        n_sets = 1 if model.shared_parameters else n_arms
        n_k, n_d, n_b = model.n_k, model.state_dim, model.bottleneck
        content = model.encoder_view == "content"
        if content:
            assert shape.image_shape is not None
            n_in = view_side(shape.image_shape) ** 2
        else:
            n_in = shape.n_genes
        n_v = width_of(shape.covariates)
        state_in = n_b + 3 * content + (n_k if model.state_given_category else 0)
        back = tuple(reversed(model.hidden))
        self.encoder = PackedMLP(n_sets, n_arms, (n_in, *model.hidden, n_b), model.batch_norm)
        # With a fixed scale the bottleneck cannot shrink to zero, which would make every posterior uniform.
        self.bottleneck_norm = PackedBatchNorm(n_sets, n_arms, n_b, affine=False)
        self.pose_norm = PackedBatchNorm(n_sets, n_arms, 3, affine=False) if content else None
        self.category_head = PackedLinear(n_sets, n_b, model.n_fine)
        # 0-1 matrix of the category that each fine category belongs to, the same for all arms. On the device 'meta',
        # torch.eye would import torch's compiler, which takes a second.
        own_kk = torch.zeros(n_k, n_k).fill_diagonal_(1.0)
        pool = own_kk.repeat(n_arms, model.overcluster, 1) if model.overcluster > 1 else None
        self.register_buffer("pool", pool)
        self.linear: LinearDecoder | None = None
        if model.decoder == "linear":
            self.linear = LinearDecoder(n_sets, n_k, n_d, shape.n_genes, beta, n_v)
        else:
            self.state_head = PackedLinear(n_sets, state_in, 2 * n_d)
            self.decoder = PackedMLP(n_sets, n_arms, (n_k + n_d, n_b, *back), model.batch_norm, n_v)
            n_last = (back[-1] if back else n_b) + n_v
            self.output = OutputLayer(n_sets, n_last, shape.likelihood.heads * shape.n_genes)
        self.log_theta = None
        if shape.likelihood.has_dispersion:
            n_dispersions = shape.covariates[0].width if self._by_batch else 1
            self.log_theta = nn.Parameter(torch.zeros(n_sets, n_dispersions, shape.n_genes))

    @property
    def _by_batch(self) -> bool:
        """Whether every batch has dispersions of its own."""
        return self.model.dispersion == "gene_batch" and bool(self.shape.covariates)

    def set_shards(self, shards: Shards) -> None:
        """Set the shards of the minibatches, over all of which batch normalisation averages."""
        for module in self.modules():
            if isinstance(module, PackedBatchNorm):
                module.shards = shards

    def draw(self, generators: list[torch.Generator]) -> None:
        """Initialise each set of weights from its own generator."""
        for arm_set, generator in enumerate(generators):
            for module in self.modules():
                if isinstance(module, PackedLinear | OutputLayer | LinearDecoder):
                    module.reset_parameters(arm_set, generator)

    def encoder_input(self, x: Rows) -> Rows:
        """Input of the encoder: log-expression unchanged; counts scaled to the library size of the data, then log1p."""
        if not self.shape.likelihood.counts:
            return x
        return x.scale_rows(self.shape.library / x.row_sums().clamp_min(1.0)).map_values(torch.log1p)

    def encode(
        self,
        cells: ArmRows,
        dropout: float = 0.0,
        generators: Sequence[Sequence[torch.Generator]] | None = None,
        fine: bool = False,
    ) -> Encoded:
        """q(c|x) of the K categories, or the softmax over the fine categories of the first stage.

        Args:
            cells: the rows of each arm, or a tensor (A, n, g).
            dropout: fraction of the inputs that are dropped.
            generators: for each arm, one random generator for each shard of the minibatch on this worker.
            fine: return the posterior of the fine categories.
        """
        rows = [self.encoder_input(x) for x in rows_of_arms(cells)]
        if dropout:
            assert generators is not None
            rows = [x.dropout(dropout, own) for x, own in zip(rows, generators, strict=True)]
        inputs, pose_an3 = self._view(rows)
        z_anb = self.bottleneck_norm(self.encoder([self._rounded(x) for x in inputs]))
        logits_ank = self.category_head(z_anb)
        # Position and size are inputs of the state only, not of the category.
        z_anb = z_anb if pose_an3 is None else torch.cat([z_anb, pose_an3], dim=-1)
        return Encoded(z_anb, torch.log_softmax(logits_ank, dim=-1) if fine else self._posterior(logits_ank))

    def _view(self, rows: list[Rows]) -> tuple[list[Rows], Tensor | None]:
        """Input of the encoder, and position and size of the content, which are not part of it."""
        if self.pose_norm is None or self.shape.image_shape is None:
            return rows, None
        squares_mg, pose_m3 = content_view(torch.cat([x.dense() for x in rows]), self.shape.image_shape)
        pose_an3 = pose_m3.view(len(rows), -1, 3)
        return [DenseRows(squares_ng) for squares_ng in squares_mg.chunk(len(rows))], self.pose_norm(pose_an3)

    def _posterior(self, logits_ank: Tensor) -> Tensor:
        """log q over the K categories: of the plain softmax p, or of softmax(p / tau), which bounds log q below.

        The latter is in the authors' later code, not in the papers, whose tau is the Gumbel temperature.
        """
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
        """Set the category of each fine category, shape (fine,), for all arms."""
        assert self.pool is not None
        with torch.no_grad():
            self.pool.copy_(nn.functional.one_hot(groups, self.model.n_k).to(self.pool))

    def state(
        self, z_anb: Tensor, c_ank: Tensor, cells: ArmRows | None = None, v_anv: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(s|c,x), each (A, n, d): from z by the state head, or by a linear decoder from the
        cells and their covariates, which it requires."""
        if self.linear is not None:
            assert cells is not None
            return self.linear.posterior(rows_of_arms(cells), c_ank, v_anv)
        inputs = torch.cat([z_anb, c_ank], dim=-1) if self.model.state_given_category else z_anb
        mu_and, log_var_and = self.state_head(inputs).chunk(2, dim=-1)
        return mu_and, log_var_and.clamp(-_LOG_VAR_BOUND, _LOG_VAR_BOUND)

    def decode(self, s_and: Tensor, c_ank: Tensor, v_anv: Tensor | None = None) -> Tensor:
        """Parameters of the likelihood for each gene, (A, n, heads * g).

        Args:
            v_anv: columns of the covariates, (A, n, v); None without covariates, or for average cells.
        """
        v_anv = self._average_if_none(v_anv, s_and)
        if self.linear is not None:
            return self.linear(s_and, c_ank, v_anv)
        return self.output(self._hidden(s_and, c_ank, v_anv))

    def reconstruction(self, cells: ArmRows, s_and: Tensor, c_ank: Tensor, v_anv: Tensor | None = None) -> Tensor:
        """-E log p(x|s,c), the mean over cells, shape (A,); the output of ``decode`` is computed in blocks."""
        rows = [self._rounded(x) for x in rows_of_arms(cells)]
        v_anv = self._average_if_none(v_anv, s_and)
        if self.linear is not None:
            return self.linear.loss(self.shape.likelihood, rows, s_and, c_ank, v_anv)
        weight_anl = None
        if self.log_theta is not None and self._by_batch:
            assert v_anv is not None
            shares_l = v_anv.new_tensor(self.shape.covariates[0].shares)
            weight_anl = v_anv[..., : len(shares_l)] + shares_l
        h_anh = self._hidden(s_and, c_ank, v_anv)
        return self.output.loss(self.shape.likelihood, rows, h_anh, self.log_theta, weight_anl)

    def _hidden(self, s_and: Tensor, c_ank: Tensor, v_anv: Tensor | None) -> Tensor:
        """Input of the decoder's last layer, with the covariates, (A, n, h)."""
        h_anh = self.decoder(torch.cat([c_ank, s_and], dim=-1), v_anv)
        return h_anh if v_anv is None else torch.cat([h_anh, v_anv], dim=-1)

    def _average_if_none(self, v_anv: Tensor | None, s_and: Tensor) -> Tensor | None:
        """Columns of the covariates, zeros if a model with covariates is given none."""
        n_v = width_of(self.shape.covariates)
        return s_and.new_zeros(*s_and.shape[:2], n_v) if v_anv is None and n_v else v_anv

    def _rounded(self, x: Rows) -> Rows:
        return x if self.precision is None else x.to_dtype(self.precision)
