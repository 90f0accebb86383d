"""Training on the workers of Ray Train; their events arrive through a queue and are merged."""

import contextlib
import logging
import os
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import ray

from cplmix_ray.config import RunConfig
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.failure_causes import cause_of, short_text
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.distributed.placement_group import device_timeout, worker_resources
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributed.ray_train.event_queue import AttemptStarted, TrainingEnded, WorkerMessage, open_event_queue
from cplmix_ray.distributed.restarts import restarts_exceeded
from cplmix_ray.training.events import Restarted, RunEvent, WorkersLost, merge
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import InputError, TrainingError, WorkerLostError

_HEALTH_CHECK_MARGIN = 2.0
"""Seconds between the failed health check of an unresponsive worker and the timeout of the collectives that wait for
it: Ray Train checks every half second, and reports the failure at the next check."""
_SHUTDOWN_SECONDS = 20.0
"""Seconds that Ray Train has to release workers and devices after the driver has stopped the run."""


def train_on_ray_train(
    plan: Plan, config: RunConfig, data: TrainingSet | StoredSet, start: Start
) -> Generator[RunEvent, None, None]:
    """Train with Ray Train, which restarts lost workers from its own checkpoints.

    Ray must be connected.

    Raises:
        InputError: the cluster has several machines and no shared storage; or raised by a worker.
        TrainingError: training failed, after as many restarts as allowed; or raised by a worker, as NonFiniteError is.
    """
    stored = data if isinstance(data, StoredSet) else StoredSet.put(data)
    with train_storage(config.placement.train_storage) as storage, open_event_queue() as events:
        trainer = _trainer(plan, config, stored, [ray.put(start)], storage, events)
        thread = threading.Thread(target=_fit, args=(trainer, events), name="ray-train", daemon=True)
        thread.start()
        try:
            yield from _merged_events(events, plan, config)
        finally:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(events.close.remote())
            thread.join(_SHUTDOWN_SECONDS)


@contextlib.contextmanager
def train_storage(requested: str | None) -> Iterator[str]:
    """Folder or address for Ray Train's checkpoints: the requested one, or a temporary folder on a single machine.

    Raises:
        InputError: the cluster has several machines and none was requested, or the folder cannot be created.
    """
    if requested is None:
        if len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}) > 1:
            raise InputError(
                "The cluster has several machines, all of which must reach Ray Train's checkpoints; name a shared "
                "folder or an address such as s3://bucket/folder with --train-storage."
            )
        with tempfile.TemporaryDirectory(prefix="cplmix-ray-train-", ignore_cleanup_errors=True) as folder:
            yield folder
    elif "://" in requested:
        yield requested
    else:
        folder = str(Path(requested).expanduser().resolve())
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot write to --train-storage {folder} ({error.strerror}).") from None
        yield folder


def _trainer(plan: Plan, config: RunConfig, stored: StoredSet, start: list, storage: str, events: Any) -> Any:
    placement = config.placement
    # Ray Train reads these when it starts. The working folder is kept, since paths of data may be relative to it. Each
    # health check collects at most one checkpoint, so checks are frequent.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["RAY_TRAIN_METRICS_ENABLED"] = "0"
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(device_timeout(placement))
    # An unresponsive worker must be found before the collectives of the others fail, so that it is the one reported.
    timeout = max(placement.collective_timeout - _HEALTH_CHECK_MARGIN, placement.collective_timeout / 2)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(timeout)
    from ray import train  # version 2 of its API is selected at run time, which type checkers do not see
    from ray.train.torch import TorchTrainer

    from cplmix_ray.distributed.ray_train.failure_callback import FailureCallback
    from cplmix_ray.distributed.ray_train.torch_group import TorchGroupConfig
    from cplmix_ray.distributed.ray_train.worker import WorkerArguments, train_worker

    logging.getLogger("ray.train").setLevel(logging.ERROR)  # the run reports its progress itself
    return TorchTrainer(
        train_worker,
        train_loop_config={"arguments": WorkerArguments(plan, config, stored, start, events)},
        torch_config=TorchGroupConfig(
            backend="nccl" if plan.gpu else "gloo", timeout_s=max(1, round(placement.collective_timeout))
        ),
        scaling_config=train.ScalingConfig(
            num_workers=len(plan.workers), use_gpu=plan.gpu, resources_per_worker=worker_resources(plan.gpu)
        ),
        run_config=train.RunConfig(
            name=f"cplmix-{uuid.uuid4().hex[:12]}",
            storage_path=storage,
            failure_config=train.FailureConfig(
                max_failures=placement.max_failures,
                controller_failure_limit=placement.max_failures,  # type: ignore[call-arg]
            ),
            checkpoint_config=train.CheckpointConfig(num_to_keep=config.training.keep_checkpoints),
            callbacks=[FailureCallback(plan, events, timeout)],  # type: ignore[list-item]
        ),
    )


def _fit(trainer: Any, events: Any) -> None:
    """Run Ray Train to its end, in a thread of its own, and send the outcome."""
    end = TrainingEnded()
    try:
        trainer.fit()
    except Exception as error:
        end = TrainingEnded(error)
    with contextlib.suppress(Exception):  # the queue is gone if the driver has stopped waiting
        ray.get(events.put.remote(end))


def _merged_events(events: Any, plan: Plan, config: RunConfig) -> Generator[RunEvent, None, None]:
    """Events merged over the workers of the newest attempt; messages of earlier attempts are ignored."""
    attempt, queues, lost = 0, [deque[Any]() for _ in plan.workers], None
    while True:
        for message in ray.get(events.get_all.remote()):
            if isinstance(message, WorkerLostError):
                lost = message
                yield WorkersLost(str(lost))  # at once, since the restart takes Ray Train some time
            elif isinstance(message, TrainingEnded):
                if message.error is not None:
                    raise _unwrapped(message.error, lost, config)
                return
            elif isinstance(message, WorkerMessage) and message.attempt >= attempt:
                if message.attempt > attempt and isinstance(message.content, AttemptStarted):
                    if attempt:
                        reached = ray.get(events.reached.remote(attempt))
                        yield Restarted(message.content.step, str(lost or "Ray Train restarted its workers"), reached)
                    attempt, queues = message.attempt, [deque() for _ in plan.workers]
                if not isinstance(message.content, AttemptStarted):
                    queues[message.rank].append(message.content)
                while all(queues):
                    yield merge([queue.popleft() for queue in queues])


def _unwrapped(error: BaseException, lost: WorkerLostError | None, config: RunConfig) -> Exception:
    """The error that ended the run, without Ray Train's wrappers."""
    cause = cause_of(error)
    cause = getattr(cause, "controller_failure", cause)
    if isinstance(cause, InputError | TrainingError):
        return cause
    if lost is not None and hasattr(cause, "worker_failures"):
        return restarts_exceeded(lost, config.placement)
    return TrainingError(f"Ray Train failed ({short_text(cause)}); --resume continues from the newest checkpoint.")
