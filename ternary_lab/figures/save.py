"""Figures as files with reproducible bytes, and figures in a notebook.

    FOLDER/loss.pdf, .svg, .png     the figure
    FOLDER/loss.csv                 the numbers that the figure shows
    FOLDER/manifest.json            origin of the figure (notebook, parameters, seeds, source, versions), sha256 of the
                                    files, and alternative text
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

from ternary_lab.arguments import read_path
from ternary_lab.errors import RunError
from ternary_lab.figures.style import RC, figure_of, style
from ternary_lab.runs import provenance
from ternary_lab.runs.files import write_atomically

MANIFEST = "manifest.json"
# None leaves out dates and versions, which would change the bytes of a file.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None},
}


@dataclass(frozen=True)
class Drawing:
    """A figure, its alternative text, and the numbers that the figure shows."""

    figure: Figure
    alt: str
    """Description of the figure in full sentences, for readers who cannot see the figure."""
    data: pd.DataFrame

    @staticmethod
    def of(axes: Sequence[Axes], alt: str, data: pd.DataFrame) -> Drawing:
        """Return a drawing of the figure that contains `axes`."""
        return Drawing(figure_of(axes[0]), alt, data)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs that are shown, or an empty list if the data have no column `seed`."""
        return sorted({int(seed) for seed in self.data["seed"]}) if "seed" in self.data else []

    def html(self) -> str:
        """Return the figure as an HTML image with its alternative text."""
        return image(self.figure, self.alt)

    def files(self, name: str) -> dict[str, bytes]:
        """Return a dictionary from file name to content: the figure as PDF, SVG and PNG, and its data as CSV."""
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
    """A GIF image with its alternative text."""

    gif: bytes
    alt: str
    seeds: Sequence[int] = ()

    def html(self) -> str:
        """Return the animation as an HTML image with its alternative text."""
        return _tag(self.gif, "gif", self.alt)

    def files(self, name: str) -> dict[str, bytes]:
        """Return a dictionary from the name of the GIF file to its content."""
        return {f"{name}.gif": self.gif}


@dataclass(frozen=True)
class Gallery:
    """The figures of a notebook, and the folder in which they are saved.

    If `folder` is empty, `show` saves nothing. `parameters` are the parameters of the notebook, as plain data without
    absolute paths. The manifest records `seeds` for figures whose data contain no seeds.
    """

    folder: str | Path
    notebook: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ()

    def show(self, name: str, drawing: Drawing | Animation) -> None:
        """Display a figure in the notebook. Save it first if `folder` is not empty. Raises RunError as `save` does."""
        if self.folder:
            self.save(name, drawing)
        _display(drawing.html())

    def save(self, name: str, drawing: Drawing | Animation) -> list[Path]:
        """Write the files of a figure, record the figure in the folder's manifest, and return the files.

        Raises RunError if a file cannot be written, or if the manifest cannot be read.
        """
        folder = read_path(self.folder)
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
    """Return a figure as the bytes of a file; `kind` is `pdf`, `svg` or `png`. The same figure gives the same bytes."""
    buffer = io.BytesIO()
    with style():
        fig.savefig(buffer, format=kind, metadata=_METADATA[kind], dpi=RC["savefig.dpi"] if dpi is None else dpi)
    return buffer.getvalue()


def image(fig: Figure, alt: str, *, dpi: float = 130) -> str:
    """Return a figure as an HTML image with its alternative text."""
    return _tag(render(fig, dpi=dpi), "png", alt)


def show(fig: Figure, alt: str, *, dpi: float = 130) -> None:
    """Display a figure in a notebook with its alternative text, and close the figure."""
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
