"""The training loop of one worker: a generator of events, the same on every engine and for every model family."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cplmix_ray.collectives.process_groups import ProcessGroups
from cplmix_ray.collectives.shards import Shards
from cplmix_ray.config import RunConfig
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.evaluation.inference import infer_rows
from cplmix_ray.models.base import Batch, Family, Model, Parts, Report, TrainingContext
from cplmix_ray.models.finite_checks import require_finite_outputs, require_finite_parts
from cplmix_ray.models.registry import family_of
from cplmix_ray.training.batch_source import BatchSource, open_batch_source
from cplmix_ray.training.events import Evaluated, Event, Logged, Snapshot
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.extensions import load_extensions


@dataclass(frozen=True)
class Start:
    """Start of training: after ``step`` steps, from saved parts (None: from the seed)."""

    step: int = 0
    parts: Parts | None = None


def training_loop(
    config: RunConfig,
    data: TrainingSet,
    units: Sequence[int],
    device: torch.device,
    start: Start,
    groups: ProcessGroups | None = None,
) -> Iterator[Event]:
    """Train some units of a run.

    Args:
        groups: the workers that train the other units; None if there are none.

    Yields:
        Terms of the objective every ``log_every`` steps, outputs for the validation cells every ``evaluate_every``
        steps, snapshots every ``checkpoint_every`` steps, and all of them at the end. If several workers have the same
        units, the first reports for all: the events of the others contain no values, and their snapshots only their
        random generators.

    Raises:
        InputError: a minibatch cannot be divided evenly, or cells on disk cannot be read.
        NonFiniteError: a term, a gradient, an output, a weight or a statistic is not finite.
    """
    load_extensions()
    groups = groups or ProcessGroups.single_process(config.placement.replicas)
    family = family_of(config)
    with open_batch_source(data, config, device, family.sampler_key) as batches:
        yield from _train(config, data, batches, family, units, device, start, groups)


def _train(
    config: RunConfig,
    data: TrainingSet,
    batches: BatchSource,
    family: Family,
    units: Sequence[int],
    device: torch.device,
    start: Start,
    groups: ProcessGroups,
) -> Iterator[Event]:
    training, shards = config.training, groups.shards
    n_steps = training.steps(len(data.train_idx))
    model = family.build(config, data.preparations, units, device)
    model.start_training(TrainingContext(data, batches, groups, n_steps, start.step), start.parts)
    require_even_shards(config, len(data.train_idx))
    unit_of = {part: unit for unit, parts in enumerate(family.units(config)) for part in parts}
    started = time.perf_counter()

    for step in range(start.step, n_steps):
        report = model.training_step(Batch(batches.batch(step), batches, shards), step)
        done = step + 1
        groups.on_step(done)
        last = done == n_steps
        evaluated = last or done % training.evaluate_every == 0
        saved = last or done % training.checkpoint_every == 0
        model.after_step(done, evaluated or saved)
        if done % training.log_every == 0 or last:
            terms, shared = _whole_minibatch(report, shards)
            by_unit = {name: value.tolist() if shards.reports else [] for name, value in terms.items()}
            scalars = {name: float(value) for name, value in shared.items()}
            seconds = time.perf_counter() - started
            yield Logged(done, by_unit, scalars, report.settings, seconds, report.waited, report.sent)
        if evaluated and len(data.val_idx):
            yield _evaluated(model, family, batches, data, done, shards)
        if saved:
            snapshot = Snapshot(done, model.parts())
            require_finite_parts(snapshot.parts, step, unit_of, family.unit)
            yield snapshot


def _whole_minibatch(report: Report, shards: Shards) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Terms and shared values, averaged over the shards of the minibatch."""
    if shards.group is None:
        return report.terms, report.shared
    like = next(iter(report.terms.values()))
    packed = torch.stack([*report.terms.values(), *(value.expand_as(like) for value in report.shared.values())]).float()
    averaged = shards.average(packed)
    terms = dict(zip(report.terms, averaged, strict=False))
    return terms, {name: value[0] for name, value in zip(report.shared, averaged[len(terms) :], strict=True)}


def _evaluated(
    model: Model, family: Family, batches: BatchSource, data: TrainingSet, done: int, shards: Shards
) -> Evaluated:
    """Outputs of this worker's units for the validation cells; empty if another worker reports them."""
    if not shards.reports or not family.validated:
        return Evaluated(done, {})
    outputs = infer_rows(model, family, batches, data, data.val_idx, family.validated)
    require_finite_outputs(outputs, family, model.units, done - 1, "validation cells")
    return Evaluated(done, outputs)


def require_even_shards(config: RunConfig, n_train: int) -> None:
    """Check that a minibatch can be divided among the replicas.

    Args:
        n_train: number of training cells.

    Raises:
        InputError: it cannot be divided evenly.
    """
    batch_size, replicas = min(config.training.batch_size, n_train), config.placement.replicas
    if batch_size % replicas:
        raise InputError(
            f"A minibatch of {batch_size} cells cannot be divided evenly among --replicas {replicas}; choose a "
            f"--batch-size that is a multiple of it."
        )
