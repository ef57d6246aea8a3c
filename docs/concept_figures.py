"""The drawings of docs/concepts.md as SVG files: the architecture and the schedules of v5.5.

`python docs/concept_figures.py` writes them to docs/concepts/. Widths, parameter counts and curves come from the
configuration v5_5. The colours follow the light or dark scheme of the reader, and the drawings are narrow enough for a
telephone.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ternary_lab import load_config
from ternary_lab.config import Config
from ternary_lab.model import STATENET_SIZE, STATENET_WIDTHS, Architecture
from ternary_lab.networks import Network
from ternary_lab.space import ENTRIES, VALUES

FOLDER = Path(__file__).parent / "concepts"
WIDTH = 400
"""Width of the drawing of the architecture, in pixels."""
STYLE = """
text { fill: #222; font: 12px system-ui, "DejaVu Sans", sans-serif; text-anchor: middle }
.small { font-size: 10px } .left { text-anchor: start } .right { text-anchor: end } .title { font-weight: 600 }
.box, .line, .axis { fill: none; stroke: #555; stroke-width: 1.2 } .line { stroke-width: 1.8 }
.axis { stroke-width: 0.7 } .grid { stroke: #8884; stroke-width: 0.6 } .dashed { stroke-dasharray: 5 3 }
.box.A, .line.A { stroke: #0072b2 } .box.B, .line.B { stroke: #d55e00 }
text.A { fill: #0072b2 } text.B { fill: #bc5200 }
path.head { fill: #555 } path.head.A { fill: #0072b2 } path.head.B { fill: #d55e00 }
@media (prefers-color-scheme: dark) {
text { fill: #e8e8e8 } .box, .line, .axis { stroke: #bbb } path.head { fill: #bbb }
.box.A, .line.A { stroke: #56b4e9 } .box.B, .line.B { stroke: #f0894a }
text.A { fill: #56b4e9 } text.B { fill: #f0894a }
path.head.A { fill: #56b4e9 } path.head.B { fill: #f0894a }
}"""
"""Colours of the pathways as in the figures of the library, lighter in the dark scheme."""

PLOT_WIDTH, PLOT_HEIGHT = 330, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 26, 34
"""Margins of a plot, in pixels."""

Curve = tuple[str, str, Sequence[float]]
"""The label of a curve, its classes, and its value at every epoch."""


def drawings() -> dict[str, str]:
    """Return a dictionary from file name to SVG text."""
    return {"architecture.svg": architecture(load_config("v5_5"))} | schedules(load_config("v5_5"))


def architecture(config: Config) -> str:
    """Return the drawing of the networks from top to bottom, with pathway A at the left and B at the right."""
    networks = Architecture(config.model)
    latent = config.model.latent_dim
    middle = {"A": WIDTH / 4, "B": 3 * WIDTH / 4}
    parts = [_box(120, 4, 160, 24, [f"operation x: {ENTRIES} entries"])]
    for name, decoder in (("A", networks.decoder_A), ("B", networks.decoder_B)):
        other, x = ("B" if name == "A" else "A"), middle[name]
        steps = [
            (52, [f"encoder {name}", _widths(networks.encoder, -1), f"{networks.encoder.size:,} parameters"]),
            (122, [f"μ_{name} and σ_{name}: {latent} values each"]),
            (166, [f"z_{name} = μ_{name} + τ_{name} σ_{name} ε"]),
            (242, [f"z̃_{name} = (1 − ρ) z_{name} + ρ sg(z_{other})"]),
            (286, [f"decoder {name}", _widths(decoder), f"{decoder.size:,} parameters"]),
            (356, [f"logits: {ENTRIES} entries × {VALUES} values"]),
            (400, [f"L_{name} = CE_{name} + β_{name} KL_{name}", "" if name == "A" else "− w_S S + w_R R"]),
        ]
        parts.append(_arrow((200, 28), (x, 52), name))
        for i, (y, lines) in enumerate(steps):
            shown = [line for line in lines if line]
            height = 22 if len(lines) == 1 else 15 * len(lines) + 9
            parts.append(_box(x - 97, y, 194, height, shown, name))
            if i + 1 < len(steps):
                parts.append(_arrow((x, y + height), (x, steps[i + 1][0]), name))
        parts.append(_arrow((x, 188), (middle[other], 242), name, dashed=True))
        parts.append(_arrow((x, 439), (x, 462), name))
    parts.append(_text(200, 202, "ρ", "small"))
    parts.append(_box(30, 462, 340, 26, ["L = λ_1 g_A L_A + λ_2 g_B L_B + λ_3 |H_A − H_B|"]))
    height = 492
    if config.model.use_statenet:
        widths = " → ".join(map(str, STATENET_WIDTHS))
        parts.append(_arrow((200, 520), (200, 488), "", dashed=True))
        parts.append(_text(208, 508, "corrects λ and the learning rate", "small left"))
        parts.append(_box(30, 520, 340, 54, [
            "StateNet", "reads H_A, H_B, KL_A, KL_B, r, ρ, λ_1, λ_2, λ_3", f"{widths}; {STATENET_SIZE:,} parameters",
        ]))
        height = 578
    return _svg(WIDTH, height, parts)


def schedules(config: Config) -> dict[str, str]:
    """Return a plot of each schedule over all epochs that the configuration plans."""
    epochs = range(config.training.total_epochs)
    betas, temperatures = ([f(e) for e in epochs] for f in (config.betas, config.temperatures))
    rates = [config.lr(e) for e in epochs]
    pathways = ("A", "B")
    return {
        "beta.svg": _plot("β, weight of the KL terms", [
            (f"β_{p}", p, values) for p, values in zip(pathways, zip(*betas, strict=True), strict=True)
        ]),
        "tau.svg": _plot("τ, temperature of the posterior noise", [
            (f"τ_{p}", p, values) for p, values in zip(pathways, zip(*temperatures, strict=True), strict=True)
        ]),
        "rho.svg": _plot("ρ, share of the other pathway's latent", [
            ("balanced", "", [config.permeability(e, True) for e in epochs]),
            ("not balanced", "dashed", [config.permeability(e, False) for e in epochs]),
        ]),
        "lambda3.svg": _plot("λ_3, weight of the entropy alignment", [("", "", [config.lambda3(e) for e in epochs])]),
        "lr.svg": _plot("learning rate, logarithmic", [("", "", [math.log10(rate) for rate in rates])],
                        lambda value: f"{10**value:.0e}".replace("e-0", "e-")),
    }


def _plot(title: str, curves: Sequence[Curve], label: Callable[[float], str] = "{:g}".format) -> str:
    """Return a line chart with epochs along x. `label` words the marks of the other axis."""
    values = [value for _, _, curve in curves for value in curve]
    count = len(curves[0][2])
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if max(values) - min(values) <= 5 * s)
    low, high = (math.floor(min(values) / step + 1e-9) * step, math.ceil(max(values) / step - 1e-9) * step)

    def x(epoch: float) -> float:
        return LEFT + (PLOT_WIDTH - LEFT - RIGHT) * epoch / count

    def y(value: float) -> float:
        return PLOT_HEIGHT - BOTTOM - (PLOT_HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = [_text(LEFT, 14, title, "left title")]
    for i in range(round((high - low) / step) + 1):
        mark = round(low + i * step, 6)
        parts.append(f'<path class="grid" d="M{LEFT} {y(mark):.1f}H{PLOT_WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 5, y(mark) + 4, label(mark), "small right"))
    for epoch in range(0, count + 1, 50):
        parts.append(f'<path class="axis" d="M{x(epoch):.1f} {PLOT_HEIGHT - BOTTOM}v4"/>')
        if epoch % 100 == 0:
            parts.append(_text(x(epoch), PLOT_HEIGHT - BOTTOM + 15, str(epoch), "small"))
    parts.append(_text((LEFT + PLOT_WIDTH - RIGHT) / 2, PLOT_HEIGHT - 4, "epoch", "small"))
    for i, (name, kind, curve) in enumerate(curves):
        points = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in enumerate(curve))
        parts.append(f'<polyline class="line {kind}" points="{points}"/>')
        if name:
            at = PLOT_WIDTH - RIGHT - 104 * (len(curves) - i)
            parts.append(f'<path class="line {kind}" d="M{at} {TOP + 2}h22"/>')
            parts.append(_text(at + 27, TOP + 6, name, f"small left {kind if kind != 'dashed' else ''}"))
    return _svg(PLOT_WIDTH, PLOT_HEIGHT, parts)


def _widths(network: Network, end: int | None = None) -> str:
    """Return the widths of a network, for example 9 → 256 → 128, with a number in place of its residual blocks."""
    layers = network.layers[:end]
    first = next((i for i, layer in enumerate(layers) if layer.skip), len(layers)) - 1
    blocks = sum(layer.skip is not None for layer in layers)
    before = [layer.outputs for layer in (layers[:first] if blocks else layers)]
    after = [f"{blocks} residual blocks", layers[-1].outputs] if blocks else []
    return " → ".join(map(str, [network.layers[0].inputs, *before, *after]))


def _box(x: float, y: float, width: float, height: float, lines: Sequence[str], kind: str = "") -> str:
    """Return a rounded rectangle with lines of text in its middle."""
    first = y + height / 2 + 4 - 7.5 * (len(lines) - 1)
    return f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"/>' + "".join(
        _text(x + width / 2, first + 15 * i, line, ("title", "small", "small")[i] if len(lines) == 3 else "")
        for i, line in enumerate(lines)
    )


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    """Return a text. The letter or digit after an underscore is shown as a subscript."""
    shown = re.sub(
        r"_(\w)", r'<tspan dy="3" font-size="75%">\1</tspan><tspan dy="-3">&#8203;</tspan>', html.escape(words)
    )
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{shown}</text>'


def _arrow(start: tuple[float, float], end: tuple[float, float], kind: str, *, dashed: bool = False) -> str:
    """Return a straight arrow with its head at `end`."""
    (x, y), (to_x, to_y) = start, end
    length = math.hypot(to_x - x, to_y - y)
    u, v = (to_x - x) / length, (to_y - y) / length
    left, right = (to_x - 7 * u - 3 * v, to_y - 7 * v + 3 * u), (to_x - 7 * u + 3 * v, to_y - 7 * v - 3 * u)
    line = "dashed" if dashed else ""
    return (
        f'<path class="box {kind} {line}" d="M{x:g} {y:g}L{to_x - 5 * u:.1f} {to_y - 5 * v:.1f}"/>'
        f'<path class="head {kind}" d="M{to_x:g} {to_y:g}L{left[0]:.1f} {left[1]:.1f}L{right[0]:.1f} {right[1]:.1f}z"/>'
    )


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in drawings().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
