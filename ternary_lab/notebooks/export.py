"""Export of a notebook as an HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ternary_lab.notebooks.cells import WIDGET_VIEW, first_line, outputs_of, read_notebook, write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

_PAGE = "{% extends 'lab/index.html.j2' %}" + "".join(
    f"{{% block {block} %}}{{% endblock %}}"
    for block in ("html_head_js", "html_head_js_mathjax", "html_head_js_mermaidjs", "jupyter_widgets")
)
_STAND_IN = "<p><em>An interactive view: open the notebook to use it.</em></p>"


def export_html(path: str | Path, output: str | Path, *, hide_input: bool = False) -> Path:
    """Write a notebook as one HTML file that loads nothing from the network. Return the path of this file.

    If `hide_input` is true, the code is left out. Each widget is replaced by a sentence with the advice to open the
    notebook. Formulas stay as TeX source. Raises NotebookError if the notebook cannot be read, or if `output` cannot be
    written.
    """
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    path, output = Path(path), Path(output)
    notebook = read_notebook(path)
    notebook.metadata.pop("widgets", None)
    for _, shown in outputs_of(notebook):
        if "data" in shown and shown.data.pop(WIDGET_VIEW, None):
            shown.data.setdefault("text/html", _STAND_IN)
    page = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="lab",
        template_file="page.html.j2",
        extra_loaders=[DictLoader({"page.html.j2": _PAGE})],
        embed_images=True,
        exclude_input=hide_input,
        exclude_input_prompt=hide_input,
    )
    title = page_title(notebook) or path.stem
    html, _ = page.from_notebook_node(notebook, {"metadata": {"name": title, "path": str(path.parent)}})
    write_text(output, html)
    return output


def page_title(notebook: NotebookNode) -> str | None:
    """Return the Markdown title in the first cell, or None if this cell has no title."""
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        return None
    return first_line(first.source)[2:].strip() or None
