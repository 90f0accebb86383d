"""What Ray Train's processes tell the driver, in the order in which they tell it."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cplmix_ray.distributed.events import Event
from cplmix_ray.utils.errors import WorkerLostError

_ROOM = 64
"""Letters that may lie unread; further ones wait, so that a slow driver slows the workers and fills no memory."""


@dataclass(frozen=True)
class Began:
    """A worker goes on from ``step``."""

    step: int


@dataclass(frozen=True)
class Letter:
    """From the worker of a rank; ``attempt`` grows with every start of all workers."""

    attempt: int
    rank: int
    content: Began | Event


@dataclass(frozen=True)
class Ended:
    """Ray Train is done; with an error unless training is."""

    error: BaseException | None = None


Item = Letter | WorkerLostError | Ended


class Mailbox:
    """An asynchronous actor on the driver's node, which outlives any worker."""

    def __init__(self) -> None:
        self.items: asyncio.Queue = asyncio.Queue(_ROOM)
        self.closed = False
        self.steps: dict[int, int] = {}

    async def put(self, item: Item) -> bool:
        """Leave an item, once there is room; False where nobody will read it any more."""
        if not self.closed:
            await self.items.put(item)
        return not self.closed

    async def take(self) -> list[Item]:
        """All items there are, at least one."""
        return [await self.items.get(), *self._rest()]

    def hear_of(self, attempt: int, steps: int) -> None:
        """A worker of an attempt has done so many steps."""
        self.steps[attempt] = max(steps, self.steps.get(attempt, 0))

    def reached(self, attempt: int) -> int | None:
        """The most steps that a worker of an attempt was heard to have done."""
        return self.steps.get(attempt)

    def close(self) -> None:
        """From now on every sender hears that the run is given up."""
        self.closed = True
        self._rest()

    def _rest(self) -> list[Item]:
        return [self.items.get_nowait() for _ in range(self.items.qsize())]


_MailboxActor = ray.remote(Mailbox)


@contextlib.contextmanager
def open_mailbox() -> Iterator[Any]:
    """The handle of a mailbox for the while; it holds no device."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = _MailboxActor.options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        yield mailbox
    finally:
        ray.kill(mailbox)  # type: ignore[arg-type]
