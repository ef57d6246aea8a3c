"""A view of operations that a decoder almost never produces.

The view also shows which operations the decoder produces from the codes of these operations.
"""

from __future__ import annotations

import ipywidgets as widgets
from torch import Tensor

from ternary_lab.explorer.html_tables import operation_table, probability
from ternary_lab.explorer.operation_picker import operation_name
from ternary_lab.explorer.selection import Selection, Source
from ternary_lab.explorer.view import View, row
from ternary_lab.model import Pathway
from ternary_lab.space import SIZE

SHOWN = 12
"""Number of operations in the list."""


class CoverageHoles(View):
    """A list of the operations with the lowest probability under the prior.

    A click on an operation of the list chooses the operation in all views.
    """

    title = "Coverage holes"

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.selection = Selection.of(source)
        self.rarest = widgets.Select(
            options=[], description="rarest", rows=SHOWN, style={"description_width": "4em"},
            layout=widgets.Layout(width="24em"),
        )
        self.text = widgets.HTML()
        self.fill(row(self.rarest, self.text))
        self.on_change(self._choose, self.rarest)
        self.follow(self.selection, ["epoch", "pathway"], self.show)

    def show(self) -> None:
        snapshot, pathway = self.selection.snapshot, self.selection.pathway

        def then(log_p: Tensor) -> None:
            if (snapshot.epoch, pathway) == (self.selection.epoch, self.selection.pathway):
                self._list(log_p, pathway)

        text = f"computing probabilities under decoder {pathway} at epoch {snapshot.epoch} …"
        self.in_background("holes", text, lambda: snapshot.log_probability(pathway), then)

    def _list(self, log_p: Tensor, pathway: Pathway) -> None:
        relative = SIZE * log_p.exp()
        found = log_p.topk(SHOWN, largest=False).indices.tolist()
        self.rarest.index = None
        self.rarest.options = [(f"{operation_name(i)}   N·p = {float(relative[i]):.2g}", i) for i in found]
        shares = "; ".join(
            f"{100 * float((relative < limit).float().mean()):.2f} % of all operations have N·p < {limit:g}"
            for limit in (0.01, 0.1, 0.5)
        )
        self._pathway = pathway
        self._summary = (
            f"<div>decoder {pathway}, sampled from the prior (a uniform generator has N·p = 1): {shares}</div>"
        )
        self.text.value = self._summary

    def _choose(self) -> None:
        index = self.rarest.value
        if index is None:
            return
        self.selection.operations = (index,)
        others = "".join(
            operation_table(i, f"p {probability(p)}", reference=index)
            for i, p in self.selection.snapshot.confused_with(self._pathway, index, 6)
        )
        wanted = operation_table(index, "almost never produced")
        self.text.value = f"{self._summary}<h4>Operations decoded from its code instead</h4><div>{wanted}{others}</div>"
