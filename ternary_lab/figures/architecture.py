"""The drawing of the architecture: both pathways, their loss, and StateNet, with widths and parameter counts.

All widths and counts are read from the networks that a configuration builds. Positions are in units of 1/100 of the
width of the figure, on both axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from ternary_lab import config, space
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREY, INK, PATHWAY, WIDTH, fixed, new_axes
from ternary_lab.model import STATENET_SIZE, STATENET_WIDTHS, Architecture
from ternary_lab.networks import Layer, Network

HEIGHT = 67
"""Height of the figure, in hundredths of its width."""
SMALL, TINY = 7, 6
"""Font sizes in points."""
ROWS = {"A": 55, "B": 32}
"""Height of the middle of each pathway."""
READ = ("H$_A$", "H$_B$", "KL$_A$", "KL$_B$", "r", "ρ", "λ$_1$", "λ$_2$", "λ$_3$")
"""Names of the inputs of StateNet, in the order of `controllers`."""
CORRECTED = ("lr", "λ$_1$", "λ$_2$", "λ$_3$")
"""Names of the values that StateNet corrects, in the order of its outputs."""


def architecture(model: config.Model) -> Drawing:
    """Draw the networks of a model from left to right: encoders, latents, cross-injection, decoders, loss, StateNet.

    A bar stands for a layer, and the number above it is the number of its outputs. The height of a bar grows with the
    logarithm of this number. The data are a table of the networks with their layers and parameter counts.
    """
    networks = Architecture(model)
    decoders = {"A": networks.decoder_A, "B": networks.decoder_B}
    with new_axes(1, 1, WIDTH * HEIGHT / 100) as (axis,):
        fixed(axis.get_figure(root=True), left=0, right=1, bottom=0, top=1)  # type: ignore[arg-type]
        axis.set(xlim=(0, 100), ylim=(0, HEIGHT))
        axis.set_axis_off()
        middle = (ROWS["A"] + ROWS["B"]) / 2
        _box(axis, (0.8, middle - 4.5, 9.2, 9), f"operation\nx\n{space.ENTRIES} entries")
        for pathway, decoder in decoders.items():
            _pathway(axis, pathway, model.latent_dim, networks.encoder, decoder)
        _cross_injection(axis)
        _loss(axis)
        if model.use_statenet:
            _statenet(axis)
    data = _parameters(networks, model.use_statenet)
    return Drawing.of([axis], _words(model, networks, data), data)


def _pathway(axis: Axes, name: str, latent: int, encoder: Network, decoder: Network) -> None:
    y, colour = ROWS[name], PATHWAY[name]
    middle = sum(ROWS.values()) / 2
    side = 1 if y > middle else -1
    _arrow(axis, (5, middle + 4.5 * side), (12.3, y), colour, bend=-0.25 * side)
    _bars(axis, (12.5, 27), y, encoder.layers[:-1], colour)
    _below(axis, 19.7, y, f"encoder {name}", encoder.size)
    for text, at in ((f"μ$_{name}$: {latent}", y + 0.7), (f"log σ$^2_{name}$: {latent}", y - 5.2)):
        _box(axis, (30, at, 10.5, 4.5), text, colour)
    _arrow(axis, (27.2, y), (29.8, y), colour)
    _box(axis, (44, y - 4.2, 12, 8.4), f"z$_{name}$ =\nμ$_{name}$ + τ$_{name}$ σ$_{name}$ ε", colour)
    _arrow(axis, (40.7, y), (43.8, y), colour)
    other = "B" if name == "A" else "A"
    _box(axis, (60.5, y - 4.2, 12, 8.4), f"(1−ρ) z$_{name}$\n+ ρ sg(z$_{other}$)", colour)
    _arrow(axis, (56.2, y), (60.3, y), colour)
    _arrow(axis, (72.7, y), (75.4, y), colour)
    _bars(axis, (75.6, 93.5), y, decoder.layers, colour)
    _below(axis, 84.5, y, f"decoder {name}", decoder.size)
    axis.text(96, y, f"logits\n{space.ENTRIES}×{space.VALUES}", fontsize=TINY, ha="center", va="center", color=INK)
    end = 99.3 if name == "A" else 96
    _arrow(axis, (end, y - 2.6), (end, 17.7), colour)


def _bars(axis: Axes, span: tuple[float, float], y: float, layers: Sequence[Layer], colour: str) -> None:
    """Draw the layers as bars in a span of x around the height y, with an arc for each residual connection."""
    left, right = span
    step = (right - left) / max(len(layers), 1)
    places = [left + step * (i + 0.5) for i in range(len(layers))]
    for x, layer in zip(places, layers, strict=True):
        height = 1.6 * math.log2(layer.outputs + 1)
        axis.add_patch(Rectangle(
            (x - 0.28 * step, y - height / 2), 0.56 * step, height, facecolor=colour, alpha=0.3, edgecolor=colour
        ))
        if len(layers) <= 6:
            axis.text(x, y + height / 2 + 0.4, str(layer.outputs), fontsize=TINY, ha="center", va="bottom", color=INK)
        if layer.skip:  # activation `skip` is the output of layer `skip` - 1
            start, low = places[layer.skip - 1], y - 0.8 * math.log2(layer.outputs + 1)
            _arrow(axis, (start, low), (x, low), GREY, bend=0.45)


def _cross_injection(axis: Axes) -> None:
    """Draw the arrows from each latent to the other pathway's mixture, without a gradient."""
    top, low = ROWS["A"] - 4.4, ROWS["B"] + 4.4
    _arrow(axis, (50, low), (66.5, top), PATHWAY["B"], dashed=True)
    _arrow(axis, (50, top), (66.5, low), PATHWAY["A"], dashed=True)
    axis.text(30, (top + low) / 2, "cross-injection with share ρ;\nsg stops the gradient", fontsize=TINY, va="center",
              color=INK)


def _loss(axis: Axes) -> None:
    _box(axis, (60.5, 1, 38.9, 16.5), (
        "loss L = λ$_1$ g$_A$ L$_A$ + λ$_2$ g$_B$ L$_B$ + λ$_3$ |H$_A$ − H$_B$|\n"
        "L$_A$ = CE$_A$ + β$_A$ KL$_A$\n"
        "L$_B$ = CE$_B$ + β$_B$ KL$_B$ − w$_S$ S + w$_R$ R\n"
        "g$_A$, g$_B$: gradient balance, from r = n$_B$ / n$_A$"
    ))


def _statenet(axis: Axes) -> None:
    widths = " → ".join(map(str, STATENET_WIDTHS))
    _box(axis, (0.8, 1, 20.5, 16.5), "inputs of StateNet\n" + "\n".join(
        ", ".join(READ[i : i + 3]) for i in range(0, len(READ), 3)
    ))
    _arrow(axis, (21.5, 9.2), (24.3, 9.2), INK)
    _box(axis, (24.5, 1, 18, 16.5), f"StateNet\n{widths}\n{STATENET_SIZE:,} parameters\nno gradient in v5.5")
    _arrow(axis, (42.7, 9.2), (60.3, 9.2), INK, dashed=True)
    axis.text(51.3, 10, "corrects\n" + ", ".join(CORRECTED), fontsize=TINY, ha="center", va="bottom", color=INK)
    axis.text(51.3, 8.3, "slightly,\nonce an epoch", fontsize=TINY, ha="center", va="top", color=INK)


def _box(axis: Axes, place: tuple[float, float, float, float], text: str, colour: str = INK) -> None:
    x, y, width, height = place
    axis.add_patch(FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.8", facecolor="white", edgecolor=colour,
        linewidth=0.9,
    ))
    axis.text(x + width / 2, y + height / 2, text, fontsize=SMALL, ha="center", va="center", color=INK, linespacing=1.5)


def _below(axis: Axes, x: float, y: float, name: str, size: int) -> None:
    axis.text(x, y - 7.6, f"{name}\n{size:,} parameters", fontsize=SMALL, ha="center", va="top", color=INK)


def _arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, *, bend: float = 0.0,
    dashed: bool = False,
) -> None:
    axis.add_patch(FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=6, color=colour, linewidth=0.9, shrinkA=0, shrinkB=0,
        linestyle="--" if dashed else "-", connectionstyle=f"arc3,rad={bend}",
    ))


def _parameters(networks: Architecture, with_statenet: bool) -> pd.DataFrame:
    """Return a row for each network: its name, the widths of its layers, and its number of parameters."""
    rows = [
        (f"{part} {pathway}", [network.layers[0].inputs, *(layer.outputs for layer in network.layers)], network.size)
        for pathway, decoder in (("A", networks.decoder_A), ("B", networks.decoder_B))
        for part, network in (("encoder", networks.encoder), ("decoder", decoder))
    ]
    if with_statenet:
        rows.append(("StateNet", list(STATENET_WIDTHS), STATENET_SIZE))
    return pd.DataFrame(
        [(name, "-".join(map(str, widths)), size) for name, widths, size in rows],
        columns=["network", "widths", "parameters"],
    )


def _words(model: config.Model, networks: Architecture, data: pd.DataFrame) -> str:
    """Return the alternative text."""
    widths = ", ".join(str(layer.outputs) for layer in networks.encoder.layers[:-1])
    sizes = data.set_index("network")["parameters"]
    controller = (
        f" StateNet ({STATENET_SIZE:,} parameters) reads {len(READ)} numbers, corrects the learning rate and the three "
        "loss weights lambda, and receives no gradient in v5.5." if model.use_statenet else ""
    )
    return (
        f"A diagram of two variational autoencoders, A and B. Each encoder has layers of {widths} units and gives the "
        f"mean and the log-variance of {model.latent_dim} latent dimensions. A latent is sampled with temperature tau. "
        "Each decoder reads a mixture of its own latent and, with weight rho and without a gradient, of the latent of "
        f"the other pathway. Decoder A has {sizes['decoder A']:,} and decoder B {sizes['decoder B']:,} parameters; the "
        f"model has {data['parameters'].sum():,}. The loss weights the pathways with lambda and the gradient "
        f"balance g.{controller}"
    )
