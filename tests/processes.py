"""Finds the processes of the Ray that a given driver started, and of no other Ray."""

from pathlib import Path


def workers_of(driver: int, title: str) -> list[int]:
    """Ids of worker processes with ``title`` in their title, whose raylet is a child of the driver."""
    return [pid for pid in _all() if title in _title(pid) and _parent(_parent(pid)) == driver]


def trial_processes(driver: int) -> list[int]:
    """Ids of the processes that run the trials of a search."""
    return [*workers_of(driver, "ray::ResourceTrainable"), *workers_of(driver, "ray::TrialActor")]


def raylet_of(worker: int) -> int:
    """Id of the raylet of a worker, the process that manages its node."""
    return _parent(worker)


def process_tree(process: int) -> dict[int, str]:
    """Ids of a process and all its living descendants, with their start times, which tell reused ids apart."""
    parents = {pid: _parent(pid) for pid in _all()}
    family = {process}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return {pid: born for pid in family if (born := _born(pid))}


def still_running(family: dict[int, str]) -> dict[int, str]:
    """Those of a ``process_tree`` that have not ended, with their titles."""
    return {pid: _title(pid) for pid, born in family.items() if _born(pid) == born}


def _born(pid: int) -> str:
    """Start time of a process in clock ticks, as in /proc; "" if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _all() -> list[int]:
    return sorted(int(path.name) for path in Path("/proc").glob("[0-9]*"))


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
