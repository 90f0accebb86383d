"""Ray Train's torch process group, on the network that the machines share."""

import os
from typing import Any

from ray.train.torch import TorchConfig
from ray.util import get_node_ip_address

from cplmix_ray.distributed.network import use_interface_of


class SharedNetwork(TorchConfig().backend_cls):  # type: ignore[misc]
    """Each worker learns where to listen before Ray Train lets the workers meet."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_listen_where_others_reach)
        super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        # One that stands still must not hold up the others; Ray Train would wait half a minute for it to part.
        os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "5")
        super().on_shutdown(worker_group, backend_config)


class SharedNetworkConfig(TorchConfig):
    @property
    def backend_cls(self):
        return SharedNetwork


def _listen_where_others_reach() -> None:
    use_interface_of(get_node_ip_address())
