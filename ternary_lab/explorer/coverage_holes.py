"""The operations that a decoder almost never produces, and what it gives instead."""

from __future__ import annotations

from pathlib import Path

import ipywidgets as widgets
import torch

from ternary_lab.explorer import confusion, widget_base
from ternary_lab.explorer.selection import View
from ternary_lab.explorer.widget_base import Part, operation_name, row
from ternary_lab.model import Pathway
from ternary_lab.runs.load import RunRecord
from ternary_lab.space import SIZE

SHOWN = 12


class Holes(Part):
    """The rarest operations under the prior, for the view's pathway; choosing one chooses it everywhere."""

    title = "Holes"

    def __init__(self, source: View | RunRecord | str | Path) -> None:
        super().__init__()
        self.view = View.of(source)
        self.rarest = widgets.Select(
            options=[], description="rarest", rows=SHOWN, style={"description_width": "4em"},
            layout=widgets.Layout(width="24em"),
        )
        self.text = widgets.HTML()
        self.fill(row(self.rarest, self.text))
        self.rarest.observe(self.guard(lambda _: self._chosen()), "value")
        self.follow(self.view, ["epoch", "pathway"], self.show)
        self.guard(self.show)()

    def show(self) -> None:
        snapshot, pathway = self.view.snapshot, self.view.pathway
        key = snapshot.epoch, pathway
        self.later(
            "holes", f"probabilities under decoder {pathway} at epoch {snapshot.epoch} are being computed …",
            lambda: snapshot.log_probability(pathway),
            lambda log_p: self._list(log_p, pathway) if key == (self.view.epoch, self.view.pathway) else None,
        )

    def _list(self, log_p: torch.Tensor, pathway: Pathway) -> None:
        found = log_p.topk(SHOWN, largest=False)
        self.rarest.index = None
        self.rarest.options = [
            (f"{operation_name(i)}   N·p = {SIZE * float(torch.tensor(value).exp()):.2g}", i)
            for i, value in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]
        shares = [(limit, 100 * float((log_p.exp() * SIZE < limit).float().mean())) for limit in (0.01, 0.1, 0.5)]
        said = "; ".join(f"{share:.2f} % of all operations have N·p < {limit:g}" for limit, share in shares)
        self._pathway = pathway
        self._summary = (
            f"<div>decoder {pathway}, sampled from the prior (a uniform generator has N·p = 1): {said}</div>"
        )
        self.text.value = self._summary

    def _chosen(self) -> None:
        index = self.rarest.value
        if index is None:
            return
        self.view.selection = (index,)
        wrong = confusion.confused_with(self.view.snapshot.model, self._pathway, index, 6)
        own = widget_base.captioned(
            widget_base.table(widget_base.entries(index), label=f"operation {index}"),
            f"{operation_name(index)}<br>almost never given",
        )
        others = "".join(
            widget_base.captioned(
                widget_base.table(
                    widget_base.entries(i), label=f"operation {i}",
                    wrong=[a != b for a, b in zip(widget_base.entries(i), widget_base.entries(index), strict=True)],
                ),
                f"{operation_name(i)}<br>p {widget_base.probability(p)}",
            )
            for i, p in wrong
        )
        self.text.value = f"{self._summary}<h4>From its code it is given as</h4><div>{own}{others}</div>"
