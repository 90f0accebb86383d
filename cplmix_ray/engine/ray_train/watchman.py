"""In Ray Train's controller: whether a failure is worth another attempt."""

from typing import Any

import ray
from ray.train import UserCallback

from cplmix_ray.engine.failures import as_error
from cplmix_ray.engine.plan import Plan
from cplmix_ray.errors import WorkerLostError


class Watchman(UserCallback):
    """Tells the driver of lost workers, and ends the run at an error that would only repeat.

    Ray Train starts its workers again after any exception. One that this callback raises ends the run and comes out
    as it is.
    """

    def __init__(self, plan: Plan, mailbox: Any):
        self.plan, self.mailbox = plan, mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        found = {rank: getattr(e, "health_check_failure", e) for rank, e in worker_exceptions.items()}
        error = as_error(found, self.plan)
        if not isinstance(error, WorkerLostError):
            raise error
        ray.get(self.mailbox.put.remote(error))
