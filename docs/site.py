"""The pages of the documentation site: README, executed notebooks, figures, explorers, and a page for every module.

MkDocs calls the functions `on_...` (`hooks` in mkdocs.yml). Only the pages in this folder are written by hand.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import references
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import ternary_lab
from ternary_lab.notebooks.export import export_html, replace_formulas
from ternary_lab.page.build import page as explorer

ROOT = Path(__file__).parents[1]
SHOWN = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "notebooks/*.ipynb", "figures/*.png",
    "figures/*.gif", "figures/*.csv", "benchmarks/*.png", "ternary_lab/studies/report/original_*",
)

EXPLORED = {"v5_5/seed=42": "v5_5.html", "beyond/seed=42": "beyond.html"}
"""The runs whose explorers are on the site, with the names of their pages in the folder explorer/."""


EXPLAINING = {"concepts.md": 8, "glossary.md": 4}
"""Factors of the rank of pages in the search."""


REPORT = "notebooks/11_report.html"
"""The page of the report as one HTML file, which loads nothing."""


def modules() -> Iterator[str]:
    """Dotted names of the public modules, each package before its modules."""
    for path in sorted((ROOT / "ternary_lab").rglob("*.py"), key=lambda path: path.with_name(path.stem)):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if not parts[-1].startswith("_") or parts[-1] == "__init__":
            yield name


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The configuration with the navigation: all pages, notebooks and modules."""
    notebooks = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("notebooks/*.ipynb"))]
    how_to = [f"how_to/{path.name}" for path in sorted((ROOT / "docs" / "how_to").glob("*.md"))]
    how_to.sort(key=lambda name: name != "how_to/index.md")
    made = [f"reference/{name}.md" for name in references.PAGES]
    of_modules: list[Any] = [{name: f"reference/{name}.md"} for name in sorted(modules())]
    config.nav = [
        {"Ternary Lab": "README.md"},
        {"Start": _written("install", "quickstart", "faq")},
        {"Concepts": _written("concepts", "glossary", "statistics", "reproducibility", "three_inputs")},
        {"Explorer": "explorer.md"},
        {"Notebooks": [*notebooks, {"The report as one HTML file": REPORT}]},
        {"How do I…": how_to},
        {"Reference": [*made, {"Modules": of_modules}]},
        {"Data and model": _written("data_card", "model_card", "report", "speed")},
        {"Contributing": ["CONTRIBUTING.md", "CHANGELOG.md"]},
    ]
    return config


def _written(*names: str) -> list[str]:
    """Return the names of pages in docs/, without those that do not exist. MkDocs warns of a page that is in no tab."""
    return [f"{name}.md" for name in names if (ROOT / "docs" / f"{name}.md").is_file()]


@event_priority(100)  # before the plugin that turns notebooks into pages looks for them
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the site, with those outside docs/ and the reference pages."""
    for path in (path for pattern in SHOWN for path in sorted(ROOT.glob(pattern))):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for name in modules():
        more = public_names() if name == ternary_lab.__name__ else ""
        files.append(File.generated(config, f"reference/{name}.md", content=f"# `{name}`\n\n::: {name}\n{more}"))
    for name, made in references.PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=made()))
    with tempfile.TemporaryDirectory() as folder:
        report = export_html(ROOT / "notebooks" / "11_report.ipynb", Path(folder) / "report.html").read_text("utf-8")
    files.append(File.generated(config, REPORT, content=report))
    for run, name in EXPLORED.items():
        others = {other: address for other, address in EXPLORED.items() if other != run}
        content = explorer(ternary_lab.load_run(run), links=others, progress=True)
        files.append(File.generated(config, f"explorer/{name}", content=content))
    return files


def public_names() -> str:
    """A list of the public names of `ternary_lab`, each with a link to its description."""
    homes = {name: getattr(ternary_lab, name).__module__ for name in ternary_lab.__all__}
    return "\n" + "".join(f"- [`{name}`]({home}.md#{home}.{name})\n" for name, home in homes.items())


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """The page with the links of the repository changed for the site: folders have no page, and docs/ is its root.

    The search shows the pages that explain a term before those of modules, which contain more text.
    """
    written = ROOT / "docs" / page.file.src_uri
    is_module = page.file.src_uri.startswith("reference/ternary_lab")
    page.meta["search"] = {"boost": 0.2 if is_module else EXPLAINING.get(page.file.src_uri, 1)}

    def on_site(link: re.Match[str]) -> str:
        words, target = link.groups()
        if (written.parent / target).is_dir() or (ROOT / target).is_dir():
            return words
        if written.is_file() and not (written.parent / target).resolve().is_relative_to(ROOT / "docs"):
            target = target.removeprefix("../")
        return f"[{words}]({target.removeprefix('docs/')})"

    return re.sub(r"\[([^\]]*)\]\((?!https?:)([^)]+)\)", on_site, markdown)


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """The page with formulas as MathML, and in a notebook with links to pages instead of notebooks."""
    if page.file.src_uri.endswith(".ipynb"):
        html = re.sub(r'href="([\w-]+)\.ipynb((?:#[^"]*)?)"', r'href="../\1/\2"', html)
    return replace_formulas(html)
