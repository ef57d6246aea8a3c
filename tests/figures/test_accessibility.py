"""Words that can be read and colours that can be told apart, by those who see less or other colours as well.

Contrast is that of WCAG 2.2 (https://www.w3.org/TR/WCAG22/): at least 4.5 for text (1.4.3), 3 for what a figure
consists of (1.4.11). Colour-vision deficiencies are simulated by the matrices of Machado, Oliveira & Fernandes (2009),
"A physiologically-based model for simulation of color vision deficiency", IEEE TVCG 15(6), severity 1, which act on
linear RGB. Differences are Euclidean in CIELAB (CIE 1976), in which about 2.3 is just noticeable.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import ternary_lab
from ternary_lab.explorer.view import CSS
from ternary_lab.figures.style import ENTRY, GREEN, GREY, INK, PATHWAY, PATHWAY_TEXT, PURPLE, readable_on
from ternary_lab.studies.report.figures import COLOURS

ROOT = Path(ternary_lab.__file__).parent
DRAWN = sorted({
    *(path for folder in ("figures", "explorer") for path in (ROOT / folder).glob("*.py")), *ROOT.rglob("figures.py"),
    *ROOT.rglob("animation.py"),
})
WHITE = "#FFFFFF"
TEXT, GRAPHICS, APART = 4.5, 3.0, 10.0
OKABE_ITO = {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000"}
"""Okabe & Ito (2008), "Color universal design"."""
TINTS = {"#8CCFBB": "#009E73", "#8FC1E3": "#0072B2", "#FFF4EC": "#D55E00", "#BC5200": "#D55E00"}
"""Lighter and darker ones of the palette -> of which."""
LINES = {**PATHWAY, "ink": INK, "green": GREEN, "purple": PURPLE, "grey": GREY}
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900],
    ]),
}
TO_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041],
])
"""Of sRGB, white point D65."""


def linear(colour: str) -> np.ndarray:
    """Linear RGB (3,), 0..1, of "#RRGGBB" or "#RGB"."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    c = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG's contrast ratio, 1..21."""
    dark, light = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (a, b))
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str, sight: str = "all cones") -> np.ndarray:
    """CIELAB (3,) of a colour as someone sees it."""
    xyz = TO_XYZ @ np.clip(SIGHT[sight] @ linear(colour), 0, 1) / TO_XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(a: str, b: str, sight: str = "all cones") -> float:
    return float(np.linalg.norm(lab(a, sight) - lab(b, sight)))


# The formulas


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", WHITE) == pytest.approx(21)
    assert contrast("#767676", WHITE) == pytest.approx(4.54, abs=0.005)  # the lightest grey that passes
    assert contrast("#777", WHITE) == pytest.approx(4.48, abs=0.005)
    assert contrast("#0072B2", "#0072B2") == 1


def test_lab_of_white_and_red_is_the_known_one() -> None:
    np.testing.assert_allclose(lab(WHITE), [100, 0, 0], atol=1e-6)
    np.testing.assert_allclose(lab("#FF0000"), [53.24, 80.09, 67.20], atol=0.02)


@pytest.mark.parametrize("sight", SIGHT)
def test_every_sight_leaves_grey_grey(sight: str) -> None:
    np.testing.assert_allclose(SIGHT[sight].sum(1), 1, atol=1e-5)
    assert difference("#888888", "#888888", sight) == 0


def test_each_deficiency_confuses_what_it_is_known_for() -> None:
    for sight, a, b in (
        ("protanopia", "#8F5F00", "#4F6F00"), ("deuteranopia", "#A05000", "#607000"),
        ("tritanopia", "#0060FF", "#006F60"),
    ):
        assert difference(a, b, sight) < difference(a, b) / 2


# The palette


@pytest.mark.parametrize("colour", [INK, GREY, *PATHWAY_TEXT.values()])
def test_text_can_be_read_on_white(colour: str) -> None:
    assert contrast(colour, WHITE) >= TEXT


@pytest.mark.parametrize("fill", ENTRY.values())
def test_the_sign_of_an_entry_can_be_read_on_its_colour(fill: str) -> None:
    assert contrast(INK, fill) >= TEXT


@pytest.mark.parametrize("name", LINES)
def test_lines_stand_out_from_white(name: str) -> None:
    assert contrast(LINES[name], WHITE) >= GRAPHICS


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("palette", [LINES, ENTRY, COLOURS], ids=["lines", "entries", "verdicts"])
def test_colours_can_be_told_apart(palette: dict[str | int, str], sight: str) -> None:
    for a, b in combinations(palette, 2):
        assert difference(palette[a], palette[b], sight) >= APART, (a, b)


def test_the_comparison_would_see_red_and_green() -> None:
    assert difference("#8F5F00", "#4F6F00", "protanopia") < APART


# What is drawn


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_every_colour_is_of_the_palette_or_grey(path: Path) -> None:
    found = {colour.upper() for colour in re.findall(r"#[0-9A-Fa-f]{6}\b", path.read_text())}
    assert {c for c in found - OKABE_ITO - TINTS.keys() if not c[1:3] == c[3:5] == c[5:7]} == set()


def _coloured_text(path: Path) -> Iterator[str]:
    """Source of every colour that words of a figure are given."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "set_color":
                yield ast.unparse(node.args[0])
            words = node.func.attr in ("text", "annotate", "set_title", "set_xlabel", "set_ylabel", "suptitle")
            for keyword in node.keywords:
                if keyword.arg == "labelcolor" or (words and keyword.arg in ("color", "c")):
                    yield ast.unparse(keyword.value)


def test_words_in_figures_are_of_the_colours_that_can_be_read() -> None:
    found = [colour for path in DRAWN for colour in _coloured_text(path)]
    assert len(found) >= 4
    assert {colour for colour in found if not colour.startswith("readable_on(")} <= {"INK", "GREY"}


@pytest.mark.parametrize("seed", range(5))
def test_words_on_any_colour_can_be_read(seed: int) -> None:
    for colour in np.random.default_rng(seed).random((200, 3)).round(2):
        digits = "#" + "".join(f"{round(255 * c):02X}" for c in colour)
        words = {"black": "#000000", "white": WHITE}[readable_on(tuple(colour))]
        assert contrast(digits, words) >= TEXT, digits


def test_words_in_widgets_can_be_read() -> None:
    rules = dict(re.findall(r"(\.tl-[\w .-]+?) \{ ([^}]*) \}", CSS))
    page = rules[".tl-part"]
    background, ink = (re.search(rf"(?<![-\w]){name}: (#\w+)", page) for name in ("background", "color"))
    assert background is not None
    assert ink is not None
    seen = 0
    for selector, rule in rules.items():
        behind, before = (re.search(rf"(?<![-\w]){name}: (#\w+)", rule) for name in ("background", "color"))
        if behind or before:
            pair = (before or ink)[1], (behind or background)[1]
            assert contrast(*pair) >= TEXT, (selector, pair)
            seen += 1
    assert seen >= 3
