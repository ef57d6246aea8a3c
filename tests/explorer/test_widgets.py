"""Tests of the views of the explorer in the kernel: contents, error messages, speed and memory.

`test_browser.py` tests the views in a browser.
"""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL

from ternary_lab import load_config, load_model, run_experiment, space
from ternary_lab.errors import InputError, RunError
from ternary_lab.explorer import (
    CoverageHoles,
    Dashboard,
    EpochSlider,
    Explorer,
    Inspector,
    Interpolation,
    LatentEditor,
    Map,
    ScheduleDesigner,
    Selection,
    TwoMaps,
    watch,
)
from ternary_lab.explorer.inspector import hamming_distances
from ternary_lab.explorer.map import FRAME
from ternary_lab.explorer.operation_picker import NAMES, operation_index, operation_name
from ternary_lab.explorer.view import View
from ternary_lab.figures.live import draw_runs
from ternary_lab.figures.save import render
from ternary_lab.model import PATHWAYS
from ternary_lab.runs.load import PUBLISHED, load_run, load_runs

RUN = "v5_5/seed=42"
KLEENE_AND, KLEENE_OR = 15633, 19569
ALONE = (Map, Inspector, EpochSlider, LatentEditor, Interpolation, CoverageHoles)


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    explorer = Explorer(RUN)
    for title in ("Latent editor", "Interpolation", "Coverage holes", "Schedule designer"):
        explorer.view(title)
    return explorer


@pytest.fixture(autouse=True)
def at_rest(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test, wait for the background work, clear the chosen operations and choose the last epoch."""
    yield
    if "explorer" in request.fixturenames:
        explorer: Explorer = request.getfixturevalue("explorer")
        settle(*views(explorer))
        explorer.selection.set_trait("operations", ())
        explorer.selection.epoch, explorer.selection.pathway = 100, "B"
        explorer.tabs.selected_index = 0
        settle(*views(explorer))


def views(explorer: Explorer) -> list[View]:
    return [explorer, explorer.map, explorer.inspector, explorer.epoch_slider, *explorer._views.values()]


def settle(*views: View) -> None:
    """Wait until the background work of the views is done, including further work that it started."""
    for _ in range(2):
        for view in views:
            for thread in list(view._threads.values()):
                thread.submit(int).result()


def descendants(widget: Any) -> Iterator[Any]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from descendants(child)


def wait(designer: ScheduleDesigner) -> None:
    """Wait until the training has ended."""
    assert designer._training is not None
    designer._training.join()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


# Operations as text


@given(st.integers(0, space.SIZE - 1))
def test_an_operation_is_found_by_index_by_its_shown_name_and_by_its_entries(index: int) -> None:
    for text in (str(index), f"{index:,}", operation_name(index)):
        assert operation_index(text) == index
    table = space.operations(torch.tensor(index)).int().tolist()
    assert operation_index(" ".join("-0+"[value + 1] for value in table)) == index or table == [0] * 9


@pytest.mark.parametrize("index", NAMES)
def test_an_operation_is_found_by_its_name(index: int) -> None:
    assert operation_index(NAMES[index].upper()) == index


@given(st.text())
def test_a_text_that_names_no_operation_is_quoted_in_the_error(text: str) -> None:
    try:
        assert 0 <= operation_index(text) < space.SIZE
    except InputError as error:
        assert repr(text) in str(error)  # noqa: PT017


@pytest.mark.parametrize("text", ["", "19683", "-1", "1e3", "٣", "+0-000-0", "9" * 400, "<b>"])
def test_these_are_no_operations(text: str) -> None:
    with pytest.raises(InputError, match="give a name"):
        operation_index(text)


def test_an_operation_has_18_hamming_neighbours_which_differ_in_one_entry() -> None:
    for index in (0, 77, KLEENE_AND, space.SIZE - 1):
        tables = space.operations(torch.nonzero(hamming_distances(index) == 1).flatten())
        assert len({tuple(t.tolist()) for t in tables}) == 18
        assert bool(((tables != space.operations(torch.tensor(index))).sum(1) == 1).all())


# Every view


@pytest.mark.parametrize("kind", ALONE, ids=lambda kind: kind.__name__)
def test_a_view_can_be_used_alone(kind: Callable[[str], View]) -> None:
    view = kind(RUN)
    settle(view)
    assert view.alert.value == ""
    bundle = view._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"].startswith(("<img alt=", "<p>"))


def test_every_control_says_what_it_is(explorer: Explorer) -> None:
    """A control without a description has no name for a screen reader."""
    controls = [
        widget for view in (*views(explorer), Dashboard("nowhere")) for widget in descendants(view)
        if isinstance(widget, ipywidgets.widgets.widget_description.DescriptionWidget | ipywidgets.Button)
        and not isinstance(widget, ipywidgets.HTML)
    ]
    assert len(controls) > 40
    assert [type(control).__name__ for control in controls if not control.description] == []


def test_every_picture_says_what_it_shows(explorer: Explorer) -> None:
    explorer.selection.operations = (operation_index("product"),)
    settle(*views(explorer))
    shown = "".join(
        widget.value for view in views(explorer) for widget in descendants(view) if isinstance(widget, ipywidgets.HTML)
    )
    for tag, words in (("img", "alt"), ("svg", "aria-label"), ('table class="tl-op', "aria-label")):
        found = re.findall(rf"<{tag}[^>]*>", shown)
        assert found, tag
        assert [one[:80] for one in found if not re.search(rf'\b{words}="[^"]+"', one)] == []


def test_an_operation_chosen_in_one_view_is_shown_in_all(explorer: Explorer) -> None:
    explorer.map.pick.value = "product"
    index = operation_index("product")
    assert explorer.selection.operations == (index,)
    assert list(explorer.map.scatter.widget.selection) == [index]
    assert "product" in explorer.inspector.text.value
    explorer.map.scatter.widget.selection = [5, 3, 4]
    assert explorer.selection.operations == (3, 4, 5)
    assert "3 operations chosen" in explorer.inspector.text.value
    explorer.map.clear.click()
    assert "No operation chosen" in explorer.inspector.text.value


def test_a_new_epoch_moves_map_slider_cursor_and_inspector(explorer: Explorer) -> None:
    explorer.selection.operations = (KLEENE_AND,)
    cursor = explorer.epoch_slider.cursor.value
    explorer.epoch_slider.slider.value = 49
    assert explorer.selection.epoch == 49
    assert explorer.epoch_slider.cursor.value != cursor
    until(lambda: "epoch 49" in explorer.map.legend.value)
    plane = explorer.selection.codes.plane(49, "B", "pca")
    sent = torch.tensor(explorer.map.scatter.widget.points)[:, 0].float()
    # The browser receives coordinates from -1 to 1, where ±1 are the edges of the map.
    torch.testing.assert_close(FRAME * sent, plane.points[:, 0], atol=1e-3, rtol=1e-3)
    explorer.selection.epoch = 43  # epoch 43 has no weights, so the nearest epoch is chosen
    assert explorer.epoch_slider.slider.value == 45


def test_two_runs_side_by_side_show_the_same_operations_and_pathway_each_at_its_own_epoch() -> None:
    pair = TwoMaps(RUN, Selection(load_run(RUN)))
    left, right = pair.selections
    left.operations = (7, 42)
    assert right.operations == (7, 42)
    assert sorted(pair.maps[1].scatter.widget.selection) == [7, 42]
    pair.maps[1].pathway.value = "A"
    assert left.pathway == right.pathway == pair.maps[0].pathway.value == "A"
    left.epoch = 0
    assert right.epoch != 0
    still = pair.picture()
    assert "epoch 0" in still.alt
    assert len([axis for axis in still.figure.axes if axis.get_title(loc="left")]) == 2


def test_runs_that_keep_weights_can_be_chosen() -> None:
    options = Explorer(RUN).source.options
    assert RUN in options
    assert all(load_run(name).epochs for name in options)


def test_the_pathway_turns_the_map(explorer: Explorer) -> None:
    explorer.map.pathway.value = "A"
    assert explorer.selection.pathway == "A"
    until(lambda: "pathway A" in explorer.map.legend.value)


def test_colours_that_take_a_moment_follow(explorer: Explorer) -> None:
    explorer.map.colour.value = "log p A"
    until(lambda: "ln p(x), decoder A" in explorer.map.legend.value)
    assert explorer.map.status.value == ""
    explorer.map.colour.value = "zeros"
    until(lambda: "number of zeros" in explorer.map.legend.value)


def test_the_inspector_shows_the_figures_of_the_snapshot(explorer: Explorer) -> None:
    explorer.selection.operations = (KLEENE_AND,)
    settle(*views(explorer))
    snapshot, text = explorer.selection.snapshot, explorer.inspector.text.value
    for pathway in PATHWAYS:
        p = space.SIZE * float(snapshot.log_probability(pathway)[KLEENE_AND].exp())
        assert f"{p:.3g}" in text
    assert "min (Kleene and)" in text
    assert "commutative" in text
    assert "train split" in text


# The editor


def test_an_operation_in_the_latent_editor_is_decoded_exactly_in_both_modes(explorer: Explorer) -> None:
    editor = explorer.view("Latent editor")
    assert isinstance(editor, LatentEditor)
    for mode in ("principal", "raw"):
        editor.mode.value = mode
        editor.pick.value = ""
        editor.pick.value = str(KLEENE_OR)
        torch.testing.assert_close(editor.latent, explorer.selection.snapshot.mu[1, KLEENE_OR])
        assert "max (Kleene or)" in editor.decoded.value
    editor.reset.click()
    assert float(editor.latent.norm()) == 0
    editor.random.click()
    assert float(editor.latent.norm()) > 1


@pytest.mark.parametrize("mode", ["principal", "raw"])
def test_a_slider_moves_the_latent_along_its_direction_only(explorer: Explorer, mode: str) -> None:
    editor = explorer.view("Latent editor")
    assert isinstance(editor, LatentEditor)
    editor.mode.value = mode
    editor.random.click()
    before = editor.latent
    shown = editor.decoded.value
    editor.sliders.children[2].value = 1.5 if editor.sliders.children[2].value < 0 else -1.5
    step = editor.latent - before
    direction = editor._directions[2]
    torch.testing.assert_close(step, torch.dot(step, direction) * direction, atol=1e-5, rtol=1e-4)
    assert abs(float(editor._coordinates()[2])) == pytest.approx(1.5, abs=1e-4)
    assert editor.decoded.value != shown


def test_the_number_of_sliders_follows_the_mode(explorer: Explorer) -> None:
    editor = explorer.view("Latent editor")
    assert isinstance(editor, LatentEditor)
    for mode, count in (("principal", 8), ("raw", 16), ("principal", 8)):
        editor.mode.value = mode
        assert sum(slider.layout.display != "none" for slider in editor.sliders.children) == count


# Interpolation and coverage holes


def test_a_path_between_named_and_between_chosen_operations(explorer: Explorer) -> None:
    path = explorer.view("Interpolation")
    assert isinstance(path, Interpolation)
    explorer.tabs.selected_index = 1
    for name, walk in path.walks().items():
        assert f"{name} path: {len(walk.changes)} changes" in path.text.value
    explorer.selection.operations = (5, 800)
    path.chosen.click()
    assert (path.start.operation, path.end.operation) == (5, 800)
    path.swap.click()
    assert (path.start.operation, path.end.operation) == (800, 5)
    path.start.value = "nonsense"
    assert "nonsense" in path.alert.value
    path.start.value = "7"
    assert path.alert.value == ""


def test_coverage_holes_are_the_least_probable_operations(explorer: Explorer) -> None:
    holes = explorer.view("Coverage holes")
    assert isinstance(holes, CoverageHoles)
    explorer.tabs.selected_index = 2
    settle(*views(explorer))
    log_p = explorer.selection.snapshot.log_probability("B")
    listed = [index for _, index in holes.rarest.options]
    assert listed == log_p.argsort()[: len(listed)].tolist()
    holes.rarest.value = listed[3]
    assert explorer.selection.operations == (listed[3],)
    assert "decoded from its code instead" in holes.text.value


def test_a_hidden_view_is_updated_when_it_is_shown(explorer: Explorer) -> None:
    path = explorer.view("Interpolation")
    assert isinstance(path, Interpolation)
    explorer.tabs.selected_index = 1
    before = path.curve.value
    explorer.tabs.selected_index = 0
    explorer.selection.epoch = 50
    assert path.curve.value == before
    explorer.tabs.selected_index = 1
    assert path.curve.value != before


# Errors


def test_a_missing_run_is_named_with_the_way_out() -> None:
    explorer = Explorer("no/such/run")
    assert "no/such/run" in explorer.alert.value
    assert "v5_5/seed=42" in explorer.alert.value
    explorer.source.value = RUN
    assert explorer.alert.value == ""
    assert explorer.selection.epoch == 100


def test_a_damaged_checkpoint_is_named_on_the_page(tmp_path: Path) -> None:
    run = tmp_path / "seed=42"
    shutil.copytree(PUBLISHED / RUN, run)
    explorer = Explorer(run)
    assert explorer.alert.value == ""
    (run / "checkpoints" / "epoch_0050.safetensors").write_bytes(b"rotten")
    explorer.epoch_slider.slider.value = 50
    assert "epoch_0050.safetensors" in explorer.map.alert.value
    explorer.epoch_slider.slider.value = 51
    assert explorer.map.alert.value == ""
    (run / "config.yaml").write_text("nonsense: [")
    assert "config.yaml" in Explorer(run).alert.value


def test_an_unexpected_error_is_on_the_page_and_in_the_log(
    explorer: Explorer, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise KeyError("<gone>")

    explorer.map.guard(broken)()
    assert "KeyError: &#x27;&lt;gone&gt;&#x27;" in explorer.map.alert.value
    assert 'role="alert"' in explorer.map.alert.value
    assert "Traceback" in caplog.text
    explorer.map.guard(lambda: None)()
    assert explorer.map.alert.value == ""


def test_the_result_of_an_older_request_is_not_shown() -> None:
    view, begun, gate = View(), threading.Event(), threading.Event()
    done: list[str] = []
    shown: list[str] = []

    def first() -> str:
        begun.set()
        gate.wait(30)
        return "first"

    def another(name: str) -> str:
        done.append(name)
        return name

    view.in_background("x", "first", first, shown.append)
    assert begun.wait(30)
    for name in ("second", "third"):
        view.in_background("x", name, partial(another, name), shown.append)
    gate.set()
    settle(view)
    assert done == shown == ["third"]
    assert view.status.value == ""


def test_an_error_in_slow_work_is_on_the_page() -> None:
    view = View()
    view.in_background("x", "working", lambda: 1 / 0, print)
    settle(view)
    assert "ZeroDivisionError" in view.alert.value
    assert view.status.value == ""


# Speed and memory


def seconds(action: Callable[[int], object], times: int = 9) -> float:
    taken = []
    for i in range(times):
        started = time.perf_counter()
        action(i)
        taken.append(time.perf_counter() - started)
    return min(taken)  # the least disturbed by other processes


@pytest.mark.slow  # times vary on CI machines, which are shared
@pytest.mark.alone
def test_a_slider_is_decoded_within_100_milliseconds_and_an_epoch_within_300(explorer: Explorer) -> None:
    editor, epochs = explorer.view("Latent editor"), explorer.selection.codes.epochs
    assert isinstance(editor, LatentEditor)
    slider = seconds(lambda i: setattr(editor.sliders.children[0], "value", 0.1 * i - 0.4))
    fresh = Selection.of(RUN)
    first = seconds(lambda i: fresh.codes[epochs[i]].reconstructed)
    again = seconds(lambda i: setattr(explorer.selection, "epoch", epochs[i]))
    print(f"slider {1000 * slider:.0f} ms, epoch {1000 * again:.0f} ms, reading weights {1000 * first:.0f} ms more")
    assert slider < 0.1
    assert again + first < 0.3


@pytest.mark.slow
def test_memory_stays_flat_over_500_interactions_and_no_figure_is_left(explorer: Explorer) -> None:
    editor, epochs = explorer.view("Latent editor"), explorer.selection.codes.epochs
    assert isinstance(editor, LatentEditor)

    def interact(i: int) -> None:
        explorer.selection.epoch = epochs[i % len(epochs)]
        explorer.selection.operations = tuple(range(i % 40, i % 40 + 1 + i % 3))
        editor.sliders.children[i % 8].value = (i % 60) / 10 - 3
        explorer.tabs.selected_index = i % 4 if i % 10 == 0 else 0

    for i in range(400):  # afterwards every epoch is cached and every tab was opened
        interact(i)
    settle(*views(explorer))
    widgets, memory = len(_all_widgets()), _resident()
    for i in range(500):
        interact(i)
    settle(*views(explorer))
    assert len(_all_widgets()) == widgets
    grown = _resident() - memory
    print(f"{grown / 2**20:.1f} MiB more after 500 interactions")
    assert grown < 16 * 2**20
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def _all_widgets() -> list[object]:
    from ipywidgets.widgets import widget

    return list(widget._instances)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


# The dashboard


def test_a_dashboard_waits_for_a_run_follows_it_and_ends_with_it(tmp_path: Path) -> None:
    dashboard = watch(tmp_path / "runs", seconds=0.25)
    until(lambda: "no run yet" in dashboard.line.value)
    assert dashboard.alert.value == ""
    run_experiment(SMALL, [1, 2], tmp_path / "runs", device="cpu")
    assert dashboard._thread is not None
    dashboard._thread.join(30)
    assert not dashboard._thread.is_alive()
    assert dashboard.alert.value == ""
    assert dashboard.progress.value == dashboard.progress.max == SMALL.training.total_epochs
    assert "seed=2: 3 epochs" in dashboard.line.value
    assert "seed 2, epoch 2" in dashboard.curves.value
    again = Dashboard(tmp_path / "runs")
    until(lambda: again.line.value == dashboard.line.value)


def test_a_run_whose_history_has_no_row_yet_is_drawn_without_it(tmp_path: Path) -> None:
    for run in run_experiment(SMALL, [1, 2], tmp_path, device="cpu").values():
        if run.seed == 2:
            (run.path / "history.csv").write_text((run.path / "history.csv").read_text().splitlines()[0] + "\n")
    said = draw_runs(load_runs(tmp_path)).alt
    assert "seed 1, epoch 2" in said
    assert "seed 2" not in said
    (tmp_path / "seed=1" / "history.csv").write_text((tmp_path / "seed=2" / "history.csv").read_text())
    assert "No epoch yet" in draw_runs(load_runs(tmp_path)).alt


def test_a_dashboard_can_be_ended(tmp_path: Path) -> None:
    dashboard = watch(tmp_path / "nothing", seconds=0.25)
    dashboard.stop.click()
    assert dashboard._thread is not None
    dashboard._thread.join(10)
    assert not dashboard._thread.is_alive()
    with pytest.raises(RunError, match="at least"):
        watch(tmp_path, seconds=0.1)


# The schedule designer


@pytest.mark.parametrize("mode", ["lagged_after_warmup", "linear_warmup", "jump", "constant", "off"])
def test_the_designer_previews_every_mode(mode: str, tmp_path: Path) -> None:
    designer = ScheduleDesigner(folder=tmp_path)
    before = designer.preview.value
    designer.mode.value, designer.warmup.value, designer.end.value = mode, 30, 0.25
    assert designer.alert.value == ""
    assert designer.config.beta.B.mode == mode
    assert designer.preview.value != before
    expected = {"lagged_after_warmup": 0.0, "linear_warmup": 0.25 * 29 / 30, "jump": 0.0, "constant": 0.25, "off": 0.0}
    assert designer.config.betas(29)[1] == pytest.approx(expected[mode])


def test_an_untouched_designer_describes_v55(tmp_path: Path) -> None:
    designer = ScheduleDesigner(folder=tmp_path)
    ours, v55 = designer.config, load_config("v5_5")
    for epoch in range(120):
        assert ours.betas(epoch) == v55.betas(epoch)
        assert ours.temperatures(epoch) == v55.temperatures(epoch)
        assert ours.lr(epoch) == pytest.approx(v55.lr(epoch), rel=3e-3)


def test_a_stopped_training_continues_to_the_same_bits(tmp_path: Path) -> None:
    designer = ScheduleDesigner(SMALL, folder=tmp_path / "designed")
    designer.epochs.value, designer.seeds.value = 30, 2
    config = designer.config
    designer.train.click()
    assert designer.train.disabled
    until(lambda: designer.dashboard is not None)
    designer.stop.click()
    wait(designer)
    assert not designer.train.disabled
    assert "kept in" in designer.status.value
    assert designer.alert.value == ""
    run_dir = designer.run_dir
    for _ in range(40):
        designer.train.click()
        wait(designer)
        if "finished" in designer.status.value:
            break
    whole = run_experiment(config, [42, 43], tmp_path / "whole", device="cpu")
    for seed, run in whole.items():
        ours = run_dir / f"seed={seed}" / "checkpoints" / "latest.safetensors"
        theirs = run.path / "checkpoints" / "latest.safetensors"
        a, b = (load_model(path).core.blocks for path in (ours, theirs))
        assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_a_training_that_cannot_be_kept_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    designer = ScheduleDesigner(SMALL, folder=tmp_path / "file")
    designer.train.click()
    wait(designer)
    assert "file" in designer.alert.value
    assert not designer.train.disabled


def test_pictures_are_whole(explorer: Explorer) -> None:
    """The still picture of a view is None or a figure that can be drawn."""
    explorer.selection.operations = (KLEENE_AND, KLEENE_OR)
    drawn = 0
    for view in views(explorer):
        still = view.picture()
        if still is not None:
            assert render(still.figure, "png")
            assert len(still.alt) > 40
            assert len(still.data) > 0
            drawn += 1
    assert drawn >= 5
