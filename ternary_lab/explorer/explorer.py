"""All parts on one page, looking at the same run, epoch, pathway and operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets
from matplotlib.figure import Figure

from ternary_lab.errors import TernaryLabError
from ternary_lab.explorer.coverage_holes import Holes
from ternary_lab.explorer.epoch_slider import Timeline
from ternary_lab.explorer.inspector import Inspector
from ternary_lab.explorer.interpolation import PathFinder
from ternary_lab.explorer.latent_editor import DecoderDesk
from ternary_lab.explorer.map import Map
from ternary_lab.explorer.schedule_designer import ScheduleDesigner
from ternary_lab.explorer.selection import View
from ternary_lab.explorer.widget_base import Part, row
from ternary_lab.runs.load import RunRecord, load_run, published

TABS: dict[str, Callable[[View, Path], Part]] = {
    DecoderDesk.title: lambda view, _: DecoderDesk(view),
    PathFinder.title: lambda view, _: PathFinder(view),
    Holes.title: lambda view, _: Holes(view),
    ScheduleDesigner.title: lambda _, folder: ScheduleDesigner(folder=folder),
}
"""The parts behind tabs; trainings of the last one are kept in the folder."""


class Explorer(Part):
    """The latent explorer of a run: its directory, or a published run's name.

    A run that cannot be read is named on the page, with a field to open another.
    """

    title = "Latent explorer"

    def __init__(
        self, run: RunRecord | str | Path = "v5_5/seed=42", *, folder: str | Path = "../runs/designed"
    ) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.source = widgets.Combobox(
            value=str(run.path if isinstance(run, RunRecord) else run), description="run", continuous_update=False,
            options=[name for name in published() if load_run(name).epochs],
            placeholder="a run's directory, or a published run", layout=widgets.Layout(width="36em"),
        )
        self.page = widgets.VBox()
        self.tabs = widgets.Tab([widgets.VBox() for _ in TABS], titles=list(TABS))
        self.tabs.observe(self.guard(lambda _: self._turn()), "selected_index")
        self.fill(self.source, self.page)
        self.source.observe(self.guard(lambda _: self.explore(self.source.value)), "value")
        self.guard(self.explore)(run)

    def explore(self, run: RunRecord | str | Path) -> None:
        """Show another run. On the page an error, with what can be opened instead, where it cannot be read."""
        try:
            self.view = View.of(run)
            self.map, self.inspector = Map(self.view), Inspector(self.view)
            self.timeline = Timeline(self.view)
        except TernaryLabError as error:
            raise type(error)(f"{error}: name another run above, for example v5_5/seed=42") from error
        self._made: dict[str, Part] = {}
        self.tabs.children = tuple(widgets.VBox() for _ in TABS)
        self.tabs.selected_index = 0
        self._turn()
        self.map.layout.flex, self.inspector.layout.flex = "3 1 30em", "2 1 24em"
        self.page.children = (row(self.map, self.inspector), self.timeline, self.tabs)

    def part(self, title: str) -> Part:
        """The part behind a tab, made when it is first asked for."""
        if title not in self._made:
            self._made[title] = TABS[title](self.view, self.folder)
        return self._made[title]

    def _turn(self) -> None:
        """Show the part behind the chosen tab; the others rest."""
        for part in self._made.values():
            part.active = False
        shown = self.part(list(TABS)[self.tabs.selected_index])
        self.tabs.children[self.tabs.selected_index].children = (shown,)
        shown.active = True

    def picture(self) -> tuple[Figure, str] | None:
        return self.map.picture() if hasattr(self, "map") else None
