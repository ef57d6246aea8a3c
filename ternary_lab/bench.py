"""How fast is it here? Seconds an epoch at several cohort sizes, beside the floor that the matrix products set.

The floor F is the time that one epoch's matrix products of one run alone take, each weight with its
forward product, its weight gradient and its input gradient, measured in the same process. Ratios to
it can be compared between machines; the times cannot.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch

from ternary_lab import controllers as control
from ternary_lab.config import Config, load_config
from ternary_lab.evaluation import LATENTS, SAMPLES, evaluate
from ternary_lab.metrics.coverage import unique_operations
from ternary_lab.model import PATHWAYS, Network, TernaryVAE
from ternary_lab.runtime import resolve_device
from ternary_lab.training import Cohort


def bench(*, device: str = "auto", repeats: int = 3) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (what was measured, everything so far); the last dict has the shape of `bench --json`."""
    place = resolve_device(device)
    config = load_config("v5_5")
    result: dict[str, Any] = {
        "device": "cpu" if place.type == "cpu" else torch.cuda.get_device_name(place),
        "threads": torch.get_num_threads(),
        "matrix_floor_seconds": matrix_floor(config, place, repeats),
        "cohorts": {},
    }
    yield "matrix floor", result
    for runs in (1, 8, 64) if place.type == "cpu" else (1, 8, 64, 128):
        result["cohorts"][str(runs)] = cohort_times(config, runs, place, repeats if runs < 64 else 1)
        yield f"cohort of {runs}", result
    model = TernaryVAE(config.model, Cohort([config], [0], place).blocks)
    calls = 1 if place.type == "cpu" else 3
    result["evaluate_seconds"] = timed(lambda: evaluate(model, SAMPLES, LATENTS), place, calls)
    yield "evaluate", result
    result["import_seconds"] = import_seconds()
    yield "import", result


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


def cohort_times(config: Config, runs: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Times of a cohort of `runs`: training, evaluation, a whole epoch, and one with the original's work only."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    cohort = Cohort([config] * runs, list(range(runs)), device)
    cohort.advance()
    plans = [control.plan_epoch(c, 1, s) for c, s in zip(cohort.configs, cohort.controllers, strict=True)]
    e = config.evaluation

    def train_and_validate() -> None:
        cohort.validate(plans, cohort.train_planned(plans)[1])

    def original_work() -> None:
        train_and_validate()
        for pathway in PATHWAYS:
            streams = cohort.streams("coverage", 1)
            unique_operations(cohort.model, pathway, e.coverage_samples, e.coverage_decoding, streams).tolist()

    train = timed(lambda: cohort.train_planned(plans), device, repeats)
    evaluation = timed(cohort.measure, device, repeats)
    original = timed(original_work, device, repeats)
    epoch = timed(cohort.advance, device, repeats)
    return {
        "train_seconds": train,
        "eval_seconds": evaluation,
        "epoch_seconds": epoch,
        "original_work_seconds": original,
        "run_epochs_per_second": runs / epoch,
        "peak_bytes": peak_bytes(device),
    }


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds over `repeats` calls, after one that is not counted."""
    seconds = []
    for i in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i:
            seconds.append(time.perf_counter() - started)
    return median(seconds)


def peak_bytes(device: torch.device) -> int:
    """Largest memory so far: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def import_seconds(repeats: int = 3) -> float:
    """Median seconds of `import ternary_lab` in a new process, the interpreter's own start taken off."""

    def run(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - started

    pairs = [(run("import ternary_lab"), run("pass")) for _ in range(repeats)]
    return max(0.0, median(a - b for a, b in pairs))


def describe(result: dict[str, Any], names: Sequence[str] = ("train", "eval", "epoch", "original_work")) -> str:
    """The result as a table for people."""
    floor = result["matrix_floor_seconds"]
    lines = [
        f"{result['device']}, {result['threads']} threads; matrix floor of one run's epoch {floor:.3f} s; "
        f"evaluate {result['evaluate_seconds']:.2f} s; import {result['import_seconds']:.3f} s",
        f"{'runs':>5}" + "".join(f"{name + ', s':>18}" for name in names) + f"{'run-epochs/s':>14}{'train/floor':>13}"
        + f"{'peak, MiB':>11}",
    ]
    for runs, row in result["cohorts"].items():
        cells = "".join(f"{row[f'{name}_seconds']:>18.3f}" for name in names)
        ratio = row["train_seconds"] / (int(runs) * floor)
        lines.append(
            f"{runs:>5}{cells}{row['run_epochs_per_second']:>14.2f}{ratio:>13.2f}{row['peak_bytes'] / 2**20:>11.0f}"
        )
    return "\n".join(lines)
