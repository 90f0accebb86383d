"""One training step of Eq. 7 of Marghi et al. (2021) for the arms of one worker."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.augmentations.augmentation import Augmentation, changed_rows, chosen_rows
from cplmix_ray.collectives.unit_sum import UnitSum, sum_gradients
from cplmix_ray.couplings.coupling import build_coupling
from cplmix_ray.data.device_transfer import Reader
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.cplmixvae.network import Encoded
from cplmix_ray.models.cplmixvae.objective import (
    Terms,
    aligning,
    categorical_entropy,
    loss_of,
    marginal_entropy,
    state_kl,
    weights_at,
)
from cplmix_ray.models.finite_checks import require_finite
from cplmix_ray.models.schedules import lr_at
from cplmix_ray.nn.dense_rows import ArmRows
from cplmix_ray.nn.rows import Rows, stacked
from cplmix_ray.nn.sampling import gaussian_sample, gumbel_noise, gumbel_softmax
from cplmix_ray.utils.errors import NonFiniteError
from cplmix_ray.utils.randomness import AUGMENT, DROPOUT, GUMBEL, STATE


@dataclass(frozen=True)
class StepContext:
    """Inputs of a training step that are the same for all steps.

    Args:
        rows: reads rows of the data onto the device of the arms.
        augmentations: applied in this order.
        n_steps: number of steps of the run, for the schedules.
        unit_sum: sums over the arms of all workers.
        log_prior_k: log-abundances of the initial clusters; None if no initial clustering is learned.
        covariates_of: columns of the covariates of rows of the data on the device, (n, v); None without covariates.
    """

    config: CplMixVAEConfig
    rows: Reader
    augmentations: list[Augmentation]
    n_steps: int
    unit_sum: UnitSum
    log_prior_k: Tensor | None = None
    covariates_of: Callable[[np.ndarray], Tensor | None] = lambda idx_n: None


@dataclass(frozen=True)
class ArmBatch:
    """The cells of a minibatch as each arm has them.

    Attributes:
        rows: values of each arm's cells.
        covariates_anv: columns of the covariates of each arm's cells, (A_local, n, v); None without covariates.
    """

    rows: list[Rows]
    covariates_anv: Tensor | None = None


def augmented_batch(group: ArmGroup, context: StepContext, idx_n: np.ndarray) -> ArmBatch:
    """Augmented cells of each arm: independent copies of the same cells.

    A copy that is another cell has the covariates of that cell.

    Args:
        idx_n: rows of the whole minibatch, of which the shards on this worker are used.
    """
    held, rows, covariates = _held(group, idx_n), [], []
    for generators in group.generators_for(AUGMENT):
        parts = []
        for idx, generator in zip(held, generators, strict=True):
            idx = chosen_rows(context.augmentations, idx, generator)
            parts.append(changed_rows(context.augmentations, idx, context.rows, generator))
            covariates.append(context.covariates_of(idx.numpy()))
        rows.append(stacked(parts))
    return ArmBatch(rows, _stacked_covariates(covariates, len(rows)))


def whole_batch(group: ArmGroup, context: StepContext, idx_n: np.ndarray) -> ArmBatch:
    """The cells of a minibatch without augmentation, for each arm."""
    held, n_arms = _held(group, idx_n), len(group.arms)
    rows = stacked([context.rows(idx) for idx in held])
    covariates = [context.covariates_of(idx.numpy()) for idx in held]
    return ArmBatch([rows] * n_arms, _stacked_covariates(covariates * n_arms, n_arms))


def _stacked_covariates(parts: list[Tensor | None], n_arms: int) -> Tensor | None:
    """(A_local, n, v) from the covariates of every shard of each arm, arm by arm."""
    found = [part for part in parts if part is not None]
    return torch.cat(found).unflatten(0, (n_arms, -1)) if found else None


def _held(group: ArmGroup, idx_n: np.ndarray) -> list[Tensor]:
    """Rows of the shards on this worker."""
    shards = np.split(idx_n, group.shards.n)
    return [torch.as_tensor(shards[shard]) for shard in group.shards.held]


def train_step(
    group: ArmGroup,
    context: StepContext,
    cells: ArmRows,
    step: int,
    guess_anm: Tensor | None = None,
    targets: ArmRows | None = None,
    covariates_anv: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Forward pass, one sum over arms, backward pass, update.

    Args:
        cells: augmented cells of the minibatch: the rows of each arm, or a tensor (A_local, n, g).
        step: counted from 0.
        guess_anm: initial categories of the cells that each arm learns, (A_local, n, m).
        targets: what the arms reconstruct; default: ``cells``.
        covariates_anv: columns of the covariates of the targets, (A_local, n, v).

    Returns:
        Terms of each arm by name, each (A_local,), and the pairwise distance over all arms (scalar).

    Raises:
        NonFiniteError: a term or a gradient is not finite; the weights are then unchanged.
    """
    config, network = context.config, group.network
    weights, n_arms = weights_at(step, config), config.model.n_arms
    coupling = build_coupling(weights.coupling, n_arms, config.objective.sigma_floor, group.shards)
    network.train()
    dropout_generators = group.generators_for(DROPOUT)
    encoded = network.encode(cells, config.model.input_dropout, dropout_generators, fine=aligning(step, config))
    sent = coupling.send(encoded.log_q_ank)
    # The sum depends only on the encoder, so it is computed while the decoder runs.
    pending = context.unit_sum.launch(sent.u_ank, sent.norm2_a)
    entropy = categorical_entropy(encoded.log_q_ank).mean(-1)
    marginal = marginal_entropy(encoded.log_q_ank, context.log_prior_k, group.shards.average)
    guess = _guess_loss(encoded.log_q_ank, guess_anm) if weights.guess else None
    if weights.reconstruction is None:
        terms = Terms(entropy, marginal, guess=guess)
    else:
        decoded = _decode(group, config, cells if targets is None else targets, encoded, covariates_anv)
        terms = Terms(entropy, marginal, *decoded, guess)
    report = terms.named()
    require_finite({**report, "coupling": sent.norm2_a}, group.arms, step)

    sum_nk, norm2_total = pending.wait()
    distance = coupling.pairwise(norm2_total, sum_nk)
    if not torch.isfinite(distance):
        raise NonFiniteError("coupling", None, step)
    own_a, surrogate_a = loss_of(terms, n_arms, weights), coupling.surrogate(sent, sum_nk)
    group.optimiser.zero_grad(set_to_none=True)
    ((own_a + weights.lam * surrogate_a).sum() * group.shards.fraction).backward()
    report["loss"] = own_a + weights.lam * coupling.share(surrogate_a, sum_nk)
    report["gradient"] = _update(group, context, step, report["loss"])
    report["sigma_floored"] = sent.floored_a
    return {name: value.detach() for name, value in report.items()}, distance


def _guess_loss(log_q_ank: Tensor, guess_anm: Tensor | None) -> Tensor:
    """-E log q of the initial categories, (A_local,)."""
    assert guess_anm is not None
    return -log_q_ank.gather(-1, guess_anm).mean((1, 2))


def _decode(
    group: ArmGroup, config: CplMixVAEConfig, cells: ArmRows, encoded: Encoded, covariates_anv: Tensor | None
) -> tuple[Tensor, Tensor]:
    """-E log p(x|s,c) and the KL divergence of the state, with one sample of category and state; each (A_local,)."""
    network = group.network
    c_ank = gumbel_softmax(encoded.log_q_ank, _noise(group, GUMBEL, encoded.log_q_ank), config.model.gumbel_temperature)
    mu_and, log_var_and = network.state(encoded.z_anb, c_ank, cells, covariates_anv)
    s_and = gaussian_sample(mu_and, log_var_and, _noise(group, STATE, mu_and))
    return network.reconstruction(cells, s_and, c_ank, covariates_anv), state_kl(mu_and, log_var_and).mean(-1)


def _update(group: ArmGroup, context: StepContext, step: int, loss_a: Tensor) -> Tensor:
    """Clip the gradient of each arm and update the weights with Adam; returns the norms before clipping, (A_local,)."""
    training, parameters = context.config.training, list(group.network.parameters())
    if context.config.model.shared_parameters:
        context.unit_sum.reduce_gradients(parameters)
    sum_gradients(parameters, group.shards.group)
    norms = [torch.linalg.vector_norm(p.grad.flatten(1), dim=1) for p in parameters if p.grad is not None]
    norm_a = torch.linalg.vector_norm(torch.stack(norms), dim=0).expand(len(group.arms))
    require_finite({"loss": loss_a, "gradient": norm_a}, group.arms, step)
    if training.clip is not None:
        scale_a = (training.clip / (norm_a + 1e-12)).clamp_max(1.0)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(scale_a[: len(parameter)].view(-1, *[1] * (parameter.dim() - 1)))
    for settings in group.optimiser.param_groups:
        settings["lr"] = lr_at(step, context.n_steps, training)
    group.optimiser.step()
    return norm_a


def _noise(group: ArmGroup, purpose: str, like_ani: Tensor) -> Tensor:
    """Independent noise of each arm in the shape of ``like_ani``: Gumbel for the category, Gaussian for the state."""
    n, width = like_ani.shape[1:]
    shape = (n // len(group.shards.held), width)

    def draw(generator: torch.Generator) -> Tensor:
        if purpose == GUMBEL:
            return gumbel_noise(shape, generator)
        return torch.randn(shape, generator=generator, device=group.device)

    return torch.stack([torch.cat([draw(each) for each in generators]) for generators in group.generators_for(purpose)])
