"""The network on which workers of several machines meet."""

import os
import socket

import psutil


def use_interface_of(address: str) -> None:
    """Let gloo, in this process, listen where the other machines reach this one.

    Left alone it takes the address that the machine's own name resolves to, which on many systems is a loopback
    address. A GLOO_SOCKET_IFNAME that the user has set stays.

    Args:
        address: this machine's address as Ray's other nodes know it.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            return


def listening_at(address: str) -> socket.socket:
    """A socket that listens on one address of this machine alone, on a port that was free."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family)
