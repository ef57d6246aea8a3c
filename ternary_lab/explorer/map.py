"""All operations as points by their latent codes, on WebGL."""

from __future__ import annotations

import html
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ternary_lab.explorer import drawing
from ternary_lab.explorer.browser_sync import Pacer
from ternary_lab.explorer.projection import Projection
from ternary_lab.explorer.selection import View
from ternary_lab.explorer.widget_base import OperationPicker, Part, button, operation_name, row
from ternary_lab.figures.style import VERMILION
from ternary_lab.runs.load import RunRecord

PLANES = {"principal directions": "pca", "two dimensions": "dimensions", "UMAP": "umap"}
SHADES = 256
MOVING, PATIENCE = 0.5, 10.0
"""Seconds that points take to move, and until a browser that does not say so is taken to be gone."""
FRAME = 1.15
"""Half-width of the map in units of the projection."""


class Map(Part):
    """The map: pan, zoom, click, lasso; what is chosen is the view's `selection`.

    A field chooses by name or index, so that nothing needs a mouse. Colours that take a moment to compute
    follow when they are there.
    """

    title = "Map"

    def __init__(self, source: View | RunRecord | str | Path, *, height: int = 430, colour: str = "zeros") -> None:
        super().__init__()
        import jscatter

        self.view = View.of(source)
        wide = {"description_width": "initial"}
        narrow = widgets.Layout(width="auto")
        self.pathway = widgets.ToggleButtons(
            options=["A", "B"], value=self.view.pathway, description="pathway", style={"button_width": "3em"},
        )
        self.plane = widgets.Dropdown(options=PLANES, description="plane", style=wide, layout=narrow)
        last = self.view.snapshot.model.latent_dim - 1
        self.first, self.second = (
            widgets.BoundedIntText(
                value=i, min=0, max=last, description=name, style=wide, disabled=True,
                layout=widgets.Layout(width="8em"),
            )
            for i, name in enumerate(("x: μ", "y: μ"))
        )
        named = {label: name for name, label in drawing.colourings(self.view.atlas).items()}
        self.colour = widgets.Dropdown(
            options=named, value=colour, description="colour", style=wide, layout=narrow
        )
        self.common = widgets.Checkbox(
            value=False, description="one scale for all epochs", indent=False, layout=widgets.Layout(width="14em")
        )
        self.pick = OperationPicker("choose operation")
        self.clear = button("choose none", "empty the selection")
        self.legend = widgets.HTML()
        frame, _ = self._coordinates()
        self.scatter = jscatter.Scatter(
            data=frame, x="x", y="y", x_scale=(-FRAME, FRAME), y_scale=(-FRAME, FRAME), height=height,
            axes=False, color_by="colour", color_map=["#888888"], color_norm=(0, 1), size=3, opacity=0.75,
            lasso_color=VERMILION, color_selected="#000000", background_color="#ffffff",
        )
        self.scatter.options(
            transition_points_duration=round(1000 * MOVING),
            regl_scatterplot_options={"pointSizeSelected": 9, "pointOutlineWidth": 3},
        )
        self._pacer = Pacer(milliseconds=round(1000 * MOVING))
        # A trait that draws nothing, set after the points: the browser handles a widget's messages in their order.
        widgets.jslink((self.scatter.widget, "tooltip_preview_text_lines"), (self._pacer, "sent"))
        self.fill(
            row(self.pathway, self.plane, self.first, self.second),
            row(self.colour, self.common),
            self.scatter.widget,
            self._pacer,
            self.legend,
            row(self.pick, self.clear),
        )
        self._palette: list[str] = []
        self._pace = threading.RLock()
        self._sent, self._free_at = 0, 0.0
        self._waiting: threading.Timer | None = None
        self.guard(self.show)()
        self._connect()

    def _connect(self) -> None:
        self.pathway.observe(self.guard(lambda change: self.view.set_trait("pathway", change["new"])), "value")
        self._pacer.observe(self.guard(self._shown), "shown")
        self.view.observe(self.guard(self._turn), "pathway")
        self.view.observe(self.guard(lambda _: self.show()), "epoch")
        self.view.observe(self.guard(lambda _: self._mark()), "selection")
        for control in (self.plane, self.first, self.second, self.common, self.colour):
            control.observe(self.guard(lambda _: self.show()), "value")
        self.scatter.widget.observe(self.guard(self._chosen), "selection")
        self.pick.observe(self.guard(self._picked), "value")
        self.clear.on_click(self.guard(lambda _: self.view.set_trait("selection", ())))

    def _turn(self, change: Any) -> None:
        self.pathway.value = change["new"]
        self.show()

    def _chosen(self, change: Any) -> None:
        self.view.selection = tuple(int(i) for i in change["new"])

    def _picked(self, _: Any) -> None:
        if self.pick.value:
            self.view.selection = (self.pick.operation,)

    def _mark(self) -> None:
        """Ring the chosen operations, wherever they were chosen."""
        if tuple(sorted(int(i) for i in self.scatter.widget.selection)) != self.view.selection:
            self.scatter.selection(list(self.view.selection))

    @property
    def kind(self) -> str:
        return str(self.plane.value)

    def show(self) -> None:
        """Move and colour the points as the view's epoch and pathway have them."""
        epoch, pathway, name = self.view.epoch, self.view.pathway, str(self.colour.value)
        self.first.disabled = self.second.disabled = self.kind != "dimensions"
        if not self.view.snapshot.has_plane(pathway, self.kind):
            self.later(
                "plane", f"UMAP of pathway {pathway} at epoch {epoch} is being computed (half a minute or more) …",
                lambda: self.view.atlas.plane(epoch, pathway, "umap"), lambda _: self.show(),
            )
        decoder = drawing.needs_probability(name)
        if decoder is not None and not self.view.snapshot.knows_log_probability(decoder):
            snapshot = self.view.snapshot
            self.later(
                "colour", f"probabilities under decoder {decoder} at epoch {epoch} are being computed …",
                lambda: snapshot.log_probability(decoder), lambda _: self.show(),
            )
        self._draw()

    def _draw(self) -> None:
        """Send the points, once the browser has shown those before: what comes while they move, it drops."""
        with self._pace:
            if time.monotonic() < self._free_at:
                self._wait()
                return
            self._free_at = time.monotonic() + (PATIENCE if self._pacer.alive else MOVING)
            self._put()
            self._sent += 1
            self.scatter.widget.tooltip_preview_text_lines = self._sent

    def _wait(self) -> None:
        """Draw what is then to be shown when the browser is free; the timer before is forgotten."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = threading.Timer(max(0.0, self._free_at - time.monotonic()), self._draw_waiting)
        self._waiting.start()

    def _draw_waiting(self) -> None:
        with self._pace:
            self._waiting = None
        self.guard(self._draw)()

    def _shown(self, change: Any) -> None:
        """The browser has shown what it was sent, and can be sent what waits."""
        with self._pace:
            if change["new"] == self._sent:
                self._free_at = 0.0
                if self._waiting is not None:
                    self._wait()

    def _put(self) -> None:
        frame, plane = self._coordinates()
        paint = self._paint()
        steps, palette = np.zeros(len(frame)), ["#B0B0B0"]
        if paint is not None:
            steps, palette = paint.values, list(paint.colours)
            if isinstance(paint.colours, str):
                palette = [to_hex(colour) for colour in colormaps[paint.colours](np.linspace(0, 1, SHADES))]
            else:
                steps = steps / max(len(palette) - 1, 1)
        frame["colour"] = steps
        if palette != self._palette:
            self._palette = palette
            # With the points below, so that the browser draws once.
            self.scatter.color(by="colour", map=palette, norm=(0, 1), skip_widget_update=True)
        self.scatter.data(frame, animate=True)
        self._explain(plane, paint)

    def _paint(self) -> drawing.Colouring | None:
        """The colouring asked for, or None while it is being computed."""
        name = str(self.colour.value)
        decoder = drawing.needs_probability(name)
        if decoder is not None and not self.view.snapshot.knows_log_probability(decoder):
            return None
        return drawing.colouring(self.view.atlas, self.view.epoch, name)

    def _plane(self, epoch: int) -> Projection:
        # Until UMAP is computed, the principal directions stand in for it.
        kind = self.kind if self.view.atlas[epoch].has_plane(self.view.pathway, self.kind) else "pca"
        return self.view.atlas.plane(epoch, self.view.pathway, kind, self.first.value, self.second.value)

    def _coordinates(self) -> tuple[pd.DataFrame, Projection]:
        """Points (N, 2), and the plane they lie in; its scale is that of the picture."""
        plane = self._plane(self.view.epoch)
        if self.common.value and self.kind != "umap":
            largest = max(self._plane(epoch).scale for epoch in self.view.atlas.epochs)
            plane = replace(plane, points=plane.points * (plane.scale / largest), scale=largest)
        x, y = plane.points.T.numpy()
        return pd.DataFrame({"x": x, "y": y, "colour": 0.0}), plane

    def _explain(self, plane: Projection, paint: drawing.Colouring | None) -> None:
        """The legend, in words and colours; and what the axes are."""
        if paint is None:
            key = "…"
        elif paint.kinds:
            counts = [int((paint.values == i).sum()) for i in range(len(paint.kinds))]
            key = " ".join(
                f'<span style="color:{colour}">●</span> {html.escape(kind)} ({count:,})'
                for kind, colour, count in zip(paint.kinds, paint.colours, counts, strict=True)
            )
        else:
            stops = ", ".join(to_hex(colour) for colour in colormaps[str(paint.colours)](np.linspace(0, 1, 9)))
            key = (
                f"{paint.low:.3g} <span style=\"display:inline-block;width:9em;height:.8em;"
                f"background:linear-gradient(90deg,{stops})\"></span> {paint.high:.3g}"
            )
        label = html.escape(paint.label) if paint is not None else "colours are being computed"
        across, up = plane.axes
        said = [f"epoch {self.view.epoch}, pathway {self.view.pathway}", f"across: {across}", f"up: {up}", plane.note]
        said.append(f"half-height {FRAME * plane.scale:.3g}")
        self.legend.value = f"<b>{label}</b>: {key}<br>{' · '.join(part for part in said if part)}"

    def picture(self) -> tuple[Figure, str]:
        epoch, pathway, colour = self.view.epoch, self.view.pathway, str(self.colour.value)
        drawn = drawing.draw_map(self.view.atlas, epoch, pathway, "pca", colour, self.view.selection)
        chosen = ", ".join(operation_name(i) for i in self.view.selection[:5])
        return drawn.figure, f"{drawn.alt} Ringed: {chosen}." if chosen else drawn.alt
