"""A view with a slider for the epochs of a run and a figure of loss and coverage."""

from __future__ import annotations

import ipywidgets as widgets

from ternary_lab.explorer.drawing import draw_course
from ternary_lab.explorer.selection import Selection, Source
from ternary_lab.explorer.view import View
from ternary_lab.figures.save import Drawing, image
from ternary_lab.figures.style import GREEN

PLAY_MILLISECONDS = 1300
"""Milliseconds between two epochs while the play button runs. A map moves its points in less time."""


class EpochSlider(View):
    """A slider and a play button that choose an epoch with saved weights.

    A vertical line marks the chosen epoch in a figure of loss and informative coverage.
    """

    title = "Epochs"

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.selection = Selection.of(source)
        epochs = self.selection.codes.epochs
        self.slider = widgets.SelectionSlider(
            options=[(str(epoch), epoch) for epoch in epochs], value=self.selection.epoch, description="epoch",
            layout=widgets.Layout(width="99%", flex="1 1 auto"),
        )
        self.play = widgets.Play(
            min=0, max=len(epochs) - 1, value=self.slider.index, interval=PLAY_MILLISECONDS, show_repeat=False,
            description="play", tooltip="play through the epochs",
        )
        # The link is in the browser, because a link in the kernel could be late.
        widgets.jslink((self.play, "value"), (self.slider, "index"))
        self.course = draw_course(self.selection.codes.history)
        self.cursor = widgets.HTML()
        self.cursor.add_class("tl-cursor")
        chart = widgets.Box([widgets.HTML(image(self.course.figure, self.course.alt, dpi=110)), self.cursor])
        chart.add_class("tl-chart")
        self.fill(widgets.HBox([self.play, self.slider]), chart)
        self.on_change(lambda: self.selection.set_trait("epoch", self.slider.value), self.slider)
        self.follow(self.selection, ["epoch"], self.show)

    def show(self) -> None:
        """Move the slider and the vertical line to the selected epoch."""
        self.slider.value = self.selection.epoch
        left = 100 * self.course.place(self.selection.epoch)
        self.cursor.value = (
            f'<div style="position:absolute;left:{left:.3f}%;top:2%;bottom:20%;border-left:2px solid {GREEN}"></div>'
        )

    def picture(self) -> Drawing:
        return self.course
