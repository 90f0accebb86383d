"""Set-up of a worker's process: the network interface that it uses, and its end together with its parent."""

import ctypes
import os
import signal
import socket
import sys

import psutil

_PR_SET_PDEATHSIG = 1


def use_interface_of(address: str) -> None:
    """Make gloo, in this process, use the network interface that has an address.

    By default gloo uses the address to which the host name resolves, which is a loopback address on many systems. A
    GLOO_SOCKET_IFNAME set by the user is kept.

    Args:
        address: address of this machine as the other nodes of Ray know it.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            return


def listening_socket(address: str) -> socket.socket:
    """A socket that listens on a free port of one address of this machine, and on no other address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family)


def end_with_parent() -> None:
    """Make the kernel kill this process when its parent, the raylet of its node, ends (Linux only).

    Ray's workers exit by themselves when their node has died; a stopped process (SIGSTOP) cannot, and would keep its
    memory and its GPU.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
