"""The command line. It parses, calls the library and prints; a user's error is one line and status 2."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from ternary_lab.backend.devices import gpu_errors
from ternary_lab.errors import DivergenceError, TernaryLabError
from ternary_lab.sweeps.engines import ENGINES

DEVICE = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu or cuda; auto takes a GPU where there is one."
)
class _Epoch(click.ParamType[int | str]):
    """An epoch's number, or `best`."""

    name = "epoch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        text = str(value)
        if text == "best":
            return text
        if not text.isdecimal() or len(text) > 9:
            self.fail(f"{text!r} is not an epoch: write a number, at least 0, or best", param, ctx)
        return int(text)


EPOCH = _Epoch()
ENGINE = click.option(
    "--engine", type=click.Choice(ENGINES), default="local", show_default=True,
    help="local: in this process. ray: on the cores or GPUs of a Ray cluster.",
)
ADDRESS = click.option(
    "--address", metavar="HOST:PORT",
    help="Ray cluster, or auto.  [default: the one that runs here, else a new one on this machine]",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a programme to read.")


class _Commands(click.Group):
    """Commands in the order in which a newcomer meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Turn a user's error into one line on stderr and exit status 2, Ctrl-C into 130."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            with gpu_errors():
                function(*args, **kwargs)
        except TernaryLabError as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("interrupted: the last finished epoch is saved; the same command goes on from there", err=True)
            sys.exit(130)
        except BrokenPipeError:  # the reader, head or a pager, has seen enough
            sys.stderr.close()
            sys.exit(0)
        except OSError as error:  # what no command foresaw: a name too long, a folder that may not be read
            if error.filename is None:
                raise
            click.echo(f"error: {error.filename}: {error.strerror}", err=True)
            sys.exit(2)

    return wrapped


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ternary-lab")
def main() -> None:
    """Train, measure and audit Ternary VAE v5.5 over all 19,683 ternary operations.

    \b
    First steps:
      ternary-lab reproduce --quick                 the whole lab in small, in about a minute
      ternary-lab train quick                       train the small configuration
      ternary-lab train v5_5 --seeds 42 43          train v5.5 for two seeds, side by side
      ternary-lab evaluate runs/v5_5/seed=42        every metric of the trained model
      ternary-lab run notebooks/11_report.ipynb     execute a notebook with checked parameters
      ternary-lab sweep warmup_rho                  many settings, many seeds, one table
    """


class _Seeds(click.Option):
    """`--seeds 42 43 44`: every whole number that follows belongs to the option."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        super().add_to_parser(parser, ctx)
        option = parser._long_opt["--seeds"]
        process = option.process

        def several(value: str, state: Any) -> None:
            values = [value]
            while state.rargs and state.rargs[0].lstrip("-").isdigit():
                values.append(state.rargs.pop(0))
            process(" ".join(values), state)

        option.process = several


def _seed_list(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    words = value.replace(",", " ").split()
    try:
        return [int(word) for word in words]
    except ValueError:
        wrong = next(word for word in words if not re.fullmatch(r"-?[0-9]+", word))
        raise click.BadParameter(f"{wrong!r} is not a whole number") from None


@main.command()
@click.argument("config", metavar="CONFIG")
@click.option("--seeds", cls=_Seeds, default="42", show_default=True, callback=_seed_list, metavar="SEED...",
              help="One run per seed, trained side by side.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; may be repeated.")
@click.option("--run-dir", type=click.Path(path_type=Path), help="Where the runs go (default: runs/NAME).")
@DEVICE
@click.option("--fresh", is_flag=True, help="Delete what these runs' directories hold and start again.")
@AS_JSON
@_command
def train(
    config: str, seeds: list[int], overrides: tuple[str, ...], run_dir: Path | None, device: str, fresh: bool,
    as_json: bool,
) -> None:
    """Train a configuration: a YAML file, or one that is shipped: v5_5, quick, beyond, …

    Killed at any moment and started again with the same command, it goes on where it stood and ends with
    the same bytes. Every epoch adds a row to history.csv.

    \b
    Examples:
      ternary-lab train quick
      ternary-lab train v5_5 --seeds 42 43 44 --set training.total_epochs=60
      ternary-lab train configs/v5_5.yaml --set beta.B.mode=off --run-dir runs/no-beta-B
    """
    from ternary_lab.config_files import load_config, parse_override

    # Overrides are read before torch is imported: a typing error should not take seconds to be told.
    settings = load_config(config, dict(parse_override(text) for text in overrides))
    from ternary_lab.runs.train import run_experiment

    runs = run_experiment(settings, seeds, run_dir, device=device, progress=True, fresh=fresh)
    if lost := [f"{run.path} {run.stopped}" for run in runs.values() if (run.stopped or "").startswith("diverged")]:
        raise DivergenceError("; ".join(lost))
    rows = [run.history.iloc[-1].to_dict() for run in runs.values()]
    if as_json:
        known = [{key: None if value != value else value for key, value in row.items()} for row in rows]
        found = [{"path": str(run.path), **row} for run, row in zip(runs.values(), known, strict=True)]
        click.echo(json.dumps(found, allow_nan=False))
        return
    for run, row in zip(runs.values(), rows, strict=True):
        click.echo(
            f"{run.path}: {run.stopped}; epoch {row['epoch']}: loss {row['train_loss']:.3f}, sampled coverage "
            f"{row['coverage_A']:.2f} / {row['coverage_B']:.2f} %, informative coverage "
            f"{row['informative_coverage_A']:.2f} / {row['informative_coverage_B']:.2f} % (A / B)"
        )


@main.command("list")
@click.argument("what", type=click.Choice(
    ("runs", "configs", "recipes", "counterfactuals", "sweeps", "notebooks", "settings")
))
@_command
def list_names(what: str) -> None:
    """Print the names that other commands take, one a line: of what ships with the library, or of all settings.

    \b
    Examples:
      ternary-lab list runs
      ternary-lab list settings
    """
    from ternary_lab import config, config_files
    from ternary_lab.sweeps import design

    names: Iterable[object]
    match what:
        case "runs":
            from ternary_lab.runs.load import published

            names = published()
        case "configs":
            names = config_files.config_files()
        case "recipes":
            from ternary_lab.studies.beyond_v55.tables import RECIPES

            names = RECIPES
        case "counterfactuals":
            names = [file.stem for file in config_files.shipped_configs(config.COUNTERFACTUALS)]
        case "sweeps":
            names = design.sweep_files()
        case "notebooks":
            from ternary_lab.cli.reproduce import notebook_folder
            from ternary_lab.notebooks import find_notebooks

            names = find_notebooks([notebook_folder()])
        case _:
            names = config_files.settings()
    for name in names:
        click.echo(str(name))


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="RUN...")
@AS_JSON
@_command
def claims(sources: tuple[str, ...], as_json: bool) -> None:
    """Judge the claims of the v5.5 training report by runs of several seeds.

    RUN is a run, a folder of runs, or a published one. Prints for every claim what is claimed, what the runs
    show (median, range, number) and the verdict.

    \b
    Examples:
      ternary-lab claims v5_5
      ternary-lab claims runs/v5_5 --json
    """
    from ternary_lab.studies.report import Verdict, try_claims

    judgements = try_claims(sources, progress=True)
    if as_json:
        click.echo(json.dumps([judgement.as_dict() for judgement in judgements], allow_nan=False))
        return
    for j in judgements:
        measured = f"{j.measured:.5g}" if isinstance(j.measured, float) else str(j.measured)
        spread = f" ({j.low:.4g} to {j.high:.4g}, n = {j.runs})" if j.low is not None and j.high is not None else ""
        shown = "-" if j.measured is None else measured + spread
        click.echo(f"{j.claim.id}: claimed {j.claim.claimed}; measured {shown}; {j.verdict}")
        if j.note:
            click.echo(f"    {j.note}")
    counts = {verdict: sum(j.verdict is verdict for j in judgements) for verdict in Verdict}
    click.echo(f"{len(judgements)} claims: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="RUN...")
@click.option("--every", type=click.IntRange(min=1), default=1, help="Only epochs that this divides.  [default: all]")
@_command
def probe(sources: tuple[str, ...], every: int) -> None:
    """Measure the weights that runs kept and write probes.csv into each: reconstruction, codes, coverage by draws.

    \b
    Example:
      ternary-lab probe runs/v5_5
    """
    from ternary_lab.runs.load import load_runs
    from ternary_lab.studies.probes import write_probes

    for run in (run for source in sources for run in load_runs(source).values()):
        click.echo(str(write_probes(run, every=every, progress=True)))


@main.command()
@click.option("--seeds", cls=_Seeds, default="42 43 44 45", callback=_seed_list, metavar="SEED...", show_default=True,
              help="One run of each model per seed.")
@click.option("--runs", default="v5_5", show_default=True, help="Runs of v5.5 of these seeds, to stand beside them.")
@click.option("--run-dir", type=click.Path(path_type=Path), default=Path("runs/alternatives"), show_default=True,
              help="Where weights and the table go; what is there is not trained again.")
@click.option("--epochs", type=click.IntRange(1, 100_000), default=104, show_default=True, help="Epochs of each.")
@click.option("--latents", type=click.IntRange(64), default=2**20, show_default=True, help="Sobol latents.")
@DEVICE
@_command
def alternatives(seeds: list[int], runs: str, run_dir: Path, epochs: int, latents: int, device: str) -> None:
    """Train and measure simpler generators with v5.5's parameters, batches and epochs, and write table.csv.

    \b
    Example:
      ternary-lab alternatives --seeds 42 43 44 45
    """
    from ternary_lab.runs.files import write_table
    from ternary_lab.runs.load import load_runs
    from ternary_lab.studies.beyond_v55.alternatives import benchmark

    table = benchmark(
        seeds, run_dir, runs=load_runs(runs), epochs=epochs, latents=latents, device=device, progress=True
    )
    path = run_dir / "table.csv"
    write_table(table, path)
    click.echo(str(path))


@main.command()
@click.argument("names", nargs=-1, metavar="[RECIPE]...")
@click.option("--seeds", cls=_Seeds, default="42 43 44 45 46 47 48 49", callback=_seed_list, metavar="SEED...",
              show_default=True, help="One run of each recipe per seed.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
              help="Where the runs go, in a folder per recipe; those that are there are not trained again.")
@click.option("--table", type=click.Path(path_type=Path), default=Path("runs/recipes.csv"), show_default=True,
              help="Where the table goes. Rows of other recipes that it has are kept.")
@click.option("--latents", type=click.IntRange(64), help="Sobol latents (default: 2^20, and 2^22 where a goal is set).")
@DEVICE
@_command
def recipes(
    names: tuple[str, ...], seeds: list[int], runs: Path, table: Path, latents: int | None, device: str
) -> None:
    """Train v5.5, each of its defects mended, and what goes beyond it, and measure them: all recipes, or those named.

    \b
    Example:
      ternary-lab recipes ablations/all_repaired beyond --seeds 42 43
    """
    from ternary_lab.studies.beyond_v55.tables import write_recipes

    click.echo(str(write_recipes(names, seeds, runs, table, latents, device=device, progress=True)))


@main.command()
@click.argument("runs", metavar="RUNS", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--seeds", cls=_Seeds, default="", callback=_seed_list, metavar="SEED...", help="Default: all of RUNS.")
@click.option("--run-dir", type=click.Path(path_type=Path), default=Path("runs/counterfactuals"), show_default=True,
              help="Where the runs go, in a folder per file.")
@DEVICE
@_command
def branch(runs: Path, files: tuple[str, ...], seeds: list[int], run_dir: Path, device: str) -> None:
    """Train counterfactuals of finished runs: what if β_B had not jumped?

    Each FILE, a YAML file or a shipped one by its name (default: all of configs/counterfactuals), names an epoch and
    the settings that change after it; all of them train side by side. The runs must have a full checkpoint of that
    epoch.

    \b
    Examples:
      ternary-lab branch runs/v5_5
      ternary-lab branch runs/v5_5 lr_stays --seeds 42 43
    """
    from ternary_lab.config_files import load_counterfactual, shipped_counterfactuals

    counterfactuals = [load_counterfactual(file) for file in files] or shipped_counterfactuals()
    from ternary_lab.runs.load import load_runs
    from ternary_lab.runs.train import train_counterfactuals

    found = load_runs(runs)
    chosen = [found[seed] for seed in (seeds or found)]
    for c, trained in zip(
        counterfactuals,
        train_counterfactuals(chosen, counterfactuals, run_dir, device=device, progress=True).values(),
        strict=True,
    ):
        last = trained.history.groupby("seed").last()
        click.echo(
            f"{run_dir / c.name}: {c.title}, {len(trained)} runs; informative coverage "
            f"{last['informative_coverage_A'].median():.2f} / {last['informative_coverage_B'].median():.2f} % (A / B)"
        )


@main.command()
@click.argument("file", metavar="FILE")
@ENGINE
@ADDRESS
@DEVICE
@click.option("--run-dir", type=click.Path(path_type=Path), help="Where the runs go (default: runs/sweeps/NAME).")
@click.option("--status", "only_status", is_flag=True, help="Say how far it is, and train nothing.")
@AS_JSON
@_command
def sweep(
    file: str, engine: str, address: str | None, device: str, run_dir: Path | None, only_status: bool, as_json: bool
) -> None:
    """Train a sweep: many settings, many seeds, one table. FILE is a YAML file, or
    warmup_rho or warmup_rho_wide.

    FILE names a base configuration, a design over any settings (grid, random or sobol), seeds and a budget. Runs that
    differ in values only train side by side. Killed at any moment and started again with the same command, it goes
    on where it stood; points or seeds that were added train, finished runs do not. results.csv in its directory has a
    row per run, and is there from the start. Exit status 1 when a run failed.

    With Ray the cohorts go to the cores or GPUs of a cluster, and the runs to a directory that all its nodes share:
    docs/slurm.md.

    \b
    Examples:
      ternary-lab sweep warmup_rho
      ternary-lab sweep warmup_rho --status
      ternary-lab sweep mine.yaml --engine ray --address auto --run-dir /shared/mine
    """
    from ternary_lab.sweeps.design import load_sweep, points

    described = load_sweep(file)
    points(described)  # a wrong point should not take the seconds to be told that torch takes to be imported
    from ternary_lab.sweeps import run as sweeps

    if not only_status:
        sweeps.run_sweep(described, run_dir, engine=engine, address=address, device=device, progress=True)
    found = sweeps.status(described, run_dir)
    table = sweeps.directory(described, run_dir) / sweeps.RESULTS
    if as_json:
        click.echo(json.dumps({**vars(found), "results": str(table)}))
    else:
        click.echo(f"{table if table.exists() else found.run_dir}: {found}")
        for run, reason in found.failures.items():
            click.echo(f"    {run}: {reason}")
    if found.failed and not only_status:
        sys.exit(1)


@main.command("run")
@click.argument("notebook", type=click.Path(path_type=Path))
@click.option("-p", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter; repeatable.")
@click.option("--each", multiple=True, metavar="NAME=VALUES",
              help="Once for each value, 1..8 or a,b,c; repeatable, then once for every combination.")
@click.option("-o", "output", type=click.Path(path_type=Path),
              help="Executed notebook (default: reports/NAME.ipynb); with --each their folder (reports/NAME).")
@click.option("--html", is_flag=True, help="Also write a self-contained HTML page beside the executed notebook.")
@ENGINE
@ADDRESS
@_command
def run_command(
    notebook: Path, parameters: tuple[tuple[str, str], ...], each: tuple[str, ...], output: Path | None, html: bool,
    engine: str, address: str | None,
) -> None:
    """Execute a notebook headlessly with checked parameters.

    A parameter that does not exist, has the wrong type or is out of range stops before the kernel starts. With --each
    one that fails does not stop the others.

    \b
    Examples:
      ternary-lab run notebooks/02_train.ipynb -p config quick -p seeds 42,43
      ternary-lab run notebooks/11_report.ipynb -p run ../runs/v5_5/seed=42 --html
      ternary-lab run notebooks/00_start_here.ipynb --each seed=1..8 --each config=quick,repaired --engine ray
    """
    from ternary_lab import notebooks

    if each:
        from ternary_lab.notebooks import run_many

        for target in run_many.run_each(notebook, dict(parameters), each, output, html=html, engine=engine,
                                     address=address):
            click.echo(str(target))
        return
    if engine != "local":
        raise click.UsageError("--engine goes with --each: a single notebook is executed here")
    values = notebooks.parse_parameters(notebook, dict(parameters))
    target = output if output is not None else Path("reports") / notebook.name
    target.parent.mkdir(parents=True, exist_ok=True)
    notebooks.run_notebook(notebook, target, values)
    click.echo(str(target))
    if html:
        click.echo(str(notebooks.export_html(target, target.with_suffix(".html"))))


@main.command("check-notebooks")
@click.argument("paths", nargs=-1, metavar="[FOLDER|FILE]...", type=click.Path(path_type=Path))
@AS_JSON
@_command
def check_notebooks(paths: tuple[Path, ...], as_json: bool) -> None:
    """Check that notebooks are fit to be committed: all of a folder (default: notebooks), or those named.

    Their parameters can be read and are all used; they were executed from top to bottom without an error; nothing
    names a machine or an absolute path; figures have alternative texts; the outputs keep to a size. A line for each
    finding names notebook, cell and remedy. Exit status 1 when there is one.

    \b
    Examples:
      ternary-lab check-notebooks
      ternary-lab check-notebooks notebooks/02_train.ipynb --json
    """
    from ternary_lab import notebooks

    found: dict[str, list[str]] = {}
    for path in notebooks.find_notebooks(paths or [Path("notebooks")]):
        found[str(path)] = notebooks.check_notebook(path)
        if not as_json:  # one by one: large notebooks take a moment
            click.echo("".join(f"{path}: {problem}\n" for problem in found[str(path)]), nl=False)
    if as_json:
        click.echo(json.dumps([{"notebook": path, "findings": problems} for path, problems in found.items()]))
    else:
        count = sum(map(len, found.values()))
        click.echo(f"{len(found)} notebook{'s' * (len(found) != 1)} checked, {count} finding{'s' * (count != 1)}")
    if any(found.values()):
        sys.exit(1)


@main.command()
@click.argument("source", metavar="RUN|CHECKPOINT", type=click.Path(path_type=Path))
@click.option("--epoch", type=EPOCH, help="Epoch of a run, or `best`: what its select_by chose (default: its last).")
@click.option("--samples", type=click.IntRange(min=1), default=195_000, show_default=True, help="Prior draws.")
@click.option("--latents", type=click.IntRange(min=64), help="Sobol latents (default: 4,194,304).")
@click.option("--quick", is_flag=True, help="262,144 latents, without the figures that hang on rare operations.")
@click.option("--rho", type=click.FloatRange(0, 1), help="ρ of the injected rows (default: the checkpoint's own).")
@click.option("--argmax", is_flag=True, help="Decode the prior draws by argmax instead of sampling.")
@DEVICE
@AS_JSON
@_command
def evaluate(
    source: Path, epoch: int | str | None, samples: int, latents: int | None, quick: bool, rho: float | None,
    argmax: bool, device: str, as_json: bool,
) -> None:
    """Every metric of a run's model, of a checkpoint, or of an original v5.5 .pt file.

    \b
    Examples:
      ternary-lab evaluate runs/v5_5/seed=42 --epoch 50 --quick
      ternary-lab evaluate epoch_60.pt --json
    """
    from ternary_lab import splits
    from ternary_lab.backend.devices import resolve_device
    from ternary_lab.errors import RunError
    from ternary_lab.metrics import evaluate as evaluation
    from ternary_lab.runs.checkpoint import open_checkpoint
    from ternary_lab.runs.load import load_run

    if latents is not None and quick:
        raise click.UsageError("--latents and --quick exclude each other")
    place = resolve_device(device)
    if source.suffix in (".safetensors", ".pt", ".pth") or source.is_file():
        if epoch is not None:
            raise RunError(f"{source}: is one checkpoint; --epoch goes with a run directory")
        point = open_checkpoint(source)
    else:
        run = load_run(source)
        point = run.checkpoint(run.selected if epoch == "best" else epoch)
    count = latents or (evaluation.QUICK_LATENTS if quick else evaluation.LATENTS)
    result = evaluation.evaluate(
        point.model().to(place), samples, count, rho=point.rho if rho is None else rho,
        decoding="argmax" if argmax else "categorical",
        split=splits.split(point.config.data),
        progress=sys.stderr.isatty(),
    )
    if as_json:
        header = {"checkpoint": str(source), "epoch": point.epoch, "seed": point.seed}
        click.echo(json.dumps(header | result.as_dict()))
    else:
        click.echo(evaluation.describe(result, evaluation.default_title(source, point.epoch, point.seed)))


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="RUN...")
@AS_JSON
@_command
def verify(sources: tuple[str, ...], as_json: bool) -> None:
    """Check every file of runs by its checksum, and compute the last epoch's metrics again.

    A RUN is a run's directory, one with several runs, or a published one. Exit status 1 when anything differs.

    \b
    Examples:
      ternary-lab verify runs/v5_5
      ternary-lab verify v5_5/seed=42 --json
    """
    from ternary_lab.runs.load import load_runs
    from ternary_lab.runs.verify import verify as check

    found = []
    for run in (run for source in sources for run in load_runs(source).values()):
        found.append(check(run))
        if not as_json:  # one by one: a run takes a second or two
            click.echo(found[-1].describe())
    if as_json:
        click.echo(json.dumps([one.as_dict() for one in found]))
    if not all(one.sound for one in found):
        sys.exit(1)


@main.command("import-v55")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@_command
def import_v55(file: Path, output: Path) -> None:
    """Turn an original v5.5 checkpoint FILE.pt into safetensors at OUTPUT. Reads weights, executes nothing."""
    from ternary_lab.errors import CheckpointError
    from ternary_lab.runs import checkpoint

    if output.suffix != ".safetensors":
        raise CheckpointError(f"{output}: the output's name must end in .safetensors")
    point = checkpoint.import_original(file)
    checkpoint.save(output, point)
    click.echo(f"{output}: weights of epoch {point.epoch}")


@main.command()
@click.option("--quick", is_flag=True, help="The small configuration: the same path in about a minute.")
@click.option("--all", "everything", is_flag=True, help="Train every published run again (some hours).")
@DEVICE
@_command
def reproduce(quick: bool, everything: bool, device: str) -> None:
    """Train v5.5, draw its figures and write the report: runs/, figures/ and reports/ under this directory."""
    from ternary_lab.cli import reproduce as reproduction

    if quick and everything:
        raise click.UsageError("--quick and --all exclude each other")
    for line in reproduction.reproduce(quick=quick, device=device, everything=everything):
        click.echo(line)


@main.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--csv", "as_csv", is_flag=True, help="Print the final metrics as CSV.")
@click.option("--latex", is_flag=True, help="Print the final metrics as a LaTeX table.")
@AS_JSON
@_command
def compare(run_a: Path, run_b: Path, as_csv: bool, latex: bool, as_json: bool) -> None:
    """Compare two runs: the settings that differ, and the last epoch's metrics."""
    from ternary_lab.runs.compare import compare as compare_runs
    from ternary_lab.runs.load import load_run

    comparison = compare_runs(load_run(run_a), load_run(run_b))
    if as_json:
        tables = {"settings": comparison.settings, "final": comparison.final}
        click.echo(json.dumps({name: json.loads(table.to_json(orient="index")) for name, table in tables.items()}))
    elif as_csv:
        click.echo(comparison.final.to_csv(index_label="metric"), nl=False)
    elif latex:
        click.echo(_latex(comparison.final))
    else:
        click.echo(f"a: {run_a}\nb: {run_b}\n")
        click.echo(comparison.settings.to_string() if len(comparison.settings) else "no setting differs")
        click.echo("\n" + comparison.final.to_string())


def _latex(table: Any) -> str:
    """A two-column table of metrics as LaTeX."""
    rows = [f"{str(name).replace('_', chr(92) + '_')} & {row.a} & {row.b} \\\\" for name, row in table.iterrows()]
    return "\n".join(["\\begin{tabular}{lrr}", "metric & a & b \\\\ \\hline", *rows, "\\end{tabular}"])
