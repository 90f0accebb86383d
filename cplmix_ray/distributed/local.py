"""All arms packed in this process."""

from collections.abc import Iterator

import torch

from cplmix_ray.config import Config
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.events import Event
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.training.loop import Start, train_arms
from cplmix_ray.utils.threads import torch_threads


def train_packed(plan: Plan, config: Config, data: TrainingSet, start: Start) -> Iterator[Event]:
    """Run the loop here; the number of threads is put back afterwards."""
    with torch_threads(config.placement.threads):
        yield from train_arms(config, data, plan.workers[0], torch.device("cuda" if plan.gpu else "cpu"), start)
