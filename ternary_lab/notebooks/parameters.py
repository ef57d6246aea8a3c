"""Parameters of a notebook: reading from the cell with the tag `parameters`, and checks of values.

The cell is parsed and never executed:

    epochs = 60             # epochs to train [1, 400]
    rates = [1e-3, 3e-4]    # learning rates to try [0, inf]
    device = "auto"         # where to train {auto, cpu, cuda}
    scale: float = 1        # the annotation gives the type: int, float, bool, str, or a list of one of them
    limit: int | None = 5   # or no limit
    options = {}            # a dict: its keys are texts, and its values are plain
    note = None             # without an annotation: any plain value

A line has the form `NAME = literal  # description`. The description may end in a range `[low, high]`, which includes
both ends, or in choices `{a, b}`. If the value is a list, the range or the choices hold for every element. Computed
values belong in a later cell, because papermill replaces only literals. A plain value is None, a bool, a finite number,
a text, or a list or dict of plain values.

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
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ternary_lab.arguments import as_whole, named_values, plain, read_path, spelling
from ternary_lab.errors import NotebookError, nearest
from ternary_lab.notebooks.cells import (
    assigned_names,
    code_cells,
    expanded_names,
    first_line,
    parse_cell,
    read_names,
    read_notebook,
    tags,
)

if TYPE_CHECKING:
    from nbformat import NotebookNode

Scalar: TypeAlias = int | float | bool | str
T = TypeVar("T")
Value: TypeAlias = Scalar | list[Any] | dict[str, Any] | None
SCALARS: dict[str, type[Scalar]] = {"int": int, "float": float, "bool": bool, "str": str}
DICT, ANY, OR_NONE = "dict", "any", " | None"
TYPES = (*SCALARS, *(f"list[{name}]" for name in SCALARS), DICT)
NOTEBOOK_PATH = "JPY_SESSION_NAME"
"""Environment variable of a kernel with the path of its notebook. Jupyter's server and `run_notebook` set it."""
_NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)
# Brackets without a comma are words of the description, such as a unit.
_COMMENT = re.compile(r"#\s*(?P<text>.*?)\s*(\[(?P<range>[^\[\]]*,[^\[\]]*)\]|\{(?P<choices>[^{}]*)\})?")
_SPELLING = {
    "int": "an int such as 3", "float": "a float such as 1e-3", "bool": "true or false",
    DICT: "a dict such as {a: 1, b: [2, 3]}", ANY: "a plain value such as 3, [1, 2] or {a: 1}",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook. If it is a list, `low`, `high` and `choices` hold for each element.

    `type` is one of `TYPES`, perhaps followed by ` | None`, or it is `any`: then every plain value is allowed.
    """

    name: str
    default: Value
    type: str
    description: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[object, ...] = ()

    @property
    def scalar(self) -> str:
        """Type of the value or, if the parameter is a list, type of each element. ` | None` is left out."""
        return self.type.removesuffix(OR_NONE).removeprefix("list[").removesuffix("]")

    @property
    def is_list(self) -> bool:
        return self.type.startswith("list[")

    @property
    def may_be_none(self) -> bool:
        return self.type == ANY or self.type.endswith(OR_NONE)

    def check(self, value: object) -> Value:
        """Return the value if it is allowed, as a value of the type of the parameter.

        An int becomes a float, a whole float such as 50.0 becomes an int, and a path becomes a str, if the parameter
        has this type. Values of numpy become plain ones. Any iterable is taken as a list, but not a str. Raises
        NotebookError if the value has another type, is not finite, is out of range, or is not among the choices.
        """
        value = plain(value)
        if value is None and self.may_be_none:
            return None
        if self.scalar in (DICT, ANY):
            if not _is_plain(value) or (self.scalar == DICT and not isinstance(value, dict)):
                raise self._refusal(value, _SPELLING[self.scalar])
            checked: Value = value  # type: ignore[assignment]
            return self._check_choice(checked)
        if not self.is_list:
            return self._check_scalar(value)
        if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
            raise self._refusal(value)
        return [self._check_scalar(plain(element)) for element in value]

    def parse(self, text: str) -> Value:
        """Return the value of a text from a command line, such as `true`, `3`, `1e-3`, `1,2`, `[1,2]` or `{a: 1}`.

        The value of a string parameter is the text itself. `None` and `null` are None, if this is allowed. Raises
        NotebookError if the text is not of the parameter's type, or if `check` refuses the value.
        """
        if self.may_be_none and text.lower() in ("none", "null"):
            return None
        if self.scalar in (DICT, ANY):
            return self.check(self._parse_plain(text))
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
        return self._check_choice(value)

    def _check_choice(self, value: T) -> T:
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

    def _parse_plain(self, text: str) -> object:
        """Return a number, a bool, a YAML list or a YAML dict, or the text itself if it is none of them."""
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        if hint := spelling(text):
            raise self._refusal(text, _SPELLING[self.scalar], hint)
        if _NUMBER.fullmatch(text):
            for number in (int, float):
                with suppress(ValueError):
                    return number(text)
        return read_values(text, f"parameter `{self.name}`") if text.lstrip()[:1] in ("[", "{") else text

    def _refusal(self, value: object, wanted: str | None = None, hint: str = "") -> NotebookError:
        return NotebookError(f"parameter `{self.name}` takes {wanted or self.type}, not {value!r}{hint}")


def parameters(path: str | Path) -> dict[str, Parameter]:
    """Return a dictionary from name to parameter, in the order of the cell with the tag `parameters`.

    The dictionary is empty if no cell has this tag. Raises NotebookError if the notebook cannot be read, or if the cell
    has other statements.
    """
    return declared_parameters(read_notebook(read_path(path)), path)


def check_parameters(path: str | Path, values: Mapping[str, object] | None) -> dict[str, Value]:
    """Check each value against the notebook parameter of the same name, by `Parameter.check`.

    Return the checked values by name.

    Raises NotebookError if a name is unknown, and InputError if `values` is not a mapping. It also raises the errors of
    `Parameter.check` and `parameters`.
    """
    given = named_values(values, "values")
    known = _parameters_with(path, given)
    return {name: known[name].check(value) for name, value in given.items()}


def parse_parameters(path: str | Path, texts: Mapping[str, str]) -> dict[str, Value]:
    """Parse texts from a command line (`Parameter.parse`). Return the values by name.

    Raises NotebookError for an unknown name, and also as `Parameter.parse` and `parameters` do.
    """
    known = _parameters_with(path, texts)
    return {name: known[name].parse(text) for name, text in texts.items()}


def read_values(text: str, source: str) -> object:
    """Return the content of a YAML text. Raises NotebookError, which begins with `source`, if it is not YAML."""
    import yaml

    from ternary_lab.settings import read_yaml

    try:
        return read_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or str(error)
        raise NotebookError(f"{source}: {first_line(text)!r} is not YAML: {first_line(problem)}") from None


def read_parameters(text: str, source: str) -> dict[str, object]:
    """Return the values of parameters from a YAML text with a line `NAME: VALUE` for each of them.

    Raises NotebookError, which begins with `source`, if the text has another form.
    """
    found = read_values(text, source) or {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise NotebookError(f"{source}: {first_line(text)!r} is not a line `NAME: VALUE`: write one for each parameter")
    return found


def validate(path: str | Path, namespace: MutableMapping[str, Any]) -> None:
    """Check the values of the parameters in a running notebook, and replace them by the checked values.

    A cell of the notebook makes this call, for example `validate("02_train.ipynb", globals())`. The values are those
    that `Parameter.check` returns, for example a list of int for `range(42, 50)`. A relative path starts in the working
    directory or else, if there is no such file, in the folder of the notebook that is executed. Raises NotebookError.
    """
    path = read_path(path)
    if (executed := os.environ.get(NOTEBOOK_PATH)) and not path.exists():
        path = Path(executed).parent / path
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
            try:
                statements = parse_cell(number, cell.source).body
            except NotebookError as error:
                raise NotebookError(f"{path}: {error}") from None
            for name in expanded_names(cell.source) - overwritten:
                unread.pop(name, None)
            for statement in statements:
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
            declared = _declared_type(ast.unparse(annotation))
        case _:
            written = first_line(ast.unparse(statement))
            raise NotebookError(f"`{written}` is not `NAME = literal`: move it to a later cell")
    try:
        default = ast.literal_eval(expression)
    except (ValueError, TypeError, SyntaxError):
        raise NotebookError(f"`{name}` is not a plain literal: compute it in a later cell") from None
    kind = declared or _type_of(default)
    if kind != ANY and kind.removesuffix(OR_NONE) not in TYPES:
        raise NotebookError(f"`{name}` is of type {kind}: use one of {', '.join(TYPES)}, or add `{OR_NONE}`")
    if kind.removesuffix(OR_NONE) == DICT:  # has no choices, and braces in its comment show how it is written
        return _with_default(Parameter(name, default, kind, comment.lstrip("# ").rstrip()))
    parts = _COMMENT.fullmatch(comment)
    assert parts is not None  # every part of the pattern is optional
    parameter = Parameter(name, default, kind, parts["text"])
    if parts["range"] is not None:
        low, high = _read_range(parameter, parts["range"])
        parameter = replace(parameter, low=low, high=high)
    if parts["choices"] is not None:
        read = parameter._parse_scalar if parameter.is_list else parameter.parse
        choices = tuple(read(text.strip()) for text in parts["choices"].split(","))
        parameter = replace(parameter, choices=choices)
    return _with_default(parameter)


def _with_default(parameter: Parameter) -> Parameter:
    return replace(parameter, default=parameter.check(parameter.default))


def _declared_type(annotation: str) -> str:
    """Return the type that an annotation names: `list[int]` for `List[int]`, `int | None` for `Optional[int]`."""
    text = re.sub(r"\b(typing|t)\.", "", annotation)
    text = re.sub(r"^Optional\[(.*)\]$|^None \| (.*)$", rf"\1\2{OR_NONE}", text)
    text = re.sub(r"\b(List|Dict)\b", lambda found: found[0].lower(), text)
    text = re.sub(r"^dict\[.*?\](?=$| \|)", DICT, text)
    return ANY if text in ("Any", "object", "None") else text


def _is_plain(value: object) -> bool:
    """Return whether a value is None, a bool, a finite number, a text, or a list or dict of plain values."""
    match value:
        case list():
            return all(map(_is_plain, value))
        case dict():
            return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
        case float():
            return math.isfinite(value)
        case _:
            return isinstance(value, int | str | None)


def _read_range(parameter: Parameter, text: str) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if parameter.scalar not in ("int", "float") or not low <= high:
        raise NotebookError(f"`[{text}]` is no range for `{parameter.name}`: end a number's comment with [low, high]")
    return low, high


def _type_of(value: object) -> str:
    if value is None:
        return ANY
    if not isinstance(value, list):
        return type(value).__name__
    kinds = {type(element).__name__ for element in value}
    if kinds == {"int", "float"}:
        return "list[float]"
    if len(kinds) != 1:
        return "mixed list" if kinds else "list of nothing (annotate it: `list[int]`)"
    return f"list[{kinds.pop()}]"
