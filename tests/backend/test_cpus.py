"""The number of available CPUs, for invented trees of cgroups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ternary_lab.backend.cpus import available_cpus, within_quota

ALL = 16
V1 = "/sys/fs/cgroup/cpu,cpuacct"


@pytest.fixture(autouse=True)
def _sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(ALL)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def _tree(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def _v1(folder: str, quota: str, period: str = "100000") -> dict[str, str]:
    return {f"{V1}{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{V1}{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(("group", "files", "cpus"), [
    ("0::/\n", {}, ALL),
    ("0::/\n", {"/sys/fs/cgroup/cpu.max": "max 100000\n"}, ALL),
    ("0::/\n", {"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    ("0::/\n", {"/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    ("0::/\n", {"/sys/fs/cgroup/cpu.max": "5000 100000\n"}, 1),
    ("0::/\n", {"/sys/fs/cgroup/cpu.max": "6400000 100000\n"}, ALL),
    ("0::/a/b\n", {"/sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "/sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),
    ("0::/a/b\n", {"/sys/fs/cgroup/a/b/cpu.max": "700000 100000\n", "/sys/fs/cgroup/a/cpu.max": "300000 50000\n"}, 6),
    ("0::/a/b\n", {"/sys/fs/cgroup/a/b/c/cpu.max": "100000 100000\n"}, ALL),
    ("0::/../docker\n", {"/sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
    ("4:cpu,cpuacct:/a\n", _v1("/a", "400000"), 4),
    ("4:cpu,cpuacct:/a\n", _v1("/a", "-1") | _v1("", "250000"), 3),
    ("4:cpu,cpuacct:/docker/0123\n", _v1("", "300000", "200000"), 2),
    ("4:cpu:/a\n", {
        "/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "500000", "/sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
    }, 5),
    ("5:cpuset:/a\n4:cpu,cpuacct:/b\n0::/c\n",
     _v1("/a", "100000") | _v1("/b", "900000") | {"/sys/fs/cgroup/unified/c/cpu.max": "700000 100000"}, 7),
    ("4:cpu,cpuacct:/a\n", {f"{V1}/a/cpu.cfs_quota_us": "100000"}, ALL),
    ("0::/\n", {"/sys/fs/cgroup/cpu.max": "100000 0\n"}, ALL),
    ("0::/\n", {"/sys/fs/cgroup/cpu.max": "few 100000\n"}, ALL),
], ids=str)
def test_the_smallest_quota_counts(group: str, files: dict[str, str], cpus: int, tmp_path: Path) -> None:
    assert available_cpus(_tree(tmp_path, {"/proc/self/cgroup": group, **files})) == cpus


def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == ALL
    assert available_cpus(tmp_path / "proc" / "nowhere") == ALL


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    group=st.binary(max_size=60), limit=st.binary(max_size=40) | st.just(b"9" * 5000 + b" 1"),
    name=st.sampled_from(["cpu.max", "cpu/cpu.cfs_quota_us"]),
)
def test_no_content_of_the_files_raises(group: bytes, limit: bytes, name: str, tmp_path: Path) -> None:
    root = _tree(tmp_path, {"/proc/self/cgroup": "", f"/sys/fs/cgroup/{name}": ""})
    (root / "proc/self/cgroup").write_bytes(b"0::/\n4:cpu:/\n" + group)
    (root / "sys/fs/cgroup" / name).write_bytes(limit)
    assert 1 <= available_cpus(root) <= ALL


def test_the_library_starts_as_many_threads_as_the_quota_allows() -> None:
    code = (
        "import torch\nbefore = torch.get_num_threads()\n"
        "from ternary_lab.backend import cpus\ncpus.available_cpus = lambda: {}\n"
        "import ternary_lab.backend.threads\nprint(before, torch.get_num_threads())"
    )

    def threads(available: int, **environment: str) -> tuple[int, int]:
        done = subprocess.run(
            [sys.executable, "-c", code.format(available)], capture_output=True, text=True, check=True,
            env={**os.environ, **environment},
        )
        before, after = map(int, done.stdout.split())
        return before, after

    assert threads(1)[1] == 1
    before, after = threads(4096)
    assert before == after
    assert threads(1, OMP_NUM_THREADS="2") == (2, 2)


def test_the_number_of_threads_never_rises_and_omp_num_threads_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ternary_lab.backend.cpus.available_cpus", lambda: 3)
    assert [within_quota(threads) for threads in (1, 3, 8)] == [1, 3, 3]
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert within_quota(8) == 8
