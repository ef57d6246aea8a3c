"""Reproduction of the lab by one command: training, figures and report.

    runs/<name>/            the runs
    figures/<name>/         the figures of the report
    reports/<name>/         the executed notebooks 02_train.ipynb and 11_report.ipynb, and the pages training.html and
                            report.html with what they show

`<name>` is v5_5, or quick if the option `quick` is set. By default, the command trains one run of v5.5. With `quick`,
it trains two runs of the small configuration. Results over several seeds are read from the published runs, which the
report names.

If the option `everything` is set, the command also trains the published runs, the counterfactual runs and the runs of
the other experiments again. It then executes every notebook that uses these runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ternary_lab import notebooks
from ternary_lab.arguments import short_path
from ternary_lab.backend.devices import device_name
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.config import COUNTERFACTUALS
from ternary_lab.config_files import load_config, shipped_configs, shipped_counterfactuals
from ternary_lab.errors import NotebookError
from ternary_lab.runs.files import require_writable, write_table
from ternary_lab.runs.load import FULL, RunSet
from ternary_lab.runs.train import run_experiment, train_counterfactuals
from ternary_lab.studies.beyond_v55.alternatives import benchmark
from ternary_lab.studies.beyond_v55.tables import write_all
from ternary_lab.studies.generalisation.tables import GENERALISATION
from ternary_lab.studies.probes import write_probes
from ternary_lab.sweeps.design import load_sweep
from ternary_lab.sweeps.run import PUBLISHED_SWEEP, RESULTS, run_sweep

SEEDS = {"v5_5": [42], "quick": [42, 43]}
ALL_SEEDS = list(range(42, 50))
FEW_SEEDS = ALL_SEEDS[:4]
"""Seeds of the runs over all 400 epochs, the runs on part of the space, and the alternatives."""
TRAIN, REPORT = "02_train.ipynb", "11_report.ipynb"
STUDIES = (
    "03_latent_entropy.ipynb", "04_epoch50_disruption.ipynb", "05_coverage.ipynb", "07_generalisation.ipynb",
    "08_checkpoints_and_ensembles.ipynb", "09_beyond_v55.ipynb", "10_sweep.ipynb",
)
"""Notebooks that use runs of several seeds."""
BRANCHES, LONG, PARTIAL = (Path("runs") / name for name in (COUNTERFACTUALS, FULL, GENERALISATION))
ALTERNATIVES = Path("runs") / "alternatives" / "table.csv"
RECIPES = Path("runs") / "recipes.csv"
SWEEP_TABLE = Path("runs") / "sweeps" / PUBLISHED_SWEEP / RESULTS
PROBE_EVERY = 10
"""Step between the measured epochs of the runs on part of the space."""


@with_fixed_arithmetic
def reproduce(*, quick: bool, device: str, everything: bool = False) -> Iterator[str]:
    """Train the runs and write the report in the working directory.

    Yields a line for each file or folder that was made. After an interruption, the same call resumes. Raises
    TernaryLabError.
    """
    name = "quick" if quick else "v5_5"
    config, source = load_config(name), notebooks.shipped_notebooks()
    seeds = ALL_SEEDS if everything else SEEDS[name]
    run_dir, figures, reports = (Path(folder) / name for folder in ("runs", "figures", "reports"))
    for folder in (figures, reports):
        if folder.exists() and not folder.is_dir():
            raise NotebookError(f"{folder}: is a file: move it away")
        require_writable(folder / TRAIN)
    # The runs are trained here, because progress is shown here. The notebook only reads the finished runs, so that it
    # needs the kind of the device and not its number.
    runs = run_experiment(config, seeds, run_dir, device=device, progress=True)
    for run in runs.values():
        yield f"{short_path(run.path)}: {run.stopped}"
    sources: dict[str, str] = {}
    if everything:
        yield from _train_the_rest(runs, device)
        places = {
            "runs": run_dir, "branches": BRANCHES, "full": LONG, "experiments": PARTIAL, "alternatives": ALTERNATIVES,
            "recipes": RECIPES, "histories": Path("runs"), "table": SWEEP_TABLE,
        }
        sources = {parameter: _seen_from(source, place) for parameter, place in places.items()}

    training = notebooks.run_notebook(
        source / TRAIN, reports / TRAIN,
        {"config": name, "seeds": seeds, "run_dir": _seen_from(source, run_dir),
         "device": device_name(device).partition(":")[0]},
    )
    yield f"{training}: executed"
    page = notebooks.export_html(training, reports / "training.html")
    yield f"{page}: how v5.5 trains, with these runs at the end, for any browser"

    run = runs[seeds[0]]
    report = notebooks.run_notebook(
        source / REPORT, reports / REPORT,
        {"run": _seen_from(source, run.path), "figures_dir": _seen_from(source, figures),
         **_accepted(source / REPORT, sources)},
    )
    yield f"{report}: executed"
    yield f"{figures}: {len(list(figures.glob('*.pdf')))} figures as PDF, SVG and PNG, with their data"
    for notebook in STUDIES if everything else ():
        given = _accepted(source / notebook, sources)
        yield f"{notebooks.run_notebook(source / notebook, reports / notebook, given)}: executed"
    page = notebooks.export_html(report, reports / "report.html")
    yield f"{page}: the claims, judged by {'these' if everything else 'the published'} runs, for any browser"


def _train_the_rest(runs: RunSet, device: str) -> Iterator[str]:
    """Measure the saved epochs of `runs`, then train and measure the other experiments.

    Yields a line for each file or folder that was made.
    """
    for run in runs.values():
        yield f"{short_path(write_probes(run, progress=True))}: measured"
    trained = train_counterfactuals(
        list(runs.values()), shipped_counterfactuals(), BRANCHES, device=device, progress=True
    )
    yield f"{BRANCHES}: {len(trained)} counterfactuals of {len(runs)} runs"
    partial = {path.stem: load_config(path) for path in shipped_configs(GENERALISATION)}
    for name, config in {FULL: load_config(FULL), **partial}.items():
        folder, every = (LONG, 1) if name == FULL else (PARTIAL / name, PROBE_EVERY)
        for run in run_experiment(config, FEW_SEEDS, folder, device=device, progress=True).values():
            yield f"{short_path(write_probes(run, every=every, progress=True))}: measured"
    table = benchmark(FEW_SEEDS, ALTERNATIVES.parent, runs=runs, device=device, progress=True)
    write_table(table, ALTERNATIVES)
    yield f"{ALTERNATIVES}: {table['model'].nunique()} models of {len(FEW_SEEDS)} seeds"
    yield f"{write_all('runs', RECIPES, device=device, progress=True)}: recipes compared"
    swept = run_sweep(load_sweep(PUBLISHED_SWEEP), SWEEP_TABLE.parent, device=device, progress=True)
    yield f"{SWEEP_TABLE}: {len(swept)} runs of a sweep"


def _accepted(notebook: Path, given: dict[str, str]) -> dict[str, str]:
    """Return the items of `given` whose keys are parameters of the notebook."""
    known = notebooks.parameters(notebook)
    return {key: value for key, value in given.items() if key in known}


def _seen_from(folder: Path, path: Path) -> str:
    """Return `path` relative to the folder of a notebook, because the notebook shows this path.

    A path on another drive is returned as an absolute path.
    """
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return str(path.resolve())
