"""The pages of two runs side by side."""

from __future__ import annotations

from pathlib import Path

import ipywidgets as widgets

from ternary_lab.arguments import whole_number
from ternary_lab.explorer.page import HEIGHT, Page, StillMap
from ternary_lab.explorer.view import View
from ternary_lab.figures.codes import draw_code_maps
from ternary_lab.figures.save import Drawing
from ternary_lab.page.data import bundle
from ternary_lab.runs.load import RunRecord, load_run


class TwoMaps(View):
    """Two linked maps in one page. Both show the same pathway, plane and colours, and mark the same operations.

    The maps appear when they are computed. The page holds no probabilities under the prior, which would take most of
    the time. Raises RunError if one of the runs cannot be read.

    Args:
        left: a run, the directory of a run or the name of a published run.
        right: another run, given in the same way.
        height: height of the page in pixels.
    """

    title = "Two maps"

    def __init__(
        self, left: RunRecord | str | Path = "v5_5/seed=42", right: RunRecord | str | Path = "beyond/seed=42",
        *, height: int = HEIGHT,
    ) -> None:
        super().__init__()
        self.page: Page | None = None
        """The page, or None until it is computed."""
        self._height = whole_number(height, "height", 1)
        self._stills = [StillMap(run if isinstance(run, RunRecord) else load_run(run)) for run in (left, right)]
        last = self._stills[0].epochs[-1]
        place = widgets.VBox()
        self.fill(place)

        def show(page: Page) -> None:
            self.page, place.children = page, (page,)

        self.in_background(
            f"preparing two maps, {sum(len(still.epochs) for still in self._stills)} epochs: half a second for each …",
            lambda: Page(
                *(bundle(still.run, prior=False) for still in self._stills), epoch=last, height=self._height
            ),
            show,
        )

    def picture(self) -> Drawing:
        """Return the maps of pathway B of both runs at their last epochs, in the left run's plane of two entries."""
        maps = []
        for still in self._stills:
            name = f"{still.run.config.name}, seed {still.run.seed}\n"
            maps += still.at(still.epochs[-1], ("B",), name, self._stills[0].entries)
        return draw_code_maps(maps, 2)
