"""GPU errors, memory estimates and the recorded devices of a run, tested on a CPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import SMALL

from ternary_lab import DeviceError, EngineError, RunError, branch, load_config, load_run, run_experiment
from ternary_lab.backend.devices import RESUMES, device_name, gpu_errors, missing_gpu, resolve_device
from ternary_lab.config import Config
from ternary_lab.runs.checksums import json_with_checksum
from ternary_lab.runs.load import published
from ternary_lab.runs.provenance import TrainedSpan, trained_spans
from ternary_lab.runs.verify import verify
from ternary_lab.sweeps.engines import Local, engine
from ternary_lab.training import memory as memories
from ternary_lab.training.cohort import Cohort
from ternary_lab.training.memory import room, run_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

CUDA = Path(__file__).parents[2] / "benchmarks" / "cuda.json"
"""Measurements of `make gpu` on an H100."""
ELSEWHERE = TrainedSpan(0, "cuda", "NVIDIA H100", 132, "2.11.0", False)

# --- names


@pytest.mark.parametrize(("given", "name"), [
    ("auto", "auto"), ("cpu", "cpu"), ("cpu:0", "cpu"), (torch.device("cpu", 0), "cpu"), ("cuda", "cuda"),
    ("cuda:1", "cuda:1"), (torch.device("cuda", 1), "cuda:1"),
])
def test_a_device_has_one_spelling(given: str | torch.device, name: str) -> None:
    assert device_name(given) == name
    if name == "cpu":
        assert resolve_device(given) == torch.device("cpu")
        assert Local(given).device == "cpu"
        assert memories.free_bytes(Local(given).device) == memories.free_bytes("cpu")


@pytest.mark.parametrize("given", ["gpu", "CPU", "cpu:x", "auto:1", "", " cpu", "mps", "meta", "cuda:", None, 0])
def test_another_device_is_refused_by_name(given: Any) -> None:
    with pytest.raises(DeviceError, match=f"unknown device {str(given)!r}: use auto, cpu or cuda"):
        resolve_device(given)


def test_ray_takes_every_spelling_of_the_cpu_and_no_numbered_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if Ray were not installed
    for device, error, words in (
        ("cpu:0", EngineError, "ray is missing"), ("cuda:1", DeviceError, "Ray chooses the GPU"),
        ("tpu", DeviceError, "unknown device"),
    ):
        with pytest.raises(error, match=words), engine("ray", device=device):
            pass


# --- errors


@pytest.mark.parametrize(("error", "part"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "memory is full: close something"),
    (RuntimeError("CUDA error: out of memory\nSearch for"), "memory is full: close something"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory is full"),
    (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nSearch for"), "the GPU is busy"),
    (torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "the GPU is busy"),
    (RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."), "driver is too old for torch"),
    (RuntimeError("CUDA error: CUDA driver version is insufficient for CUDA runtime version"), "driver is too old for"),
    (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "no kernels for the GPU"),
    (torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might be"),
     "the GPU failed: CUDA error: unspecified launch failure: the last"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), "the GPU failed: CUDA"),
    (torch.AcceleratorError("device unavailable"), "the GPU failed: device unavailable"),
])
def test_an_error_of_cuda_becomes_one_line_with_a_remedy(error: RuntimeError, part: str) -> None:
    with pytest.raises(DeviceError) as caught, gpu_errors(lambda: "close something"):
        raise error
    said = str(caught.value)
    assert part in said
    assert "\n" not in said
    assert any(remedy in said for remedy in (RESUMES, "--device cpu", "close something; the last finished"))


@pytest.mark.parametrize("error", [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), ValueError("CUDA error"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"), DeviceError("CUDA out of memory is in its text"),
])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, gpu_errors():
        raise error
    assert caught.value is error


def test_a_gpu_that_is_not_found_is_missing_or_its_driver_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception) -> str:
        def init() -> None:
            raise error

        monkeypatch.setattr(torch.cuda, "init", init)
        return str(missing_gpu("cuda"))

    old = failing(RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update"))
    assert "the NVIDIA driver is too old for torch" in old
    assert "update the driver" in old
    for none in (AssertionError("Torch not compiled with CUDA enabled"), RuntimeError("Found no NVIDIA driver")):
        assert "'cuda' was asked for and no CUDA GPU is visible to torch" in failing(none)


def _failing_in(monkeypatch: pytest.MonkeyPatch, epoch: int, error: RuntimeError) -> None:
    real = Cohort.train_next

    def train_next(self: Cohort) -> Any:
        if self.epoch == epoch:
            raise error
        return real(self)

    monkeypatch.setattr(Cohort, "train_next", train_next)


def _weights(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.safetensors"))}


def test_a_run_whose_gpu_fails_can_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        _failing_in(patch, 2, torch.AcceleratorError("CUDA error: unspecified launch failure\nSearch for"))
        with pytest.raises(DeviceError, match=r"the GPU failed: .* the same command resumes"):
            run_experiment(SMALL, [1, 2], tmp_path / "lost", device="cpu")
    # An epoch is written while the next is trained, so the failure loses the last one too.
    assert load_run(tmp_path / "lost" / "seed=1").checkpoint().epoch == 0
    run_experiment(SMALL, [1, 2], tmp_path / "lost", device="cpu")
    run_experiment(SMALL, [1, 2], tmp_path / "whole", device="cpu")
    assert _weights(tmp_path / "lost") == _weights(tmp_path / "whole")


def test_an_error_names_the_largest_cohort_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each = run_bytes(SMALL, "cpu")
    _failing_in(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    for free, seeds, part in (
        (2.5 * each, (1, 2, 3), "3 runs of small found no room .* train at most 2 side by side; the last finished"),
        (9.0 * each, (1, 2), "train at most 1 side by side"),  # 2 runs were too many, whatever the estimate says
        (9.0 * each, (1,), "1 run of small found no room .* lower evaluation.latents"),
    ):
        monkeypatch.setattr(memories, "free_bytes", lambda device, free=free: int(free))
        with pytest.raises(DeviceError, match=part):
            run_experiment(SMALL, seeds, tmp_path, device="cpu")


# --- memory


def test_the_estimate_covers_the_peaks_measured_on_an_h100() -> None:
    """Peaks are those of the allocator, for cohorts of v5.5 with its defaults and all metrics."""
    peaks = {runs: json.loads(CUDA.read_text())["cohorts"][str(runs)]["peak_bytes"] for runs in (1, 8, 128, 512)}
    config = load_config("v5_5")
    estimate = run_bytes(config, "cuda")
    for runs in (8, 128, 512):
        each = (peaks[runs] - peaks[1]) / (runs - 1)
        assert 1.25 * each <= estimate <= 2 * each  # a quarter more for other steps and cards
    assert peaks[128] <= 128 * estimate
    assert peaks[512] <= 512 * estimate


@pytest.mark.parametrize("change", [
    {"data.batch_size": 1024}, {"model.latent_dim": 64}, {"model.encoder_hidden": [2048]},
    {"model.decoder_B_hidden": 512}, {"evaluation.latents": 2**20}, {"evaluation.elbo_samples": 64},
    {"data.epoch_operations": 100_000}, {"information.noise_weight": 1.0},
])
def test_the_estimate_for_a_gpu_grows_with_each_size(change: dict[str, Any]) -> None:
    base = load_config("v5_5")
    assert run_bytes(load_config(base.as_dict(), change), "cuda") > run_bytes(base, "cuda")


def test_the_largest_cohort_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    each = run_bytes(SMALL, "cuda")
    monkeypatch.setattr(memories, "free_bytes", lambda device: 7 * each)
    assert "train at most 7 side by side" in room(SMALL, 8, "cuda")
    assert "train at most 7 side by side" in room(SMALL, 800, "cuda")


# --- the devices of a run


def _cut(root: Path, config: Config) -> Path:
    """A run that has stopped after its first epoch."""
    run_experiment(config, [1], root, device="cpu", stop=lambda: True)
    return root / "seed=1"


def _set_devices(run: Path, *devices: TrainedSpan) -> None:
    """Rewrite the provenance: the run was trained on these devices."""
    provenance = {**load_run(run).provenance, "devices": [asdict(device) for device in devices]}
    (run / "provenance.json").write_bytes(json_with_checksum(provenance))


def _devices(run: Path) -> Sequence[TrainedSpan]:
    return trained_spans(load_run(run).provenance)


def test_provenance_has_the_device_of_each_stretch_of_epochs(tmp_path: Path) -> None:
    config = load_config(SMALL.as_dict(), {"runtime.streams": "cpu"})
    run = _cut(tmp_path, config)
    here = TrainedSpan(0, "cpu", None, None, str(torch.__version__), False)
    assert _devices(run) == [here]
    _set_devices(run, ELSEWHERE)
    run_experiment(config, [1], tmp_path, device="cpu")
    assert _devices(run) == [ELSEWHERE, replace(here, first_epoch=1)]
    assert [load_run(run).trained_on(epoch).device for epoch in (0, 1, 2)] == ["cuda", "cpu", "cpu"]
    assert verify(load_run(run)).sound


def test_a_stretch_without_an_epoch_is_dropped(tmp_path: Path) -> None:
    run_experiment(SMALL, [1], tmp_path, device="cpu", stop=lambda: True)
    run = tmp_path / "seed=1"
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    (run / "history.csv").unlink()
    _set_devices(run, ELSEWHERE)
    run_experiment(SMALL, [1], tmp_path, device="cpu")
    assert [(s.first_epoch, s.device) for s in _devices(run)] == [(0, "cpu")]


def test_another_kind_of_device_is_refused_where_streams_are_its_own(tmp_path: Path) -> None:
    run = _cut(tmp_path, SMALL)
    _set_devices(run, ELSEWHERE)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    both = r"seed=1: .* a CUDA GPU \(NVIDIA H100\), where epoch 0 .* on the CPU .* --device cuda.* runtime.streams=cpu"
    with pytest.raises(RunError, match=both):
        run_experiment(SMALL, [1], tmp_path, device="cpu")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    with pytest.raises(RunError, match=both):
        branch(load_run(run), 0, {"kl.free_bits": 0.0}, device="cpu")
    # Another card of the same kind is accepted, and so is a run that has ended.
    _set_devices(run, replace(ELSEWHERE, device="cpu"))
    run_experiment(SMALL, [1], tmp_path, device="cpu")
    _set_devices(run, ELSEWHERE)
    assert run_experiment(SMALL, [1], tmp_path, device="cpu")[1].stopped == "complete: 3 epochs"


def test_verify_measures_on_the_device_of_the_epoch(tmp_path: Path) -> None:
    run = run_experiment(SMALL, [1], tmp_path, device="cpu")[1]
    _set_devices(run.path, ELSEWHERE, replace(_devices(run.path)[0], first_epoch=2))
    assert verify(run).epoch == 2
    assert verify(run).sound
    _set_devices(run.path, ELSEWHERE)
    found = verify(run)
    assert (found.metrics, found.sound) == ({}, True)
    line, = found.describe().splitlines()
    assert "epoch 2 was measured on a CUDA GPU (NVIDIA H100) with its random streams, and no CUDA GPU is here" in line
    assert found.as_dict()["unmeasured"] in line


def test_the_device_of_older_runs_is_read(tmp_path: Path) -> None:
    for name in published():
        run = load_run(name)
        (span,) = trained_spans(run.provenance)
        # A provenance without a list of devices does not say where a branch begins.
        assert span.first_epoch in (0, run.history["epoch"].min())
        assert span.device == "cpu"
        assert run.trained_on(70).device == "cpu"
    older = {"device": "NVIDIA A100-SXM4-40GB", "versions": {"torch": "2.13.0"}}
    assert trained_spans(older) == [TrainedSpan(0, "cuda", "NVIDIA A100-SXM4-40GB", None, "2.13.0", None)]
    run_experiment(SMALL, [1], tmp_path, device="cpu", stop=lambda: True)
    path = tmp_path / "seed=1" / "provenance.json"
    told = json.loads(path.read_text())
    del told["devices"], told["sha256"]
    path.write_bytes(json_with_checksum({**told, "device": "cpu"}))
    run = run_experiment(SMALL, [1], tmp_path, device="cpu")[1]
    assert run.trained_on(2).device == "cpu"
    assert verify(run).sound


def test_a_provenance_without_devices_is_named(tmp_path: Path) -> None:
    run = run_experiment(SMALL, [1], tmp_path, device="cpu")[1]
    told = {name: value for name, value in run.provenance.items() if name != "devices"}
    (run.path / "provenance.json").write_bytes(json_with_checksum(told))
    with pytest.raises(RunError, match=r"provenance.json: damaged: it does not say on which device"):
        run.trained_on(0)


def test_the_report_describes_a_new_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The provenance of a new run differs from that of the older published runs."""
    run = run_experiment(SMALL, [1], tmp_path, device="cpu")[1]
    book = json.loads((Path(__file__).parents[2] / "notebooks" / "11_report.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    telling, = (source for source in sources if "record.provenance" in source)
    capsys.readouterr()
    exec(telling, {"record": run, "settings": run.config, "trained_spans": trained_spans})
    assert f"seed 1, on cpu in float32, {run.provenance['threads']} threads" in capsys.readouterr().out
