"""Checks and times of the library on this GPU.

    make gpu PYTHON=python3        # in the repository's root; or: PYTHONPATH=. python3 benchmarks/gpu.py

The script needs torch with CUDA, numpy, scipy, pandas, pydantic, pyyaml and safetensors, but no network. It takes under
six minutes on an H100. A check that fails does not stop the other checks. The file of results is written after each
check and measurement. The exit status is 1 if a check failed, and 2 if there is no such device.

The file has the format of `benchmarks/bench.py --output`, with these additional or different keys:

    checks      for each check: whether it passed, the seconds, and the compared values
    failures    for each missing measurement: the reason
    peak        measured peaks of the card: products of float32 matrices in flop/s, copies in byte/s
    kernels     for each cohort size R: kernels and launches of a training step
    cohorts     for each cohort size R: times, peak memory and shares of the roofline

The roofline is the time that the card needs for an epoch at the measured peaks. For training, this is the larger of two
times: the time of the floating-point operations, and the time in which AdamW reads and writes weights, gradients and
moments (seven passes per step). For measuring, this is the time of the floating-point operations.

`python benchmarks/scaling.py benchmarks` draws the figure on any machine with matplotlib.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import hashlib
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import bench
import torch
from torch.profiler import ProfilerActivity, profile

from ternary_lab import TernaryLabError, controllers, load_config, space, train
from ternary_lab.backend.console import steady_output
from ternary_lab.backend.devices import resolve_device
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.config import Config
from ternary_lab.metrics import coverage
from ternary_lab.model import Architecture
from ternary_lab.runs import provenance
from ternary_lab.runs.files import require_writable
from ternary_lab.training.cohort import Cohort
from ternary_lab.training.run_state import RunState

Checked = tuple[bool, Mapping[str, Any]]
"""Whether a check passed, and the values that were compared."""
NAMES = ("v5_5", "repaired", "beyond")
SEED = 42
BRIEF: Mapping[str, Any] = {
    "data.train_fraction": 0.02, "training.total_epochs": 2, "evaluation.latents": 4096,
    "evaluation.coverage_samples": 20_000, "information.start_epoch": 0, "information.ramp_epochs": 0,
}
"""Settings of short checks: epochs of seven steps with a brief measurement."""
SMALL: Mapping[str, Any] = {
    "data.train_fraction": 0.01, "data.validation_fraction": 0.01, "training.total_epochs": 2, "evaluation.latents": 64,
    "evaluation.coverage_samples": 100, "information.latents": 64, "statenet.lesson_operations": 16,
}
"""Settings for a trial of the script."""
TWINS = 4
NUDGE = 2.0**-18
"""Relative change of the twins' initial weights: 64 times the rounding error of a float32, 2^-24.

Rounding errors may grow to this size when sums of a few hundred products are computed a few hundred times.
"""
MARGIN = 4
LEAST = 3e-4
"""Relative difference that is always allowed.

One more or one fewer drawn operation changes the number of distinct operations by up to 1e-4 of this number.
"""
ADAMW_PASSES = 7
"""Passes over the weights in a step: AdamW reads weights, gradients and two moments, and writes weights and moments."""


class Findings:
    """The results so far.

    Each result is written to the file and printed on one line.
    """

    def __init__(self, output: Path, device: torch.device) -> None:
        self.output = output
        self.started = time.perf_counter()
        self.all: dict[str, Any] = {
            "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
            "threads": torch.get_num_threads(), "machine": bench.machine(), "versions": provenance.versions(),
            "source_sha256": provenance.source_hash(), "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "checks": {}, "failures": {}, "kernels": {}, "cohorts": {},
        }
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            free, total = torch.cuda.mem_get_info(device)
            self.all["gpu"] = {
                "multiprocessors": properties.multi_processor_count, "cuda": torch.version.cuda,
                "memory_bytes": total, "free_bytes": free,
            }

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def check(self, name: str, work: Callable[[], Checked]) -> None:
        """Run a check and record whether it passed. A check that raises an error has failed."""
        print(f"{name} ... ", end="", flush=True)
        before = self.seconds
        try:
            passed, details = work()
        except Exception as error:  # no error may stop the other checks
            passed, details = False, {"error": _described(error)}
        self.all["checks"][name] = {"passed": passed, "seconds": self.seconds - before, **details}
        print("passed" if passed else f"FAILED: {json.dumps(details)}", flush=True)
        self._write()

    def measure(self, name: str, work: Callable[[], Any], key: str, runs: int | None = None) -> None:
        """Measure with `work` and record the result under `key`, or record the reason of a failure.

        If `runs` is given, the result is recorded for this number of runs.
        """
        print(f"{name} ... ", end="", flush=True)
        try:
            found = work()
        except Exception as error:  # the card may be too small for a cohort, or the profiler may be missing
            self.all["failures"][name] = _described(error)
            print(f"not measured: {_described(error)}", flush=True)
        else:
            if runs is None:
                self.all[key] = found
            else:
                self.all[key][str(runs)] = found
            print(_shown(found), flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._write()

    def leave_out(self, name: str, reason: str) -> None:
        self.all["failures"][name] = reason
        print(f"{name} ... left out: {reason}", flush=True)
        self._write()

    def _write(self) -> None:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        part = self.output.with_suffix(".part")
        part.write_text(json.dumps(self.all, indent=1) + "\n")
        os.replace(part, self.output)


def _described(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _shown(found: object) -> str:
    if isinstance(found, Mapping):
        return ", ".join(f"{name} {_shown(value)}" for name, value in found.items())
    return f"{found:.4g}" if isinstance(found, float) else str(found)


# Checks


def class_indices(device: torch.device) -> Checked:
    """Check the index of every operation that is computed from its classes, also if the caller allows TF32."""
    classes = (space.operations() + 1).t().unsqueeze(0).to(device)
    before, wrong = torch.get_float32_matmul_precision(), {}
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        try:
            found = coverage.class_index(classes)[0].cpu()
        finally:
            torch.set_float32_matmul_precision(before)
        wrong[precision] = int((found != torch.arange(space.SIZE)).sum())
    return not any(wrong.values()), {"wrong": wrong}


@with_fixed_arithmetic
def parity(config: Config, device: torch.device) -> Checked:
    """Check that an epoch on the CPU and on the device gives the same metrics with the same random numbers.

    Rounding errors make two runs differ. To measure this difference, the CPU also trains twins: copies of the run whose
    initial weights differ by `NUDGE`. A metric may differ between the CPU and the device by `MARGIN` times the largest
    difference between the run and a twin, plus `LEAST` times the metric. A metric that is unknown on both is equal.
    """
    states = [RunState.initial(config, SEED) for _ in range(1 + TWINS)]
    for twin, state in enumerate(states[1:]):
        draw = torch.Generator().manual_seed(twin)
        for block in vars(state.blocks).values():
            block.mul_(1 + NUDGE * torch.empty_like(block).uniform_(-1, 1, generator=draw))
    cpu = Cohort([config] * len(states), [SEED] * len(states), torch.device("cpu"), states)
    ours, *twins = (dataclasses.asdict(row) for row in cpu.advance())
    (theirs,) = (dataclasses.asdict(row) for row in Cohort([config], [SEED], device).advance())
    apart = {}
    for name, value in ours.items():
        if isinstance(value, float) and not name.startswith("seconds_"):
            allowed = MARGIN * max(abs(twin[name] - value) for twin in twins) + LEAST * abs(value)
            both_unknown = math.isnan(value) and math.isnan(theirs[name])
            if not both_unknown and not abs(theirs[name] - value) <= allowed:
                apart[name] = {"cpu": value, "device": theirs[name], "allowed": allowed}
    return not apart, {"apart": apart}


@with_fixed_arithmetic
def repeats(config: Config, device: torch.device) -> Checked:
    """Check that two runs end in the same bytes after two epochs.

    The runs are trained once, a second time, and a third time with a new start from the state after the first epoch.
    """
    def cohort(states: Sequence[RunState] | None = None) -> Cohort:
        return Cohort([config] * 2, [1, 2], device, states)

    found = {}
    for name in ("whole", "again", "cut"):
        trained = cohort()
        trained.advance()
        if name == "cut":
            trained = cohort([trained.state(run) for run in range(2)])
        trained.advance()
        found[name] = _digest([trained.state(run) for run in range(2)])
    return len(set(found.values())) == 1, {"sha256": found}


def _digest(states: Iterable[RunState]) -> str:
    """Return the sha256 of everything that runs carry from one epoch to the next."""
    digest = hashlib.sha256()
    for state in states:
        for part in (state.blocks, state.first_moments, state.second_moments):
            for block in vars(part).values():
                digest.update(block.cpu().numpy().tobytes())
        if state.output is not None:
            digest.update(state.output.cpu().numpy().tobytes())
        digest.update(repr((state.next_epoch, state.steps, state.controllers, state.best, state.selected)).encode())
    return digest.hexdigest()


def full_precision(config: Config, device: torch.device) -> Checked:
    """Check that a caller who allows TF32 gets the same numbers, and that TF32 is still allowed afterwards."""
    def figures() -> str:
        rows = [dataclasses.asdict(row) for row in train(config, [SEED], device=device)]
        return json.dumps([{k: v for k, v in row.items() if not k.startswith("seconds_")} for row in rows])

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        plain = figures()
        torch.set_float32_matmul_precision("high")
        allowed = figures()
        after = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)
    return plain == allowed and after == "high", {"same_numbers": plain == allowed, "precision_afterwards": after}


# Times


def peaks(device: torch.device, size: int, copied: int) -> dict[str, float]:
    """Return the measured peaks of the card.

    The peaks are those of products of float32 matrices (`size`, `size`), in flop/s, and of copies of `copied` bytes, in
    byte/s.
    """
    a, b, c = (torch.randn(size, size, device=device) for _ in range(3))
    product = bench.timed(lambda: torch.mm(a, b, out=c), device, 9)
    source = torch.zeros(copied // 4, device=device)
    target = torch.empty_like(source)
    copy = bench.timed(lambda: target.copy_(source), device, 9)
    return {"flop_per_second": 2 * size**3 / product, "bytes_per_second": 2 * copied / copy}


@with_fixed_arithmetic
def cohort(
    config: Config, runs: int, device: torch.device, times: int, peak: Mapping[str, float] | None
) -> dict[str, float]:
    """Return the times of a cohort, and shares of the roofline if the peaks of the card are known."""
    row = bench.cohort_times(config, runs, device, times)
    if peak:
        architecture = Architecture(config.model)
        weights = 2 * architecture.encoder.size + architecture.decoder_A.size + architecture.decoder_B.size
        steps = -(-bench.epoch_operations(config) // config.data.batch_size)
        training = runs * max(
            bench.training_flop(config) / peak["flop_per_second"],
            4 * ADAMW_PASSES * weights * steps / peak["bytes_per_second"],
        )
        measured = config.evaluation.coverage_samples, config.evaluation.latents
        measuring = runs * bench.evaluation_flop(config, *measured) / peak["flop_per_second"]
        row["train_roofline"] = training / row["train_seconds"]
        row["epoch_roofline"] = (training + measuring) / row["epoch_seconds"]
    return row


@with_fixed_arithmetic
def kernels(runs: int, device: torch.device, shares: tuple[float, float] = (0.052, 0.104)) -> dict[str, float]:
    """Return the numbers of kernels, copies, launches, graph launches and host waits of one training step.

    Each launch starts one kernel, and each launch of a captured graph starts many kernels. The events are counted in
    two epochs of different length, by default of 16 and of 32 steps. The difference of the two counts leaves out events
    that occur once in an epoch.
    """
    counts: list[Counter[str]] = []
    steps = []
    for share in shares:
        config = load_config("v5_5", {"data.train_fraction": share})
        steps.append(-(-bench.epoch_operations(config) // config.data.batch_size))
        trained = Cohort([config] * runs, list(range(runs)), device)
        plans = [controllers.plan_epoch(config, 0, state) for state in trained.controllers]
        trained.train_planned(plans)
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        with profile(activities=kinds) as profiled:
            trained.train_planned(plans)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        counts.append(kinds_of((event.name, event.device_type.name == "CUDA") for event in profiled.events()))
    return {
        kind: (counts[1][kind] - counts[0][kind]) / (steps[1] - steps[0])
        for kind in ("kernels", "copies", "launches", "graph_launches", "host_waits")
    }


def kinds_of(events: Iterable[tuple[str, bool]]) -> Counter[str]:
    """Count the profiler's events by kind. An event is a pair of name and whether it happened on the GPU."""
    found: Counter[str] = Counter()
    for name, on_gpu in events:
        if on_gpu:
            if name.startswith(("Memcpy", "Memset")):
                found["copies"] += 1
            elif not name.startswith(("aten::", "ProfilerStep", "Context")):
                found["kernels"] += 1
        elif name.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchCooperativeKernel")):
            found["launches"] += 1
        elif name.startswith(("cudaGraphLaunch", "cuGraphLaunch")):
            found["graph_launches"] += 1
        elif name.startswith(("cudaStreamSynchronize", "cudaEventSynchronize")):
            found["host_waits"] += 1
    return found


def foreseen_seconds(took: Sequence[tuple[int, float]], runs: int) -> float:
    """Return the seconds that a cohort of `runs` runs is expected to take, from measured pairs (runs, seconds).

    The prediction lies on the straight line through the last two pairs, but is at least the time of the last pair. With
    one pair, the prediction is proportional to the number of runs. Without pairs, the prediction is 0. A proportion is
    usually too large, because a GPU needs about the same time for 8 runs as for one run.
    """
    if len(took) < 2:
        return took[0][1] * runs / took[0][0] if took else 0.0
    (few, short), (many, long) = took[-2:]
    return max(long, long + (long - short) / (many - few) * (runs - many))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Is everything right on this GPU, and how fast is it?")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "cuda.json", help="file of results")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try the script")
    parser.add_argument("--small", action="store_true", help="in seconds and on any machine: times mean nothing")
    parser.add_argument("--minutes", type=float, default=6, help="leave out cohorts that would take longer [6]")
    options = parser.parse_args(arguments)
    try:
        device = resolve_device(options.device)
        require_writable(options.output)
    except TernaryLabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    small = options.small
    brief = SMALL if small else BRIEF
    found = Findings(options.output, device)

    found.check("operation indices", partial(class_indices, device))
    for name in NAMES:
        config = load_config(name, {**brief, "runtime.streams": "cpu"})
        found.check(f"the CPU's figures over a few steps, {name}", partial(parity, config, device))
    whole = load_config("v5_5", {**brief, "runtime.streams": "cpu"} | ({} if small else {"data.train_fraction": 0.8}))
    found.check("the CPU's figures over an epoch", partial(parity, whole, device))
    for name in NAMES:
        found.check(f"the same bytes again and cut, {name}", partial(repeats, load_config(name, brief), device))
    found.check("float32 where the caller allows TF32", partial(full_precision, load_config("v5_5", brief), device))

    config = load_config("v5_5", brief if small else {})
    sizes = (256, 2**20) if small else (8192, 2**30)
    found.measure("peaks of the card", partial(peaks, device, *sizes), "peak")
    found.measure("matrix floor", partial(bench.matrix_floor, config, device, 5), "matrix_floor_seconds")
    for runs in (1, 2) if small else (1, 128):
        shares = [(0.004, 0.008)] if small else []
        found.measure(f"a step of {runs}", partial(kernels, runs, device, *shares), "kernels", runs)
    rounds = 1 if small else 5
    found.measure("sharp models", partial(bench.measuring_seconds, config, device, rounds), "measuring_seconds")
    draws = (100, 64) if small else ()
    found.measure("evaluate", partial(bench.evaluate_seconds, config, device, *draws), "evaluate_seconds")
    took: list[tuple[int, float]] = []
    for runs in (1, 2) if small else (1, 8, 128, 512):
        before, foreseen = found.seconds, foreseen_seconds(took, runs)
        if before + foreseen > 60 * options.minutes:
            found.leave_out(f"cohort of {runs}", f"{foreseen:.0f} s are foreseen, more than --minutes leaves")
            continue
        times = 1 if runs >= 128 or small else 3
        found.measure(
            f"cohort of {runs}", partial(cohort, config, runs, device, times, found.all.get("peak")), "cohorts", runs
        )
        took.append((runs, found.seconds - before))

    if found.all["cohorts"] and "matrix_floor_seconds" in found.all:
        print("\n" + bench.markdown([found.all]))
    failed = [name for name, check in found.all["checks"].items() if not check["passed"]]
    print(f"\n{options.output}: {found.seconds:.0f} s, {len(found.all['checks']) - len(failed)} checks passed, "
          f"{len(failed)} failed" + (f": {'; '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    with steady_output():
        sys.exit(main())
