"""Checks that a notebook must pass before it is committed: structure, parameters, outputs, figures, paths.

A figure is displayed as HTML, `<img alt="what it shows" src="data:image/png;base64,...">`, because JupyterLab and
nbconvert drop the alternative text of an `image/png` output.
"""

from __future__ import annotations

import ast
import json
import re
import socket
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ternary_lab.errors import NotebookError

if TYPE_CHECKING:
    from nbformat import NotebookNode
from ternary_lab.notebooks.cells import (
    KERNEL,
    code_cells,
    errors_in,
    first_line,
    outputs_of,
    parse_cell,
    quiet_papermill,
    read_notebook,
    tags,
    widget_states,
)
from ternary_lab.notebooks.export import page_title
from ternary_lab.notebooks.parameters import Parameter, declared_parameters, unread_parameters

MAX_DEFINITION_LINES = 8
MAX_OUTPUT_BYTES = 1_500_000
"""Bytes of JSON that the outputs of a committed notebook take at most."""
_ROOTS = "root|work|workspace|mnt|media|opt|srv|var|usr|private|Volumes|data|scratch|content"


def find_notebooks(paths: Iterable[str | Path]) -> list[Path]:
    """The notebooks among files and directly in folders, each once, those of a folder by name.

    Raises:
        NotebookError: a path that does not exist, or a folder without a notebook.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.glob("*.ipynb")) if path.is_dir() else [path]
        if not inside:
            raise NotebookError(f"{path} holds no notebook: name a folder of .ipynb files, as notebooks")
        if not path.exists():
            raise NotebookError(f"{path} does not exist: name a notebook, or a folder of notebooks")
        found += inside
    return list(dict.fromkeys(found))


def check_notebook(path: str | Path, *, max_output_bytes: int = MAX_OUTPUT_BYTES) -> list[str]:
    """What keeps a notebook from being committed: a line each, with the cell and the remedy; empty when it is fine."""
    try:
        notebook = read_notebook(Path(path))
    except NotebookError as error:
        return [_without(path, error)]
    problems = [
        *_structure_problems(notebook),
        *_parameter_problems(notebook, path),
        *_execution_problems(notebook, max_output_bytes),
        *_picture_problems(notebook),
        *_machine_problems(notebook),
    ]
    return list(dict.fromkeys(problems))


def _without(path: str | Path, error: NotebookError) -> str:
    """The message without the notebook's name, by which its findings are listed."""
    return str(error).removeprefix(str(path)).lstrip(": ")


def _structure_problems(notebook: NotebookNode) -> Iterator[str]:
    if page_title(notebook) is None:
        yield "the first cell is not a Markdown title: start it with `# `"
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != KERNEL:
        yield f"the kernelspec is {kernel!r}: save the notebook under {KERNEL!r}"
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
        known = declared_parameters(notebook, path)
        if not known:
            yield "no parameters: tag one cell of literals `parameters`"
        for name in _hidden_from_papermill(notebook, known):
            yield (
                f"parameters cell: papermill does not read `{name}` as it is written: put it on a line of its own, "
                "with one `=` and one `#`"
            )
        for name in unread_parameters(path):
            yield f"parameters cell: no later cell reads the parameter `{name}`: use it there or delete it"
    except NotebookError as error:
        yield _without(path, error)


def _hidden_from_papermill(notebook: NotebookNode, known: Mapping[str, Parameter]) -> Iterator[str]:
    """Parameters that papermill, which reads lines by regular expressions, does not see or sees with another value.

    One with an `=` in its value is missing from papermill's help and no more: it is set like the others.
    """
    from papermill.translators import PythonTranslator

    cells = [cell for cell in notebook.cells if "parameters" in tags(cell)]
    with quiet_papermill():  # it warns of each line that it cannot read
        seen = {found.name: found.default for cell in cells for found in PythonTranslator.inspect(cell)}
    for name, parameter in known.items():
        try:
            same = bool(parameter.check(ast.literal_eval(seen[name])) == parameter.default)
        except (KeyError, ValueError, SyntaxError, NotebookError):
            same = False
        if not same and "=" not in repr(parameter.default):
            yield name


def _execution_problems(notebook: NotebookNode, max_output_bytes: int) -> Iterator[str]:
    counts = ((number, cell.execution_count) for number, cell in code_cells(notebook))
    if wrong := next(((number, count) for number, count in counts if count != number), None):
        number, count = wrong
        done = "not executed" if count is None else f"executed as [{count}]"
        yield f"code cell {number}: {done}, not once each from top to bottom: restart the kernel and run all cells"
    for error in errors_in(notebook):
        yield f"{error}: an error: mend the cell and run all cells again"
    sizes: Counter[str] = Counter()
    for place, output in outputs_of(notebook):
        sizes[place] += len(json.dumps(output))
    if sizes.total() > max_output_bytes:
        largest, its = sizes.most_common(1)[0]
        yield (
            f"{largest}: {its} of the {sizes.total()} bytes that the outputs take, more than {max_output_bytes}: "
            "show fewer or smaller figures"
        )


class _Images(HTMLParser):
    """The alternative text of every `<img>` and `<svg>` fed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.alts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = {"img": "alt", "svg": "aria-label"}.get(tag)
        if name is not None:
            self.alts.append((dict(attrs).get(name) or "").strip())


def _alts(html: str) -> list[str]:
    images = _Images()
    images.feed(html)
    return images.alts


def _picture_problems(notebook: NotebookNode) -> Iterator[str]:
    remedy = 'show the figure as `<img alt="..." src="data:image/png;base64,...">`'
    for place, output in outputs_of(notebook):
        data = output.get("data", {})
        alts = _alts(data.get("text/html", ""))
        if "" in alts:
            yield f"{place}: an image has no alt text (an <svg>: no aria-label): say what it shows"
        if not alts and any(kind.startswith("image/") for kind in data):
            yield f"{place}: an image without alt text: {remedy}"
    for state in widget_states(notebook):
        if "" in _alts(str(state.get("value", ""))):
            yield "a widget's value: an image has no alt text (an <svg>: no aria-label): say what it shows"
    for number, cell in enumerate(notebook.cells, start=1):
        markdown = cell.source if cell.cell_type == "markdown" else ""
        if "" in _alts(markdown) or re.search(r"!\[\s*\]\(", markdown):
            yield f"cell {number}: an image in Markdown has no alt text: say what it shows"


def _machine_problems(notebook: NotebookNode) -> Iterator[str]:
    """Absolute paths and shell prompts anywhere; this machine's name in outputs and metadata, unless a plain word."""
    folders = {str(Path.cwd()), str(Path.home()), tempfile.gettempdir(), "/tmp", "/home", "/Users"} - {"/"}
    # a folder inside another path or word, such as runs/tmp or /tmpfs, is no absolute path
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
    """Every string a reader or a diff would see, with where it stands; not the bytes of pictures."""
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
