"""What every view shares: errors in words on the page, one style, a picture where there is no browser, tables drawn.

A callback's exception is invisible under Voilà and easily missed under JupyterLab; here it becomes a line on
the page, and the traceback goes to the kernel's log.
"""

from __future__ import annotations

import html
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import ipywidgets as widgets
import torch
import traitlets
from matplotlib.figure import Figure

from ternary_lab import space
from ternary_lab.errors import InputError, TernaryLabError
from ternary_lab.figures.save import image
from ternary_lab.figures.style import ENTRY, PATHWAY_TEXT, VERMILION

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

NAMES: Mapping[int, str] = {index: name for name, index in space.named().items()}
SIGN = {-1: "−", 0: "0", 1: "+"}


class Part(widgets.VBox):  # type: ignore[misc]
    """A view that can stand alone in a notebook. Where no widget can be shown, its `picture` is."""

    title = ""

    def __init__(self) -> None:
        self.alert = widgets.HTML()
        self.status = widgets.HTML()
        self._workers: dict[str, Latest] = {}
        self._active = True
        self._missed: Callable[[], None] | None = None
        super().__init__()
        self.add_class("tl-part")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def fill(self, *children: widgets.Widget) -> None:
        """Set what the part shows, below its style and above its messages."""
        self.children = (widgets.HTML(CSS), *children, self.status, self.alert)

    def say(self, text: str) -> None:
        """A line about what goes on; empty when nothing does."""
        self.status.value = f'<span class="tl-status" role="status">{html.escape(text)}</span>' if text else ""

    def fail(self, error: BaseException | None) -> None:
        """Put an error on the page in words, or take it away."""
        if error is None:
            self.alert.value = ""
            return
        if not isinstance(error, TernaryLabError):
            LOG.error("%s: a callback failed", type(self).__name__, exc_info=error)
        said = str(error) if isinstance(error, TernaryLabError) else f"{type(error).__name__}: {error}"
        self.alert.value = f'<div class="tl-alert" role="alert">{html.escape(said)}</div>'

    def guard(self, function: Callable[..., object]) -> Callable[..., None]:
        """The function, with its errors on the page; an older error goes when it is called."""

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            self.fail(None)
            try:
                function(*args, **kwargs)
            except Exception as error:
                self.fail(error)

        return guarded

    def follow(self, subject: traitlets.HasTraits, names: Sequence[str], show: Callable[[], object]) -> None:
        """Call `show` when one of the subject's traits changes; once, later, while the part is out of sight."""
        guarded = self.guard(show)

        def changed(_: object) -> None:
            if self._active:
                guarded()
            else:
                self._missed = guarded

        subject.observe(changed, list(names))

    @property
    def active(self) -> bool:
        """Whether it is in sight: what lies behind another tab is brought up to date when it is shown."""
        return self._active

    @active.setter
    def active(self, value: bool) -> None:
        self._active = value
        if value and self._missed is not None:
            missed, self._missed = self._missed, None
            missed()

    def later(self, purpose: str, text: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do what takes seconds beside the page, with a line that says so.

        Only the newest request of a purpose counts: those waiting are dropped, the one under way is not shown.
        """
        worker = self._workers.setdefault(purpose, Latest())
        worker.submit(self, text, work, then)

    def settle(self) -> None:
        """Wait until nothing asked for `later` is under way."""
        for worker in self._workers.values():
            worker.idle.wait()

    def picture(self) -> tuple[Figure, str] | None:
        """A still figure and its alternative text."""
        return None

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        still = self.picture()
        nothing = f"<p>{self.title}: shown where there is a browser.</p>"
        bundle["text/html"] = nothing if still is None else image(*still)
        return bundle


def row(*children: widgets.Widget) -> widgets.HBox:
    """Side by side as long as there is room, else below each other."""
    return widgets.HBox(children, layout=widgets.Layout(flex_flow="row wrap"))


def button(description: str, tooltip: str, **options: Any) -> widgets.Button:
    """A button as wide as its words."""
    return widgets.Button(description=description, tooltip=tooltip, layout=widgets.Layout(width="auto"), **options)


class Latest:
    """One thread for one kind of slow work: it does the newest request and forgets those overtaken."""

    def __init__(self) -> None:
        self.idle = threading.Event()
        self.idle.set()
        self._lock = threading.Lock()
        self._next: tuple[Part, str, Callable[[], Any], Callable[[Any], None]] | None = None

    def submit(self, part: Part, text: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        with self._lock:
            self._next = part, text, work, then
            if self.idle.is_set():
                self.idle.clear()
                threading.Thread(target=self._run, name="explorer").start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._next is None:
                    self.idle.set()
                    return
                (part, text, work, then), self._next = self._next, None
            part.say(text)
            try:
                found = work()
                if self._next is None:
                    then(found)
                    part.fail(None)
            except Exception as error:
                part.fail(error)
            part.say("")


def operation_name(index: int) -> str:
    """ "8,019 (product)", or the index alone."""
    return f"{index:,}" + (f" ({NAMES[index]})" if index in NAMES else "")


def operation_index(text: str) -> int:
    """An operation by name, by index or by its nine entries, as "product", "8,019" or "+0-000-0+".

    Raises InputError naming what was typed.
    """
    wanted = text.strip()
    by_name = {name.casefold(): index for index, name in NAMES.items()}
    if (found := by_name.get(wanted.casefold())) is not None:
        return found
    signs = wanted.replace("−", "-").replace(" ", "")
    if len(signs) == space.ENTRIES and set(signs) <= set("+-0") and set(signs) & set("+-"):
        return int(space.index_of(torch.tensor(["-0+".index(sign) - 1 for sign in signs])))
    digits = wanted.split("(")[0].replace(",", "").strip()
    if digits.isascii() and digits.isdigit() and int(digits[:9]) < space.SIZE and len(digits) < 9:
        return int(digits)
    raise InputError(
        f"no operation {text!r}: give a name ({', '.join(list(by_name)[:3])}, ...), an index 0..{space.SIZE - 1} "
        "or nine of -, 0, +"
    )


class OperationPicker(widgets.Combobox):  # type: ignore[misc]
    """A text field with the named operations as suggestions; takes indices and entries, too."""

    def __init__(self, description: str, value: str = "") -> None:
        super().__init__(
            description=description, value=value, options=list(NAMES.values()), continuous_update=False,
            placeholder="name, index or nine of -0+", style={"description_width": "initial"},
            layout=widgets.Layout(width="26em", min_width="26em"),
        )

    @property
    def operation(self) -> int:
        return operation_index(self.value)


def entries(index: int) -> list[int]:
    """The nine entries of an operation."""
    values: list[int] = space.operations(torch.tensor(index)).int().tolist()
    return values


def table(
    values: Sequence[int],
    *,
    label: str,
    notes: Sequence[str] = (),
    wrong: Sequence[bool] = (),
    strength: Sequence[float] = (),
    small: bool = False,
) -> str:
    """A truth table as HTML, 3 by 3, rows the first argument; the sign is written, so that colour is not needed.

    Args:
        label: what it is, for a screen reader.
        notes: a few characters below each entry.
        wrong: entries to frame.
        strength: 0..1, how strongly each entry is coloured.
    """
    cells = []
    for k, value in enumerate(values):
        faded = "" if not strength else f"{round(255 * min(max(strength[k], 0.0), 1.0)):02x}"
        style = f'style="background:{ENTRY[value]}{faded}"'
        frame = ' class="tl-wrong"' if wrong and wrong[k] else ""
        note = f"<small>{html.escape(notes[k])}</small>" if notes else ""
        cells.append(f"<td{frame} {style}>{SIGN[value]}{note}</td>")
    rows = "".join(f"<tr>{''.join(cells[i:i + 3])}</tr>" for i in (0, 3, 6))
    kind = "tl-op tl-small" if small else "tl-op"
    return f'<table class="{kind}" aria-label="{html.escape(label)}">{rows}</table>'


def captioned(content: str, caption: str) -> str:
    """HTML with a caption below it; the caption is HTML, too."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def probability(value: float) -> str:
    """A probability in few characters: 0.314, 2.1e-05, 0."""
    return f"{value:.3f}" if value >= 0.0995 else f"{value:.2g}"
