"""The torch process group of Ray Train's workers, on a network that all machines can reach."""

import os
from typing import Any

from ray.train.torch import TorchConfig
from ray.util import get_node_ip_address

from cplmix_ray.distributed.worker_process import use_interface_of


class TorchGroupBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Selects each worker's network interface before Ray Train forms the process group."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_use_node_interface)
        super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        # By default Ray Train waits 30 s for a stopped worker to leave the group.
        os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "5")
        super().on_shutdown(worker_group, backend_config)


class TorchGroupConfig(TorchConfig):
    """Configuration of :class:`TorchGroupBackend`."""

    @property
    def backend_cls(self):
        return TorchGroupBackend


def _use_node_interface() -> None:
    use_interface_of(get_node_ip_address())
