"""The page of a run in a notebook, with a kernel that opens other runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import ipywidgets as widgets
import traitlets

from ternary_lab.arguments import whole_number
from ternary_lab.errors import RunError, TernaryLabError
from ternary_lab.explorer.page import HEIGHT, Page, StillMap, chosen_operations
from ternary_lab.explorer.view import View, row
from ternary_lab.figures.codes import draw_code_maps
from ternary_lab.figures.save import Drawing
from ternary_lab.model import PATHWAYS
from ternary_lab.page.data import Bundle, bundle, short_name
from ternary_lab.runs.load import RunRecord, load_run, published

SYNCED = ("epoch", "pathway", "chosen")
"""State that the browser and Python share."""
ANOTHER = "choose another run above"


class Explorer(View):
    """The latent explorer of a run. The state can be read and set, for example by `explorer.epoch = 50`.

    The page appears when its codes are computed, which takes about a third of a second for each epoch with saved
    weights. The probabilities under the prior follow later. If the run cannot be read, a line says why, and the user
    can choose another run.

    Args:
        run: a run, its directory or the name of a published run.
        prior: whether to compute the probabilities under the prior, for the holes.
        height: height of the page in pixels.
    """

    title = "Latent explorer"
    epoch = traitlets.CInt()
    """The shown epoch. A value without saved weights becomes the nearest epoch that has weights."""
    pathway = traitlets.Enum(PATHWAYS, default_value="B")
    chosen: traitlets.List[int] = traitlets.List()
    """Indices of the chosen operations, in the order of choosing. Raises InputError for values that are no indices."""

    def __init__(
        self, run: RunRecord | str | Path = "v5_5/seed=42", *, prior: bool = True, height: int = HEIGHT
    ) -> None:
        super().__init__()
        self.page: Page | None = None
        """The page, or None until it is computed."""
        self._links: list[traitlets.link] = []
        self._still: StillMap | None = None
        self._prior, self._height = prior, whole_number(height, "height", 1)
        wide = {"description_width": "initial"}
        names = [name for name in published() if load_run(name).epochs]
        self.choice = widgets.Dropdown(
            options=names, value=run if run in names else None, description="published run", style=wide,
            layout=widgets.Layout(width="20em"),
        )
        self.directory = widgets.Text(
            description="or the directory of a run", style=wide, continuous_update=False,
            layout=widgets.Layout(width="32em"),
        )
        self._place = widgets.VBox()
        self.fill(row(self.choice, self.directory), self._place)
        for field, other in ((self.choice, self.directory), (self.directory, self.choice)):
            self.on_change(partial(self._explore_named, field, other), field)
        self.guard(lambda: self.explore(run))()

    def _explore_named(self, field: widgets.Widget, other: widgets.Widget) -> None:
        """Show the run that a field names, and empty the other field."""
        if field.value:
            other.value = None if other is self.choice else ""
            self.explore(field.value)

    def explore(self, run: RunRecord | str | Path) -> None:
        """Show another run at its last epoch, when its page is computed.

        Raises RunError or CheckpointError if the run cannot be read. If a file turns out to be damaged later, a line
        says so, and the page before stays.
        """
        try:
            record = run if isinstance(run, RunRecord) else load_run(run)
            still = StillMap(record)
            count = len(still.epochs)
        except TernaryLabError as error:
            raise type(error)(f"{error}: {ANOTHER}") from error
        if self.page is None:
            self._adopt(still)
        self.in_background(
            f"preparing the page of {short_name(record)}, {count} epochs …",
            lambda: bundle(record, prior=False), partial(self._show, still),
        )

    def _adopt(self, still: StillMap) -> None:
        """Make the state that of a run: its last epoch, and nothing chosen."""
        for link in self._links:
            link.unlink()
        self._links, self._still = [], still
        self.epoch, self.chosen = still.epochs[-1], []

    def _show(self, still: StillMap, found: Bundle) -> None:
        if still is not self._still:
            self._adopt(still)
        old, self.page = self.page, Page(
            found, epoch=self.epoch, pathway=self.pathway, chosen=self.chosen, height=self._height
        )
        self._links = [traitlets.link((self, name), (self.page, name)) for name in SYNCED]
        self._place.children = (self.page,)
        if old is not None:
            old.layout.close()
            old.close()
            old.parts = {}  # the closed widget itself may stay in memory
        if self._prior:
            self.in_background(
                "computing the probabilities under the prior, which the page then shows: a second or two an epoch …",
                lambda: bundle(still.run), self._complete,
            )

    def _complete(self, found: Bundle) -> None:
        """Give the page the probabilities. The browser keeps the whole state of the page."""
        if self.page is not None:
            with self.page.hold_sync():
                self.page.header, self.page.parts = found.header, found.parts

    @traitlets.validate("epoch")
    def _nearest_epoch(self, proposal: traitlets.Bunch) -> int:
        if self._still is None:
            raise RunError(f"no run is shown: {ANOTHER}")
        return min(self._still.epochs, key=lambda epoch: abs(epoch - proposal["value"]))

    @traitlets.validate("chosen")
    def _indices(self, proposal: traitlets.Bunch) -> list[int]:
        return chosen_operations(proposal["value"])

    def picture(self) -> Drawing | None:
        """Return the maps of both pathways at the shown epoch, or None if no run is shown."""
        if self._still is None:
            return None
        return draw_code_maps(self._still.at(self.epoch), 2, self.chosen)
