"""Tell how much memory a computation may take: a safe fraction of what is free, in this machine or this container."""

import os
from collections.abc import Iterator
from pathlib import Path

SAFE_FRACTION = 0.5
"""Fraction of the free memory that a computation takes unasked; other programs may begin meanwhile."""

_UNLIMITED = 1 << 60
"""Limit from which a control group (version 1 has no word for it) has none."""


def safe_memory_bytes() -> int:
    """Return the memory that a computation may take without being told, now."""
    return int(SAFE_FRACTION * free_memory_bytes())


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process can have without swapping and without being ended by its container.

    It is the least of what Linux says is available and of what every control group (version 1 or 2) above this process
    has left; files in memory, which are given up for it, count as free. Where there is no Linux it is half of the
    machine's memory. ``root`` is where ``proc`` and ``sys`` are.
    """
    available = _available(root / "proc/meminfo")
    left = [limit - used for limit, used in _groups(root)]
    return max(0, min([available, *left]))


def _available(meminfo: Path) -> int:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if value}
    return 1024 * kilobytes["MemAvailable"]


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit of each control group above this process that has one, and the memory it cannot give up."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.lstrip("/")
        # In a container the path may be the host's, of which only the container's own part is seen, as the top.
        for folder in {top, *(above for above in (group, *group.parents) if above.is_relative_to(top))}:
            if (found := _group(folder, *names)) is not None:
                yield found


def _group(folder: Path, limit_name: str, usage_name: str, reclaimable: str) -> tuple[int, int] | None:
    """Return the limit and the use of one control group; None where it has no limit, or is not seen."""
    try:
        limit = (folder / limit_name).read_text().strip()
        usage = int((folder / usage_name).read_text())
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max" or int(limit) >= _UNLIMITED:
        return None
    return int(limit), usage - int(fields.get(reclaimable, 0))
