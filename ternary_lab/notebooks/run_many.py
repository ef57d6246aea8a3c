"""One notebook under many sets of parameters, on the engines of a sweep."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from ternary_lab import notebooks
from ternary_lab.errors import NotebookError
from ternary_lab.notebooks import Value
from ternary_lab.sweeps import engines
from ternary_lab.sweeps.design import combinations, span


def run_each(
    notebook: str | Path,
    fixed: Mapping[str, str],
    each: Sequence[str],
    folder: str | Path | None = None,
    *,
    html: bool = False,
    engine: str = "local",
    address: str | None = None,
) -> list[Path]:
    """Execute a notebook once for every combination of values, into `folder`/NAME=VALUE,….ipynb.

    Args:
        fixed: parameters that all have, as texts.
        each: `NAME=1..8` or `NAME=a,b,c`; of a parameter that is a list, each value is a list of one.
        folder: default `reports/<the notebook's name>`.
        html: also write an HTML page beside each.
        engine: local or ray, see `engines`. For Ray notebook and folder must lie on a file system that all nodes share.
        address: of the Ray cluster.

    All sets are checked before the first kernel starts. Raises NotebookError for a set that breaks the notebook's
    contract, and at the end for notebooks that failed, after the others; EngineError.
    """
    notebook = Path(notebook)
    folder = Path(folder) if folder is not None else Path("reports") / notebook.stem
    sets = parameter_sets(notebook, fixed, each)
    with engines.engine(engine, address) as hands:
        tasks = [
            partial(_execute, notebook.absolute(), (folder / file).absolute(), values, html)
            for file, values in sets.items()
        ]
        print(f"{notebook.name}: {len(tasks)} sets of parameters", file=sys.stderr, flush=True)
        failed = {}
        targets = [folder / file for file in sets]
        for done, (index, failure) in enumerate(hands.run(tasks, lambda: None), 1):
            print(f"{notebook.name}: {done} of {len(tasks)}, {targets[index].stem}: {failure or 'done'}",
                  file=sys.stderr, flush=True)
            if failure is not None:
                failed[targets[index]] = failure
    if failed:
        first, reason = next(iter(failed.items()))
        raise NotebookError(f"{len(failed)} of {len(tasks)} notebooks failed, {first.stem} in: {reason}")
    return targets


def parameter_sets(notebook: Path, fixed: Mapping[str, str], each: Sequence[str]) -> dict[str, dict[str, Value]]:
    """File name -> checked parameters, of every combination. Raises NotebookError."""
    lists: dict[str, list[str]] = {}
    for text in each:
        name, equals, values = text.partition("=")
        if not equals or not name or not values:
            raise NotebookError(f"--each {text!r}: write NAME=1..8 or NAME=a,b,c")
        if name in lists or name in fixed:
            raise NotebookError(f"--each {text!r}: {name} is given twice: keep one")
        try:
            whole = span(values)
        except ValueError as error:
            raise NotebookError(f"--each {text!r}: {error}") from None
        lists[name] = [str(value) for value in whole] if whole else [value.strip() for value in values.split(",")]
    sets: dict[str, dict[str, Value]] = {}
    for chosen in combinations(lists):
        words = ",".join(f"{name}={value}" for name, value in chosen.items())
        file = f"{re.sub(r'[^A-Za-z0-9=.,_+-]', '_', words)}.ipynb"
        if file in sets:
            raise NotebookError(f"--each: two sets would be written to {file}: their values differ in signs only")
        sets[file] = notebooks.parse_parameters(notebook, {**fixed, **chosen})
    return sets


def _execute(notebook: Path, target: Path, values: Mapping[str, Value], html: bool) -> None:
    """Nothing is shown of it: what a set is at would run into what the others are at."""
    notebooks.run_notebook(notebook, target, values, progress=False)
    if html:
        notebooks.export_html(target, target.with_suffix(".html"))
