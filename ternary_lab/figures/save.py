"""Figures as files that are the same bytes each time, and figures in a notebook.

    FOLDER/loss.pdf, .svg, .png     the figure
    FOLDER/loss.csv                 the numbers that it shows
    FOLDER/manifest.json            its origin: notebook, parameters, seeds, source, versions; sha256; alt text
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ternary_lab.errors import RunError
from ternary_lab.figures.style import RC, figure_of, style
from ternary_lab.runs import provenance
from ternary_lab.runs.files import write_atomically

MANIFEST = "manifest.json"
# Dates and versions would differ from one writing to the next.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None},
}


@dataclass(frozen=True)
class Drawing:
    """A figure with its alternative text and the numbers that it shows."""

    figure: Figure
    alt: str
    """The content of the figure in full sentences, for readers who cannot see it."""
    data: pd.DataFrame

    @staticmethod
    def of(axes: Sequence[Axes], alt: str, data: pd.DataFrame) -> Drawing:
        """The figure that contains some axes."""
        return Drawing(figure_of(axes[0]), alt, data)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs that are shown; empty where the data have no such column."""
        return sorted({int(seed) for seed in self.data["seed"]}) if "seed" in self.data else []

    def html(self) -> str:
        """The figure as an HTML image with its alternative text."""
        return image(self.figure, self.alt)

    def files(self, name: str) -> dict[str, bytes]:
        """The figure as PDF, SVG and PNG and its data as CSV, by file name."""
        with style():  # the layout is computed once, not once for each format
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")
        contents = {f"{name}.{kind}": render(self.figure, kind) for kind in _METADATA}
        return contents | {f"{name}.csv": self.data.to_csv(index=False, lineterminator="\n").encode()}

    def show(self) -> None:
        """Display the figure in a notebook."""
        show(self.figure, self.alt)


@dataclass(frozen=True)
class Animation:
    """A GIF with its alternative text."""

    gif: bytes
    alt: str
    seeds: Sequence[int] = ()

    def html(self) -> str:
        """The animation as an HTML image with its alternative text."""
        return _tag(self.gif, "gif", self.alt)

    def files(self, name: str) -> dict[str, bytes]:
        """The animation by its file name."""
        return {f"{name}.gif": self.gif}


@dataclass(frozen=True)
class Gallery:
    """Shows the figures of a notebook and saves them in a folder, if one is named.

    `parameters` are those of the notebook: plain data without absolute paths. `seeds` are noted for figures whose data
    name none.
    """

    folder: str | Path
    notebook: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ()

    def show(self, name: str, drawing: Drawing | Animation) -> None:
        """Display a figure in the notebook; save it first if the gallery has a folder. Raises RunError as `save`."""
        if self.folder:
            self.save(name, drawing)
        _display(drawing.html())

    def save(self, name: str, drawing: Drawing | Animation) -> list[Path]:
        """Write the files of a figure and enter it in the folder's manifest.

        Returns the files. Raises RunError for a file that cannot be written or a manifest that cannot be read.
        """
        folder = Path(self.folder)
        manifest = _read_manifest(folder / MANIFEST)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot be made: {error.strerror}: choose another folder for figures") from None
        contents = drawing.files(name)
        for file, content in contents.items():
            write_atomically(folder / file, content)
        manifest[name] = {
            "alt": drawing.alt,
            "files": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
            "notebook": self.notebook,
            "parameters": dict(self.parameters),
            "seeds": list(drawing.seeds or self.seeds),
            "source_sha256": provenance.source_hash(),
            "versions": provenance.versions(),
        }
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        write_atomically(folder / MANIFEST, text.encode())
        return [folder / file for file in contents]


def render(fig: Figure, kind: str = "png", *, dpi: float | None = None) -> bytes:
    """The figure as the bytes of a file, `pdf`, `svg` or `png`; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with style():
        fig.savefig(buffer, format=kind, metadata=_METADATA[kind], dpi=RC["savefig.dpi"] if dpi is None else dpi)
    return buffer.getvalue()


def image(fig: Figure, alt: str, *, dpi: float = 130) -> str:
    """The figure as an HTML image with its alternative text."""
    return _tag(render(fig, dpi=dpi), "png", alt)


def show(fig: Figure, alt: str, *, dpi: float = 130) -> None:
    """Display a figure in a notebook with its alternative text, and close it."""
    _display(image(fig, alt, dpi=dpi))
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(fig)


def _tag(picture: bytes, kind: str, alt: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    return f'<img alt="{html.escape(alt)}" style="max-width: 100%" src="{source}">'


def _display(page: str) -> None:
    from IPython.display import HTML, display

    display(HTML(page))  # type: ignore[no-untyped-call]


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
