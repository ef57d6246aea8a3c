"""Notebooks as programs: what may be set, a runner that hides no failure, and a checker.

A notebook's parameters are the assignments of its one cell tagged `parameters`, read and never executed:

    epochs = 60             # epochs to train [1, 400]
    rates = [1e-3, 3e-4]    # learning rates to try [0, inf]
    device = "auto"         # where to train {auto, cpu, cuda}
    scale: float = 1        # an annotation widens or names a type: int, float, bool, str, or a list of one

`NAME = literal  # description`, optionally closed by a range `[low, high]` (both ends included) or a set
`{a, b}`; either holds for every element of a list. Anything computed belongs in a later cell, since a caller's
value replaces the literal and not what was derived from it.

A figure is displayed as HTML, `<img alt="what it shows" src="data:image/png;base64,...">`: the alt text of an
`image/png` output is dropped by JupyterLab and by nbconvert. Code cells are numbered from 1, leaving out
empty ones, which is the number `In [n]` that the executed notebook shows.
"""

from __future__ import annotations

import ast
import dis
import difflib
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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ternary_lab.errors import NotebookError

if TYPE_CHECKING:
    from nbformat import NotebookNode

Scalar: TypeAlias = int | float | bool | str
Value: TypeAlias = Scalar | list[Scalar]

KERNEL = "python3"
MAX_DEFINITION_LINES = 8
SCALARS: dict[str, type[Scalar]] = {"int": int, "float": float, "bool": bool, "str": str}
TYPES = (*SCALARS, *(f"list[{name}]" for name in SCALARS))

_NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)
_COMMENT = re.compile(r"#\s*(?P<text>.*?)\s*(\[(?P<range>[^\[\]]*)\]|\{(?P<choices>[^{}]*)\})?")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


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
            self._refuse(value)
        return [self._check_scalar(element) for element in value]

    def _check_scalar(self, value: object) -> Scalar:
        if self.scalar == "float" and type(value) is int and abs(value) < sys.float_info.max:
            value = float(value)
        if type(value) is not SCALARS[self.scalar]:
            self._refuse(value)
        assert isinstance(value, int | float | bool | str)
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(value, "a finite number")
        if isinstance(value, int | float) and not self.low <= value <= self.high:
            self._refuse(value, f"a value in [{self.low:g}, {self.high:g}]")
        if self.choices and value not in self.choices:
            self._refuse(value, f"one of {', '.join(map(str, self.choices))}")
        return value

    def _refuse(self, value: object, wanted: str | None = None) -> NoReturn:
        shown = value if isinstance(value, _Text) else repr(value)
        raise NotebookError(f"parameter `{self.name}` takes {wanted or self.type}, not {shown}")

    def _parse_scalar(self, text: str) -> Scalar:
        if self.scalar == "str":
            return text
        if self.scalar == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if self.scalar in ("int", "float") and _NUMBER.fullmatch(text):
            try:
                return SCALARS[self.scalar](text)
            except ValueError:
                pass
        self._refuse(_Text(text), f"{self.scalar} ({_SPELLING[self.scalar]})")


class _Text(str):
    """What was typed on a command line, shown without quotes."""


_SPELLING = {"int": "such as 3", "float": "such as 1e-3", "bool": "true or false"}


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
    later = False
    for number, cell in _code_cells(notebook):
        tags = _tags(cell)
        if later and "injected-parameters" not in tags:
            for statement in _parse_cell(number, cell.source).body:
                for name in _reads(_compile(statement)):
                    unread.pop(name, None)
                if _assigned(statement) & unread.keys():
                    return list(unread)
        later = later or "parameters" in tags
    return list(unread)


def _check_names(path: str | Path, known: Mapping[str, Parameter], names: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f": did you mean `{nearest[0]}`?" if nearest else "."
            listed = ", ".join(known) or "none (no cell is tagged `parameters`)"
            raise NotebookError(f"{path} has no parameter `{name}`{hint} It has {listed}")


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
            raise NotebookError(f"`{_first_line(ast.unparse(statement))}` is not `NAME = literal`: move it to a later cell")
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
        raise NotebookError(f"{path} does not exist: name a notebook, such as notebooks/02_train.ipynb") from None
    except (OSError, UnicodeDecodeError) as error:
        raise NotebookError(f"{path} cannot be read: {error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nbformat warns of missing cell ids and repairs them
            notebook = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
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
    """A code cell as Python, its IPython magics and shell lines left out."""
    if source.lstrip().startswith("%%"):
        source = source.lstrip().partition("\n")[2] if source.lstrip().startswith("%%time") else ""
    try:
        return ast.parse(source)
    except SyntaxError:
        pass
    try:
        return ast.parse(re.sub(r"(?m)^([ \t]*)[%!].*$", r"\1pass", source))
    except SyntaxError as error:
        raise NotebookError(f"code cell {number} is not Python: {error}") from None


def _compile(statement: ast.stmt) -> CodeType:
    module = ast.Module([statement], type_ignores=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        code: CodeType = compile(module, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code


def _reads(code: CodeType) -> set[str]:
    """Names of the notebook's namespace that the code loads: a function's own variables are not among them."""
    loads = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
    names = {step.argval for step in dis.get_instructions(code) if step.opname in loads}
    return names.union(*(_reads(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _assigned(statement: ast.stmt) -> set[str]:
    """Names that a plain assignment at the top of a cell certainly overwrites."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}
