"""A latent under the user's hands, decoded by both decoders as it moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.explorer import widget_base
from ternary_lab.explorer.inspector import decoded_entries, decoded_table
from ternary_lab.explorer.projection import principal_directions
from ternary_lab.explorer.selection import View
from ternary_lab.explorer.widget_base import OperationPicker, Part, button, operation_name, row
from ternary_lab.model import PATHWAYS
from ternary_lab.runs.load import RunRecord

DIRECTIONS = 8
LIMIT = 4.0


class DecoderDesk(Part):
    """Sliders along the codes' principal directions, in their standard deviations, or along raw latent dimensions.

    What the principal sliders do not reach of a latent stays as it is, so that an operation's code is decoded exactly.
    """

    title = "Decoder desk"

    def __init__(self, source: View | RunRecord | str | Path, *, seed: int = 0) -> None:
        super().__init__()
        self.view = View.of(source)
        self._random = torch.Generator().manual_seed(seed)
        self._moving = False
        self.latent = torch.zeros(self.view.snapshot.model.latent_dim)
        """The latent that is decoded, (L,)."""
        self.mode = widgets.ToggleButtons(
            options={"principal directions": "principal", "raw dimensions": "raw"}, description="sliders",
            style={"button_width": "auto"},
        )
        self.pick = OperationPicker("from operation")
        self.random = button("random from prior", "a latent drawn from N(0, I)")
        self.reset = button("reset", "all sliders to the middle of the prior")
        self.decoded = widgets.HTML()
        self.sliders = widgets.GridBox(
            layout=widgets.Layout(grid_template_columns="repeat(auto-fill, minmax(18em, 1fr))")
        )
        self.fill(row(self.mode), row(self.pick, self.random, self.reset), self.decoded, self.sliders)
        self.mode.observe(self.guard(lambda _: self._arrange()), "value")
        self.pick.observe(self.guard(lambda _: self._from_operation()), "value")
        self.random.on_click(self.guard(lambda _: self._random_latent()))
        self.reset.on_click(self.guard(lambda _: self.move(torch.zeros_like(self.latent))))
        self.follow(self.view, ["epoch", "pathway"], self._arrange)
        self.guard(self._arrange)()

    def _arrange(self) -> None:
        """As many sliders as there are directions; made once and used again, so that none is left behind."""
        count = min(DIRECTIONS, len(self.latent)) if self.mode.value == "principal" else len(self.latent)
        if self.mode.value == "principal":
            self._directions, self._deviations = principal_directions(self.view.snapshot.mu[self.view.side], count)
            names = [f"direction {i + 1}" for i in range(count)]
        else:
            self._directions, self._deviations = torch.eye(len(self.latent)), torch.ones(len(self.latent))
            names = [f"z_{i}" for i in range(count)]
        kept = list(self.sliders.children)
        while len(kept) < len(self.latent):
            slider = widgets.FloatSlider(min=-LIMIT, max=LIMIT, step=0.05, readout_format=".2f")
            slider.layout.width = "auto"
            slider.observe(self.guard(self._slid), "value")
            kept.append(slider)
        for i, slider in enumerate(kept):
            slider.layout.display = "" if i < count else "none"
            slider.description = names[i] if i < count else f"not shown {i}"
        if len(kept) != len(self.sliders.children):
            self.sliders.children = tuple(kept)
        self.move(self.latent)

    def _coordinates(self) -> Tensor:
        return (self._directions @ self.latent) / self._deviations.clamp_min(1e-6)

    def _slid(self, change: Any) -> None:
        if self._moving:
            return
        i = list(self.sliders.children).index(change["owner"])
        step = float(change["new"]) - float(self._coordinates()[i])
        self.latent = self.latent + step * self._deviations[i] * self._directions[i]
        self.show()

    def move(self, latent: Tensor) -> None:
        """Put the desk at a latent (L,)."""
        self.latent = latent
        self._moving = True
        try:
            for slider, value in zip(self.sliders.children, self._coordinates().tolist(), strict=False):
                # A code may lie beyond what a slider shows; the latent itself is not cut off.
                slider.value = min(max(value, -LIMIT), LIMIT)
        finally:
            self._moving = False
        self.show()

    def _from_operation(self) -> None:
        if self.pick.value:
            self.move(self.view.snapshot.mu[self.view.side, self.pick.operation].clone())

    def _random_latent(self) -> None:
        self.move(torch.empty_like(self.latent).normal_(generator=self._random))

    def show(self) -> None:
        """Decode the latent."""
        figures = []
        for pathway in PATHWAYS:
            q = decoded_entries(self.view, pathway, self.latent)
            most = q.max(-1)
            index = int(space.index_of(most.indices.float() - 1))
            entropy = float(-torch.xlogy(q, q).sum())
            figures.append(widget_base.captioned(
                decoded_table(q, label=f"decoder {pathway} of this latent"),
                f'<span class="tl-{pathway}">decoder {pathway}</span>: {operation_name(index)}<br>'
                f"p {widget_base.probability(float(most.values.prod()))}, entropy {entropy:.2f} nats",
            ))
        length, typical = float(self.latent.norm()), len(self.latent) ** 0.5
        self.decoded.value = (
            f"{''.join(figures)}<div>‖z‖ = {length:.2f}; a draw from the prior has about {typical:.1f}</div>"
        )
