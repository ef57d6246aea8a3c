"""Figures of a training history: loss, coverage, latent entropy, KL, schedules, StateNet, gradient balance.

Each function takes a history and the configuration that its runs share. A history is a table with the rows of one or
more runs and the columns of `history.EpochRecord`. One run is drawn as a line. Several runs are drawn as their median,
with a band from the lowest to the highest value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ternary_lab.config import Config
from ternary_lab.errors import RunError
from ternary_lab.figures.parts import band, label_epochs, legend_below, log_scale, mark, reference
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREEN, INK, PATHWAY, PURPLE, new_axes, plain
from ternary_lab.metrics.coverage import uniform_coverage
from ternary_lab.metrics.latent_entropy import expected_epoch_entropy
from ternary_lab.metrics.quantities import QUANTITIES, label
from ternary_lab.space import SIZE
from ternary_lab.splits import per_epoch

ZOOM = 5
"""Number of epochs that are shown on each side of the disruption."""
LOWEST_RATIO = 1e-3
"""Lowest ratio of gradient norms that is shown. The gradient of B almost vanishes before the disruption."""
LINEAR = 0.1
"""Losses up to this size are shown on a linear scale if a loss is negative, larger ones on a logarithmic scale."""
CORRECTIONS = {"lr": "Δ lr", "lambda1": "Δλ$_1$", "lambda2": "Δλ$_2$", "lambda3": "Δλ$_3$"}
"""Symbols of StateNet's outputs, by name."""


def disruption(history: pd.DataFrame) -> int | None:
    """Return the epoch at which β_B leaves 0 (50 in v5.5), or None if the history does not contain this event."""
    off = history.loc[history["beta_B"] == 0, "epoch"]
    on = history.loc[history["beta_B"] > 0, "epoch"]
    return int(on.min()) if len(off) and len(on) and off.min() < on.min() else None


def epoch_entropy(config: Config) -> float:
    """Return the expected mean of H over the batches of an epoch, in nats, if every latent is N(0, 1).

    H is the latent entropy of a batch. The last batch of an epoch may be smaller than the others.
    """
    return _epoch_entropy(per_epoch(config.data), config.data.batch_size)


@cache
def _epoch_entropy(operations: int, batch: int) -> float:
    return expected_epoch_entropy(operations, batch, 1, repeats=2000)[0]


def shared_epochs(history: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the epochs that all runs have, or all rows if no epoch is shared.

    Each median is then taken over the same runs. Raises RunError for an empty history.
    """
    if history.empty:
        raise RunError("no epoch to draw: the history is empty")
    size = history.groupby("epoch")["epoch"].transform("size")
    shared = history[size == len(history[_keys(history)].drop_duplicates())]
    return history if shared.empty else shared


def _keys(history: pd.DataFrame) -> list[str]:
    return [name for name in ("run", "seed") if name in history]


@contextmanager
def epoch_panels(
    history: pd.DataFrame, rows: int, columns: int, height: float, titles: Sequence[str], **options: Any
) -> Iterator[list[Axes]]:
    """Yield the axes of a new figure with epochs along x, titles for the axes, and a dotted line at the disruption."""
    with new_axes(rows, columns, height, **options) as axes:
        jump = disruption(history)
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(title)
            if jump is not None:
                mark(axis, jump)
        label_epochs(axes if not options.get("sharex") else axes[-columns:])
        yield axes


def both_pathways(axis: Axes, history: pd.DataFrame, column: str) -> None:
    """Draw `<column>_A` and `<column>_B` in the colours of the pathways."""
    for pathway, color in PATHWAY.items():
        band(axis, history, "epoch", f"{column}_{pathway}", color=color, label=f"pathway {pathway}")


def run_count(history: pd.DataFrame) -> str | None:
    """Return the text that explains line and band in a legend, or None for one run."""
    n = int(history.groupby("epoch").size().max())
    return f"median and range, n = {n}" if n > 1 else None


def from_to(history: pd.DataFrame, column: str, digits: str = ".3g") -> str:
    """Return the first and the last value of a column (medians over runs) as words for an alternative text."""
    middle = history.groupby("epoch")[column].median()
    return f"{middle.iloc[0]:{digits}} at epoch {middle.index[0]} and {middle.iloc[-1]:{digits}} at {middle.index[-1]}"


def span_of(history: pd.DataFrame) -> str:
    """Return the number of runs and the range of their epochs as words for an alternative text."""
    n = int(history.groupby("epoch").size().max())
    runs = "one run" if n == 1 else f"{n} runs (median and range)"
    return f"of {runs} from epoch {int(history['epoch'].min())} to {int(history['epoch'].max())}"


def _drawing(axes: Sequence[Axes], alt: str, history: pd.DataFrame, *columns: str, **constants: float) -> Drawing:
    """Return the drawing of a figure, with the columns that the figure shows as data.

    Each name in `columns` is a column of the history, or a quantity that has a column for each pathway. Each of the
    `constants` becomes a column with a single value.
    """
    single = [name for column in columns for name in ([column] if column in history else _both(column))]
    data = history[[*_keys(history), "epoch", *single]].assign(**constants)
    return Drawing.of(axes, alt, data)


def _both(name: str) -> tuple[str, ...]:
    return tuple(f"{name}_{pathway}" for pathway in PATHWAY)


def losses(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot the training and validation loss of all epochs, and enlarge the epochs around the disruption.

    The axis of all epochs is logarithmic, or symmetric-logarithmic if a loss is not positive. Without a disruption, the
    last epochs are enlarged.
    """
    history, jump = shared_epochs(history), disruption(history)
    centre = jump if jump is not None else int(history["epoch"].max()) - ZOOM
    near = history[history["epoch"].between(centre - ZOOM, centre + ZOOM)]
    around = "the last epochs" if jump is None else f"around epoch {jump}: β$_B$ leaves 0"
    with epoch_panels(
            history, 1, 2, 2.5, ("loss, nats", around), width_ratios=(3, 2)
        ) as axes:
        whole, zoom = axes
        for axis, rows, marker in ((whole, history, None), (zoom, near, "o")):
            band(axis, rows, "epoch", "train_loss", color=INK, label="training", marker=marker)
            band(axis, rows, "epoch", "val_loss", color=GREEN, label="validation", marker=marker)
        _loss_scale(whole, float(history[["train_loss", "val_loss"]].to_numpy().min()))
        whole.legend(title=run_count(history))
        zoom.set_ylim(bottom=min(0, zoom.get_ylim()[0]))
    alt = (
        f"Two line charts show the training and validation loss {span_of(history)}. The left one has a log scale, the "
        f"right one shows {around.split(':')[0]} enlarged. The training loss is {from_to(history, 'train_loss')}."
    )
    if jump is not None:
        loss = history.groupby("epoch")["train_loss"].median()
        alt += f" When beta B leaves 0 it goes from {loss[jump - 1]:.3g} at epoch {jump - 1} to {loss[jump]:.3g}."
    return _drawing(axes, alt, history, "train_loss", "val_loss", "beta_B")


def _loss_scale(axis: Axes, lowest: float) -> None:
    """Make an axis of losses logarithmic, with a linear part around 0 if the lowest loss is not positive."""
    if lowest > 0:
        axis.set_yscale("log")
    else:  # the entropy term can make the loss negative
        axis.set_yscale("symlog", linthresh=LINEAR)
        axis.set_ylim(bottom=1.5 * lowest - 0.01)
        axis.set_title(f"{axis.get_title(loc='left')} (linear to ±{LINEAR:g}, then log)")
        reference(axis, 0, line="-")
    plain(axis)


def coverages(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot the sampled coverage with its uniform baseline, the informative coverage and the effective coverage.

    From M latents, neither of the last two can exceed M/N before the correction, because M latents have at most M
    different outputs and ln M nats of information. If M < N, this ceiling is drawn.
    """
    history, kinds = shared_epochs(history), ("coverage", "informative_coverage", "effective_coverage")
    samples, latents = config.evaluation.coverage_samples, f"from {config.evaluation.latents:,} latents"
    notes = (f"n = {samples:,} {config.evaluation.coverage_decoding} draws", latents, f"argmax, {latents}")
    uniform, ceiling = uniform_coverage(samples), 100 * config.evaluation.latents / SIZE
    with epoch_panels(
        history, 1, 3, 2.5, [f"{label(kind)}\n{note}" for kind, note in zip(kinds, notes, strict=True)]
    ) as axes:
        for axis, kind in zip(axes, kinds, strict=True):
            both_pathways(axis, history, kind)
        reference(axes[0], uniform, f"uniform noise, {uniform:.3f} %", "--")
        for axis in axes[1:]:
            axis.set_ylim(bottom=0)
        if ceiling < 100:
            reference(axes[2], ceiling, f"ceiling M/N without correction, {ceiling:.1f} %")
        legend_below(axes, run_count(history), ncols=4)
    parts = [f"{QUANTITIES[kind].words} is {from_to(history, f'{kind}_B', '.2f')}" for kind in kinds]
    alt = (
        f"Three line charts show the coverage by both pathways in percent {span_of(history)}. In pathway B "
        f"{'; '.join(parts)}. Uniform noise reaches a sampled coverage of {uniform:.3f} % in {samples:,} draws."
        + (f" Without a correction, effective coverage cannot exceed {ceiling:.1f} %." if ceiling < 100 else "")
    )
    return _drawing(axes, alt, history, *kinds, uniform_baseline=uniform)


def overview(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot the training loss and the informative coverage of both pathways: the training at one glance."""
    history = shared_epochs(history)
    titles = ("training loss, nats", label("informative_coverage"))
    with epoch_panels(history, 1, 2, 2.5, titles) as axes:
        loss, coverage = axes
        band(loss, history, "epoch", "train_loss", color=INK)
        _loss_scale(loss, float(history["train_loss"].min()))
        both_pathways(coverage, history, "informative_coverage")
        coverage.set_ylim(bottom=0)
        coverage.legend(title=run_count(history), loc="upper left")
    alt = (
        f"Two line charts {span_of(history)}. The training loss, on a log scale, is {from_to(history, 'train_loss')}. "
        f"Informative coverage of A is {from_to(history, 'informative_coverage_A')}, of B "
        f"{from_to(history, 'informative_coverage_B')} percent."
    )
    if (jump := disruption(history)) is not None:
        at = history[history["epoch"] == jump].median(numeric_only=True)
        alt += (
            f" At epoch {jump}, where beta B leaves 0, the loss is {at['train_loss']:.3g} and informative coverage of "
            f"B {at['informative_coverage_B']:.3g} percent."
        )
    return _drawing(axes, alt, history, "train_loss", "informative_coverage")


def latent_entropies(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot the latent entropy H of both pathways, beside the expected H of N(0, 1) at the same batch sizes."""
    history, expected = shared_epochs(history), epoch_entropy(config)
    with epoch_panels(history, 1, 1, 2.6, ["latent entropy H of a batch (50 bins over [-3, 3]), nats"]) as (axis,):
        both_pathways(axis, history, "H")
        reference(axis, expected, f"N(0, 1) in batches of {config.data.batch_size}: {expected:.3f}", "--")
        reference(axis, float(np.log(50)), "ceiling, ln 50 = 3.912")
        axis.legend(title=run_count(history), ncols=2, loc="lower right")
    alt = (
        f"A line chart shows the latent entropy H {span_of(history)}. In pathway A it is {from_to(history, 'H_A')}, "
        f"in B {from_to(history, 'H_B')} nats. A standard normal latent gives {expected:.3f} nats."
    )
    return _drawing([axis], alt, history, "H", H_expected=expected)


def kl_divergences(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot the KL of both pathways on a log scale, with the lower limit that free bits set."""
    history, floor = shared_epochs(history), config.kl.free_bits * config.model.latent_dim
    with epoch_panels(history, 1, 1, 2.6, ["KL from the prior, free bits included, nats"]) as (axis,):
        both_pathways(axis, history, "kl")
        if floor > 0:
            reference(axis, floor, f"floor of free bits, {floor:g}", "--")
        log_scale(axis)
        axis.legend(title=run_count(history))
    alt = (
        f"A line chart on a log scale shows the KL from the prior {span_of(history)}. In pathway A it is "
        f"{from_to(history, 'kl_A')}, in B {from_to(history, 'kl_B')} nats."
    )
    return _drawing([axis], alt, history, "kl", kl_floor=floor)


def schedule_values(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot β, τ, ρ and the learning rate against the epoch."""
    history = shared_epochs(history)
    titles = ("β, weight of the KL", "τ, scale of the posterior noise", "ρ, permeability", "learning rate")
    with epoch_panels(history, 2, 2, 3.9, titles, sharex=True) as axes:
        beta, temperature, rho, rate = axes
        both_pathways(beta, history, "beta")
        both_pathways(temperature, history, "temperature")
        band(rho, history, "epoch", "rho", color=INK)
        band(rate, history, "epoch", "lr_scheduled", color=INK, label="scheduled")
        band(rate, history, "epoch", "lr", color=PURPLE, label="corrected by StateNet", linestyle="--")
        legend_below([beta, rate], run_count(history), ncols=4)
        steps = sorted(history["lr_scheduled"].unique())
        rate.set_yscale("log")
        rate.set_yticks(steps, [f"{step:g}" for step in steps])
        rate.minorticks_off()
    alt = (
        f"Four line charts show the schedules {span_of(history)}. Beta A is {from_to(history, 'beta_A')}; beta B is "
        f"{from_to(history, 'beta_B')}; rho is {from_to(history, 'rho')}; the learning rate is "
        f"{from_to(history, 'lr')}."
    )
    return _drawing(axes, alt, history, "beta", "temperature", "rho", "lr_scheduled", "lr")


def statenet_outputs(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot the four outputs of StateNet against the epoch. Each output lies in (-1, 1).

    The titles say how large the correction is that belongs to an output of 1.
    """
    history, runs = shared_epochs(history), run_count(history)
    scales = dict.fromkeys(CORRECTIONS, f"{config.statenet.lambda_scale:g}")
    scales["lr"] = f"{100 * config.statenet.lr_scale:g} % of lr"
    titles = [f"{symbol}; correction: {symbol} × {scales[name]}" for name, symbol in CORRECTIONS.items()]
    with epoch_panels(history, 2, 2, 3.6, titles, sharex=True, sharey=True) as axes:
        for axis, name, color in zip(axes, CORRECTIONS, (PURPLE, *PATHWAY.values(), INK), strict=True):
            reference(axis, 0, line="-")
            band(axis, history, "epoch", f"delta_{name}", color=color)
        for axis in axes[::2]:
            axis.set_ylabel("output")
        if runs:
            axes[0].legend([axes[0].lines[-1]], [runs])
    parts = [f"that of {name} is {from_to(history, f'delta_{name}', '+.3f')}" for name in CORRECTIONS]
    alt = f"Four line charts show the outputs of StateNet {span_of(history)}: {'; '.join(parts)}."
    return _drawing(axes, alt, history, *(f"delta_{name}" for name in CORRECTIONS))


def gradient_balance(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot the ratio of the gradient norms with its bounds, the momentum of the norms' averages, and the weights λ."""
    history, w = shared_epochs(history), config.loss_weights
    cut = history["grad_ratio"].min() < LOWEST_RATIO
    titles = (
        "gradient norms, B over A" + (f" (shown from {LOWEST_RATIO:g})" if cut else ""),
        "momentum of the norms' averages", "λ$_1$, λ$_2$ and their bounds", "λ$_3$, entropy alignment",
    )
    with epoch_panels(history, 2, 2, 3.9, titles, sharex=True) as axes:
        ratio, momentum, pathways, alignment = axes
        ratio.axhspan(w.ratio_low, w.ratio_high, color=GREEN, alpha=0.15, linewidth=0,
                      label=f"balanced, {w.ratio_low:g} to {w.ratio_high:g}")
        band(ratio, history, "epoch", "grad_ratio", color=INK)
        log_scale(ratio)
        if cut:
            ratio.set_ylim(bottom=LOWEST_RATIO)
        ratio.legend(title=run_count(history))
        band(momentum, history, "epoch", "grad_momentum", color=INK)
        momentum.set_ylim(0, 1)
        for name, pathway in (("lambda1", "A"), ("lambda2", "B")):
            band(pathways, history, "epoch", name, color=PATHWAY[pathway], label=f"λ$_{name[-1]}$, pathway {pathway}")
        for bound in (w.low, w.high):
            reference(pathways, bound, line="--")
        pathways.legend()
        band(alignment, history, "epoch", "lambda3", color=INK)
    alt = (
        f"Four line charts show the ratio of gradient norms, the momentum and the loss weights {span_of(history)}. The "
        f"ratio of B to A is {from_to(history, 'grad_ratio')}; lambda 1 is {from_to(history, 'lambda1')}; lambda 2 is "
        f"{from_to(history, 'lambda2')}."
    )
    return _drawing(axes, alt, history, "grad_ratio", "grad_momentum", "lambda1", "lambda2", "lambda3")


FIGURES: Mapping[str, Callable[[pd.DataFrame, Config], Drawing]] = {
    "loss": losses, "coverage": coverages, "entropy": latent_entropies, "kl": kl_divergences,
    "schedules": schedule_values, "statenet": statenet_outputs, "gradient_balance": gradient_balance,
}
"""Functions that draw the figures of a training history, by name and in the order of the report."""
