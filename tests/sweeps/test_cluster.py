"""Sweeps on a Ray cluster of several processes: with killed workers and drivers and new nodes, the table is the same.

Its results.csv is compared, byte for byte, with that of the same cohorts trained in this process.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import nbformat
import pytest
from small import SMALL, write_book

from ternary_lab import EngineError, NotebookError
from ternary_lab.notebooks.run import run_each
from ternary_lab.runs.locks import OWNER
from ternary_lab.sweeps import engines
from ternary_lab.sweeps.design import Sweep, load_sweep
from ternary_lab.sweeps.run import Progress, run_sweep, status

PATIENCE = 600
"""Seconds to wait for Ray on a busy machine: it starts processes that each import torch."""
# Ray reads these when it is imported. By default it waits half a minute, which is too short on a busy machine, and
# gives its workers a low priority.
os.environ |= {
    "RAY_raylet_start_wait_time_s": str(PATIENCE), "RAY_worker_register_timeout_seconds": str(PATIENCE),
    "RAY_worker_niceness": "0",
}
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ternary-lab[cluster]'")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """The processes of the cluster inherit one thread, as in this process, and send no statistics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def cluster(_environment: None) -> Iterator[Any]:
    """A head node with one core. A test removes the nodes that it adds."""
    from ray.cluster_utils import Cluster

    made = Cluster()
    try:
        made.add_node(**_core(), include_dashboard=False, no_monitor=True)
        yield made
    finally:
        made.shutdown()


def _core() -> dict[str, int]:
    """A node with one core. The ports of its agents are given: otherwise Ray fails if an agent starts slowly (15 s)."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        return {"num_cpus": 1, **{name: s.getsockname()[1] for name, s in zip(names, sockets, strict=True)}}


@pytest.fixture
def it(tmp_path: Path) -> Sweep:
    """A sweep of two cohorts of two runs; each takes seconds."""
    (tmp_path / "small.yaml").write_text(SMALL.as_yaml())
    (tmp_path / "it.yaml").write_text(json.dumps({
        "base": "small.yaml", "set": {"training.total_epochs": 100, "checkpoints.every": 0},
        "design": {"kind": "grid", "keys": {"rho.isolated": {"values": [0.0, 0.5]}}},
        "seeds": [1, 2], "cohort": 2, "budget": {"runs": 4},
    }))
    return load_sweep(tmp_path / "it.yaml")


def _driver(folder: Path, address: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "ternary_lab", "sweep", "it.yaml", "--engine", "ray", "--address", address]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen([*words, "--device", "cpu", "--run-dir", "ray"], cwd=folder, stdout=log, stderr=log)


def _wait(it: Sweep, folder: Path, driver: subprocess.Popen[bytes], until: Callable[[Progress], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not until(status(it, folder / "ray")):
        log = (folder / "log.txt").read_text()
        assert driver.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.1)


def _trainer(folder: Path, others: Container[int] = ()) -> int:
    """The process that trains a run now and is not among the others; 0 if there is none.

    The file of a killed process stays. The file in the sweep's own directory names the driver and is not read.
    """
    for file in (folder / "ray").glob(f"*/seed=*/{OWNER}"):
        with suppress(OSError, ValueError):  # it has ended in the meantime
            pid = int(json.loads(file.read_text())["pid"])
            os.kill(pid, 0)
            if pid not in others:
                return pid
    return 0


def _resumed(folder: Path) -> int:
    """How often a run was resumed after its first epoch."""
    logs = (folder / "ray").rglob("log.jsonl")
    events = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return sum(event["event"] == "resumed" and event["next_epoch"] > 0 for event in events)


def test_a_worker_and_a_driver_are_killed_a_node_joins_and_the_table_is_the_same(
    cluster: Any, it: Sweep, tmp_path: Path
) -> None:
    """One sweep for all of these events, because every new process takes seconds to import torch."""
    driver = _driver(tmp_path, cluster.address)
    _wait(it, tmp_path, driver, lambda found: found.running == 2 and found.epochs_done > 10)
    first = _trainer(tmp_path)
    os.kill(first, signal.SIGKILL)
    stood = status(it, tmp_path / "ray").epochs_done
    # Another worker resumes these runs, or starts the others.
    _wait(it, tmp_path, driver, lambda found: found.epochs_done > stood + 2 and _trainer(tmp_path, {first}) > 0)
    second = _trainer(tmp_path, {first})
    driver.kill()
    driver.wait()
    assert status(it, tmp_path / "ray").done == 0
    driver = _driver(tmp_path, cluster.address)
    _wait(it, tmp_path, driver, lambda found: found.running == 2 and _trainer(tmp_path, {first, second}) > 0)
    third = _trainer(tmp_path, {first, second})
    os.kill(third, signal.SIGSTOP)  # it keeps the only core busy until the node has joined
    try:
        node = cluster.add_node(**_core())
        _wait(it, tmp_path, driver, lambda found: found.running == 4)
    finally:
        os.kill(third, signal.SIGCONT)
    assert driver.wait(PATIENCE) == 0, (tmp_path / "log.txt").read_text()
    run_sweep(it, tmp_path / "local", device="cpu")
    there, here = (tmp_path / name / "results.csv" for name in ("ray", "local"))
    assert there.read_bytes() == here.read_bytes()
    assert _resumed(tmp_path) == 4
    assert "4 of 4 runs done, 0 running, 0 failed, 0 left" in (tmp_path / "log.txt").read_text()
    cluster.remove_node(node)


def test_a_notebook_is_executed_under_many_sets(cluster: Any, tmp_path: Path) -> None:
    book = write_book(tmp_path)
    with pytest.raises(NotebookError, match=r"1 of 2 notebooks failed, seed=3 in: .*AssertionError"):
        run_each(book, {"config": "mine"}, ["seed=2,3"], tmp_path / "there", engine="ray", address=cluster.address)
    executed = nbformat.read(tmp_path / "there" / "seed=2.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "2 mine [1, 2]\n"


# Clusters that do not answer


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port where nothing answers. No cluster is known, and ANSWER is short."""
    monkeypatch.setattr(engines, "ANSWER", 0.3)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _no_cluster(address: str | None) -> str:
    begun = time.monotonic()
    with pytest.raises(EngineError) as caught, engines.engine("ray", address, "cpu"):
        pass
    assert time.monotonic() - begun < 10  # Ray itself would try for a quarter of an hour
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_address_without_a_cluster_is_named_at_once(port: int) -> None:
    start = "start one with `ray start --head`, or use --address local"
    silent = f"127.0.0.1:{port}"
    assert _no_cluster(silent) == f"no Ray cluster at {silent}: no answer within 0.3 s: {start}"
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"localhost:{server.getsockname()[1]}"
    assert _no_cluster(free) == f"no Ray cluster at {free}: Connection refused: {start}"
    for wrong in ("localhost", "localhost:abc", ":1"):
        assert _no_cluster(wrong) == f"no Ray cluster at {wrong}: an address is HOST:PORT: {start}"


def test_another_server_is_no_cluster(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: server.accept()[0].close())
        assert "another server is there" in _no_cluster(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("address", [None, "auto"])
def test_the_address_of_a_cluster_that_has_ended_is_named(
    address: str | None, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray keeps this address in a file. A head node that is killed does not remove the file."""
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    assert f"no Ray cluster at 127.0.0.1:{port}: no answer" in _no_cluster(address)
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    assert f":{port}: " in _no_cluster(address)


# The start of a cluster, whose processes are left out here


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Replace Ray's start. The dictionary gets the environment of the start."""
    seen: dict[str, Any] = {}

    def init(address: str | None, **settings: object) -> None:
        seen.update(os.environ)
        # Ray's C++ code sets a handler that Python does not know. This one ignores the signal.
        ctypes.CDLL(None).signal(int(signal.SIGTERM), ctypes.c_void_p(1))

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setenv("RAY_TMPDIR", "")  # so that the variable is put back after the test
    monkeypatch.delenv("RAY_TMPDIR")
    before = signal.getsignal(signal.SIGTERM)
    yield seen
    signal.signal(signal.SIGTERM, before)


def test_a_long_name_of_the_temporary_folder_is_no_obstacle(
    started: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a socket has at most 107 characters."""
    folder = "/tmp/" + "x" * (engines.LONGEST_FOLDER - 5)
    for name, expected in ((folder, None), (folder + "x", "/tmp")):
        monkeypatch.setenv("TMPDIR", name)
        with engines.engine("ray", "local", "cpu"):
            assert started.get("RAY_TMPDIR") == expected
    # The name of a session has the date, the time with microseconds, and the number of the process.
    sockets = "/ray/session_2026-11-27_07-02-26_929779_4194304/sockets/plasma_store"
    assert len(folder + sockets) == 107


def test_a_folder_that_is_too_long_for_sockets_is_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> None:
        raise OSError("AF_UNIX path length cannot exceed 107 bytes: /xxx\nmore")

    monkeypatch.setattr(ray, "init", init)
    assert _no_cluster("local").endswith("107 bytes: /xxx: set RAY_TMPDIR to a shorter path")


def test_the_handler_of_sigterm_stays_that_of_the_caller(started: dict[str, Any]) -> None:
    """Ray's handler would abort this process with a trace of C++ code."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    with engines.engine("ray", "local", "cpu"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_what_no_cluster_can_give_is_one_line(cluster: Any, it: Sweep, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "ternary_lab", "sweep", "it.yaml", "--engine", "ray", "--address", cluster.address]
    done = subprocess.run([*words, "--device", "cuda"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: device 'cuda' was asked for, and no node of the Ray cluster has a GPU: use --device cpu\n"
    )
