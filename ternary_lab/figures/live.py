"""Figures for widgets: runs by epoch and schedules by epoch, in a row of four panels with fixed margins.

Widgets draw a figure again at every change. Fitting the margins to the labels would take longer than drawing the
figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ternary_lab.config import Config
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREEN, GREY, INK, PATHWAY, figure_of, fixed, panels, plain, style
from ternary_lab.metrics.quantities import label
from ternary_lab.runs.load import RunRecord

LINE = {"A": "-", "B": "--"}
RUN_PANELS = (
    ("loss", {"train_loss": (INK, "-", "training"), "val_loss": (GREY, "--", "validation")}),
    *((label(name), {f"{name}_{p}": (PATHWAY[p], LINE[p], p) for p in "AB"})
      for name in ("coverage", "informative_coverage", "H")),
)
PREVIEWED = 120
"""Smallest number of epochs in a figure of schedules. The figure shows more epochs if the run trains more epochs."""


def draw_runs(runs: Mapping[Any, RunRecord]) -> Drawing:
    """Plot loss, sampled coverage, informative coverage and latent entropy of runs against the epoch.

    The keys of `runs` are not used.
    """
    # A history may have a header but no row yet.
    histories = [history for run in runs.values() if len(history := run.history)]
    with style():
        axes = _row_of_panels()
        for axis, (title, columns) in zip(axes, RUN_PANELS, strict=True):
            for column, (colour, line, name) in columns.items():
                for i, history in enumerate(histories):
                    axis.plot(
                        history["epoch"], history[column], color=colour, linestyle=line, alpha=0.85,
                        marker="." if len(history) < 3 else "", label=name if i == 0 else "_",
                    )
            axis.set(title=title, xlabel="epoch")
            if histories:
                axis.legend()
    last = "; ".join(
        f"seed {int(row['seed'])}, epoch {int(row['epoch'])}: loss {row['train_loss']:.3g}, informative coverage "
        f"{row['informative_coverage_A']:.2f} % (A) and {row['informative_coverage_B']:.2f} % (B)"
        for row in (history.iloc[-1] for history in histories)
    )
    alt = f"Loss, sampled and informative coverage and latent entropy by epoch. {last or 'No epoch yet'}."
    shown = ["seed", "epoch", *(column for _, columns in RUN_PANELS for column in columns)]
    return Drawing(figure_of(axes[0]), alt, pd.concat(histories)[shown] if histories else pd.DataFrame(columns=shown))


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
        axes = _row_of_panels()
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
        plain(axes[3])
        for axis in axes:
            axis.axvspan(0, total, color=GREEN, alpha=0.08, linewidth=0)
            axis.set_xlabel("epoch")
    last = table.iloc[total - 1]
    return Drawing(figure_of(axes[0]), (
        f"Schedules by epoch; the {total} epochs to train are shaded. At epoch {total - 1}: β_A {last['beta_A']:.3g}, "
        f"β_B {last['beta_B']:.3g}, τ_A {last['temperature_A']:.3g}, τ_B {last['temperature_B']:.3g}, "
        f"ρ {last['rho']:.3g}, learning rate {last['lr']:.3g}."
    ), table)


def _row_of_panels() -> list[Axes]:
    axes = panels(1, 4, 2.2)
    figure = figure_of(axes[0])
    figure.set_size_inches(11, 2.2)
    fixed(figure, left=0.035, right=0.995, top=0.88, bottom=0.2, wspace=0.2)
    return axes
