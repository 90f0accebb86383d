"""The training function of Ray Train's workers: training loop, checkpoints, and messages to the driver."""

import contextlib
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
from cplmix_ray.collectives.process_groups import ProcessGroups
from cplmix_ray.config import RunConfig
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributed.ray_train.event_queue import AttemptStarted, WorkerMessage
from cplmix_ray.distributed.worker_process import end_with_parent
from cplmix_ray.models.base import part_names
from cplmix_ray.models.registry import family_of
from cplmix_ray.training.events import Event, Snapshot
from cplmix_ray.training.loop import Start, training_loop
from cplmix_ray.utils.errors import TrainingError

_WORKER, _SECOND = "worker-", 1.0


@dataclass(frozen=True)
class WorkerArguments:
    """Arguments of the training function, the same for all workers; data and start are in the object store.

    Attributes:
        start: reference to the start of the run, in a list, so that Ray does not resolve it.
        events: the driver's event queue.
    """

    plan: Plan
    config: RunConfig
    data: StoredSet
    start: list
    events: Any


def train_worker(loop_config: dict[str, WorkerArguments]) -> None:
    """Train this worker's units; after a loss, from Ray Train's newest checkpoint.

    Args:
        loop_config: Ray Train's mapping of arguments, with the one name ``arguments``.

    Raises:
        NonFiniteError, InputError, TrainingError: see the loop; or the driver has stopped the run.
    """
    arguments = loop_config["arguments"]
    end_with_parent()
    rank = ray.train.get_context().get_world_rank()
    torch.set_num_threads(arguments.config.placement.threads or 1)
    device = ray.train.torch.get_device() if arguments.plan.gpu else torch.device("cpu")
    attempt = torch.tensor([time.time_ns()], device=device)
    dist.broadcast(attempt, 0)

    def send(content: AttemptStarted | Event) -> None:
        if not ray.get(arguments.events.put.remote(WorkerMessage(int(attempt), rank, content))):
            raise TrainingError("The driver has stopped the run.")

    start = _start(arguments)
    send(AttemptStarted(start.step))
    units, placement = arguments.plan.workers[rank], arguments.config.placement
    with _step_reports(arguments.events, int(attempt)) as record_steps:
        groups = ProcessGroups.from_world(placement.replicas, placement.collective_timeout, record_steps)
        for event in training_loop(arguments.config, arguments.data.fetch(), units, device, start, groups):
            send(event)
            if isinstance(event, Snapshot):  # sent first: the driver must have every snapshot that Ray Train has
                _save_snapshot(event, rank)


@contextlib.contextmanager
def _step_reports(events: Any, attempt: int) -> Iterator[Callable[[int], None]]:
    """A function that records the number of steps done; a thread reports it to the event queue every second, also while
    a step waits, and at the end."""
    done: deque[int] = deque(maxlen=1)
    ended = threading.Event()

    def report() -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # the driver has ended, and this worker will end soon
            for steps in tuple(done):
                ray.get(events.record_steps.remote(attempt, steps), timeout=_SECOND)

    def report_repeatedly() -> None:
        while not ended.wait(_SECOND):
            report()

    thread = threading.Thread(target=report_repeatedly, name="step-reports", daemon=True)
    thread.start()
    try:
        yield done.append
    finally:
        ended.set()
        thread.join()
        report()


def _start(arguments: WorkerArguments) -> Start:
    """Start of this attempt: Ray Train's newest checkpoint, or the start of the run."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return ray.get(arguments.start[0])
    with checkpoint.as_directory() as folder:
        return read_parts(Path(folder), part_names(family_of(arguments.config), arguments.config))


def _save_snapshot(snapshot: Snapshot, rank: int) -> None:
    """Save this worker's parts with Ray Train, which collects those of all workers in one folder."""
    with tempfile.TemporaryDirectory() as scratch:
        write_part(Path(scratch), snapshot, rank)
        ray.train.report({"step": snapshot.step}, checkpoint=Checkpoint.from_directory(scratch))


def write_part(folder: Path, snapshot: Snapshot, rank: int) -> None:
    """Write this worker's parts under a name that no other worker uses."""
    write_checkpoint(folder / f"{_WORKER}{rank}", snapshot, {}, keep=1)


def read_parts(folder: Path, names: Sequence[str]) -> Start:
    """Read and merge the parts that the workers of any layout wrote.

    Args:
        names: all parts of the model.

    Raises:
        TrainingError: parts are missing, or belong to different steps.
    """
    found = [latest_checkpoint(path)[0] for path in sorted(folder.glob(f"{_WORKER}*"))]
    snapshots = [Snapshot(each.step, each.parts) for each in found if each is not None]
    steps = {snapshot.step for snapshot in snapshots}
    parts = snapshots[0].merged(snapshots[1:]).parts if snapshots else {}
    if set(parts) != set(names) or len(steps) != 1:
        raise TrainingError(
            f"Ray Train's checkpoint in {folder} is damaged; --resume continues from that of the run folder."
        )
    return Start(steps.pop(), parts)
