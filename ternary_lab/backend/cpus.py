"""The number of CPUs that this process may use, by its affinity and by the quota of its cgroup.

Containers (`docker --cpus`) and batch systems limit the CPU time of a cgroup. torch does not read this limit: it starts
one thread per CPU of the machine, and the threads then wait for one another. The quota is the CPU time of all CPUs
together in each period, in microseconds: `cpu.max` in cgroups version 2, `cpu.cfs_quota_us` and `cpu.cfs_period_us` in
version 1 (https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/scheduler/sched-bwc.html).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_cpus(system: Path = Path("/")) -> int:
    """Number of CPUs for this process, at least 1: the smaller of its affinity and its quota, rounded up.

    Never raises: a file that cannot be read sets no limit. `system` is the folder that holds `proc` and `sys`.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(quota) for quota in _quotas(system))]))


def within_quota(threads: int) -> int:
    """The smaller of `threads` and `available_cpus`; `threads` if the user has set OMP_NUM_THREADS."""
    return threads if os.environ.get("OMP_NUM_THREADS") else min(threads, available_cpus())


def _quotas(system: Path) -> Iterator[float]:
    """Quotas, in CPUs, of the cgroups of this process and of their parents."""
    root = system / "sys" / "fs" / "cgroup"
    for line in _read(system / "proc" / "self" / "cgroup").splitlines():
        # 0::/a/b in version 2; 4:cpu,cpuacct:/a/b in version 1, where each controller has its own folder.
        _, controllers, path = line.split(":", 2) if line.count(":") > 1 else ("", "unknown", "")
        if controllers == "":
            tops = [root, root / "unified"]
        else:
            tops = [root / controllers, root / "cpu"] if "cpu" in controllers.split(",") else []
        # In a container the folder of its cgroup may be the root, although the path names parents outside.
        inside = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for top in tops:
            for depth in range(len(inside) + 1):
                yield from _quota(top.joinpath(*inside[:depth]))


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one cgroup, in CPUs; nothing if it has none."""
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
