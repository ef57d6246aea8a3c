"""Figures for widgets: runs by epoch and schedules by epoch, in a row of four panels with fixed margins.

Widgets draw a figure again at every change. Fitting the margins to the labels would take longer than drawing the
figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, SymmetricalLogLocator

from ternary_lab.config import Config
from ternary_lab.figures.parts import mark
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREEN, GREY, INK, PATHWAY, figure_of, fixed, panels, style
from ternary_lab.metrics.quantities import label
from ternary_lab.runs.load import RunRecord

LINE = {"A": "-", "B": "--"}
RUN_PANELS = (
    ("loss", {"train_loss": (INK, "-", "training"), "val_loss": (GREY, "--", "validation")}),
    *((label(name), {f"{name}_{p}": (PATHWAY[p], LINE[p], p) for p in "AB"})
      for name in ("coverage", "informative_coverage", "H")),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Shapes of the markers of up to eight runs."""
WIDE = 3.0
"""Ratio of the largest to the smallest loss above which the axis of the loss is logarithmic."""
PREVIEWED = 120
"""Smallest number of epochs in a figure of schedules. The figure shows more epochs if the run trains more epochs."""


def draw_runs(runs: Mapping[Any, RunRecord], marks: Sequence[int] = ()) -> Drawing:
    """Plot loss, sampled coverage, informative coverage and latent entropy of runs against the epoch.

    Up to `len(MARKERS)` runs have markers of different shapes. The keys of `runs` are not used.

    Args:
        marks: epochs at which a dotted vertical line is drawn in each panel.
    """
    # A history may have a header but no row yet.
    histories = [history for run in runs.values() if len(history := run.history)]
    apart = 1 < len(histories) <= len(MARKERS)
    with style():
        axes = _row_of_panels(0.93 if apart else 0.995)
        for axis, (title, columns) in zip(axes, RUN_PANELS, strict=True):
            for column, (colour, line, name) in columns.items():
                for i, history in enumerate(histories):
                    axis.plot(
                        history["epoch"], history[column], color=colour, linestyle=line, alpha=0.85,
                        marker=MARKERS[i] if apart else "." if len(history) < 3 else "", markersize=4,
                        markevery=_places(len(history), i), label=name if i == 0 else "_",
                    )
            axis.set(title=title, xlabel="epoch")
            for epoch in marks:
                mark(axis, epoch)
            if histories:
                axis.legend()
        losses = [history[list(RUN_PANELS[0][1])].to_numpy() for history in histories]
        if losses and max(map(np.nanmax, losses)) > WIDE * max(1.0, min(map(np.nanmin, losses))):
            _scale_loss(axes[0])
        if apart:
            _tell_apart(axes[-1], [int(history["seed"].iloc[0]) for history in histories])
    last = "; ".join(
        f"seed {int(row['seed'])}, epoch {int(row['epoch'])}: loss {row['train_loss']:.3g}, informative coverage "
        f"{row['informative_coverage_A']:.2f} % (A) and {row['informative_coverage_B']:.2f} % (B)"
        for row in (history.iloc[-1] for history in histories)
    )
    marked = f" Vertical lines mark epochs: {', '.join(map(str, marks))}." if marks else ""
    alt = f"Loss, sampled and informative coverage and latent entropy by epoch. {last or 'No epoch yet'}.{marked}"
    shown = ["seed", "epoch", *(column for _, columns in RUN_PANELS for column in columns)]
    return Drawing(figure_of(axes[0]), alt, pd.concat(histories)[shown] if histories else pd.DataFrame(columns=shown))


def _scale_loss(axis: Axes) -> None:
    """Make the axis of the loss logarithmic above 1. Below 1 it is linear, because a loss may be negative."""
    axis.set_title("loss, logarithmic above 1")
    axis.set_yscale("symlog", linthresh=1)
    axis.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")


def _places(rows: int, run: int) -> list[int]:
    """Return the rows of a history at which the curve of run number `run` has markers.

    The last row has one. The others are at different rows in different runs, so that few markers lie on each other.
    """
    step = max(1, rows // 6)
    return sorted({*range(run * step // len(MARKERS), rows, step), rows - 1})


def _tell_apart(axis: Axes, seeds: Sequence[int]) -> None:
    """Add a second legend to a panel, with the marker of each seed."""
    handles = [
        Line2D([], [], color=INK, linestyle="", marker=shape, markersize=4, label=f"seed {seed}")
        for shape, seed in zip(MARKERS, seeds, strict=False)
    ]
    first = axis.get_legend()
    axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if first is not None:
        axis.add_artist(first)


def draw_schedules(config: Config) -> Drawing:
    """Plot β, τ, ρ and the learning rate against the epoch, for gradients that are not balanced.

    The epochs that the run will train are shaded.
    """
    total = config.training.total_epochs
    table = pd.DataFrame([
        (e, *config.betas(e), *config.temperatures(e), config.permeability(e, False), config.lr(e))
        for e in range(max(PREVIEWED, total))
    ], columns=["epoch", "beta_A", "beta_B", "temperature_A", "temperature_B", "rho", "lr"])
    with style():
        axes = _row_of_panels(0.995)
        for axis, name, title in (
            (axes[0], "beta", "β (weight of KL)"), (axes[1], "temperature", "τ (posterior noise)")
        ):
            for pathway, line in LINE.items():
                values = table[f"{name}_{pathway}"]
                axis.plot(table["epoch"], values, color=PATHWAY[pathway], linestyle=line, label=pathway)
            axis.set_title(title)
            axis.legend()
        axes[2].plot(table["epoch"], table["rho"], color=INK)
        axes[2].set_title("ρ (cross-injection)")
        axes[3].step(table["epoch"], table["lr"], where="post", color=INK)
        axes[3].set(title="learning rate", yscale="log")
        _label_rates(axes[3], table["lr"])
        for axis in axes:
            axis.axvspan(0, total, color=GREEN, alpha=0.08, linewidth=0)
            axis.set_xlabel("epoch")
    last = table.iloc[total - 1]
    return Drawing(figure_of(axes[0]), (
        f"Schedules by epoch; the {total} epochs to train are shaded. At epoch {total - 1}: β_A {last['beta_A']:.3g}, "
        f"β_B {last['beta_B']:.3g}, τ_A {last['temperature_A']:.3g}, τ_B {last['temperature_B']:.3g}, "
        f"ρ {last['rho']:.3g}, learning rate {last['lr']:.3g}."
    ), table)


def _label_rates(axis: Axes, rates: pd.Series[float]) -> None:
    """Label the learning rates that occur, or round numbers if there are many.

    A rate that decays to 0 has no place on a logarithmic axis. So the axis has at most four decades.
    """
    few, high = sorted(set(rates)), float(rates.max())
    low = max(float(rates.min()), high / 1e4)
    axis.set_ylim(low / 1.6, 1.6 * high)
    round_numbers = LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,))
    axis.yaxis.set_major_locator(FixedLocator(few) if len(few) <= 5 else round_numbers)
    axis.yaxis.set_major_formatter("{x:.2g}")
    axis.yaxis.set_minor_locator(NullLocator())


def _row_of_panels(right: float) -> list[Axes]:
    axes = panels(1, 4, 2.2)
    figure = figure_of(axes[0])
    figure.set_size_inches(11, 2.2)
    fixed(figure, left=0.035, right=right, top=0.88, bottom=0.2, wspace=0.24)
    return axes
