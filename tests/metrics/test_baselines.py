"""Baseline models: each scores well in the metrics that it is made for, and in no other."""

from __future__ import annotations

import math

import pytest
import torch

from ternary_lab import InputError, evaluate, load_run, space
from ternary_lab.metrics import baselines
from ternary_lab.metrics.coverage import draws_needed, expected_coverage, uniform_coverage

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"samples": 20_000, "latents": 4096}


def test_the_uniform_sampler() -> None:
    p = baselines.uniform(space.SIZE)
    for n in (1, 10_000, 195_000):
        assert float(expected_coverage(p, n)) == pytest.approx(uniform_coverage(n))
    assert draws_needed(p) == pytest.approx(90_641, abs=1)


def test_a_collapsed_model_is_uniform_and_has_no_information() -> None:
    found = evaluate(baselines.collapsed(), **SMALL)
    for pathway in (found.A, found.B):
        assert pathway.information == pytest.approx(0, abs=1e-4)
        assert pathway.neg_elbo == pytest.approx(math.log(space.SIZE), abs=1e-4)
        assert pathway.active_units == 0
        assert pathway.sampled_coverage == pytest.approx(uniform_coverage(20_000), abs=1)
    assert torch.allclose(found.output["A"], baselines.uniform(space.SIZE), rtol=1e-4)


def test_scaled_logits_keep_every_argmax() -> None:
    model = load_run("v5_5/seed=42").model(60)
    loud = baselines.scaled(model, 7.0)
    z = torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    for pathway in ("A", "B"):
        assert torch.allclose(loud.decode(z, pathway), 7 * model.decode(z, pathway), rtol=1e-4, atol=1e-3)
    before, after = evaluate(model, **SMALL), evaluate(loud, **SMALL)
    assert after.reconstruction["A"] == before.reconstruction["A"]
    assert after.A.effective_coverage == pytest.approx(before.A.effective_coverage)
    assert after.A.decoder_noise < before.A.decoder_noise
    assert after.A.neg_elbo > before.A.neg_elbo


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_an_invalid_factor_is_refused(factor: float) -> None:
    with pytest.raises(InputError, match="factor"):
        baselines.scaled(baselines.untrained(), factor)


def test_the_random_map_is_linear_and_sharp() -> None:
    model = baselines.random_map(3)
    x, y = torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(2))
    summed = model.decode(x, "A") + model.decode(y, "A")
    assert torch.allclose(model.decode(x + y, "A"), summed, rtol=1e-3, atol=1.0)
    assert float(torch.softmax(model.decode(x, "A"), -1).amax(-1).median()) > 0.999


def test_an_untrained_network_depends_on_its_seed_only() -> None:
    x = space.operations()[:20]
    first, same, other = (baselines.untrained(seed).encode(x).mean for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
