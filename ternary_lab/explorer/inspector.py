"""A view of facts about the chosen operations.

The facts are truth tables, decoded entries, properties, codes and neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
import torch

from ternary_lab import space
from ternary_lab.explorer import html_tables
from ternary_lab.explorer.operation_picker import operation_name
from ternary_lab.explorer.selection import Selection, Source
from ternary_lab.explorer.view import View
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.space import named_tables
from ternary_lab.model import PATHWAYS
from ternary_lab.space import SIZE

SHOWN = 12
"""Largest number of truth tables that the view shows if several operations are chosen."""
NEIGHBOURS = 8
"""Number of lines in each list of neighbours."""


class Inspector(View):
    """Facts about one chosen operation, or common properties of several operations."""

    title = "Inspector"

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.selection = Selection.of(source)
        self.text = widgets.HTML()
        self.fill(self.text)
        self.follow(self.selection, ["operations", "epoch", "pathway"], self.show)

    def show(self) -> None:
        chosen = self.selection.operations
        if not chosen:
            self.text.value = (
                "<h4>No operation chosen</h4>Click a point of the map, or hold and drag to draw a lasso; or type a "
                "name, an index or nine entries below the map."
            )
        elif len(chosen) == 1:
            self.text.value = self._one(chosen[0])
            self._add_probabilities(chosen[0])
        else:
            self.text.value = self._several(chosen)

    def _add_probabilities(self, index: int) -> None:
        """Compute p(x) under the prior for each decoder without it, then show the operation again."""
        snapshot, epoch = self.selection.snapshot, self.selection.epoch
        missing = [pathway for pathway in PATHWAYS if not snapshot.has_log_probability(pathway)]

        def then(_: object) -> None:
            if self.selection.operations == (index,) and self.selection.epoch == epoch:
                self.text.value = self._one(index)

        if missing:
            self.in_background(
                "probability", "computing probabilities under the prior …",
                lambda: [snapshot.log_probability(pathway) for pathway in missing], then,
            )

    def _one(self, index: int) -> str:
        properties = self.selection.codes.properties
        facts, flags = properties.loc[index], properties.select_dtypes(bool).columns
        names = ", ".join(name.replace("_", " ") for name in flags if facts[name])
        tables = html_tables.operation_table(index, "rows a, columns b: −, 0, +") + self._decoded(index)
        return (
            f"<h4>{operation_name(index)}</h4>{tables}"
            f"<div>{facts['split']} split; {names or 'none of the listed properties'}; "
            f"depends on {facts['depends_on']}; {facts['zeros']} zeros</div>"
            f"<div>{self._codes(index)}</div>{self._neighbours(index)}"
        )

    def _decoded(self, index: int) -> str:
        """Return the tables that the decoders A and B produce from the code of the operation.

        Each table shows the probability of the operation given its code, and N p(x) under the prior.
        """
        snapshot, tables = self.selection.snapshot, []
        for i, pathway in enumerate(PATHWAYS):
            q = snapshot.entry_probabilities(snapshot.mu[i, index], pathway)
            own = html_tables.probability(float(snapshot.own_log_probability[i, index].exp()))
            prior = "…"
            if snapshot.has_log_probability(pathway):
                prior = f"{SIZE * float(snapshot.log_probability(pathway)[index].exp()):.3g}"
            tables.append(html_tables.captioned(
                html_tables.decoded_table(q, label=f"decoder {pathway} of this operation's code", reference=index),
                f'<span class="tl-{pathway}">decoder {pathway}</span>, own code<br>p(x | μ) {own}<br>'
                f"N·p(x) under the prior {prior}",
            ))
        return "".join(tables)

    def _codes(self, index: int) -> str:
        """Return plots of μ ± σ in each latent dimension, for both pathways."""
        snapshot, plots = self.selection.snapshot, []
        for i, pathway in enumerate(PATHWAYS):
            mu, sigma = snapshot.mu[i, index], snapshot.sigma[i, index]
            plots.append(html_tables.captioned(
                html_tables.error_bars(mu.tolist(), sigma.tolist(), f"latent code of pathway {pathway}"),
                f'<span class="tl-{pathway}">{pathway}</span>: μ ± σ by dimension; '
                f"‖μ‖ {float(mu.norm()):.2f}, mean σ {float(sigma.mean()):.2f}",
            ))
        return "".join(plots)

    def _neighbours(self, index: int) -> str:
        """Return three lists of operations.

        They contain the operations with the nearest codes, the operations that differ in one entry, and the operations
        that the decoder most often produces instead of the chosen operation.
        """
        snapshot, pathway, mu = self.selection.snapshot, self.selection.pathway, self.selection.mu
        hamming = hamming_distances(index)
        adjacent = torch.nonzero(hamming == 1).flatten()
        distances = (mu[adjacent] - mu[index]).norm(dim=1)
        return (
            html_tables.list_table([f"nearest codes, {pathway}", "distance", "Hamming"], [
                (operation_name(i), f"{distance:.2f}", str(int(hamming[i])))
                for i, distance in snapshot.neighbours(pathway, index, NEIGHBOURS)
            ])
            + html_tables.list_table(["one entry away", "distance"], [
                (operation_name(int(adjacent[i])), f"{float(distances[i]):.2f}")
                for i in distances.argsort()[:NEIGHBOURS].tolist()
            ])
            + html_tables.list_table(["decoded instead", "p"], [
                (operation_name(i), html_tables.probability(p))
                for i, p in snapshot.confused_with(pathway, index, NEIGHBOURS)
            ])
        )

    def _several(self, chosen: Sequence[int]) -> str:
        snapshot, properties = self.selection.snapshot, self.selection.codes.properties
        facts, all_flags = properties.loc[list(chosen)], properties.select_dtypes(bool).mean()
        tables = space.operations(torch.tensor(chosen))
        share, classes = torch.stack([(tables == value).float().mean(0) for value in (-1, 0, 1)]).max(0)
        common = html_tables.truth_table(
            (classes - 1).tolist(), label="most frequent value of each entry", strength=share.tolist()
        )
        same = int((share == 1).sum())
        flags = facts.select_dtypes(bool).mean()
        flag_rows = [
            (name.replace("_", " "), f"{100 * flags[name]:.1f} %", f"{100 * all_flags[name]:.1f} %")
            for name in (flags - all_flags).abs().sort_values(ascending=False).index[:6]
        ]
        right = ", ".join(
            f'<span class="tl-{pathway}">{pathway}</span> '
            f"{100 * float(snapshot.reconstructed[i, list(chosen)].float().mean()):.1f} %"
            for i, pathway in enumerate(PATHWAYS)
        )
        drawn = "".join(html_tables.operation_table(i, small=True) for i in chosen[:SHOWN])
        more = f" (the first {SHOWN})" if len(chosen) > SHOWN else ""
        return (
            f"<h4>{len(chosen):,} operations chosen</h4>"
            + html_tables.captioned(common, f"most frequent value of each entry;<br>{same} of 9 the same in all")
            + html_tables.list_table(["property", "chosen", "all"], flag_rows)
            + f"<div>reconstructed from their own code: {right}; zeros: mean {facts['zeros'].mean():.2f} "
            f"(all: {properties['zeros'].mean():.2f})</div><div>{drawn}{more}</div>"
        )

    def picture(self) -> Drawing | None:
        chosen = self.selection.operations[:SHOWN]
        return named_tables({operation_name(i): i for i in chosen}) if chosen else None


def hamming_distances(index: int) -> torch.Tensor:
    """Return, for each of the N operations, the number of entries that differ from operation `index`: (N,) int64."""
    return (space.operations() != space.operations(torch.tensor(index))).sum(1)
