"""Notebook files and cells: finding and reading of files; names, outputs and errors of cells.

Code cells are numbered from 1. Empty code cells are not counted. So the number of a cell is the n of `In [n]` in an
executed notebook.
"""

from __future__ import annotations

import ast
import dis
import errno
import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

from ternary_lab.arguments import read_path
from ternary_lab.errors import NotebookError, nearest

if TYPE_CHECKING:
    from nbformat import NotebookNode

KERNEL = "python3"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
ALERT = 'role="alert"'
"""HTML attribute that marks an error message in a widget."""
CUT = "output cut:"
"""First words of the note that `run_notebook` adds to the outputs of a cell that has shown too much."""
LONGEST_NAME = 255
"""Largest number of bytes of the name of a file."""
LONGEST_LINE = 300
"""Largest number of characters of a line of another programme that a message quotes."""
_MAGIC = re.compile(r"^([ \t]*(?:\w+ *= *)?)[%!].*$", re.MULTILINE)
_EXPANDED = re.compile(r"\$\{?(\w+)|\{([^{}]*)\}")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


# Files


def find_notebooks(paths: Iterable[str | Path]) -> list[Path]:
    """Return the notebooks that `paths` names, and the notebooks directly inside folders in `paths`.

    Each notebook appears once. The notebooks of one folder are sorted by name. Raises NotebookError if a path does not
    exist, or if a folder holds no notebook.
    """
    found: list[Path] = []
    for path in map(read_path, paths):
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
        raise NotebookError(f"{located(path)} does not exist{near}") from None
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


def located(path: Path) -> str:
    """Return a path as a message shows it. A relative path is followed by the absolute path in brackets."""
    return str(path) if path.is_absolute() else f"{path} ({path.absolute()})"


def write_text(output: Path, text: str) -> None:
    """Replace the content of a text file, and create the missing folders above the file. A link stays a link.

    The file has either its old content or the complete new content, even if the disk is full or the process is killed.
    A lone surrogate, which UTF-8 does not have, is written as `\\udcff`, as JSON allows. Raises NotebookError.
    """
    # `runs.files` could write this, but it imports torch and pandas, which the runner of notebooks does not need.
    output = Path(os.path.realpath(output))
    temporary = hidden_beside(output, f"{os.getpid()}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, output)
    except OSError as error:
        raise unwritable(output, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def hidden_beside(file: Path, ending: str) -> Path:
    """Return the path of a hidden file that belongs to `file`. A name that would be too long is replaced by a hash."""
    name = os.fsencode(file.name)
    if len(name) > LONGEST_NAME - len(ending) - 2:
        name = hashlib.sha1(name).hexdigest().encode()
    return file.with_name(f".{os.fsdecode(name)}.{ending}")


def unwritable(output: Path, error: OSError) -> NotebookError:
    """Return an error that names a file that cannot be written, the reason and the remedy."""
    remedy = "free space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    reason = error.strerror or str(error)
    return NotebookError(f"{located(output)} cannot be written: {reason}: {remedy}choose another place")


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
    for rewrite in (str, _without_magic, _as_python):
        try:
            return ast.parse(rewrite(source))
        except SyntaxError as failure:
            error = failure
        except ValueError as failure:  # a null character
            error = SyntaxError(str(failure))
    if source.lstrip().startswith("%%"):  # another language
        return ast.Module([], type_ignores=[])
    where = f" in line {error.lineno}" if error.lineno else ""
    raise NotebookError(f"code cell {number} is not Python{where}: {error.msg}: fix it")


def _without_magic(source: str) -> str:
    return _MAGIC.sub(r"\1...", source)


def _as_python(source: str) -> str:
    """Return a cell in which IPython has replaced all that only IPython knows, such as `name?`."""
    from IPython.core.inputtransformer2 import TransformerManager

    return str(TransformerManager().transform_cell(source))  # type: ignore[no-untyped-call]


def expanded_names(source: str) -> set[str]:
    """Return the names in the lines of a cell that IPython expands, such as `n` in `!echo {n}` and `%run it.py $n`."""
    found = (_EXPANDED.findall(line[0]) for line in _MAGIC.finditer(source))
    return {name for texts in found for text in texts for name in re.findall(r"[^\W\d]\w*", " ".join(text))}


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
    """Return the first line of a text that is not empty, without the codes of terminal colours.

    A line of more than `LONGEST_LINE` characters is cut.
    """
    line = next(iter(_ANSI.sub("", text).strip().splitlines()), "")
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"
