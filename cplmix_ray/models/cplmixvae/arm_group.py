"""The arms of one worker with everything that changes during training: weights, Adam's moments, random generators."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cplmix_ray.collectives.shards import WHOLE, Shards
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.distributions.likelihood import LIKELIHOODS
from cplmix_ray.models.base import Parts
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.cplmixvae.dataset import resolved_model
from cplmix_ray.models.cplmixvae.network import ArmShape, PackedArms
from cplmix_ray.nn.adam import Adam
from cplmix_ray.utils.randomness import INIT, arm_generators

_MOMENTS = ("exp_avg", "exp_avg_sq")


def build_network(n_arms: int, config: CplMixVAEConfig, preparation: Preparation) -> PackedArms:
    """Networks of ``n_arms`` arms for prepared data, without initial weights."""
    model = resolved_model(config, preparation)
    shape = ArmShape(
        len(preparation.var_names),
        LIKELIHOODS[model.likelihood],
        preparation.library,
        preparation.image_shape,
        preparation.covariates,
    )
    precision = None if config.placement.precision == "float32" else getattr(torch, config.placement.precision)
    return PackedArms(n_arms, model, shape, precision, config.objective.beta)


def part_of(arm: int) -> str:
    """Name of an arm's part of a checkpoint."""
    return f"arm-{arm}"


def load_weights(network: PackedArms, arms: Sequence[int], saved: Parts) -> None:
    """Copy saved weights and running statistics of ``arms`` into their network."""
    with torch.no_grad():
        for i, arm in enumerate(arms):
            for name, tensor in arm_weights(network, i):
                tensor.copy_(saved[part_of(arm)][f"network/{name}"])


def arm_weights(network: PackedArms, i: int) -> Iterator[tuple[str, Tensor]]:
    """The i-th arm's slice of every weight and running statistic; for shared weights, the only slice."""
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        yield name, tensor[min(i, tensor.shape[0] - 1)]


class ArmGroup:
    """Arms of one worker during training: weights, Adam's moments, random generators.

    Args:
        arms: their indices within the run.
        saved: parts of a snapshot to continue from, written with any layout; None initialises from the seed.
        step: number of steps already done.
        shards: the shards of a minibatch on this worker.
    """

    def __init__(
        self,
        config: CplMixVAEConfig,
        preparation: Preparation,
        arms: Sequence[int],
        device: torch.device,
        saved: Parts | None = None,
        step: int = 0,
        shards: Shards = WHOLE,
    ):
        self.arms, self.device, self.shards = tuple(arms), device, shards
        self.network = build_network(len(arms), config, preparation)
        if saved is None:
            cpu = torch.device("cpu")  # so that initial weights do not depend on the device
            owners = [0] if config.model.shared_parameters else arms
            self.network.draw([arm_generators(config.seed, arm, cpu, [INIT])[INIT] for arm in owners])
        self.network.to(device)
        self.network.set_shards(self.shards)
        self.optimiser = Adam(self.network.parameters(), config.training.lr)
        self.generators = [
            [arm_generators(config.seed, arm, device, shard=shard) for shard in self.shards.held] for arm in arms
        ]
        if saved is not None:
            self._restore(saved, step, config.seed)

    def generators_for(self, purpose: str) -> list[list[torch.Generator]]:
        """Random generators of each arm for a purpose, one for each shard of a minibatch on this worker."""
        return [[generators[purpose] for generators in own] for own in self.generators]

    def snapshot(self) -> Parts:
        """Copies of the tensors of every arm on the CPU, independent of the distribution of arms over workers.

        Of several workers with the same arms, all but the first return only their random generators.
        """
        return {
            part_of(arm): {name: t.detach().cpu().clone() for name, t in self._named(i)}
            for i, arm in enumerate(self.arms)
        }

    def _named(self, i: int) -> Iterator[tuple[str, Tensor]]:
        yield from self._learned(i) if self.shards.reports else ()
        for shard, generators in zip(self.shards.held, self.generators[i], strict=True):
            for purpose, generator in generators.items():
                yield _generator_name(purpose, shard), generator.get_state()

    def _learned(self, i: int) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in arm_weights(self.network, i):
            yield f"network/{name}", tensor
        for name, parameter in self.network.named_parameters():
            state = self.optimiser.state.get(parameter)
            if state:  # weights that had no gradient yet have no moments
                yield f"adam/{name}/step", state["step"]
                for moment in _MOMENTS:
                    yield f"adam/{name}/{moment}", state[moment][min(i, len(parameter) - 1)]

    def _restore(self, saved: Parts, step: int, seed: int) -> None:
        load_weights(self.network, self.arms, saved)
        for name, parameter in self.network.named_parameters():
            if any(f"adam/{name}/{_MOMENTS[0]}" in saved[part_of(arm)] for arm in self.arms):
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(step), device=self.device),
                    **{moment: torch.zeros_like(parameter) for moment in _MOMENTS},
                }
        for i, arm in enumerate(self.arms):
            for name, tensor in self._learned(i):
                if name.startswith("adam/") and name in saved[part_of(arm)]:
                    tensor.copy_(saved[part_of(arm)][name])
            self._restore_generators(i, saved[part_of(arm)], step, seed)

    def _restore_generators(self, i: int, saved: dict[str, Tensor], step: int, seed: int) -> None:
        for at, shard in enumerate(self.shards.held):
            fresh = self.generators[i][at]
            states = {p: saved[name] for p in fresh if (name := _generator_name(p, shard)) in saved}
            if all(p in states and states[p].shape == g.get_state().shape for p, g in fresh.items()):
                for purpose, state in states.items():
                    fresh[purpose].set_state(state)
            else:  # saved on another kind of device, or with fewer shards: same distribution, other numbers
                self.generators[i][at] = arm_generators(seed, self.arms[i], self.device, step=step, shard=shard)


def _generator_name(purpose: str, shard: int) -> str:
    return f"generators/{purpose}/{shard}" if shard else f"generators/{purpose}"
