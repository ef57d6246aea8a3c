"""Commands for notebooks: run and check-notebooks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ternary_lab.cli.options import ADDRESS, AS_JSON, ENGINE, PATH, Command
from ternary_lab.errors import NotebookError


@click.command(cls=Command, after_stop="the output is as before; the same command starts again, with --each it goes on")
@click.argument("notebook", type=PATH)
@click.argument("output_as_papermill", metavar="[OUTPUT]", required=False, type=PATH)
@click.option("-p", "--parameters", "parameters", nargs=2, multiple=True, metavar="NAME VALUE",
              help="Set a parameter; repeatable.")
@click.option("-r", "--parameters_raw", "raw", nargs=2, multiple=True, metavar="NAME TEXT",
              help="Set a parameter to a text, even one such as 5 or None; repeatable.")
@click.option("-f", "--parameters_file", "files", multiple=True, type=PATH, metavar="FILE",
              help="Set the parameters of a YAML or JSON file; repeatable, and -p has priority.")
@click.option("-y", "--parameters_yaml", "yaml_texts", multiple=True, metavar="TEXT",
              help="Set the parameters of a YAML text such as '{seed: 3, options: {a: 1}}'; -p has priority.")
@click.option("--each", multiple=True, metavar="NAME=VALUES",
              help="Run once for each value, 1..8 or a,b,c; if repeated, once for every combination.")
@click.option("--fresh", is_flag=True, help="With --each, also execute again what is finished.")
@click.option("-o", "output", type=PATH,
              help="Executed notebook (default: reports/NAME.ipynb); with --each, its folder (default: reports/NAME).")
@click.option("--html", is_flag=True, help="Also write a self-contained HTML page beside the executed notebook.")
@click.option("--cwd", type=PATH, metavar="FOLDER",
              help="Folder in which the notebook works and relative paths start (default: that of the notebook).")
@click.option("--timeout", "--execution-timeout", type=click.IntRange(min=1), metavar="SECONDS",
              help="Stop if a cell takes longer (default: no limit).")
@ENGINE
@ADDRESS
def run(
    notebook: Path, output_as_papermill: Path | None, parameters: tuple[tuple[str, str], ...],
    raw: tuple[tuple[str, str], ...], files: tuple[Path, ...], yaml_texts: tuple[str, ...], each: tuple[str, ...],
    fresh: bool, output: Path | None, html: bool, cwd: Path | None, timeout: int | None, engine: str,
    address: str | None,
) -> None:
    """Execute a notebook with checked parameters.

    All parameters are checked before the kernel starts. A parameter that is unknown, has the wrong type or is out of
    range is an error. With --each, a failed execution does not stop the other executions, and the same command goes on
    where it was stopped. Commands for papermill work, too: IN.ipynb OUT.ipynb, -p, -r, -f, -y and --cwd.

    \b
    Examples:
      ternary-lab run notebooks/02_train.ipynb -p config quick -p seeds 42,43
      ternary-lab run notebooks/11_report.ipynb -p run ../runs/v5_5/seed=42 --html
      ternary-lab run my.ipynb -f values.yaml -p run_dir runs/mine --cwd . --timeout 600
      ternary-lab run notebooks/00_start_here.ipynb --each seed=1..8 --each config=quick,repaired --engine ray
    """
    from ternary_lab.notebooks import export_html, parse_parameters, read_parameters, run_each, run_notebook

    if output_as_papermill is not None and output is not None:
        raise click.UsageError(f"the output is given twice, {output_as_papermill} and -o {output}: keep one")
    output = output or output_as_papermill
    values: dict[str, object] = {}
    for file in files:
        values |= read_parameters(_text_of(file), str(file))
    for text in yaml_texts:
        values |= read_parameters(text, "-y")
    values |= dict(raw)
    if each:
        for target in run_each(
            notebook, dict(parameters), each, output, values=values, html=html, fresh=fresh, cwd=cwd, timeout=timeout,
            engine=engine, address=address,
        ):
            click.echo(str(target))
        return
    if fresh:
        raise click.UsageError("--fresh goes with --each: leave --fresh out, a single notebook is always executed")
    if engine != "local":
        raise click.UsageError("--engine goes with --each: leave --engine out, a single notebook is executed here")
    values |= parse_parameters(notebook, dict(parameters))
    target = run_notebook(notebook, output or Path("reports") / notebook.name, values, cwd=cwd, timeout=timeout)
    click.echo(str(target))
    if html:
        click.echo(str(export_html(target, target.with_suffix(".html"))))


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NotebookError(f"{file.absolute()} cannot be read: {reason}: name a YAML file of parameters") from None


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
