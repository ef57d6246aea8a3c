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
from ternary_lab.figures.style import GREEN, GREY, INK, PATHWAY, PURPLE, new_axes, plain
from ternary_lab.metrics.coverage import uniform_coverage
from ternary_lab.metrics.latent_entropy import expected_epoch_entropy
from ternary_lab.metrics.quantities import QUANTITIES, label
from ternary_lab.space import SIZE
from ternary_lab.splits import per_epoch

ZOOM = 5
"""Number of epochs that are shown on each side of the disruption."""
COVERAGES = ("coverage", "informative_coverage", "effective_coverage")
"""Quantities of the figure of coverages, from left to right."""
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
        raise RunError("history: has no epoch to draw: train the run first")
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


def name_jump(axis: Axes, history: pd.DataFrame) -> None:
    """Give the dotted line at the disruption an entry in the legend of the axes, if there is a disruption."""
    if (jump := disruption(history)) is not None:
        axis.plot([], [], color=GREY, linestyle=":", linewidth=0.9, label=f"epoch {jump}: β$_B$ leaves 0")


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
    last epochs are enlarged. Nothing is enlarged if these epochs are all epochs.
    """
    history = shared_epochs(history)
    titles = ["loss, nats", _around(history)][: 1 + (len(_enlarged(history)) < len(history))]
    with epoch_panels(history, 1, len(titles), 2.5, titles, width_ratios=(3, 2)[: len(titles)]) as axes:
        _both_losses(axes, history)
        axes[0].legend(title=run_count(history))
    charts, log = ("Two line charts show", "The left one") if len(titles) > 1 else ("A line chart shows", "It")
    alt = f"{charts} the training and validation loss {span_of(history)}. {_loss_words(history, log)}"
    return _drawing(axes, alt, history, "train_loss", "val_loss", "beta_B")


def _around(history: pd.DataFrame) -> str:
    """Return the title of the panel of losses that is enlarged."""
    jump = disruption(history)
    return "the last epochs" if jump is None else f"loss around epoch {jump}, nats"


def _enlarged(history: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the epochs that the enlarged panel of losses shows."""
    jump = disruption(history)
    centre = jump if jump is not None else int(history["epoch"].max()) - ZOOM
    return history[history["epoch"].between(centre - ZOOM, centre + ZOOM)]


def _both_losses(axes: Sequence[Axes], history: pd.DataFrame) -> None:
    """Draw the training and validation loss of all epochs into the first axes, and enlarged into the second, if any."""
    whole, *enlarged = axes
    for axis, rows, marker in zip(axes, (history, _enlarged(history)), (None, "o"), strict=False):
        band(axis, rows, "epoch", "train_loss", color=INK, label="training loss", marker=marker)
        band(axis, rows, "epoch", "val_loss", color=GREEN, label="validation loss", marker=marker)
    _loss_scale(whole, float(history[["train_loss", "val_loss"]].to_numpy().min()))
    name_jump(whole, history)
    for zoom in enlarged:
        zoom.set_ylim(bottom=min(0, zoom.get_ylim()[0]))


def _loss_words(history: pd.DataFrame, log: str = "The left one") -> str:
    """Return what the panels of `_both_losses` show, as words for an alternative text.

    `log` names the panel that has a log scale.
    """
    jump, middle = disruption(history), history.groupby("epoch")[["train_loss", "val_loss"]].median()
    words = f"{log} has a log scale. The training loss is {from_to(history, 'train_loss')}."
    if jump is None or jump - 1 not in middle.index:
        return words
    (before, val_before), (at, val_at) = middle.loc[jump - 1], middle.loc[jump]
    return (
        f"{words} When beta B leaves 0, the training loss goes from {before:.3g} at epoch {jump - 1} to {at:.3g}, and "
        f"the validation loss from {val_before:.3g} to {val_at:.3g}."
    )


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


def coverages(history: pd.DataFrame, config: Config, kinds: Sequence[str] = COVERAGES) -> Drawing:
    """Plot the sampled coverage with its uniform baseline, the informative coverage and the effective coverage.

    From M latents, neither of the last two can exceed M/N before the correction, because M latents have at most M
    different outputs and ln M nats of information. If M < N, this ceiling is drawn for effective coverage. `kinds`
    names the quantities that are shown, among those of `COVERAGES`.
    """
    history = shared_epochs(history)
    samples, latents = config.evaluation.coverage_samples, f"from {config.evaluation.latents:,} latents"
    notes = {
        "coverage": f"n = {samples:,} {config.evaluation.coverage_decoding} draws", "informative_coverage": latents,
        "effective_coverage": f"argmax, {latents}",
    }
    uniform = uniform_coverage(samples)
    ceiling = 100 * config.evaluation.latents / SIZE if "effective_coverage" in kinds else 100
    titles = [f"{label(kind)}\n{notes[kind]}" for kind in kinds]
    with epoch_panels(history, 1, len(kinds), 2.5, titles) as axes:
        for axis, kind in zip(axes, kinds, strict=True):
            both_pathways(axis, history, kind)
            if kind == "coverage":
                reference(axis, uniform, f"uniform noise, {uniform:.3f} %", "--")
            else:
                axis.set_ylim(bottom=0)
            if kind == "effective_coverage" and ceiling < 100:
                reference(axis, ceiling, f"ceiling M/N without correction, {ceiling:.1f} %", "-.")
        name_jump(axes[0], history)
        legend_below(axes, run_count(history), ncols=3 if ceiling < 100 else 4)
    parts = [f"{QUANTITIES[kind].words} is {from_to(history, f'{kind}_B', '.2f')}" for kind in kinds]
    alt = (
        f"Line charts show the coverage by both pathways in percent {span_of(history)}. In pathway B "
        f"{'; '.join(parts)}. Uniform noise reaches a sampled coverage of {uniform:.3f} % in {samples:,} draws."
        + (f" Without a correction, effective coverage cannot exceed {ceiling:.1f} %." if ceiling < 100 else "")
    )
    return _drawing(axes, alt, history, *kinds, uniform_baseline=uniform)


def overview(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot both losses as in `losses`, and the informative coverage of both pathways: the training at one glance."""
    history = shared_epochs(history)
    titles = ("loss, nats", _around(history), label("informative_coverage"))
    with epoch_panels(history, 1, 3, 2.7, titles, width_ratios=(5, 4, 4)) as axes:
        _both_losses(axes[:2], history)
        both_pathways(axes[2], history, "informative_coverage")
        axes[2].set_ylim(bottom=0)
        legend_below(axes, run_count(history), ncols=5)
    alt = (
        f"Three line charts show the training and validation loss and informative coverage {span_of(history)}. "
        f"{_loss_words(history)} Informative coverage of A is {from_to(history, 'informative_coverage_A')}, of B "
        f"{from_to(history, 'informative_coverage_B')} percent."
    )
    if (jump := disruption(history)) is not None:
        at = history[history["epoch"] == jump].median(numeric_only=True)
        alt += f" At epoch {jump}, informative coverage of B is {at['informative_coverage_B']:.3g} percent."
    return _drawing(axes, alt, history, "train_loss", "val_loss", "informative_coverage")


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
    """Plot β, τ, ρ and the learning rate, without StateNet's small correction, against the epoch."""
    history = shared_epochs(history)
    titles = ("β, weight of the KL", "τ, scale of the posterior noise", "ρ, permeability", "scheduled learning rate")
    with epoch_panels(history, 2, 2, 3.9, titles, sharex=True) as axes:
        beta, temperature, rho, rate = axes
        both_pathways(beta, history, "beta")
        both_pathways(temperature, history, "temperature")
        band(rho, history, "epoch", "rho", color=INK)
        band(rate, history, "epoch", "lr_scheduled", color=INK)
        name_jump(beta, history)
        legend_below([beta], ncols=3)
        steps = sorted(history["lr_scheduled"].unique())
        rate.set_yscale("log")
        rate.set_yticks(steps, [f"{step:g}" for step in steps])
        rate.minorticks_off()
    alt = (
        f"Four line charts show the schedules {span_of(history)}. Beta A is {from_to(history, 'beta_A')}; beta B is "
        f"{from_to(history, 'beta_B')}; rho is {from_to(history, 'rho')}; the learning rate is "
        f"{from_to(history, 'lr_scheduled')}."
    )
    return _drawing(axes, alt, history, "beta", "temperature", "rho", "lr_scheduled")


def statenet_outputs(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot the four outputs of StateNet against the epoch, with a line for each run. Each output lies in (-1, 1).

    The titles say how large the correction is that belongs to an output of 1.
    """
    history = shared_epochs(history)
    runs = int(history.groupby("epoch").size().max())
    scales = dict.fromkeys(CORRECTIONS, f"{config.statenet.lambda_scale:g}")
    scales["lr"] = f"{100 * config.statenet.lr_scale:g} % of lr"
    titles = [f"{symbol}; correction: {symbol} × {scales[name]}" for name, symbol in CORRECTIONS.items()]
    with epoch_panels(history, 2, 2, 3.6, titles, sharex=True, sharey=True) as axes:
        for axis, name, color in zip(axes, CORRECTIONS, (PURPLE, *PATHWAY.values(), INK), strict=True):
            reference(axis, 0, line="-")
            for _, run in history.groupby(_keys(history)):
                axis.plot(run["epoch"], run[f"delta_{name}"], color=color, linewidth=0.7)
        for axis in axes[::2]:
            axis.set_ylabel("output")
    parts = [f"for {name} is {from_to(history, f'delta_{name}', '+.3f')}" for name in CORRECTIONS]
    alt = (
        f"Four line charts show the outputs of StateNet, with a line for each run (n = {runs}). The median "
        f"{'; '.join(parts)}."
    )
    return _drawing(axes, alt, history, *(f"delta_{name}" for name in CORRECTIONS))


def gradient_balance(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot the ratio of the gradient norms with its bounds, and the weights λ.

    The ratio compares the moving averages of both norms at the start of an epoch.
    """
    history, w = shared_epochs(history), config.loss_weights
    titles = ("n$_B$/n$_A$ at the start of an epoch", "λ$_1$, λ$_2$ and their bounds", "λ$_3$, entropy alignment")
    with epoch_panels(history, 1, 3, 2.7, titles) as axes:
        ratio, pathways, alignment = axes
        ratio.axhspan(w.ratio_low, w.ratio_high, color=GREEN, alpha=0.3, linewidth=0,
                      label=f"no change of λ: {w.ratio_low:g} to {w.ratio_high:g}")
        band(ratio, history, "epoch", "grad_ratio", color=INK)
        ratio.set_yscale("log")
        for name, pathway in (("lambda1", "A"), ("lambda2", "B")):
            band(pathways, history, "epoch", name, color=PATHWAY[pathway], label=f"λ$_{name[-1]}$, pathway {pathway}")
        for bound in (w.low, w.high):
            reference(pathways, bound, line="--")
        band(alignment, history, "epoch", "lambda3", color=INK)
        name_jump(ratio, history)
        legend_below(axes, run_count(history), ncols=4)
    alt = (
        f"Three line charts show the ratio of gradient norms and the loss weights {span_of(history)}. The "
        f"ratio of B to A is {from_to(history, 'grad_ratio')}; lambda 1 is {from_to(history, 'lambda1')}; lambda 2 is "
        f"{from_to(history, 'lambda2')}."
    )
    return _drawing(axes, alt, history, "grad_ratio", "lambda1", "lambda2", "lambda3")


FIGURES: Mapping[str, Callable[[pd.DataFrame, Config], Drawing]] = {
    "loss": losses, "coverage": coverages, "entropy": latent_entropies, "kl": kl_divergences,
    "schedules": schedule_values, "statenet": statenet_outputs, "gradient_balance": gradient_balance,
}
"""Functions that draw the figures of a training history, by name and in the order of the report."""
