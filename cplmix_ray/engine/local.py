"""All arms packed in this process."""

from collections.abc import Iterator

import torch

from cplmix_ray.config import Config
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.engine.plan import Plan
from cplmix_ray.trainer.events import Event
from cplmix_ray.trainer.loop import Start, train_arms


def train_packed(plan: Plan, config: Config, data: TrainingSet, start: Start) -> Iterator[Event]:
    """Run the loop here; the number of threads is put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.placement.threads or before)
    try:
        yield from train_arms(config, data, plan.workers[0], torch.device("cuda" if plan.gpu else "cpu"), start)
    finally:
        torch.set_num_threads(before)
