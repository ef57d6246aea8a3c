"""Export of a notebook as an HTML page."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ternary_lab.arguments import read_path
from ternary_lab.notebooks.cells import WIDGET_VIEW, first_line, outputs_of, read_notebook, write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

_PAGE = "{% extends 'lab/index.html.j2' %}" + "".join(
    f"{{% block {block} %}}{{% endblock %}}"
    for block in ("html_head_js", "html_head_js_mathjax", "html_head_js_mermaidjs", "jupyter_widgets")
) + """
{% block input_group %}<details class="code"><summary>code</summary>{{ super() }}</details>{% endblock %}
{% block body_header %}{{ super() }}
<style>details.code > summary { cursor: pointer; color: #757575; font: 0.8em sans-serif; margin-left: 70px }
math { font-family: "Latin Modern Math", "STIX Two Math", "Cambria Math", "DejaVu Math TeX Gyre", math }
math[display="block"] { margin: 0.6em 0; overflow: auto hidden }</style>
<p style="text-align: right"><button type="button" onclick="const all = [...document.querySelectorAll('details.code')],
 open = !all.every((one) => one.open); all.forEach((one) => { one.open = open })">show or hide all code</button></p>
{% endblock %}"""
_STAND_IN = "<p><em>An interactive view: open the notebook to use it.</em></p>"
_FORMULA = re.compile(r"(?<!\\)\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)", re.DOTALL)
_LINK = re.compile(r'<a\b[^>]*\bhref="(?!\w+:)[^"]*\.ipynb(?:#[^"]*)?"[^>]*>(.*?)</a>', re.DOTALL)
"""A link to a notebook beside this one."""
_MARK = re.compile(r"<[^>]*>|FORMULA\d{4}END")
_FUNCTION = re.compile(r"<mi>(cos|exp|ln|log|sin)</mi>(?=((?:<mrow>)?<mo[^>]*>&#x00028;)?)")
"""A function in MathML, and the parenthesis after it. Without the space of an operator, ln N would read lnN."""
_CODE = re.compile(
    r"(```.*?```|`[^`\n]*`|<(?:pre|code|script|style)\b.*?</(?:pre|code|script|style)>|<[^>]*>)", re.DOTALL
)
"""Code and tags, in which no formula begins."""


def export_html(path: str | Path, output: str | Path) -> Path:
    """Write a notebook as one HTML file that loads nothing from the network. Return the path of this file.

    The code of each cell is folded; a button opens the code of all cells. Formulas become MathML, which browsers show
    without a script. Each widget is replaced by a sentence with the advice to open the notebook. A link to another
    notebook becomes text, because this notebook need not be there, and a browser cannot show it. Raises NotebookError
    if the notebook cannot be read, or if `output` cannot be written.
    """
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    path, output = read_path(path), read_path(output)
    notebook = read_notebook(path)
    notebook.metadata.pop("widgets", None)
    formulas: dict[str, str] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _without_formulas(cell.source, formulas)
    for _, shown in outputs_of(notebook):
        if "data" in shown and shown.data.pop(WIDGET_VIEW, None):
            shown.data.setdefault("text/html", _STAND_IN)
        if "data" in shown and "text/markdown" in shown.data:
            shown.data["text/markdown"] = _without_formulas(shown.data["text/markdown"], formulas)
    page = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="lab",
        template_file="page.html.j2",
        extra_loaders=[DictLoader({"page.html.j2": _PAGE})],
        embed_images=True,
    )
    title = page_title(notebook) or path.stem
    text, _ = page.from_notebook_node(notebook, {"metadata": {"name": title, "path": str(path.parent)}})
    # A heading's formula also stands in its anchor, where it has no place.
    def unmarked(found: re.Match[str]) -> str:
        return formulas.get(found[0]) or re.sub(r"FORMULA\d{4}END", "", found[0])

    write_text(output, _LINK.sub(r"\1", _MARK.sub(unmarked, str(text))))
    return output


def _without_formulas(markdown: str, formulas: dict[str, str]) -> str:
    """Return a Markdown text with a mark in place of each TeX formula, and add the MathML of each mark to `formulas`.

    The marks pass unchanged through the converter of Markdown, which would break the MathML.
    """
    def marked(mathml: str) -> str:
        mark = f"FORMULA{len(formulas):04d}END"
        formulas[mark] = mathml
        return mark

    return replace_formulas(markdown, marked)


def replace_formulas(text: str, shown: Callable[[str], str] = str) -> str:
    """Return a Markdown or HTML text with `shown(MathML)` in place of each TeX formula, `$...$` or `$$...$$`.

    A dollar sign in code, after a backslash or before a space does not begin a formula. A dollar sign after a space or
    before a digit does not end one.
    """
    from latex2mathml.converter import convert

    def one(found: re.Match[str]) -> str:
        block, inline = found.groups()
        formula = " ".join(html.unescape(block or inline).split())
        mathml = convert(formula, display="block" if block else "inline")
        return shown(_FUNCTION.sub(_spaced, mathml))

    parts = _CODE.split(text)
    return "".join(part if i % 2 else _FORMULA.sub(one, part) for i, part in enumerate(parts))


def _spaced(found: re.Match[str]) -> str:
    """Return a function in MathML with thin spaces around it, but with no space in front of a parenthesis."""
    return f'<mo lspace="0.17em" rspace="{0 if found[2] else 0.17}em">{found[1]}</mo>'


def page_title(notebook: NotebookNode) -> str | None:
    """Return the Markdown title in the first cell, or None if this cell has no title."""
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        return None
    return first_line(first.source)[2:].strip() or None
