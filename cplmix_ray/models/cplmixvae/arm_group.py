"""The arms of one worker with all that changes while they train: weights, Adam's moments, generators."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cplmix_ray.collectives.shards import WHOLE, Shards
from cplmix_ray.config import Config
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.distributions import LIKELIHOODS
from cplmix_ray.models.cplmixvae.network import ArmShape, PackedArms
from cplmix_ray.nn.adam import Adam
from cplmix_ray.utils.randomness import INIT, arm_generators

_MOMENTS = ("exp_avg", "exp_avg_sq")


def resolve_likelihood(config: Config, preparation: Preparation) -> str:
    """The likelihood with 'auto' resolved for the kind of data."""
    if config.model.likelihood != "auto":
        return config.model.likelihood
    return "bernoulli" if preparation.kind == "images" else "gaussian"


def build_network(n_arms: int, config: Config, preparation: Preparation) -> PackedArms:
    """Networks of ``n_arms`` arms for data so prepared, not yet initialised."""
    likelihood = LIKELIHOODS[resolve_likelihood(config, preparation)]
    shape = ArmShape(len(preparation.var_names), likelihood, preparation.library, preparation.image_shape)
    precision = None if config.placement.precision == "float32" else getattr(torch, config.placement.precision)
    return PackedArms(n_arms, config.model, shape, precision)


class ArmGroup:
    """Arms ``arms`` (indices within the run) on one device.

    Args:
        saved: a snapshot's arms to go on from, taken on any layout; None initialises from the seed.
        step: steps already done.
        shards: the shares of a minibatch that are held here.
    """

    def __init__(
        self,
        config: Config,
        preparation: Preparation,
        arms: Sequence[int],
        device: torch.device,
        saved: dict[int, dict[str, Tensor]] | None = None,
        step: int = 0,
        shards: Shards = WHOLE,
    ):
        self.arms, self.device, self.shards = tuple(arms), device, shards
        self.network = build_network(len(arms), config, preparation)
        if saved is None:
            cpu = torch.device("cpu")  # weights do not depend on the device that they end up on
            owners = [0] if config.model.shared_parameters else arms
            self.network.draw([arm_generators(config.seed, arm, cpu, [INIT])[INIT] for arm in owners])
        self.network.to(device)
        self.network.share_out(self.shards)
        self.optimiser = Adam(self.network.parameters(), config.training.lr)
        self.generators = [
            [arm_generators(config.seed, arm, device, shard=shard) for shard in self.shards.held] for arm in arms
        ]
        if saved is not None:
            self._restore(saved, step, config.seed)

    def draws(self, purpose: str) -> list[list[torch.Generator]]:
        """Each arm's generators for a purpose, one for each share of a minibatch held here."""
        return [[generators[purpose] for generators in own] for own in self.generators]

    def snapshot(self) -> dict[int, dict[str, Tensor]]:
        """Copies of every arm's tensors on the CPU; nothing in them says which arms shared a worker.

        Workers that hold other shares of the same arms' minibatches tell of their generators alone.
        """
        return {arm: {name: t.detach().cpu().clone() for name, t in self._named(i)} for i, arm in enumerate(self.arms)}

    def load_weights(self, saved: dict[int, dict[str, Tensor]]) -> None:
        """Take over the weights alone, for inference."""
        with torch.no_grad():
            for i, arm in enumerate(self.arms):
                for name, tensor in self._weights(i):
                    tensor.copy_(saved[arm][f"network/{name}"])

    def _weights(self, i: int) -> Iterator[tuple[str, Tensor]]:
        """The i-th arm's slice of every weight and running statistic; arms that share a weight have the same slice."""
        for name, tensor in [*self.network.named_parameters(), *self.network.named_buffers()]:
            yield name, tensor[min(i, tensor.shape[0] - 1)]

    def _named(self, i: int) -> Iterator[tuple[str, Tensor]]:
        yield from self._learned(i) if self.shards.speaks else ()
        for shard, generators in zip(self.shards.held, self.generators[i], strict=True):
            for purpose, generator in generators.items():
                yield _generator_name(purpose, shard), generator.get_state()

    def _learned(self, i: int) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._weights(i):
            yield f"network/{name}", tensor
        for name, parameter in self.network.named_parameters():
            state = self.optimiser.state.get(parameter)
            if state:  # weights that had no gradient yet have no moments
                yield f"adam/{name}/step", state["step"]
                for moment in _MOMENTS:
                    yield f"adam/{name}/{moment}", state[moment][min(i, len(parameter) - 1)]

    def _restore(self, saved: dict[int, dict[str, Tensor]], step: int, seed: int) -> None:
        self.load_weights(saved)
        for name, parameter in self.network.named_parameters():
            if any(f"adam/{name}/{_MOMENTS[0]}" in saved[arm] for arm in self.arms):
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(step), device=self.device),
                    **{moment: torch.zeros_like(parameter) for moment in _MOMENTS},
                }
        for i, arm in enumerate(self.arms):
            for name, tensor in self._learned(i):
                if name.startswith("adam/") and name in saved[arm]:
                    tensor.copy_(saved[arm][name])
            self._restore_generators(i, saved[arm], step, seed)

    def _restore_generators(self, i: int, saved: dict[str, Tensor], step: int, seed: int) -> None:
        for at, shard in enumerate(self.shards.held):
            fresh = self.generators[i][at]
            states = {p: saved[name] for p in fresh if (name := _generator_name(p, shard)) in saved}
            if all(p in states and states[p].shape == g.get_state().shape for p, g in fresh.items()):
                for purpose, state in states.items():
                    fresh[purpose].set_state(state)
            else:  # saved on another kind of device, or with fewer shares: same law, other numbers
                self.generators[i][at] = arm_generators(seed, self.arms[i], self.device, step=step, shard=shard)


def _generator_name(purpose: str, shard: int) -> str:
    return f"generators/{purpose}/{shard}" if shard else f"generators/{purpose}"
