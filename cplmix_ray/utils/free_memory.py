"""Memory available to this process."""

from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes available on the machine, or within the limit of the container or batch job if that is less."""
    return min([psutil.virtual_memory().available, *_free_in_groups()])


def _free_in_groups() -> list[int]:
    """Bytes below the memory limits of the process's control group and its parents (Linux only)."""
    try:
        own = Path("/proc/self/cgroup").read_text().partition("0::/")[2].partition("\n")[0]
    except OSError:
        return []
    folder, free = _GROUPS / own, []
    for group in [folder, *folder.parents]:
        if group != _GROUPS and _GROUPS not in group.parents:
            break
        try:
            limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
            facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or no limit, which is given as 'max'
            continue
        # Cached file pages are freed when memory is needed.
        free.append(max(0, limit - used + int(facts.get("inactive_file", 0))))
    return free
