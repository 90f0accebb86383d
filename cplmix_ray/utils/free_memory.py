"""How much memory this process may still take."""

from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that are free on the machine, or within the limit of the container or batch job where that is less."""
    return min([psutil.virtual_memory().available, *_rooms_in_groups()])


def _rooms_in_groups() -> list[int]:
    """Room below the limit of the process's own control group and those above it, as far as Linux tells."""
    try:
        own = Path("/proc/self/cgroup").read_text().partition("0::/")[2].partition("\n")[0]
    except OSError:
        return []
    folder, rooms = _GROUPS / own, []
    for group in [folder, *folder.parents]:
        if group != _GROUPS and _GROUPS not in group.parents:
            break
        try:
            limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
            facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # there is no such group here, or no limit, which reads 'max'
            continue
        # Files that were read and are not in use give way.
        rooms.append(max(0, limit - used + int(facts.get("inactive_file", 0))))
    return rooms
