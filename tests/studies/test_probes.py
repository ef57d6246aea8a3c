"""Probes of a run's weights, and the publishing of runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from publish import WEIGHTS, publish
from small import SMALL

from ternary_lab import RunError, load_run, load_runs, run_experiment, space
from ternary_lab.cli import main
from ternary_lab.metrics.baselines import untrained
from ternary_lab.metrics.codes import code_cross_entropy, code_sizes, linear_cka
from ternary_lab.runs.checksums import json_with_checksum
from ternary_lab.runs.load import PUBLISHED, published
from ternary_lab.studies.probes import probe, probe_run, write_probes

pytestmark = pytest.mark.usefixtures("one_thread")


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
def test_cka_does_not_depend_on_rotation_scale_and_shift(seed: int, scale: float, shift: float) -> None:
    a, b = _random(seed, 40, 5), _random(seed + 1, 40, 7)
    rotation, _ = torch.linalg.qr(_random(seed + 2, 5, 5))
    assert float(linear_cka(a, scale * a @ rotation + shift)) == pytest.approx(1, abs=1e-6)
    assert float(linear_cka(scale * a @ rotation + shift, b)) == pytest.approx(float(linear_cka(a, b)), abs=1e-6)
    assert 0 <= float(linear_cka(a, b)) <= 1


def test_cka_by_kernels_and_of_independent_codes() -> None:
    a, b = _random(1, 60, 4), _random(2, 60, 3)
    centre = torch.eye(60, dtype=torch.float64) - 1 / 60
    k, q = centre @ (a @ a.T) @ centre, centre @ (b @ b.T) @ centre
    expected = (k * q).sum() / (k.square().sum() * q.square().sum()).sqrt()
    assert float(linear_cka(a, b)) == pytest.approx(float(expected))
    assert float(linear_cka(_random(3, 20_000, 4), _random(4, 20_000, 4))) < 0.01
    assert torch.isnan(linear_cka(torch.ones(10, 2), a[:10]))


def test_code_sizes_equal_those_of_single_operations() -> None:
    model = untrained(3)
    x = space.operations(torch.arange(0, space.SIZE, 997))
    sizes = code_sizes(*model.core.encode(x.unsqueeze(0)))
    for i, pathway in enumerate("AB"):
        posterior = model.encode(x, pathway)  # type: ignore[arg-type]
        assert float(sizes["kl"][i, 0]) == pytest.approx(float(posterior.kl().mean()), rel=1e-5)
        assert float(sizes["norm"][i, 0]) == pytest.approx(float((posterior.mean**2).sum(-1).mean() ** 0.5), rel=1e-5)
        assert float(sizes["sigma"][i, 0]) == pytest.approx(float(posterior.std.mean()), rel=1e-5)
        assert float(sizes["variance_min"][i, 0]) == pytest.approx(float(posterior.mean.var(0).min()), rel=1e-4)


def test_injecting_everything_decodes_the_other_code() -> None:
    model = load_run("v5_5/seed=42").model(60)
    x = space.operations(torch.arange(0, space.SIZE, 97)).unsqueeze(0)
    own, other = (code_cross_entropy(model.core, model.core.encode(x)[0], x, rho) for rho in (0.0, 1.0))
    mean_a, mean_b = (model.encode(x[0], p).mean for p in "AB")  # type: ignore[arg-type]
    log_p = torch.log_softmax(model.decode(mean_b, "A"), -1).gather(-1, (x[0] + 1).long().unsqueeze(-1)).sum((1, 2))
    assert float(other[0, 0]) == pytest.approx(-float(log_p.mean()), rel=1e-4)
    log_p = torch.log_softmax(model.decode(mean_a, "A"), -1).gather(-1, (x[0] + 1).long().unsqueeze(-1)).sum((1, 2))
    assert float(own[0, 0]) == pytest.approx(-float(log_p.mean()), rel=1e-3)


def test_more_draws_cover_more_and_sets_add_up() -> None:
    row = probe(untrained(1).core, 0.1, space.split(42))
    for p in "AB":
        assert row[f"coverage_10000_{p}"] < row[f"coverage_50000_{p}"] < row[f"coverage_195000_{p}"] <= 100
    a, b = row["coverage_195000_A"], row["coverage_195000_B"]
    assert max(a, b) <= row["union"] <= min(100, a + b)
    assert row["jaccard"] == pytest.approx((a + b - row["union"]) / row["union"], abs=1e-6)


def test_a_run_is_probed_at_the_epochs_with_kept_weights(tmp_path: Path) -> None:
    run = run_experiment(SMALL, [1], tmp_path, device="cpu")[1]
    assert run.probes is None
    table = probe_run(run)
    assert list(table["epoch"]) == run.epochs == [0, 2]
    assert list(probe_run(run, every=2)["epoch"]) == [0, 2]
    assert list(probe_run(run, every=3)["epoch"]) == [0]
    assert list(table["seed"]) == [1, 1]
    write_probes(run)
    kept = run.probes
    assert kept is not None
    pd.testing.assert_frame_equal(kept, table, rtol=1e-6, check_dtype=False)
    result = CliRunner().invoke(main, ["probe", str(tmp_path)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(run.path / "probes.csv"))


# Publishing


def test_a_published_run_reads_like_its_original(tmp_path: Path) -> None:
    run = run_experiment(SMALL, [1], tmp_path / "runs", device="cpu")[1]
    write_probes(run)
    copy = publish(run, tmp_path / "out", [0, "latest"])
    pd.testing.assert_frame_equal(copy.history, run.history)
    assert copy.config == run.config
    assert copy.provenance == run.provenance
    assert copy.epochs == [0]
    assert copy.checkpoint().state is None
    x = space.operations()[:50]
    assert torch.equal(copy.model(0).encode(x).mean, run.model(0).encode(x).mean)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    publish(run, tmp_path / "again", [0, "latest"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").rglob("*") if path.is_file()} == first


def test_an_unfinished_run_is_not_published(tmp_path: Path) -> None:
    run = run_experiment(SMALL, [1], tmp_path / "runs", device="cpu")[1]
    (run.path / "provenance.json").write_bytes(json_with_checksum({**run.provenance, "stopped": None}))
    with pytest.raises(RunError, match="not finished"):
        publish(run, tmp_path / "out")


def test_the_published_runs_are_complete_and_small() -> None:
    def size(*parts: str) -> int:
        return sum(path.stat().st_size for part in parts for path in (PUBLISHED / part).rglob("*") if path.is_file())

    assert size("v5_5") < 25 * 2**20
    assert size("counterfactuals") < 8e6
    assert size("v5_5_full", "generalisation") < 5 * 2**20
    assert size("beyond") < 6e6
    assert size("ablations", "variants") < 1.5 * 2**20
    runs = load_runs("v5_5")
    assert len(runs) >= 8
    for seed, run in runs.items():
        assert run.stopped is not None
        assert run.probes is not None
        assert {*run.epochs} == {e for e in WEIGHTS["v5_5"].get(seed, ()) if isinstance(e, int)}
    assert {*range(45, 56), 69, *range(0, 101, 10)} == {*runs[42].epochs}
    assert runs[42].checkpoint("best_val_loss").epoch == runs[42].history["val_loss"].idxmin()
    assert len(published()) >= 8 + 9 * 4
