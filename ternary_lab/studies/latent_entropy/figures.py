"""Figures of the latent code: H against what its sample size allows, and every dimension through the epochs.

They draw what `latent_entropy` measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.ticker import MaxNLocator

from ternary_lab.config import Config
from ternary_lab.figures.history import (
    V5_5,
    Panels,
    curve,
    finish,
    from_to,
    label_epochs,
    level_line,
    run_count,
    span_of,
    styled,
)
from ternary_lab.figures.style import GREY, INK, PATHWAY, figure_of, panels, style
from ternary_lab.metrics.latent_entropy import (
    ACTIVE,
    BINS,
    CEILING,
    LIMIT,
    expected_entropy,
    expected_epoch_entropy,
    normal_entropy,
)
from ternary_lab.model import PATHWAYS
from ternary_lab.space import SIZE
from ternary_lab.splits import per_epoch

FEW = 500
"""Values inside the histogram below which its entropy is marked as uncertain: ten a bin."""
NARROW = 4.0
"""|z| that an axis of densities shows at least."""


@styled
def batch_entropy(history: pd.DataFrame, config: Config = V5_5, ax: Panels = None) -> list[Artist]:
    """H of both pathways, what N(0, 1) gives at this batch size with its spread, and two maxima. One axes."""
    (axis,) = panels(1, 1, 2.9, ax)
    batch, latent = config.data.batch_size, config.model.latent_dim
    (expected, spread), bits = _expected(config), math.log2(latent)
    artists: list[Artist] = [
        axis.axhspan(expected - 2 * spread, expected + 2 * spread, color=GREY, alpha=0.25, linewidth=0,
                     label=f"95 % of single batches of N(0, 1), ±{2 * spread:.2f}"),
        level_line(axis, expected, f"N(0, 1) in batches of {batch}: {expected:.2f}"),
        level_line(axis, normal_entropy(), f"N(0, 1), endless data: {normal_entropy():.2f}", line="-."),
        level_line(axis, CEILING, f"ceiling, ln {BINS} = {CEILING:.3f}", line="-"),
        level_line(axis, bits, f"the report's maximum, log$_2$ {latent} = {bits:.1f}", line=":"),
    ]
    for pathway, color in PATHWAY.items():
        artists += curve(axis, history, f"H_{pathway}", color, f"pathway {pathway}")
    artists += finish(axis, history, f"latent entropy H of a batch ({BINS} bins over [-3, 3]), nats", legend=False)
    label_epochs([axis])
    _legend_below([axis], ax, title=run_count(history), ncols=2)
    return artists


def _legend_below(axes: Sequence[Axes], ax: Panels, **options: Any) -> None:
    """One legend of all axes under a figure of ours, and in the first of axes that were given."""
    figure = figure_of(axes[0])
    labelled = {
        label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if ax is None:
        figure.legend(list(labelled.values()), list(labelled), loc="outside lower center", **options)
    else:
        axes[0].legend(list(labelled.values()), list(labelled), **options)


def _expected(config: Config) -> tuple[float, float]:
    """H of an epoch of N(0, 1) latents, and the standard deviation of one full batch's."""
    batch, latent = config.data.batch_size, config.model.latent_dim
    mean, _ = expected_epoch_entropy(per_epoch(config.data), batch, latent)
    return mean, expected_entropy(batch)[1] / math.sqrt(latent)


def batch_entropy_alt(history: pd.DataFrame, config: Config = V5_5) -> str:
    """The figure in words."""
    mean, spread = _expected(config)
    return (
        f"Latent entropy H {span_of(history)}: A {from_to(history, 'H_A')}, B {from_to(history, 'H_B')} nats. "
        f"A standard normal latent gives {mean:.2f}, single batches within {2 * spread:.2f} of that; the ceiling is "
        f"{CEILING:.3f}, the report's maximum {math.log2(config.model.latent_dim):.1f}."
    )


def heat_maps(code: pd.DataFrame, ax: Panels = None) -> list[Artist]:
    """Corrected entropy (above) and KL of q(z_k) from N(0, 1) (below), epoch by dimension, A and B. Four axes.

    `code` comes from `latent_entropy.code_history`. A cross marks entropies of fewer than 500 values inside [-3, 3].
    """
    normal, kl = normal_entropy(), code["prior_kl"]
    kinds: tuple[tuple[str, str, str, Normalize], ...] = (
        ("entropy", "full-data entropy, nats", "PuOr", TwoSlopeNorm(normal, normal - 1, CEILING)),
        ("prior_kl", "KL of q(z$_k$) from N(0, 1), nats", "cividis",
         LogNorm(max(1e-2, float(kl.min())), max(1.0, float(kl.max())))),
    )
    artists: list[Artist] = []
    with style():
        axes = panels(2, 2, 4.6, ax, sharex=True, sharey=True)
        for (column, title, colors, norm), pair in zip(kinds, (axes[:2], axes[2:]), strict=True):
            for axis, pathway in zip(pair, PATHWAYS, strict=True):
                rows = code[code["pathway"] == pathway]
                table = rows.pivot(index="dimension", columns="epoch", values=column)
                image = axis.imshow(table, cmap=colors, norm=norm, aspect="auto", origin="lower")
                artists.append(image)
                if column == "entropy":
                    share = rows.pivot(index="dimension", columns="epoch", values="inside").to_numpy()
                    at = np.argwhere(share * SIZE < FEW)
                    artists.append(axis.scatter(at[:, 1], at[:, 0], marker="x", s=6, linewidths=0.7, color="white"))
                axis.set_title(f"{pathway}: {title}")
                axis.grid(visible=False)
                axis.set_yticks(range(0, len(table), 5))
                _epoch_ticks(axis, [int(epoch) for epoch in rows["epoch"].unique()])
            figure = figure_of(axes[0])
            bar = figure.colorbar(image, ax=pair, extend="min", pad=0.02)
            if column == "entropy":
                ticks = [normal - 1, normal - 0.5, normal, CEILING]
                bar.set_ticks(ticks, labels=[f"{tick:.2f}" for tick in ticks])
                bar.set_label("white: N(0, 1)")
        for axis in (axes[0], axes[2]):
            axis.set_ylabel("dimension k")
        for axis in axes[2:]:
            axis.set_xlabel("epoch of the checkpoint")
    return artists


def _epoch_ticks(axis: Axes, epochs: list[int], most: int = 8) -> None:
    """Name some columns, first and last among them, and evenly: checkpoints are not evenly spaced in time."""
    places = sorted({round(i) for i in np.linspace(0, len(epochs) - 1, min(most, len(epochs)))})
    axis.set_xticks(places, [str(epochs[i]) for i in places])


def heat_maps_alt(code: pd.DataFrame) -> str:
    """The figure in words."""
    parts = []
    for pathway, rows in code.groupby("pathway"):
        for epoch in (rows["epoch"].min(), rows["epoch"].max()):
            at = rows[rows["epoch"] == epoch]
            parts.append(
                f"{pathway} at epoch {epoch}: entropy {at['entropy'].min():.2f} to {at['entropy'].max():.2f}, "
                f"KL {at['prior_kl'].min():.2g} to {at['prior_kl'].max():.2g}"
            )
    return (
        "Heat maps, epoch by latent dimension, of full-data entropy and of the aggregate posterior's KL from N(0, 1), "
        f"in nats. {'; '.join(parts)}. N(0, 1) has entropy {normal_entropy():.2f}."
    )


def active_units(code: pd.DataFrame, ax: Panels = None) -> list[Artist]:
    """Number of active dimensions (left), and Var_x(μ) of each dimension, A and B, beside the threshold. Three axes."""
    artists: list[Artist] = []
    with style():
        count, *variances = panels(1, 3, 2.5, ax)
        latent = code["dimension"].nunique()
        shapes: tuple[dict[str, Any], ...] = (
            {"marker": "o", "markersize": 5, "markerfacecolor": "none"}, {"marker": "x", "linestyle": "--"},
        )
        for (pathway, color), axis, shape in zip(PATHWAY.items(), variances, shapes, strict=True):
            rows = code[code["pathway"] == pathway]
            active = rows.groupby("epoch")["active"].sum()
            artists += count.plot(active.index, active, color=color, label=f"pathway {pathway}", **shape)
            table = rows.pivot(index="epoch", columns="dimension", values="variance")
            artists += axis.plot(table.index, table, color=color, linewidth=0.7, alpha=0.7)
            artists.append(level_line(axis, ACTIVE, f"active above {ACTIVE:g}"))
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.set_title(f"{pathway}: Var$_x$(μ$_k$), {latent} dimensions")
        low, high = float(code["variance"].min()), float(code["variance"].max())
        for axis in variances:
            axis.set_ylim(min(low, ACTIVE) / 2, 2 * max(high, ACTIVE))
        variances[0].legend(loc="upper right")
        count.set_ylim(0, latent + 1)
        count.set_title(f"active dimensions of {latent}")
        count.legend(loc="lower right")
        for axis in (count, *variances):
            axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
        label_epochs([count, *variances])
    return artists


def _between(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def active_units_alt(code: pd.DataFrame) -> str:
    """The figure in words."""
    parts = []
    for pathway, rows in code.groupby("pathway"):
        active = rows.groupby("epoch")["active"].sum()
        parts.append(
            f"{pathway} has {_between(active.min(), active.max())}, with Var(mu) from {rows['variance'].min():.2g} to "
            f"{rows['variance'].max():.3g}"
        )
    return (
        f"Active dimensions of {code['dimension'].nunique()} at {code['epoch'].nunique()} checkpoints: "
        f"{'; '.join(parts)}. The threshold is {ACTIVE:g}."
    )


def aggregate_posteriors(densities: pd.DataFrame, ax: Panels = None) -> list[Artist]:
    """q(z_k) of every dimension, thin, over N(0, 1): a row of axes per pathway, a column per epoch.

    `densities` comes from `posteriors`. The shade is what the histogram of H sees, [-3, 3].
    """
    epochs = list(densities["epoch"].unique())
    artists: list[Artist] = []
    with style():
        axes = panels(2, len(epochs), 4.1, ax)
        for row, (pathway, color) in enumerate(PATHWAY.items()):
            for column, epoch in enumerate(epochs):
                axis = axes[row * len(epochs) + column]
                rows = densities[(densities["pathway"] == pathway) & (densities["epoch"] == epoch)]
                reach = max(NARROW, _reach(rows))
                artists.append(
                    axis.axvspan(-LIMIT, LIMIT, color=GREY, alpha=0.15, linewidth=0, label="counted by H, [-3, 3]")
                )
                for dimension, part in rows.groupby("dimension"):
                    label = f"{pathway}: q(z$_k$) of each k" if dimension == 0 else None
                    artists += axis.plot(part["z"], part["density"], color=color, linewidth=0.6, alpha=0.8, label=label)
                z = np.linspace(-reach, reach, 801)
                normal = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
                artists += axis.plot(z, normal, "--", color=INK, linewidth=1.1, label="N(0, 1)")
                axis.set_xlim(-reach, reach)
                axis.set_ylim(bottom=0)
                axis.set_title(f"{pathway}, epoch {epoch}{' (wider axis)' if reach > NARROW else ''}")
                if row:
                    axis.set_xlabel("z$_k$")
                if not column:
                    axis.set_ylabel("density")
        _legend_below(axes, ax, ncols=4)
    return artists


def _reach(rows: pd.DataFrame) -> float:
    """|z| that 99.9 % of the dimensions' mass lies within."""
    step = rows.groupby("dimension")["z"].transform(lambda z: z.diff().median())
    by_distance = pd.DataFrame({"z": rows["z"].abs(), "mass": rows["density"] * step}).sort_values("z")
    share = by_distance["mass"].cumsum() / by_distance["mass"].sum()
    return float(by_distance["z"][share <= 0.999].max())


def aggregate_posteriors_alt(densities: pd.DataFrame) -> str:
    """The figure in words."""
    parts = [
        f"{pathway} at epoch {epoch} lies within {_reach(rows):.3g} of 0"
        for (epoch, pathway), rows in densities.groupby(["epoch", "pathway"])
    ]
    return f"Aggregate posteriors of all dimensions beside N(0, 1). 99.9 % of the mass of {'; of '.join(parts)}."
