"""Copying of finished runs into the library.

Run `python tools/publish.py runs` after `make reproduce ALL=1`. The script copies the configuration, provenance,
history and probes of each run, and the weights of some epochs. The script does not copy the optimiser's state.
"""

from __future__ import annotations

import lzma
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from weight_measures import weight_measures

from ternary_lab.config import COUNTERFACTUALS
from ternary_lab.errors import RunError
from ternary_lab.runs import checkpoint, load
from ternary_lab.runs.files import write_atomically, write_table
from ternary_lab.runs.load import CHECKPOINTS, PUBLISHED, RunRecord, load_runs
from ternary_lab.studies.beyond_v55 import tables
from ternary_lab.studies.epoch50_disruption.effects import EXPERIMENTS, measured_effects
from ternary_lab.studies.generalisation.tables import GENERALISATION
from ternary_lab.sweeps import run as sweep

DENSE: Sequence[int | str] = (*range(0, 101, 10), *range(45, 50), *range(51, 56), 69, "best_val_loss", "latest")
SPARSE: Sequence[int | str] = (60, 70, 80, 100)
WEIGHTS: Mapping[str, Mapping[int, Sequence[int | str]]] = {
    "v5_5": {42: DENSE, 43: SPARSE, 44: SPARSE, 45: SPARSE}, load.FULL: {42: (120, 200, 300, "latest")},
    tables.BEYOND: {42: (0, 10, 20, 40, 70, tables.END, "latest")},
}
"""The checkpoints with published weights, by experiment and seed."""
PARTS = ("v5_5", COUNTERFACTUALS, load.FULL, GENERALISATION, tables.BEYOND, "ablations", "variants")
ONLY = (tables.REPAIRED, *tables.TAUGHT)
"""Ablations and variants whose histories are published for figures.

The published table has the last epoch of all ablations and variants.
"""


def publish(run: RunRecord, folder: Path, weights: Sequence[int | str] = ()) -> RunRecord:
    """Copy one run to `folder`, with the weights of the given epochs or named checkpoints, and return the copy.

    Raises RunError if a checkpoint is missing, or if the run is not finished.
    """
    if run.stopped is None:
        raise RunError(f"{run.path}: is not finished: repeat the command that began it")
    points = {name if isinstance(name, str) else f"epoch_{name:04d}": run.checkpoint(name) for name in weights}
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    write_atomically(folder / load.PROVENANCE, (run.path / load.PROVENANCE).read_bytes())
    packed = lzma.compress((run.path / load.HISTORY).read_bytes(), preset=9 | lzma.PRESET_EXTREME)
    write_atomically(folder / load.PACKED_HISTORY, packed)
    if (run.path / load.PROBES).exists():
        write_atomically(folder / load.PROBES, (run.path / load.PROBES).read_bytes())
    for name, point in points.items():
        checkpoint.save(folder / CHECKPOINTS / f"{name}.safetensors", replace(point, state=None))
    write_atomically(folder / load.CONFIG, (run.path / load.CONFIG).read_bytes())
    return RunRecord(folder)


def main(runs: str, *parts: str) -> None:
    """Replace the published runs by the runs in the folder `runs`.

    Without `parts`, replace all published runs and tables. Otherwise replace only the runs of the named parts.
    """
    for part in parts or PARTS:
        source, target = Path(runs) / part, PUBLISHED / part
        groups = [source] if part in WEIGHTS else sorted(path for path in source.iterdir() if path.is_dir())
        if part in ("ablations", "variants"):
            groups = [path for path in groups if f"{part}/{path.name}" in ONLY]
        found = {folder: load_runs(folder) for folder in groups}
        shutil.rmtree(target, ignore_errors=True)
        for folder, runs_there in found.items():
            for seed, run in runs_there.items():
                place = target / folder.relative_to(source) / f"seed={seed}"
                print(publish(run, place, WEIGHTS.get(part, {}).get(seed, ())).path)
    if not parts:
        # Not all of these weights are published. Their measures are, for every seed.
        write_table(weight_measures(load_runs(Path(runs) / "v5_5"), progress=True), PUBLISHED / load.ANSWERS)
        described = {name: load_runs(Path(runs) / name) for name in EXPERIMENTS}
        write_table(measured_effects(described, progress=True), PUBLISHED / load.EFFECTS)
        swept = Path("sweeps") / sweep.PUBLISHED_SWEEP / sweep.RESULTS
        compared = Path("alternatives") / "table.csv"
        for table, name in ((tables.TABLE, tables.TABLE), (swept, sweep.TABLE), (compared, "alternatives.csv")):
            write_atomically(PUBLISHED / name, (Path(runs) / table).read_bytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
