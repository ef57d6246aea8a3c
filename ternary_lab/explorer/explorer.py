"""A page with all views of a run. The views share one selection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from ternary_lab.arguments import read_path
from ternary_lab.errors import TernaryLabError
from ternary_lab.explorer.coverage_holes import CoverageHoles
from ternary_lab.explorer.epoch_slider import EpochSlider
from ternary_lab.explorer.inspector import Inspector
from ternary_lab.explorer.interpolation import Interpolation
from ternary_lab.explorer.latent_editor import LatentEditor
from ternary_lab.explorer.map import Map
from ternary_lab.explorer.schedule_designer import ScheduleDesigner
from ternary_lab.explorer.selection import Selection
from ternary_lab.explorer.view import View, row
from ternary_lab.figures.save import Drawing
from ternary_lab.runs.load import RunRecord, load_run, published

TABS: dict[str, Callable[[Selection], View]] = {
    kind.title: kind for kind in (LatentEditor, Interpolation, CoverageHoles)
}
"""The view behind each tab, by the title of the tab. To add a tab, add its view here."""


class Explorer(View):
    """The latent explorer of a run.

    If the run cannot be read, the page shows the reason. The user can then name another run in a text field.

    Args:
        run: a run, its directory or the name of a published run.
        folder: the folder in which the schedule designer stores its trainings.
    """

    title = "Latent explorer"

    def __init__(
        self, run: RunRecord | str | Path = "v5_5/seed=42", *, folder: str | Path = "../runs/designed"
    ) -> None:
        super().__init__()
        self.folder = read_path(folder).absolute()
        self.source = widgets.Combobox(
            value=str(run.path if isinstance(run, RunRecord) else run), description="run", continuous_update=False,
            options=[name for name in published() if load_run(name).epochs],
            placeholder="a run's directory, or a published run", layout=widgets.Layout(width="36em"),
        )
        self.page = widgets.VBox()
        titles = [*TABS, ScheduleDesigner.title]
        self.tabs = widgets.Tab([widgets.VBox() for _ in titles], titles=titles)
        self.tabs.observe(self.guard(self._open_tab), "selected_index")
        self.fill(self.source, self.page)
        self.on_change(lambda: self.explore(self.source.value), self.source)
        self.guard(lambda: self.explore(run))()

    def explore(self, run: RunRecord | str | Path) -> None:
        """Show another run. Raises RunError or CheckpointError if the run cannot be read."""
        try:
            self.selection = Selection.of(run)
            self.map, self.inspector = Map(self.selection), Inspector(self.selection)
            self.epoch_slider = EpochSlider(self.selection)
        except TernaryLabError as error:
            raise type(error)(f"{error}: name another run above, for example v5_5/seed=42") from error
        self._views: dict[str, View] = {}
        self.tabs.children = tuple(widgets.VBox() for _ in self.tabs.titles)
        self.tabs.selected_index = 0
        self._open_tab()
        self.map.layout.flex, self.inspector.layout.flex = "3 1 30em", "2 1 24em"
        self.page.children = (row(self.map, self.inspector), self.epoch_slider, self.tabs)

    def view(self, title: str) -> View:
        """Return the view behind the tab `title`. The first call makes the view."""
        if title not in self._views:
            made = ScheduleDesigner(folder=self.folder) if title not in TABS else TABS[title](self.selection)
            self._views[title] = made
        return self._views[title]

    def _open_tab(self) -> None:
        """Show the view behind the chosen tab. The views behind other tabs are not updated until they are chosen."""
        for view in self._views.values():
            view.hidden = True
        index = self.tabs.selected_index
        shown = self.view(self.tabs.titles[index])
        self.tabs.children[index].children = (shown,)
        shown.reveal()

    def picture(self) -> Drawing | None:
        return self.map.picture() if hasattr(self, "map") else None
