"""Tests of the widgets in the kernel: contents, error messages, pictures and memory.

`test_browser.py` tests them in a browser.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pytest
import torch
from small import SMALL

from ternary_lab import load_config, load_model, run_experiment, space
from ternary_lab.errors import InputError, RunError
from ternary_lab.explorer import Dashboard, Explorer, ScheduleDesigner, StillMap, TwoMaps, watch
from ternary_lab.explorer.view import View
from ternary_lab.figures.live import draw_runs, draw_schedules
from ternary_lab.figures.save import render
from ternary_lab.metrics.codes import all_codes
from ternary_lab.page.data import bundle
from ternary_lab.runs.load import PUBLISHED, RunRecord, load_run, load_runs, published

RUN, PRODUCT = "v5_5/seed=42", 15665


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, RunRecord]:
    """Return two small runs that keep the weights of epochs 0 and 2."""
    return run_experiment(SMALL, [1, 2], tmp_path_factory.mktemp("small"), device="cpu")


@pytest.fixture(scope="module")
def shown(runs: dict[int, RunRecord]) -> Explorer:
    """Return an explorer of the first run for tests that do not change the run."""
    explorer = Explorer(runs[1])
    explorer.wait()
    return explorer


@pytest.fixture
def explorer(runs: dict[int, RunRecord]) -> Explorer:
    explorer = Explorer(runs[1])
    explorer.wait()
    return explorer


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


# The page of a run


def test_the_page_has_the_header_and_the_parts_of_the_run(shown: Explorer, runs: dict[int, RunRecord]) -> None:
    expected = bundle(runs[1])
    assert shown.page is not None
    assert shown.page.header == expected.header
    assert shown.page.parts == expected.parts
    assert (shown.alert.value, shown.status.value) == ("", "")


def test_python_and_the_page_share_the_state(explorer: Explorer) -> None:
    page = explorer.page
    assert page is not None
    assert (page.epoch, page.pathway, page.chosen) == (2, "B", [])
    assert (explorer.epoch, explorer.pathway, explorer.chosen) == (2, "B", [])
    explorer.epoch, explorer.pathway, explorer.chosen = 0, "A", [PRODUCT, 3]
    assert (page.epoch, page.pathway, page.chosen) == (0, "A", [PRODUCT, 3])
    page.epoch, page.pathway, page.chosen = 2, "B", [7]
    assert (explorer.epoch, explorer.pathway, explorer.chosen) == (2, "B", [7])


def test_a_state_set_before_the_page_appears_is_that_of_the_page(runs: dict[int, RunRecord]) -> None:
    explorer = Explorer(runs[1])
    explorer.epoch, explorer.chosen = 0, [PRODUCT]
    explorer.wait()
    assert explorer.page is not None
    assert (explorer.page.epoch, explorer.page.chosen) == (0, [PRODUCT])


def test_an_epoch_without_weights_becomes_the_nearest_that_has_some(shown: Explorer) -> None:
    for epoch, nearest in ((-5, 0), (1000, 2), (0, 0), (2.0, 2)):
        shown.epoch = epoch
        assert shown.epoch == nearest


@pytest.mark.parametrize("chosen", [[space.SIZE], [-1], [1.5], ["product"], [None]])
def test_what_is_no_operation_cannot_be_chosen(shown: Explorer, chosen: list[object]) -> None:
    with pytest.raises(InputError, match=r"must be whole numbers in 0\.\.19682"):
        shown.chosen = chosen


def test_another_run_takes_the_place_of_the_page(explorer: Explorer, runs: dict[int, RunRecord]) -> None:
    first, explorer.chosen = explorer.page, [PRODUCT]
    explorer.directory.value = str(runs[2].path)
    explorer.wait()
    assert first is not None
    assert explorer.page is not None
    assert explorer.page.header["seed"] == 2
    assert (explorer.epoch, explorer.chosen) == (2, [])
    assert first.comm is None  # the browser forgets the closed page
    first.epoch = 0
    assert explorer.epoch == 2


def test_the_runs_to_choose_from_are_those_with_weights(shown: Explorer) -> None:
    assert RUN in shown.choice.options
    assert all(load_run(name).epochs for name in shown.choice.options)


def test_a_missing_run_is_named_in_one_line_and_another_can_be_chosen(runs: dict[int, RunRecord]) -> None:
    explorer = Explorer("no/such/run")
    said = explorer.alert.value
    assert "no/such/run" in said
    assert "choose another run above" in said
    assert said.count("seed=") <= 3  # not all published runs
    assert explorer.page is None
    assert explorer.picture() is None
    explorer.directory.value = str(runs[1].path)
    explorer.wait()
    assert explorer.alert.value == ""
    assert explorer.page is not None


def test_a_run_without_weights_is_refused_in_one_line() -> None:
    name = next(name for name in published() if not load_run(name).epochs)
    assert "holds no weights" in Explorer(name).alert.value


def test_a_damaged_checkpoint_is_named_and_the_page_before_stays(explorer: Explorer, tmp_path: Path) -> None:
    before = explorer.page
    run = tmp_path / "seed=42"
    shutil.copytree(PUBLISHED / RUN, run)
    (run / "checkpoints" / "epoch_0000.safetensors").write_bytes(b"rotten")
    explorer.directory.value = str(run)
    explorer.wait()
    assert "epoch_0000.safetensors" in explorer.alert.value
    assert explorer.page is before


def test_two_maps_are_one_page_with_both_runs(runs: dict[int, RunRecord]) -> None:
    maps = TwoMaps(runs[1], runs[2])
    maps.wait()
    assert maps.alert.value == ""
    assert maps.page is not None
    assert (maps.page.header["seed"], maps.page.second_header["seed"]) == (1, 2)
    assert maps.page.parts == bundle(runs[1], prior=False).parts
    assert maps.page.second_parts == bundle(runs[2], prior=False).parts
    with pytest.raises(RunError, match="nowhere"):
        TwoMaps(runs[1], "nowhere")


# Pictures


def whole(view: View) -> bool:
    """Return whether nothing of the view's picture is cut off."""
    still = view.picture()
    assert still is not None
    assert render(still.figure, "png")
    assert len(still.alt) > 40
    assert len(still.data) > 0
    box, size = still.figure.get_tightbbox(), still.figure.get_size_inches()
    return bool((box.min > -0.02).all() and (box.max < size + 0.02).all())


def test_pictures_are_whole(shown: Explorer, runs: dict[int, RunRecord], tmp_path: Path) -> None:
    shown.chosen = [PRODUCT]
    assert whole(shown)
    assert whole(TwoMaps(runs[1], runs[2]))
    assert whole(Dashboard(runs[1].path.parent))
    assert whole(ScheduleDesigner(folder=tmp_path))


def test_the_picture_shows_the_codes_in_the_plane_of_two_entries(
    shown: Explorer, runs: dict[int, RunRecord]
) -> None:
    shown.epoch = 0
    still = shown.picture()
    assert still is not None
    across, up = StillMap(runs[1]).entries
    x = space.operations()
    for i, (name, table) in enumerate(still.data.groupby("map")):
        assert name == f"pathway {'AB'[i]}, epoch 0"
        mu = all_codes(runs[1].model(0).core)[0][i, 0].double()
        steps = [mu[x[:, k] == 1].mean(0) - mu[x[:, k] == -1].mean(0) for k in (across, up)]
        slow = torch.stack([(mu - mu.mean(0)) @ (step / step.norm()) for step in steps], 1)
        np.testing.assert_allclose(table[["x", "y"]].to_numpy(), slow.numpy(), atol=1e-5)
    assert shown.page is not None
    assert shown.page.header["default_entries"] == [across, up]


def test_a_notebook_stores_the_picture_and_not_the_page(shown: Explorer) -> None:
    stored = shown._repr_mimebundle_()
    assert stored["text/html"].startswith("<img alt=")
    assert sum(len(str(content)) for content in stored.values()) < 2**20
    assert Explorer("no/such/run")._repr_mimebundle_()["text/html"] == "<p>Latent explorer: needs a browser.</p>"


def test_every_control_says_what_it_is(shown: Explorer, tmp_path: Path) -> None:
    """A control without a description has no name for a screen reader."""
    views = (shown, ScheduleDesigner(folder=tmp_path), Dashboard("nowhere"))
    controls = [
        widget for view in views for widget in descendants(view)
        if isinstance(widget, ipywidgets.widgets.widget_description.DescriptionWidget | ipywidgets.Button)
        and not isinstance(widget, ipywidgets.HTML)
    ]
    assert len(controls) > 15
    assert [type(control).__name__ for control in controls if not control.description] == []


# Errors and background work


def test_an_unexpected_error_is_on_the_page_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise KeyError("<gone>")

    view = View()
    view.guard(broken)()
    assert "KeyError: &#x27;&lt;gone&gt;&#x27;" in view.alert.value
    assert 'role="alert"' in view.alert.value
    assert "Traceback" in caplog.text
    view.guard(lambda: None)()
    assert view.alert.value == ""


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

    view.in_background("first", first, shown.append)
    assert begun.wait(30)
    for name in ("second", "third"):
        view.in_background(name, partial(another, name), shown.append)
    gate.set()
    view.wait()
    assert done == shown == ["third"]
    assert view.status.value == ""


def test_an_error_in_slow_work_is_on_the_page() -> None:
    view = View()
    view.in_background("working", lambda: 1 / 0, print)
    view.wait()
    assert "ZeroDivisionError" in view.alert.value
    assert view.status.value == ""


# Memory


def test_the_parts_of_a_page_that_is_left_are_freed(explorer: Explorer, runs: dict[int, RunRecord]) -> None:
    """The parts of v5.5 take 9 MB."""
    pages, widgets = [explorer.page], len(_all_widgets())
    for seed in (2, 1):
        explorer.explore(runs[seed])
        explorer.wait()
        explorer.chosen = [PRODUCT]
        assert explorer.picture() is not None
        pages.append(explorer.page)
    assert [bool(page and page.parts) for page in pages] == [False, False, True]
    assert len(_all_widgets()) == widgets
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def _all_widgets() -> list[object]:
    from ipywidgets.widgets import widget

    return list(widget._instances)


# The dashboard


def test_a_dashboard_waits_for_a_run_follows_it_and_ends_with_it(tmp_path: Path) -> None:
    dashboard = watch(tmp_path / "runs", seconds=0.25)
    until(lambda: f"waiting for {tmp_path / 'runs'} …" in dashboard.status.value)
    assert (dashboard.alert.value, dashboard.line.value) == ("", "")
    assert dashboard.stop.layout.display is None
    run_experiment(SMALL, [1, 2], tmp_path / "runs", device="cpu")
    assert dashboard._thread is not None
    dashboard._thread.join(30)
    assert not dashboard._thread.is_alive()
    assert (dashboard.alert.value, dashboard.status.value) == ("", "")
    assert dashboard.stop.layout.display == "none"
    assert dashboard.progress.value == dashboard.progress.max == SMALL.training.total_epochs
    assert "seed=2: 3 epochs" in dashboard.line.value
    assert "seed 2, epoch 2" in dashboard.curves.value
    again = Dashboard(tmp_path / "runs")
    until(lambda: again.line.value == dashboard.line.value)


def test_a_dashboard_waits_for_the_first_epoch_of_a_run(runs: dict[int, RunRecord], tmp_path: Path) -> None:
    """Training writes the settings of a run, and then its first epoch."""
    shutil.copytree(runs[1].path, tmp_path / "seed=1")
    (tmp_path / "seed=2").mkdir()
    for name in ("config.yaml", "provenance.json"):
        shutil.copy(runs[2].path / name, tmp_path / "seed=2")
    dashboard = Dashboard(tmp_path)
    dashboard.end()
    assert dashboard.update() is False
    assert "waiting for the first epoch of seed=2 …" in dashboard.status.value
    assert "seed=1: 3 epochs" in dashboard.line.value
    assert dashboard.alert.value == ""


def test_a_dashboard_shows_the_last_values_the_speed_and_the_time_to_go(tmp_path: Path) -> None:
    config = load_config(SMALL.as_dict(), {"training.total_epochs": 300})
    (run,) = run_experiment(config, [1], tmp_path, device="cpu", stop=lambda: True).values()
    rows = run.history
    seconds = rows[["seconds_train", "seconds_eval"]].sum(axis=1).mean()
    dashboard = Dashboard(tmp_path)
    until(lambda: dashboard.line.value)
    dashboard.end()
    last, said = rows.iloc[-1], dashboard.line.value
    for words in (
        f"loss {last['train_loss']:.3f}", f"validation loss {last['val_loss']:.3f}", f"{seconds:.2g} s an epoch",
        f"{last['informative_coverage_A']:.2f} % (A)", f"{last['informative_coverage_B']:.2f} % (B)",
        "to go to epoch 299 at most",
    ):
        assert words in said
    assert dashboard.progress.max == 300


def test_a_dashboard_marks_the_epochs_at_which_a_schedule_changes() -> None:
    dashboard = Dashboard(PUBLISHED / RUN)
    until(lambda: dashboard.line.value)
    assert "epoch 50, β_B leaves 0" in dashboard.line.value
    assert "epoch 120" not in dashboard.line.value  # the run ended before
    still = dashboard.picture()
    assert still is not None
    for axis in still.figure.axes:
        at = [line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == ":"]
        assert 50 in at
        assert max(at) < 104


def test_curves_tell_seeds_apart_and_a_jump_of_the_loss_does_not_flatten_the_rest(runs: dict[int, RunRecord]) -> None:
    figure = draw_runs(runs).figure
    for axis in figure.axes:
        markers = [line.get_marker() for line in axis.lines]
        assert len(set(markers)) == len(runs)
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == ["seed 1", "seed 2"]
    figure = draw_runs({42: load_run(RUN)}).figure
    figure.draw_without_rendering()
    axis = figure.axes[0]
    heights = axis.transAxes.inverted().transform(axis.transData.transform([(0, 1.0), (0, 1.5), (0, 15.0)]))[:, 1]
    assert heights[1] - heights[0] > 0.03  # on a linear scale up to 15 it would be less
    assert heights[2] < 1
    figure = draw_runs(runs).figure  # of losses that hardly change
    low, high = figure.axes[0].get_ylim()
    assert sum(low <= tick <= high for tick in figure.axes[0].get_yticks()) >= 3


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


def test_the_default_training_of_the_designer_reaches_the_jump(tmp_path: Path) -> None:
    designer = ScheduleDesigner(folder=tmp_path)
    assert designer.config.betas(designer.epochs.value - 1)[1] > 0
    assert designer.note.value == ""
    designer.warmup.value = 90
    assert "leaves 0 at epoch 90, after the last epoch to train" in designer.note.value
    designer.epochs.value = 91
    assert designer.note.value == ""


@pytest.mark.parametrize("rates", [{0: 1e-3, 50: 5e-4}, {0: 1e-3}, {0: 1e-2, 20: 1e-4}])
def test_every_learning_rate_of_the_preview_has_a_label(rates: dict[int, float]) -> None:
    axis = draw_schedules(load_config("v5_5", {"optimiser.lr_steps": rates})).figure.axes[3]
    axis.figure.draw_without_rendering()
    labels = [label.get_text() for label in axis.get_yticklabels() if label.get_text()]
    assert [float(label) for label in labels] == sorted(rates.values())


def test_a_cosine_has_round_learning_rates_as_labels() -> None:
    axis = draw_schedules(load_config("v5_5", {"optimiser.lr_decay": "cosine"})).figure.axes[3]
    low, high = axis.get_ylim()
    shown = [tick for tick in axis.get_yticks() if low <= tick <= high]
    assert len(shown) >= 3


def test_what_was_trained_opens_in_the_explorer_by_a_click(tmp_path: Path) -> None:
    designer = ScheduleDesigner(SMALL, folder=tmp_path)
    designer.epochs.value, designer.seeds.value = 2, 2
    designer.train.click()
    wait(designer)
    assert [button.description for button in designer.openers.children] == [
        "open seed 42 in the explorer", "open seed 43 in the explorer",
    ]
    for seed, button in zip((42, 43), designer.openers.children, strict=True):
        button.click()
        assert designer.explorer is not None
        designer.explorer.wait()
        assert designer.explorer.page is not None
        assert designer.explorer.page.header["seed"] == seed
    assert len(designer.explorer_box.children) == 1


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


