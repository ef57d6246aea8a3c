"""Copy finished runs into the library: `python -m ternary_lab.publish runs/v5_5 runs/counterfactuals`.

Of every run the configuration, provenance, history and probes; weights of some epochs, without optimiser state.
"""

from __future__ import annotations

import lzma
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ternary_lab import checkpoint, record
from ternary_lab.checkpoint import write_atomically
from ternary_lab.errors import RunError
from ternary_lab.record import CHECKPOINTS, PUBLISHED, RunRecord, load_runs

DENSE: Sequence[int | str] = (*range(0, 101, 10), *range(45, 50), *range(51, 56), 69, "best_val_loss", "latest")
SPARSE: Sequence[int | str] = (60, 70, 80, 100)
WEIGHTS: Mapping[int, Sequence[int | str]] = {42: DENSE, 43: SPARSE, 44: SPARSE, 45: SPARSE}
"""Seed -> the checkpoints whose weights are published."""


def publish(run: RunRecord, folder: Path, weights: Sequence[int | str] = ()) -> RunRecord:
    """Copy one run to `folder`, with the weights of the epochs (or named checkpoints) given.

    Raises RunError when one of them is missing, or the run is not finished.
    """
    if run.stopped is None:
        raise RunError(f"{run.path}: is not finished: the same command that began it goes on")
    points = {name if isinstance(name, str) else f"epoch_{name:04d}": run.checkpoint(name) for name in weights}
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    write_atomically(folder / record.PROVENANCE, (run.path / record.PROVENANCE).read_bytes())
    packed = lzma.compress((run.path / record.HISTORY).read_bytes(), preset=9 | lzma.PRESET_EXTREME)
    write_atomically(folder / record.PACKED_HISTORY, packed)
    if (run.path / record.PROBES).exists():
        write_atomically(folder / record.PROBES, (run.path / record.PROBES).read_bytes())
    for name, point in points.items():
        checkpoint.save(folder / CHECKPOINTS / f"{name}.safetensors", replace(point, state=None))
    write_atomically(folder / record.CONFIG, (run.path / record.CONFIG).read_bytes())
    return RunRecord(folder)


def main(runs: str, counterfactuals: str) -> None:
    """Replace what is published by the runs of two folders."""
    target = PUBLISHED / "v5_5"
    shutil.rmtree(target, ignore_errors=True)
    for seed, run in load_runs(runs).items():
        print(publish(run, target / f"seed={seed}", WEIGHTS.get(seed, ())).path)
    target = PUBLISHED / record.COUNTERFACTUALS
    shutil.rmtree(target, ignore_errors=True)
    for folder in sorted(path for path in Path(counterfactuals).iterdir() if path.is_dir()):
        for seed, run in load_runs(folder).items():
            print(publish(run, target / folder.name / f"seed={seed}").path)


if __name__ == "__main__":
    main(*sys.argv[1:])
