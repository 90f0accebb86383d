"""One step of Eq. 7 for the arms of one worker."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.augmentations.base import Copy, make_copies
from cplmix_ray.collectives.arm_sum import ArmSum, sum_gradients
from cplmix_ray.config import Config
from cplmix_ray.couplings.build import build_coupling
from cplmix_ray.data.device_transfer import Reader
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
from cplmix_ray.models.cplmixvae.network import Encoded
from cplmix_ray.models.cplmixvae.objective import Terms, categorical_entropy, loss_of, marginal_entropy, state_kl
from cplmix_ray.models.cplmixvae.schedules import aligning, lr_at, weights_at
from cplmix_ray.nn.arm_rows import Cells
from cplmix_ray.nn.rows import Rows
from cplmix_ray.nn.sampling import gaussian_sample, gumbel_noise, gumbel_softmax
from cplmix_ray.nn.stacked_rows import stacked
from cplmix_ray.utils.errors import NonFiniteError
from cplmix_ray.utils.finite_checks import require_finite
from cplmix_ray.utils.randomness import AUGMENT, DROPOUT, GUMBEL, STATE


@dataclass(frozen=True)
class Exercise:
    """What stays the same from step to step.

    Args:
        rows: reads rows of the data onto the arms' device.
        chain: kinds of type-preserving copies.
        n_steps: length of the run, for the schedules.
        arm_sum: the sum over arms, across workers where there are several.
        log_prior_k: log-abundances of the guessed categories; None where nothing is guessed.
    """

    config: Config
    rows: Reader
    chain: list[Copy]
    n_steps: int
    arm_sum: ArmSum
    log_prior_k: Tensor | None = None


def draw_copies(group: ArmGroup, exercise: Exercise, idx_n: np.ndarray) -> list[Rows]:
    """Each arm's own copies of the same cells, of the shares of the minibatch that are held here."""
    shares = np.split(idx_n, group.shards.n)
    held = [torch.as_tensor(shares[shard]) for shard in group.shards.held]
    return [
        stacked([make_copies(exercise.chain, idx, exercise.rows, draw) for idx, draw in zip(held, own, strict=True)])
        for own in group.draws(AUGMENT)
    ]


def train_step(
    group: ArmGroup, exercise: Exercise, cells: Cells, step: int, guess_n: Tensor | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Forward, one sum over arms, backward, update.

    Args:
        cells: the arms' copies of the minibatch, the rows of each arm or a tensor (A_local, n, g).
        step: counted from 0.
        guess_n: guessed categories of the minibatch.

    Returns:
        Terms of each arm by name, each (A_local,), and the pairwise distance over all arms (scalar).

    Raises:
        NonFiniteError: a term or a gradient is not finite; the weights are then untouched.
    """
    config, network = exercise.config, group.network
    weights, n_arms = weights_at(step, config), config.model.n_arms
    coupling = build_coupling(weights.coupling, n_arms, config.objective.sigma_floor, group.shards)
    network.train()
    encoded = network.encode(cells, config.model.input_dropout, group.draws(DROPOUT), fine=aligning(step, config))
    sent = coupling.send(encoded.log_q_ank)
    # The sum needs the encoder alone: it travels while the decoder runs.
    pending = exercise.arm_sum.launch(sent.u_ank, sent.norm2_a)
    entropy = categorical_entropy(encoded.log_q_ank).mean(-1)
    spread = marginal_entropy(encoded.log_q_ank, exercise.log_prior_k, group.shards.average)
    guess = _surprise(encoded.log_q_ank, guess_n) if weights.guess else None
    if weights.reconstruction is None:
        terms = Terms(entropy, spread, guess=guess)
    else:
        terms = Terms(entropy, spread, *_decode(group, config, cells, encoded), guess)
    report = terms.named()
    require_finite({**report, "coupling": sent.norm2_a}, group.arms, step)

    sum_nk, norm2_total = pending.wait()
    distance = coupling.pairwise(norm2_total, sum_nk)
    if not torch.isfinite(distance):
        raise NonFiniteError("coupling", None, step)
    own_a, surrogate_a = loss_of(terms, n_arms, weights), coupling.surrogate(sent, sum_nk)
    group.optimiser.zero_grad(set_to_none=True)
    ((own_a + weights.lam * surrogate_a).sum() * group.shards.part).backward()
    report["loss"] = own_a + weights.lam * coupling.share(surrogate_a, sum_nk)
    report["gradient"] = _update(group, exercise, step, report["loss"])
    report["sigma_floored"] = sent.floored_a
    return {name: value.detach() for name, value in report.items()}, distance


def _surprise(log_q_ank: Tensor, guess_n: Tensor | None) -> Tensor:
    """-E log q of the guessed categories, (A_local,)."""
    assert guess_n is not None
    return -log_q_ank.gather(-1, guess_n.expand(len(log_q_ank), -1).unsqueeze(-1)).mean((1, 2))


def _decode(group: ArmGroup, config: Config, cells: Cells, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """-E log p(x|s,c) and the state's KL with one sample of category and state, each (A_local,)."""
    network = group.network
    c_ank = gumbel_softmax(encoded.log_q_ank, _noise(group, GUMBEL, encoded.log_q_ank), config.model.gumbel_temperature)
    mu_and, log_var_and = network.state(encoded.z_anb, c_ank)
    s_and = gaussian_sample(mu_and, log_var_and, _noise(group, STATE, mu_and))
    return network.reconstruction(cells, s_and, c_ank), state_kl(mu_and, log_var_and).mean(-1)


def _update(group: ArmGroup, exercise: Exercise, step: int, loss_a: Tensor) -> Tensor:
    """Clip each arm's gradient by its own norm, then Adam; returns the norms before clipping, (A_local,)."""
    training, parameters = exercise.config.training, list(group.network.parameters())
    if exercise.config.model.shared_parameters:
        exercise.arm_sum.reduce_gradients(parameters)
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
        settings["lr"] = lr_at(step, exercise.n_steps, training)
    group.optimiser.step()
    return norm_a


def _noise(group: ArmGroup, purpose: str, like_ani: Tensor) -> Tensor:
    """Each arm's own noise in the shape of ``like_ani``: Gumbel for the category, Gaussian for the state."""
    n, width = like_ani.shape[1:]
    shape = (n // len(group.shards.held), width)

    def drawn(generator: torch.Generator) -> Tensor:
        if purpose == GUMBEL:
            return gumbel_noise(shape, generator)
        return torch.randn(shape, generator=generator, device=group.device)

    return torch.stack([torch.cat([drawn(generator) for generator in own]) for own in group.draws(purpose)])
