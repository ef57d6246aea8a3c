"""The base class `View` of all views, with style, error messages and background work.

JupyterLab shows the exception of a callback where users easily overlook it. `View` therefore shows the message of an
exception as a line on the page. The traceback of an unexpected exception goes to the log of the kernel.
"""

from __future__ import annotations

import html
import logging
import threading
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from ternary_lab.errors import TernaryLabError
from ternary_lab.figures.save import Drawing, image
from ternary_lab.figures.style import VERMILION

LOG = logging.getLogger(__name__)

CSS = f"""<style>
.tl-part {{ font-size: 13px; line-height: 1.35; color: #222; background: #fff; padding: 4px; }}
.tl-part .widget-html-content, .tl-part .widget-html > * {{ line-height: 1.35; }}
.tl-alert {{ border-left: 4px solid {VERMILION}; background: #fff4ec; padding: 4px 8px; margin: 2px 0; }}
.tl-status {{ color: #555; }}
</style>"""


class View(widgets.VBox):  # type: ignore[misc]
    """A widget that can be used alone in a notebook.

    Where widgets do not work, the notebook shows the figure of `picture` instead.
    """

    title = ""
    """Words for the view where no picture of it can be shown."""

    def __init__(self) -> None:
        self.alert = widgets.HTML()
        self.status = widgets.HTML()
        self._at_work, self._newest = threading.Lock(), object()
        self._worker: threading.Thread | None = None
        super().__init__()
        self.add_class("tl-part")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def fill(self, *children: widgets.Widget) -> None:
        """Set the children of the widget. The style stands above them; status line and error message stand below."""
        self.children = (widgets.HTML(CSS), *children, self.status, self.alert)

    def set_status(self, text: str) -> None:
        """Show a status line about work in progress. An empty text removes the line."""
        self.status.value = f'<span class="tl-status" role="status">{html.escape(text)}</span>' if text else ""

    def set_error(self, error: BaseException | None) -> None:
        """Show the message of an error. None removes the message."""
        if error is None:
            self.alert.value = ""
            return
        message = str(error)
        if not isinstance(error, TernaryLabError):
            LOG.error("%s: a callback failed", type(self).__name__, exc_info=error)
            message = f"{type(error).__name__}: {error}"
        self.alert.value = f'<div class="tl-alert" role="alert">{html.escape(message)}</div>'

    def guard(self, action: Callable[[], object]) -> Callable[..., None]:
        """Return a callback that runs the action.

        The callback ignores its arguments. It removes the message of the previous error. If the action fails, the
        callback shows the message of the new error.
        """

        def guarded(*_: object) -> None:
            self.set_error(None)
            try:
                action()
            except Exception as error:
                self.set_error(error)

        return guarded

    def on_change(self, action: Callable[[], object], *controls: widgets.Widget) -> None:
        """Run the action whenever the value of one of the controls changes."""
        for control in controls:
            control.observe(self.guard(action), "value")

    def button(self, text: str, tooltip: str, action: Callable[[], object], **options: Any) -> widgets.Button:
        """Return a button that runs the action. The button is as wide as its text."""
        layout = widgets.Layout(width="auto")
        button = widgets.Button(description=text, tooltip=tooltip, layout=layout, **options)
        button.on_click(self.guard(action))
        return button

    def in_background(self, text: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run slow work in a thread and call `then` with the result.

        The status line shows `text` while the work runs. The requests run one after the other, and only the newest one
        counts. An older request that waits is skipped, and the result of an older request that already runs is not
        used.
        """
        request = self._newest = object()

        def run() -> None:
            with self._at_work:
                if self._newest is not request:
                    return
                self.set_status(text)
                try:
                    result = work()
                    if self._newest is request:
                        then(result)
                        self.set_error(None)
                except Exception as error:
                    self.set_error(error)
                self.set_status("")

        self._worker = threading.Thread(target=run, daemon=True, name=text)
        self._worker.start()

    def wait(self) -> None:
        """Wait until the work of `in_background` is done, including further work that it has started."""
        while self._worker is not None and self._worker.is_alive():
            self._worker.join()

    def picture(self) -> Drawing | None:
        """Return a still figure of the view, or None if the view has none."""
        return None

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        still = self.picture()
        missing = f"<p>{self.title}: needs a browser.</p>"
        bundle["text/html"] = missing if still is None else image(still.figure, still.alt)
        return bundle


def row(*children: widgets.Widget) -> widgets.HBox:
    """Return a box with the widgets side by side. Widgets that do not fit go to the next line."""
    return widgets.HBox(children, layout=widgets.Layout(flex_flow="row wrap"))
