"""What is known of the chosen operations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ternary_lab import space
from ternary_lab.explorer import confusion, widget_base
from ternary_lab.explorer.selection import View
from ternary_lab.explorer.widget_base import Part, operation_name
from ternary_lab.figures.space import named_tables
from ternary_lab.figures.style import BLUE, VERMILION
from ternary_lab.model import PATHWAYS, Pathway
from ternary_lab.runs.load import RunRecord
from ternary_lab.space import SIZE

SHOWN = 12
"""Truth tables drawn of a larger selection."""


class Inspector(Part):
    """One operation: its table, what both decoders make of its code, its place in latent space, its neighbours.

    Several: what they have in common.
    """

    title = "Inspector"

    def __init__(self, source: View | RunRecord | str | Path) -> None:
        super().__init__()
        self.view = View.of(source)
        self.text = widgets.HTML()
        self.fill(self.text)
        self.follow(self.view, ["selection", "epoch", "pathway"], self.show)
        self.guard(self.show)()

    def show(self) -> None:
        chosen = self.view.selection
        if not chosen:
            self.text.value = (
                "<h4>No operation chosen</h4>Click a point of the map, or hold and drag for a lasso; or type a name, "
                "an index or nine entries below the map."
            )
        elif len(chosen) == 1:
            self.text.value = self._one(chosen[0])
            self._probabilities(chosen[0])
        else:
            self.text.value = self._several(chosen)

    def _probabilities(self, index: int) -> None:
        """Fill in N p(x), which takes a moment the first time at an epoch."""
        snapshot, epoch = self.view.snapshot, self.view.epoch
        missing = [p for p in PATHWAYS if not snapshot.knows_log_probability(p)]
        if missing:
            self.later(
                "probability", "probabilities under the prior are being computed …",
                lambda: [snapshot.log_probability(p) for p in missing],
                lambda _: self._again(index, epoch),
            )

    def _again(self, index: int, epoch: int) -> None:
        if self.view.selection == (index,) and self.view.epoch == epoch:
            self.text.value = self._one(index)

    def _one(self, index: int) -> str:
        snapshot, atlas = self.view.snapshot, self.view.atlas
        facts = atlas.properties.loc[index]
        flags = atlas.properties.select_dtypes(bool).columns
        has = [name.replace("_", " ") for name in flags if facts[name]]
        parts = [
            f"<h4>{operation_name(index)}</h4>",
            widget_base.captioned(
                widget_base.table(
                    widget_base.entries(index), label=f"truth table of operation {operation_name(index)}"
                ),
                "rows a, columns b:<br>−, 0, +",
            ),
        ]
        for i, pathway in enumerate(PATHWAYS):
            q = decoded_entries(self.view, pathway, snapshot.mu[i, index])
            said = widget_base.probability(float(snapshot.own_log_probability[i, index].exp()))
            prior = (
                f"{SIZE * float(snapshot.log_probability(pathway)[index].exp()):.3g}"
                if snapshot.knows_log_probability(pathway) else "…"
            )
            parts.append(widget_base.captioned(
                decoded_table(q, label=f"decoder {pathway} of this operation's code", target=index),
                f'<span class="tl-{pathway}">decoder {pathway}</span>, own code<br>p(x | μ) {said}<br>'
                f"N·p(x) under the prior {prior}",
            ))
        parts.append(
            f"<div>{facts['split']} split; {', '.join(has) or 'none of the listed properties'}; "
            f"depends on {facts['depends_on']}; {facts['zeros']} zeros</div>"
        )
        parts.append(self._code(index))
        parts.append(self._neighbours(index))
        return "".join(parts)

    def _code(self, index: int) -> str:
        """μ ± σ in every latent dimension, both pathways."""
        snapshot = self.view.snapshot
        rows = []
        for i, pathway in enumerate(PATHWAYS):
            mu, sigma = snapshot.mu[i, index], snapshot.sigma[i, index]
            rows.append(
                f'<figure>{error_bars(mu.tolist(), sigma.tolist(), f"latent code of pathway {pathway}")}'
                f'<figcaption><span class="tl-{pathway}">{pathway}</span>: μ ± σ by dimension; '
                f"‖μ‖ {float(mu.norm()):.2f}, mean σ {float(sigma.mean()):.2f}</figcaption></figure>"
            )
        return f"<div>{''.join(rows)}</div>"

    def _neighbours(self, index: int) -> str:
        pathway, mu = self.view.pathway, self.view.snapshot.mu[self.view.side]
        nearest = self.view.snapshot.neighbours(pathway, index)
        tables = space.operations(torch.tensor([i for i, _ in nearest]))
        hamming = (tables != space.operations(torch.tensor([index]))).sum(1).tolist()
        near = "".join(
            f"<tr><td>{operation_name(i)}</td><td>{d:.2f}</td><td>{h}</td></tr>"
            for (i, d), h in zip(nearest, hamming, strict=True)
        )
        adjacent = hamming_neighbours(index)
        distance = (mu[adjacent] - mu[index]).norm(dim=1)
        order = distance.argsort()[:8].tolist()
        beside = "".join(
            f"<tr><td>{operation_name(adjacent[i])}</td><td>{float(distance[i]):.2f}</td></tr>" for i in order
        )
        mistaken = "".join(
            f"<tr><td>{operation_name(i)}</td><td>{widget_base.probability(p)}</td></tr>"
            for i, p in confusion.confused_with(self.view.snapshot.model, pathway, index, 8)
        )
        return (
            listed([f"nearest codes, {pathway}", "distance", "Hamming"], near)
            + listed(["one entry away", "distance"], beside)
            + listed(["decoded instead", "p"], mistaken)
        )

    def _several(self, chosen: Sequence[int]) -> str:
        snapshot, facts = self.view.snapshot, self.view.atlas.properties.loc[list(chosen)]
        tables = space.operations(torch.tensor(chosen))
        share = torch.stack([(tables == value).float().mean(0) for value in (-1, 0, 1)])
        most, which = share.max(0)
        common = widget_base.table(
            (which - 1).tolist(), label="most frequent value of each entry",
            notes=[f"{100 * float(m):.0f} %" for m in most], strength=most.tolist(),
        )
        fixed = int((most == 1).sum())
        flags = facts.select_dtypes(bool)
        everywhere = self.view.atlas.properties.select_dtypes(bool).mean()
        rows = "".join(
            f"<tr><td>{name.replace('_', ' ')}</td><td>{100 * flags[name].mean():.1f} %</td>"
            f"<td>{100 * everywhere[name]:.1f} %</td></tr>"
            for name in (flags.mean() - everywhere).abs().sort_values(ascending=False).index[:6]
        )
        right = [
            f'<span class="tl-{pathway}">{pathway}</span> '
            f"{100 * float(snapshot.reconstructed[i, list(chosen)].float().mean()):.1f} %"
            for i, pathway in enumerate(PATHWAYS)
        ]
        drawn = "".join(
            widget_base.captioned(
                widget_base.table(widget_base.entries(i), label=f"operation {i}", small=True), operation_name(i)
            )
            for i in chosen[:SHOWN]
        )
        more = f" (the first {SHOWN})" if len(chosen) > SHOWN else ""
        return (
            f"<h4>{len(chosen):,} operations chosen</h4>"
            + widget_base.captioned(common, f"most frequent value of each entry;<br>{fixed} of 9 the same in all")
            + listed(["property", "chosen", "all"], rows)
            + f"<div>given back from their own code: {', '.join(right)}; zeros: mean {facts['zeros'].mean():.2f} "
            f"(all: {self.view.atlas.properties['zeros'].mean():.2f})</div><div>{drawn}{more}</div>"
        )

    def picture(self) -> tuple[Figure, str] | None:
        chosen = self.view.selection[:SHOWN]
        if not chosen:
            return None
        drawing = named_tables({operation_name(i): i for i in chosen})
        return drawing.figure, drawing.alt


def decoded_entries(view: View, pathway: Pathway, z: Tensor) -> Tensor:
    """Probabilities (9, 3) of each entry's values, decoded from one latent (L,)."""
    return torch.softmax(view.snapshot.model.decode(z, pathway), -1).cpu()


def decoded_table(q: Tensor, *, label: str, target: int | None = None) -> str:
    """The most probable table of entries' probabilities (9, 3), as HTML; what differs from `target` is framed."""
    most, which = q.max(-1)
    values = (which - 1).tolist()
    wrong = [] if target is None else [a != b for a, b in zip(values, widget_base.entries(target), strict=True)]
    notes = [f"{100 * p:.0f} %" for p in most.tolist()]
    return widget_base.table(values, label=label, notes=notes, wrong=wrong, strength=most.tolist())


def hamming_neighbours(index: int) -> list[int]:
    """The 18 operations that differ from this one in exactly one entry."""
    found = []
    for k in range(space.ENTRIES):
        weight = space.VALUES**k
        own = index // weight % space.VALUES
        found += [index + (value - own) * weight for value in range(space.VALUES) if value != own]
    return found


def listed(heads: Sequence[str], rows: str) -> str:
    """A table with these heads over rows of HTML."""
    top = "".join(f"<th>{head}</th>" for head in heads)
    return f'<figure><table class="tl-list"><tr>{top}</tr>{rows}</table></figure>'


def error_bars(mean: Sequence[float], spread: Sequence[float], label: str) -> str:
    """Means with their spreads, a bar each, as SVG on a common scale of at least ±3."""
    width, height, step = 13 * len(mean) + 34, 84, 13
    top = max(3.0, *(abs(m) + s for m, s in zip(mean, spread, strict=True)))

    def y(value: float) -> float:
        return height / 2 - value / top * (height / 2 - 6)

    marks = [f'<line x1="30" x2="{width}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#bbb"/>']
    marks += [
        f'<text x="26" y="{y(v) + 3:.1f}" font-size="9" text-anchor="end">{v:.3g}</text>' for v in (-top, 0, top)
    ]
    for i, (m, s) in enumerate(zip(mean, spread, strict=True)):
        x = 37 + step * i
        ends = f'x1="{x}" x2="{x}" y1="{y(m - s):.1f}" y2="{y(m + s):.1f}"'
        marks.append(f'<line {ends} stroke="{BLUE}" stroke-width="2"/>')
        marks.append(f'<circle cx="{x}" cy="{y(m):.1f}" r="2.6" fill="{VERMILION}"/>')
    return (
        f'<svg role="img" aria-label="{label}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"{''.join(marks)}</svg>"
    )
