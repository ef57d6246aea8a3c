"""The site from what is there: README, notebooks as executed, figures, and a page of reference for every module.

A hook of MkDocs (`hooks` in mkdocs.yml): no page is written by hand but the how-to pages beside this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import ternary_lab

ROOT = Path(__file__).parents[1]
SHOWN = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "notebooks/*.ipynb", "figures/*.png",
    "figures/*.gif", "benchmarks/*.png",
)


def modules() -> Iterator[str]:
    """Dotted names of the public modules, each package before what is in it."""
    for path in sorted((ROOT / "ternary_lab").rglob("*.py"), key=lambda path: path.with_name(path.stem)):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if not parts[-1].startswith("_") or parts[-1] == "__init__":
            yield name


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation: every notebook, how-to page and module there is."""
    notebooks = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("notebooks/*.ipynb"))]
    how_to = [f"how_to/{path.name}" for path in sorted((ROOT / "docs" / "how_to").glob("*.md"))]
    reference: list[Any] = [{name: f"reference/{name}.md"} for name in sorted(modules())]
    config.nav = [
        {"Ternary Lab": "README.md"},
        {"Notebooks": notebooks},
        {"How do I…": how_to},
        {"Larger": ["slurm.md", "three_inputs.md"]},
        {"Reference": reference},
        {"Contributing": ["CONTRIBUTING.md", "CHANGELOG.md"]},
    ]
    return config


@event_priority(100)  # before the plugin that turns notebooks into pages looks for them
def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in (path for pattern in SHOWN for path in sorted(ROOT.glob(pattern))):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for name in modules():
        more = offered() if name == ternary_lab.__name__ else ""
        files.append(File.generated(config, f"reference/{name}.md", content=f"# `{name}`\n\n::: {name}\n{more}"))
    return files


def offered() -> str:
    """What `from ternary_lab import …` offers, each name with a link to where it is described."""
    homes = {name: getattr(ternary_lab, name).__module__ for name in ternary_lab.__all__}
    return "\n" + "".join(f"- [`{name}`]({home}.md#{home}.{name})\n" for name, home in homes.items())


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as they are in the repository, for the site: folders have no page, and docs/ is where it begins."""
    markdown = markdown.replace("](docs/", "](")
    return re.sub(r"\[([^\]]*)\]\(([\w/]+)\)", lambda m: m[1] if (ROOT / m[2]).is_dir() else m[0], markdown)


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Links from notebook to notebook, as links from page to page."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    return re.sub(r'href="([\w-]+)\.ipynb"', r'href="../\1/"', html)
