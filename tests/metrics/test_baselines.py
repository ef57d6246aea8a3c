"""Baseline models: each scores well in the metrics that it is made for, and in no other."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from ternary_lab import InputError, evaluate, load_run, load_runs, space
from ternary_lab.metrics import baselines
from ternary_lab.metrics.coverage import draws_needed, expected_coverage, uniform_coverage
from ternary_lab.studies.coverage import figures
from ternary_lab.studies.probes import all_probes

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


def test_figures_have_alternative_text_and_data() -> None:
    runs = load_runs("v5_5")
    uniform = baselines.uniform(space.SIZE)
    tilted = torch.arange(1.0, space.SIZE + 1, dtype=torch.float64)
    outputs = {"flat, A": uniform, "tilted, B": tilted / tilted.sum()}
    entropies = pd.DataFrame([
        {"epoch": e, "pathway": p, "output_entropy": 9.0, "decoder_noise": 5.0 - e} for e in (0, 1) for p in "AB"
    ])
    metrics = [f"m{i}, {unit}" for i, unit in enumerate(("%", "%", "%", "%", "nats", "nats"))]
    scores = pd.DataFrame({metric: [1.0, 2.0] for metric in metrics}, index=["a", "v5.5"])
    drawings = {
        "curves": figures.curves(outputs), "counts": figures.counts(all_probes(runs)),
        "learnt": figures.learnt(runs.history), "entropies": figures.entropies(entropies),
        "games": figures.games(scores, dict.fromkeys(metrics, 1.0)), "rarest": figures.rarest(outputs),
    }
    for name, drawing in drawings.items():
        assert isinstance(drawing.figure, Figure), name
        assert len(drawing.data) > 0, name
        assert "nan" not in drawing.alt.split(), name
    curve = drawings["curves"].data
    assert curve["flat, A"].to_numpy() == pytest.approx(curve["uniform"].to_numpy())
    assert (curve["tilted, B"] <= curve["uniform"] + 1e-9).all()
    assert list(drawings["rarest"].data["operation"][5:]) == [0, 1, 2, 3, 4]
