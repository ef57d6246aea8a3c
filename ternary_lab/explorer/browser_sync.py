"""A widget that sends a new drawing only after the browser has shown the previous drawing.

jupyter-scatter drops new points that arrive while the previous points still move. If the kernel did not wait, the map
in a slow browser could show a different epoch than the legend.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import anywidget
import ipywidgets as widgets
import traitlets

FRAMES = 3
"""Number of frames that the browser draws after a movement before the drawing counts as shown."""
PATIENCE = 10.0
"""Seconds to wait for an answer of the browser. After this time the kernel assumes that the browser is closed."""


class BrowserSync(anywidget.AnyWidget):
    """An invisible widget that draws when the browser is ready.

    It draws only the newest state. The browser sets `shown` to the value of `sent`, after `milliseconds` and a few
    frames have passed.

    Args:
        draw: the function that sends the points to the browser.
        widget: the widget that draws the points.
        trait: the name of a trait of `widget` that has no visible effect. The trait carries the number of the drawing.
            The browser handles the messages of one widget in order, so that the number arrives after the points.
        seconds: duration of the movement of the points.
    """

    _esm = f"""
    export default {{
      initialize({{ model }}) {{
        model.set("alive", true);
        model.save_changes();
        model.on("change:sent", () => {{
          const number = model.get("sent");
          const began = performance.now();
          let frames = 0;
          const look = () => {{
            if (performance.now() - began > model.get("milliseconds")) frames += 1;
            if (frames < {FRAMES}) return requestAnimationFrame(look);
            model.set("shown", number);
            model.save_changes();
          }};
          requestAnimationFrame(look);
        }});
      }},
      render() {{}},
    }};
    """
    sent = traitlets.Int(0).tag(sync=True)
    """Number of the newest drawing that has arrived in the browser."""
    shown = traitlets.Int(0).tag(sync=True)
    """Number of the newest drawing that the browser has shown."""
    alive = traitlets.Bool(False).tag(sync=True)
    """Whether a browser has loaded the widget."""
    milliseconds = traitlets.Int(0).tag(sync=True)
    """Duration of the movement of the points."""

    def __init__(self, draw: Callable[[], object], widget: widgets.Widget, trait: str, seconds: float) -> None:
        super().__init__(milliseconds=round(1000 * seconds))
        self._draw, self._widget, self._trait = draw, widget, trait
        self._number, self._free_at = 0, 0.0
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()
        widgets.jslink((widget, trait), (self, "sent"))
        self.observe(self._on_shown, "shown")

    def request(self) -> None:
        """Draw now, or as soon as the browser is ready. Several waiting requests are drawn only once."""
        with self._lock:
            if time.monotonic() < self._free_at:
                self._wait()
                return
            self._free_at = time.monotonic() + (PATIENCE if self.alive else self.milliseconds / 1000)
            self._draw()
            self._number += 1
            setattr(self._widget, self._trait, self._number)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(max(0.0, self._free_at - time.monotonic()), self._time_is_up)
        self._timer.start()

    def _time_is_up(self) -> None:
        with self._lock:
            self._timer = None
        self.request()

    def _on_shown(self, change: traitlets.Bunch) -> None:
        with self._lock:
            if change["new"] == self._number:
                self._free_at = 0.0
                if self._timer is not None:
                    self._wait()
