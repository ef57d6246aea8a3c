"""Execution of notebooks by papermill: one, or one under many sets of parameters on the engines of a sweep."""

from __future__ import annotations

import itertools
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ternary_lab.errors import NotebookError
from ternary_lab.notebooks.cells import (
    KERNEL,
    WIDGET_VIEW,
    code_cells,
    errors_in,
    first_line,
    outputs_of,
    read_notebook,
    write_text,
)
from ternary_lab.notebooks.export import export_html
from ternary_lab.notebooks.parameters import Value, check_parameters, parse_parameters, unread_parameters
from ternary_lab.sweeps import engines

if TYPE_CHECKING:
    from nbformat import NotebookNode


def run_notebook(
    path: str | Path,
    output: str | Path,
    values: Mapping[str, object] | None = None,
    *,
    progress: bool = True,
    cwd: str | Path | None = None,
) -> Path:
    """Execute a notebook with the given values, save it as `output`, and return that path.

    The kernel works in `cwd`; the default is the notebook's own folder, as under JupyterLab. Progress is shown on
    standard error: a bar on a terminal, otherwise a line at the start and one at the end.

    Raises NotebookError before the start for values that are not allowed (`check_parameters`), a parameter that no
    cell reads, or an output that cannot be written. Raises it afterwards for any exception, including those shown
    inside a widget and `sys.exit`, and for a dead kernel; `output` then holds the cells executed so far.
    """
    import nbformat

    path, output = Path(path), Path(output)
    checked = check_parameters(path, values or {})
    if unread := unread_parameters(path):
        names = ", ".join(f"`{name}`" for name in unread)
        raise NotebookError(f"{path}: no later cell reads {names}: use it there or delete it")
    _require_writable(output)
    on_terminal = sys.stderr.isatty()
    started = time.perf_counter()
    if progress and not on_terminal:
        print(f"{path.name}: started", file=sys.stderr, flush=True)
    failure = _execute(path, output, checked, progress and on_terminal, Path(cwd) if cwd else path.parent)
    executed = read_notebook(output)
    problem = next(errors_in(executed), None) or (failure and f"code cell {_stopped_at(executed)}: {failure}")
    _keep_pictures(executed)
    executed.metadata.papermill.update(
        input_path=path.name, output_path=output.name, exception=problem is not None
    )
    write_text(output, nbformat.writes(executed) + "\n")  # type: ignore[no-untyped-call]
    if problem:
        raise NotebookError(f"{path} failed in {problem} (executed so far: {output})")
    if progress and not on_terminal:
        print(f"{path.name}: finished in {time.perf_counter() - started:.1f} s, {output}", file=sys.stderr)
    return output


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
    """Execute a notebook once for every combination of values, and return the paths `folder`/NAME=VALUE,….ipynb.

    Args:
        fixed: parameters with the same value in all of them, as texts.
        each: `NAME=1..8` or `NAME=a,b,c`; where the parameter is a list, each value makes a list of one element.
        folder: default `reports/<the notebook's name>`.
        html: also write an HTML page beside each.
        engine: local or ray (`sweeps.engines`). For Ray, notebook and folder must be on a file system that all nodes
            share.
        address: of the Ray cluster.

    All values are checked before the first kernel starts. Raises NotebookError for values that the notebook does not
    allow; also at the end, if some notebooks failed, after the others were executed. Raises EngineError.
    """
    notebook = Path(notebook)
    folder = Path(folder) if folder is not None else Path("reports") / notebook.stem
    sets = {folder / file: values for file, values in parameter_sets(notebook, fixed, each).items()}
    targets = list(sets)
    failed = {}
    with engines.engine(engine, address) as workers:
        tasks = [
            partial(_run_quietly, notebook.absolute(), target.absolute(), values, html)
            for target, values in sets.items()
        ]
        print(f"{notebook.name}: {len(tasks)} sets of parameters", file=sys.stderr, flush=True)
        for done, (index, failure) in enumerate(workers.run(tasks, lambda: None), 1):
            name = targets[index].stem
            print(f"{notebook.name}: {done} of {len(tasks)}, {name}: {failure or 'done'}", file=sys.stderr, flush=True)
            if failure is not None:
                failed[name] = failure
    if failed:
        first, reason = next(iter(failed.items()))
        raise NotebookError(f"{len(failed)} of {len(targets)} notebooks failed, {first} in: {reason}")
    return targets


def parameter_sets(notebook: Path, fixed: Mapping[str, str], each: Sequence[str]) -> dict[str, dict[str, Value]]:
    """File name -> checked parameters, for every combination of values. Raises NotebookError."""
    from ternary_lab.sweeps.design import span

    lists: dict[str, list[str]] = {}
    for text in each:
        name, _, values = text.partition("=")
        if not name or not values:
            raise NotebookError(f"--each {text!r}: write NAME=1..8 or NAME=a,b,c")
        if name in lists or name in fixed:
            raise NotebookError(f"--each {text!r}: {name} is given twice: keep one")
        try:
            lists[name] = [str(value).strip() for value in span(values) or values.split(",")]
        except ValueError as error:
            raise NotebookError(f"--each {text!r}: {error}") from None
    sets: dict[str, dict[str, Value]] = {}
    for combination in itertools.product(*lists.values()):
        chosen = dict(zip(lists, combination, strict=True))
        words = ",".join(f"{name}={value}" for name, value in chosen.items())
        file = f"{re.sub(r'[^A-Za-z0-9=.,_+-]', '_', words)}.ipynb"
        if file in sets:
            raise NotebookError(f"--each: two sets have the file name {file}: their values differ in signs only")
        sets[file] = parse_parameters(notebook, {**fixed, **chosen})
    return sets


def _run_quietly(notebook: Path, target: Path, values: Mapping[str, Value], html: bool) -> None:
    """Execute one of many, without progress: lines of notebooks that run at once would mix."""
    run_notebook(notebook, target, values, progress=False)
    if html:
        export_html(target, target.with_suffix(".html"))


def _require_writable(output: Path) -> None:
    if output.suffix != ".ipynb":
        raise NotebookError(f"{output} is no name for a notebook: end it in .ipynb")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.open("ab").close()
    except OSError as error:
        raise NotebookError(f"{output} cannot be written: {error}: choose another place") from None


def _execute(path: Path, output: Path, values: Mapping[str, Value], bar: bool, cwd: Path) -> str | None:
    """Execute by papermill; the reason why it stopped before the last cell, or None."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError

    source, target = (str(file.absolute()).replace("{", "{{").replace("}", "}}") for file in (path, output))
    try:
        with _kernel_environment():
            papermill.execute_notebook(
                source,
                target,
                values,
                kernel_name=KERNEL,
                language="python",
                progress_bar={"desc": path.name} if bar else False,
                cwd=cwd.absolute(),
                # A kernel that is busy when an interrupt shuts it down would log that as an error.
                extra_arguments=["--log-level=CRITICAL"],
            )
    except papermill.PapermillExecutionError as error:
        return first_line(f"{error.ename}: {error.evalue}")
    except DeadKernelError:
        return "the kernel died, killed or out of memory: try smaller settings"
    except (NoSuchKernel, RuntimeError) as error:
        reason = first_line(str(error))
        raise NotebookError(f"{path}: the kernel `{KERNEL}` did not start: {reason}") from error
    except OSError as error:
        raise NotebookError(f"{path} could not be executed into {output}: {error}") from error
    return None


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """Without MPLBACKEND, under which a kernel shows no figures, and without papermill's log: failures are raised."""
    backend = os.environ.pop("MPLBACKEND", None)
    log = logging.getLogger("papermill")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def _keep_pictures(executed: NotebookNode) -> None:
    """Drop the interactive view of each widget that has a still picture: without a kernel only the picture shows."""
    views = [output.data for _, output in outputs_of(executed) if WIDGET_VIEW in output.get("data", {})]
    for data in views:
        if "text/html" in data:
            del data[WIDGET_VIEW]
    if views and not any(WIDGET_VIEW in data for data in views):
        executed.metadata.pop("widgets", None)


def _stopped_at(executed: NotebookNode) -> int:
    """The first code cell without a reply of the kernel; papermill itself marks every cell as completed."""
    for number, cell in code_cells(executed):
        if "shell.execute_reply" not in cell.metadata.get("execution", {}):
            return number
    return 1
