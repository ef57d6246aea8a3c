"""Tells the kernel when the browser has drawn what it was sent.

jupyter-scatter drops points that come while it moves those before, however slow the machine: then a map would show
another epoch than its legend says.
"""

from __future__ import annotations

import anywidget
import traitlets

FRAMES = 3
"""Drawn after the time of the movement is over, before it counts as shown."""


class Pacer(anywidget.AnyWidget):
    """Copies `sent` to `shown` in the browser, once `milliseconds` and some frames have passed. Shows nothing."""

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
    """Whether there is a browser at all."""
    milliseconds = traitlets.Int(0).tag(sync=True)
