"""A callback in Ray Train's controller that decides whether a failure is followed by another attempt."""

from typing import Any

import ray
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

from cplmix_ray.distributed.failure_causes import error_for
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.utils.errors import WorkerLostError


class FailureCallback(UserCallback):
    """Reports lost workers to the driver, and ends the run after an error that another attempt would repeat.

    Ray Train restarts its workers after any exception, unless this callback raises one: that ends the run, and is
    raised by ``fit``.

    Args:
        events: the driver's event queue.
        timeout: seconds after which Ray Train treats a worker that does not respond as failed.
    """

    def __init__(self, plan: Plan, events: Any, timeout: float):
        self.plan, self.events, self.timeout = plan, events, timeout

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        unresponsive = [rank for rank, e in worker_exceptions.items() if isinstance(e, WorkerHealthCheckTimeoutError)]
        found = {
            rank: getattr(e, "health_check_failure", e)
            for rank, e in worker_exceptions.items()
            if rank not in unresponsive
        }
        error = error_for(found, self.plan, dict.fromkeys(unresponsive, self.timeout))
        if not isinstance(error, WorkerLostError):
            raise error
        ray.get(self.events.put.remote(error))
