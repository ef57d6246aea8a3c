"""Ensembles and the choice of an epoch, compared with brute force, and relations between them."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL
from torch import Tensor

from ternary_lab import InputError, load_config, load_run, run_experiment, space
from ternary_lab.cli import main
from ternary_lab.history import CRITERIA, Criterion, best_epoch, cost, name_in_files
from ternary_lab.metrics import baselines
from ternary_lab.metrics.decoding import entry_probabilities
from ternary_lab.metrics.information import Sums, information, sums
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import TernaryVAE
from ternary_lab.studies.checkpoints_and_ensembles import ensembles

pytestmark = pytest.mark.usefixtures("one_thread")


def _sharp(seed: int) -> TernaryVAE:
    model = baselines.untrained(seed)
    blocks = model.core.blocks.one(0).copy()
    blocks.decoder_B *= 3
    return TernaryVAE(model.settings, blocks)


def _sums(model: TernaryVAE, latents: int = 1024) -> Sums:
    (z,) = sobol_normal(model.latent_dim, latents, 0, model.device)
    return sums(model.core, "B", z.unsqueeze(0))


# --- read out together


def _probabilities(members: int, n: int, seed: int) -> Tensor:
    logits = 2 * torch.randn(members, n, 9, 3, generator=torch.Generator().manual_seed(seed))
    return torch.softmax(logits, -1)


@given(st.integers(1, 5), st.integers(0, 1000))
def test_combinations_equal_those_of_a_loop(members: int, seed: int) -> None:
    p = _probabilities(members, 3, seed)
    for i in range(3):
        for k in range(9):
            each = p[:, i, k].tolist()
            named = [max(range(3), key=row.__getitem__) for row in each]
            total = [sum(row[v] for row in each) for v in range(3)]
            expected = {
                "vote": max(range(3), key=lambda v: (named.count(v), total[v])),
                "mean": max(range(3), key=total.__getitem__),
                "confidence": max(range(3), key=lambda v: sum(max(row) * row[v] for row in each)),
            }
            for name, rule in ensembles.COMBINATIONS.items():
                assert int(rule(p)[i, k]) == expected[name], name


def test_members_that_agree_are_combined_into_the_same_classes() -> None:
    p = _probabilities(1, 50, 0)
    for rule in ensembles.COMBINATIONS.values():
        assert torch.equal(rule(p.expand(4, -1, -1, -1)), p[0].argmax(-1))


def test_best_of_is_at_least_as_good_as_every_member() -> None:
    operations = space.operations(torch.arange(0, space.SIZE, 11))
    target = torch.nn.functional.one_hot((operations + 1).long(), 3)
    p = torch.softmax(2.5 * target + torch.randn(3, *target.shape, generator=torch.Generator().manual_seed(0)), -1)
    shares = ensembles.reconstruction(p, operations)
    assert shares["best of"] >= shares["best member"]
    # Members make independent errors, so every combination is better than each member.
    assert min(shares[rule] for rule in ensembles.COMBINATIONS) > shares["best member"]
    assert ensembles.reconstruction(p[:1], operations).keys() == shares.keys()
    assert len(set(ensembles.reconstruction(p[:1], operations).values())) == 1


def test_entry_probabilities_agree_with_the_reconstruction() -> None:
    model, operations = _sharp(1), space.operations(torch.arange(50))
    p = entry_probabilities(model, "B", operations)
    assert torch.equal(p.argmax(-1) - 1, model.reconstruct(operations, pathway="B"))
    torch.testing.assert_close(p.sum(-1), torch.ones(50, 9))


# --- mixtures


def test_mixture_weights_of_two_members_equal_those_of_a_grid_search() -> None:
    log_p = torch.randn(2, 300, generator=torch.Generator().manual_seed(0)).double() * 2
    log_p[1] -= 0.5
    found = ensembles.mixture_weights(log_p)
    tried = torch.linspace(0, 1, 4001, dtype=torch.float64)[1:-1]
    value = torch.stack([torch.logsumexp(torch.stack(((w.log() + log_p[0]), ((1 - w).log() + log_p[1]))), 0).mean()
                         for w in tried])
    assert float(found.sum()) == pytest.approx(1)
    assert float(found[0]) == pytest.approx(float(tried[value.argmax()]), abs=5e-4)


@given(st.integers(2, 4), st.integers(0, 100))
def test_mixture_weights_are_never_worse_than_equal_ones_or_the_best_member(members: int, seed: int) -> None:
    log_p = 3 * torch.randn(members, 40, generator=torch.Generator().manual_seed(seed)).double()
    w = ensembles.mixture_weights(log_p)

    def value(weights: Tensor) -> float:
        return float((weights.log()[:, None] + log_p).logsumexp(0).mean())

    equal = torch.full((members,), 1 / members).double()
    assert value(w) >= value(equal) - 1e-9
    # Expectation maximisation converges slowly if all weight belongs to one member.
    assert value(w) >= float(log_p.mean(1).max()) - 1e-3


def test_an_operation_without_probability_under_any_member_is_refused() -> None:
    with pytest.raises(InputError, match="under any member"):
        ensembles.mixture_weights(torch.tensor([[0.0, -math.inf], [0.0, -math.inf]]))


def test_a_mixture_of_one_member_is_that_member() -> None:
    model = _sharp(1)
    alone = information(model.core, "B", (z.unsqueeze(0) for z in sobol_normal(16, 1024, 0, model.device)))
    mixed = ensembles.mixture([_sums(model)])
    for name in ("p", "output_entropy", "decoder_noise", "informative_coverage"):
        torch.testing.assert_close(getattr(mixed, name), getattr(alone, name), rtol=1e-9, atol=1e-12)
    # The bias of the argmax entropy is estimated differently by `Information` and by `mixture`.
    torch.testing.assert_close(mixed.effective_coverage, alone.effective_coverage, rtol=1e-3, atol=0)


def test_a_mixture_by_its_definition() -> None:
    members, w = [_sums(_sharp(seed)) for seed in (1, 2, 3)], [0.5, 0.3, 0.2]
    mixed = ensembles.mixture(members, w)
    p = sum(c * m.information().p for c, m in zip(w, members, strict=True))
    assert isinstance(p, Tensor)
    torch.testing.assert_close(mixed.p, p)
    assert float(mixed.output_entropy_raw) == pytest.approx(float(-(p * p.log()).sum()))
    noise = sum(c * float(m.information().decoder_noise) for c, m in zip(w, members, strict=True))
    assert float(mixed.decoder_noise) == pytest.approx(noise)


def test_the_bias_correction_of_a_mixture_reduces_the_bias() -> None:
    models = [_sharp(seed) for seed in (1, 2)]
    few = ensembles.mixture([_sums(m, 512) for m in models])
    many = ensembles.mixture([_sums(m, 16_384) for m in models])
    raw, corrected = (abs(float(h - many.output_entropy)) for h in (few.output_entropy_raw, few.output_entropy))
    assert corrected < raw / 2


def test_a_mixture_of_two_equal_members_is_that_member() -> None:
    one = _sums(_sharp(1))
    torch.testing.assert_close(ensembles.mixture([one, one]).output_entropy_raw, one.information().output_entropy_raw)


@pytest.mark.parametrize("weights", [[0.5], [0.5, 0.6], [1.5, -0.5]])
def test_invalid_mixture_weights_are_refused(weights: list[float]) -> None:
    one = _sums(baselines.untrained(), 64)
    with pytest.raises(InputError, match="a weight for each"):
        ensembles.mixture([one, one], weights)


# --- which epoch


def _history() -> pd.DataFrame:
    rows = {"epoch": [0, 1, 2, 3], "val_loss": [0.4, 0.3, 0.3, 5.0], "val_elbo": [-20.0, -16.0, -15.0, -15.0]}
    rows |= {f"coverage_{p}": [99.0, 98.0, 97.0, 99.0] for p in "AB"}
    rows |= {"informative_coverage_A": [0.0, 1.0, 5.0, 4.0], "informative_coverage_B": [0.0, 9.0, 4.0, 7.0]}
    rows |= {f"reconstruction_{p}": [1.0, 90.0, 100.0, 100.0] for p in "AB"}
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("criterion", "best", "before_2"),
    [
        ("val_loss", 1, 1), ("val_elbo", 2, 1), ("coverage", 0, 0), ("informative_coverage", 3, 1),
        ("reconstruction", 2, 1),
    ],
)
def test_each_criterion_chooses_its_first_best_epoch(
    criterion: Criterion, best: int, before_2: int
) -> None:
    table = _history()
    assert best_epoch(table, criterion) == best
    assert best_epoch(table, criterion, last=1) == before_2
    costs = [cost(row, criterion) for row in table.to_dict("records")]
    assert costs == cost(table, criterion).tolist()


def test_an_epoch_that_was_not_measured_is_not_chosen() -> None:
    table = _history()
    table.loc[[0, 3], "coverage_A"] = math.nan
    assert best_epoch(table, "coverage") == 1
    with pytest.raises(InputError, match="coverage: was not measured after any epoch"):
        best_epoch(table.assign(coverage_B=math.nan), "coverage")


@pytest.mark.parametrize("criterion", CRITERIA)
def test_training_keeps_the_epoch_that_the_criterion_chooses(criterion: Criterion, tmp_path: object) -> None:
    config = load_config("quick", {
        "training.total_epochs": 6, "select_by": criterion, "data.train_fraction": 0.05,
        "evaluation": {"coverage_samples": 3000, "latents": 256},
    })
    run_experiment(config, [1], f"{tmp_path}/runs", device="cpu")
    run = load_run(f"{tmp_path}/runs/seed=1")
    assert run.selected == f"best_{name_in_files(criterion)}"
    assert run.checkpoint(run.selected).epoch == best_epoch(run.history, criterion)
    assert run.checkpoint("best_val_loss").epoch == best_epoch(run.history, "val_loss")


def test_evaluate_takes_the_epoch_that_the_criterion_chose(tmp_path: object) -> None:
    config = load_config(SMALL.as_dict(), {"select_by": "reconstruction", "checkpoints.every": 1})
    run = run_experiment(config, [1], f"{tmp_path}/runs", device="cpu")[1]
    small = ["--samples", "100", "--latents", "64", "--json"]
    result = CliRunner().invoke(main, ["evaluate", str(run.path), "--epoch", "best", *small])
    assert json.loads(result.stdout)["epoch"] == run.checkpoint(run.selected).epoch


@pytest.mark.parametrize("epoch", ["-1", "last", "1.5", "9" * 12])
def test_an_invalid_epoch_is_refused(epoch: str) -> None:
    result = CliRunner().invoke(main, ["evaluate", "v5_5/seed=42", "--epoch", epoch])
    assert result.exit_code == 2
    assert "is not an epoch" in result.stderr
