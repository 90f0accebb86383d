"""Independent pieces of work as Ray tasks, one on each device."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from cplmix_ray.config import Placement
from cplmix_ray.distributed.failure_causes import cause_of, short_text
from cplmix_ray.distributed.placement_group import worker_resources
from cplmix_ray.distributed.ray_init import cluster_devices, ray_session
from cplmix_ray.utils.errors import InputError, TrainingError
from cplmix_ray.utils.extensions import load_extensions

RunTasks = Callable[[Callable[..., Any], Sequence[tuple]], list]
"""``function(shared, *each)`` for each of the arguments, in parallel; the results in their order."""


@contextlib.contextmanager
def ray_tasks(shared: Any, placement: Placement) -> Iterator[RunTasks]:
    """A function that runs tasks on Ray, which is connected until the context ends.

    Args:
        shared: put into the object store once; all tasks on a node read the same copy.

    Raises:
        InputError, TrainingError: raised by the function if a task failed; the others are ended.
    """
    with ray_session(placement.ray_address):
        gpu = cluster_devices(placement).gpus > 0 and placement.device != "cpu"
        needs = worker_resources(gpu)
        task = ray.remote(num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0.0))(_call)
        stored = ray.put(shared)

        def run(function: Callable[..., Any], arguments: Sequence[tuple]) -> list:
            running = [task.remote(function, stored, each) for each in arguments]
            try:
                return ray.get(running)
            except RayError as error:
                cause = cause_of(error)
                if isinstance(cause, InputError | TrainingError):
                    raise cause from None
                why = f"A Ray task failed ({short_text(cause)}); repeat the command with --resume."
                raise TrainingError(why) from None
            finally:
                for each in running:
                    ray.cancel(each, force=True)

        yield run


def _call(function: Callable[..., Any], shared: Any, arguments: tuple) -> Any:
    load_extensions()
    torch.set_num_threads(1)
    return function(shared, *arguments)
