"""Messages from Ray Train's processes to the driver, in the order in which they are sent."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cplmix_ray.training.events import Event
from cplmix_ray.utils.errors import WorkerLostError

_CAPACITY = 64
"""Largest number of unread messages; senders of more wait, so that a slow driver slows the workers down."""


@dataclass(frozen=True)
class AttemptStarted:
    """A worker starts or resumes training at ``step``."""

    step: int


@dataclass(frozen=True)
class WorkerMessage:
    """Message from the worker of a rank; ``attempt`` increases with every start of all workers."""

    attempt: int
    rank: int
    content: AttemptStarted | Event


@dataclass(frozen=True)
class TrainingEnded:
    """Ray Train has ended, with an error if training has failed."""

    error: BaseException | None = None


Message = WorkerMessage | WorkerLostError | TrainingEnded


class EventQueue:
    """A queue of messages for the driver; an asynchronous actor on its node, which outlives the workers."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue = asyncio.Queue(_CAPACITY)
        self.closed = False
        self.steps: dict[int, int] = {}

    async def put(self, message: Message) -> bool:
        """Add a message, once there is room; False if the queue is closed and nobody will read it."""
        if not self.closed:
            await self.messages.put(message)
        return not self.closed

    async def get_all(self) -> list[Message]:
        """All messages; waits for the first one."""
        return [await self.messages.get(), *self._drain()]

    def record_steps(self, attempt: int, steps: int) -> None:
        """Record that a worker of an attempt has done ``steps`` steps."""
        self.steps[attempt] = max(steps, self.steps.get(attempt, 0))

    def reached(self, attempt: int) -> int | None:
        """The largest number of steps that a worker of an attempt has reported."""
        return self.steps.get(attempt)

    def close(self) -> None:
        """Discard all messages; later senders are told that the driver has stopped the run."""
        self.closed = True
        self._drain()

    def _drain(self) -> list[Message]:
        return [self.messages.get_nowait() for _ in range(self.messages.qsize())]


_EventQueueActor = ray.remote(EventQueue)


@contextlib.contextmanager
def open_event_queue() -> Iterator[Any]:
    """The handle of an event queue, which exists until the context ends; it uses no device."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    events = _EventQueueActor.options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        yield events
    finally:
        ray.kill(events)  # type: ignore[arg-type]
