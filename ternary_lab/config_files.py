"""Reading of configuration files, of their overrides and of shipped files.

The files are strict YAML. A file can name another file as its `base`, and dotted keys can override settings. An unknown
key, a wrong type or a value out of range raises a ConfigError. The error names the key and the allowed values. For an
unknown key, the error names the most similar known keys. Values are never converted to another type; only numpy values
become plain ones, and a float without a fraction becomes an int where an int is taken.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from ternary_lab.arguments import named_values, plain, read_path, shown, spelling
from ternary_lab.config import COUNTERFACTUALS, Config
from ternary_lab.errors import ConfigError, InputError, nearest
from ternary_lab.settings import Choice, Epoch, Section, read_yaml

LONGEST = 2**20
"""The largest number of characters in a configuration file."""
PLAIN_WORDS = {
    "too_long": "must be a list of at most {max_length}",
    "too_short": "must be a list of at least {min_length}",
    "tuple_type": "must be a list",
    "model_type": "must be a group of settings",
    "dict_type": "must be a mapping of keys to values",
    "missing": "is missing",
}
"""Words for errors of pydantic that a user of YAML would not understand."""
BOOLEANS = dict.fromkeys(("yes", "y", "on", "true"), "true") | dict.fromkeys(("no", "n", "off", "false"), "false")
"""The boolean that a word stands for in other dialects of YAML."""


def settings() -> Mapping[str, FieldInfo]:
    """Return a dictionary from each dotted key that an override can set to the field of this key.

    The keys include whole groups of settings, and the settings of every mode.
    """
    found: dict[str, FieldInfo] = {}

    def visit(section: type[BaseModel], prefix: str) -> None:
        for name, field in section.model_fields.items():
            found[f"{prefix}{name}"] = field
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, Section):
                for member in kind.modes.values() if issubclass(kind, Choice) else (kind,):
                    visit(member, f"{prefix}{name}.")

    visit(Config, "")
    return found


def load_config(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    overrides_from: str = "overrides",
) -> Config:
    """Return the configuration in a YAML file, in a shipped file or in a mapping.

    Args:
        source: path of a YAML file, name of a shipped file, or mapping. A file may name another file as its `base`, by
            a path relative to the file or by the name of a shipped file. Then the file holds only the settings that
            differ from the base.
        overrides: values by dotted key. If a `mode` changes, the settings that only the old mode had are dropped.
        overrides_from: the place of the overrides, as messages name it.

    Raises ConfigError if a file cannot be read or a setting is invalid. Raises InputError for a path that cannot be
    expanded (`arguments.read_path`), and for overrides that are not a mapping.
    """
    changes = named_values(overrides, "overrides")
    if isinstance(source, Mapping):
        data, origin = dict(source), "configuration"
    else:
        path = find_config(source)
        data, origin = _read_with_base(path, ()), str(path)
    merged = data
    for key, value in changes.items():
        merged = _merge(merged, _nested(key, value))
    try:
        return from_dict(merged, overrides_from)
    except ConfigError:
        from_dict(data, origin)  # raises if not the overrides but the source is at fault
        raise


def from_dict(data: Mapping[str, Any], origin: str = "configuration") -> Config:
    """Return the configuration that is described by `data`, a nested dictionary of plain values.

    Raises ConfigError if a setting is invalid.
    """
    try:
        return Config.model_validate(plain_data(data))
    except ValidationError as error:
        raise ConfigError(f"{origin}: {explain(error, data)}") from None
    except RecursionError:
        raise ConfigError(f"{origin}: nested too deeply") from None


def from_yaml(text: str, origin: str) -> Config:
    """Return the configuration in a YAML text without a `base`. Raises ConfigError if the text is invalid."""
    return from_dict(_mapping(text, origin), origin)


def find_config(name: str | Path) -> Path:
    """Return the path of a configuration file. `name` is a path, or the bare name of a shipped file."""
    return find_shipped(name, config_files(), "configuration", "configs")


def config_files() -> dict[str, Path]:
    """Return a dictionary from bare name to path of the configurations that ship with the library."""
    return {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for folder in shipped_folders("configs") for file in sorted(folder.rglob("[!.]*.yaml"))
        # A counterfactual is a change to a configuration. JupyterLab keeps copies in hidden folders.
        if file.parent.name != COUNTERFACTUALS and not file.parent.name.startswith(".")
    }


def find_shipped(name: str | Path, shipped: Mapping[str, Path], kind: str, listing: str) -> Path:
    """Return the path of a file. `name` is a path, or the bare name of a shipped file.

    Raises ConfigError if there is no such file. The error names the `kind` of file and the command
    `ternary-lab list LISTING`, where LISTING is the text `listing`.
    """
    path = read_path(name)
    # Unlike Path, os.path does not raise for a name that is too long or holds odd characters.
    if os.path.isfile(path):
        return path
    if str(name) in shipped:
        return shipped[str(name)]
    if os.path.isdir(path):
        raise ConfigError(f"{path}: is a directory, not a {kind} file")
    near = nearest(str(name), shipped, f"`ternary-lab list {listing}`")
    raise ConfigError(f"{name}: no such file, nor a shipped {kind}{near}")


class Counterfactual(Section):
    """Changed settings for a run.

    The run continues with these settings after one of its epochs, or it starts again with them.
    """

    name: str = Field(description="name of the file and of the folder of its runs")
    title: str = Field(min_length=1, description="a few words for tables and legends")
    after: Epoch | None = Field(None, description="last epoch before the change; null: the run starts again")
    set: dict[str, Any] = Field(description="dotted keys and their values")


def load_counterfactual(path: str | Path) -> Counterfactual:
    """Return the counterfactual in a file. `path` is a path, or the bare name of a shipped file.

    Raises ConfigError if there is no such file or the file is invalid.
    """
    shipped = {file.stem: file for file in shipped_configs(COUNTERFACTUALS)}
    file = find_shipped(path, shipped, "counterfactual", "counterfactuals")
    data = _read_with_base(file, ())
    try:
        return Counterfactual.model_validate({"name": file.stem, **data})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{file}: {where}: {first['msg']}: a counterfactual has title, after and set") from None


def shipped_configs(folder: str) -> list[Path]:
    """Return the YAML files in a folder of `configs`, sorted by name."""
    return [file for parent in shipped_folders("configs") for file in sorted((parent / folder).glob("[!.]*.yaml"))]


def shipped_counterfactuals() -> list[Counterfactual]:
    """Return the counterfactuals that ship with the library, sorted by name."""
    return [load_counterfactual(file) for file in shipped_configs(COUNTERFACTUALS)]


def parse_override(text: str) -> tuple[str, Any]:
    """Return (key, value) of a text `key=value` from a command line. The value is read as YAML.

    Raises ConfigError if the text has another form or the value is not valid YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: write key=value, for example training.total_epochs=60")
    try:
        return key.strip(), read_yaml(value)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"--set {text!r}: the value is not valid YAML") from None


def shipped_folders(kind: str) -> list[Path]:
    """Return the existing folders of this kind, where `kind` is `configs`, `sweeps` or `notebooks`.

    A checkout has the folder beside the package. A wheel has the folder inside the package.
    """
    package = Path(__file__).parent
    return [folder for folder in (package.parent / kind, package / "shipped" / kind) if folder.is_dir()]


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: circular `base`: {' -> '.join(one.name for one in (*seen, path))}")
    data = read_mapping(path)
    base = data.pop("base", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base must be the name of a file, got {base!r}")
    return _merge(_read_with_base(_find_base(base, path), (*seen, path.resolve())), data)


def _find_base(base: str, path: Path) -> Path:
    """Return the path of the file `base`, which the file `path` names: beside that file, or else a shipped file."""
    try:
        beside = path.parent / read_path(base)
    except InputError as error:
        raise ConfigError(f"{path}: base: {error}") from None
    if os.path.isfile(beside):
        return beside
    shipped = config_files()
    if base not in shipped:
        near = nearest(base, shipped, "`ternary-lab list configs`")
        raise ConfigError(f"{path}: its base {base!r} does not exist beside it, nor as a shipped configuration{near}")
    return shipped[base]


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, which `settings.read_yaml` reads.

    Raises ConfigError if the file cannot be read or its content is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    return _mapping(text, str(path))


def _mapping(text: str, origin: str) -> dict[str, Any]:
    if len(text) > LONGEST:
        raise ConfigError(f"{origin}: {len(text)} characters, more than any configuration has ({LONGEST})")
    try:
        data = read_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        # At the end of the text libyaml counts one line too many.
        place = f"line {min(mark.line, text.count(chr(10))) + 1}: " if mark else ""
        raise ConfigError(f"{origin}: not YAML: {place}{getattr(error, 'problem', None) or error}") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ConfigError(f"{origin}: must be a mapping of settings, found {found}")
    return data


def _nested(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(key, str) or not key or not all(key.split(".")):
        raise ConfigError(f"override {key!r}: a key is a dotted name such as training.total_epochs")
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _merge(base: dict[str, Any], change: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Return `base` overridden by `change`. If the mode changes, only settings that the new mode also has are kept."""
    merged, family = dict(base), type(_default_at(place))
    mode = change.get("mode")
    if issubclass(family, Choice) and isinstance(mode, str) and mode in family.modes and merged.get("mode") != mode:
        merged = {key: value for key, value in merged.items() if key in family.modes[mode].model_fields}
    for key, value in change.items():
        below, inner = merged.get(key), f"{place}.{key}" if place else str(key)
        if isinstance(value, Mapping) and not isinstance(below, dict) and "mode" not in value:
            default = _default_at(inner)
            below = default.model_dump() if isinstance(default, Section) else None
        # lr_steps counts as one value. A new table of steps replaces the whole old table.
        if isinstance(below, dict) and isinstance(value, Mapping) and key != "lr_steps":
            value = _merge(below, value, inner)
        merged[key] = value
    return merged


@cache
def _defaults() -> Config:
    return Config()


def _default_at(place: str) -> Any:
    """Return the default value at a dotted key, or None if the key is unknown.

    With this default, an override of `beta.B.lag` alone can change one number of the default mode.
    """
    value: Any = _defaults()
    for part in place.split(".") if place else ():
        if not isinstance(value, Section) or part not in type(value).model_fields:
            return None
        value = getattr(value, part)
    return value


def plain_data(value: Any) -> Any:
    """Return the value with numpy values replaced by plain ones, and lists by tuples.

    Strict validation accepts no list in place of a tuple.
    """
    value = plain(value)
    if isinstance(value, Mapping):
        return {plain(key): plain_data(inner) for key, inner in value.items()}
    return tuple(plain_data(inner) for inner in value) if isinstance(value, list | tuple | range) else value


def explain(error: ValidationError, data: Mapping[str, Any], model: type[BaseModel] = Config) -> str:
    """Return a message of one line on the first error that `model` found in `data`.

    The message names the key, and the allowed values or the most similar known keys.
    """
    problems = error.errors()
    first = problems[0]
    place = [part for part in first["loc"] if part != "[key]"]
    key = ".".join(map(str, place)) or "configuration"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        known, group = _fields_at(place[:-1], data, model), key.rpartition(".")[0]
        listing = "`ternary-lab list settings`" if model is Config else ""
        near = nearest(str(place[-1]), known, listing, f"{group}." if group else "")
        return f"unknown key {key if key.isprintable() else repr(key)}{near}{more}"
    if first["type"] == "value_error":
        return f"{key}: {first['ctx']['error']}{more}" if place else f"{first['ctx']['error']}{more}"
    if first["type"] in PLAIN_WORDS:
        words = PLAIN_WORDS[first["type"]].format(**first.get("ctx", {}))
    else:
        words = first["msg"].removeprefix("Input ").replace("should", "must", 1)
    hint = _spelling(first["type"], first["input"]) if isinstance(first["input"], str) else ""
    return f"{key}: {words}, got {shown(first['input'])}{hint}{more}"


def _spelling(kind: str, text: str) -> str:
    """Return the end of a message: how to write the number or the boolean that was given as `text`, if it is clear.

    `kind` is pydantic's type of the error.
    """
    if kind == "bool_type" and text.lower() in BOOLEANS:
        return f": write {BOOLEANS[text.lower()]}"
    if kind not in ("int_type", "float_type"):
        return ""
    quoted = re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", text, re.IGNORECASE)
    return spelling(text) or (f": write {text} without quotes" if quoted else "")


def _fields_at(place: list[int | str], data: Any, model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Return a dictionary from name to field, for the settings in one group of `model`.

    `place` lists the keys that lead to the group. `data` is the data of the model; it holds the modes that it chooses.
    """
    for part in place:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if get_origin(annotation) is dict:  # The user chose the keys. The values are groups of one type.
            annotation = get_args(annotation)[1]
            annotation = getattr(annotation, "__origin__", annotation)  # This removes the metadata of `Annotated`.
        data = data[part]
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        if issubclass(model, Choice) and "mode" in data:
            model = model.modes.get(data["mode"], model)
    return model.model_fields
