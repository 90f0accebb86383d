"""A Ray actor that trains some units of a run, in a torch.distributed group with the other workers."""

import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from cplmix_ray.collectives.process_groups import ProcessGroups
from cplmix_ray.config import RunConfig
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.distributed.worker_process import end_with_parent, listening_socket, use_interface_of
from cplmix_ray.training.events import Event
from cplmix_ray.training.loop import Start, training_loop


class TrainingWorker:
    """Trains some units of a run; used as a Ray actor.

    Args:
        units: their indices.
        rank, world: index of this worker, and number of workers.
        threads: number of threads that torch uses.
    """

    def __init__(self, units: tuple[int, ...], rank: int, world: int, threads: int):
        self.units, self.rank, self.world, self.threads = units, rank, world, threads
        end_with_parent()
        self.store: dist.TCPStore | None = None
        self.done: int | None = None

    def pid(self) -> int:
        """Process id of this worker."""
        return os.getpid()

    def steps(self) -> int | None:
        """Number of steps done, None before the first; answered at any time, as a heartbeat."""
        return self.done

    def open_store(self, timeout: float) -> tuple[str, int]:
        """On the first worker: open the store in which the workers meet, and return its host and port."""
        from ray.util import get_node_ip_address

        host = get_node_ip_address()
        # By default the store would listen on all networks of the machine, without authentication.
        listener = listening_socket(host)
        port = listener.getsockname()[1]
        self.store = dist.TCPStore(
            host,
            port,
            None,
            is_master=True,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        return host, port

    def join(self, host: str, port: int, timeout: float, gpu: bool) -> None:
        """Form the process group with the other workers; its collectives fail after ``timeout`` seconds."""
        from ray.util import get_node_ip_address

        use_interface_of(get_node_ip_address())
        limit = timedelta(seconds=timeout)
        if self.store is None:
            self.store = dist.TCPStore(host, port, None, is_master=False, timeout=limit)
        dist.init_process_group(
            "nccl" if gpu else "gloo", store=self.store, rank=self.rank, world_size=self.world, timeout=limit
        )

    def train(self, config: RunConfig, data: StoredSet, start: list, gpu: bool) -> Iterator[Event]:
        """Run the training loop; each event is streamed to the driver.

        Args:
            data: the training set in the object store, read without a copy.
            start: reference to the start of training, in a list, so that Ray does not resolve it.
        """
        import ray

        torch.set_num_threads(self.threads)  # holds only for the thread that sets it
        begin: Start = ray.get(start[0])
        device = torch.device("cuda:0" if gpu else "cpu")
        placement = config.placement
        groups = ProcessGroups.from_world(placement.replicas, placement.collective_timeout, self._record_steps)
        yield from training_loop(config, data.fetch(), self.units, device, begin, groups)

    def _record_steps(self, steps: int) -> None:
        self.done = steps
