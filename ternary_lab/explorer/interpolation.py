"""From one operation's code to another's, decoded on the way."""

from __future__ import annotations

from pathlib import Path

import ipywidgets as widgets
from matplotlib.figure import Figure

from ternary_lab.errors import InputError
from ternary_lab.explorer import widget_base
from ternary_lab.explorer.selection import View
from ternary_lab.explorer.widget_base import OperationPicker, Part, button, operation_name, row
from ternary_lab.figures.save import image
from ternary_lab.figures.style import GREEN, PURPLE, figure_of, fixed, panels, style
from ternary_lab.runs.load import RunRecord
from ternary_lab.studies.generalisation.paths import PATHS, Walk, walk

STEPS = 201


class PathFinder(Part):
    """Two operations, the straight and the spherical path between their codes, and what the decoder says along them."""

    title = "Path"

    def __init__(
        self, source: View | RunRecord | str | Path, start: str = "min (Kleene and)", end: str = "max (Kleene or)"
    ) -> None:
        super().__init__()
        self.view = View.of(source)
        self.start, self.end = OperationPicker("from", start), OperationPicker("to", end)
        self.swap = button("swap", "exchange both ends")
        self.chosen = button("the two chosen", "between the lowest and the highest index chosen on the map")
        self.text, self.curve = widgets.HTML(), widgets.HTML()
        self.fill(row(self.start, self.end, self.swap, self.chosen), self.text, self.curve)
        for picker in (self.start, self.end):
            picker.observe(self.guard(lambda _: self.show()), "value")
        self.swap.on_click(self.guard(lambda _: self._set(self.end.value, self.start.value)))
        self.chosen.on_click(self.guard(lambda _: self._take()))
        self.follow(self.view, ["epoch", "pathway"], self.show)
        self.guard(self.show)()

    def _take(self) -> None:
        if len(self.view.selection) < 2:
            raise InputError("a path needs two operations: choose two on the map (shift and click), or type them here")
        self._set(str(self.view.selection[0]), str(self.view.selection[-1]))

    def _set(self, start: str, end: str) -> None:
        with self.start.hold_trait_notifications(), self.end.hold_trait_notifications():
            self.start.value, self.end.value = start, end

    def walks(self) -> dict[str, Walk]:
        """The decoded paths by name. Raises InputError for an operation that there is not."""
        ends = self.start.operation, self.end.operation
        snapshot = self.view.snapshot
        a, b = (snapshot.mu[self.view.side, i] for i in ends)
        return {
            name: walk(snapshot.model, self.view.pathway, path(a, b, STEPS), ends) for name, path in PATHS.items()
        }

    def show(self) -> None:
        walks = self.walks()
        self.text.value = "".join(sequence(name, found) for name, found in walks.items())
        self.curve.value = image(*self._curves(walks), dpi=100)

    def _curves(self, walks: dict[str, Walk]) -> tuple[Figure, str]:
        names = [operation_name(picker.operation) for picker in (self.start, self.end)]
        with style():
            axes = panels(1, 2, 1.9, sharey=True)
            for axis, (kind, found) in zip(axes, walks.items(), strict=True):
                t = [i / (STEPS - 1) for i in range(STEPS)]
                axis.plot(t, found.log_probability.exp(), color="#999999", linewidth=3, label="most probable")
                for values, name, colour, line in zip(
                    found.target_log_probability, names, (GREEN, PURPLE), ("-", "--"), strict=True
                ):
                    axis.plot(t, values.exp(), color=colour, linestyle=line, label=name)
                for step in found.changes:
                    axis.axvline(t[step], color="#bbbbbb", linewidth=0.5)
                axis.set(title=f"{kind} path, decoder {self.view.pathway}", xlabel="t", ylim=(-0.03, 1.03))
            axes[0].set_ylabel("p(x | z(t))")
            figure = figure_of(axes[0])
            figure.set_size_inches(9, 2)
            fixed(figure, left=0.06, right=0.74, top=0.88, bottom=0.2, wspace=0.08)
            axes[1].legend(loc="upper left", bbox_to_anchor=(1.02, 1))
        changes = ", ".join(f"{len(found.changes)} times on the {kind} path" for kind, found in walks.items())
        return figure, f"Probabilities along two paths from {names[0]} to {names[1]}; the operation changes {changes}."

    def picture(self) -> tuple[Figure, str]:
        return self._curves(self.walks())


def sequence(name: str, found: Walk) -> str:
    """The operations along a walk in order, each with where it begins and its best probability."""
    starts = [0, *found.changes]
    ends = [*found.changes, len(found.operations)]
    figures, before = [], None
    for first, last in zip(starts, ends, strict=True):
        index = int(found.operations[first])
        values = widget_base.entries(index)
        changed: list[bool] = [] if before is None else [a != b for a, b in zip(values, before, strict=True)]
        best = float(found.log_probability[first:last].max().exp())
        at = first / (len(found.operations) - 1)
        figures.append(widget_base.captioned(
            widget_base.table(values, label=f"operation {operation_name(index)}", wrong=changed, small=True),
            f"t ≥ {at:.3f}<br>{operation_name(index)}<br>p ≤ {widget_base.probability(best)}",
        ))
        before = values
    return (
        f"<h4>{name} path: {len(found.changes)} changes, {found.entries_changed} entries changed</h4>"
        f"<div>{''.join(figures)}</div>"
    )
