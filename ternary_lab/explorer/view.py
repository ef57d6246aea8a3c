"""The base class `View` of all views, with style, error messages and background work.

JupyterLab shows the exception of a callback where users easily overlook it. Voilà does not show the exception. `View`
therefore shows the message of an exception as a line on the page. The traceback of an unexpected exception goes to the
log of the kernel.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ipywidgets as widgets
import traitlets

from ternary_lab.errors import TernaryLabError
from ternary_lab.figures.save import Drawing, image
from ternary_lab.figures.style import PATHWAY_TEXT, VERMILION

LOG = logging.getLogger(__name__)

CSS = f"""<style>
.tl-part {{ font-size: 13px; line-height: 1.35; color: #222; background: #fff; padding: 4px; }}
.tl-part .widget-html-content, .tl-part .widget-html > * {{ line-height: 1.35; }}
.tl-part h4 {{ margin: 4px 0; font-size: 14px; }}
.tl-part table.tl-op {{ border-collapse: collapse; display: inline-table; margin: 2px 6px 2px 0; vertical-align: top; }}
.tl-part table.tl-op td {{ border: 1px solid #888; text-align: center; padding: 0; min-width: 2.1em; height: 1.9em; }}
.tl-part table.tl-op.tl-small td {{ min-width: 1.25em; height: 1.2em; font-size: 11px; }}
.tl-part table.tl-op td small {{ display: block; font-size: 9.5px; line-height: 1; }}
.tl-part td.tl-wrong {{ outline: 2px solid #222; outline-offset: -3px; }}
.tl-part figure {{ display: inline-block; margin: 2px 10px 4px 0; vertical-align: top; }}
.tl-part figcaption {{ font-size: 11.5px; }}
.tl-part table.tl-list {{ border-collapse: collapse; }}
.tl-part table.tl-list td, .tl-part table.tl-list th {{ padding: 1px 10px 1px 0; text-align: left; font-size: 12.5px; }}
.tl-A {{ color: {PATHWAY_TEXT["A"]}; font-weight: 600; }} .tl-B {{ color: {PATHWAY_TEXT["B"]}; font-weight: 600; }}
.tl-alert {{ border-left: 4px solid {VERMILION}; background: #fff4ec; padding: 4px 8px; margin: 2px 0; }}
.tl-status {{ color: #555; }}
.tl-chart {{ position: relative; }} .tl-chart > .widget-html {{ width: 100%; margin: 0; }}
.tl-chart img {{ width: 100%; max-width: 100%; display: block; }}
.tl-chart .tl-cursor {{ position: absolute; inset: 0; pointer-events: none; margin: 0; height: 100%; }}
.tl-chart .tl-cursor .widget-html-content, .tl-chart .tl-cursor .jupyter-widgets {{ position: absolute; inset: 0; }}
</style>"""


class View(widgets.VBox):  # type: ignore[misc]
    """A widget that can be used alone in a notebook.

    Where widgets do not work, the notebook shows the figure of `picture` instead.
    """

    title = ""
    """Title of the tab with the view."""

    def __init__(self) -> None:
        self.alert = widgets.HTML()
        self.status = widgets.HTML()
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._newest: dict[str, object] = {}
        self.hidden = False
        """Whether the view is behind another tab. A hidden view is not updated until `reveal` is called."""
        self._missed: Callable[[], None] | None = None
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

    def follow(self, state: traitlets.HasTraits, names: Sequence[str], show: Callable[[], object]) -> None:
        """Call `show` now, and again whenever one of the named traits of `state` changes.

        While the view is hidden, `show` is not called. `reveal` then calls it once if a trait has changed.
        """
        guarded = self.guard(show)

        def changed(_: object) -> None:
            if self.hidden:
                self._missed = guarded
            else:
                guarded()

        state.observe(changed, list(names))
        guarded()

    def reveal(self) -> None:
        """Show a hidden view. If a trait has changed in the meantime, update the view."""
        self.hidden, missed, self._missed = False, self._missed, None
        if missed is not None:
            missed()

    def in_background(self, kind: str, text: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run slow work in a thread and call `then` with the result.

        The status line shows `text` while the work runs. All requests of the same `kind` use one thread. Only the
        newest request of a kind counts. An older request that waits is skipped, and the result of an older request that
        already runs is not used.
        """
        request = self._newest[kind] = object()

        def run() -> None:
            if self._newest[kind] is not request:
                return
            self.set_status(text)
            try:
                result = work()
                if self._newest[kind] is request:
                    then(result)
                    self.set_error(None)
            except Exception as error:
                self.set_error(error)
            self.set_status("")

        self._threads.setdefault(kind, ThreadPoolExecutor(1, "explorer")).submit(run)

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
