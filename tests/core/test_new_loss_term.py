"""Tests of a loss term that is defined outside the library.

The tests configure and differentiate the term, train and resume runs with it, and verify these runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from pydantic import Field
from small import SMALL
from torch import Tensor

from ternary_lab import (
    Config,
    ConfigError,
    DivergenceError,
    EpochRecord,
    load_config,
    load_run,
    losses,
    run_experiment,
    train,
)
from ternary_lab import controllers as control
from ternary_lab.config import LossTerm, PathwayBatch, TermGradients
from ternary_lab.config_files import from_yaml
from ternary_lab.controllers import Controllers
from ternary_lab.history import COLUMNS, TIMING_COLUMNS
from ternary_lab.runs.verify import verify

pytestmark = pytest.mark.usefixtures("one_thread", "spread")
SETTINGS = {"loss.added.width": {"mode": "spread", "weight": 0.5, "target": 0.25}}
COLUMNS_OF_IT = ["width_A", "width_B", "loss_width_A", "loss_width_B"]


@pytest.fixture(scope="module")
def spread() -> Iterator[None]:
    """Define the mode `spread` for the tests of this file only."""

    class Spread(LossTerm):
        """The square of (mean of z² - target), plus a penalty.

        The mean is over operations and dimensions. The penalty is the sum of the means of μ², (ln σ²)² and logits².
        """

        mode: Literal["spread"] = "spread"
        words: ClassVar[str] = "the spread of the latents"
        target: float = Field(1.0, ge=0, description="mean square of a latent that is aimed at")

        def value(self, batch: PathwayBatch) -> tuple[Tensor, TermGradients]:
            distance = batch.z.square().mean((1, 2)) - self.target
            parts = {name: getattr(batch, name) for name in ("mu", "log_variance", "logits")}
            penalty = sum((part.square().flatten(1).mean(1) for part in parts.values()), torch.zeros_like(distance))
            slope = (4 * distance / batch.z[0].numel())[:, None, None]
            return distance.square() + penalty, TermGradients(
                z=slope * batch.z, **{name: 2 * part / part[0].numel() for name, part in parts.items()}
            )

    yield
    del LossTerm.modes["spread"]


def _config() -> Config:
    return load_config(SMALL.as_dict(), SETTINGS)


def test_a_configuration_with_it_is_read_back_from_yaml() -> None:
    config = _config()
    assert config == from_yaml(config.as_yaml(), "text") == load_config(config.as_dict())
    assert list(config.added_columns) == COLUMNS_OF_IT
    changed = load_config(config.as_dict(), {"loss.added.width.weight": 0.25})
    assert changed.loss.added["width"].weight == 0.25


@pytest.mark.parametrize(("settings", "message"), [
    ({"mode": "spred", "weight": 0.5}, r"loss\.added\.width\.mode: must be one of .*spread"),
    ({"mode": "spread"}, r"loss\.added\.width\.weight"),
    ({"mode": "spread", "weight": 0.5, "tarjet": 1.0}, r"loss\.added\.width\.tarjet.*target"),
])
def test_errors_name_the_setting(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(SMALL.as_dict(), {"loss.added.width": settings})


def _records(config: Config) -> list[EpochRecord]:
    return list(train(config, [1], device="cpu"))


def test_it_changes_training_and_its_share_is_in_the_training_loss() -> None:
    (plain, *_), (found, *_) = _records(SMALL), _records(_config())
    assert list(found.added) == COLUMNS_OF_IT
    assert found.neg_elbo_A != plain.neg_elbo_A
    shares = [value for name, value in asdict(found).items() if name.startswith("loss_")]
    assert found.train_loss == pytest.approx(sum(shares) + found.added["loss_width_A"] + found.added["loss_width_B"])
    assert found.added["width_A"] > 0


def test_with_weight_0_nothing_else_changes() -> None:
    idle = load_config(SMALL.as_dict(), {"loss.added.width": {"mode": "spread", "weight": 0.0}})
    left_out = {"added", *TIMING_COLUMNS}
    for plain, found in zip(_records(SMALL), _records(idle), strict=True):
        assert {k: v for k, v in asdict(plain).items() if k not in left_out} == pytest.approx(
            {k: v for k, v in asdict(found).items() if k not in left_out}, nan_ok=True
        )


def test_its_weighted_gradient_is_added_to_that_of_the_other_terms() -> None:
    config, generator = _config(), torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    parts = {"mu": drawn(2, 3, 8, 4), "log_variance": drawn(2, 3, 8, 4), "z": drawn(2, 3, 8, 4)}
    logits, target = drawn(2, 3, 8, 9, 3), torch.nn.functional.one_hot(torch.randint(0, 3, (3, 8, 9))).double()
    batch = losses.Batch(**parts, target=target, logits=logits)
    terms, plan = losses.terms_of(config), control.plan_epoch(config, 0, Controllers.initial(config))
    numbers = {
        term.name: losses.TermNumbers(*(
            torch.tensor(values, dtype=torch.float64).unsqueeze(1).expand(-1, 3)
            for values in (term.weights(config, plan), term.settings(config))
        )) for term in terms
    }
    with_it, without = losses.Gradients(), losses.Gradients()
    with torch.no_grad():
        values = losses.compute_terms(terms, batch, numbers, with_it)
        losses.compute_terms(losses.TERMS, batch, numbers, without)
    added = config.loss.added["width"]
    for i in range(2):
        value, _ = added.value(PathwayBatch(target, *(part[i] for part in (*parts.values(), logits))))
        assert values["width"][i].tolist() == pytest.approx(value.tolist())
        slopes = torch.autograd.grad(0.5 * value.sum(), (*parts.values(), logits))
        for name, slope in zip((*parts, "logits"), slopes, strict=True):
            found, before = getattr(with_it, name)[i], getattr(without, name)
            rest = before.get(i, torch.zeros_like(found)) if name == "z" else before[i]
            torch.testing.assert_close(found - rest, slope[i], rtol=1e-6, atol=1e-12)


def test_divergence_names_it() -> None:
    endless = load_config(SMALL.as_dict(), {
        "loss.added.width": {"mode": "spread", "weight": 1.0, "target": 1e200},
    })
    with pytest.raises(DivergenceError, match=r"the spread of the latents of pathway A .* in epoch 0, step 1"):
        _records(endless)


def test_a_run_with_it_is_interrupted_resumed_and_verified(tmp_path: Path) -> None:
    config = _config()
    run_experiment(config, [1, 2], tmp_path / "whole", device="cpu")
    run_experiment(config, [1, 2], tmp_path / "resumed", device="cpu", stop=lambda: True)
    assert len(load_run(tmp_path / "resumed" / "seed=1").history) == 1
    run_experiment(config, [1, 2], tmp_path / "resumed", device="cpu")
    for seed in (1, 2):
        whole, resumed = (load_run(tmp_path / name / f"seed={seed}") for name in ("whole", "resumed"))
        assert list(whole.history.columns) == [*COLUMNS, *COLUMNS_OF_IT]
        rows = [run.history.drop(columns=list(TIMING_COLUMNS)).to_csv() for run in (whole, resumed)]
        assert rows[0] == rows[1]
        found = verify(resumed)
        assert found.sound, found.describe()
