"""In Ray Train's controller: whether a failure is worth another attempt."""

from typing import Any

import ray
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

from cplmix_ray.distributed.failures import as_error
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.utils.errors import WorkerLostError


class Watchman(UserCallback):
    """Tells the driver of lost workers, and ends the run at an error that would only repeat.

    Ray Train starts its workers again after any exception. One that this callback raises ends the run and comes out
    as it is.

    Args:
        patience: seconds after which Ray Train gives up a worker that does not answer.
    """

    def __init__(self, plan: Plan, mailbox: Any, patience: float):
        self.plan, self.mailbox, self.patience = plan, mailbox, patience

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        still = [rank for rank, e in worker_exceptions.items() if isinstance(e, WorkerHealthCheckTimeoutError)]
        found = {
            rank: getattr(e, "health_check_failure", e) for rank, e in worker_exceptions.items() if rank not in still
        }
        error = as_error(found, self.plan, dict.fromkeys(still, self.patience))
        if not isinstance(error, WorkerLostError):
            raise error
        ray.get(self.mailbox.put.remote(error))
