"""Figures of histories, reproducible files, galleries and their manifest."""

from __future__ import annotations

import hashlib
import html
import json
import re
import threading
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
import torch
from matplotlib import pyplot

from ternary_lab import InputError, RunError, figures, load_config, load_run, load_runs, space, train
from ternary_lab.figures import (
    FIGURES,
    Animation,
    Gallery,
    disruption,
    draw_all,
    draw_history,
    epoch_entropy,
    render,
    save,
    truth_tables,
)
from ternary_lab.figures.codes import entry_name
from ternary_lab.figures.history import coverages, overview
from ternary_lab.figures.style import RC, style
from ternary_lab.runs.provenance import source_hash

SMALL = {
    "data.batch_size": 2048, "training.total_epochs": 6, "evaluation.coverage_samples": 2000, "evaluation.latents": 64,
    "checkpoints.every": 0,
}


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    return pd.DataFrame([asdict(r) for r in train(load_config("quick", SMALL), [1, 2], device="cpu")])


@pytest.mark.parametrize("name", [*FIGURES, "overview"])
def test_a_figure_draws_one_run_and_several(name: str, history: pd.DataFrame) -> None:
    config = load_config("quick", SMALL)
    for rows, seeds in ((history[history["seed"] == 1], [1]), (history, [1, 2])):
        drawing = (overview if name == "overview" else FIGURES[name])(rows, config)
        assert drawing.figure.axes
        assert drawing.alt.endswith(".")
        assert len(drawing.alt) > 60
        assert "nan" not in drawing.alt
        assert drawing.seeds == seeds
        assert len(drawing.data) == len(rows)


def test_losses_are_enlarged_only_if_there_are_more_epochs(history: pd.DataFrame) -> None:
    config = load_config("quick", SMALL)
    short, long = FIGURES["loss"](history, config), FIGURES["loss"](load_runs("v5_5").history, load_config("v5_5"))
    assert [len(drawing.figure.axes) for drawing in (short, long)] == [1, 2]
    assert short.alt.startswith("A line chart")
    assert long.alt.startswith("Two line charts")


@pytest.mark.parametrize("latents", [64, 65_536])
def test_the_ceiling_of_effective_coverage_is_drawn_if_it_is_below_the_space(
    latents: int, history: pd.DataFrame
) -> None:
    drawing = FIGURES["coverage"](history, load_config("quick", {**SMALL, "evaluation.latents": latents}))
    labels = [line.get_label() for line in drawing.figure.axes[2].lines if str(line.get_label()).startswith("ceiling")]
    assert labels == (["ceiling M/N without correction, 0.3 %"] if latents < space.SIZE else [])
    assert ("cannot exceed" in drawing.alt) == bool(labels)


def test_the_figure_of_coverages_shows_the_named_quantities_only(history: pd.DataFrame) -> None:
    config = load_config("quick", {**SMALL, "evaluation.latents": 64})
    drawing = coverages(history, config, kinds=("coverage", "informative_coverage"))
    assert [axis.get_title(loc="left").split(",")[0] for axis in drawing.figure.axes] == [
        "sampled coverage", "informative coverage",
    ]
    assert not any(str(column).startswith("effective") for column in drawing.data)
    assert "cannot exceed" not in drawing.alt


@pytest.mark.parametrize("lowest", [-0.05, 0.01])
def test_the_scale_of_a_negative_loss_is_named(lowest: float, history: pd.DataFrame) -> None:
    drawing = FIGURES["loss"](history.assign(train_loss=lowest), load_config("quick", SMALL))
    (whole, *_) = drawing.figure.axes
    assert whole.get_yscale() == ("symlog" if lowest < 0 else "log")
    assert ("linear to ±0.1" in whole.get_title(loc="left")) == (lowest < 0)


def test_a_history_without_epochs_has_no_figure(history: pd.DataFrame) -> None:
    with pytest.raises(RunError, match="no epoch to draw"):
        FIGURES["loss"](history.iloc[:0], load_config("quick", SMALL))


def test_drawing_leaves_pyplot_and_the_users_settings_alone(history: pd.DataFrame) -> None:
    before = dict(matplotlib.rcParams)
    for name in FIGURES:
        render(FIGURES[name](history, load_config("quick", SMALL)).figure)
    assert dict(matplotlib.rcParams) == before


def test_two_threads_draw_one_after_the_other_and_leave_the_users_settings() -> None:
    before, inside, leave, order = dict(matplotlib.rcParams), threading.Event(), threading.Event(), []

    def draw(name: str) -> None:
        with style():
            order.append(name)
            inside.set()
            assert leave.wait(30)
            with style():
                order.append(matplotlib.rcParams["font.size"] == RC["font.size"])
        order.append(name)

    threads = [threading.Thread(target=draw, args=(name,)) for name in ("first", "second")]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    threads[1].join(0.2)
    assert order == ["first"]
    leave.set()
    for thread in threads:
        thread.join(30)
    assert order.count(True) == 2
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def test_the_disruption_is_where_beta_b_leaves_zero(history: pd.DataFrame) -> None:
    assert disruption(history) == 4
    assert disruption(history[history["epoch"] < 4]) is None


def test_the_expected_entropy_of_an_epoch_counts_its_small_last_batch() -> None:
    assert epoch_entropy(load_config("v5_5")) == pytest.approx(3.155, abs=0.004)


@pytest.mark.parametrize("names", [("loss", "statenet"), pytest.param(tuple(FIGURES), marks=pytest.mark.slow)])
def test_drawing_twice_gives_the_same_bytes_and_the_manifest_names_them(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FIGURES", {name: FIGURES[name] for name in names})
    runs = load_run("v5_5/seed=42")
    first, second = ({p.name: p.read_bytes() for p in draw_all(runs, tmp_path / d)} for d in ("a", "b"))
    assert first == second
    assert {Path(name).suffix for name in first} == {".pdf", ".svg", ".png", ".csv"}
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert set(manifest) == set(names)
    for entry in manifest.values():
        assert entry["seeds"] == [42]
        assert entry["source_sha256"] == source_hash()
        for name, digest in entry["files"].items():
            assert hashlib.sha256(first[name]).hexdigest() == digest
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The HTML that is displayed."""
    pages: list[str] = []
    monkeypatch.setattr(save, "_display", pages.append)
    return pages


def test_a_gallery_shows_a_figure_and_saves_it_if_it_has_a_folder(tmp_path: Path, shown: list[str]) -> None:
    run = load_run("v5_5/seed=42")
    Gallery("", "02_train.ipynb").show("kl", draw_history("kl", run))
    assert not list(tmp_path.iterdir())
    folder = tmp_path / "figures"
    Gallery(folder, "02_train.ipynb", {"runs": "v5_5"}).show("kl", draw_history("kl", run))
    assert [page.count("<img alt=") for page in shown] == [1, 1]
    assert html.escape(draw_history("kl", run).alt) in shown[1]
    (entry,) = json.loads((folder / "manifest.json").read_text()).values()
    assert (entry["notebook"], entry["parameters"], entry["seeds"]) == ("02_train.ipynb", {"runs": "v5_5"}, [42])
    assert set(entry["files"]) == {f"kl.{kind}" for kind in ("pdf", "svg", "png", "csv")}


def test_a_saved_figure_is_the_same_whether_it_is_shown_or_not(tmp_path: Path, shown: list[str]) -> None:
    run = load_run("v5_5/seed=42")
    drawing = draw_history("kl", run)
    Gallery("", "").show("kl", drawing)
    Gallery(tmp_path / "shown", "a").show("kl", draw_history("kl", run))
    Gallery(tmp_path / "saved", "a").save("kl", draw_history("kl", run))
    for path in (tmp_path / "saved").iterdir():
        assert (tmp_path / "shown" / path.name).read_bytes() == path.read_bytes()


def test_a_gallery_keeps_its_other_figures_and_names_seeds_for_data_without_them(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, "01_ternary_space.ipynb", seeds=[7])
    gallery.save("named", truth_tables({"zero": torch.zeros(9)}))
    gallery.save("moving", Animation(b"GIF89a", "Points move.", [42]))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {name: entry["seeds"] for name, entry in manifest.items()} == {"named": [7], "moving": [42]}
    assert (tmp_path / "moving.gif").read_bytes() == b"GIF89a"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_manifest_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"manifest\.json"):
        Gallery(tmp_path, "").save("named", truth_tables({"zero": torch.zeros(9)}))


def test_a_truth_table_shows_its_entries() -> None:
    drawing = truth_tables({"projection b": space.operations(torch.tensor(space.named()["projection b"]))})
    (axis,) = drawing.figure.axes
    assert [text.get_text() for text in axis.texts] == ["-1", "0", "+1"] * 3
    assert drawing.data["operation"].tolist() == [space.named()["projection b"]]
    with pytest.raises(InputError):
        truth_tables({"wrong": torch.full((9,), 2.0)})


def test_long_titles_of_truth_tables_do_not_overlap_and_the_arguments_are_named() -> None:
    drawing = truth_tables({f"draw {i}: operation 1120{i}": torch.zeros(9) for i in range(5)})
    drawing.figure.draw_without_rendering()
    boxes = [axis.title.get_window_extent() for axis in drawing.figure.axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert boxes[0].x0 >= 0
    assert boxes[-1].x1 <= drawing.figure.bbox.width
    assert {(axis.get_xlabel(), axis.get_ylabel()) for axis in drawing.figure.axes} == {("b", "a")}


def test_the_name_of_an_entry_has_the_arguments_of_its_place_in_the_table() -> None:
    for k in range(space.ENTRIES):
        a, b = ({"−": -1, "0": 0, "+": 1}[sign] for sign in entry_name(k)[2:5:2])
        marked = space.from_function(lambda x, y, at=(a, b): int((x, y) == at))  # type: ignore[misc]
        assert marked.nonzero().flatten().tolist() == [k]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        draw_all(load_runs("v5_5"), tmp_path / "file" / "figures")


ROOT = Path(__file__).parents[2]
MANIFEST = json.loads((ROOT / "figures" / "manifest.json").read_text())


def test_the_published_figures_are_those_that_notebooks_show_and_histories_have() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")]
    shown = [name for text in texts for name in re.findall(r'gallery\.show\(\\"(\w+)', text)]
    assert len(set(shown)) == len(shown) > 25
    assert set(MANIFEST) == {*FIGURES, *shown, "epoch50"}
    rows = pd.read_csv(ROOT / "figures" / "loss.csv")
    history = load_runs("v5_5").history
    last = history.groupby("seed")["epoch"].max().min()  # A figure ends where the first run ends.
    assert rows["epoch"].max() == last
    assert rows["train_loss"].tolist() == history.loc[history["epoch"] <= last, "train_loss"].tolist()


@pytest.mark.parametrize("name", MANIFEST)
def test_a_published_figure_is_intact_and_described(name: str) -> None:
    for file, digest in MANIFEST[name]["files"].items():
        content = (ROOT / "figures" / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, file
        assert not file.endswith(".csv") or len(content.splitlines()) > 1
    assert len(MANIFEST[name]["alt"]) > 40
    assert "nan" not in MANIFEST[name]["alt"].split()
