"""A view with sliders that change a latent. Both decoders decode the latent at each change."""

from __future__ import annotations

from functools import partial

import ipywidgets as widgets
import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.arguments import LARGEST_SEED, whole_number
from ternary_lab.explorer.html_tables import captioned, decoded_table, probability
from ternary_lab.explorer.operation_picker import OperationPicker, operation_name
from ternary_lab.explorer.selection import Selection, Source
from ternary_lab.explorer.view import View, row
from ternary_lab.metrics.codes import principal_directions
from ternary_lab.model import PATHWAYS

DIRECTIONS = 8
LIMIT = 4.0


class LatentEditor(View):
    """Sliders along the principal directions of the codes or along the latent dimensions.

    The unit of a slider along a principal direction is the standard deviation of the codes in this direction. A slider
    changes the latent only along the direction of the slider. All other components of the latent keep their values,
    including the components without a slider. The code of an operation is therefore decoded exactly.
    """

    title = "Latent editor"

    def __init__(self, source: Source, *, seed: int = 0) -> None:
        super().__init__()
        self.selection = Selection.of(source)
        self._random = torch.Generator().manual_seed(whole_number(seed, "seed", 0, LARGEST_SEED))
        self._moving = False
        self.latent = torch.zeros(self.selection.snapshot.model.latent_dim)
        """(L,): the latent that is decoded."""
        self.mode = widgets.ToggleButtons(
            options={"principal directions": "principal", "raw dimensions": "raw"}, description="sliders",
            style={"button_width": "auto"},
        )
        self.pick = OperationPicker("from operation")
        self.random = self.button("random from prior", "a latent drawn from N(0, I)", self._draw_latent)
        self.reset = self.button(
            "reset", "move all sliders to 0, the mean of the prior", lambda: self.move(torch.zeros_like(self.latent))
        )
        self.decoded = widgets.HTML()
        self.sliders = widgets.GridBox(
            [self._slider(i) for i in range(len(self.latent))],
            layout=widgets.Layout(grid_template_columns="repeat(auto-fill, minmax(18em, 1fr))"),
        )
        self.fill(row(self.mode), row(self.pick, self.random, self.reset), self.decoded, self.sliders)
        self.on_change(self._arrange, self.mode)
        self.on_change(self._take_operation, self.pick)
        self.follow(self.selection, ["epoch", "pathway"], self._arrange)

    def _slider(self, i: int) -> widgets.FloatSlider:
        slider = widgets.FloatSlider(
            min=-LIMIT, max=LIMIT, step=0.05, readout_format=".2f", layout=widgets.Layout(width="auto")
        )
        self.on_change(partial(self._take_slider, i), slider)
        return slider

    def _arrange(self) -> None:
        """Show one slider for each direction and hide the other sliders, which the other mode needs."""
        if self.mode.value == "principal":
            count = min(DIRECTIONS, len(self.latent))
            self._directions, self._deviations = principal_directions(self.selection.mu, count)
            names = [f"direction {i + 1}" for i in range(count)]
        else:
            self._directions, self._deviations = torch.eye(len(self.latent)), torch.ones(len(self.latent))
            names = [f"z_{i}" for i in range(len(self.latent))]
        for i, slider in enumerate(self.sliders.children):
            slider.layout.display = "" if i < len(names) else "none"
            slider.description = names[i] if i < len(names) else f"not shown {i}"
        self.move(self.latent)

    def _coordinates(self) -> Tensor:
        return (self._directions @ self.latent) / self._deviations.clamp_min(1e-6)

    def _take_slider(self, i: int) -> None:
        if self._moving:
            return
        step = float(self.sliders.children[i].value) - float(self._coordinates()[i])
        self.latent = self.latent + step * self._deviations[i] * self._directions[i]
        self.show()

    def move(self, latent: Tensor) -> None:
        """Replace the latent by another latent (L,), move the sliders and decode the new latent."""
        self.latent = latent
        self._moving = True
        try:
            for slider, value in zip(self.sliders.children, self._coordinates().tolist(), strict=False):
                # A code may lie outside the range of a slider; the latent itself is not clipped.
                slider.value = min(max(value, -LIMIT), LIMIT)
        finally:
            self._moving = False
        self.show()

    def _take_operation(self) -> None:
        if self.pick.value:
            self.move(self.selection.mu[self.pick.operation].clone())

    def _draw_latent(self) -> None:
        self.move(torch.empty_like(self.latent).normal_(generator=self._random))

    def show(self) -> None:
        """Decode the latent."""
        tables = []
        for pathway in PATHWAYS:
            q = self.selection.snapshot.entry_probabilities(self.latent, pathway)
            highest, classes = q.max(-1)
            index = int(space.index_of(classes.float() - 1))
            entropy = float(-torch.xlogy(q, q).sum())
            tables.append(captioned(
                decoded_table(q, label=f"decoder {pathway} of this latent"),
                f'<span class="tl-{pathway}">decoder {pathway}</span>: {operation_name(index)}<br>'
                f"p {probability(float(highest.prod()))}, entropy {entropy:.2f} nats",
            ))
        length, typical = float(self.latent.norm()), len(self.latent) ** 0.5
        self.decoded.value = (
            f"{''.join(tables)}<div>‖z‖ = {length:.2f}; a draw from the prior has about {typical:.1f}</div>"
        )
