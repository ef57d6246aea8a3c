"""Two runs side by side: their maps, with the same operations chosen and the same pathway shown."""

from __future__ import annotations

from pathlib import Path

import traitlets
from matplotlib.figure import Figure

from ternary_lab.explorer import drawing
from ternary_lab.explorer.epoch_slider import Timeline
from ternary_lab.explorer.map import Map
from ternary_lab.explorer.selection import View
from ternary_lab.explorer.widget_base import Part, row
from ternary_lab.figures.style import figure_of, panels, style
from ternary_lab.runs.load import RunRecord


class Pair(Part):
    """The maps of two runs, each with its epochs. What is chosen in one is ringed in the other."""

    title = "Two runs"

    def __init__(
        self, left: View | RunRecord | str | Path = "v5_5/seed=42",
        right: View | RunRecord | str | Path = "beyond/seed=42",
    ) -> None:
        super().__init__()
        self.views = View.of(left), View.of(right)
        self.maps = tuple(Map(view) for view in self.views)
        sides = []
        for view, shown in zip(self.views, self.maps, strict=True):
            side = Part()
            side.fill(shown, Timeline(view))
            side.layout.flex = "1 1 24em"
            sides.append(side)
        for name in ("selection", "pathway"):
            traitlets.link((self.views[0], name), (self.views[1], name))
        self.fill(row(*sides))

    def picture(self) -> tuple[Figure, str]:
        said = []
        with style():
            axes = panels(1, 2, 3.2)
            for axis, shown in zip(axes, self.maps, strict=True):
                view, colour = shown.view, str(shown.colour.value)
                drawn = drawing.map_on(axis, view.atlas, view.epoch, view.pathway, "pca", colour, view.selection)
                name = f"{view.atlas.run.config.name}, seed {view.atlas.run.seed}"
                axis.set_title(f"{name}: epoch {view.epoch}")
                said.append(f"{name}: {drawn.alt}")
        return figure_of(axes[0]), " ".join(said)
