"""A worker's process does not outlive the node that it belongs to, even while it stands still."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_node() -> None:
    """From now on the kernel kills this process when the node's manager, which started it, ends (Linux only).

    Ray's workers end by themselves when their node is gone; a process that is stopped cannot, and would keep its
    memory and its GPU for ever.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
