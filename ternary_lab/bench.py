"""How fast is it here? Seconds an epoch at several cohort sizes, beside the floor that the matrix products set.

The floor F is the time that one epoch's matrix products of one run alone take, each weight with its
forward product, its weight gradient and its input gradient, measured in the same process: on all CPU threads
and on one, for products so small are often faster on one. Ratios to the faster of them can be compared between
machines; the times cannot.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ternary_lab import controllers as control
from ternary_lab import record
from ternary_lab.config import Config, load_config
from ternary_lab.evaluation import LATENTS, SAMPLES, evaluate
from ternary_lab.model import Network, TernaryVAE
from ternary_lab.numerics import fenced
from ternary_lab.runtime import at_most_threads, resolve_device
from ternary_lab.training import Cohort, Measures


@fenced
def bench(*, device: str = "auto", repeats: int = 5) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (what was measured, everything so far); the last dict has the shape of `bench --json`."""
    place = resolve_device(device)
    config = load_config("v5_5")
    result: dict[str, Any] = {
        "device": "cpu" if place.type == "cpu" else torch.cuda.get_device_name(place),
        "threads": torch.get_num_threads(),
        "matrix_floor_seconds": matrix_floor(config, place, repeats),
    }
    with at_most_threads(1):
        result["matrix_floor_one_thread_seconds"] = matrix_floor(config, place, repeats)
    yield "matrix floor", result
    result["original_work_seconds"], _ = epoch_seconds(config, 1, place, repeats, "coverage")
    yield "what the original does", result
    result["cohorts"] = {}
    for runs in (1, 8, 64) if place.type == "cpu" else (1, 8, 64, 128):
        result["cohorts"][str(runs)] = cohort_times(config, runs, place, repeats if runs < 64 else 1)
        yield f"cohort of {runs}", result
    model = TernaryVAE(config.model, Cohort([config], [0], place).blocks)
    result["evaluate_seconds"] = timed(lambda: evaluate(model, SAMPLES, LATENTS), place, 1)
    yield "evaluate", result
    result["import_seconds"] = import_seconds()
    result["help_seconds"] = process_seconds(["-m", "ternary_lab", "--help"])
    result |= {"machine": machine(), "versions": record.versions(), "source_sha256": record.source_hash()}
    result["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    yield "import", result


def floor_seconds(result: Mapping[str, Any]) -> float:
    """F on as many threads as are fastest."""
    return float(min(result["matrix_floor_seconds"], result["matrix_floor_one_thread_seconds"]))


def matrix_floor(config: Config, device: torch.device, repeats: int) -> float:
    """F: seconds of one epoch's matrix products of one run."""
    cohort = Cohort([config], [0], device)
    batch = config.data.batch_size
    products: list[tuple[torch.Tensor, ...]] = []
    networks: list[tuple[int, Network, bool]] = [
        (2, cohort.architecture.encoder, False),
        (1, cohort.architecture.decoder_A, True),
        (1, cohort.architecture.decoder_B, True),
    ]
    for groups, network, needs_input in networks:
        for i, layer in enumerate(network.layers):
            x = torch.randn(groups, batch, layer.inputs, device=device)
            w = torch.randn(groups, layer.outputs, layer.inputs, device=device)
            g = torch.randn(groups, batch, layer.outputs, device=device)
            products += [(x, w.transpose(1, 2)), (g.transpose(1, 2), x)]
            if needs_input or i > 0:
                products.append((g, w))
    # Buffers of their own: what is measured is the products, not memory management.
    work = [(a, b, torch.empty(a.shape[0], a.shape[1], b.shape[2], device=device)) for a, b in products]
    steps = -(-len(cohort.x_train) // batch)

    def epoch() -> None:
        for _ in range(steps):
            for a, b, out in work:
                torch.bmm(a, b, out=out)

    return timed(epoch, device, max(repeats, 5))


def epoch_seconds(
    config: Config, runs: int, device: torch.device, repeats: int, measures: Measures
) -> tuple[float, Cohort]:
    """Seconds from the end of one epoch to the end of the next, measuring beside training, and the cohort after it."""
    cohort = Cohort([config] * runs, list(range(runs)), device, measures=measures)
    ends = []
    for epoch in islice(cohort.epochs(), repeats + 1):
        epoch.measurement.wait()
        ends.append(time.perf_counter())
    return median(b - a for a, b in pairwise(ends)), cohort


def cohort_times(config: Config, runs: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Times of a cohort of `runs` with every metric: training alone, measuring alone, and epochs of both."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    epoch, cohort = epoch_seconds(config, runs, device, repeats, "all")
    plans = [control.plan_epoch(c, 1, s) for c, s in zip(cohort.configs, cohort.controllers, strict=True)]
    return {
        "train_seconds": timed(lambda: cohort.train_planned(plans), device, repeats),
        "eval_seconds": timed(lambda: cohort.measurement().wait(), device, repeats),
        "epoch_seconds": epoch,
        "run_epochs_per_second": runs / epoch,
        "peak_bytes": peak_bytes(device),
    }


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds over `repeats` calls, after one that is not counted where there are several."""
    seconds = []
    for _ in range(repeats + (repeats > 1)):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return median(seconds[repeats > 1 :])


def peak_bytes(device: torch.device) -> int:
    """Largest memory so far: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def import_seconds() -> float:
    """Median seconds of `import ternary_lab` in a new process, the interpreter's own start taken off."""
    return max(0.0, process_seconds(["-c", "import ternary_lab"]) - process_seconds(["-c", "pass"]))


def process_seconds(arguments: Sequence[str], repeats: int = 5) -> float:
    """Median seconds of a new Python process."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def machine() -> dict[str, Any]:
    """What the times were measured on, without the machine's name."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.system(), "architecture": platform.machine()}


def describe(result: dict[str, Any]) -> str:
    """The result as a table for people."""
    floor, one = result["matrix_floor_seconds"], result["matrix_floor_one_thread_seconds"]
    names = ("train", "eval", "epoch")
    lines = [
        f"{result['device']}, {result['threads']} threads; matrix floor of one run's epoch {floor:.3f} s "
        f"({one:.3f} s on one thread); an epoch of the original's work {result['original_work_seconds']:.3f} s; "
        f"evaluate {result['evaluate_seconds']:.2f} s; import {result['import_seconds']:.3f} s",
        f"{'runs':>5}" + "".join(f"{name + ', s':>18}" for name in names) + f"{'run-epochs/s':>14}{'train/floor':>13}"
        + f"{'peak, MiB':>11}",
    ]
    for runs, row in result["cohorts"].items():
        cells = "".join(f"{row[f'{name}_seconds']:>18.3f}" for name in names)
        ratio = row["train_seconds"] / (int(runs) * floor_seconds(result))
        lines.append(
            f"{runs:>5}{cells}{row['run_epochs_per_second']:>14.2f}{ratio:>13.2f}{row['peak_bytes'] / 2**20:>11.0f}"
        )
    return "\n".join(lines)


def markdown(result: dict[str, Any]) -> str:
    """The result as the table of the README."""
    where = result["machine"]["cpu"] if result["device"] == "cpu" else result["device"]
    floor = floor_seconds(result)
    lines = [
        f"| {where}, {result['threads']} threads, {result['date']} | 1 run | " + " | ".join(
            f"{runs} runs" for runs in list(result["cohorts"])[1:]) + " |",
        "|---|" + "---:|" * len(result["cohorts"]),
    ]
    rows: tuple[tuple[str, Callable[[int, dict[str, float]], str]], ...] = (
        ("an epoch with every metric, s", lambda runs, row: f"{row['epoch_seconds']:.2f}"),
        ("training alone, s", lambda runs, row: f"{row['train_seconds']:.2f}"),
        ("measuring alone, s", lambda runs, row: f"{row['eval_seconds']:.2f}"),
        ("run-epochs a second, every metric", lambda runs, row: f"{row['run_epochs_per_second']:.2f}"),
        ("training alone / its matrix products", lambda runs, row: f"{row['train_seconds'] / runs / floor:.1f}"),
    )
    for label, cell in rows:
        lines.append(f"| {label} | " + " | ".join(cell(int(n), row) for n, row in result["cohorts"].items()) + " |")
    others = (
        ("an epoch of what the original does: training, validation, sampled coverage", "original_work_seconds"),
        ("`evaluate` at its defaults", "evaluate_seconds"),
        ("`import ternary_lab`", "import_seconds"),
        ("`ternary-lab --help`", "help_seconds"),
    )
    lines += ["", "| one run | s |", "|---|---:|"]
    lines += [f"| the matrix products of an epoch's training, one thread or all, whichever is faster | {floor:.2f} |"]
    lines += [f"| {label} | {result[key]:.2f} |" for label, key in others]
    return "\n".join(lines)
