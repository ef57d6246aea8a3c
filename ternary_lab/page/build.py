"""The page of a run as one HTML file, which opens from the disk and loads nothing."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path

from ternary_lab.arguments import read_path
from ternary_lab.page.data import Bundle, bundle, short_name
from ternary_lab.runs.files import require_writable, write_atomically
from ternary_lab.runs.load import RunRecord

FOLDER = Path(__file__).parent
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def write_page(
    run: RunRecord,
    path: str | Path,
    *,
    links: Mapping[str, str] | None = None,
    prior: bool = True,
    progress: bool = False,
) -> Path:
    """Write the page of a run, and return its path.

    Args:
        run: any run with weights.
        path: the HTML file.
        links: pages of other runs, as a dictionary from the name of a run to the address of its page.
        prior: whether to compute ln p(x) under the prior, which takes most of the time.
        progress: whether to show a progress bar on stderr.

    Raises RunError for a run without weights, for a damaged run, and for a file that cannot be written.
    """
    path = read_path(path)
    require_writable(path)
    found = bundle(run, prior=prior, progress=progress)
    found.header["links"] = [{"run": name, "href": address} for name, address in (links or {}).items()]
    write_atomically(path, page(found).encode(), durable=False)
    return path


def page_name(run: RunRecord) -> str:
    """Return the name of the file of a page, such as explorer-v5_5-seed=42.html."""
    return f"explorer-{short_name(run).replace('/', '-')}.html"


def page(found: Bundle) -> str:
    """Return the HTML of a page."""
    header = found.header
    # In JSON, < can be written as an escape. So no text in the header can end the script that holds it.
    as_json = json.dumps(header, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    fills = {
        "title": html.escape(f"{header['run']}: latent space of all {header['operations']:,} operations"),
        "style": (FOLDER / "explorer.css").read_text(encoding="utf-8"),
        "module": (FOLDER / "explorer.js").read_text(encoding="utf-8"),
        "header": as_json,
        "parts": "\n".join(
            f'<script type="text/plain" id="part-{name}">{base64.b64encode(data).decode()}</script>'
            for name, data in found.parts.items()
        ),
    }
    template = (FOLDER / "template.html").read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: fills[place[1]], template)
