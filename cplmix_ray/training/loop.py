"""The training loop of one worker: a generator of events, the same wherever it runs."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.augmentations.build import build_copies
from cplmix_ray.collectives.arm_sum import ArmSum
from cplmix_ray.collectives.process_groups import Peers
from cplmix_ray.collectives.shards import Shards
from cplmix_ray.config import Config
from cplmix_ray.data.device_transfer import row_reader
from cplmix_ray.data.training_set import TrainingSet, copies_for
from cplmix_ray.distributed.events import Evaluated, Event, Logged, Snapshot
from cplmix_ray.evaluation.inference import posteriors
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
from cplmix_ray.models.cplmixvae.category_merging import merge_categories
from cplmix_ray.models.cplmixvae.schedules import lr_at, weights_at
from cplmix_ray.models.cplmixvae.training_step import Exercise, draw_copies, train_step
from cplmix_ray.training.batch_source import Supply, open_supply
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.finite_checks import require_finite_posteriors, require_finite_tensors


@dataclass(frozen=True)
class Start:
    """Where a run begins: after ``step`` steps, from the arms' saved tensors (None: from the seed)."""

    step: int = 0
    arms: dict[int, dict[str, Tensor]] | None = None


def log_abundances(guess_n: Tensor, n_categories: int) -> Tensor:
    """Log of the share of each guessed category, shape (K,); one that is not used has half a cell."""
    cells_k = torch.bincount(guess_n, minlength=n_categories).float().clamp_min(0.5)
    return (cells_k / cells_k.sum()).log()


def train_arms(
    config: Config,
    data: TrainingSet,
    arms: Sequence[int],
    device: torch.device,
    start: Start,
    peers: Peers | None = None,
) -> Iterator[Event]:
    """Train ``arms`` of the run; the others train with the ``peers``, or are all here where there are none.

    Yields:
        Terms of the objective every ``log_every`` steps, posteriors every ``evaluate_every``, snapshots every
        ``checkpoint_every`` and at the end. Where several workers hold the same arms, the first tells of them; what
        the others tell holds no arm, and in snapshots their own generators.

    Raises:
        InputError: a minibatch cannot be shared out evenly, or cells that stay on disk cannot be read.
        NonFiniteError: a term, a gradient, a posterior, a weight or a statistic is not finite.
    """
    with open_supply(data, config) as supply:
        yield from _train(config, data, supply, arms, device, start, peers or Peers.alone(config.placement.replicas))


def _train(
    config: Config,
    data: TrainingSet,
    supply: Supply,
    arms: Sequence[int],
    device: torch.device,
    start: Start,
    peers: Peers,
) -> Iterator[Event]:
    training = config.training
    shards = peers.shards
    n_steps = training.steps(len(data.train_idx))
    ours = None if start.arms is None else {arm: start.arms[arm] for arm in arms}
    worker = ArmGroup(config, data.preparation, arms, device, ours, start.step, shards)
    chain = build_copies(copies_for(config, data.preparation, data.values_ng), config.copies, data, supply.stand_ins)
    guess = None if data.guess is None or not config.guesses else torch.as_tensor(data.guess)
    prior = None if guess is None else log_abundances(guess[data.train_idx], config.model.n_categories).to(device)
    exercise = Exercise(config, row_reader(supply.values_ng, device), chain, n_steps, ArmSum(peers.arms), prior)
    _require_even_shares(min(training.batch_size, len(data.train_idx)), shards.n)
    begun = time.perf_counter()

    for step in range(start.step, n_steps):
        idx_n = supply.batch(step)
        guess_n = None if guess is None else guess[here(idx_n, shards)].to(device)
        terms, distance = train_step(worker, exercise, draw_copies(worker, exercise, idx_n), step, guess_n)
        done = step + 1
        peers.tell(done)
        last = done == n_steps
        # In the first stage whatever is scored or saved has its fine categories merged as they would be then.
        shown = last or done % training.evaluate_every == 0 or done % training.checkpoint_every == 0
        first_stage = config.alignment.align_steps
        if config.model.overcluster > 1 and (done == first_stage or (done < first_stage and shown)):
            merge_categories(worker, exercise, supply.at_hand, done)
        if done % training.log_every == 0 or last:
            terms, distance = whole_minibatch(terms, distance, shards)
            per_arm = {name: value.tolist() if shards.speaks else [] for name, value in terms.items()}
            common = {
                "distance": float(distance),
                "lam": weights_at(step, config).lam,
                "lr": lr_at(step, n_steps, training),
            }
            seconds = time.perf_counter() - begun
            yield Logged(done, per_arm, common, seconds, exercise.arm_sum.waited, exercise.arm_sum.sent)
        if (done % training.evaluate_every == 0 or last) and len(data.val_idx):
            yield _validation(worker, exercise, data.val_idx, done)
        if done % training.checkpoint_every == 0 or last:
            snapshot = Snapshot(done, worker.snapshot())
            require_finite_tensors(snapshot.arms, step)
            yield snapshot


def here(idx_n: np.ndarray, shards: Shards) -> np.ndarray:
    """Of the rows of a minibatch, those that this worker holds."""
    shares = np.split(idx_n, shards.n)
    return np.concatenate([shares[shard] for shard in shards.held])


def whole_minibatch(terms: dict[str, Tensor], distance: Tensor, shards: Shards) -> tuple[dict[str, Tensor], Tensor]:
    """Terms and distance averaged over the shares of the minibatch."""
    if shards.group is None:
        return terms, distance
    packed = torch.stack([*terms.values(), distance.expand_as(next(iter(terms.values())))]).float()
    *values, distances = shards.average(packed)
    return dict(zip(terms, values, strict=True)), distances[0]


def _validation(worker: ArmGroup, exercise: Exercise, val_idx: np.ndarray, done: int) -> Evaluated:
    """Posteriors and reconstruction of this worker's arms; of none where another worker tells of them."""
    if not worker.shards.speaks:
        return Evaluated(done, np.zeros((0, len(val_idx), exercise.config.model.n_categories), np.float32), [])
    log_q_ank, reconstruction = posteriors(worker.network, exercise.rows, val_idx)
    require_finite_posteriors(log_q_ank, reconstruction, worker.arms, done - 1, "validation cells")
    return Evaluated(done, log_q_ank, reconstruction)


def _require_even_shares(batch_size: int, replicas: int) -> None:
    if batch_size % replicas:
        raise InputError(
            f"A minibatch of {batch_size} cells cannot be shared out evenly among --replicas {replicas}; choose a "
            f"--batch-size that is a multiple of it."
        )
