"""The tables of the data card and of the model card, made from the published runs, the configurations and the networks.

A comment such as `<!-- experiments -->` on its own line of a page in this folder stands for the table of this name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from references import as_yaml, code, comment_above, escaped, table

from ternary_lab import load_config, load_runs
from ternary_lab.config import differences
from ternary_lab.model import STATENET_SIZE, STATENET_WIDTHS, Architecture
from ternary_lab.runs import load
from ternary_lab.runs.files import read_csv
from ternary_lab.runs.load import PUBLISHED, number_ranges
from ternary_lab.runs.provenance import trained_spans
from ternary_lab.studies.beyond_v55 import tables
from ternary_lab.studies.checkpoints_and_ensembles.tables import load_alternatives
from ternary_lab.studies.epoch50_disruption.effects import published_effects
from ternary_lab.sweeps.run import load_results

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
CHECKSUMS = "SHA256SUMS"
LOADERS: Mapping[str, Callable[[], Any] | None] = {
    tables.TABLE: tables.load_recipes, tables.SEARCH: tables.load_search,
    tables.SECOND_SEARCH: tables.load_second_search, "alternatives.csv": load_alternatives,
    load.EFFECTS: published_effects, "sweep.csv": load_results, load.ANSWERS: None,
}
"""The published tables, each with the function that loads it."""
OF_RUNS = (load.CONFIG, load.PROVENANCE, load.PACKED_HISTORY, load.PROBES)
CONTENTS: Mapping[str, str] = {name: load.FILES[name] for name in OF_RUNS} | {
    f"{load.CHECKPOINTS}/{load.ANY}": "weights, in the format safetensors", "*.csv": "tables over many runs",
}
"""The published files by name or pattern, each with its content."""


def files() -> list[Path]:
    """All published files."""
    return sorted(path for path in PUBLISHED.rglob("*") if path.is_file())


def checksums() -> str:
    """The SHA-256 of each published file, in the format of `sha256sum --check`."""
    sums = ((hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(PUBLISHED).as_posix()) for path in files())
    return "".join(f"{digest}  {name}\n" for digest, name in sums)


@cache
def experiments() -> str:
    """A table with a row for each published experiment."""
    rows = []
    for name in dict.fromkeys(run.rpartition("/")[0] for run in load.published()):
        runs = load_runs(name)
        lengths = [load.read_text(run.path / load.PACKED_HISTORY).count("\n") - 1 for run in runs.values()]
        saved = sum(len(list(run.path.glob(f"{load.CHECKPOINTS}/{load.ANY}"))) for run in runs.values())
        rows.append((
            code(name), escaped(_purpose(ROOT / "configs" / f"{name}.yaml")), number_ranges(sorted(runs)),
            "–".join(dict.fromkeys(str(found) for found in (min(lengths), max(lengths)))), saved or "none",
            _megabytes(path for run in runs.values() for path in run.path.rglob("*") if path.is_file()),
        ))
    return table(("experiment", "what was trained", "seeds", "epochs", "checkpoints", "MB"), rows)


def kinds() -> str:
    """A table with the number and the size of the published files of each kind."""
    found = {name: list(PUBLISHED.glob(name if name == "*.csv" else f"**/{name}")) for name in CONTENTS}
    rows = [(code(name), escaped(CONTENTS[name]), len(paths), _megabytes(paths)) for name, paths in found.items()]
    return table(("file", "content", "number", "MB"), [*rows, ("all files", "", len(files()), _megabytes(files()))])


def published_tables() -> str:
    """A table with a row for each published table: its content, rows and columns, and the function that loads it."""
    rows = []
    for path in sorted(PUBLISHED.glob("*.csv")):
        loader, found = LOADERS[path.name], read_csv(path)
        columns = ", ".join(map(code, found.columns[:3])) + (", …" if len(found.columns) > 3 else "")
        where = "by the rules of the report"
        if loader is not None:
            where = f"[`{loader.__name__}`](reference/{loader.__module__}.md#{loader.__module__}.{loader.__name__})"
        rows.append((code(path.name), len(found), len(found.columns), columns, where))
    return table(("table", "rows", "columns", "first columns", "is loaded by"), rows)


def machines() -> str:
    """A table with the devices and versions that trained the published runs."""
    count: dict[tuple[str, ...], int] = {}
    for name in load.published():
        found = load.load_run(name).provenance
        devices = " and ".join(dict.fromkeys(span.card or span.device for span in trained_spans(found)))
        versions = found["versions"]
        key = (devices, str(found["threads"]), versions["python"], versions["torch"], versions["numpy"])
        count[key] = count.get(key, 0) + 1
    return table(("device", "threads", "Python", "torch", "numpy", "runs"), [(*key, n) for key, n in count.items()])


def networks() -> str:
    """A table with the layers and weights of the networks of v5.5."""
    architecture = Architecture(load_config("v5_5").model)
    rows: list[Sequence[object]] = []
    for name, network in (("encoder of A", architecture.encoder), ("encoder of B", architecture.encoder),
                          ("decoder of A", architecture.decoder_A), ("decoder of B", architecture.decoder_B)):
        widths = [network.layers[0].inputs, *(layer.outputs for layer in network.layers)]
        rows.append((name, " → ".join(map(str, widths)), f"{network.size:,}"))
    rows.append(("StateNet", " → ".join(map(str, STATENET_WIDTHS)), f"{STATENET_SIZE:,}"))
    rows.append(("all networks", "", f"{architecture.parameters:,}"))
    return table(("network", "widths of the layers", "weights"), rows)


def settings_of_beyond() -> str:
    """A table with every setting of beyond that v5.5 does not have."""
    found = differences(load_config("v5_5"), load_config("beyond"))
    rows = [(code(key), _shown(old), _shown(new)) for key, (old, new) in found.items() if key != "name"]
    return table(("setting", "v5.5", "beyond"), rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "experiments": experiments, "kinds of files": kinds, "published tables": published_tables, "machines": machines,
    "networks": networks, "settings of beyond": settings_of_beyond,
}
"""The tables that a page can show, by the text of the comment."""


def with_tables(markdown: str) -> str:
    """The text of a page with its comments replaced by tables."""
    return re.sub(
        r"^<!-- (.+?) -->$", lambda found: TABLES[found[1]]() if found[1] in TABLES else found[0], markdown, flags=re.M
    )


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The text of a page with its tables."""
    return with_tables(markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the site, with the checksums of the published files."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, CHECKSUMS, content=checksums()))
    return files


def _purpose(path: Path) -> str:
    """Return the title of a configuration, or the first sentence of the comment above it."""
    title = yaml.safe_load(path.read_text(encoding="utf-8")).get("title")
    return str(title or comment_above(path).partition(". ")[0].rstrip("."))


def _megabytes(paths: Iterable[Path]) -> str:
    return f"{sum(path.stat().st_size for path in paths) / 1e6:.2f}"


def _shown(value: object) -> str:
    return "absent" if value is None else code(as_yaml(value))
