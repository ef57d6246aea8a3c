"""Figures of a training history, one function each.

Each takes a history (the rows of one run or of several, columns of `training.EpochRecord`), the
configuration that the runs share (default: v5.5's) and `ax`, the axes to draw on (default: those of a
new figure), and returns the artists. One run is a line; several are the median with a band from the
lowest to the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import TypeAlias

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from ternary_lab.config import Config
from ternary_lab.errors import RunError
from ternary_lab.figures.style import GREEN, GREY, INK, PATHWAY, PURPLE, figure_of, panels, style
from ternary_lab.metrics.coverage import uniform_coverage
from ternary_lab.metrics.latent_entropy import expected_epoch_entropy
from ternary_lab.splits import per_epoch

Panels: TypeAlias = Axes | Sequence[Axes] | np.ndarray | None
Plot: TypeAlias = Callable[..., list[Artist]]
V5_5 = Config()
ZOOM = 5
"""Epochs shown on each side of the disruption."""
LOWEST_RATIO = 1e-3
"""Of the gradient norms: B's gradient all but vanishes before the disruption."""


def disruption(history: pd.DataFrame) -> int | None:
    """The epoch at which β_B leaves 0 (50 in v5.5), or None when these runs do not contain it."""
    off = history.loc[history["beta_B"] == 0, "epoch"]
    on = history.loc[history["beta_B"] > 0, "epoch"]
    return int(on.min()) if len(off) and len(on) and off.min() < on.min() else None


def epoch_entropy(config: Config) -> float:
    """An epoch's mean of H in nats when every latent is N(0, 1): over its full batches and the smaller last one."""
    return _epoch_entropy(per_epoch(config.data), config.data.batch_size)


@cache
def _epoch_entropy(operations: int, batch: int) -> float:
    return expected_epoch_entropy(operations, batch, 1, repeats=2000)[0]


def styled(plot: Plot) -> Plot:
    @wraps(plot)
    def wrapped(history: pd.DataFrame, config: Config = V5_5, ax: Panels = None) -> list[Artist]:
        if history.empty:
            raise RunError("no epoch to draw: the history is empty")
        with style():
            return plot(_shared(history), config, ax)

    return wrapped


def _shared(history: pd.DataFrame) -> pd.DataFrame:
    """The epochs that all runs have, so that a median is of the same runs throughout; all epochs if there are none."""
    size = history.groupby("epoch")["epoch"].transform("size")
    keys = [name for name in ("run", "seed") if name in history]
    shared = history[size == len(history[keys].drop_duplicates())]
    return history if shared.empty else shared


def curve(
    ax: Axes, history: pd.DataFrame, column: str, color: str, label: str | None = None, *,
    line: str = "-", marker: str | None = None,
) -> list[Artist]:
    by_epoch = history.groupby("epoch")[column]
    middle = by_epoch.median()
    artists: list[Artist] = [*ax.plot(middle.index, middle, line, color=color, label=label, marker=marker)]
    if len(history) > len(middle):
        artists.append(
            ax.fill_between(middle.index, by_epoch.min(), by_epoch.max(), color=color, alpha=0.22, linewidth=0)
        )
    return artists


def _mark(ax: Axes, history: pd.DataFrame) -> list[Artist]:
    """A dotted line where β_B jumps."""
    jump = disruption(history)
    return [] if jump is None else [ax.axvline(jump, color=GREY, linestyle=":", linewidth=0.9, zorder=1)]


def level_line(ax: Axes, value: float, label: str | None = None, line: str = "--") -> Artist:
    return ax.axhline(value, color=GREY, linestyle=line, linewidth=0.9, label=label, zorder=1)


def finish(ax: Axes, history: pd.DataFrame, title: str, *, log: bool = False, legend: bool = True) -> list[Artist]:
    artists = _mark(ax, history)
    ax.set_title(title)
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(LogFormatter())
        ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    if legend:
        ax.legend()
    return artists


def run_count(history: pd.DataFrame) -> str | None:
    """What band and line are, for a legend."""
    n = int(history.groupby("epoch").size().max())
    return f"median and range, n = {n}" if n > 1 else None


def label_epochs(axes: Sequence[Axes]) -> None:
    """Name the x axis below the lowest row."""
    for ax in axes:
        ax.set_xlabel("epoch")


@styled
def loss(history: pd.DataFrame, config: Config = V5_5, ax: Panels = None) -> list[Artist]:
    """Training and validation loss (log), and the epochs around the disruption. Two axes."""
    whole, zoom = panels(1, 2, 2.5, ax, width_ratios=(3, 2))
    jump = disruption(history)
    centre = jump if jump is not None else int(history["epoch"].max()) - ZOOM
    near = history[history["epoch"].between(centre - ZOOM, centre + ZOOM)]
    artists = []
    for axis, rows, marker in ((whole, history, None), (zoom, near, "o")):
        artists += curve(axis, rows, "train_loss", INK, "training", marker=marker)
        artists += curve(axis, rows, "val_loss", GREEN, "validation", marker=marker)
    artists += finish(whole, history, "loss of an epoch, nats", log=True, legend=False)
    if float(history[["train_loss", "val_loss"]].to_numpy().min()) <= 0:  # the entropy term can take it below 0
        whole.set_yscale("symlog", linthresh=0.1)
    whole.legend(title=run_count(history))
    around = "the last epochs" if jump is None else f"around epoch {jump}: β$_B$ leaves 0"
    artists += finish(zoom, history, around, legend=False)
    zoom.set_ylim(bottom=min(0, zoom.get_ylim()[0]))
    label_epochs([whole, zoom])
    return artists


@styled
def coverage(history: pd.DataFrame, config: Config = V5_5, ax: Panels = None) -> list[Artist]:
    """Sampled coverage beside its uniform baseline, informative and effective coverage. Three axes."""
    axes = panels(1, 3, 2.5, ax)
    samples, decoding = config.evaluation.coverage_samples, config.evaluation.coverage_decoding
    kinds = (
        ("coverage", f"sampled, %\nn = {samples:,} {decoding} draws"),
        ("informative_coverage", f"informative, %\nfrom {config.evaluation.latents:,} latents"),
        ("effective_coverage", f"effective (argmax), %\nfrom {config.evaluation.latents:,} latents"),
    )
    artists: list[Artist] = []
    for axis, (kind, title) in zip(axes, kinds, strict=True):
        for pathway, color in PATHWAY.items():
            artists += curve(axis, history, f"{kind}_{pathway}", color, f"pathway {pathway}")
        if kind == "coverage":
            uniform = uniform_coverage(samples)
            artists.append(level_line(axis, uniform, f"uniform noise, {uniform:.3f} %"))
        else:
            axis.set_ylim(bottom=0)
        artists += finish(axis, history, title, legend=False)
    figure = figure_of(axes[0])
    if ax is None:
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, title=run_count(history), loc="outside lower center", ncols=3)
    else:
        axes[0].legend(title=run_count(history))
    label_epochs(axes)
    return artists


@styled
def entropy(history: pd.DataFrame, config: Config = V5_5, ax: Panels = None) -> list[Artist]:
    """Latent entropy H of both pathways, with what N(0, 1) gives at the same batch sizes. One axes."""
    (axis,) = panels(1, 1, 2.6, ax)
    artists: list[Artist] = []
    for pathway, color in PATHWAY.items():
        artists += curve(axis, history, f"H_{pathway}", color, f"pathway {pathway}")
    expected = epoch_entropy(config)
    artists.append(level_line(axis, expected, f"N(0, 1) in batches of {config.data.batch_size}: {expected:.3f}"))
    artists.append(level_line(axis, float(np.log(50)), "ceiling, ln 50 = 3.912", line=":"))
    artists += finish(axis, history, "latent entropy H of a batch (50 bins over [-3, 3]), nats", legend=False)
    axis.legend(title=run_count(history), ncols=2, loc="lower right")
    label_epochs([axis])
    return artists


@styled
def kl(history: pd.DataFrame, config: Config = V5_5, ax: Panels = None) -> list[Artist]:
    """KL of both pathways (log), with the floor that free bits set. One axes."""
    (axis,) = panels(1, 1, 2.6, ax)
    artists: list[Artist] = []
    for pathway, color in PATHWAY.items():
        artists += curve(axis, history, f"kl_{pathway}", color, f"pathway {pathway}")
    floor = config.kl.free_bits * config.model.latent_dim
    if floor > 0:
        artists.append(level_line(axis, floor, f"floor of free bits, {floor:g}"))
    artists += finish(axis, history, "KL from the prior, free bits included, nats", log=True, legend=False)
    axis.legend(title=run_count(history))
    label_epochs([axis])
    return artists


@styled
def schedules(history: pd.DataFrame, config: Config = V5_5, ax: Panels = None) -> list[Artist]:
    """β, τ, ρ and the learning rate. Four axes."""
    beta, temperature, rho, rate = axes = panels(2, 2, 3.9, ax, sharex=True)
    artists: list[Artist] = []
    for pathway, color in PATHWAY.items():
        artists += curve(beta, history, f"beta_{pathway}", color, f"pathway {pathway}")
        artists += curve(temperature, history, f"temperature_{pathway}", color)
    artists += curve(rho, history, "rho", INK)
    artists += curve(rate, history, "lr_scheduled", INK, "scheduled")
    artists += curve(rate, history, "lr", PURPLE, "corrected by StateNet", line="--")
    artists += finish(beta, history, "β, weight of the KL", legend=False)
    beta.legend(title=run_count(history))
    artists += finish(temperature, history, "τ, scale of the posterior noise", legend=False)
    artists += finish(rho, history, "ρ, permeability", legend=False)
    artists += finish(rate, history, "learning rate", log=True)
    steps = sorted(history["lr_scheduled"].unique())
    rate.set_yticks(steps, [f"{step:g}" for step in steps])
    rate.minorticks_off()
    label_epochs(axes[2:])
    return artists


CORRECTIONS = {"lr": "Δ lr", "lambda1": "Δλ$_1$", "lambda2": "Δλ$_2$", "lambda3": "Δλ$_3$"}


@styled
def statenet(history: pd.DataFrame, config: Config = V5_5, ax: Panels = None) -> list[Artist]:
    """StateNet's four outputs, each in (-1, 1). Four axes."""
    axes = panels(2, 2, 3.6, ax, sharex=True, sharey=True)
    colors = (PURPLE, PATHWAY["A"], PATHWAY["B"], INK)
    artists: list[Artist] = []
    for axis, (name, title), color in zip(axes, CORRECTIONS.items(), colors, strict=True):
        artists.append(level_line(axis, 0, line="-"))
        artists += curve(axis, history, f"delta_{name}", color)
        artists += finish(axis, history, title, legend=False)
    if runs := run_count(history):
        axes[0].set_title(f"{axes[0].get_title(loc='left')} ({runs})")
    label_epochs(axes[2:])
    return artists


@styled
def balance(history: pd.DataFrame, config: Config = V5_5, ax: Panels = None) -> list[Artist]:
    """Gradient ratio with its bounds, momentum, and λ. Four axes."""
    ratio, momentum, pathways, alignment = axes = panels(2, 2, 3.9, ax, sharex=True)
    w = config.loss_weights
    artists: list[Artist] = [
        ratio.axhspan(w.ratio_low, w.ratio_high, color=GREEN, alpha=0.15, linewidth=0,
                      label=f"balanced, {w.ratio_low:g} to {w.ratio_high:g}"),
    ]
    artists += curve(ratio, history, "grad_ratio", INK)
    artists += curve(momentum, history, "grad_momentum", INK)
    for name, pathway in (("lambda1", "A"), ("lambda2", "B")):
        artists += curve(pathways, history, name, PATHWAY[pathway], f"λ$_{name[-1]}$, pathway {pathway}")
    for bound in (w.low, w.high):
        artists.append(level_line(pathways, bound))
    artists += curve(alignment, history, "lambda3", INK)
    artists += finish(ratio, history, "gradient norms, B over A", log=True, legend=False)
    ratio.legend(title=run_count(history))
    if history["grad_ratio"].min() < LOWEST_RATIO:
        ratio.set_ylim(bottom=LOWEST_RATIO)
        ratio.set_title(f"gradient norms, B over A (shown from {LOWEST_RATIO:g})")
    artists += finish(momentum, history, "momentum of the norms' averages", legend=False)
    artists += finish(pathways, history, "λ$_1$, λ$_2$ and their bounds")
    artists += finish(alignment, history, "λ$_3$, entropy alignment", legend=False)
    momentum.set_ylim(0, 1)
    label_epochs(axes[2:])
    return artists


# What a figure says, in words


def _at(history: pd.DataFrame, column: str, epoch: int) -> float:
    """Median over the runs."""
    return float(history.loc[history["epoch"] == epoch, column].median())


def from_to(history: pd.DataFrame, column: str, digits: str = ".3g") -> str:
    first, last = int(history["epoch"].min()), int(history["epoch"].max())
    start, end = (_at(history, column, epoch) for epoch in (first, last))
    return f"{start:{digits}} at epoch {first} and {end:{digits}} at {last}"


def span_of(history: pd.DataFrame) -> str:
    n = int(history.groupby("epoch").size().max())
    runs = "one run" if n == 1 else f"{n} runs (median and range)"
    return f"of {runs}, epochs {int(history['epoch'].min())} to {int(history['epoch'].max())}"


def _loss_alt(history: pd.DataFrame, config: Config) -> str:
    text = f"Training and validation loss {span_of(history)}; training loss is {from_to(history, 'train_loss')}."
    if (jump := disruption(history)) is not None:
        before, at = _at(history, "train_loss", jump - 1), _at(history, "train_loss", jump)
        text += f" It jumps from {before:.3g} at epoch {jump - 1} to {at:.3g} at {jump}, where beta B leaves 0."
    return text


def _coverage_alt(history: pd.DataFrame, config: Config) -> str:
    samples = config.evaluation.coverage_samples
    parts = [
        f"{label} of B is {from_to(history, f'{kind}_B', '.2f')}"
        for kind, label in (
            ("coverage", "Sampled coverage"), ("informative_coverage", "informative coverage"),
            ("effective_coverage", "effective coverage"),
        )
    ]
    return (
        f"Coverage of both pathways in percent, {span_of(history)}. {'; '.join(parts)}. "
        f"Uniform noise samples {uniform_coverage(samples):.3f} % in {samples:,} draws."
    )


def _entropy_alt(history: pd.DataFrame, config: Config) -> str:
    return (
        f"Latent entropy H {span_of(history)}: A {from_to(history, 'H_A')}, B {from_to(history, 'H_B')} nats; "
        f"a standard normal latent gives {epoch_entropy(config):.3f}."
    )


def _kl_alt(history: pd.DataFrame, config: Config) -> str:
    ends = f"A {from_to(history, 'kl_A')}, B {from_to(history, 'kl_B')} nats"
    return f"KL from the prior on a log scale, {span_of(history)}: {ends}."


def _schedules_alt(history: pd.DataFrame, config: Config) -> str:
    return (
        f"Schedules {span_of(history)}: beta A {from_to(history, 'beta_A')}, beta B {from_to(history, 'beta_B')}, "
        f"rho {from_to(history, 'rho')}, learning rate {from_to(history, 'lr')}."
    )


def _statenet_alt(history: pd.DataFrame, config: Config) -> str:
    parts = [f"{name} {from_to(history, f'delta_{name}', '+.3f')}" for name in CORRECTIONS]
    return f"StateNet's four corrections {span_of(history)}: {'; '.join(parts)}."


def _balance_alt(history: pd.DataFrame, config: Config) -> str:
    return (
        f"Gradient ratio, momentum and loss weights {span_of(history)}: "
        f"ratio B over A {from_to(history, 'grad_ratio')}, "
        f"lambda 1 {from_to(history, 'lambda1')}, lambda 2 {from_to(history, 'lambda2')}."
    )


@dataclass(frozen=True)
class Recipe:
    """A figure: how it is drawn, what it says in words, and which columns it shows."""

    plot: Plot
    words: Callable[[pd.DataFrame, Config], str]
    columns: tuple[str, ...]
    baseline: Callable[[Config], dict[str, float]] = lambda config: {}

    def figure(self, history: pd.DataFrame, config: Config = V5_5) -> Figure:
        """The figure, of print width."""
        return figure_of(self.plot(history, config)[0])

    def alt(self, history: pd.DataFrame, config: Config = V5_5) -> str:
        """Alternative text: what a reader who cannot see the figure should know."""
        return self.words(_shared(history), config)

    def data(self, history: pd.DataFrame, config: Config = V5_5) -> pd.DataFrame:
        """What is drawn: a row per run and epoch."""
        keys = [name for name in ("run", "seed", "epoch") if name in history]
        return history[[*keys, *self.columns]].assign(**self.baseline(config))


def _both(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{pathway}" for name in names for pathway in PATHWAY)


FIGURES: dict[str, Recipe] = {
    "loss": Recipe(loss, _loss_alt, ("train_loss", "val_loss", "beta_B")),
    "coverage": Recipe(
        coverage, _coverage_alt, _both("coverage", "informative_coverage", "effective_coverage"),
        lambda config: {"uniform_baseline": uniform_coverage(config.evaluation.coverage_samples)},
    ),
    "entropy": Recipe(entropy, _entropy_alt, _both("H"), lambda config: {"H_expected": epoch_entropy(config)}),
    "kl": Recipe(
        kl, _kl_alt, _both("kl"), lambda config: {"kl_floor": config.kl.free_bits * config.model.latent_dim}
    ),
    "schedules": Recipe(schedules, _schedules_alt, (*_both("beta", "temperature"), "rho", "lr_scheduled", "lr")),
    "statenet": Recipe(statenet, _statenet_alt, tuple(f"delta_{name}" for name in CORRECTIONS)),
    "gradient_balance": Recipe(
        balance, _balance_alt, ("grad_ratio", "grad_momentum", "lambda1", "lambda2", "lambda3")
    ),
}
"""Every figure of a training history, by name, in the order of the report."""
