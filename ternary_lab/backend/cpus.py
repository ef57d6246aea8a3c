"""How many CPUs this process may use: those it is bound to, or fewer where its cgroup has a quota.

Containers (`docker --cpus`) and batch systems limit the CPU time of a cgroup, and torch does not see it: it starts a
thread for every CPU of the machine, and they wait for one another. The quota is a number of microseconds in each
period, of all CPUs together: `cpu.max` in version 2 of cgroups, `cpu.cfs_quota_us` and `cpu.cfs_period_us` in
version 1 (https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/scheduler/sched-bwc.html).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_cpus(system: Path = Path("/")) -> int:
    """CPUs for this process: its affinity, or the smallest quota of its cgroups, rounded up, where that is less.

    Never less than 1, and never raises: what cannot be read is no limit. `system` is the folder that holds `proc` and
    `sys`.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(quota) for quota in _quotas(system))]))


def within_quota(threads: int) -> int:
    """`threads`, or `available_cpus` where they are fewer; a user's OMP_NUM_THREADS is left as it is."""
    return threads if os.environ.get("OMP_NUM_THREADS") else min(threads, available_cpus())


def _quotas(system: Path) -> Iterator[float]:
    """Quotas, in CPUs, of the cgroups that this process is in and of those around them."""
    root = system / "sys" / "fs" / "cgroup"
    for line in _read(system / "proc" / "self" / "cgroup").splitlines():
        # 0::/a/b in version 2; 4:cpu,cpuacct:/a/b in version 1, whose controllers are folders of their own
        _, controllers, path = line.split(":", 2) if line.count(":") > 1 else ("", "unknown", "")
        if controllers == "":
            tops = [root, root / "unified"]
        else:
            tops = [root / controllers, root / "cpu"] if "cpu" in controllers.split(",") else []
        # A container may see its own cgroup as the root of the tree, under a path that it does not see.
        inside = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for top in tops:
            for depth in range(len(inside) + 1):
                yield from _quota(top.joinpath(*inside[:depth]))


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one cgroup, if it has one."""
    limit = _read(folder / "cpu.max").split()
    if not limit:
        limit = [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
    # "max 100000" in version 2 and "-1" in version 1 are no limit.
    if len(limit) == 2 and all(re.fullmatch("[1-9][0-9]{0,17}", number) for number in limit):
        yield int(limit[0]) / int(limit[1])


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except (OSError, ValueError):
        return ""
