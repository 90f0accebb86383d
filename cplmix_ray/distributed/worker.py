"""One worker: a process with its arms, in a torch.distributed group with the others."""

import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from cplmix_ray.collectives.process_groups import Peers
from cplmix_ray.config import Config
from cplmix_ray.distributed.events import Event
from cplmix_ray.distributed.network import listening_at, use_interface_of
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.distributed.orphans import end_with_node
from cplmix_ray.training.loop import Start, train_arms


class ArmWorker:
    """Runs as a Ray actor; holds ``arms`` of the run.

    Args:
        rank, world: this worker's place among the workers.
        threads: torch threads.
    """

    def __init__(self, arms: tuple[int, ...], rank: int, world: int, threads: int):
        self.arms, self.rank, self.world, self.threads = arms, rank, world, threads
        end_with_node()
        self.store: dist.TCPStore | None = None
        self.done: int | None = None

    def pid(self) -> int:
        """The process that holds the arms."""
        return os.getpid()

    def steps(self) -> int | None:
        """How many steps are done, None before the first; answered at any time, as a sign of life."""
        return self.done

    def open_store(self, timeout: float) -> tuple[str, int]:
        """On the first worker: start the rendezvous and say where it listens."""
        from ray.util import get_node_ip_address

        host = get_node_ip_address()
        # Left alone, the store listens on every network that the machine is in, and asks nobody who they are.
        door = listening_at(host)
        port = door.getsockname()[1]
        self.store = dist.TCPStore(
            host,
            port,
            None,
            is_master=True,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            master_listen_fd=door.detach(),
        )
        return host, port

    def join(self, host: str, port: int, timeout: float, gpu: bool) -> None:
        """Meet the other workers; every collective gives up after ``timeout`` seconds."""
        from ray.util import get_node_ip_address

        use_interface_of(get_node_ip_address())
        limit = timedelta(seconds=timeout)
        if self.store is None:
            self.store = dist.TCPStore(host, port, None, is_master=False, timeout=limit)
        dist.init_process_group(
            "nccl" if gpu else "gloo", store=self.store, rank=self.rank, world_size=self.world, timeout=limit
        )

    def train(self, config: Config, data: StoredSet, start: list, gpu: bool) -> Iterator[Event]:
        """The loop; each event streams to the driver. Data and start are in the object store, read in place."""
        import ray

        torch.set_num_threads(self.threads)  # which holds for the thread that sets it
        begin: Start = ray.get(start[0])
        device = torch.device("cuda:0" if gpu else "cpu")
        peers = Peers.in_world(config.placement.replicas, config.placement.collective_timeout, self._tell)
        yield from train_arms(config, data.fetch(), self.arms, device, begin, peers)

    def _tell(self, steps: int) -> None:
        self.done = steps
