"""The page of a run in a notebook, with a kernel that opens other runs."""

from __future__ import annotations

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
from ternary_lab.page.data import Bundle, bundle
from ternary_lab.runs.load import RunRecord, load_run, published

SYNCED = ("epoch", "pathway", "chosen")
"""State that the browser and Python share."""
ANOTHER = "choose another run above"


class Explorer(View):
    """The latent explorer of a run. The state can be read and set, for example by `explorer.epoch = 50`.

    The page appears when it is computed, which takes about a second for each epoch with saved weights. If the run
    cannot be read, a line says why, and the user can choose another run.

    Args:
        run: a run, its directory or the name of a published run.
        log_probability: whether the page holds the probabilities under the prior. They take most of the time.
        height: height of the page in pixels.
    """

    title = "Latent explorer"
    epoch = traitlets.CInt()
    """The shown epoch. A value without saved weights becomes the nearest epoch that has weights."""
    pathway = traitlets.Enum(PATHWAYS, default_value="B")
    chosen: traitlets.List[int] = traitlets.List()
    """Indices of the chosen operations, in the order of choosing. Raises InputError for values that are no indices."""

    def __init__(
        self, run: RunRecord | str | Path = "v5_5/seed=42", *, log_probability: bool = True, height: int = HEIGHT
    ) -> None:
        super().__init__()
        self.page: Page | None = None
        """The page, or None until it is computed."""
        self._links: list[traitlets.link] = []
        self._still: StillMap | None = None
        self._log_probability, self._height = log_probability, whole_number(height, "height", 1)
        wide = {"description_width": "initial"}
        self.choice = widgets.Dropdown(
            options=[name for name in published() if load_run(name).epochs], value=None, description="published run",
            style=wide, layout=widgets.Layout(width="20em"),
        )
        self.directory = widgets.Text(
            description="or the directory of a run", style=wide, continuous_update=False,
            layout=widgets.Layout(width="32em"),
        )
        self._place = widgets.VBox()
        self.fill(row(self.choice, self.directory), self._place)
        self.on_change(lambda: self._open_if_named(self.choice), self.choice)
        self.on_change(lambda: self._open_if_named(self.directory), self.directory)
        self.guard(lambda: self.explore(run))()

    def _open_if_named(self, field: widgets.Widget) -> None:
        if field.value:
            self.explore(field.value)

    def explore(self, run: RunRecord | str | Path) -> None:
        """Show another run at its last epoch. Raises RunError or CheckpointError if the run cannot be read."""
        try:
            record = run if isinstance(run, RunRecord) else load_run(run)
            still = StillMap(record)
            last = still.epochs[-1]
        except TernaryLabError as error:
            raise type(error)(f"{error}: {ANOTHER}") from error
        self._still = still
        self.epoch, self.chosen = last, []
        # about a second each: see `page.data.bundle`
        self.in_background(
            f"preparing the page of {record.path.parent.name}/{record.name}, {len(still.epochs)} epochs: "
            "about a second for each epoch …",
            lambda: bundle(record, log_probability=self._log_probability), self._show,
        )

    def _show(self, found: Bundle) -> None:
        old, self.page = self.page, Page(
            found, epoch=self.epoch, pathway=self.pathway, chosen=self.chosen, height=self._height
        )
        for link in self._links:
            link.unlink()
        self._links = [traitlets.link((self, name), (self.page, name)) for name in SYNCED]
        self._place.children = (self.page,)
        if old is not None:
            old.close()

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
