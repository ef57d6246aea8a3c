"""Figures that widgets draw again and again: a row of four panels by epoch, with margins that cost no time to fit."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ternary_lab.config import Config
from ternary_lab.figures.style import GREEN, GREY, INK, PATHWAY, figure_of, fixed, panels, plain, style
from ternary_lab.metrics.quantities import label
from ternary_lab.runs.load import RunSet

LINE = {"A": "-", "B": "--"}
RUN_PANELS = (
    ("loss", {"train_loss": (INK, "-", "training"), "val_loss": (GREY, "--", "validation")}),
    *((label(name), {f"{name}_{p}": (PATHWAY[p], LINE[p], p) for p in "AB"})
      for name in ("coverage", "informative_coverage", "H")),
)
PREVIEWED = 120
"""Epochs in a preview of schedules, or more if more are trained."""


def draw_runs(runs: RunSet) -> tuple[Figure, str]:
    """Loss, coverage and latent entropy of runs by epoch, with an alternative text."""
    # A history may have its head and no row yet.
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
    rows = [history.iloc[-1] for history in histories]
    last = "; ".join(
        f"seed {int(row['seed'])}, epoch {int(row['epoch'])}: loss {row['train_loss']:.3g}, informative coverage "
        f"{row['informative_coverage_A']:.2f} % (A) and {row['informative_coverage_B']:.2f} % (B)" for row in rows
    )
    alt = f"Loss, sampled and informative coverage and latent entropy by epoch. {last or 'No epoch yet'}."
    return figure_of(axes[0]), alt


def draw_schedules(config: Config) -> tuple[Figure, str]:
    """β, τ, ρ and the learning rate by epoch, with an alternative text; the epochs to train are shaded.

    ρ is that of gradients that are not balanced.
    """
    total = config.training.total_epochs
    epochs = range(max(PREVIEWED, total))
    beta, tau = [config.betas(e) for e in epochs], [config.temperatures(e) for e in epochs]
    rho, rate = [config.permeability(e, False) for e in epochs], [config.lr(e) for e in epochs]
    with style():
        axes = _row_of_panels()
        for axis, title, values in ((axes[0], "β (weight of KL)", beta), (axes[1], "τ (posterior noise)", tau)):
            for i, (pathway, line) in enumerate(LINE.items()):
                axis.plot(epochs, [v[i] for v in values], color=PATHWAY[pathway], linestyle=line, label=pathway)
            axis.set_title(title)
            axis.legend()
        axes[2].plot(epochs, rho, color=INK)
        axes[2].set_title("ρ (cross-injection)")
        axes[3].step(epochs, rate, where="post", color=INK)
        axes[3].set(title="learning rate", yscale="log")
        plain(axes[3])
        for axis in axes:
            axis.axvspan(0, total, color=GREEN, alpha=0.08, linewidth=0)
            axis.set_xlabel("epoch")
    last = total - 1
    return figure_of(axes[0]), (
        f"Schedules by epoch; the {total} epochs to train are shaded. At epoch {last}: β_A {beta[last][0]:.3g}, β_B "
        f"{beta[last][1]:.3g}, τ_A {tau[last][0]:.3g}, τ_B {tau[last][1]:.3g}, ρ {rho[last]:.3g}, "
        f"learning rate {rate[last]:.3g}."
    )


def _row_of_panels() -> list[Axes]:
    axes = panels(1, 4, 2.2)
    figure = figure_of(axes[0])
    figure.set_size_inches(11, 2.2)
    fixed(figure, left=0.035, right=0.995, top=0.88, bottom=0.2, wspace=0.2)
    return axes
