"""Execution of a notebook by papermill: once, or for many sets of parameters on the engines of a sweep."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ternary_lab.backend.console import on_terminal, say
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
    """Execute a notebook with the given values of parameters, save it as `output`, and return this path.

    The working directory of the kernel is `cwd`. The default is the folder of the notebook, as in JupyterLab. Progress
    is shown on stderr, by a bar on a terminal, and otherwise by a line at the start and a line at the end.

    Raises NotebookError before the execution if a value is not allowed (`check_parameters`), if a parameter has no
    effect (`unread_parameters`), or if the output cannot be written. Raises NotebookError after the execution if a cell
    has raised an exception (`sys.exit` included), if a widget shows an exception, or if the kernel has died. The file
    `output` then holds the cells that were executed.
    """
    import nbformat

    path, output = Path(path), Path(output)
    checked = check_parameters(path, values or {})
    if unread := unread_parameters(path):
        names = ", ".join(f"`{name}`" for name in unread)
        raise NotebookError(f"{path}: no later cell reads {names}: use it there or delete it")
    _require_writable(output)
    terminal = on_terminal()
    started = time.perf_counter()
    if progress and not terminal:
        say(f"{path.name}: started")
    failure = _execute(path, output, checked, progress and terminal, Path(cwd) if cwd else path.parent)
    executed = read_notebook(output)
    problem = next(errors_in(executed), None) or (failure and f"code cell {_stopped_at(executed)}: {failure}")
    _keep_pictures(executed)
    executed.metadata.papermill.update(
        input_path=path.name, output_path=output.name, exception=problem is not None
    )
    write_text(output, nbformat.writes(executed) + "\n")  # type: ignore[no-untyped-call]
    if problem:
        raise NotebookError(f"{path} failed in {problem} (executed so far: {output})")
    if progress and not terminal:
        say(f"{path.name}: finished in {time.perf_counter() - started:.1f} s, {output}")
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
    """Execute a notebook once for every combination of values. Return the paths `folder`/NAME=VALUE,….ipynb.

    Args:
        fixed: texts of the parameters that have the same value in every combination.
        each: texts `NAME=1..8` or `NAME=a,b,c`. If the parameter is a list, each value makes a list of one element.
        folder: folder of the executed notebooks; default `reports/<the notebook's name>`.
        html: also write an HTML page beside each executed notebook.
        engine: local or ray (`sweeps.engines`). For Ray, `notebook` and `folder` must be on a file system that all
            nodes share.
        address: address of the Ray cluster.

    All values are checked before the first kernel starts. Raises NotebookError if the notebook does not allow a value.
    If an execution fails, the other combinations are still executed, and NotebookError is raised at the end. Raises
    EngineError as `sweeps.engines.engine` does.
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
        say(f"{notebook.name}: {len(tasks)} sets of parameters")
        for done, (index, failure) in enumerate(workers.run(tasks, lambda: None), 1):
            name = targets[index].stem
            say(f"{notebook.name}: {done} of {len(tasks)}, {name}: {failure or 'done'}")
            if failure is not None:
                failed[name] = failure
    if failed:
        first, reason = next(iter(failed.items()))
        raise NotebookError(f"{len(failed)} of {len(targets)} notebooks failed, {first} in: {reason}")
    return targets


def parameter_sets(notebook: Path, fixed: Mapping[str, str], each: Sequence[str]) -> dict[str, dict[str, Value]]:
    """Return a dictionary from file name to checked parameters, with an entry for every combination of values.

    Raises NotebookError.
    """
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
    """Execute one of many notebooks without showing progress, because lines of several notebooks would mix."""
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
    """Execute a notebook by papermill. Return the reason why a cell stopped the execution, or None."""
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
                # If Ctrl-C shuts down a busy kernel, the kernel would otherwise log an error.
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
    """Remove MPLBACKEND and silence the log of papermill inside the `with` block.

    A kernel with MPLBACKEND shows no figures. The log is not needed, because failures are raised.
    """
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
    """Remove the interactive view of each widget that also has a still picture.

    Only the picture can be shown without a kernel. If no interactive view remains, the saved state of widgets is
    removed.
    """
    views = [output.data for _, output in outputs_of(executed) if WIDGET_VIEW in output.get("data", {})]
    for data in views:
        if "text/html" in data:
            del data[WIDGET_VIEW]
    if views and not any(WIDGET_VIEW in data for data in views):
        executed.metadata.pop("widgets", None)


def _stopped_at(executed: NotebookNode) -> int:
    """Return the number of the first code cell without a reply of the kernel, or 1 if every cell has a reply.

    The status that papermill records cannot be used, because papermill marks every cell as completed.
    """
    for number, cell in code_cells(executed):
        if "shell.execute_reply" not in cell.metadata.get("execution", {}):
            return number
    return 1
