"""The number of CPUs that this process may use.

The number is limited by the affinity of the process and by the quota of its cgroup. Containers (`docker --cpus`) and
batch systems set the quota. torch does not read the quota and starts one thread per CPU of the machine. If the quota is
smaller, the threads wait for one another.

The quota is the CPU time of all CPUs together in each period; quota and period are in microseconds. The files are
`cpu.max` in cgroups version 2, and `cpu.cfs_quota_us` and `cpu.cfs_period_us` in version 1
(https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/scheduler/sched-bwc.html).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_cpus(system: Path = Path("/")) -> int:
    """Return the number of CPUs for this process, at least 1.

    The number is the smaller of the affinity and the quota, rounded up. A file that cannot be read sets no limit and
    raises no error. `system` is the folder that holds `proc` and `sys`.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(quota) for quota in _quotas(system))]))


def within_quota(threads: int) -> int:
    """Return the smaller of `threads` and `available_cpus()`, or `threads` if the user has set OMP_NUM_THREADS."""
    return threads if os.environ.get("OMP_NUM_THREADS") else min(threads, available_cpus())


def _quotas(system: Path) -> Iterator[float]:
    """Yield the quotas, in CPUs, of the cgroups of this process and of the parents of these cgroups."""
    root = system / "sys" / "fs" / "cgroup"
    for line in _read(system / "proc" / "self" / "cgroup").splitlines():
        # A line is 0::/a/b in version 2, and 4:cpu,cpuacct:/a/b in version 1, which has a folder for each controller.
        _, controllers, path = line.split(":", 2) if line.count(":") > 1 else ("", "unknown", "")
        if controllers == "":
            tops = [root, root / "unified"]
        else:
            tops = [root / controllers, root / "cpu"] if "cpu" in controllers.split(",") else []
        # In a container, the root may be the folder of the container's cgroup, although the path also names parents
        # outside the container.
        inside = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for top in tops:
            for depth in range(len(inside) + 1):
                yield from _quota(top.joinpath(*inside[:depth]))


def _quota(folder: Path) -> Iterator[float]:
    """Yield the quota of one cgroup, in CPUs; yield nothing if the cgroup has no quota."""
    limit = _read(folder / "cpu.max").split()
    if not limit:
        limit = [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
    # "max 100000" in version 2 and "-1" in version 1 mean that there is no limit.
    if len(limit) == 2 and all(re.fullmatch("[1-9][0-9]{0,17}", number) for number in limit):
        yield int(limit[0]) / int(limit[1])


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except (OSError, ValueError):
        return ""
