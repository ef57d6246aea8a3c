"""Figures of what coverage says: curves over draws, the same weights counted in several ways, games, rarities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import LogFormatter, MaxNLocator, NullFormatter
from torch import Tensor

from ternary_lab import space
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.space import truth_tables
from ternary_lab.figures.style import GREEN, GREY, INK, PATHWAY, PURPLE, figure_of, panels, style
from ternary_lab.metrics.coverage import expected_coverage, uniform_coverage

LINES = ("-", "--", ":", "-.")
LEARNT = {
    "coverage": "sampled, %", "informative_coverage": "informative, %", "effective_coverage": "effective (argmax), %",
    "neg_elbo": "-ELBO, nats",
}
"""Metrics of a history that are shown side by side."""


def curves(outputs: Mapping[str, Tensor], marks: Sequence[int] = (50_000, 195_000)) -> Drawing:
    """Expected coverage C(n) of output distributions (N,) by name, n = 10³ to 10⁷, with the uniform sampler's."""
    draws = np.unique(np.logspace(3, 7, 81).round().astype(int))
    data = {"draws": draws, "uniform": [uniform_coverage(int(n)) for n in draws]}
    data |= {name: [float(expected_coverage(p, int(n))) for n in draws] for name, p in outputs.items()}
    table = pd.DataFrame(data)
    with style():
        covered, missing = panels(1, 2, 2.8)
        for i, name in enumerate(["uniform", *outputs]):
            colour = GREY if name == "uniform" else PATHWAY["B"] if name.endswith("B") else PATHWAY["A"]
            line, width = ("-", 2.4) if name == "uniform" else (LINES[(i - 1) // 2 % len(LINES)], 1.2)
            covered.plot(table["draws"], table[name], line, color=colour, linewidth=width, label=name)
            missing.plot(table["draws"], 100 - table[name], line, color=colour, linewidth=width)
        for axis in (covered, missing):
            for n in marks:
                axis.axvline(n, color=GREY, linestyle=":", linewidth=0.9)
            axis.set(xscale="log", xlabel="draws n")
        covered.set_title("expected coverage C(n), %")
        covered.legend()
        missing.set(yscale="log", ylim=(1e-3, 110), title="not covered, % (log)")
    at = marks[-1]
    said = "; ".join(f"{name} {float(expected_coverage(p, at)):.2f} %" for name, p in outputs.items())
    alt = f"Expected coverage over the number of draws. At {at:,}: uniform {uniform_coverage(at):.3f} %; {said}."
    return Drawing(figure_of(covered), alt, table)


def counts(probes: pd.DataFrame) -> Drawing:
    """The same weights counted in four ways through the epochs: median and range over runs, a panel per pathway."""
    ways = {
        "coverage_10000": ("10,000 categorical", PURPLE), "coverage_50000": ("50,000 categorical", GREEN),
        "coverage_argmax": ("50,000 by argmax", INK), "coverage_195000": ("195,000 categorical", PATHWAY["A"]),
    }
    with style():
        axes = panels(1, 2, 2.8, sharey=True)
        for axis, pathway in zip(axes, PATHWAY, strict=True):
            for way, (label, colour) in ways.items():
                groups = probes.groupby("epoch")[f"{way}_{pathway}"]
                middle = groups.median()
                axis.plot(middle.index, middle, color=colour, label=label)
                axis.fill_between(middle.index, groups.min(), groups.max(), color=colour, alpha=0.18, linewidth=0)
            axis.set_title(f"pathway {pathway}: coverage, %")
            axis.set_xlabel("epoch")
        figure_of(axes[0]).legend(
            *axes[0].get_legend_handles_labels(), title=f"draws; median and range, n = {probes['seed'].nunique()}",
            loc="outside lower center", ncols=4,
        )
    last = probes[probes["epoch"] == probes["epoch"].max()]
    said = "; ".join(f"{label} {last[f'{way}_B'].median():.1f} %" for way, (label, _) in ways.items())
    alt = f"Coverage of the same weights by four counts. Pathway B at epoch {probes['epoch'].max()}: {said}."
    columns = ["seed", "epoch", *(f"{way}_{pathway}" for way in ways for pathway in PATHWAY)]
    return Drawing(figure_of(axes[0]), alt, probes[columns])


def learnt(history: pd.DataFrame) -> Drawing:
    """Sampled, informative and effective coverage and -ELBO through the epochs, side by side."""
    n = history["seed"].nunique()
    with style():
        axes = panels(2, 2, 4.0, sharex=True)
        for axis, (metric, label) in zip(axes, LEARNT.items(), strict=True):
            for pathway, colour in PATHWAY.items():
                groups = history.groupby("epoch")[f"{metric}_{pathway}"]
                complete = groups.size() == n
                middle, low, high = (v[complete] for v in (groups.median(), groups.min(), groups.max()))
                axis.plot(middle.index, middle, color=colour, label=f"pathway {pathway}")
                axis.fill_between(middle.index, low, high, color=colour, alpha=0.22, linewidth=0)
            axis.set_title(label)
        axes[0].legend(title=f"median and range, n = {n}")
        axes[3].set_yscale("log")
        axes[3].yaxis.set_major_formatter(LogFormatter())
        axes[3].yaxis.set_minor_formatter(NullFormatter())
        for axis in axes[2:]:
            axis.set_xlabel("epoch")
    ends = history.groupby("epoch").filter(lambda rows: len(rows) == n)
    last = ends[ends["epoch"] == ends["epoch"].max()]
    said = "; ".join(
        f"{label} {last[f'{metric}_A'].median():.4g} / {last[f'{metric}_B'].median():.4g}"
        for metric, label in LEARNT.items()
    )
    columns = ["seed", "epoch", *(f"{metric}_{p}" for metric in LEARNT for p in PATHWAY)]
    alt = f"Four metrics through the epochs, A / B. At epoch {int(last['epoch'].iloc[0])}, median of {n} runs: {said}."
    return Drawing(figure_of(axes[0]), alt, history[columns])


def entropies(table: pd.DataFrame) -> Drawing:
    """H(X) and H(X|Z) through the epochs of one run: columns epoch, pathway, output_entropy, decoder_noise (nats)."""
    with style():
        axes = panels(1, 2, 2.6, sharey=True)
        for axis, (pathway, colour) in zip(axes, PATHWAY.items(), strict=True):
            rows = table[table["pathway"] == pathway]
            axis.plot(rows["epoch"], rows["output_entropy"], color=colour, marker="o", label="H(X)")
            axis.plot(rows["epoch"], rows["decoder_noise"], color=colour, marker="o", linestyle="--", label="H(X|Z)")
            axis.fill_between(
                rows["epoch"], rows["decoder_noise"], rows["output_entropy"], color=colour, alpha=0.15, linewidth=0,
                label="I(X;Z)",
            )
            axis.axhline(np.log(space.SIZE), color=GREY, linestyle=":", linewidth=0.9, label="ln N")
            axis.set_title(f"pathway {pathway}, nats")
            axis.set_xlabel("epoch")
            axis.set_ylim(0, 11.5)
        axes[1].legend(loc="lower left")
    last = table[table["epoch"] == table["epoch"].max()].set_index("pathway")
    said = "; ".join(
        f"{p}: H(X) {last.at[p, 'output_entropy']:.3f}, H(X|Z) {last.at[p, 'decoder_noise']:.3f}" for p in PATHWAY
    )
    alt = f"Output entropy and decoder noise through the epochs; at epoch {table['epoch'].max()}, nats: {said}."
    return Drawing(figure_of(axes[0]), alt, table)


def games(table: pd.DataFrame, best: Mapping[str, float]) -> Drawing:
    """A row per model, a panel per metric (columns of the table), with the best possible value as a dotted line."""
    names = list(table.index)[::-1]
    with style():
        axes = panels(2, 3, 4.2, sharey=True)
        for axis, metric in zip(axes, table.columns, strict=True):
            values = table[metric].reindex(names)
            places = range(len(names))
            axis.hlines(places, *(axis.get_xlim()), alpha=0)
            axis.scatter(values, places, s=18, color=[
                PATHWAY["B"] if name.startswith("v5.5") else INK for name in names
            ], zorder=3)
            axis.axvline(best[metric], color=GREEN, linestyle=":", linewidth=1.2)
            if metric.endswith("nats"):
                axis.set_xscale("log")
                axis.xaxis.set_minor_formatter(NullFormatter())
            else:
                axis.set_xlim(-4, 104)
                axis.xaxis.set_major_locator(MaxNLocator(nbins=5))
            axis.set_title(metric)
            axis.set_yticks(list(places), names)
    said = "; ".join(f"{metric}: {table[metric].idxmin() if metric.endswith('nats') else table[metric].idxmax()}"
                     for metric in table.columns)
    alt = f"{len(names)} models by {len(table.columns)} metrics, the best possible marked. Best of these: {said}."
    return Drawing(figure_of(axes[0]), alt, table.reset_index(names="model"))


def rarest(outputs: Mapping[str, Tensor], count: int = 5) -> Drawing:
    """The operations that each output distribution (N,) produces least, as truth tables with N p(x)."""
    tables: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    for name, p in outputs.items():
        for index in torch.argsort(p)[:count].tolist():
            title = f"{name}: {index}\nN p = {space.SIZE * float(p[index]):.2g}"
            tables[title] = space.operations(torch.tensor([index]))[0]
            rows.append({"model": name, "operation": index, "N_p": space.SIZE * float(p[index])})
    artists = truth_tables(tables)
    figure = figure_of(artists[0])
    said = "; ".join(f"{r['model']} {r['operation']} (N p = {r['N_p']:.2g})" for r in rows)
    return Drawing(figure, f"Truth tables of the least probable operations: {said}.", pd.DataFrame(rows))
