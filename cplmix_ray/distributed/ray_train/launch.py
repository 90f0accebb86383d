"""Arms on Ray Train's workers; their events come by letter and go out merged."""

import contextlib
import logging
import os
import threading
import uuid
from collections import deque
from collections.abc import Generator
from typing import Any

import ray

from cplmix_ray.config import Config
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.events import Noticed, Restarted, RunEvent, merge
from cplmix_ray.distributed.failures import cause_of, words
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.distributed.placement_group import bundle_of, patience
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributed.ray_train.event_queue import Began, Ended, Letter, open_mailbox
from cplmix_ray.distributed.ray_train.storage import train_storage
from cplmix_ray.distributed.restarts import too_often
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import InputError, TrainingError, WorkerLostError

_SOONER = 2.0
"""Seconds by which a worker's silence is known before a collective fails that waits for it: Ray Train looks every half
second, and is told of the silence at the second look."""
_PARTING = 20.0
"""Seconds that Ray Train has to give everything back once the driver has given the run up."""


def train_on_ray_train(
    plan: Plan, config: Config, data: TrainingSet | StoredSet, start: Start
) -> Generator[RunEvent, None, None]:
    """Train under Ray Train's control, which starts lost workers again from its own checkpoints.

    Ray must be connected.

    Raises:
        InputError: the cluster has several machines and no storage that they share.
        TrainingError: training failed for good; NonFiniteError and InputError come out as the worker raised them.
    """
    stored = data if isinstance(data, StoredSet) else StoredSet.put(data)
    with train_storage(config.placement.train_storage) as storage, open_mailbox() as mailbox:
        trainer = _trainer(plan, config, stored, [ray.put(start)], storage, mailbox)
        thread = threading.Thread(target=_fit, args=(trainer, mailbox), name="ray-train", daemon=True)
        thread.start()
        try:
            yield from _read(mailbox, plan, config)
        finally:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(mailbox.close.remote())
            thread.join(_PARTING)


def _trainer(plan: Plan, config: Config, stored: StoredSet, start: list, storage: str, mailbox: Any) -> Any:
    placement = config.placement
    # Ray Train reads these when it starts. Data may be named relative to the working folder; workers may take as long
    # to start as arms may to answer; and as a look at the workers takes up one checkpoint, looks are frequent.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["RAY_TRAIN_METRICS_ENABLED"] = "0"
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(patience(placement))
    # A worker that stands still is to be known before the others' collectives fail, so that it is the one named.
    heard_of = max(placement.collective_timeout - _SOONER, placement.collective_timeout / 2)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(heard_of)
    from ray import train  # whose names are those of its version 2 at run time only, which the types do not know
    from ray.train.torch import TorchTrainer

    from cplmix_ray.distributed.ray_train.failure_callback import Watchman
    from cplmix_ray.distributed.ray_train.torch_group import SharedNetworkConfig
    from cplmix_ray.distributed.ray_train.worker import Job, work

    logging.getLogger("ray.train").setLevel(logging.ERROR)  # progress is told by the run itself
    return TorchTrainer(
        work,
        train_loop_config={"job": Job(plan, config, stored, start, mailbox)},
        torch_config=SharedNetworkConfig(
            backend="nccl" if plan.gpu else "gloo", timeout_s=max(1, round(placement.collective_timeout))
        ),
        scaling_config=train.ScalingConfig(
            num_workers=len(plan.workers), use_gpu=plan.gpu, resources_per_worker=bundle_of(plan.gpu)
        ),
        run_config=train.RunConfig(
            name=f"cplmix-{uuid.uuid4().hex[:12]}",
            storage_path=storage,
            failure_config=train.FailureConfig(
                max_failures=placement.max_failures,
                controller_failure_limit=placement.max_failures,  # type: ignore[call-arg]
            ),
            checkpoint_config=train.CheckpointConfig(num_to_keep=config.training.keep_checkpoints),
            callbacks=[Watchman(plan, mailbox, heard_of)],  # type: ignore[list-item]
        ),
    )


def _fit(trainer: Any, mailbox: Any) -> None:
    """In a thread of its own: run to the end and leave word of it."""
    end = Ended()
    try:
        trainer.fit()
    except Exception as error:
        end = Ended(error)
    with contextlib.suppress(Exception):  # the mailbox is gone where nobody waits for word any more
        ray.get(mailbox.put.remote(end))


def _read(mailbox: Any, plan: Plan, config: Config) -> Generator[RunEvent, None, None]:
    """Events merged over the workers of the newest attempt; the letters of earlier ones are out of date."""
    current, waiting, lost = 0, [deque[Any]() for _ in plan.workers], None
    while True:
        for item in ray.get(mailbox.take.remote()):
            if isinstance(item, WorkerLostError):
                lost = item
                yield Noticed(str(lost))  # it takes Ray Train some time to have its workers back
            elif isinstance(item, Ended):
                if item.error is not None:
                    raise _error(item.error, lost, config)
                return
            elif isinstance(item, Letter) and item.attempt >= current:
                if item.attempt > current and isinstance(item.content, Began):
                    if current:
                        reached = ray.get(mailbox.reached.remote(current))
                        yield Restarted(item.content.step, str(lost or "Ray Train started its workers again"), reached)
                    current, waiting = item.attempt, [deque() for _ in plan.workers]
                if not isinstance(item.content, Began):
                    waiting[item.rank].append(item.content)
                while all(waiting):
                    yield merge([letters.popleft() for letters in waiting])


def _error(error: BaseException, lost: WorkerLostError | None, config: Config) -> Exception:
    """What ended the run, without Ray Train's wrappers."""
    cause = cause_of(error)
    cause = getattr(cause, "controller_failure", cause)
    if isinstance(cause, InputError | TrainingError):
        return cause
    if lost is not None and hasattr(cause, "worker_failures"):
        return too_often(lost, config.placement)
    return TrainingError(f"Ray Train gave up ({words(cause)}); --resume goes on from the newest checkpoint.")
