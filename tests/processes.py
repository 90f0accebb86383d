"""Finding the processes of a Ray that this process started, and no other's."""

from pathlib import Path


def workers_of(driver: int, title: str) -> list[int]:
    """Worker processes with this in their title; their parents, the raylets, are children of the driver."""
    return [pid for pid in _all() if title in _title(pid) and _parent(_parent(pid)) == driver]


def trial_processes(driver: int) -> list[int]:
    """Processes of the trials of a search, at work or between two reports."""
    return [*workers_of(driver, "ray::ResourceTrainable"), *workers_of(driver, "ray::TrialActor")]


def raylet_of(worker: int) -> int:
    """The process that stands for the worker's node."""
    return _parent(worker)


def family_of(process: int) -> dict[int, str]:
    """It and all that came from it and are there, with what tells them from later processes of the same number."""
    parents = {pid: _parent(pid) for pid in _all()}
    family = {process}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return {pid: born for pid in family if (born := _born(pid))}


def still_there(family: dict[int, str]) -> dict[int, str]:
    """Of these processes, those that have not ended, with their titles."""
    return {pid: _title(pid) for pid, born in family.items() if _born(pid) == born}


def _born(pid: int) -> str:
    """When a process began, in the kernel's ticks; nothing of one that has ended."""
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
