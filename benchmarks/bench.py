"""The speed of this machine: seconds per epoch at several cohort sizes, and the matrix floor.

The matrix floor F is the time of the matrix products of one run's epoch without any other work. The products are the
forward product, the weight gradient and the input gradient of each layer; the first layer of an encoder has no input
gradient. F is measured in the same process as the epochs, on all CPU threads and on one thread, because such small
products are often faster on one thread. On a GPU, the products are replayed as a CUDA graph. Otherwise the measurement
would show the time of the launches. Ratios to the floor can be compared between machines, but times cannot.

The values of the numbers can also change the speed. Processors can be many times slower with numbers below 1e-38, and
the probabilities of sharp decoders give such products. `measuring_seconds` would show such a slowdown.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ternary_lab import controllers as control
from ternary_lab import space, splits
from ternary_lab.backend.console import say, steady_output
from ternary_lab.backend.cpus import available_cpus
from ternary_lab.backend.devices import resolve_device
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.backend.threads import at_most_threads
from ternary_lab.config import Config
from ternary_lab.config_files import load_config
from ternary_lab.errors import TernaryLabError
from ternary_lab.metrics.evaluate import LATENTS, SAMPLES, evaluate
from ternary_lab.model import Architecture, TernaryVAE
from ternary_lab.networks import Network
from ternary_lab.runs import load, provenance
from ternary_lab.runs.files import require_writable, write_atomically
from ternary_lab.training.cohort import Cohort, Measures
from ternary_lab.training.run_state import RunState

TRAINED: Mapping[str, tuple[str, int]] = {
    "v5.5 at epoch 100": ("v5_5/seed=42", 100), "beyond": ("beyond/seed=42", 103),
}
"""Published run and epoch of each model with a sharp decoder, by name."""


@with_fixed_arithmetic
def bench(*, device: str = "auto", repeats: int = 5) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each measurement when it ends, and a dictionary of all results so far.

    The last dictionary is what `--json` prints.
    """
    place = resolve_device(device)
    config = load_config("v5_5")
    result: dict[str, Any] = {
        "device": "cpu" if place.type == "cpu" else torch.cuda.get_device_name(place),
        "threads": torch.get_num_threads(),
        "matrix_floor_seconds": matrix_floor(config, place, repeats),
    }
    if place.type == "cpu":
        with at_most_threads(1):
            result["matrix_floor_one_thread_seconds"] = matrix_floor(config, place, repeats)
    yield "matrix floor", result
    result["original_work_seconds"], _ = epoch_seconds(config, 1, place, repeats, "coverage")
    yield "what the original does", result
    result["cohorts"] = {}
    for runs in (1, 8, 64) if place.type == "cpu" else (1, 8, 64, 128):
        times = repeats if runs < 64 or place.type == "cuda" else 1
        result["cohorts"][str(runs)] = cohort_times(config, runs, place, times)
        yield f"cohort of {runs}", result
    result["measuring_seconds"] = measuring_seconds(config, place)
    yield "measuring sharp models", result
    result["evaluate_seconds"] = evaluate_seconds(config, place)
    yield "evaluate", result
    result["import_seconds"] = import_seconds()
    result["help_seconds"] = process_seconds(["-m", "ternary_lab", "--help"])
    result |= {"machine": machine(), "versions": provenance.versions(), "source_sha256": provenance.source_hash()}
    result["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    yield "import", result


def floor_seconds(result: Mapping[str, Any]) -> float:
    """Return the matrix floor F for the faster number of threads."""
    return float(min(result[key] for key in result if key.startswith("matrix_floor_")))


def matrix_floor(config: Config, device: torch.device, repeats: int) -> float:
    """Return the matrix floor F: the seconds of the matrix products of one run's epoch."""
    # Each product has its own buffer, so that memory management is not measured.
    work = [
        (a, b, torch.empty(a.shape[0], a.shape[1], b.shape[2], device=device))
        for a, b in products(Architecture(config.model), config.data.batch_size, device)
    ]
    steps = -(-epoch_operations(config) // config.data.batch_size)

    def step() -> None:
        for a, b, out in work:
            torch.bmm(a, b, out=out)

    once = _captured(step) if device.type == "cuda" else step

    def epoch() -> None:
        for _ in range(steps):
            once()

    return timed(epoch, device, max(repeats, 5))


def products(architecture: Architecture, batch: int, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the factors (G, M, K), (G, K, N) of the matrix products of one run's training step, in any order."""
    found = []
    networks: list[tuple[int, Network, bool]] = [
        (2, architecture.encoder, False), (1, architecture.decoder_A, True), (1, architecture.decoder_B, True),
    ]
    for groups, network, needs_input in networks:
        for i, layer in enumerate(network.layers):
            x = torch.randn(groups, batch, layer.inputs, device=device)
            w = torch.randn(groups, layer.outputs, layer.inputs, device=device)
            g = torch.randn(groups, batch, layer.outputs, device=device)
            found += [(x, w.transpose(1, 2)), (g.transpose(1, 2), x)]
            if needs_input or i > 0:
                found.append((g, w))
    return found


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """Capture the work of `step` in a CUDA graph, and return a function that launches the graph.

    Before the capture, `step` runs once, because CUDA graphs require this.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def epoch_operations(config: Config) -> int:
    """Return the number of operations that one epoch trains on."""
    return config.data.epoch_operations or len(splits.split(config.data).train)


def training_flop(config: Config) -> float:
    """Return the number of floating-point operations of the matrix products of one run's training epoch."""
    one = products(Architecture(config.model), 1, torch.device("meta"))
    return epoch_operations(config) * float(sum(2 * a.numel() * b.shape[2] for a, b in one))


def evaluation_flop(config: Config, samples: int, latents: int) -> float:
    """Return the number of floating-point operations of the measurement after an epoch.

    Both decoders decode `samples` draws and `latents` latents. Two sums are then taken over the latents: of the output
    probabilities and of their squares. Each sum needs one addition and one product for each latent and ternary
    operation. The codes of held-out operations are left out; they would add a few percent.
    """
    a = Architecture(config.model)
    decoders = 2.0 * sum(n.inputs * n.outputs for network in (a.decoder_A, a.decoder_B) for n in network.layers)
    return (samples + latents) * decoders + float(latents * 2 * 2 * 2 * space.SIZE)


@with_fixed_arithmetic
def measuring_seconds(config: Config, device: torch.device, rounds: int = 5) -> dict[str, float]:
    """Return the seconds of the measurement after an epoch, by name of the model.

    The models are an untrained model and all models of `TRAINED`. All models are measured in the same way, so only the
    values of the numbers differ. The result is the fastest of several rounds.
    """
    states = {"untrained": RunState.initial(config, 0)}
    for name, (run, epoch) in TRAINED.items():
        states[name] = replace(states["untrained"], blocks=load.load_run(run).checkpoint(epoch).blocks)
    cohorts = {name: Cohort([config], [0], device, [state]) for name, state in states.items()}

    def measure(cohort: Cohort) -> Callable[[], object]:
        return lambda: timed(lambda: cohort.measurement().result(), device, 1)

    return fastest({name: measure(cohort) for name, cohort in cohorts.items()}, rounds, 1)


def evaluate_seconds(
    config: Config, device: torch.device, samples: int = SAMPLES, latents: int = LATENTS
) -> float:
    """Return the seconds of `evaluate`, by default with the default arguments of `evaluate`.

    On a GPU, the first call is not counted, because the first call loads kernels.
    """
    model = TernaryVAE(config.model, RunState.initial(config, 0).blocks.to(device))
    return timed(lambda: evaluate(model, samples, latents), device, 3 if device.type == "cuda" else 1)


def epoch_seconds(
    config: Config, runs: int, device: torch.device, repeats: int, measures: Measures
) -> tuple[float, Cohort]:
    """Return the seconds from the end of one epoch to the end of the next epoch, and the trained cohort.

    Each epoch is measured while the next epoch trains.
    """
    cohort = Cohort([config] * runs, list(range(runs)), device, measures=measures)
    ends = []
    # On CUDA the first epochs capture graphs and allocate the pinned memory that later epochs use again.
    first = 3 if device.type == "cuda" else 0
    for epoch in islice(cohort.epochs(), first + repeats + 1):
        epoch.measurement.result()
        ends.append(time.perf_counter())
    return median(b - a for a, b in pairwise(ends[first:])), cohort


def cohort_times(config: Config, runs: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Return the times of a cohort of `runs` runs with every metric.

    The times are those of training alone, of measuring alone, and of a whole epoch with both.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    epoch, cohort = epoch_seconds(config, runs, device, repeats, "all")
    plans = [control.plan_epoch(c, 1, s) for c, s in zip(cohort.configs, cohort.controllers, strict=True)]
    cohort.state(0)  # waits for the last measurement; otherwise a GPU would measure during the timed training
    return {
        "train_seconds": timed(lambda: cohort.train_planned(plans), device, repeats),
        "eval_seconds": timed(lambda: cohort.measurement().result(), device, repeats),
        "epoch_seconds": epoch,
        "run_epochs_per_second": runs / epoch,
        "peak_bytes": peak_bytes(device),
    }


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median seconds of `repeats` calls.

    If `repeats` is above 1, an extra first call is not counted.
    """
    seconds = []
    for _ in range(repeats + (repeats > 1)):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return median(seconds[repeats > 1 :])


def fastest(calls: Mapping[str, Callable[[], object]], rounds: int = 8, repeats: int = 20) -> dict[str, float]:
    """Return the seconds of one call of each function, by name.

    The functions take turns in several rounds, so a disturbance affects all of them. The fastest round counts.
    """
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            best[name] = min(best[name], (time.perf_counter() - started) / repeats)
    return best


def peak_bytes(device: torch.device) -> int:
    """Return the largest memory in bytes so far, of the GPU or, on a CPU, of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def import_seconds() -> float:
    """Return the median seconds of `import ternary_lab` in a new process, without the start of the interpreter."""
    return max(0.0, process_seconds(["-c", "import ternary_lab"]) - process_seconds(["-c", "pass"]))


def process_seconds(arguments: Sequence[str], repeats: int = 5) -> float:
    """Return the median seconds of a new Python process with these arguments."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def machine() -> dict[str, Any]:
    """Return a description of the machine, without the machine's name."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model, "cores": os.cpu_count(), "available_cpus": available_cpus(), "system": platform.system(),
        "architecture": platform.machine(),
    }


def describe(result: dict[str, Any]) -> str:
    """Return the result as a table of text."""
    names = ("train", "eval", "epoch")
    sharp = ", ".join(f"{ratio:.2f} ({name})" for name, ratio in _sharp(result).items())
    lines = [
        f"{_where(result)}, {result['threads']} threads of {result['machine']['available_cpus']} CPUs; matrix floor of "
        f"one run's epoch {floor_seconds(result):.3f} s; an epoch of the original's work "
        f"{result['original_work_seconds']:.3f} s; measuring a sharp model / an untrained one {sharp}; "
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


def markdown(results: Iterable[Mapping[str, Any]]) -> str:
    """Return the results as Markdown tables for docs/speed.md.

    There is one table of cohorts for each machine. The last table describes one run, with one column for each machine.
    """
    results = list(results)
    tables = [
        _table(f"{_where(result)}, {result['threads']} threads, {result['date']}", [
            (f"{runs} run{'s' if runs != '1' else ''}", _of_cohort(int(runs), row, floor_seconds(result)))
            for runs, row in result["cohorts"].items()
        ])
        for result in results
    ]
    return "\n\n".join([*tables, _table("one run", [(_where(result), _of_one(result)) for result in results])])


def _table(title: str, columns: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """Return a Markdown table with a column for each name and a row for each label that any column has."""
    lines = [f"| {title} | " + " | ".join(name for name, _ in columns) + " |", "|---|" + "---:|" * len(columns)]
    for label in dict.fromkeys(label for _, cells in columns for label in cells):
        lines.append(f"| {label} | " + " | ".join(cells.get(label, "-") for _, cells in columns) + " |")
    return "\n".join(lines)


def _of_cohort(runs: int, row: Mapping[str, float], floor: float) -> dict[str, str]:
    """Return a dictionary from label to cell for a cohort. Shares of the roofline are known only for GPUs."""
    cells = {
        "an epoch with every metric, s": f"{row['epoch_seconds']:.2f}",
        "measuring alone, s": f"{row['eval_seconds']:.2f}",
        "run-epochs a second, every metric": f"{row['run_epochs_per_second']:.2f}",
    }
    if "train_seconds" in row:
        cells |= {
            "training alone, s": f"{row['train_seconds']:.2f}",
            "training alone / its matrix products": f"{row['train_seconds'] / runs / floor:.1f}",
        }
    if "epoch_roofline" in row:
        cells |= {
            "104 epochs with every metric, s": f"{104 * row['epoch_seconds']:.0f}",
            "an epoch with every metric, share of the roofline, %": f"{100 * row['epoch_roofline']:.1f}",
            "peak memory, GiB": f"{row['peak_bytes'] / 2**30:.1f}",
        }
    return cells


def _where(result: Mapping[str, Any]) -> str:
    """Return the name of the processor or of the GPU."""
    return str(result["machine"]["cpu"] if result["device"] == "cpu" else result["device"])


def _sharp(result: Mapping[str, Any]) -> dict[str, float]:
    """Return, for each model of `TRAINED`, the time to measure it divided by the time for an untrained model."""
    seconds = result.get("measuring_seconds", {})
    return {name: seconds[name] / seconds["untrained"] for name in seconds if name != "untrained"}


def _of_one(result: Mapping[str, Any]) -> dict[str, str]:
    """Return a dictionary from label to cell for one run."""
    cells = {
        "the matrix products of an epoch's training, one thread or all, whichever is faster, s":
            f"{floor_seconds(result):.2f}",
    }
    for label, key in (
        ("an epoch of the original's work: training, validation, sampled coverage, s", "original_work_seconds"),
        ("`evaluate` at its defaults, s", "evaluate_seconds"),
        ("`import ternary_lab`, s", "import_seconds"),
        ("`ternary-lab --help`, s", "help_seconds"),
    ):
        if key in result:
            cells[label] = f"{result[key]:.2f}"
    return cells | {
        f"measuring {name} / measuring an untrained model": f"{ratio:.2f}" for name, ratio in _sharp(result).items()
    }


def main() -> None:
    """Run the command line, which `--help` describes."""
    parser = argparse.ArgumentParser(description="Measure the speed of training, measuring and `evaluate` here.")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=5, help="calls of which the median counts")
    parser.add_argument("--output", type=Path, help="also write the result as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    try:
        if options.output is not None:
            require_writable(options.output)
        for name, so_far in bench(device=options.device, repeats=options.repeats):
            say(f"measured: {name}")
            result = so_far
        print(json.dumps(result) if options.json else describe(result), flush=True)  # shown even if the disk is full
        if options.output is not None:
            write_atomically(options.output, (json.dumps(result, indent=1) + "\n").encode())
    except TernaryLabError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    with steady_output():
        main()
