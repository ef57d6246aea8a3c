"""Parts of figures against numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import Normalize, to_hex
from matplotlib.lines import Line2D

from ternary_lab.figures.parts import band, dot_panels, dots, heat_map, legend_below
from ternary_lab.figures.style import PATHWAY, panels, style

RUNS = pd.DataFrame({
    "epoch": [0, 0, 0, 1, 1, 1], "seed": [1, 2, 3] * 2, "loss": [3.0, 1.0, 8.0, 2.0, 0.0, 4.0],
    "title": ["b"] * 3 + ["a"] * 3,
})


def test_a_band_is_the_median_between_the_lowest_and_the_highest() -> None:
    (axis,) = panels(1, 1, 2)
    band(axis, RUNS, "epoch", "loss", color="#0072B2", label="loss")
    assert axis.lines[0].get_xydata().tolist() == [[0, 3], [1, 2]]
    corners = axis.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners.tolist()} == {(0, 1), (0, 8), (1, 0), (1, 4)}
    assert axis.get_legend() is None
    assert axis.get_xlabel() == axis.get_ylabel() == ""


@pytest.mark.parametrize("rows", [RUNS[RUNS["seed"] == 1], RUNS.assign(loss=np.nan)])
def test_one_run_and_missing_values_make_no_band(rows: pd.DataFrame) -> None:
    (axis,) = panels(1, 1, 2)
    band(axis, rows, "epoch", "loss", color="#0072B2")
    axis.figure.draw_without_rendering()
    assert not any(np.isfinite(path.vertices).all() for c in axis.collections for path in c.get_paths() if len(path))


def test_dots_stand_in_rows_in_the_order_of_the_table() -> None:
    (axis,) = panels(1, 1, 2)
    dots(axis, RUNS, "loss", "title", interval=lambda values: (min(values), max(values)))
    assert [text.get_text() for text in axis.get_yticklabels()] == ["b", "a"]
    found = np.concatenate([points.get_offsets() for points in axis.collections]).tolist()
    assert sorted(map(tuple, found)) == sorted(zip(RUNS["loss"], [0.0] * 3 + [1.0] * 3, strict=True))
    assert [1.0, 8.0] in [list(line.get_xdata()) for line in axis.lines]
    assert axis.yaxis_inverted()


def test_pathways_share_a_row_in_their_colours() -> None:
    rows = pd.concat([RUNS.assign(pathway=p) for p in PATHWAY])
    with dot_panels(rows, {"loss": "loss, nats"}, "title", hue="pathway", palette=PATHWAY) as (axis,):
        assert axis.get_title(loc="left") == "loss,\N{NO-BREAK SPACE}nats"
    colours = {to_hex(colour).upper() for points in axis.collections for colour in points.get_facecolors()}
    assert colours == set(PATHWAY.values())
    heights = {round(float(y), 3) for points in axis.collections for y in np.asarray(points.get_offsets())[:, 1]}
    assert heights == {-0.2, 0.2, 0.8, 1.2}


def test_cells_of_a_heat_map_are_written_in_black_or_white_and_missing_ones_are_empty() -> None:
    table = pd.DataFrame([[0.0, 1.0], [np.nan, 0.5]])
    with style():
        (axis,) = panels(1, 1, 2)
        words = np.array([["dark", "light"], ["none", "grey"]])
        mesh = heat_map(axis, table, cmap="gray", norm=Normalize(0, 1), text=words)
    colours = {text.get_text(): text.get_color() for text in axis.texts}
    assert colours == {"dark": "white", "light": "black", "grey": "black"}
    assert np.ma.getmaskarray(mesh.get_array()).ravel().tolist() == [False, False, True, False]


def test_one_legend_names_each_label_once() -> None:
    axes = panels(1, 2, 2)
    for axis in axes:
        axis.plot([0, 1], [0, 1], label="same")
    axes[1].plot([0, 1], [1, 0], label="other")
    assert [text.get_text() for text in legend_below(axes).get_texts()] == ["same", "other"]
    handles = [Line2D([], [], label="mine")]
    assert [text.get_text() for text in legend_below(axes, "title", handles).get_texts()] == ["mine"]
