"""Reference pages that are made from the code: settings, commands, files and columns of runs, names, figures.

Each function returns a page as Markdown. `PAGES` lists them; `docs/site.py` adds them to the site.
"""

from __future__ import annotations

import builtins
import html
import importlib
import inspect
import itertools
import json
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import click
import yaml
from PIL import Image
from pydantic.fields import FieldInfo

from ternary_lab.cli import main
from ternary_lab.config import Config, differences
from ternary_lab.config_files import config_files, load_config, read_mapping, shipped_counterfactuals
from ternary_lab.history import COLUMNS, MEANINGS, OLD_NAMES, EpochRecord
from ternary_lab.runs import checkpoint, checksums
from ternary_lab.runs.load import FILES
from ternary_lab.settings import Choice, Section
from ternary_lab.studies import probes

ROOT = Path(__file__).parents[1]
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
"""The signs of pydantic's bounds of numbers."""


def escaped(text: str) -> str:
    """Return a text for a cell of a Markdown table, with code as HTML and without other markup.

    A long name may be broken after a dot, a slash or an underscore.
    """
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    for i, part in enumerate(parts):
        plain = re.sub(r"([*\[])", r"\\\1", html.escape(part.strip("`"), quote=False)).replace("|", r"\|")
        plain = re.sub(r"(?<=\w)([._/])(?=[a-zA-Z])", r"\1<wbr>", plain)
        parts[i] = f"<code>{plain}</code>" if i % 2 else plain
    return "".join(parts)


def code(text: object) -> str:
    """Return a text as code in a cell of a Markdown table."""
    return escaped(f"`{text}`")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (head, ["---"] * len(head), *rows))


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
            return ", ".join(f"`{one}`" for one in arguments)
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


def changes(before: Config, after: Config) -> str:
    """Return a table of the settings in which two configurations differ, apart from the name."""
    found = {key: both for key, both in differences(before, after).items() if key != "name"}
    rows = [[code(key), *("" if value is None else code(as_yaml(value)) for value in found[key])] for key in found]
    return table(("key", "base", "here"), rows) if rows else "No setting differs.\n"


def comment_above(path: Path) -> str:
    """Return the comment at the beginning of a configuration as one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.strip("# ") for line in lines)


def configurations() -> str:
    """Return the page of the shipped configurations and counterfactuals, each with its changes."""
    parts = [
        "# Shipped configurations\n\n`ternary-lab train NAME` trains a configuration. Each table lists the settings "
        "in which the configuration differs from its base. [Settings](configuration.md) describes the keys.\n",
    ]
    for name, path in config_files().items():
        base = read_mapping(path).get("base")
        before = load_config(path.parent / base) if base else Config()
        known = next((f"`{one}`" for one, file in config_files().items() if base and
                      file.samefile(path.parent / base)), "the default values")
        words = f"{escaped(comment_above(path))} Its base is {known}."
        parts.append(f"## {name}\n\n{words}\n\n{changes(before, load_config(path))}")
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
            parts.append(f"{title}\n\n```text\n{inspect.cleandoc(lines)}\n```\n")
        else:
            parts.append(f"{escaped(part)}\n")
    return "\n".join(parts)


def runs() -> str:
    """Return the page of the files of a run and of the columns of its history."""
    columns: dict[str, list[str]] = {}
    for column in COLUMNS:
        columns.setdefault(column if column in MEANINGS else column[:-2], []).append(column)
    about = (inspect.getdoc(EpochRecord) or "").rpartition("\n\n")[0]
    return "\n".join([
        "# Files and columns of a run\n\nEach seed of an experiment has a folder, such as `runs/v5_5/seed=42`. "
        "No file is a pickle: the files are YAML, JSON, CSV and safetensors. [An example]"
        "(../how_to/without_the_library.md) reads them without the library.\n",
        "## Files\n",
        table(("file", "content"), ((code(name), escaped(words)) for name, words in FILES.items())),
        f"## history.csv\n\n{about}\n\nThe files of runs keep the old names of renamed columns: "
        + ", ".join(f"`{old}` is `{new}`" for old, new in OLD_NAMES.items() if new in COLUMNS)
        + ". `RunRecord.history` has the new names.\n",
        table(("column", "unit", "meaning"), (
            (", ".join(map(code, names)), *map(escaped, MEANINGS[name])) for name, names in columns.items()
        )),
        f"## probes.csv\n\n{inspect.getdoc(probes)}\n\n## Checkpoints\n\n{inspect.getdoc(checkpoint)}\n",
        f"## Checksums\n\n{inspect.getdoc(checksums)}\n",
    ])


TASKS = {
    "Train": "load_config Config run_experiment train EpochRecord run_sweep load_sweep",
    "Load what was trained": "load_run load_runs RunRecord RunSet load_model TernaryVAE GaussianPosterior",
    "Evaluate and compare": "evaluate Evaluation compare Comparison metrics.baselines.untrained "
    "metrics.baselines.random_map metrics.coverage.uniform_coverage studies.probes.write_probes",
    "Ask what would have happened": "branch train_counterfactuals load_counterfactual Counterfactual",
    "Score any generator": "score Score studies.score.describe",
    "Look at operations": "space.operations space.index_of space.from_function space.named splits.split",
    "Explore": "watch page.build.write_page explorer.Explorer explorer.TwoMaps explorer.ScheduleDesigner",
    "Draw figures": "figures.draw_all figures.draw_history figures.show figures.show_table figures.Gallery "
    "figures.Drawing",
    "Statistics over seeds": "studies.statistics.interval studies.statistics.paired_differences "
    "studies.statistics.prediction_interval studies.statistics.cycle_means studies.statistics.summary",
    "Run notebooks": "notebooks.run_notebook notebooks.parameters notebooks.validate notebooks.check_notebook "
    "notebooks.export_html",
    "Write my own parts": "schedules.Schedule config.LossTerm config.PathwayBatch config.TermGradients "
    "metrics.information.decoder_sums",
    "Catch errors": "TernaryLabError ConfigError RunError CheckpointError InputError DeviceError DivergenceError "
    "EngineError NotebookError",
}
"""Public names by task. A name with a dot is in a module of the package."""


def tasks() -> str:
    """Return the page of the public names by task, each with the first sentence of its docstring."""
    parts = ["# Python by task\n\nA name without a dot is imported from `ternary_lab`, for example by "
             "`from ternary_lab import load_run`. Each name leads to its full description.\n"]
    for title, names in TASKS.items():
        rows = []
        for name in names.split():
            module, _, last = f"ternary_lab.{name}".rpartition(".")
            found = getattr(importlib.import_module(module), last)
            sentence = re.split(r"(?<=\.)\s", inspect.getdoc(found) or "", maxsplit=1)[0]
            home = found.__module__
            rows.append((f"[{code(name)}]({home}.md#{home}.{found.__qualname__})", escaped(sentence)))
        parts.append(f"## {title}\n\n{table(('name', 'description'), rows)}")
    return "\n".join(parts)


def drawn_by(name: str, source: Path) -> str:
    """Return the code that draws a figure: the cell of a notebook, or a call of `draw_history`."""
    if source.suffix == ".ipynb":
        for cell in json.loads(source.read_text(encoding="utf-8"))["cells"]:
            if f'gallery.show("{name}"' in (text := "".join(cell["source"])):
                return text
    for line in source.read_text(encoding="utf-8").splitlines():
        if f'gallery.save("{name}"' in line:
            return line.strip()
    return f'draw_history("{name}", load_runs("v5_5"))'


def size(picture: Path) -> str:
    """Return the width and height of a picture as attributes of HTML, so that its place is known before it loads."""
    with Image.open(picture) as opened:
        return f' width="{opened.width}" height="{opened.height}"'


def gallery() -> str:
    """Return the page of all figures, each with its alternative text, its data and its code."""
    parts = ["# Gallery\n\nEach figure has its data as CSV and the code that draws it.\n"]
    for name, entry in json.loads((ROOT / "figures" / "manifest.json").read_text(encoding="utf-8")).items():
        source, is_notebook = entry["notebook"], entry["notebook"].endswith(".ipynb")
        picture = next(file for file in entry["files"] if file.endswith((".png", ".gif")))
        place = f"[{source}](../notebooks/{source})" if is_notebook else f"`{source}`"
        data = "".join(f" Its data: [{file}](../figures/{file})." for file in entry["files"] if file.endswith(".csv"))
        text = html.escape(entry["alt"])
        seeds = f", seeds {', '.join(map(str, entry['seeds']))}" if entry["seeds"] else ""
        parts.append(
            f'## {name}\n\n<img loading="lazy" alt="{text}" src="../../figures/{picture}"'
            f"{size(ROOT / 'figures' / picture)}>\n\n"
            f"<details><summary>Description</summary>{text}</details>\n\n"
            f"Drawn by {place}{seeds}.{data}\n\n"
            f"```python\n{drawn_by(name, ROOT / ('notebooks' if is_notebook else '') / source)}\n```\n"
        )
    return "\n".join(parts)


PAGES = {
    "tasks": tasks, "configuration": configuration, "configurations": configurations, "commands": commands,
    "runs": runs, "gallery": gallery,
}
"""The functions by the names of their pages in the folder reference/."""
