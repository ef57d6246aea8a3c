"""A view with the maps of two runs side by side."""

from __future__ import annotations

import ipywidgets as widgets
import pandas as pd
import traitlets

from ternary_lab.explorer import drawing
from ternary_lab.explorer.epoch_slider import EpochSlider
from ternary_lab.explorer.map import Map
from ternary_lab.explorer.selection import Selection, Source
from ternary_lab.explorer.view import View, row
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import figure_of, panels, style


class TwoMaps(View):
    """A map and an epoch slider for each of two runs.

    Both maps show the same pathway. If the user chooses operations on one map, both maps mark these operations.
    """

    title = "Two maps"

    def __init__(self, left: Source = "v5_5/seed=42", right: Source = "beyond/seed=42") -> None:
        super().__init__()
        self.selections = Selection.of(left), Selection.of(right)
        self.maps = tuple(Map(selection) for selection in self.selections)
        sides = []
        for selection, shown in zip(self.selections, self.maps, strict=True):
            sides.append(widgets.VBox([shown, EpochSlider(selection)], layout=widgets.Layout(flex="1 1 24em")))
        for name in ("operations", "pathway"):
            traitlets.link((self.selections[0], name), (self.selections[1], name))
        self.fill(row(*sides))

    def picture(self) -> Drawing:
        alts, tables = [], []
        with style():
            axes = panels(1, 2, 3.2)
            for axis, selection, shown in zip(axes, self.selections, self.maps, strict=True):
                codes, epoch, pathway = selection.codes, selection.epoch, selection.pathway
                colour = str(shown.colour.value)
                drawn = drawing.map_on(axis, codes, epoch, pathway, "pca", colour, selection.operations)
                name = f"{codes.run.config.name}, seed {codes.run.seed}"
                axis.set_title(f"{name}: epoch {epoch}")
                alts.append(f"{name}: {drawn.alt}")
                tables.append(drawn.data.assign(run=name))
        return Drawing(figure_of(axes[0]), " ".join(alts), pd.concat(tables))
