"""Notebook files and cells: finding and reading of files; names, outputs and errors of cells.

Code cells are numbered from 1. Empty code cells are not counted. So the number of a cell is the n of `In [n]` in an
executed notebook.
"""

from __future__ import annotations

import ast
import dis
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

from ternary_lab.errors import NotebookError, nearest

if TYPE_CHECKING:
    from nbformat import NotebookNode

KERNEL = "python3"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
ALERT = 'role="alert"'
"""HTML attribute that marks an error message in a widget."""
_MAGIC = re.compile(r"^([ \t]*(?:\w+ *= *)?)[%!].*$", re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


# Files


def find_notebooks(paths: Iterable[str | Path]) -> list[Path]:
    """Return the notebooks that `paths` names, and the notebooks directly inside folders in `paths`.

    Each notebook appears once. The notebooks of one folder are sorted by name. Raises NotebookError if a path does not
    exist, or if a folder holds no notebook.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.glob("[!.]*.ipynb")) if path.is_dir() else [path]
        if not inside:
            raise NotebookError(f"{path} holds no notebook: name a folder of .ipynb files, as notebooks")
        if not path.exists():
            raise NotebookError(f"{path} does not exist: name a notebook, or a folder of notebooks")
        found += inside
    return list(dict.fromkeys(found))


def shipped_notebooks() -> Path:
    """Return the folder of the notebooks that ship with the library. Raises NotebookError if the folder is missing.

    The folder is beside the package in a clone of the repository, and inside the package in a wheel.
    """
    from ternary_lab.config_files import shipped_folders

    for folder in shipped_folders("notebooks"):
        if any(folder.glob("*.ipynb")):
            return folder
    raise NotebookError("the notebooks are missing beside ternary_lab: install the package again, or clone it")


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook and convert it to format 4.

    Raises NotebookError if the file does not exist or is not a notebook.
    """
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
            warnings.simplefilter("ignore")  # nbformat adds missing cell ids and warns about them
            notebook: NotebookNode = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
            nbformat.validate(notebook)
    except Exception as error:  # nbformat raises almost any type for foreign JSON
        raise NotebookError(f"{path} is not a Jupyter notebook: {first_line(str(error))}") from None
    return notebook


def write_text(output: Path, text: str) -> None:
    """Write a text file, and create the missing folders above the file. Raises NotebookError."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise NotebookError(f"{output} cannot be written: {error}: choose another place") from None


# Code


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def code_cells(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """Return an iterator over (number, cell) of the code cells that are not empty."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip())
    return enumerate(cells, start=1)


def parse_cell(number: int, source: str) -> ast.Module:
    """Parse a code cell as Python, without IPython magics and shell lines.

    A cell in another language (`%%`) gives an empty module. Raises NotebookError if the cell is not Python.
    """
    error: SyntaxError | None = None
    for text in (source, _MAGIC.sub(r"\1...", source)):
        try:
            return ast.parse(text)
        except SyntaxError as failure:
            error = failure
    if source.lstrip().startswith("%%"):  # another language
        return ast.Module([], type_ignores=[])
    raise NotebookError(f"code cell {number} is not Python: {error}: fix it")


def read_names(statement: ast.stmt) -> set[str]:
    """Return the global names that a statement reads, also inside functions. Local variables are left out."""
    module = ast.Module([statement], type_ignores=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        codes: list[CodeType] = [compile(module, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, optimize=0)]
    names = set()
    for code in codes:  # `codes` grows by the functions and classes that are defined inside
        codes += (constant for constant in code.co_consts if isinstance(constant, CodeType))
        loads = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
        names |= {step.argval for step in dis.get_instructions(code) if step.opname in loads}
    return names


def assigned_names(statement: ast.stmt) -> set[str]:
    """Return the names to which a top-level statement of a cell assigns, if it is a plain assignment.

    The result is empty for any other statement, because the names that it overwrites are not certain.
    """
    targets: list[ast.expr] = []
    match statement:
        case ast.Assign(targets=targets):
            pass
        case ast.AnnAssign(target=target, value=ast.expr()):
            targets = [target]
    names = (node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


# Outputs


def outputs_of(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """Yield (place, output) for every output of a notebook, and for every output in the saved state of a widget."""
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
    """Yield the place and the first line of every exception in an output, and of every error message in a widget."""
    for place, output in outputs_of(notebook):
        if output.output_type == "error":
            yield f"{place}: {first_line(f'{output.ename}: {output.evalue}').rstrip(': ')}"
    for state in widget_states(notebook):
        text = str(state.get("value", ""))
        if ALERT in text:
            yield f"a widget's message: {first_line(re.sub('<[^>]*>', '', text))}"


def first_line(text: str) -> str:
    """Return the first line of a text that is not empty, without the codes of terminal colours."""
    return next(iter(_ANSI.sub("", text).strip().splitlines()), "")
