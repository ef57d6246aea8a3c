"""The map of all operations, which shows one point for each latent code. WebGL draws the points."""

from __future__ import annotations

import html
from dataclasses import replace

import ipywidgets as widgets
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from ternary_lab.arguments import whole_number
from ternary_lab.explorer import drawing
from ternary_lab.explorer.browser_sync import BrowserSync
from ternary_lab.explorer.operation_picker import OperationPicker, operation_name
from ternary_lab.explorer.projection import Projection
from ternary_lab.explorer.selection import Selection, Source
from ternary_lab.explorer.view import View, row
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import VERMILION
from ternary_lab.model import PATHWAYS, Pathway

PLANES = {"principal directions": "pca", "two dimensions": "dimensions"}
SHADES = 256
MOVING = 0.5
"""Seconds in which the points move to their new positions."""
FRAME = 1.15
"""The map shows the coordinates from -`FRAME` to `FRAME`, in units of the projection."""


class Map(View):
    """A scatter plot of the codes with pan, zoom, click and lasso.

    `selection.operations` contains the operations of the points that the user chose. A text field below the plot
    chooses an operation without a mouse. If the computation of colours takes time, the plot shows them when they are
    ready.
    """

    title = "Map"

    def __init__(self, source: Source, *, height: int = 430, colour: str = "zeros") -> None:
        super().__init__()
        self.selection = Selection.of(source)
        self._make_controls(colour)
        self._make_scatter(whole_number(height, "height", 1))
        self.legend = widgets.HTML()
        self.fill(
            row(self.pathway, self.plane, self.first, self.second), row(self.colour, self.common),
            self.scatter.widget, self.sync, self.legend, row(self.pick, self.clear),
        )
        self.follow(self.selection, ["operations"], self._mark)
        self.follow(self.selection, ["epoch", "pathway"], self.show)
        self.on_change(lambda: self.selection.set_trait("pathway", self.pathway.value), self.pathway)
        self.on_change(self.show, self.plane, self.first, self.second, self.common, self.colour)
        self.on_change(self._pick, self.pick)
        self.scatter.widget.observe(self.guard(self._choose), "selection")

    def _make_controls(self, colour: str) -> None:
        wide, narrow = {"description_width": "initial"}, widgets.Layout(width="auto")
        self.pathway = widgets.ToggleButtons(
            options=PATHWAYS, value=self.selection.pathway, description="pathway", style={"button_width": "3em"},
        )
        self.plane = widgets.Dropdown(options=PLANES, description="plane", style=wide, layout=narrow)
        self.first, self.second = (
            widgets.BoundedIntText(
                value=i, min=0, max=self.selection.snapshot.model.latent_dim - 1, description=name, style=wide,
                disabled=True, layout=widgets.Layout(width="8em"),
            )
            for i, name in enumerate(("x: μ", "y: μ"))
        )
        names = {label: name for name, label in drawing.colourings(self.selection.codes).items()}
        self.colour = widgets.Dropdown(options=names, value=colour, description="colour", style=wide, layout=narrow)
        self.common = widgets.Checkbox(
            value=False, description="one scale for all epochs", indent=False, layout=widgets.Layout(width="14em")
        )
        self.pick = OperationPicker("choose operation")
        self.clear = self.button("clear", "choose no operation", lambda: self.selection.set_trait("operations", ()))

    def _make_scatter(self, height: int) -> None:
        import jscatter

        limits = (-FRAME, FRAME)
        self.scatter = jscatter.Scatter(
            data=self._plane().table().assign(colour=0.0), x="x", y="y", x_scale=limits, y_scale=limits, height=height,
            axes=False, color_by="colour", color_map=["#888888"], color_norm=(0, 1), size=3, opacity=0.75,
            lasso_color=VERMILION, color_selected="#000000", background_color="#ffffff",
        )
        self.scatter.options(
            transition_points_duration=round(1000 * MOVING),
            regl_scatterplot_options={"pointSizeSelected": 9, "pointOutlineWidth": 3},
        )
        self.sync = BrowserSync(self.guard(self._draw), self.scatter.widget, "tooltip_preview_text_lines", MOVING)
        self._palette: list[str] = []

    def _choose(self) -> None:
        self.selection.operations = tuple(self.scatter.widget.selection)

    def _pick(self) -> None:
        if self.pick.value:
            self.selection.operations = (self.pick.operation,)

    def _mark(self) -> None:
        """Mark the chosen operations on the map, unless exactly these operations are marked already."""
        if tuple(sorted(int(i) for i in self.scatter.widget.selection)) != self.selection.operations:
            self.scatter.selection(list(self.selection.operations))

    def show(self) -> None:
        """Draw the points of the selected epoch and pathway.

        If the colours are not computed yet, start the computation in the background.
        """
        epoch, pathway, snapshot = self.selection.epoch, self.selection.pathway, self.selection.snapshot
        self.pathway.value = pathway
        self.first.disabled = self.second.disabled = self.plane.value != "dimensions"
        if (decoder := self._missing_decoder()) is not None:
            self.in_background(
                "colour", f"computing probabilities under decoder {decoder} at epoch {epoch} …",
                lambda: snapshot.log_probability(decoder), lambda _: self.show(),
            )
        self.sync.request()

    def _missing_decoder(self) -> Pathway | None:
        """Return the decoder whose probabilities the chosen colours need, or None.

        None means that the colours need no probabilities, or that the probabilities are already computed.
        """
        decoder = drawing.needs_probability(str(self.colour.value))
        return None if decoder is None or self.selection.snapshot.has_log_probability(decoder) else decoder

    def _draw(self) -> None:
        """Send the points and colours to the browser and write the legend."""
        plane, paint = self._plane(), None
        steps, palette = np.zeros(len(plane.points)), ["#B0B0B0"]
        if self._missing_decoder() is None:
            paint = drawing.colouring(self.selection.codes, self.selection.epoch, str(self.colour.value))
            palette = list(paint.colours) if paint.kinds else _shades(paint, SHADES)
            steps = paint.values / max(len(paint.kinds) - 1, 1)
        if palette != self._palette:
            self._palette = palette
            # The colours are sent together with the points below, so that the browser draws once.
            self.scatter.color(by="colour", map=palette, norm=(0, 1), skip_widget_update=True)
        self.scatter.data(plane.table().assign(colour=steps), animate=True)
        label, key = ("colours are being computed", "…") if paint is None else (html.escape(paint.label), _key(paint))
        across, up = plane.axes
        facts = [
            f"epoch {self.selection.epoch}, pathway {self.selection.pathway}", f"across: {across}", f"up: {up}",
            plane.note, f"half-height {FRAME * plane.scale:.3g}",
        ]
        self.legend.value = f"<b>{label}</b>: {key}<br>{' · '.join(fact for fact in facts if fact)}"

    def _plane(self) -> Projection:
        """Return the projection to draw, in the scale of the epoch or in the largest scale of all epochs."""
        plane = self._plane_at(self.selection.epoch)
        if not self.common.value:
            return plane
        largest = max(self._plane_at(epoch).scale for epoch in self.selection.codes.epochs)
        return replace(plane, points=plane.points * (plane.scale / largest), scale=largest)

    def _plane_at(self, epoch: int) -> Projection:
        pathway, kind = self.selection.pathway, self.plane.value
        return self.selection.codes.plane(epoch, pathway, kind, self.first.value, self.second.value)

    def picture(self) -> Drawing:
        codes, epoch, pathway = self.selection.codes, self.selection.epoch, self.selection.pathway
        colour, operations = str(self.colour.value), self.selection.operations
        drawn = drawing.draw_map(codes, epoch, pathway, "pca", colour, operations)
        if not operations:
            return drawn
        names = ", ".join(operation_name(i) for i in operations[:5])
        return replace(drawn, alt=f"{drawn.alt} Rings mark {names}.")


def _shades(paint: drawing.Colouring, count: int) -> list[str]:
    """Return `count` evenly spaced colours of a scale."""
    return [to_hex(colour) for colour in colormaps[str(paint.colours)](np.linspace(0, 1, count))]


def _key(paint: drawing.Colouring) -> str:
    """Return the HTML of the legend: the colour and name of each kind, or a colour bar with the ends of the scale."""
    if paint.kinds:
        counts = [int((paint.values == i).sum()) for i in range(len(paint.kinds))]
        return " ".join(
            f'<span style="color:{colour}">●</span> {html.escape(kind)} ({count:,})'
            for kind, colour, count in zip(paint.kinds, paint.colours, counts, strict=True)
        )
    bar = f"width:9em;height:.8em;background:linear-gradient(90deg,{', '.join(_shades(paint, 9))})"
    return f'{paint.low:.3g} <span style="display:inline-block;{bar}"></span> {paint.high:.3g}'
