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

import ast
import dis
import io
import json
import logging
import math
import os
import re
import socket
import sys
import tempfile
import time
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeAlias

from ternary_lab.errors import NotebookError, nearest

if TYPE_CHECKING:
    from nbformat import NotebookNode

Scalar: TypeAlias = int | float | bool | str
Value: TypeAlias = Scalar | list[Scalar]

KERNEL = "python3"
MAX_DEFINITION_LINES = 8
MAX_OUTPUT_BYTES = 1_500_000
"""Bytes of JSON that the outputs of a committed notebook take at most."""
SCALARS: dict[str, type[Scalar]] = {"int": int, "float": float, "bool": bool, "str": str}
TYPES = (*SCALARS, *(f"list[{name}]" for name in SCALARS))

_NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)
_COMMENT = re.compile(r"#\s*(?P<text>.*?)\s*(\[(?P<range>[^\[\]]*)\]|\{(?P<choices>[^{}]*)\})?")
_MAGIC = re.compile(r"^([ \t]*(?:\w+ *= *)?)[%!].*$", re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SPELLING = {"int": "an int such as 3", "float": "a float such as 1e-3", "bool": "true or false"}
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_ROOTS = "root|work|workspace|mnt|media|opt|srv|var|usr|private|Volumes|data|scratch|content"
_ALERT = 'role="alert"'
"""What marks an error that a widget shows in words."""


# Parameters


@dataclass(frozen=True)
class Parameter:
    """One setting of a notebook. `low`, `high` and `choices` hold for each element of a list."""

    name: str
    default: Value
    type: str
    description: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[Scalar, ...] = ()

    @property
    def scalar(self) -> str:
        """The type of the value, or of each element of a list."""
        return self.type.removeprefix("list[").removesuffix("]")

    @property
    def is_list(self) -> bool:
        return self.type != self.scalar

    def check(self, value: object) -> Value:
        """The value itself, an int turned into a float where one is due.

        Raises:
            NotebookError: another type, not finite, out of range, or not among the choices.
        """
        if not self.is_list:
            return self._check_scalar(value)
        if not isinstance(value, list):
            raise self._refusal(value)
        return [self._check_scalar(element) for element in value]

    def _check_scalar(self, value: object) -> Scalar:
        kind = SCALARS[self.scalar]
        if kind is float and type(value) is int and abs(value) < sys.float_info.max:
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise self._refusal(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refusal(value, "a finite number")
        if isinstance(value, int | float) and not self.low <= value <= self.high:
            raise self._refusal(value, f"a value in [{self.low:g}, {self.high:g}]")
        if self.choices and value not in self.choices:
            raise self._refusal(value, f"one of {', '.join(map(str, self.choices))}")
        return value

    def _refusal(self, value: object, wanted: str | None = None) -> NotebookError:
        return NotebookError(f"parameter `{self.name}` takes {wanted or self.type}, not {value!r}")

    def _parse_scalar(self, text: str) -> Scalar:
        if self.scalar == "str":
            return text
        if self.scalar == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if self.scalar in ("int", "float") and _NUMBER.fullmatch(text):
            with suppress(ValueError):
                return SCALARS[self.scalar](text)
        raise self._refusal(text, _SPELLING[self.scalar])


def parameters(path: str | Path) -> dict[str, Parameter]:
    """The contract of a notebook, in the order of its parameters cell; empty where it has none.

    Raises:
        NotebookError: no such notebook, or a parameters cell that breaks the contract.
    """
    return _parameters(_read(Path(path)), path)


def check_parameters(path: str | Path, values: Mapping[str, object]) -> dict[str, Value]:
    """The given values, checked against the notebook's contract before any kernel starts.

    Raises:
        NotebookError: an unknown name, another type, out of range, or not among the choices.
    """
    known = parameters(path)
    _check_names(path, known, values)
    return {name: known[name].check(value) for name, value in values.items()}


def parse_parameters(path: str | Path, texts: Mapping[str, str]) -> dict[str, Value]:
    """`check_parameters` for values written on a command line.

    Raises:
        NotebookError: as `check_parameters`, or a text that does not spell the parameter's type.
    """
    known = parameters(path)
    _check_names(path, known, texts)
    return {name: parse_value(text, known[name]) for name, text in texts.items()}


def parse_value(text: str, parameter: Parameter) -> Value:
    """A checked value from a command line: `true`, `3`, `1e-3`, `1,2` or `[1,2]`; a string stands for itself.

    Raises:
        NotebookError: a text that does not spell the parameter's type, or a value it does not take.
    """
    if not parameter.is_list:
        return parameter.check(parameter._parse_scalar(text))
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip()
    elements = [element.strip() for element in text.split(",")] if text else []
    if "" in elements:
        raise NotebookError(f"parameter `{parameter.name}` has an empty element: write it as 1,2 or [1,2]")
    return parameter.check([parameter._parse_scalar(element) for element in elements])


def validate(path: str | Path, namespace: Mapping[str, object]) -> None:
    """Check a notebook's own values from inside it: `validate("02_train.ipynb", globals())`.

    Raises:
        NotebookError: a value that the contract does not allow.
    """
    check_parameters(path, {name: namespace[name] for name in parameters(path) if name in namespace})


def unread_parameters(path: str | Path) -> list[str]:
    """Parameters that no later cell reads, or that one overwrites first: setting them changes nothing.

    Raises:
        NotebookError: as `parameters`, or a code cell that is not Python.
    """
    notebook = _read(Path(path))
    unread = _parameters(notebook, path)
    overwritten: set[str] = set()
    later = False
    for number, cell in _code_cells(notebook):
        if later and "injected-parameters" not in _tags(cell):
            for statement in _parse_cell(number, cell.source).body:
                for name in _reads(_compile(statement)) - overwritten:
                    unread.pop(name, None)
                overwritten |= _assigned(statement)
        later = later or "parameters" in _tags(cell)
    return list(unread)


def _check_names(path: str | Path, known: Mapping[str, Parameter], names: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            if not known:
                raise NotebookError(f"{path} has no parameter `{name}`: no cell is tagged `parameters`")
            near = nearest(name, known, "its cell tagged `parameters`")
            raise NotebookError(f"{path} has no parameter `{name}`{near}")


def _parameters(notebook: NotebookNode, path: str | Path) -> dict[str, Parameter]:
    cells = [cell.source for cell in notebook.cells if "parameters" in _tags(cell)]
    if not cells:
        return {}
    if len(cells) > 1:
        raise NotebookError(f"{path}: {len(cells)} cells are tagged `parameters`: keep one")
    try:
        statements = ast.parse(cells[0]).body
    except (SyntaxError, ValueError) as error:
        raise NotebookError(f"{path}: the parameters cell is not Python: {error}") from None
    tokens = tokenize.generate_tokens(io.StringIO(cells[0]).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    found: dict[str, Parameter] = {}
    for statement in statements:
        try:
            parameter = _read_parameter(statement, comments.get(statement.end_lineno or 0, "#"))
            if parameter.name in found:
                raise NotebookError(f"`{parameter.name}` is assigned twice: keep one")
        except NotebookError as error:
            raise NotebookError(f"{path}: parameters cell, line {statement.lineno}: {error}") from None
        found[parameter.name] = parameter
    return found


def _read_parameter(statement: ast.stmt, comment: str) -> Parameter:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=expression):
            declared = None
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as expression):
            declared = ast.unparse(annotation)
        case _:
            written = _first_line(ast.unparse(statement))
            raise NotebookError(f"`{written}` is not `NAME = literal`: move it to a later cell")
    try:
        default = ast.literal_eval(expression)
    except (ValueError, TypeError, SyntaxError):
        raise NotebookError(f"`{name}` is not a plain literal: compute it in a later cell") from None
    kind = declared or _type_of(default)
    if kind not in TYPES:
        raise NotebookError(f"`{name}` is of type {kind}: use one of {', '.join(TYPES)}")
    match_ = _COMMENT.fullmatch(comment)
    assert match_ is not None  # every part of the pattern is optional
    parameter = Parameter(name, default, kind, match_["text"])
    if match_["range"] is not None:
        low, high = _read_range(parameter, match_["range"])
        parameter = replace(parameter, low=low, high=high)
    if match_["choices"] is not None:
        texts = (text.strip() for text in match_["choices"].split(","))
        choices = tuple(parameter._parse_scalar(text) for text in texts)
        parameter = replace(parameter, choices=choices)
    return replace(parameter, default=parameter.check(default))


def _read_range(parameter: Parameter, text: str) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if parameter.scalar not in ("int", "float") or not low <= high:
        raise NotebookError(
            f"`[{text}]` is no range for `{parameter.name}`: close a number's comment with [low, high]"
        )
    return low, high


def _type_of(value: object) -> str:
    if not isinstance(value, list):
        return type(value).__name__
    kinds = {type(element).__name__ for element in value}
    if kinds == {"int", "float"}:
        return "list[float]"
    if len(kinds) != 1:
        return "mixed list" if kinds else "list of nothing (annotate it: `list[int]`)"
    return f"list[{kinds.pop()}]"


# Code cells


def _read(path: Path) -> NotebookNode:
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
        raise NotebookError(f"{path} is not a Jupyter notebook: {_first_line(str(error))}") from None
    return notebook


def _tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _code_cells(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    cells = (cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip())
    return enumerate(cells, start=1)


def _parse_cell(number: int, source: str) -> ast.Module:
    """A code cell as Python: IPython magics and shell lines are left out."""
    error: SyntaxError | None = None
    for text in (source, _MAGIC.sub(r"\1...", source)):
        try:
            return ast.parse(text)
        except SyntaxError as failure:
            error = failure
    if source.lstrip().startswith("%%"):  # another language
        return ast.Module([], type_ignores=[])
    raise NotebookError(f"code cell {number} is not Python: {error}: mend it")


def _compile(statement: ast.stmt) -> CodeType:
    module = ast.Module([statement], type_ignores=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        code: CodeType = compile(module, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, optimize=0)
    return code


def _reads(code: CodeType) -> set[str]:
    """Names of the notebook's namespace that the code loads, a function's own variables not among them."""
    loads = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
    names = {step.argval for step in dis.get_instructions(code) if step.opname in loads}
    return names.union(*(_reads(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _assigned(statement: ast.stmt) -> set[str]:
    """Names that a plain assignment at the top of a cell certainly overwrites."""
    targets: list[ast.expr] = []
    match statement:
        case ast.Assign(targets=targets):
            pass
        case ast.AnnAssign(target=target, value=ast.expr()):
            targets = [target]
    names = (node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def _first_line(text: str) -> str:
    return next(iter(_ANSI.sub("", text).strip().splitlines()), "")


def _outputs(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """Every output with where it stands, those kept in the saved state of widgets included."""
    for number, cell in _code_cells(notebook):
        for output in cell.outputs:
            yield f"code cell {number}", output
    for state in _widget_states(notebook):
        for output in state.get("outputs", []):
            yield "a widget's output", output


def _widget_states(notebook: NotebookNode) -> Iterator[NotebookNode]:
    widgets = notebook.metadata.get("widgets", {}).get(_WIDGET_STATE, {}).get("state", {})
    yield from (widget.get("state", {}) for widget in widgets.values())


def _errors(notebook: NotebookNode) -> Iterator[str]:
    for place, output in _outputs(notebook):
        if output.output_type == "error":
            yield f"{place}: {_first_line(f'{output.ename}: {output.evalue}').rstrip(': ')}"
    for state in _widget_states(notebook):
        said = str(state.get("value", ""))
        if _ALERT in said:
            yield f"a widget's message: {_first_line(re.sub('<[^>]*>', '', said))}"


# Running


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
        raise NotebookError(f"{path}: no later cell reads {_quoted(unread)}: use it there or delete it")
    _require_writable(output)
    bar = progress and sys.stderr.isatty()
    say = progress and not bar
    started = time.perf_counter()
    if say:
        print(f"{path.name}: started", file=sys.stderr, flush=True)
    failure = _execute(path, output, checked, bar, Path(cwd) if cwd else path.parent)
    executed = _read(output)
    problem = next(_errors(executed), None) or (failure and f"code cell {_stopped_at(executed)}: {failure}")
    _keep_stills(executed)
    executed.metadata.papermill.update(
        input_path=path.name, output_path=output.name, exception=problem is not None
    )
    _write(output, _dumps(executed))
    if problem:
        raise NotebookError(f"{path} failed in {problem} (executed so far: {output})")
    if say:
        print(f"{path.name}: finished in {time.perf_counter() - started:.1f} s, {output}", file=sys.stderr)
    return output


def _keep_stills(executed: NotebookNode) -> None:
    """Leave of a widget that has a still picture the picture: a reader without its kernel sees nothing else."""
    views = [output.data for _, output in _outputs(executed) if _WIDGET_VIEW in output.get("data", {})]
    for data in views:
        if "text/html" in data:
            del data[_WIDGET_VIEW]
    if views and not any(_WIDGET_VIEW in data for data in views):
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
        return _first_line(f"{error.ename}: {error.evalue}")
    except DeadKernelError:
        return "the kernel died, killed or out of memory: try smaller settings"
    except (NoSuchKernel, RuntimeError) as error:
        reason = _first_line(str(error))
        raise NotebookError(f"{path}: the kernel `{KERNEL}` did not start: {reason}") from error
    except OSError as error:
        raise NotebookError(f"{path} could not be executed into {output}: {error}") from error
    return None


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """Without MPLBACKEND, which takes all figures away, and without papermill's log: failures are raised."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        with _quiet_papermill():
            yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


@contextmanager
def _quiet_papermill() -> Iterator[None]:
    log = logging.getLogger("papermill")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _stopped_at(executed: NotebookNode) -> int:
    """The first code cell that got no reply from the kernel; papermill itself marks every cell completed."""
    replied = (
        (number, "shell.execute_reply" in cell.metadata.get("execution", {}))
        for number, cell in _code_cells(executed)
    )
    return next((number for number, reply in replied if not reply), 1)


def _require_writable(output: Path) -> None:
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


def _write(output: Path, text: str) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise NotebookError(f"{output} cannot be written: {error}: choose another place") from None


def _dumps(notebook: NotebookNode) -> str:
    import nbformat

    text: str = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    return text + "\n"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# Export

_PAGE = "{% extends 'lab/index.html.j2' %}" + "".join(
    f"{{% block {block} %}}{{% endblock %}}"
    for block in ("html_head_js", "html_head_js_mathjax", "html_head_js_mermaidjs", "jupyter_widgets")
)
_STAND_IN = "<p><em>An interactive view: open the notebook to use it.</em></p>"


def export_html(path: str | Path, output: str | Path, *, hide_input: bool = False) -> Path:
    """One HTML file that loads nothing from the network; `hide_input` leaves the code out.

    Widgets need a live notebook and become a sentence that says so. Formulas stay as their TeX source.

    Raises:
        NotebookError: no such notebook, or an output that cannot be written.
    """
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    path, output = Path(path), Path(output)
    notebook = _read(path)
    notebook.metadata.pop("widgets", None)
    for _, shown in _outputs(notebook):
        if "data" in shown and shown.data.pop(_WIDGET_VIEW, None):
            shown.data.setdefault("text/html", _STAND_IN)
    page = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="lab",
        template_file="page.html.j2",
        extra_loaders=[DictLoader({"page.html.j2": _PAGE})],
        embed_images=True,
        exclude_input=hide_input,
        exclude_input_prompt=hide_input,
    )
    title = _title(notebook) or path.stem
    html, _ = page.from_notebook_node(notebook, {"metadata": {"name": title, "path": str(path.parent)}})
    _write(output, html)
    return output


def _title(notebook: NotebookNode) -> str | None:
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        return None
    return _first_line(first.source)[2:].strip() or None


# Checking


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
        notebook = _read(Path(path))
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
    if _title(notebook) is None:
        yield "the first cell is not a Markdown title: start it with `# `"
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != KERNEL:
        yield f"the kernelspec is {kernel!r}: save the notebook under {KERNEL!r}"
    for number, cell in _code_cells(notebook):
        try:
            tree = _parse_cell(number, cell.source)
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
        known = _parameters(notebook, path)
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

    cells = [cell for cell in notebook.cells if "parameters" in _tags(cell)]
    with _quiet_papermill():  # it warns of each line that it cannot read
        seen = {found.name: found.default for cell in cells for found in PythonTranslator.inspect(cell)}
    for name, parameter in known.items():
        try:
            same = bool(parameter.check(ast.literal_eval(seen[name])) == parameter.default)
        except (KeyError, ValueError, SyntaxError, NotebookError):
            same = False
        if not same and "=" not in repr(parameter.default):
            yield name


def _execution_problems(notebook: NotebookNode, max_output_bytes: int) -> Iterator[str]:
    counts = ((number, cell.execution_count) for number, cell in _code_cells(notebook))
    if wrong := next(((number, count) for number, count in counts if count != number), None):
        number, count = wrong
        done = "not executed" if count is None else f"executed as [{count}]"
        yield f"code cell {number}: {done}, not once each from top to bottom: restart the kernel and run all cells"
    for error in _errors(notebook):
        yield f"{error}: an error: mend the cell and run all cells again"
    sizes: Counter[str] = Counter()
    for place, output in _outputs(notebook):
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
    for place, output in _outputs(notebook):
        data = output.get("data", {})
        alts = _alts(data.get("text/html", ""))
        if "" in alts:
            yield f"{place}: an image has no alt text (an <svg>: no aria-label): say what it shows"
        if not alts and any(kind.startswith("image/") for kind in data):
            yield f"{place}: an image without alt text: {remedy}"
    for state in _widget_states(notebook):
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
    return _first_line(text[found.start() : found.start() + 60])
