"""Latent entropy compared with slow, simple implementations, and its figures (batch histogram: `test_metrics`)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ternary_lab import InputError, RunError, RunRecord, load_config, load_runs, run_experiment, space
from ternary_lab.figures import epoch_entropy
from ternary_lab.metrics import latent_entropy as entropy
from ternary_lab.metrics import likelihood
from ternary_lab.studies.latent_entropy import figures, tables
from ternary_lab.studies.probes import all_probes

pytestmark = pytest.mark.usefixtures("one_thread")


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- sample size


def _exact_expected(n: int) -> float:
    """E[H] of n draws of N(0, 1), an exact sum over all counts of a bin."""
    edges = torch.linspace(-3, 3, 51, dtype=torch.float64)
    p = torch.special.ndtr(edges).diff().numpy()
    share = float(p.sum())
    log_factorial = np.array([math.lgamma(i + 1) for i in range(n + 1)])

    def binomial(m: int, q: float) -> np.ndarray:
        k = np.arange(m + 1)
        log_choose = log_factorial[m] - log_factorial[k] - log_factorial[m - k]
        return np.asarray(np.exp(log_choose + k * np.log(q) + (m - k) * np.log1p(-q)))

    total = 0.0
    for m, weight in enumerate(binomial(n, share)):
        for q in p / share if m else ():
            f = np.arange(1, m + 1) / m
            total += weight * float((binomial(m, q)[1:] * -f * np.log(f)).sum())
    return total


@pytest.mark.parametrize("n", [1, 2, 64])
def test_expected_entropy_is_the_exact_expectation(n: int) -> None:
    mean, deviation = entropy.expected_entropy(n)
    assert mean == pytest.approx(_exact_expected(n), abs=4 * deviation / math.sqrt(4000) + 1e-9)


def test_the_expected_entropy_of_an_epoch_is_the_mean_over_its_batches() -> None:
    exact = (246 * _exact_expected(64) + _exact_expected(2)) / 247
    mean, deviation = entropy.expected_epoch_entropy(15_746, 64, 16)
    assert exact == pytest.approx(3.155, abs=0.001)
    assert mean == pytest.approx(exact, abs=0.005)
    assert deviation == pytest.approx(0.087 / math.sqrt(246 * 16), rel=0.1)
    assert epoch_entropy(load_config("v5_5")) == pytest.approx(exact, abs=0.005)


def test_an_epoch_of_full_batches_has_the_expected_entropy_of_a_batch() -> None:
    assert entropy.expected_epoch_entropy(640, 64, 1)[0] == pytest.approx(entropy.expected_entropy(64)[0])
    assert entropy.expected_epoch_entropy(10, 64, 1) == pytest.approx(entropy.expected_entropy(10))


def test_an_epoch_of_normal_latents_has_the_expected_entropy() -> None:
    sizes = [64] * 246 + [2]
    values = [entropy.batch_entropy(_normal(size, 16, seed=i)).item() for i, size in enumerate(sizes)]
    mean, deviation = entropy.expected_epoch_entropy(15_746, 64, 16)
    assert np.mean(values) == pytest.approx(mean, abs=5 * deviation)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="batch must be at least 1, got 0"):
        entropy.expected_epoch_entropy(10, 0, 16)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.0, 0.8), (1.0, 0.3), (-5.0, 2.0)])
def test_normal_entropy_equals_that_of_many_draws(mean: float, std: float) -> None:
    z = mean + std * _normal(400_000, 1)
    assert entropy.normal_entropy(mean, std) == pytest.approx(entropy.batch_entropy(z).item(), abs=0.003)


def test_normal_entropy_has_its_limits() -> None:
    assert entropy.normal_entropy() == pytest.approx(3.5237, abs=1e-4)
    assert entropy.normal_entropy(0, 1000) == pytest.approx(entropy.CEILING, abs=1e-5)
    assert entropy.normal_entropy(0.06, 1e-6) == pytest.approx(0)
    with pytest.raises(InputError, match="no mass"):
        entropy.normal_entropy(1000, 1)
    with pytest.raises(InputError, match="std must be positive"):
        entropy.normal_entropy(0, 0)


# --- bias correction

COUNTS = st.lists(st.integers(0, 1000), min_size=1, max_size=60)


@given(COUNTS)
def test_the_correction_is_that_of_miller(counts: list[int]) -> None:
    n, occupied = sum(counts), sum(count > 0 for count in counts)
    plug_in = -sum(count / n * math.log(count / n) for count in counts if count)
    expected = plug_in + (occupied - 1) / (2 * n) if n else 0
    assert entropy.corrected_entropy(torch.tensor(counts).float()).item() == pytest.approx(expected, abs=1e-5)


@given(COUNTS)
def test_plug_in_entropy_is_at_most_that_of_its_bins_and_of_its_values(counts: list[int]) -> None:
    h = entropy.histogram_entropy(torch.tensor(counts).float()).item()
    assert h >= -1e-6
    assert h <= math.log(max(1, min(len(counts), sum(counts)))) + 1e-5


def test_the_correction_removes_most_of_the_bias() -> None:
    counts = entropy.histogram(_normal(200, 2000, 1))
    raw = entropy.histogram_entropy(counts).mean().item() - entropy.normal_entropy()
    corrected = entropy.corrected_entropy(counts).mean().item() - entropy.normal_entropy()
    assert raw < -0.009
    assert abs(corrected) < -raw / 3


@given(st.lists(st.floats(width=32), min_size=1, max_size=80))
def test_a_histogram_counts_the_values_inside(values: list[float]) -> None:
    z = torch.tensor(values).unsqueeze(1)
    counts = entropy.histogram(z)
    assert counts.shape == (1, 50)
    assert int(counts.sum()) == sum(-3 <= value <= 3 for value in values)


# --- aggregate posterior

MEANS, WIDTHS = st.floats(-30, 30), st.floats(0.05, 5)


@given(MEANS, WIDTHS)
def test_the_kl_of_one_gaussian_is_the_closed_form(mean: float, std: float) -> None:
    closed = 0.5 * (mean**2 + std**2 - 1) - math.log(std)
    # The number of equal components does not matter.
    for count in (1, 3):
        kl = entropy.prior_kl(torch.full((count,), mean).double(), torch.full((count,), std).double())
        assert kl == pytest.approx(closed, abs=0.006, rel=1e-4)


@given(st.lists(st.tuples(MEANS, WIDTHS), min_size=1, max_size=20))
def test_the_kl_lies_between_zero_and_the_mean_of_its_components(parts: list[tuple[float, float]]) -> None:
    mean, std = torch.tensor(parts, dtype=torch.float64).unbind(1)
    kl = entropy.prior_kl(mean, std)
    assert -1e-6 <= kl <= float((0.5 * (mean**2 + std**2 - 1) - std.log()).mean()) + 0.006


@given(st.lists(st.tuples(MEANS, WIDTHS), min_size=1, max_size=20))
def test_the_density_is_the_sum_of_its_components(parts: list[tuple[float, float]]) -> None:
    mean, std = torch.tensor(parts, dtype=torch.float64).unbind(1)
    z, q = entropy.aggregate_posterior(mean, std)
    exact = torch.exp(-0.5 * ((z.unsqueeze(1) - mean) / std).square()) / (std * math.sqrt(2 * math.pi))
    exact = exact.mean(1)
    step = float(z[1] - z[0])
    assert float(q.sum() * step) == pytest.approx(1)
    assert float((q - exact).abs().sum() * step) < 0.02
    assert float((q * z).sum() * step) == pytest.approx(float(mean.mean()), abs=1e-3)


@pytest.mark.parametrize("values", [[0.0], [0.0, 1e-9, 40.0], [-1e30, 1e30], [1e6]])
def test_any_finite_mixture_has_a_finite_kl(values: list[float]) -> None:
    """Also for components without width, and for means too far apart for a fine grid."""
    mean = torch.tensor(values, dtype=torch.float64)
    z, q = entropy.aggregate_posterior(mean, torch.zeros_like(mean))
    assert len(z) <= entropy.LARGEST_GRID
    assert bool((q >= 0).all())
    assert math.isfinite(entropy.prior_kl(mean, torch.zeros_like(mean)))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.0], [math.nan], "finite"), ([math.inf], [1.0], "finite"), ([0.0], [-1.0], "not negative"),
        ([0.0, 1.0], [1.0], r"shape \(N,\)"), ([], [], r"shape \(N,\)"),
    ],
)
def test_invalid_mixtures_are_refused(mean: list[float], std: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        entropy.aggregate_posterior(torch.tensor(mean), torch.tensor(std))


# --- the code of many operations


def test_sampled_codes_equal_those_of_numpy() -> None:
    z = 1.5 * _normal(2, 1000, 3) + torch.tensor([0.0, 4.0, 100.0])
    code = entropy.sampled_code(z, 64)
    assert code.entropy.shape == code.batch_entropy.shape == code.inside.shape == (2, 3)
    for run, k in np.ndindex(2, 3):
        values = z[run, :, k]
        counts, _ = np.histogram(values.numpy(), 50, (-3, 3))
        n, p = counts.sum(), counts[counts > 0] / max(counts.sum(), 1)
        corrected = -(p * np.log(p)).sum() + max(len(p) - 1, 0) / (2 * max(n, 1))
        assert float(code.entropy[run, k]) == pytest.approx(corrected, abs=2e-3)
        assert float(code.inside[run, k]) == pytest.approx(n / 1000, abs=1e-6)
        batches = [entropy.batch_entropy(values[i : i + 64].unsqueeze(1)).item() for i in range(0, 960, 64)]
        assert float(code.batch_entropy[run, k]) == pytest.approx(np.mean(batches), abs=1e-5)


def test_samples_of_the_prior_have_the_expected_entropy() -> None:
    code = entropy.sampled_code(_normal(space.SIZE, 16))
    assert code.entropy.mean().item() == pytest.approx(entropy.normal_entropy(), abs=0.003)
    assert code.batch_entropy.mean().item() == pytest.approx(_exact_expected(64), abs=0.006)
    assert code.inside.mean().item() == pytest.approx(math.erf(3 / math.sqrt(2)), abs=0.001)


def test_few_values_inside_bound_the_batch_entropy() -> None:
    """H is at most the log of the number of values; the log is concave, so it holds for mean numbers too."""
    code = entropy.sampled_code(40 * _normal(6400, 8))
    assert float(code.batch_entropy.mean()) < math.log(64 * float(code.inside.mean()))
    assert float(code.entropy.mean()) > entropy.normal_entropy()


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(InputError, match=r"1\.\.10"):
        entropy.sampled_code(_normal(10, 3))


def test_posterior_codes_are_measured_dimension_by_dimension() -> None:
    mean, std = 2 * _normal(2, 500, 3, seed=1), _normal(2, 500, 3, seed=2).exp() / 3
    mean[1, :, 2] *= 0.03
    code = entropy.posterior_code(mean, std)
    for run, k in np.ndindex(2, 3):
        column = mean[run, :, k].double().numpy()
        assert float(code.mean[run, k]) == pytest.approx(column.mean(), abs=1e-6)
        assert float(code.variance[run, k]) == pytest.approx(column.var(ddof=1), rel=1e-4)
        kl = entropy.prior_kl(mean[run, :, k], std[run, :, k])
        assert float(code.prior_kl[run, k]) == pytest.approx(kl, rel=1e-5)
    assert code.active.tolist() == [[True] * 3, [True, True, False]]


def test_a_collapsed_code_is_inactive_and_at_the_prior() -> None:
    code = entropy.posterior_code(torch.zeros(100, 4), torch.ones(100, 4))
    assert not code.active.any()
    assert float(code.prior_kl.abs().max()) < 1e-3


# --- figures

SMALL = {
    "data.batch_size": 2048, "training.total_epochs": 6, "evaluation.coverage_samples": 2000, "evaluation.latents": 64,
    "checkpoints.every": 5,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    folder = tmp_path_factory.mktemp("runs")
    return run_experiment(load_config("quick", SMALL), [1], folder, device="cpu")[1]


@pytest.fixture(scope="module")
def code(run: RunRecord) -> pd.DataFrame:
    return tables.code_history(run)


def test_a_code_history_has_a_row_per_checkpoint_pathway_and_dimension(run: RunRecord, code: pd.DataFrame) -> None:
    keys = ["epoch", "pathway", "dimension"]
    assert not code[keys].duplicated().any()
    assert len(code) == len(run.epochs) * 2 * run.config.model.latent_dim
    assert sorted(code["epoch"].unique()) == run.epochs
    assert not code.isna().any(axis=None)
    assert code.equals(tables.code_history(run))  # repeatable: it has its own random streams
    model, last = run.model(run.epochs[-1]), code[code["epoch"] == run.epochs[-1]]
    active = likelihood.active_units(model.core.encode(space.operations().unsqueeze(0))[0])
    assert last.groupby("pathway")["active"].sum().tolist() == active[:, 0].tolist()


def test_a_code_history_at_the_epochs_own_temperature(run: RunRecord) -> None:
    epoch = run.epochs[-1]
    for pathway, rows in tables.code_history(run, [epoch]).groupby("pathway"):
        tau = run.history[f"temperature_{pathway}"].iloc[epoch]
        assert set(rows["tau"]) == {tau}
        at_tau = tables.code_history(run, [epoch], temperature=tau)
        at_tau = at_tau[at_tau["pathway"] == pathway]
        assert rows["H"].tolist() == at_tau["batch_entropy"].tolist() == at_tau["H"].tolist()


def test_a_run_without_the_weights_is_named(run: RunRecord) -> None:
    with pytest.raises(RunError, match="epoch_0003"):
        tables.code_history(run, [3])
    with pytest.raises(RunError, match="weights of no epoch"):
        tables.code_history(run, [])


def test_estimates_are_means_over_the_dimensions(run: RunRecord, code: pd.DataFrame) -> None:
    found = tables.estimates(run, code).set_index(["pathway", "epoch"])
    assert len(found) == 2 * len(run.epochs)
    epoch = run.epochs[-1]
    part = code[(code["pathway"] == "B") & (code["epoch"] == epoch)]
    row = found.loc[("B", epoch)]
    assert row["printed"] == run.history.set_index("epoch").at[epoch, "H_B"]
    assert row["kl"] == pytest.approx(sum(part["prior_kl"]))
    assert row["inside"] == pytest.approx(100 * np.mean(part["inside"]))
    for name, column in {"batch": "H", "at_one": "batch_entropy", "whole": "entropy", "tau": "tau"}.items():
        assert row[name] == pytest.approx(np.mean(part[column]))


def test_drawn_posteriors_keep_the_mass(run: RunRecord) -> None:
    densities = tables.posteriors(run, run.epochs[-1:])
    for _, rows in densities.groupby(["epoch", "pathway", "dimension"]):
        assert len(rows) <= tables.POINTS
        assert np.trapezoid(rows["density"], rows["z"]) == pytest.approx(1, abs=0.02)


def test_figures_are_drawn_and_described(run: RunRecord, code: pd.DataFrame) -> None:
    densities = tables.posteriors(run, run.epochs)
    for drawing, count in (
        (figures.entropy_by_epoch(run.history, run.config), 1), (figures.heat_maps(code), 4),
        (figures.active_dimensions(code), 2), (figures.aggregate_posteriors(densities), 2 * len(run.epochs)),
    ):
        axes = [axis for axis in drawing.figure.axes if axis.get_label() != "<colorbar>"]
        assert len(axes) == count
        assert len(drawing.alt) > 60
        assert "nan" not in drawing.alt
        assert not drawing.data.empty


def test_drawing_twice_gives_the_same_bytes(code: pd.DataFrame, tmp_path: Path) -> None:
    from ternary_lab.figures import render

    assert render(figures.heat_maps(code).figure) == render(figures.heat_maps(code).figure)


# --- the published runs


@pytest.fixture(scope="module")
def published() -> RunRecord:
    return load_runs("v5_5")[42]


@pytest.fixture(scope="module")
def few(published: RunRecord) -> pd.DataFrame:
    return tables.code_history(published, [10, 49, 50, 60, 100])


def test_h_of_every_published_run_stays_below_that_of_the_prior_after_the_jump() -> None:
    history = load_runs("v5_5").history.set_index(["seed", "epoch"])[["H_A", "H_B"]]
    late = history[history.index.get_level_values("epoch") >= 60]
    assert (late > 2.85).all(axis=None)
    assert (late < epoch_entropy(load_config("v5_5"))).all(axis=None)
    assert history.max(axis=None) < entropy.CEILING < 4
    before, at = history.xs(49, level="epoch"), history.xs(50, level="epoch")
    assert (before["H_B"] < 2.5).all()
    assert (at["H_B"] > before["H_B"] + 0.5).all()


def test_the_weights_give_the_printed_h(published: RunRecord, few: pd.DataFrame) -> None:
    """At epoch 50 the code changes within the epoch."""
    found = tables.estimates(published, few)
    settled = found[found["epoch"] != 50]
    assert (settled["printed"] - settled["batch"]).abs().max() < 0.1
    assert (found["batch"] < (64 * found["inside"] / 100).map(math.log)).all()


def test_before_the_jump_b_has_few_values_inside_the_histogram(published: RunRecord, few: pd.DataFrame) -> None:
    found = tables.estimates(published, few).set_index(["pathway", "epoch"]).loc["B"]
    assert found.at[49, "inside"] < 40
    assert found.at[49, "whole"] > found.at[49, "printed"] + 1
    assert (found.loc[50:, "inside"] > 99).all()
    assert found.loc[50:, "whole"].between(3.1, entropy.normal_entropy()).all()
    assert found.at[49, "kl"] > 100 > 5 > found.at[50, "kl"]


def test_every_dimension_is_active_in_every_published_run() -> None:
    probes = all_probes(load_runs("v5_5"))
    assert probes["seed"].nunique() == 8
    assert (probes[["active_A", "active_B"]] == 16).all(axis=None)
