"""The base class of all views, `View`: its style, its error messages and its work in the background.

JupyterLab shows the exception of a callback where it is easily missed, and Voilà does not show it. Here the message
becomes a line on the page, and the traceback goes to the kernel's log.
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
    """A widget that can stand alone in a notebook. Without a browser, its `picture` takes its place."""

    title = ""
    """Name of the view on its tab."""

    def __init__(self) -> None:
        self.alert = widgets.HTML()
        self.status = widgets.HTML()
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._newest: dict[str, object] = {}
        self.hidden = False
        """A hidden view, behind another tab, is not updated until `reveal` is called."""
        self._missed: Callable[[], None] | None = None
        super().__init__()
        self.add_class("tl-part")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def fill(self, *children: widgets.Widget) -> None:
        """Set the children, with the style above them and the messages below."""
        self.children = (widgets.HTML(CSS), *children, self.status, self.alert)

    def set_status(self, text: str) -> None:
        """Show a line about work in progress; an empty text removes it."""
        self.status.value = f'<span class="tl-status" role="status">{html.escape(text)}</span>' if text else ""

    def set_error(self, error: BaseException | None) -> None:
        """Show the message of an error; None removes it."""
        if error is None:
            self.alert.value = ""
            return
        message = str(error)
        if not isinstance(error, TernaryLabError):
            LOG.error("%s: a callback failed", type(self).__name__, exc_info=error)
            message = f"{type(error).__name__}: {error}"
        self.alert.value = f'<div class="tl-alert" role="alert">{html.escape(message)}</div>'

    def guard(self, action: Callable[[], object]) -> Callable[..., None]:
        """The action as a callback: it ignores the event, removes the last error and shows its own."""

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
        """A button, as wide as its text, that runs the action."""
        layout = widgets.Layout(width="auto")
        button = widgets.Button(description=text, tooltip=tooltip, layout=layout, **options)
        button.on_click(self.guard(action))
        return button

    def follow(self, state: traitlets.HasTraits, names: Sequence[str], show: Callable[[], object]) -> None:
        """Call `show` now and whenever one of the named traits changes; a hidden view catches up when it is shown."""
        guarded = self.guard(show)

        def changed(_: object) -> None:
            if self.hidden:
                self._missed = guarded
            else:
                guarded()

        state.observe(changed, list(names))
        guarded()

    def reveal(self) -> None:
        """Show a hidden view: it is updated if it has missed a change, and follows changes again."""
        self.hidden, missed, self._missed = False, self._missed, None
        if missed is not None:
            missed()

    def in_background(self, kind: str, text: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do slow work in a thread and call `then` with its result; the text is the status line in the meantime.

        A kind has one thread. Only its newest request counts: older ones are not begun, or their result is not used.
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
        """A still figure, if there is one."""
        return None

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        still = self.picture()
        missing = f"<p>{self.title}: needs a browser.</p>"
        bundle["text/html"] = missing if still is None else image(still.figure, still.alt)
        return bundle


def row(*children: widgets.Widget) -> widgets.HBox:
    """Widgets side by side, wrapped where there is no room."""
    return widgets.HBox(children, layout=widgets.Layout(flex_flow="row wrap"))
