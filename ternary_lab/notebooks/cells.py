"""Notebook files and their cells: reading, writing, names that code reads and assigns, outputs and errors.

Code cells are numbered from 1 without the empty ones, which is the number `In [n]` that the executed notebook shows.
"""

from __future__ import annotations

import ast
import dis
import logging
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

from ternary_lab.errors import NotebookError, nearest

if TYPE_CHECKING:
    from nbformat import NotebookNode


KERNEL = "python3"
MAGIC = re.compile(r"^([ \t]*(?:\w+ *= *)?)[%!].*$", re.MULTILINE)
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
ALERT = 'role="alert"'
"""What marks an error that a widget shows in words."""


def read_notebook(path: Path) -> NotebookNode:
    import nbformat

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = {file.as_posix() for folder in (path.parent, Path("notebooks")) for file in folder.glob("*.ipynb")}
        near = nearest(str(path), sorted(known), "`ternary-lab list notebooks`")
        raise NotebookError(f"{path} does not exist{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise NotebookError(f"{path} cannot be read: {error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nbformat warns of missing cell ids and repairs them
            notebook: NotebookNode = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
            nbformat.validate(notebook)
    except Exception as error:  # foreign JSON makes nbformat raise almost anything
        raise NotebookError(f"{path} is not a Jupyter notebook: {first_line(str(error))}") from None
    return notebook


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def code_cells(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    cells = (cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip())
    return enumerate(cells, start=1)


def parse_cell(number: int, source: str) -> ast.Module:
    """A code cell as Python: IPython magics and shell lines are left out."""
    error: SyntaxError | None = None
    for text in (source, MAGIC.sub(r"\1...", source)):
        try:
            return ast.parse(text)
        except SyntaxError as failure:
            error = failure
    if source.lstrip().startswith("%%"):  # another language
        return ast.Module([], type_ignores=[])
    raise NotebookError(f"code cell {number} is not Python: {error}: mend it")


def compile_statement(statement: ast.stmt) -> CodeType:
    module = ast.Module([statement], type_ignores=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        code: CodeType = compile(module, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, optimize=0)
    return code


def read_names(code: CodeType) -> set[str]:
    """Names of the notebook's namespace that the code loads, a function's own variables not among them."""
    loads = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
    names = {step.argval for step in dis.get_instructions(code) if step.opname in loads}
    return names.union(*(read_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def assigned_names(statement: ast.stmt) -> set[str]:
    """Names that a plain assignment at the top of a cell certainly overwrites."""
    targets: list[ast.expr] = []
    match statement:
        case ast.Assign(targets=targets):
            pass
        case ast.AnnAssign(target=target, value=ast.expr()):
            targets = [target]
    names = (node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def first_line(text: str) -> str:
    return next(iter(ANSI.sub("", text).strip().splitlines()), "")


def outputs_of(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """Every output with where it stands, those kept in the saved state of widgets included."""
    for number, cell in code_cells(notebook):
        for output in cell.outputs:
            yield f"code cell {number}", output
    for state in widget_states(notebook):
        for output in state.get("outputs", []):
            yield "a widget's output", output


def widget_states(notebook: NotebookNode) -> Iterator[NotebookNode]:
    widgets = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    yield from (widget.get("state", {}) for widget in widgets.values())


def errors_in(notebook: NotebookNode) -> Iterator[str]:
    for place, output in outputs_of(notebook):
        if output.output_type == "error":
            yield f"{place}: {first_line(f'{output.ename}: {output.evalue}').rstrip(': ')}"
    for state in widget_states(notebook):
        said = str(state.get("value", ""))
        if ALERT in said:
            yield f"a widget's message: {first_line(re.sub('<[^>]*>', '', said))}"


@contextmanager
def quiet_papermill() -> Iterator[None]:
    log = logging.getLogger("papermill")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def require_writable(output: Path) -> None:
    if output.suffix != ".ipynb":
        raise NotebookError(f"{output} is no name for a notebook: end it in .ipynb")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
        if output.exists():
            output.open("ab").close()
    except OSError as error:
        raise NotebookError(f"{output} cannot be written: {error}: choose another place") from None


def write_text(output: Path, text: str) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise NotebookError(f"{output} cannot be written: {error}: choose another place") from None


def notebook_text(notebook: NotebookNode) -> str:
    import nbformat

    text: str = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    return text + "\n"


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
