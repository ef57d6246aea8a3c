"""Execution of a notebook by papermill: once, or for many sets of parameters on the engines of a sweep."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ternary_lab.arguments import read_path
from ternary_lab.backend.console import on_terminal, say
from ternary_lab.errors import NotebookError
from ternary_lab.notebooks.cells import (
    CUT,
    KERNEL,
    WIDGET_VIEW,
    code_cells,
    errors_in,
    first_line,
    hidden_beside,
    located,
    outputs_of,
    read_notebook,
    tags,
    unwritable,
    write_text,
)
from ternary_lab.notebooks.export import export_html
from ternary_lab.notebooks.parameters import (
    NOTEBOOK_PATH,
    Value,
    check_parameters,
    parse_parameters,
    unread_parameters,
)
from ternary_lab.sweeps import engines

if TYPE_CHECKING:
    from nbformat import NotebookNode

START_TIMEOUT = 60
"""Longest time in seconds for the start of a kernel."""


def run_notebook(
    path: str | Path,
    output: str | Path,
    values: Mapping[str, object] | None = None,
    *,
    progress: bool = True,
    cwd: str | Path | None = None,
    timeout: int | None = None,
) -> Path:
    """Execute a notebook with the given values of parameters, save it as `output`, and return this path.

    Args:
        values: value of each parameter by name. The other parameters keep their defaults.
        progress: whether to show progress on stderr: by a bar on a terminal, and otherwise by a line at the start and a
            line at the end.
        cwd: working directory of the kernel. The default is the folder of the notebook, as in JupyterLab.
        timeout: longest time in seconds for each cell, at least 1. The default is no limit.

    The kernel is this Python interpreter. If a cell shows more than `kernel.LIMIT` characters, the rest is cut, and a
    note in the cell and on stderr says so.

    `output` is written once, at the end. After an interruption it is as before. After a failure it holds the cells that
    were executed. If the failed notebook was to be replaced by its own output, these cells are in NAME.failed.ipynb.

    Raises NotebookError before the execution if a value is not allowed (`check_parameters`), if a parameter has no
    effect (`unread_parameters`), if `cwd` is missing, if the output cannot be written, or if another process executes a
    notebook into it. Raises NotebookError after the execution if a cell has raised an exception (`sys.exit` included)
    or has reached the time limit, if a widget shows an exception, or if the kernel has died.
    """
    import nbformat

    path, output = read_path(path), read_path(output)
    folder = path.parent if cwd is None else read_path(cwd)
    checked = check_parameters(path, values or {})
    if unread := unread_parameters(path):
        names = ", ".join(f"`{name}`" for name in unread)
        raise NotebookError(f"{path}: no later cell reads {names}: use it there or delete it")
    if not folder.is_dir():
        raise NotebookError(f"{located(folder)} is not a folder: choose another working directory")
    terminal = on_terminal()
    started = time.perf_counter()
    with _reserved(output):
        if progress:
            say(f"{path.name}: started in {folder.absolute()}")
        executed, failure = _execute(path, checked, progress and terminal, folder.absolute(), timeout)
        problem = next(errors_in(executed), None) or (failure and f"code cell {_stopped_at(executed)}: {failure}")
        _keep_pictures(executed)
        executed.metadata.papermill.update(
            input_path=path.name, output_path=output.name, exception=problem is not None
        )
        in_place = os.path.realpath(path) == os.path.realpath(output)
        failed = output.with_name(f"{output.stem}.failed.ipynb")
        written = failed if problem and in_place else output
        write_text(written, nbformat.writes(executed) + "\n")  # type: ignore[no-untyped-call]
        if in_place and not problem:
            failed.unlink(missing_ok=True)
    if problem:
        raise NotebookError(f"{path} failed in {problem} (executed so far: {written})")
    if progress and not terminal:
        say(f"{path.name}: finished in {time.perf_counter() - started:.1f} s, {output}")
    if progress:
        for note in cut_outputs(executed):
            say(f"{path.name}: {note}")
    return output


def run_each(
    notebook: str | Path,
    fixed: Mapping[str, str],
    each: Sequence[str],
    folder: str | Path | None = None,
    *,
    values: Mapping[str, object] | None = None,
    html: bool = False,
    fresh: bool = False,
    cwd: str | Path | None = None,
    timeout: int | None = None,
    engine: str = "local",
    address: str | None = None,
) -> list[Path]:
    """Execute a notebook once for every combination of values. Return the paths `folder`/NAME=VALUE,….ipynb.

    Args:
        fixed: texts of the parameters that have the same value in every combination.
        each: texts `NAME=1..8` or `NAME=a,b,c`. If the parameter is a list, each value makes a list of one element.
        folder: folder of the executed notebooks; default `reports/<the notebook's name>`.
        values: values of parameters that have the same value in every combination. A text in `fixed` has priority.
        html: also write an HTML page beside each executed notebook.
        fresh: also execute the combinations that an earlier call has finished.
        cwd: as in `run_notebook`.
        timeout: as in `run_notebook`.
        engine: local or ray (`sweeps.engines`). For Ray, `notebook` and `folder` must be on a file system that all
            nodes share.
        address: address of the Ray cluster.

    A combination is finished if its file holds the same code, executed without a failure with the same values. So a
    call that was interrupted continues where it has stopped.

    All values are checked before the first kernel starts. Raises NotebookError if the notebook does not allow a value.
    If an execution fails, the other combinations are still executed, and NotebookError is raised at the end. Raises
    EngineError as `sweeps.engines.engine` does.
    """
    notebook = read_path(notebook)
    folder = read_path(folder) if folder is not None else Path("reports") / notebook.stem
    sets = {folder / file: chosen for file, chosen in parameter_sets(notebook, fixed, each, values).items()}
    left = [target for target, chosen in sets.items() if fresh or not is_finished(notebook, target, chosen)]
    failed = {}
    with engines.engine(engine, address) as workers:
        place = None if cwd is None else read_path(cwd).absolute()
        tasks = [
            partial(_run_quietly, notebook.absolute(), target.absolute(), sets[target], place, timeout, html)
            for target in left
        ]
        before = f", {len(sets) - len(left)} finished before: --fresh executes them again" * (len(left) < len(sets))
        say(f"{notebook.name}: {len(sets)} sets of parameters{before}")
        for done, (index, failure) in enumerate(workers.run(tasks, lambda: None), len(sets) - len(left) + 1):
            name = left[index].stem
            result = failure or "; ".join(["done", *cut_outputs(read_notebook(left[index]))])
            say(f"{notebook.name}: {done} of {len(sets)}, {name}: {result}")
            if failure is not None:
                failed[name] = failure
    for target in sets if html else ():
        page = target.with_suffix(".html")  # may be missing, if the call that finished the notebook made no pages
        if target.stem not in failed and not (page.exists() and page.stat().st_mtime >= target.stat().st_mtime):
            export_html(target, page)
    if failed:
        first, reason = next(iter(failed.items()))
        raise NotebookError(f"{len(failed)} of {len(sets)} notebooks failed, {first} in: {reason}")
    return list(sets)


def is_finished(notebook: Path, target: Path, values: Mapping[str, Value]) -> bool:
    """Return whether `target` holds the code of `notebook`, executed without a failure with `values`.

    Raises NotebookError if `notebook` cannot be read.
    """
    try:
        executed = read_notebook(target)
    except NotebookError:  # not there, or no notebook
        return False
    about = executed.metadata.get("papermill", {})
    finished = about.get("exception") is False and about.get("parameters") == dict(values)
    return finished and _code(executed) == _code(read_notebook(notebook))


def _code(notebook: NotebookNode) -> list[str]:
    return [cell.source for _, cell in code_cells(notebook) if "injected-parameters" not in tags(cell)]


def cut_outputs(executed: NotebookNode) -> Iterator[str]:
    """Yield a line for each cell of an executed notebook whose output was cut."""
    for place, output in outputs_of(executed):
        if (text := str(output.get("text", ""))).startswith(CUT):
            yield f"{place}: {text.strip()}"


def parameter_sets(
    notebook: Path, fixed: Mapping[str, str], each: Sequence[str], values: Mapping[str, object] | None = None
) -> dict[str, dict[str, Value]]:
    """Return a dictionary from file name to checked parameters, with an entry for every combination of values.

    The arguments are those of `run_each`. Raises NotebookError.
    """
    from ternary_lab.sweeps.design import span

    checked = check_parameters(notebook, values or {})

    lists: dict[str, list[str]] = {}
    for text in each:
        name, _, listed = text.partition("=")
        if not name or not listed:
            raise NotebookError(f"--each {text!r}: write NAME=1..8 or NAME=a,b,c")
        if name in lists or name in fixed or name in checked:
            raise NotebookError(f"--each {text!r}: {name} is given twice: keep one")
        try:
            lists[name] = [str(value).strip() for value in span(listed) or listed.split(",")]
        except ValueError as error:
            raise NotebookError(f"--each {text!r}: {error}") from None
    sets: dict[str, dict[str, Value]] = {}
    for combination in itertools.product(*lists.values()):
        chosen = dict(zip(lists, combination, strict=True))
        words = ",".join(f"{name}={value}" for name, value in chosen.items())
        file = f"{re.sub(r'[^A-Za-z0-9=.,_+-]', '_', words)}.ipynb"
        if file in sets:
            raise NotebookError(f"--each: two sets have the file name {file}: their values differ in signs only")
        sets[file] = {**checked, **parse_parameters(notebook, {**fixed, **chosen})}
    return sets


def _run_quietly(
    notebook: Path, target: Path, values: Mapping[str, Value], cwd: Path | None, timeout: int | None, html: bool
) -> None:
    """Execute one of many notebooks without showing progress, because lines of several notebooks would mix."""
    run_notebook(notebook, target, values, progress=False, cwd=cwd, timeout=timeout)
    if html:
        export_html(target, target.with_suffix(".html"))


@contextmanager
def _reserved(output: Path) -> Iterator[None]:
    """Let no other process execute a notebook into `output` inside the `with` block.

    On a file system without locks, nothing is reserved: of two results, the later one replaces the other one. Raises
    NotebookError if another process executes a notebook into `output`, or if `output` cannot be written.
    """
    from filelock import FileLock, Timeout

    if output.suffix != ".ipynb":
        raise NotebookError(f"{output} is no name for a notebook: end it in .ipynb")
    file = hidden_beside(Path(os.path.realpath(output)), "lock")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise unwritable(output, error) from None
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise NotebookError(f"{output} is being written by another run: wait for it, or choose another -o") from None
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        lock.release()


def _execute(
    path: Path, values: Mapping[str, Value], bar: bool, folder: Path, timeout: int | None
) -> tuple[NotebookNode, str | None]:
    """Execute a notebook by papermill in the working directory `folder`.

    Return the executed notebook, and the reason why a cell stopped the execution, or None.
    """
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    from ternary_lab.notebooks.kernel import ENGINE

    # A kernel with MPLBACKEND shows no figures.
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    executed: list[NotebookNode] = []
    failure = None
    try:
        with _silent_log():
            papermill.execute_notebook(
                str(path.absolute()).replace("{", "{{").replace("}", "}}"),
                None,  # The caller writes the notebook. papermill would write a part of it after each cell.
                values,
                engine_name=ENGINE,
                kernel_name=KERNEL,
                language="python",
                progress_bar={"desc": path.name} if bar else False,
                start_timeout=START_TIMEOUT,
                executed=executed,
                folder=folder,
                environment={**environment, NOTEBOOK_PATH: str(path.absolute())},
                time_limit=timeout,
            )
    except papermill.PapermillExecutionError as error:
        failure = first_line(f"{error.ename}: {error.evalue}")
    except CellTimeoutError:
        failure = f"not finished after {timeout} s: look for an endless loop, or allow more time with --timeout"
        if timeout is None:
            failure = "its outputs do not arrive: show less"
    except DeadKernelError:
        failure = "the kernel died, killed or out of memory: try smaller settings"
    except (NoSuchKernel, RuntimeError, OSError) as error:
        reason = first_line(str(error))
        raise NotebookError(
            f"{path}: no kernel started in {sys.executable}: {reason}: install ipykernel there again"
        ) from error
    return executed[0], failure


@contextmanager
def _silent_log() -> Iterator[None]:
    """Silence the log of papermill inside the `with` block. The log is not needed, because failures are raised."""
    log = logging.getLogger("papermill")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


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
    """Return the number of the last code cell that papermill has started, or 1 if there is none."""
    begun = [number for number, cell in code_cells(executed) if cell.metadata.papermill.start_time]
    return max(begun, default=1)
