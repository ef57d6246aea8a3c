"""Commands for notebooks: run and check-notebooks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ternary_lab.cli.options import ADDRESS, AS_JSON, ENGINE, PATH, Command


@click.command(cls=Command)
@click.argument("notebook", type=PATH)
@click.option("-p", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter; repeatable.")
@click.option("--each", multiple=True, metavar="NAME=VALUES",
              help="Run once for each value, 1..8 or a,b,c; if repeated, once for every combination.")
@click.option("-o", "output", type=PATH,
              help="Executed notebook (default: reports/NAME.ipynb); with --each, its folder (default: reports/NAME).")
@click.option("--html", is_flag=True, help="Also write a self-contained HTML page beside the executed notebook.")
@ENGINE
@ADDRESS
def run(
    notebook: Path, parameters: tuple[tuple[str, str], ...], each: tuple[str, ...], output: Path | None, html: bool,
    engine: str, address: str | None,
) -> None:
    """Execute a notebook with checked parameters.

    All parameters are checked before the kernel starts. A parameter that is unknown, has the wrong type or is out of
    range is an error. With --each, a failed execution does not stop the other executions.

    \b
    Examples:
      ternary-lab run notebooks/02_train.ipynb -p config quick -p seeds 42,43
      ternary-lab run notebooks/11_report.ipynb -p run ../runs/v5_5/seed=42 --html
      ternary-lab run notebooks/00_start_here.ipynb --each seed=1..8 --each config=quick,repaired --engine ray
    """
    from ternary_lab.notebooks import export_html, parse_parameters, run_each, run_notebook

    if each:
        for target in run_each(notebook, dict(parameters), each, output, html=html, engine=engine, address=address):
            click.echo(str(target))
        return
    if engine != "local":
        raise click.UsageError("--engine goes with --each: a single notebook is executed here")
    values = parse_parameters(notebook, dict(parameters))
    target = run_notebook(notebook, output or Path("reports") / notebook.name, values)
    click.echo(str(target))
    if html:
        click.echo(str(export_html(target, target.with_suffix(".html"))))


@click.command("check-notebooks", cls=Command)
@click.argument("paths", nargs=-1, metavar="[FOLDER|FILE]...", type=PATH)
@AS_JSON
def check_notebooks(paths: tuple[Path, ...], as_json: bool) -> None:
    """Check that notebooks are ready to be committed.

    The command checks the named notebooks, or all notebooks of a folder (default: notebooks). The first cell must be a
    title. Functions and classes must be short. The parameters must be readable, and later cells must use all of them.
    The cells must have been executed from top to bottom without an error. No text may contain the name of a machine or
    an absolute path. Figures must have alternative texts. The outputs must not be too large. Each problem is printed on
    one line, with the cell and the remedy. The exit status is 1 if there is a problem.

    \b
    Examples:
      ternary-lab check-notebooks
      ternary-lab check-notebooks notebooks/02_train.ipynb --json
    """
    from ternary_lab.notebooks import check_notebook, find_notebooks

    found: dict[str, list[str]] = {}
    for path in find_notebooks(paths or [Path("notebooks")]):
        found[str(path)] = check_notebook(path)
        if not as_json:  # after each notebook, because large notebooks take a moment
            click.echo("".join(f"{path}: {problem}\n" for problem in found[str(path)]), nl=False)
    if as_json:
        click.echo(json.dumps([{"notebook": path, "findings": problems} for path, problems in found.items()]))
    else:
        count = sum(map(len, found.values()))
        click.echo(f"{len(found)} notebook{'s' * (len(found) != 1)} checked, {count} finding{'s' * (count != 1)}")
    if any(found.values()):
        sys.exit(1)
