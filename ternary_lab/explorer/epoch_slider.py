"""The epochs of a run: a slider and a play button over loss and informative coverage."""

from __future__ import annotations

from pathlib import Path

import ipywidgets as widgets
from matplotlib.figure import Figure

from ternary_lab.explorer.drawing import draw_course
from ternary_lab.explorer.selection import View
from ternary_lab.explorer.widget_base import Part
from ternary_lab.figures.save import image
from ternary_lab.figures.style import GREEN
from ternary_lab.runs.load import RunRecord

PLAY_MILLISECONDS = 1300
"""Between two epochs of the play button: longer than a map needs to move."""


class Timeline(Part):
    """Moves the view's epoch among those whose weights the run kept; a cursor shows it in the run's course."""

    title = "Time"

    def __init__(self, source: View | RunRecord | str | Path) -> None:
        super().__init__()
        self.view = View.of(source)
        epochs = self.view.atlas.epochs
        self.slider = widgets.SelectionSlider(
            options=[(str(epoch), epoch) for epoch in epochs], value=self.view.epoch, description="epoch",
            layout=widgets.Layout(width="99%"),
        )
        self.play = widgets.Play(
            min=0, max=len(epochs) - 1, value=self.slider.index, interval=PLAY_MILLISECONDS, show_repeat=False,
            description="play", tooltip="play through the epochs",
        )
        # In the page itself: no callback in between that could lag behind.
        widgets.jslink((self.play, "value"), (self.slider, "index"))
        self.course = draw_course(self.view.atlas.history)
        self.cursor = widgets.HTML()
        self.cursor.add_class("tl-cursor")
        chart = widgets.Box([widgets.HTML(image(self.course.figure, self.course.alt, dpi=110)), self.cursor])
        chart.add_class("tl-chart")
        controls = widgets.HBox([self.play, self.slider])
        self.slider.layout.flex = "1 1 auto"
        self.fill(controls, chart)
        self.slider.observe(self.guard(lambda change: self.view.set_trait("epoch", change["new"])), "value")
        self.follow(self.view, ["epoch"], self.show)
        self.show()

    def show(self) -> None:
        """Put slider and cursor where the view is."""
        if self.slider.value != self.view.epoch:
            self.slider.value = self.view.epoch
        left = 100 * self.course.place(self.view.epoch)
        self.cursor.value = (
            f'<div style="position:absolute;left:{left:.3f}%;top:2%;bottom:20%;border-left:2px solid {GREEN}"></div>'
        )

    def picture(self) -> tuple[Figure, str]:
        return self.course.figure, self.course.alt
