"""Reference pages that are made from the code: settings, shipped configurations and commands.

Each function returns a page as Markdown. `PAGES` lists them; `docs/site.py` adds them to the site.
"""

from __future__ import annotations

import builtins
import html
import inspect
import itertools
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin

import click
import yaml
from pydantic.fields import FieldInfo

from ternary_lab.cli import main
from ternary_lab.config import Config
from ternary_lab.config_files import config_files, load_config, read_mapping, shipped_counterfactuals
from ternary_lab.settings import Choice, Section

SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
"""The signs of pydantic's bounds of numbers."""


def escaped(text: str) -> str:
    """Return a text for a cell of a Markdown table: outside code, no character of it is markup."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    plain = (part if i % 2 else re.sub(r"([*\[])", r"\\\1", html.escape(part, quote=False)) for i, part in enumerate(parts))
    return "".join(plain).replace("|", r"\|")


def code(text: object) -> str:
    """Return a text as code in a cell of a Markdown table."""
    return f"`{text}`".replace("|", r"\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def as_yaml(value: object) -> str:
    """Return a value as one line of YAML, as a user writes it in a configuration."""
    if isinstance(value, tuple):
        value = [list(one) if isinstance(one, tuple) else one for one in value]
    return str(yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n..."))


def allowed(kind: Any, limits: Sequence[Any] = ()) -> str:
    """Return the values that a type accepts within limits, in words. `limits` are pydantic's metadata of a setting."""
    arguments = get_args(kind)
    if get_origin(kind) is Annotated:
        kind, *more = arguments
        more = [limit for one in more for limit in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return allowed(kind, [*more, *limits])
    bounds = {sign: getattr(one, sign) for one in limits for sign in (*SIGNS, "max_length") if hasattr(one, sign)}
    match get_origin(kind):
        case typing.Literal:
            return ", ".join(map(code, arguments))
        case typing.Union:
            return ", or ".join("`null`" if one is type(None) else allowed(one) for one in arguments)
        case builtins.tuple if arguments[-1] is Ellipsis:
            longest = f", at most {bounds['max_length']}" if bounds else ""
            return f"list{longest}: {allowed(arguments[0])}"
        case builtins.tuple:
            return f"[{'; '.join(map(allowed, arguments))}]"
        case builtins.dict:
            return " -> ".join(map(allowed, arguments))
    if kind is str:
        return f"text, at most {bounds['max_length']} characters" if bounds else "name"
    if kind is bool:
        return "`true`, `false`"
    if issubclass(kind, Section):
        return "group of settings"
    number = "whole number" if kind is int else "number"
    if {"ge", "le"} <= bounds.keys():
        return f"{number}, {bounds['ge']:,} to {bounds['le']:,.10g}"
    return ", ".join([number, *(f"{SIGNS[sign]} {value:,.10g}" for sign, value in bounds.items())])


def settings_of(section: type[Section], prefix: str = "") -> str:
    """Return a table of the settings of a group that are neither groups nor modes. It is empty if there are none."""
    rows = [
        (
            code(f"{prefix}{name}"), escaped(allowed(field.annotation, field.metadata)),
            "required" if field.is_required() else code(as_yaml(field.default)), escaped(field.description or ""),
        )
        for name, field in section.model_fields.items() if name != "mode" and not isinstance(field.default, Section)
    ]
    return table(("key", "values", "default", "effect"), rows) if rows else ""


def group(section: type[Section], key: str) -> Iterator[str]:
    """Yield the parts of the page of settings for a group and the groups in it."""
    yield f"{'##' if '.' not in key else '###'} {key}\n\n{inspect.getdoc(section)}\n"
    yield settings_of(section, f"{key}.")
    choices: dict[type[Choice], list[str]] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Choice):
            choices.setdefault(field.annotation, []).append(f"`{key}.{name}.mode` is `{field.default.mode}`")
        elif isinstance(field.default, Section):
            yield from group(type(field.default), f"{key}.{name}")
    for family, defaults in choices.items():
        yield f"By default, {' and '.join(defaults)}. Each mode has its own settings:\n"
        for mode, variant in family.modes.items():
            yield f"### {key}: {mode}\n\n{inspect.getdoc(variant)}\n"
            yield settings_of(variant)


def configuration() -> str:
    """Return the page of all settings."""
    of_no_group = [name for name, field in Config.model_fields.items() if not isinstance(field.default, Section)]
    parts = [
        "# Settings\n\nA dotted key names a setting, in a YAML file as nested keys, on the command line as "
        "`--set beta.B.mode=off`, and in Python as `load_config(\"v5_5\", {\"beta.B.mode\": \"off\"})`. The default "
        "values are the values of v5.5. An unknown key or a value out of range is an error. A value without a unit "
        "is a plain number.\n",
        settings_of(Config, ""),
    ]
    for name, field in Config.model_fields.items():
        if name not in of_no_group:
            parts += group(type(field.default), name)
    return "\n".join(parts)


def values(data: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Return the settings of nested groups by dotted key."""
    found: dict[str, object] = {}
    for name, value in data.items():
        if isinstance(value, dict) and name != "lr_steps":
            found |= values(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def changes(before: Config, after: Config) -> str:
    """Return a table of the settings in which two configurations differ, apart from the name."""
    old, new = values(before.model_dump()), values(after.model_dump())
    groups = list(dict.fromkeys(key.rpartition(".")[0] for key in {**old, **new}))
    keys = [key for key in {**old, **new} if key != "name" and old.get(key) != new.get(key)]
    keys.sort(key=lambda key: groups.index(key.rpartition(".")[0]))
    if not keys:
        return "No setting differs.\n"
    rows = [[code(as_yaml(side[key])) if key in side else "" for side in (old, new)] for key in keys]
    return table(("key", "base", "here"), ([code(key), *row] for key, row in zip(keys, rows, strict=True)))


def configurations() -> str:
    """Return the page of the shipped configurations and counterfactuals, each with its changes."""
    parts = [
        "# Shipped configurations\n\n`ternary-lab train NAME` trains a configuration. Each table lists the settings "
        "in which the configuration differs from its base. [Settings](configuration.md) describes the keys.\n",
    ]
    for name, path in config_files().items():
        comment = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
        words = " ".join(line.strip("# ") for line in comment)
        base = read_mapping(path).get("base")
        before = load_config(path.parent / base) if base else Config()
        known = next((f"`{one}`" for one, file in config_files().items() if base and
                      file.samefile(path.parent / base)), "the default values")
        parts.append(f"## {name}\n\n{escaped(words)} Its base is {known}.\n\n{changes(before, load_config(path))}")
    parts.append(
        "## Counterfactuals\n\n`ternary-lab branch RUNS NAME` continues runs under changed settings, after an epoch "
        "or from the start.\n\n" + table(("name", "title", "after epoch", "changed settings"), (
            (
                code(one.name), escaped(one.title), "" if one.after is None else str(one.after),
                "<br>".join(code(f"{key}: {as_yaml(value)}") for key, value in one.set.items()),
            )
            for one in shipped_counterfactuals()
        ))
    )
    return "\n".join(parts)


def commands() -> str:
    """Return the page of all commands."""
    program = click.Context(main, info_name="ternary-lab")
    assert hasattr(main, "sections")
    parts = [
        "# Commands\n", help_of(main, program),
        "Every command has `--help`. A command prints an error on one line and ends with status 2.\n",
    ]
    for title, members in main.sections.items():
        parts.append(f"## {title}\n")
        for command in members:
            ctx = click.Context(command, program, info_name=command.name)
            options = [record for one in command.get_params(ctx) if (record := one.get_help_record(ctx)) and record[1]]
            parts += [
                f"### {command.name}\n", f"```text\n{command.get_usage(ctx).removeprefix('Usage: ')}\n```\n",
                help_of(command, ctx), table(("option", "effect"), ((code(o), escaped(words)) for o, words in options)),
            ]
    return "\n".join(parts)


def help_of(command: click.Command, ctx: click.Context) -> str:
    """Return the help of a command as Markdown. click marks an example by a paragraph that begins with a backspace."""
    parts = []
    for part in inspect.cleandoc(command.help or "").split("\n\n"):
        if part.startswith("\b"):
            title, _, lines = part.removeprefix("\b\n").partition("\n")
            parts.append(f"{title}\n\n```bash\n{inspect.cleandoc(lines)}\n```\n")
        else:
            parts.append(f"{escaped(part)}\n")
    return "\n".join(parts)


PAGES = {"configuration": configuration, "configurations": configurations, "commands": commands}
"""The functions by the names of their pages in the folder reference/."""
