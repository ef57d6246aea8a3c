"""Commands that train: train, branch, sweep, recipes and alternatives."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

import ternary_lab
from ternary_lab.arguments import short_path
from ternary_lab.cli.options import ADDRESS, AS_JSON, DEVICE, ENGINE, PATH, RESUMES, Command, seeds_option
from ternary_lab.errors import FEW, DivergenceError


@click.command(cls=Command, after_stop=RESUMES)
@click.argument("config", metavar="CONFIG")
@seeds_option("42", "One run per seed, trained side by side.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; may be repeated.")
@click.option("--run-dir", type=PATH, help="Directory of the runs (default: runs/NAME).")
@DEVICE
@click.option("--fresh", is_flag=True, help="Delete the files of these runs and start again.")
@AS_JSON
def train(
    config: str, seeds: list[int], overrides: tuple[str, ...], run_dir: Path | None, device: str, fresh: bool,
    as_json: bool,
) -> None:
    """Train a configuration: one run per seed, side by side.

    CONFIG is a YAML file or the name of a shipped configuration, such as v5_5, quick or beyond. The command
    `ternary-lab list configs` prints all names. Training adds a row to history.csv after every epoch. After an
    interruption at any moment, the same command resumes. Apart from times, a resumed run gives the same results as an
    uninterrupted run, byte for byte.

    \b
    Examples:
      ternary-lab train quick
      ternary-lab train v5_5 --seeds 42 43 44 --set training.total_epochs=60
      ternary-lab train configs/v5_5.yaml --set beta.B.mode=off --run-dir runs/no-beta-B
    """
    from ternary_lab.config_files import parse_override

    # torch takes seconds to import. The configuration is read before that, so that an error in it is reported at once.
    changes = dict(parse_override(text) for text in overrides)
    settings = ternary_lab.load_config(config, changes, overrides_from="--set")
    runs = ternary_lab.run_experiment(settings, seeds, run_dir, device=device, progress=True, fresh=fresh)
    diverged = [run for run in runs.values() if (run.stopped or "").startswith("diverged")]
    if lost := [f"{short_path(run.path)} {run.stopped}" for run in diverged]:
        more = f"; and {len(lost) - FEW} more runs" if len(lost) > FEW else ""
        raise DivergenceError("; ".join(lost[:FEW]) + more)
    rows = [run.history.iloc[-1].to_dict() for run in runs.values()]
    if as_json:
        found = [
            {"path": short_path(run.path), **{key: None if value != value else value for key, value in row.items()}}
            for run, row in zip(runs.values(), rows, strict=True)
        ]
        click.echo(json.dumps(found, allow_nan=False))
        return
    for run, row in zip(runs.values(), rows, strict=True):
        click.echo(
            f"{short_path(run.path)}: {run.stopped}; epoch {row['epoch']}: loss {row['train_loss']:.3f}, "
            f"sampled coverage {row['coverage_A']:.2f} / {row['coverage_B']:.2f} % in "
            f"{run.config.evaluation.coverage_samples:,} draws, informative coverage "
            f"{row['informative_coverage_A']:.2f} / {row['informative_coverage_B']:.2f} % (A / B)"
        )


@click.command(cls=Command, after_stop=RESUMES)
@click.argument("runs", metavar="RUNS", type=PATH)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@seeds_option("", "Default: all of RUNS.")
@click.option("--run-dir", type=PATH, default=Path("runs/counterfactuals"), show_default=True,
              help="Directory of the runs, with a folder for each file.")
@DEVICE
def branch(runs: Path, files: tuple[str, ...], seeds: list[int], run_dir: Path, device: str) -> None:
    """Train counterfactuals of finished runs.

    A counterfactual answers a question such as: what if β_B had not jumped at epoch 50? Each FILE is a YAML file, or
    the name of a shipped counterfactual (default: all in configs/counterfactuals). FILE names an epoch, and the
    settings that change after this epoch. The runs must have a full checkpoint of this epoch. If FILE names no epoch,
    training starts again from the seeds. Counterfactuals that begin at the same epoch train side by side.

    \b
    Examples:
      ternary-lab branch runs/v5_5
      ternary-lab branch runs/v5_5 lr_stays --seeds 42 43
    """
    from ternary_lab.config_files import shipped_counterfactuals

    counterfactuals = [ternary_lab.load_counterfactual(file) for file in files] or shipped_counterfactuals()
    found = ternary_lab.load_runs(runs)
    trained = ternary_lab.train_counterfactuals(
        [found[seed] for seed in (seeds or found)], counterfactuals, run_dir, device=device, progress=True
    )
    for counterfactual in counterfactuals:
        branches = trained[counterfactual.name]
        last = branches.history.groupby("seed").last()
        click.echo(
            f"{run_dir / counterfactual.name}: {counterfactual.title}, {len(branches)} runs; informative coverage "
            f"{last['informative_coverage_A'].median():.2f} / {last['informative_coverage_B'].median():.2f} % (A / B)"
        )


@click.command(cls=Command, after_stop=RESUMES)
@click.argument("file", metavar="FILE")
@ENGINE
@ADDRESS
@DEVICE
@click.option("--run-dir", type=PATH, help="Directory of the runs (default: runs/sweeps/NAME).")
@click.option("--status", "only_status", is_flag=True, help="Print how far the sweep is, and train nothing.")
@AS_JSON
def sweep(
    file: str, engine: str, address: str | None, device: str, run_dir: Path | None, only_status: bool, as_json: bool
) -> None:
    """Train many settings and many seeds, and write one table.

    FILE is a YAML file or the name of a shipped sweep. The command `ternary-lab list sweeps` prints these names. FILE
    names a base configuration, a design over any settings (grid, random or sobol), seeds and a budget. Runs that differ
    only in values, not in shapes, train side by side.

    After an interruption at any moment, the same command resumes. The command also trains settings and seeds that were
    added to FILE, and does not repeat finished runs. The file results.csv has one row per run and exists from the
    start. The exit status is 1 if a run failed.

    With Ray, the runs train on the cores or GPUs of a cluster. The directory of the runs must then be on a file system
    that all nodes share (see docs/how_to/many_gpus.md).

    \b
    Examples:
      ternary-lab sweep warmup_rho
      ternary-lab sweep warmup_rho --status
      ternary-lab sweep mine.yaml --engine ray --address auto --run-dir /shared/mine
    """
    from ternary_lab.sweeps.design import points

    described = ternary_lab.load_sweep(file)
    points(described)  # called before torch is imported, which takes seconds, so that errors are reported at once
    from ternary_lab.sweeps.run import RESULTS, status

    if not only_status:
        ternary_lab.run_sweep(described, run_dir, engine=engine, address=address, device=device, progress=True)
    found = status(described, run_dir)
    table = Path(found.run_dir) / RESULTS
    if as_json:
        click.echo(json.dumps({**vars(found), "results": str(table)}))
    else:
        click.echo(f"{table if table.exists() else found.run_dir}: {found}")
        for run, reason in found.failures.items():
            click.echo(f"    {run}: {reason}")
    if found.failed and not only_status:
        sys.exit(1)


@click.command(cls=Command, after_stop=RESUMES)
@click.argument("names", nargs=-1, metavar="[RECIPE]...")
@seeds_option("42..49", "One run of each recipe per seed.")
@click.option("--runs", type=PATH, default=Path("runs"), show_default=True,
              help="Directory of the runs, with a folder for each recipe; finished runs are not repeated.")
@click.option("--table", type=PATH, default=Path("runs/recipes.csv"), show_default=True,
              help="File of the table; its rows of other recipes are kept.")
@click.option("--latents", type=click.IntRange(64), help="Sobol latents (default: 2^20, and 2^22 where a goal is set).")
@DEVICE
def recipes(
    names: tuple[str, ...], seeds: list[int], runs: Path, table: Path, latents: int | None, device: str
) -> None:
    """Train and measure v5.5, its repairs and its extensions.

    A recipe is a shipped configuration. It is v5.5 itself, v5.5 with one or all defects repaired, or an extension of
    v5.5. The command `ternary-lab list recipes` prints all recipes. If no RECIPE is given, all recipes are trained.

    \b
    Example:
      ternary-lab recipes ablations/all_repaired beyond --seeds 42 43
    """
    from ternary_lab.studies.beyond_v55.tables import write_recipes

    click.echo(str(write_recipes(names, seeds, runs, table, latents, device=device, progress=True)))


@click.command(cls=Command, after_stop=RESUMES)
@seeds_option("42..45", "One run of each model per seed.")
@click.option("--runs", default="v5_5", show_default=True, help="Runs of v5.5 with these seeds, for comparison.")
@click.option("--run-dir", type=PATH, default=Path("runs/alternatives"), show_default=True,
              help="Directory of the weights and the table; models that are there are not trained again.")
@click.option("--epochs", type=click.IntRange(1, 100_000), default=104, show_default=True, help="Epochs per model.")
@click.option("--latents", type=click.IntRange(64), default=2**20, show_default=True, help="Sobol latents.")
@DEVICE
def alternatives(seeds: list[int], runs: str, run_dir: Path, epochs: int, latents: int, device: str) -> None:
    """Train and measure simpler generators, beside v5.5.

    The generators have about as many parameters as v5.5. They are trained on the same batches for as many epochs. The
    measurements are written to table.csv in the directory of the runs.

    \b
    Example:
      ternary-lab alternatives --seeds 42 43 44 45
    """
    from ternary_lab.runs.files import write_table
    from ternary_lab.studies.beyond_v55.alternatives import benchmark

    table = benchmark(
        seeds, run_dir, runs=ternary_lab.load_runs(runs), epochs=epochs, latents=latents, device=device, progress=True
    )
    path = run_dir / "table.csv"
    write_table(table, path)
    click.echo(str(path))
