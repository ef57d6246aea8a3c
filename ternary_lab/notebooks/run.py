"""Notebooks as programs: what may be set, a runner that hides no failure, and a checker.

A notebook's parameters are the assignments of its one cell tagged `parameters`, read and never executed:

    epochs = 60             # epochs to train [1, 400]
    rates = [1e-3, 3e-4]    # learning rates to try [0, inf]
    device = "auto"         # where to train {auto, cpu, cuda}
    scale: float = 1        # an annotation widens or names a type: int, float, bool, str, or a list of one

`NAME = literal  # description`, optionally closed by a range `[low, high]` (both ends included) or a set
`{a, b}`; either holds for every element of a list. Anything computed belongs in a later cell: a caller's
value replaces the literal and not what was derived from it.

A figure is displayed as HTML, `<img alt="what it shows" src="data:image/png;base64,...">`: the alt text of an
`image/png` output is dropped by JupyterLab and by nbconvert. Code cells are numbered from 1, leaving out
empty ones, which is the number `In [n]` that the executed notebook shows.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ternary_lab.errors import NotebookError

if TYPE_CHECKING:
    from nbformat import NotebookNode
from ternary_lab.notebooks.cells import (
    KERNEL,
    WIDGET_VIEW,
    code_cells,
    errors_in,
    first_line,
    notebook_text,
    outputs_of,
    quiet_papermill,
    quoted,
    read_notebook,
    require_writable,
    write_text,
)
from ternary_lab.notebooks.parameters import Value, check_parameters, unread_parameters


def run_notebook(
    path: str | Path,
    output: str | Path,
    values: Mapping[str, object] | None = None,
    *,
    progress: bool = True,
    cwd: str | Path | None = None,
) -> Path:
    """Execute a notebook under the given values and save it as `output`, which is returned.

    The kernel works in `cwd`, by default the notebook's own folder, as under JupyterLab and nbval. Progress
    goes to standard error: a bar on a terminal, else a line at the start and one at the end.

    Raises:
        NotebookError: before the start, as `check_parameters`, a parameter that no cell reads, or an output
            that cannot be written; afterwards, any exception, those shown inside a widget and `sys.exit`
            included, or a dead kernel. What was executed so far is then in `output`.
    """
    path, output = Path(path), Path(output)
    checked = check_parameters(path, values or {})
    if unread := unread_parameters(path):
        raise NotebookError(f"{path}: no later cell reads {quoted(unread)}: use it there or delete it")
    require_writable(output)
    bar = progress and sys.stderr.isatty()
    say = progress and not bar
    started = time.perf_counter()
    if say:
        print(f"{path.name}: started", file=sys.stderr, flush=True)
    failure = _execute(path, output, checked, bar, Path(cwd) if cwd else path.parent)
    executed = read_notebook(output)
    problem = next(errors_in(executed), None) or (failure and f"code cell {_stopped_at(executed)}: {failure}")
    _keep_stills(executed)
    executed.metadata.papermill.update(
        input_path=path.name, output_path=output.name, exception=problem is not None
    )
    write_text(output, notebook_text(executed))
    if problem:
        raise NotebookError(f"{path} failed in {problem} (executed so far: {output})")
    if say:
        print(f"{path.name}: finished in {time.perf_counter() - started:.1f} s, {output}", file=sys.stderr)
    return output


def _keep_stills(executed: NotebookNode) -> None:
    """Leave of a widget that has a still picture the picture: a reader without its kernel sees nothing else."""
    views = [output.data for _, output in outputs_of(executed) if WIDGET_VIEW in output.get("data", {})]
    for data in views:
        if "text/html" in data:
            del data[WIDGET_VIEW]
    if views and not any(WIDGET_VIEW in data for data in views):
        executed.metadata.pop("widgets", None)


def _execute(path: Path, output: Path, values: Mapping[str, Value], bar: bool, cwd: Path) -> str | None:
    """Execute by papermill; what stopped it before the last cell, if anything did."""
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
                # A kernel still busy when it is shut down, by an interrupt, would log that as an error.
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
    """Without MPLBACKEND, which takes all figures away, and without papermill's log: failures are raised."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        with quiet_papermill():
            yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def _stopped_at(executed: NotebookNode) -> int:
    """The first code cell that got no reply from the kernel; papermill itself marks every cell completed."""
    replied = (
        (number, "shell.execute_reply" in cell.metadata.get("execution", {}))
        for number, cell in code_cells(executed)
    )
    return next((number for number, reply in replied if not reply), 1)
