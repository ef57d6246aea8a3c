"""The documentation: links of the written pages; the site builds without a warning and is complete."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import references

ROOT = Path(__file__).parents[2]
WRITTEN = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MADE = {f"docs/reference/{name}.md": made for name, made in references.PAGES.items()} | {
    f"docs/explorer/{name}": str for name in ("v5_5.html", "beyond.html")
} | {
    f"docs/reference/{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}.md": str
    for path in ROOT.glob("ternary_lab/**/*.py")
}
"""The pages that exist only on the site, by the path that a link from a written page has to have."""


def _anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page, as the site's builder makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    """In the repository as on the site."""
    wrong = []
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)(\S+?)\)", re.sub(r"```.*?```|\$\$.*?\$\$", "", text, flags=re.DOTALL)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        made = MADE.get(target.relative_to(ROOT).as_posix())
        exists = made is not None or target.exists()
        if not exists or (anchor and anchor not in _anchors(made() if made else target.read_text(encoding="utf-8"))):
            wrong.append(link)
    assert wrong == []


CODE = ("code", "pre", "script", "style")
"""Elements in which a dollar sign is not part of a formula."""


class Page(HTMLParser):
    """The links of a page, the alternative texts of its pictures, and its text outside code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.alts: list[str | None] = []
        self.text = ""
        self._in_code = 0
        self.feed(text)

    def handle_data(self, data: str) -> None:
        if not self._in_code:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._in_code -= tag in CODE

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_code += tag in CODE
        given = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := given.get(name))]
        if tag == "img":
            self.alts.append(given.get("alt"))


@pytest.mark.slow
def test_the_site_is_complete(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("MkDocs is not installed: run `make docs` once")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    check(tmp_path / "site")


def check(site: Path) -> None:
    """Check that every notebook, how-to page and module has its page, and check links and alternative texts."""
    assert (site / "index.html").is_file()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert (site / "notebooks" / notebook.stem / "index.html").is_file()
    for page in (ROOT / "docs" / "how_to").glob("*.md"):
        assert (site / "how_to" / ("" if page.stem == "index" else page.stem) / "index.html").is_file()
    for name in ("ternary_lab.schedules", "ternary_lab.metrics.information", "ternary_lab.page.data"):
        assert "<h2" in (site / "reference" / name / "index.html").read_text(encoding="utf-8"), name
    for name in ("tasks", "configuration", "configurations", "commands", "runs"):
        assert "<table" in (site / "reference" / name / "index.html").read_text(encoding="utf-8"), name
    assert 'class="ledger"' in (site / "notebooks" / "11_report.html").read_text(encoding="utf-8")
    for name, other in (("v5_5", "beyond"), ("beyond", "v5_5")):
        explorer = site / "explorer" / f"{name}.html"
        assert explorer.stat().st_size < 15e6
        size = f"({explorer.stat().st_size / 1e6:.0f} MB)"
        assert size in (ROOT / "docs" / "explorer.md").read_text(encoding="utf-8")
        assert f'"href":"{other}.html"' in explorer.read_text(encoding="utf-8")
    broken, without_text, unrendered = [], [], []
    for path in site.rglob("index.html"):
        html = path.read_text(encoding="utf-8")
        shown = Page(html)
        # The converter of formulas leaves a command that it does not know as it is, with its backslash.
        if "$" in shown.text or re.search(r"<m[ino]\b[^>]*>[^<]*\\", html):
            unrendered.append(str(path.relative_to(site)))
        for link in shown.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not parts.path:
                continue
            target = (path.parent / unquote(parts.path)).resolve()
            if not (target.is_file() or (target / "index.html").is_file()):
                broken.append(f"{path.relative_to(site)}: {link}")
        without_text += [str(path.relative_to(site)) for alt in shown.alts if not alt]
    assert broken == []
    assert without_text == []
    assert unrendered == []
    assert "<math" in (site / "concepts" / "index.html").read_text(encoding="utf-8")


def test_docstrings_describe_parameters_that_exist() -> None:
    """The site's builder warns of a line under `Args:` that names no parameter, and then the build fails."""
    wrong, read = [], 0
    for path in (ROOT / "ternary_lab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            text = ast.get_docstring(node) or ""
            body = re.search(r"^Args:\n((?:(?: +.*)?\n?)*)", text, re.MULTILINE)
            listed = re.findall(r"^    (\S[^:\n]*):", body.group(1), re.MULTILINE) if body else []
            read += len(listed)
            wrong += [f"{path.name}: {node.name}: {name}" for name in listed if name not in _parameters(node)]
    assert not wrong
    assert read > 150


def _parameters(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Return the names of a function's parameters, or of a class's fields and the parameters of its `__init__`."""
    if isinstance(node, ast.FunctionDef):
        a = node.args
        return {one.arg for one in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg)))}
    fields = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}
    inits = (one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__")
    return fields.union(*map(_parameters, inits))
