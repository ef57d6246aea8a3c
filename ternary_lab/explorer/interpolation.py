"""A view of two paths between the codes of two operations, and of the decoded operations."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import pandas as pd
import torch

from ternary_lab.errors import InputError
from ternary_lab.explorer.html_tables import operation_table, probability
from ternary_lab.explorer.operation_picker import OperationPicker, operation_name
from ternary_lab.explorer.selection import Selection, Source
from ternary_lab.explorer.view import View, row
from ternary_lab.figures.save import Drawing, image
from ternary_lab.figures.style import GREEN, PURPLE, figure_of, fixed, panels, style
from ternary_lab.studies.generalisation.paths import PATHS, Walk, walk

STEPS = 201
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#999999", "linewidth": 3}, {"color": GREEN}, {"color": PURPLE, "linestyle": "--"}
)
"""Line styles of the most probable operation, of the start operation and of the end operation."""


class Interpolation(View):
    """Truth tables and probabilities along the straight and the spherical path between two codes."""

    title = "Interpolation"

    def __init__(self, source: Source, start: str = "min (Kleene and)", end: str = "max (Kleene or)") -> None:
        super().__init__()
        self.selection = Selection.of(source)
        self.start, self.end = OperationPicker("from", start), OperationPicker("to", end)
        self.swap = self.button(
            "swap", "exchange the two operations", lambda: self._set(self.end.value, self.start.value)
        )
        self.chosen = self.button(
            "use chosen operations", "from the lowest to the highest index chosen on the map", self._use_selection
        )
        self.text, self.curve = widgets.HTML(), widgets.HTML()
        self.fill(row(self.start, self.end, self.swap, self.chosen), self.text, self.curve)
        self.on_change(self.show, self.start, self.end)
        self.follow(self.selection, ["epoch", "pathway"], self.show)

    def _use_selection(self) -> None:
        chosen = self.selection.operations
        if len(chosen) < 2:
            raise InputError("a path needs two operations: choose two on the map (shift and click), or type them here")
        self._set(str(chosen[0]), str(chosen[-1]))

    def _set(self, start: str, end: str) -> None:
        with self.start.hold_trait_notifications(), self.end.hold_trait_notifications():
            self.start.value, self.end.value = start, end

    def walks(self) -> dict[str, Walk]:
        """Return the decoded straight and spherical path, by name.

        Raises InputError if the text in a field is not an operation.
        """
        ends = self.start.operation, self.end.operation
        model, pathway = self.selection.snapshot.model, self.selection.pathway
        a, b = self.selection.mu[list(ends)]
        return {name: walk(model, pathway, path(a, b, STEPS), ends) for name, path in PATHS.items()}

    def show(self) -> None:
        walks = self.walks()
        self.text.value = "".join(decoded_operations(name, found) for name, found in walks.items())
        drawing = self._curves(walks)
        self.curve.value = image(drawing.figure, drawing.alt, dpi=100)

    def _curves(self, walks: dict[str, Walk]) -> Drawing:
        names = [operation_name(picker.operation) for picker in (self.start, self.end)]
        t = [i / (STEPS - 1) for i in range(STEPS)]
        table = pd.DataFrame({"t": t})
        with style():
            axes = panels(1, 2, 1.9, sharey=True)
            for axis, (kind, found) in zip(axes, walks.items(), strict=True):
                curves = torch.stack([found.log_probability, *found.target_log_probability]).exp().cpu().numpy()
                for values, name, look in zip(curves, ("most probable", *names), LOOKS, strict=True):
                    axis.plot(t, values, label=name, **look)
                    table[f"{kind} path, {name}"] = values
                for step in found.changes:
                    axis.axvline(t[step], color="#bbbbbb", linewidth=0.5)
                axis.set(title=f"{kind} path, decoder {self.selection.pathway}", xlabel="t", ylim=(-0.03, 1.03))
            axes[0].set_ylabel("p(x | z(t))")
            figure = figure_of(axes[0])
            figure.set_size_inches(9, 2)
            fixed(figure, left=0.06, right=0.74, top=0.88, bottom=0.2, wspace=0.08)
            axes[1].legend(loc="upper left", bbox_to_anchor=(1.02, 1))
        changes = ", ".join(f"{len(found.changes)} times on the {kind} path" for kind, found in walks.items())
        alt = f"Probabilities along two paths from {names[0]} to {names[1]}; the operation changes {changes}."
        return Drawing(figure, alt, table)

    def picture(self) -> Drawing:
        return self._curves(self.walks())


def decoded_operations(name: str, found: Walk) -> str:
    """Return HTML with the operations along a path, in order.

    Below each operation is the t at which it becomes the most probable operation, and its highest probability until the
    next operation begins.
    """
    starts, ends = [0, *found.changes], [*found.changes, len(found.operations)]
    tables: list[str] = []
    previous = None
    for first, last in zip(starts, ends, strict=True):
        index = int(found.operations[first])
        highest = float(found.log_probability[first:last].max().exp())
        caption = f"t ≥ {first / (len(found.operations) - 1):.3f}<br>p ≤ {probability(highest)}"
        tables.append(operation_table(index, caption, reference=previous, small=True))
        previous = index
    return (
        f"<h4>{name} path: {len(found.changes)} changes, {found.entries_changed} entries changed</h4>"
        f"<div>{''.join(tables)}</div>"
    )
