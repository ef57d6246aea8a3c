"""The drawing of the architecture tells the widths and parameter counts of the model that a configuration builds."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from matplotlib.figure import Figure

from ternary_lab import load_config
from ternary_lab.config import Config
from ternary_lab.figures.architecture import CORRECTED, READ, architecture
from ternary_lab.model import STATENET_WIDTHS, Architecture

OTHER = {
    "model.latent_dim": 5, "model.encoder_hidden": [40, 30], "model.decoder_A_hidden": [21],
    "model.decoder_B_hidden": 19, "model.decoder_B_blocks": 1,
}


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def _numbers(figure: Figure, words: str) -> list[int]:
    found = [re.search(rf"{words}\n([\d,]+) parameters", text) for text in _texts(figure)]
    return [int(match.group(1).replace(",", "")) for match in found if match]


@pytest.mark.parametrize("config", [load_config("v5_5"), load_config("v5_5", OTHER)], ids=["v5_5", "other"])
def test_counts_are_those_of_the_weights(config: Config) -> None:
    figure = architecture(config.model).figure
    built = Architecture(config.model)
    weights = built.named(built.initialise(0))
    for part in ("encoder", "decoder"):
        for pathway in "AB":
            count = sum(value.numel() for name, value in weights.items() if name.startswith(f"{part}_{pathway}."))
            assert _numbers(figure, f"{part} {pathway}") == [count]
    assert architecture(config.model).data["parameters"].sum() == sum(value.numel() for value in weights.values())


@pytest.mark.parametrize("config", [load_config("v5_5"), load_config("v5_5", OTHER)], ids=["v5_5", "other"])
def test_a_bar_stands_for_each_layer_and_tells_its_width(config: Config) -> None:
    model = config.model
    figure = architecture(model).figure
    widths = [int(text) for text in _texts(figure) if text.isdigit()]
    decoder_b = [model.decoder_B_hidden] * (1 + 2 * model.decoder_B_blocks)
    assert widths == [
        *model.encoder_hidden, *model.decoder_A_hidden, 27, *model.encoder_hidden, *decoder_b, 27,
    ]
    assert sum(f": {model.latent_dim}" in text for text in _texts(figure)) == 4


def test_statenet_is_drawn_if_the_model_uses_it() -> None:
    with_it, without = (architecture(load_config("v5_5", {"model.use_statenet": on}).model) for on in (True, False))
    assert any("StateNet" in text for text in _texts(with_it.figure))
    assert not any("StateNet" in text for text in _texts(without.figure))
    assert "StateNet" not in without.alt
    assert with_it.data["parameters"].sum() - without.data["parameters"].sum() == 1068
    assert (len(READ), len(CORRECTED)) == (STATENET_WIDTHS[0], STATENET_WIDTHS[-1])


def test_no_text_overlaps_another_or_leaves_the_figure() -> None:
    figure = architecture(load_config("v5_5").model).figure
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    for a, b in combinations(boxes, 2):
        assert not a.overlaps(b)
    for box in boxes:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
