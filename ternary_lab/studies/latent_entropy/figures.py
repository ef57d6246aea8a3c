"""Figures of the latent code: entropy H of a batch, and entropy, variance and density of each dimension by epoch.

`entropy_by_epoch` draws a history. The other functions draw tables of `tables.code_history` and `tables.posteriors`.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm

from ternary_lab.config import Config
from ternary_lab.figures.history import both_pathways, epoch_panels, from_to, run_count, shared_epochs, span_of
from ternary_lab.figures.parts import heat_map, label_epochs, legend_below, reference
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREY, INK, PATHWAY, figure_of, new_axes
from ternary_lab.metrics.latent_entropy import (
    ACTIVE,
    BINS,
    CEILING,
    LIMIT,
    expected_entropy,
    expected_epoch_entropy,
    normal_entropy,
)
from ternary_lab.space import SIZE
from ternary_lab.splits import per_epoch

FEW = 500
"""Number of values inside the histogram (ten per bin). With fewer values, the entropy is marked as uncertain."""
NARROW = 4.0
"""Smallest limit of |z| on an axis of densities."""


def entropy_by_epoch(history: pd.DataFrame, config: Config) -> Drawing:
    """Plot the latent entropy H of both pathways against the epoch, beside the H of N(0, 1) and two maxima.

    The H of N(0, 1) is computed for the same batch size. A grey band contains 95 % of the values of single batches. The
    maxima are the ceiling of the histogram, and the maximum that the report states.
    """
    history = shared_epochs(history)
    batch, latent = config.data.batch_size, config.model.latent_dim
    expected, _ = expected_epoch_entropy(per_epoch(config.data), batch, latent)
    spread, bits = 2 * expected_entropy(batch)[1] / math.sqrt(latent), math.log2(latent)
    with epoch_panels(history, 1, 1, 2.9, [f"latent entropy H of a batch ({BINS} bins over [-3, 3]), nats"]) as (axis,):
        axis.axhspan(expected - spread, expected + spread, color=GREY, alpha=0.25, linewidth=0,
                     label=f"95 % of single batches of N(0, 1), ±{spread:.2f}")
        reference(axis, expected, f"N(0, 1) in batches of {batch}: {expected:.2f}", "--")
        reference(axis, normal_entropy(), f"N(0, 1), endless data: {normal_entropy():.2f}", "-.")
        reference(axis, CEILING, f"ceiling, ln {BINS} = {CEILING:.3f}", "-")
        reference(axis, bits, f"the report's maximum, log$_2$ {latent} = {bits:.1f}")
        both_pathways(axis, history, "H")
        legend_below([axis], run_count(history), ncols=2)
    alt = (
        f"A line chart shows the latent entropy H {span_of(history)}. In pathway A it is {from_to(history, 'H_A')}, "
        f"in B {from_to(history, 'H_B')} nats. A standard normal latent gives {expected:.2f}, and single batches lie "
        f"within {spread:.2f} of that. The ceiling is {CEILING:.3f}, the report's maximum {bits:.1f}."
    )
    keys = [name for name in ("seed", "epoch", "H_A", "H_B") if name in history]
    return Drawing.of([axis], alt, history[keys].assign(H_expected=expected))


def heat_maps(code: pd.DataFrame) -> Drawing:
    """Draw heat maps of the corrected entropy (above) and of the KL of q(z_k) from N(0, 1) (below).

    q(z_k) is the aggregate posterior of the dimension k. Each map has the epochs as columns and the dimensions as rows.
    Pathway A is on the left, pathway B on the right. `code` comes from `tables.code_history`. A cross marks an entropy
    that was computed from fewer than 500 values in [-3, 3].
    """
    normal, kl = normal_entropy(), code["prior_kl"]
    kinds: dict[str, tuple[str, str, Normalize]] = {
        "entropy": ("entropy of all samples", "PuOr", TwoSlopeNorm(normal, normal - 1, CEILING)),
        "prior_kl": ("KL of q(z$_k$) from N(0, 1)", "cividis",
                     LogNorm(max(1e-2, float(kl.min())), max(1.0, float(kl.max())))),
    }
    epochs = code["epoch"].unique()
    with new_axes(2, 2, 4.6, sharex=True, sharey=True) as axes:
        for (column, (title, colours, norm)), pair in zip(kinds.items(), (axes[:2], axes[2:]), strict=True):
            for axis, pathway in zip(pair, PATHWAY, strict=True):
                rows = code[code["pathway"] == pathway]
                values, inside = (
                    rows.pivot(index="dimension", columns="epoch", values=name).iloc[::-1]
                    for name in (column, "inside")
                )
                mesh = heat_map(axis, values, cmap=colours, norm=norm)
                if column == "entropy":
                    y, x = np.nonzero(inside.to_numpy() * SIZE < FEW)
                    axis.scatter(x + 0.5, y + 0.5, marker="x", s=6, linewidths=0.7, color="white")
                axis.set_title(f"{pathway}: {title}")
                # Checkpoints are not evenly spaced in time. Ticks name a few, with the first and last.
                places = np.linspace(0, len(epochs) - 1, min(8, len(epochs))).round().astype(int)
                axis.set_xticks(places + 0.5, epochs[places].astype(str))
                axis.set_yticks(np.arange(len(values), 0, -5) - 0.5, map(str, range(0, len(values), 5)))
            bar = figure_of(axes[0]).colorbar(mesh, ax=pair, extend="min", pad=0.02)
            if column == "entropy":
                ticks = [normal - 1, normal - 0.5, normal, CEILING]
                bar.set_ticks(ticks, labels=[f"{tick:.2f}" for tick in ticks])
                bar.set_label("entropy, nats (white: N(0, 1))")
            else:
                bar.set_label("KL, nats")
                bar.ax.yaxis.set_major_formatter("{x:g}")
            pair[0].set_ylabel("dimension k")
        for axis in axes[2:]:
            axis.set_xlabel("epoch of the checkpoint")
    parts = []
    for name, rows in code.groupby("pathway"):
        for epoch in (rows["epoch"].min(), rows["epoch"].max()):
            at = rows[rows["epoch"] == epoch]
            parts.append(
                f"in pathway {name} at epoch {epoch} the entropy is {at['entropy'].min():.2f} to "
                f"{at['entropy'].max():.2f} and the KL {at['prior_kl'].min():.2g} to {at['prior_kl'].max():.2g}"
            )
    alt = (
        "Heat maps, epoch by latent dimension, show the entropy over all data and the KL of the aggregate posterior "
        f"from N(0, 1), in nats: {'; '.join(parts)}. N(0, 1) has an entropy of {normal:.2f}."
    )
    return Drawing.of(axes, alt, code[["epoch", "pathway", "dimension", "entropy", "inside", "prior_kl"]])


def active_dimensions(code: pd.DataFrame) -> Drawing:
    """Plot the variance Var_x(μ_k) of each dimension k against the epoch, with a panel per pathway.

    A dashed line is the threshold above which a dimension is active. `code` comes from `tables.code_history`.
    """
    latent = code["dimension"].nunique()
    low, high = float(code["variance"].min()), float(code["variance"].max())
    parts = []
    with new_axes(1, 2, 2.3, sharey=True) as axes:
        for axis, (pathway, color) in zip(axes, PATHWAY.items(), strict=True):
            rows = code[code["pathway"] == pathway]
            table = rows.pivot(index="epoch", columns="dimension", values="variance")
            axis.plot(table.index, table, color=color, linewidth=0.7, alpha=0.7)
            reference(axis, ACTIVE, f"active above {ACTIVE:g}", "--")
            axis.set_title(f"{pathway}: Var$_x$(μ$_k$), {latent} dimensions")
            active = rows.groupby("epoch")["active"].sum()
            least, most = active.min(), active.max()
            parts.append(
                f"pathway {pathway} has {least if least == most else f'{least} to {most}'}, with Var(mu) from "
                f"{rows['variance'].min():.2g} to {rows['variance'].max():.3g}"
            )
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter("{x:g}")
        axes[0].set_ylim(min(low, ACTIVE) / 2, 2 * max(high, ACTIVE))
        axes[0].legend(loc="upper right")
        label_epochs(axes, most=5)
    alt = (
        f"Line charts show the variance of the posterior mean of {latent} dimensions at {code['epoch'].nunique()} "
        f"checkpoints. A dimension is active above {ACTIVE:g}. Active dimensions: {'; '.join(parts)}."
    )
    return Drawing.of(axes, alt, code[["epoch", "pathway", "dimension", "active", "variance"]])


def aggregate_posteriors(densities: pd.DataFrame) -> Drawing:
    """Plot q(z_k) of every dimension k as thin lines beside N(0, 1), with a row per pathway and a column per epoch.

    q(z_k) is the aggregate posterior of the dimension k. `densities` comes from `tables.posteriors`. The histogram of H
    covers the shaded range [-3, 3].
    """
    epochs = densities["epoch"].unique()
    parts = []
    with new_axes(2, len(epochs), 4.1) as axes:
        for axis, (pathway, epoch) in zip(axes, ((p, epoch) for p in PATHWAY for epoch in epochs), strict=True):
            rows = densities[(densities["pathway"] == pathway) & (densities["epoch"] == epoch)]
            within = _reach(rows)
            reach = max(NARROW, within)
            axis.axvspan(-LIMIT, LIMIT, color=GREY, alpha=0.15, linewidth=0, label="counted by H, [-3, 3]")
            for _, part in rows.groupby("dimension"):
                axis.plot(part["z"], part["density"], color=PATHWAY[pathway], linewidth=0.6, alpha=0.8,
                          label=f"{pathway}: q(z$_k$) of each k")
            z = np.linspace(-reach, reach, 801)
            normal = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
            axis.plot(z, normal, "--", color=INK, linewidth=1.1, label="N(0, 1)")
            axis.set_xlim(-reach, reach)
            axis.set_ylim(bottom=0)
            axis.set_title(f"{pathway}, epoch {epoch}{' (wider axis)' if reach > NARROW else ''}")
            parts.append(f"{within:.3g} in pathway {pathway} at epoch {epoch}")
        for axis in axes[len(epochs):]:
            axis.set_xlabel("z$_k$")
        for axis in axes[::len(epochs)]:
            axis.set_ylabel("density")
        legend_below(axes, ncols=4)
    alt = (
        "Line charts show the aggregate posteriors of all dimensions beside N(0, 1). The distance from 0 that contains "
        f"99.9 % of the mass is {'; '.join(parts)}."
    )
    return Drawing.of(axes, alt, densities)


def _reach(rows: pd.DataFrame) -> float:
    """Return the distance |z| from 0 that contains 99.9 % of the mass of all dimensions."""
    step = rows.groupby("dimension")["z"].transform(lambda z: z.diff().median())
    by_distance = pd.DataFrame({"z": rows["z"].abs(), "mass": rows["density"] * step}).sort_values("z")
    share = by_distance["mass"].cumsum() / by_distance["mass"].sum()
    return float(by_distance["z"][share <= 0.999].max())
