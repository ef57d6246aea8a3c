"""Parameters of a notebook: reading from the cell with the tag `parameters`, and checks of values.

The cell is parsed and never executed:

    epochs = 60             # epochs to train [1, 400]
    rates = [1e-3, 3e-4]    # learning rates to try [0, inf]
    device = "auto"         # where to train {auto, cpu, cuda}
    scale: float = 1        # the annotation gives the type: int, float, bool, str, or a list of one of them

A line has the form `NAME = literal  # description`. The description may end in a range `[low, high]`, which includes
both ends, or in choices `{a, b}`. If the value is a list, the range or the choices hold for every element. Computed
values belong in a later cell, because papermill replaces only literals.

The function `inspect_notebook` of papermill is not used, for three reasons. It does not support ranges and choices. It
skips lines that it cannot parse, without an error. It would more than double the time that `validate` takes in the
first cell of a notebook.
"""

from __future__ import annotations

import ast
import io
import math
import os
import re
import sys
import tokenize
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ternary_lab.arguments import as_whole, plain, read_path, spelling
from ternary_lab.errors import NotebookError, nearest
from ternary_lab.notebooks.cells import (
    assigned_names,
    code_cells,
    first_line,
    parse_cell,
    read_names,
    read_notebook,
    tags,
)

if TYPE_CHECKING:
    from nbformat import NotebookNode

Scalar: TypeAlias = int | float | bool | str
Value: TypeAlias = Scalar | list[Scalar]
SCALARS: dict[str, type[Scalar]] = {"int": int, "float": float, "bool": bool, "str": str}
TYPES = (*SCALARS, *(f"list[{name}]" for name in SCALARS))
_NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)
_COMMENT = re.compile(r"#\s*(?P<text>.*?)\s*(\[(?P<range>[^\[\]]*)\]|\{(?P<choices>[^{}]*)\})?")
_SPELLING = {"int": "an int such as 3", "float": "a float such as 1e-3", "bool": "true or false"}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook. If it is a list, `low`, `high` and `choices` hold for each element."""

    name: str
    default: Value
    type: str
    description: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[Scalar, ...] = ()

    @property
    def scalar(self) -> str:
        """Type of the value or, if the parameter is a list, type of each element."""
        return self.type.removeprefix("list[").removesuffix("]")

    @property
    def is_list(self) -> bool:
        return self.type != self.scalar

    def check(self, value: object) -> Value:
        """Return the value if it is allowed, as a value of the type of the parameter.

        An int becomes a float, a whole float such as 50.0 becomes an int, and a path becomes a str, if the parameter
        has this type. Values of numpy become plain ones. Any iterable is taken as a list, but not a str. Raises
        NotebookError if the value has another type, is not finite, is out of range, or is not among the choices.
        """
        value = plain(value)
        if not self.is_list:
            return self._check_scalar(value)
        if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
            raise self._refusal(value)
        return [self._check_scalar(plain(element)) for element in value]

    def parse(self, text: str) -> Value:
        """Return the value of a text from a command line, such as `true`, `3`, `1e-3`, `1,2` or `[1,2]`.

        The value of a string parameter is the text itself. Raises NotebookError if the text is not of the parameter's
        type, or if `check` refuses the value.
        """
        if not self.is_list:
            return self.check(self._parse_scalar(text))
        text = text.strip()
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1].strip()
        elements = [element.strip() for element in text.split(",")] if text else []
        if "" in elements:
            raise NotebookError(f"parameter `{self.name}` has an empty element: write it as 1,2 or [1,2]")
        return self.check([self._parse_scalar(element) for element in elements])

    def _check_scalar(self, value: object) -> Scalar:
        kind = SCALARS[self.scalar]
        if kind is float and type(value) is int and abs(value) < sys.float_info.max:
            value = float(value)
        elif kind is int and (whole := as_whole(value)) is not None:
            value = whole
        elif kind is str and isinstance(value, os.PathLike):
            value = os.fsdecode(value)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise self._refusal(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refusal(value, "a finite number")
        if isinstance(value, int | float) and not self.low <= value <= self.high:
            raise self._refusal(value, f"a value in [{self.low:g}, {self.high:g}]")
        if self.choices and value not in self.choices:
            raise self._refusal(value, f"one of {', '.join(map(str, self.choices))}")
        return value

    def _parse_scalar(self, text: str) -> Scalar:
        if self.scalar == "str":
            return text
        if self.scalar == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if self.scalar in ("int", "float") and _NUMBER.fullmatch(text) and not spelling(text):
            with suppress(ValueError):
                if self.scalar == "float":
                    return float(text)
                whole = int(text) if text.lstrip("+-").isdigit() else as_whole(float(text))
                if whole is not None:
                    return whole
        raise self._refusal(text, _SPELLING[self.scalar], spelling(text))

    def _refusal(self, value: object, wanted: str | None = None, hint: str = "") -> NotebookError:
        return NotebookError(f"parameter `{self.name}` takes {wanted or self.type}, not {value!r}{hint}")


def parameters(path: str | Path) -> dict[str, Parameter]:
    """Return a dictionary from name to parameter, in the order of the cell with the tag `parameters`.

    The dictionary is empty if no cell has this tag. Raises NotebookError if the notebook cannot be read, or if the cell
    has other statements.
    """
    return declared_parameters(read_notebook(read_path(path)), path)


def check_parameters(path: str | Path, values: Mapping[str, object]) -> dict[str, Value]:
    """Check each value against the notebook parameter of the same name, by `Parameter.check`.

    Return the checked values by name.

    Raises NotebookError if a name is unknown. It also raises the errors of `Parameter.check` and `parameters`.
    """
    known = _parameters_with(path, values)
    return {name: known[name].check(value) for name, value in values.items()}


def parse_parameters(path: str | Path, texts: Mapping[str, str]) -> dict[str, Value]:
    """Parse texts from a command line (`Parameter.parse`). Return the values by name.

    Raises NotebookError for an unknown name, and also as `Parameter.parse` and `parameters` do.
    """
    known = _parameters_with(path, texts)
    return {name: known[name].parse(text) for name, text in texts.items()}


def validate(path: str | Path, namespace: MutableMapping[str, Any]) -> None:
    """Check the values of the parameters in a running notebook, and replace them by the checked values.

    A cell of the notebook makes this call, for example `validate("02_train.ipynb", globals())`. The values are those
    that `Parameter.check` returns, for example a list of int for `range(42, 50)`. Raises NotebookError.
    """
    for name, parameter in parameters(path).items():
        if name in namespace:
            namespace[name] = parameter.check(namespace[name])


def unread_parameters(path: str | Path) -> list[str]:
    """Return the names of the parameters without effect.

    A parameter has no effect if no later cell reads it, or if a later cell overwrites it before it is read. Raises
    NotebookError as `parameters` does, and for a code cell that is not Python.
    """
    notebook = read_notebook(read_path(path))
    unread = declared_parameters(notebook, path)
    overwritten: set[str] = set()
    later = False
    for number, cell in code_cells(notebook):
        if later and "injected-parameters" not in tags(cell):
            for statement in parse_cell(number, cell.source).body:
                for name in read_names(statement) - overwritten:
                    unread.pop(name, None)
                overwritten |= assigned_names(statement)
        later = later or "parameters" in tags(cell)
    return list(unread)


def declared_parameters(notebook: NotebookNode, path: str | Path) -> dict[str, Parameter]:
    """Return the result of `parameters` for a notebook that was read already. Error messages contain `path`."""
    cells = [cell.source for cell in notebook.cells if "parameters" in tags(cell)]
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


def _parameters_with(path: str | Path, names: Iterable[str]) -> dict[str, Parameter]:
    """Return the result of `parameters`. Raises NotebookError if one of `names` is not a parameter of the notebook."""
    known = parameters(path)
    for name in names:
        if not known:
            raise NotebookError(f"{path} has no parameter `{name}`: no cell is tagged `parameters`")
        if name not in known:
            near = nearest(name, known, "its cell tagged `parameters`")
            raise NotebookError(f"{path} has no parameter `{name}`{near}")
    return known


def _read_parameter(statement: ast.stmt, comment: str) -> Parameter:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=expression):
            declared = None
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as expression):
            declared = ast.unparse(annotation)
        case _:
            written = first_line(ast.unparse(statement))
            raise NotebookError(f"`{written}` is not `NAME = literal`: move it to a later cell")
    try:
        default = ast.literal_eval(expression)
    except (ValueError, TypeError, SyntaxError):
        raise NotebookError(f"`{name}` is not a plain literal: compute it in a later cell") from None
    kind = declared or _type_of(default)
    if kind not in TYPES:
        raise NotebookError(f"`{name}` is of type {kind}: use one of {', '.join(TYPES)}")
    parts = _COMMENT.fullmatch(comment)
    assert parts is not None  # every part of the pattern is optional
    parameter = Parameter(name, default, kind, parts["text"])
    if parts["range"] is not None:
        low, high = _read_range(parameter, parts["range"])
        parameter = replace(parameter, low=low, high=high)
    if parts["choices"] is not None:
        choices = tuple(parameter._parse_scalar(text.strip()) for text in parts["choices"].split(","))
        parameter = replace(parameter, choices=choices)
    return replace(parameter, default=parameter.check(default))


def _read_range(parameter: Parameter, text: str) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if parameter.scalar not in ("int", "float") or not low <= high:
        raise NotebookError(f"`[{text}]` is no range for `{parameter.name}`: end a number's comment with [low, high]")
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
