"""One drawing at a time: a widget that waits until the browser has shown the last one.

jupyter-scatter drops points that arrive while it still moves the previous ones. Without waiting, the map of a slow
browser could show another epoch than its legend.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import anywidget
import ipywidgets as widgets
import traitlets

FRAMES = 3
"""Frames drawn after the movement before it counts as shown."""
PATIENCE = 10.0
"""Seconds without an answer after which the browser is taken to be closed."""


class BrowserSync(anywidget.AnyWidget):
    """Draws when the browser is ready, and only the newest state. The widget itself is invisible.

    In the browser, `shown` follows `sent` after `milliseconds` and a few frames.

    Args:
        draw: sends the points to the browser.
        widget: the widget that draws.
        trait: one of its traits without a visible effect. It carries the number of the drawing: the browser handles the
            messages of one widget in their order.
        seconds: duration of the movement.
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
    shown = traitlets.Int(0).tag(sync=True)
    alive = traitlets.Bool(False).tag(sync=True)
    """Whether a browser has loaded the widget."""
    milliseconds = traitlets.Int(0).tag(sync=True)

    def __init__(self, draw: Callable[[], object], widget: widgets.Widget, trait: str, seconds: float) -> None:
        super().__init__(milliseconds=round(1000 * seconds))
        self._draw, self._widget, self._trait = draw, widget, trait
        self._number, self._free_at = 0, 0.0
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()
        widgets.jslink((widget, trait), (self, "sent"))
        self.observe(self._on_shown, "shown")

    def request(self) -> None:
        """Draw now, or as soon as the browser is ready. Several requests in the meantime become one drawing."""
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
