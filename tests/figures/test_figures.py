"""Figures: drawn from any history, the same bytes twice, and a manifest that tells the truth."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from studies import studies

from ternary_lab import RunError, figures, load_config, load_run, load_runs, train
from ternary_lab.figures import FIGURES, disruption, draw_all, epoch_entropy
from ternary_lab.runs.provenance import source_hash
from ternary_lab.studies.report.draw import REPORT

SMALL = {
    "data.batch_size": 2048, "training.total_epochs": 6, "evaluation.coverage_samples": 2000, "evaluation.latents": 64,
    "checkpoints.every": 0,
}


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    return pd.DataFrame([asdict(r) for r in train(load_config("quick", SMALL), [1, 2], device="cpu")])


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_one_run_and_several(name: str, history: pd.DataFrame) -> None:
    config = load_config("quick", SMALL)
    for rows in (history[history["seed"] == 1], history):
        assert isinstance(FIGURES[name].figure(rows, config), Figure)
        words = FIGURES[name].alt(rows, config)
        assert len(words) > 20
        assert "nan" not in words


def test_axes_that_are_given_are_drawn_on(history: pd.DataFrame) -> None:
    from ternary_lab.figures.history import kl

    figure = Figure()
    axes = figure.subplots()
    artists = kl(history, load_config("quick", SMALL), axes)
    assert isinstance(axes, Axes)
    assert artists
    assert all(artist.figure is figure for artist in artists)


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


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        draw_all(load_runs("v5_5"), tmp_path / "file" / "figures")


def test_the_published_figures_are_those_of_the_published_run() -> None:
    folder = Path(__file__).parents[2] / "figures"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == {*FIGURES, *REPORT, *studies(), "epoch50"}
    for entry in manifest.values():
        for name, digest in entry["files"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    rows = pd.read_csv(folder / "loss.csv")
    published = load_runs("v5_5").history
    assert rows["train_loss"].tolist() == published["train_loss"].tolist()
