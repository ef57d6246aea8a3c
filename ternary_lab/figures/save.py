"""Figures as files that are the same bytes each time, and figures in a notebook.

    FOLDER/loss.pdf, .svg, .png     the figure
    FOLDER/loss.csv                 what it shows
    FOLDER/manifest.json            what made it: notebook, parameters, seeds, source, versions; sha256; alt text
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ternary_lab.errors import RunError
from ternary_lab.figures.style import RC, style
from ternary_lab.runs import provenance
from ternary_lab.runs.files import write_atomically

MANIFEST = "manifest.json"
# What would differ from one writing to the next is left out of the files.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None},
}


@dataclass(frozen=True)
class Drawing:
    """A figure with what it says and what it shows."""

    figure: Figure
    alt: str
    """For those who cannot see it."""
    data: pd.DataFrame

    def show(self) -> None:
        """Display it in a notebook."""
        show(self.figure, self.alt)


def save_figure(
    fig: Figure,
    folder: str | Path,
    name: str,
    data: pd.DataFrame,
    alt: str,
    notebook: str,
    parameters: Mapping[str, Any],
    seeds: Sequence[int],
) -> list[Path]:
    """Write a figure as PDF, SVG and PNG with its data as CSV, and enter it in the folder's manifest.

    Args:
        alt: what the figure says, for those who cannot see it.
        notebook: name of the notebook, or of the command, that drew it.
        parameters: that it was drawn with; plain data without absolute paths.

    Returns the four files. Raises RunError naming the file that cannot be written, or a manifest that cannot be read.
    """
    with style():  # laid out once, not once a format
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
    contents = {f"{name}.{kind}": render(fig, kind) for kind in _METADATA}
    contents[f"{name}.csv"] = data.to_csv(index=False, lineterminator="\n").encode()
    return save_files(folder, name, contents, alt, notebook, parameters, seeds)


def save_files(
    folder: str | Path,
    name: str,
    contents: Mapping[str, bytes],
    alt: str,
    notebook: str,
    parameters: Mapping[str, Any],
    seeds: Sequence[int],
) -> list[Path]:
    """Write the files of one figure, by their names, and enter them in the folder's manifest; see `save_figure`."""
    folder = Path(folder)
    manifest = _read_manifest(folder / MANIFEST)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}: choose another folder for figures") from None
    for file, content in contents.items():
        write_atomically(folder / file, content)
    manifest[name] = {
        "alt": alt,
        "files": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
        "notebook": notebook,
        "parameters": dict(parameters),
        "seeds": list(seeds),
        "source_sha256": provenance.source_hash(),
        "versions": provenance.versions(),
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(folder / MANIFEST, text.encode())
    return [folder / file for file in contents]


def render(fig: Figure, kind: str = "png", *, dpi: float | None = None) -> bytes:
    """The figure as a file's bytes: `pdf`, `svg` or `png`; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with style():
        fig.savefig(buffer, format=kind, metadata=_METADATA[kind], dpi=RC["savefig.dpi"] if dpi is None else dpi)
    return buffer.getvalue()


def image(fig: Figure, alt: str, *, dpi: float = 130) -> str:
    """The figure as an HTML image with its alternative text."""
    picture = base64.b64encode(render(fig, dpi=dpi)).decode()
    return f'<img alt="{html.escape(alt)}" style="max-width: 100%" src="data:image/png;base64,{picture}">'


def show(fig: Figure, alt: str, *, dpi: float = 130) -> None:
    """Display a figure in a notebook with its alternative text, and close it."""
    from IPython.display import HTML, display

    display(HTML(image(fig, alt, dpi=dpi)))  # type: ignore[no-untyped-call]
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(fig)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise RunError(f"{path}: cannot be read: {reason}: delete it to have it written anew") from None
    if not isinstance(manifest, dict):
        raise RunError(f"{path}: is no manifest of figures: delete it to have it written anew")
    return manifest
