"""Simpler generators: their numbers of parameters, their training and their exact metrics."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ternary_lab import CheckpointError, ConfigError, load_config, space
from ternary_lab.cli import main
from ternary_lab.model import Architecture
from ternary_lab.studies.beyond_v55 import alternatives
from ternary_lab.studies.beyond_v55.alternative_families import BETAS, Autoregressive, CategoricalVAE, families
from ternary_lab.studies.beyond_v55.alternatives import family_rows, load_trained, save_trained, train_family

pytestmark = pytest.mark.usefixtures("one_thread")

PARAMETERS = Architecture(load_config("v5_5").model).parameters


@pytest.mark.parametrize("name", families())
def test_a_family_has_as_many_parameters_as_v55(name: str) -> None:
    assert abs(families()[name].parameters / PARAMETERS - 1) < 0.01


@pytest.fixture(scope="module")
def trained() -> dict[str, alternatives.Trained]:
    return {name: train_family(family, [1], 1) for name, family in families().items()}


@pytest.mark.parametrize("name", families())
def test_there_is_a_run_for_every_beta_and_seed(name: str, trained: dict[str, alternatives.Trained]) -> None:
    found = trained[name]
    assert list(zip(found.betas, found.seeds, strict=True)) == [(beta, 1) for beta in families()[name].betas]


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name == "categorical_vae" else pytest.mark.slow) for name in families()
])
def test_the_same_seed_gives_the_same_bits(name: str, trained: dict[str, alternatives.Trained]) -> None:
    again = train_family(families()[name], [1], 1)
    for block, same in zip(trained[name].blocks, again.blocks, strict=True):
        assert torch.equal(block, same)


@pytest.mark.parametrize("name", families())
def test_a_loss_falls_and_runs_do_not_share_gradients(name: str) -> None:
    family = families()[name]
    seeds = (1, 2)
    blocks = [torch.zeros(2, network.size) for network in family.networks]
    for i, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for network, block in zip(family.networks, blocks, strict=True):
            network.initialise(block[i], generator)
    for block in blocks:
        block.requires_grad_()
    x = space.operations(torch.randint(space.SIZE, (2, 64), generator=torch.Generator().manual_seed(0)))
    noise = torch.stack([family.noise(64, torch.Generator().manual_seed(seed)) for seed in seeds])
    beta = torch.tensor([0.1, 0.1])
    before = family.loss(blocks, x, noise, beta, 0.0)
    assert before.shape == (2,)
    before[0].backward()  # type: ignore[no-untyped-call]
    for block in blocks:
        assert block.grad is not None
        assert block.grad[0].abs().sum() > 0
        assert block.grad[1].abs().sum() == 0
        with torch.no_grad():
            block -= 1e-3 * block.grad
    after = family.loss(blocks, x, noise, beta, 0.0)
    assert after[0] < before[0]
    assert after[1] == before[1]


def test_the_autoregressive_model_is_a_distribution_and_an_entry_depends_on_earlier_ones_only(
    trained: dict[str, alternatives.Trained],
) -> None:
    family = families()["autoregressive"]
    assert isinstance(family, Autoregressive)
    block = trained["autoregressive"].blocks[0]
    tables = space.operations()
    log_p = family._log_p(block, tables.unsqueeze(0))[0]
    total = (log_p * space.one_hot(tables)).sum((1, 2)).double().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-4)
    other = tables.clone()
    other[:, 5] = (other[:, 5] + 2) % 3 - 1
    changed = family._log_p(block, other.unsqueeze(0))[0]
    assert torch.equal(changed[:, :6], log_p[:, :6])
    assert not torch.equal(changed[:, 6:], log_p[:, 6:])


def test_every_row_has_every_metric_or_none_for_it(trained: dict[str, alternatives.Trained]) -> None:
    keys = set()
    for name in families():
        found = next(family_rows(name, trained[name], 1024))  # the first β
        keys.add(frozenset(found))
        # -ELBO is at least -ln p. An estimate of -ln p from few latents is too large: compare exact values only.
        if name in ("categorical_vae", "autoregressive"):
            assert found["neg_elbo"] >= found["neg_log_p"] - 1e-4
            assert found["neg_iwae"] == found["neg_log_p"]
        assert 9.8 < found["neg_iwae"] <= found["neg_elbo"] + 1e-4
        assert (found["information"] is None) == (name == "autoregressive")
    assert len(keys) == 1
    floor = {row["model"]: row for row in alternatives.floor_rows([0], 1024)}
    assert frozenset(floor["uniform"]) in keys
    assert floor["uniform"]["neg_log_p"] == pytest.approx(math.log(space.SIZE), abs=1e-5)
    assert floor["random_map"]["informative_coverage"] > 1 > floor["uniform"]["informative_coverage"]


def test_a_categorical_vae_that_copies_operations_has_perfect_metrics() -> None:
    """Weights set by hand: the code is the operation, and the decoder is almost certain of it."""
    family = CategoricalVAE()
    blocks = [torch.zeros(1, network.size) for network in family.networks]
    encoder, decoder = (network.views(block) for network, block in zip(family.networks, blocks, strict=True))
    sign = torch.cat((torch.eye(9), -torch.eye(9)))
    for i, (weight, _) in enumerate(encoder[:-1]):
        weight[0, :18, : 9 if i == 0 else 18] = sign if i == 0 else torch.eye(18)
    head, bias = encoder[-1]
    first, _ = decoder[0]
    last, _ = decoder[-1]
    first[0, :27, :27] = torch.eye(27)
    last[0, :27, :27] = 60 * torch.eye(27)
    for k in range(9):
        for value in (-1, 0, 1):
            head[0, 3 * k + value + 1, [k, k + 9]] = torch.tensor([60.0, -60.0]) * value
            bias[0, 3 * k + value + 1] = -30.0 * value**2
    row = family.measure(blocks, 0, 64)
    assert row["informative_coverage"] == pytest.approx(100, abs=0.01)
    assert row["effective_coverage"] == pytest.approx(100)
    assert row["reconstruction_test"] == 100
    assert row["neg_elbo"] == pytest.approx(math.log(space.SIZE), abs=1e-3)
    assert row["neg_iwae"] == pytest.approx(math.log(space.SIZE), abs=1e-3)
    assert row["missing_mass"] == pytest.approx(0, abs=1e-4)
    assert row["active_units"] == 9


def test_weights_are_read_back_and_other_files_are_refused(
    tmp_path: Path, trained: dict[str, alternatives.Trained]
) -> None:
    path = tmp_path / "a.safetensors"
    save_trained(path, trained["beta_vae_A"])
    back = load_trained(path)
    assert (back.betas, back.seeds, back.epochs) == (list(BETAS), [1] * 3, 1)
    assert all(torch.equal(a, b) for a, b in zip(back.blocks, trained["beta_vae_A"].blocks, strict=True))
    for content in (b"", b"nonsense" * 20):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="delete it to train again"):
            load_trained(path)


def test_no_epochs_and_bad_seeds_are_refused() -> None:
    with pytest.raises(ConfigError, match="epochs"):
        train_family(families()["beta_vae_A"], [1], 0)
    with pytest.raises(ConfigError, match="twice"):
        train_family(families()["beta_vae_A"], [1, 1], 1)


def test_the_command_refuses_seeds_that_v55_was_not_trained_with(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["alternatives", "--seeds", "7", "--run-dir", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "no run with seed 7" in result.stderr
