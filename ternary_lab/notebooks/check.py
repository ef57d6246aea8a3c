"""Checks of a notebook before it is committed: structure, parameters, outputs, figures and paths.

A notebook must display a figure as HTML: `<img alt="what it shows" src="data:image/png;base64,...">`. An `image/png`
output is not enough, because JupyterLab and nbconvert drop its alternative text.
"""

from __future__ import annotations

import ast
import json
import re
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ternary_lab.arguments import read_path
from ternary_lab.errors import NotebookError
from ternary_lab.notebooks.cells import (
    KERNEL,
    code_cells,
    errors_in,
    first_line,
    outputs_of,
    parse_cell,
    read_notebook,
    widget_states,
)
from ternary_lab.notebooks.export import page_title
from ternary_lab.notebooks.parameters import declared_parameters, unread_parameters

if TYPE_CHECKING:
    from nbformat import NotebookNode

MAX_DEFINITION_LINES = 8
MAX_OUTPUT_BYTES = 1_500_000
"""Largest size of the outputs of a committed notebook, in bytes of JSON."""
MAX_LINE = 100
"""Largest number of characters of a printed line. A longer line is wrapped on a page of the documentation."""
_ROOTS = "root|work|workspace|mnt|media|opt|srv|var|usr|private|Volumes|data|scratch|content"


def check_notebook(path: str | Path, *, max_output_bytes: int = MAX_OUTPUT_BYTES) -> list[str]:
    """Return the problems of a notebook. The list is empty if the notebook can be committed.

    Each problem is one line that names the cell and the remedy.
    """
    try:
        notebook = read_notebook(read_path(path))
    except NotebookError as error:
        return [_without(path, error)]
    problems = [
        *_structure_problems(notebook),
        *_parameter_problems(notebook, path),
        *_execution_problems(notebook, max_output_bytes),
        *_picture_problems(notebook),
        *_line_problems(notebook),
        *_machine_problems(notebook),
    ]
    return list(dict.fromkeys(problems))


def _without(path: str | Path, error: NotebookError) -> str:
    """Return the message of an error without the name of the notebook. The caller prints this name."""
    return str(error).removeprefix(str(path)).lstrip(": ")


def _structure_problems(notebook: NotebookNode) -> Iterator[str]:
    if page_title(notebook) is None:
        yield "the first cell is not a Markdown title: start it with `# `"
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != KERNEL:
        yield f"the kernelspec is {kernel!r}: save the notebook with {KERNEL!r}"
    for number, cell in code_cells(notebook):
        try:
            tree = parse_cell(number, cell.source)
        except NotebookError as error:
            yield str(error)
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_DEFINITION_LINES:
                    yield (
                        f"code cell {number}: `{node.name}` has {lines} lines, more than "
                        f"{MAX_DEFINITION_LINES}: move it to the library"
                    )


def _parameter_problems(notebook: NotebookNode, path: str | Path) -> Iterator[str]:
    try:
        if not declared_parameters(notebook, path):
            yield "no parameters: tag one cell of literals `parameters`"
        for name in unread_parameters(path):
            yield f"parameters cell: no later cell reads the parameter `{name}`: use it there or delete it"
    except NotebookError as error:
        yield _without(path, error)


def _execution_problems(notebook: NotebookNode, max_output_bytes: int) -> Iterator[str]:
    counts = ((number, cell.execution_count) for number, cell in code_cells(notebook))
    if wrong := next(((number, count) for number, count in counts if count != number), None):
        number, count = wrong
        done = "not executed" if count is None else f"executed as [{count}]"
        yield f"code cell {number}: {done}, not once each from top to bottom: restart the kernel and run all cells"
    for error in errors_in(notebook):
        yield f"{error}: an error: fix the cell and run all cells again"
    sizes: Counter[str] = Counter()
    for place, output in outputs_of(notebook):
        sizes[place] += len(json.dumps(output))
    if sizes.total() > max_output_bytes:
        largest, size = sizes.most_common(1)[0]
        yield (
            f"{largest}: {size} of the {sizes.total()} bytes that the outputs take, more than {max_output_bytes}: "
            "show fewer or smaller figures"
        )


class _Images(HTMLParser):
    """Alternative texts of the `<img>` and `<svg>` elements in an HTML text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.alts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("img", "svg"):
            self.alts.append((dict(attrs).get("alt" if tag == "img" else "aria-label") or "").strip())


def _picture_problems(notebook: NotebookNode) -> Iterator[str]:
    remedy = 'show the figure as `<img alt="..." src="data:image/png;base64,...">`'
    for place, output in outputs_of(notebook):
        data = output.get("data", {})
        alts = _Images(data.get("text/html", "")).alts
        if "" in alts:
            yield f"{place}: an image has no alt text (an <svg>: no aria-label): say what it shows"
        if not alts and any(kind.startswith("image/") for kind in data):
            yield f"{place}: an image without alt text: {remedy}"
    for state in widget_states(notebook):
        if "" in _Images(str(state.get("value", ""))).alts:
            yield "a widget's value: an image has no alt text (an <svg>: no aria-label): say what it shows"
    for number, cell in enumerate(notebook.cells, start=1):
        markdown = cell.source if cell.cell_type == "markdown" else ""
        if "" in _Images(markdown).alts or re.search(r"!\[\s*\]\(", markdown):
            yield f"cell {number}: an image in Markdown has no alt text: say what it shows"


def _line_problems(notebook: NotebookNode) -> Iterator[str]:
    for place, output in outputs_of(notebook):
        data = output.get("data", {})
        text = output.get("text", "")
        text += data.get("text/plain", "") if "text/html" not in data and "text/markdown" not in data else ""
        longest = max((line.rstrip() for line in text.splitlines()), key=len, default="")
        if len(longest) > MAX_LINE:
            yield (
                f"{place}: a printed line of {len(longest)} characters, more than {MAX_LINE}: show a table as HTML "
                "(`ternary_lab.figures.show_table`), or break the line"
            )


def _machine_problems(notebook: NotebookNode) -> Iterator[str]:
    """Yield a problem for each text of a notebook that depends on the machine.

    Every text is searched for absolute paths and shell prompts. Outputs and metadata are also searched for the name of
    this machine, unless the name has only letters, as an ordinary word has.
    """
    folders = {str(Path.cwd()), str(Path.home()), tempfile.gettempdir(), "/tmp", "/home", "/Users"} - {"/"}
    # A folder name inside another path or word, such as tmp in runs/tmp or /tmpfs, is not an absolute path.
    absolute = re.compile(
        rf"(?<![\w.])(?:{'|'.join(map(re.escape, folders))})(?![\w.-])|(?<![\w.])/(?:{_ROOTS})/[\w.]|\b[A-Z]:\\Users"
    )
    prompt = re.compile(r"(?<=\w)@[\w-]+:[~/]")
    host = socket.gethostname()
    named = re.compile(rf"(?<![\w-]){re.escape(host)}(?![\w-])")
    for place, text in _texts(notebook):
        text = re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", text)
        if found := absolute.search(text):
            yield f"{place}: an absolute path, {_excerpt(text, found)!r}: make it relative"
        if found := prompt.search(text):
            yield f"{place}: a machine's name, {_excerpt(text, found)!r}: do not print it"
        if host and not host.isalpha() and "source" not in place and (found := named.search(text)):
            yield f"{place}: this machine's name, {_excerpt(text, found)!r}: do not print it"


def _texts(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    """Yield (place, text) for every string that a viewer or a diff shows. The bytes of pictures are left out."""
    for number, cell in enumerate(notebook.cells, start=1):
        yield f"source of cell {number}", cell.source
        for text in _strings([cell.metadata, cell.get("outputs", [])]):
            yield f"cell {number}", text
    for text in _strings(notebook.metadata):
        yield "the notebook's metadata", text


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            if key not in ("image/png", "image/jpeg", "application/pdf"):
                yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)


def _excerpt(text: str, found: re.Match[str]) -> str:
    return first_line(text[found.start() : found.start() + 60])
