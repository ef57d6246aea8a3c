"""Commands that look at runs and at other generators: list, explore, evaluate, score, compare, probe and claims."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

import ternary_lab
from ternary_lab.arguments import short_path
from ternary_lab.cli.options import AS_JSON, DEVICE, PATH, RUNS, Command
from ternary_lab.errors import InputError, RunError, TernaryLabError, nearest


@click.command("list", cls=Command)
@click.argument("kind", type=click.Choice(
    ("runs", "configs", "recipes", "counterfactuals", "sweeps", "notebooks", "settings")
))
def list_names(kind: str) -> None:
    """Print the names that other commands take, one per line.

    These are the names of the published runs, of files that come with the library, or of all settings of a
    configuration.

    \b
    Examples:
      ternary-lab list runs
      ternary-lab list settings
    """
    from ternary_lab import config, config_files

    names: Iterable[object]
    match kind:
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
            from ternary_lab.sweeps.design import sweep_files

            names = sweep_files()
        case "notebooks":
            from ternary_lab.notebooks import find_notebooks, shipped_notebooks

            names = find_notebooks([shipped_notebooks()])
        case _:
            names = config_files.settings()
    for name in names:
        click.echo(str(name))


@click.command(cls=Command)
@click.argument("source", metavar="[RUN]", default="v5_5/seed=42")
@click.option("-o", "--output", type=PATH, metavar="FILE",
              help="The page.  [default: explorer-RUN.html in this folder]")
@click.option("--open/--no-open", "wanted", default=None,
              help="Open the page in a browser.  [default: on a desktop, without -o]")
@click.option("--every", type=click.IntRange(min=1), default=1, metavar="N",
              help="Only epochs that are multiples of N, and the last.  [default: all]")
@click.option("--no-prior", is_flag=True,
              help="Leave out the probabilities under the prior, which take most of the time.")
def explore(source: str, output: Path | None, wanted: bool | None, every: int, no_prior: bool) -> None:
    """Write a page that shows the latent space of a run.

    The page is one HTML file. It shows the codes of all 19,683 operations at every epoch whose weights are kept, and
    it contains the networks of these epochs, about 0.6 MB an epoch. It opens in any browser and needs no server and no
    network. The command prints the path of the page.

    \b
    Examples:
      ternary-lab explore
      ternary-lab explore runs/v5_5/seed=42 -o page.html
    """
    from ternary_lab.page.build import page_name, write_page

    run = ternary_lab.load_run(source)
    path = write_page(run, output or page_name(run), every=every, prior=not no_prior, progress=True)
    click.echo(short_path(path))
    if wanted or (wanted is None and output is None and _on_desktop()):
        import webbrowser

        if not webbrowser.open(path.absolute().as_uri()):
            click.echo("no browser was found: open the page yourself", err=True)


def _on_desktop() -> bool:
    """Return whether a user is at a terminal and can see the window of a browser."""
    from ternary_lab.backend.console import on_terminal

    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return on_terminal("stdout") and bool(screen)


def _epoch(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    """Return the value of `--epoch`: the number of an epoch, `best`, or None. Raises BadParameter for another value."""
    if value is None or value == "best":
        return value
    if not value.isdecimal() or len(value) > 9:
        raise click.BadParameter(f"{value!r} is not an epoch: write a number, at least 0, or best")
    return int(value)


@click.command(cls=Command)
@click.argument("source", metavar="RUN|CHECKPOINT", type=PATH)
@click.option("--epoch", callback=_epoch, metavar="EPOCH",
              help="Epoch of a run, or `best`: the one that its select_by chose (default: its last).")
@click.option("--samples", type=click.IntRange(min=1), default=195_000, show_default=True, help="Prior draws.")
@click.option("--latents", type=click.IntRange(min=64), help="Sobol latents (default: 4,194,304).")
@click.option("--quick", is_flag=True, help="262,144 latents, without the numbers that depend on rare operations.")
@click.option("--rho", type=click.FloatRange(0, 1), help="ρ of the injected rows (default: the checkpoint's own).")
@click.option("--argmax", is_flag=True, help="Decode the prior draws by argmax instead of sampling.")
@DEVICE
@AS_JSON
def evaluate(
    source: Path, epoch: int | str | None, samples: int, latents: int | None, quick: bool, rho: float | None,
    argmax: bool, device: str, as_json: bool,
) -> None:
    """Compute every metric of a run or a checkpoint.

    A checkpoint is a .safetensors file of this library, or a .pt file of the original v5.5.

    \b
    Examples:
      ternary-lab evaluate runs/v5_5/seed=42 --epoch 50 --quick
      ternary-lab evaluate epoch_60.pt --json
    """
    from ternary_lab import splits
    from ternary_lab.backend.console import on_terminal
    from ternary_lab.backend.devices import resolve_device
    from ternary_lab.metrics import evaluate as evaluation
    from ternary_lab.runs.checkpoint import open_checkpoint

    if latents is not None and quick:
        raise click.UsageError("--latents and --quick exclude each other: leave one of them out")
    place = resolve_device(device)
    if source.suffix in (".safetensors", ".pt", ".pth") or source.is_file():
        if epoch is not None:
            raise RunError(f"{source}: is one checkpoint, and --epoch goes with a run directory: leave --epoch out")
        point = open_checkpoint(source)
    else:
        run = ternary_lab.load_run(source)
        point = run.checkpoint(run.selected if epoch == "best" else epoch)
    result = evaluation.evaluate(
        point.model().to(place),
        samples,
        latents or (evaluation.QUICK_LATENTS if quick else evaluation.LATENTS),
        rho=point.rho if rho is None else rho,
        decoding="argmax" if argmax else "categorical",
        split=splits.split(point.config.data),
        progress=on_terminal(),
    )
    if as_json:
        header = {"checkpoint": str(source), "epoch": point.epoch, "seed": point.seed}
        click.echo(json.dumps(header | result.as_dict()))
    else:
        click.echo(evaluation.describe(result, evaluation.default_title(source, point.epoch, point.seed)))


@click.command(cls=Command)
@click.argument("source", metavar="MODULE:FUNCTION")
@click.option("--log-prob", is_flag=True, help="FUNCTION returns ln p(x) of all operations. All measures are exact.")
@click.option("--draws", type=click.IntRange(min=1000), default=195_000, show_default=True, help="Draws of a sampler.")
@AS_JSON
def score(source: str, log_prob: bool, draws: int, as_json: bool) -> None:
    """Measure any generator of operations, beside baselines.

    MODULE is a Python module in this folder or an installed one. FUNCTION is a sampler: it takes a number n and
    returns n operations, as truth tables (n, 9) of -1, 0 and 1 or as indices (n,). With --log-prob, FUNCTION takes the
    truth tables of all 19,683 operations and returns ln p(x) of each.

    \b
    Examples:
      ternary-lab score ternary_lab.metrics.baselines:uniform_draws
      ternary-lab score my_model:sample --draws 1000000
      ternary-lab score my_model:log_prob --log-prob --json
    """
    function = _imported(source)
    from ternary_lab.studies.score import describe

    try:
        found = ternary_lab.score(**{"log_prob" if log_prob else "sample": function}, draws=draws)
    except TernaryLabError:
        raise
    except Exception as error:
        raise InputError(
            f"{source}: raised {type(error).__name__}: {error}: run it in Python to see the line"
        ) from error
    click.echo(json.dumps({"source": source} | found.as_dict()) if as_json else describe(found, source))


def _imported(source: str) -> Any:
    """Return the function that MODULE:FUNCTION names. The working directory is searched first."""
    module, _, name = source.partition(":")
    if not module or not name:
        raise InputError(f"{source!r} names no function: write MODULE:FUNCTION, for example my_model:sample")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{source}: module {module!r} cannot be imported ({reason}): run the command in the folder of the module, "
            "and write its name without .py"
        ) from error
    if not hasattr(found, name):
        names = [one for one, value in vars(found).items() if callable(value)]
        raise InputError(f"{source}: module {module!r} has no {name!r}{nearest(name, names)}")
    return getattr(found, name)


@click.command(cls=Command)
@click.argument("run_a", type=PATH)
@click.argument("run_b", type=PATH)
@click.option("--csv", "as_csv", is_flag=True, help="Print the final metrics as CSV.")
@click.option("--latex", is_flag=True, help="Print the final metrics as a LaTeX table.")
@AS_JSON
def compare(run_a: Path, run_b: Path, as_csv: bool, latex: bool, as_json: bool) -> None:
    """Compare the settings and the final metrics of two runs."""
    comparison = ternary_lab.compare(ternary_lab.load_run(run_a), ternary_lab.load_run(run_b))
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
    """Return a LaTeX table of the metrics of two runs, from a table with the columns a and b."""
    rows = [f"{str(name).replace('_', chr(92) + '_')} & {row.a} & {row.b} \\\\" for name, row in table.iterrows()]
    return "\n".join(["\\begin{tabular}{lrr}", "metric & a & b \\\\ \\hline", *rows, "\\end{tabular}"])


@click.command(cls=Command)
@RUNS
@click.option("--every", type=click.IntRange(min=1), default=1, metavar="N",
              help="Only epochs that are multiples of N.  [default: all]")
def probe(sources: tuple[str, ...], every: int) -> None:
    """Measure the saved epochs of runs into probes.csv.

    RUN is a run or a folder of runs. The command measures reconstruction, codes and coverage from the weights of every
    saved epoch. It writes one file probes.csv into the directory of each run.

    \b
    Example:
      ternary-lab probe runs/v5_5
    """
    from ternary_lab.studies.probes import write_probes

    for run in (run for source in sources for run in ternary_lab.load_runs(source).values()):
        click.echo(short_path(write_probes(run, every=every, progress=True)))


@click.command(cls=Command)
@RUNS
@AS_JSON
@click.option("--page", type=PATH, metavar="FILE", help="Also write the claims as a web page to search and to filter.")
def claims(sources: tuple[str, ...], as_json: bool, page: Path | None) -> None:
    """Test the claims of the v5.5 training report on runs.

    RUN is a run, a folder of runs, or a published run. Runs of several seeds give a range. For every claim, the command
    prints the claimed value, the measured value (median, range, number of runs), what decides (the prediction interval
    for one more seed, or in how many runs a statement is true), the verdict and the rule.

    \b
    Examples:
      ternary-lab claims v5_5
      ternary-lab claims runs/v5_5 --json
      ternary-lab claims v5_5 --page claims.html
    """
    from ternary_lab.runs.files import require_writable
    from ternary_lab.studies.report import headline, judge_runs

    if page is not None:
        require_writable(page)
    judgements = judge_runs(sources, progress=True)
    if page is not None:
        from ternary_lab.studies.report.ledger_page import LedgerPage

        LedgerPage(judgements).write(page)
    if as_json:
        click.echo(json.dumps([judgement.as_dict() for judgement in judgements], allow_nan=False))
        return
    for j in judgements:
        measured = f"{j.measured:.5g}" if isinstance(j.measured, float) else str(j.measured)
        spread = f" ({j.low:.4g} to {j.high:.4g}, n = {j.runs})" if j.low is not None and j.high is not None else ""
        shown = "-" if j.measured is None else measured + spread
        of = "mean difference" if j.holds else "one more seed"
        decides = f"; {of} {j.interval[0]:.4g} to {j.interval[1]:.4g}" if j.interval else ""
        decides += f"; true in {j.holds[0]} of {j.holds[1]} runs" if j.holds else ""
        click.echo(f"{j.claim.id}: claimed {j.claim.claimed}; measured {shown}{decides}; {j.verdict}")
        for line in filter(None, (f"The same figure as {j.same_as}." if j.same_as else j.rule, j.note)):
            click.echo(f"    {line}")
    counts = headline(judgements)
    click.echo(
        f"{counts.total} claims: {counts.configuration} on settings and files, {counts.repeated} repeated, "
        f"{counts.untestable} not testable. The other {counts.tested}: "
        + ", ".join(f"{count} {verdict}" for verdict, count in counts.verdicts.items())
    )
