"""One of Ray Train's workers: the training loop, its arms' checkpoints, and letters to the driver."""

import contextlib
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint, write_checkpoint
from cplmix_ray.collectives.process_groups import Peers
from cplmix_ray.config import Config
from cplmix_ray.distributed.events import Event, Snapshot
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.distributed.orphans import end_with_node
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributed.ray_train.event_queue import Began, Letter
from cplmix_ray.training.loop import Start, train_arms
from cplmix_ray.utils.errors import TrainingError

_ARMS, _SECOND = "arms-", 1.0


@dataclass(frozen=True)
class Job:
    """What every worker is given; data and start are in the object store.

    Attributes:
        start: reference to the start of the run, in a list, so that it is passed on and not resolved on the way.
        mailbox: the driver's.
    """

    plan: Plan
    config: Config
    data: StoredSet
    start: list
    mailbox: Any


def work(settings: dict[str, Job]) -> None:
    """Train this worker's arms, from Ray Train's newest checkpoint after a loss.

    Raises:
        NonFiniteError, InputError, TrainingError: see the loop; or the driver has given the run up.
    """
    job = settings["job"]
    end_with_node()
    rank = ray.train.get_context().get_world_rank()
    torch.set_num_threads(job.config.placement.threads or 1)
    device = ray.train.torch.get_device() if job.plan.gpu else torch.device("cpu")
    attempt = torch.tensor([time.time_ns()], device=device)
    dist.broadcast(attempt, 0)

    def tell(content: Began | Event) -> None:
        if not ray.get(job.mailbox.put.remote(Letter(int(attempt), rank, content))):
            raise TrainingError("The driver has given the run up.")

    start = _start(job)
    tell(Began(start.step))
    arms = job.plan.workers[rank]
    with _counted(job.mailbox, int(attempt)) as count:
        peers = Peers.in_world(job.config.placement.replicas, job.config.placement.collective_timeout, count)
        for event in train_arms(job.config, job.data.fetch(), arms, device, start, peers):
            tell(event)
            if isinstance(event, Snapshot):  # told first: what Ray Train holds, the driver must never lack
                _report(event)


@contextlib.contextmanager
def _counted(mailbox: Any, attempt: int) -> Iterator[Callable[[int], None]]:
    """What is to be told the steps done; the mailbox hears of them every second, also while a step waits, and at the
    end."""
    done: deque[int] = deque(maxlen=1)
    over = threading.Event()

    def pass_on() -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # the driver is gone, as this worker will be soon
            for steps in tuple(done):
                ray.get(mailbox.hear_of.remote(attempt, steps), timeout=_SECOND)

    def keep_on() -> None:
        while not over.wait(_SECOND):
            pass_on()

    thread = threading.Thread(target=keep_on, name="count", daemon=True)
    thread.start()
    try:
        yield done.append
    finally:
        over.set()
        thread.join()
        pass_on()


def _start(job: Job) -> Start:
    """Where this attempt begins: at Ray Train's newest checkpoint, else where the run does."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return ray.get(job.start[0])
    with checkpoint.as_directory() as folder:
        return read_parts(Path(folder), job.config.model.n_arms)


def _report(snapshot: Snapshot) -> None:
    """Hand this worker's arms to Ray Train, which puts the parts of all workers into one folder."""
    with tempfile.TemporaryDirectory() as scratch:
        write_part(Path(scratch), snapshot)
        ray.train.report({"step": snapshot.step}, checkpoint=Checkpoint.from_directory(scratch))


def write_part(folder: Path, snapshot: Snapshot) -> None:
    """Write some of the arms under a name that no other worker uses."""
    write_checkpoint(folder / f"{_ARMS}{min(snapshot.arms)}", snapshot, {}, keep=1)


def read_parts(folder: Path, n_arms: int) -> Start:
    """Put together what the workers of any layout wrote.

    Raises:
        TrainingError: arms are missing, or parts of different steps.
    """
    parts = [latest_checkpoint(part)[0] for part in sorted(folder.glob(f"{_ARMS}*"))]
    arms = {arm: tensors for part in parts if part is not None for arm, tensors in part.arms.items()}
    steps = {part.step for part in parts if part is not None}
    if set(arms) != set(range(n_arms)) or len(steps) != 1:
        raise TrainingError(f"Ray Train's checkpoint in {folder} is damaged; --resume goes on from the run folder's.")
    return Start(steps.pop(), arms)
