"""The page of a run as one HTML file, which opens from the disk and loads nothing."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path

from ternary_lab.arguments import read_path
from ternary_lab.page.data import bundle, short_name
from ternary_lab.runs.files import require_writable, write_atomically
from ternary_lab.runs.load import RunRecord

FOLDER = Path(__file__).parent
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def page_name(run: RunRecord) -> str:
    """Return the name of the file of a page, such as explorer-v5_5-seed=42.html."""
    return f"explorer-{short_name(run).replace('/', '-')}.html"


def write_page(
    run: RunRecord, path: str | Path, *, every: int = 1, prior: bool = True, progress: bool = False
) -> Path:
    """Write the page of a run as an HTML file, and return its path. The options are those of `page`.

    Raises RunError if the file cannot be written, and the errors of `page`.
    """
    path = read_path(path)
    require_writable(path)
    write_atomically(path, page(run, every=every, prior=prior, progress=progress).encode(), durable=False)
    return path


def page(
    run: RunRecord,
    *,
    links: Mapping[str, str] | None = None,
    every: int = 1,
    prior: bool = True,
    progress: bool = False,
) -> str:
    """Return the page of a run as HTML.

    Args:
        run: any run with weights.
        links: pages of other runs, as a dictionary from the name of a run to the address of its page.
        every: only epochs that are multiples of this number are taken, and the last one.
        prior: whether to compute ln p(x) under the prior, which takes most of the time.
        progress: whether to show a progress bar on stderr.

    Raises RunError for a run without weights or with a damaged file, and CheckpointError for a damaged checkpoint.
    """
    found = bundle(run, every=every, prior=prior, progress=progress)
    header = {**found.header, "links": [{"run": name, "href": address} for name, address in (links or {}).items()]}
    as_json = json.dumps(header, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    fills = {
        "title": html.escape(f"{header['run']}: latent space of all {header['operations']:,} operations"),
        "style": _text("explorer.css"),
        "module": _text("explorer.js"),
        # In JSON, < can be written as an escape. So no text in the header ends the script that holds it.
        "header": as_json.replace("<", "\\u003c"),
        "parts": "\n".join(
            f'<script type="text/plain" id="part-{name}">{base64.b64encode(data).decode()}</script>'
            for name, data in found.parts.items()
        ),
    }
    return _PLACE.sub(lambda place: fills[place[1]], _text("template.html"))


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
