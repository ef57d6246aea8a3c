"""Weights set by hand: the networks compute the formulas of the module, and the metrics follow from one dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ternary_lab import InputError, config, evaluate, space
from ternary_lab.model import PATHWAYS, Architecture, Pathway
from ternary_lab.studies.beyond_v55.set_by_hand import PARAMETERS, Parameters, set_by_hand

pytestmark = pytest.mark.usefixtures("one_thread")

OTHER = Parameters(mean=1.0, std_zero=0.3, std_one=0.5, threshold=0.4, slope=20.0, below=4.0, above=6.0)
DEEPER = config.Model(
    latent_dim=12, encoder_hidden=(40, 20, 18, 30), decoder_A_hidden=(9, 40, 36), decoder_B_hidden=45,
    decoder_B_blocks=3,
)


def _logits(z: torch.Tensor, p: Parameters) -> torch.Tensor:
    """The logits (n, 9, 3) of latents, as the module's formula states them."""
    own = z[:, :9].double()
    minus = (-p.slope * (own + p.threshold)).clamp(-p.below, p.above)
    plus = (p.slope * (own - p.threshold)).clamp(-p.below, p.above)
    return torch.stack((minus, torch.zeros_like(own), plus), -1)


@pytest.mark.parametrize("settings", [config.Model(), DEEPER])
@pytest.mark.parametrize("parameters", [PARAMETERS, OTHER])
@pytest.mark.parametrize("pathway", PATHWAYS)
def test_the_networks_compute_the_formulas(settings: config.Model, parameters: Parameters, pathway: Pathway) -> None:
    model = set_by_hand(settings, parameters)
    z = torch.randn(500, settings.latent_dim, generator=torch.Generator().manual_seed(1)) * 2
    expected = _logits(z, parameters)
    # The lift by 8 loses float32 digits of z: about 1e-6, times the slope.
    assert (model.decode(z, pathway) - expected).abs().max() < 2e-6 * parameters.slope
    tables = space.operations(torch.arange(0, space.SIZE, 31))
    code = model.encode(tables, pathway)
    assert code.mean[:, :9].allclose(parameters.mean * tables)
    assert code.std[:, :9].allclose(torch.where(tables == 0, parameters.std_zero, parameters.std_one))
    assert code.mean[:, 9:].abs().max() == 0
    assert code.log_variance[:, 9:].abs().max() == 0


def test_the_architecture_is_that_of_v55() -> None:
    model = set_by_hand()
    blocks = model.core.blocks
    assert model.settings == config.Model()
    assert Architecture(model.settings).parameters == 168_770
    assert sum(block.numel() for block in (blocks.encoders, *blocks.trained()[1:], blocks.statenet)) == 168_770


def _one_dimension(p: Parameters) -> tuple[float, float]:
    """Informative coverage in percent and -ELBO in nats, from sums over a grid of one latent dimension."""
    z = torch.linspace(-8, 8, 1_600_001, dtype=torch.float64)
    logits = _logits(z.unsqueeze(1), p)[:, 0]
    log_p = torch.log_softmax(logits, 1)
    step = float(z[1] - z[0])

    def mean(values: torch.Tensor, centre: float, std: float) -> np.ndarray:
        density = torch.from_numpy(norm.pdf(z.numpy(), centre, std)).unsqueeze(-1)
        return (density * values).sum(0).numpy() * step

    output = mean(log_p.exp(), 0, 1)
    noise = float(-mean((log_p.exp() * log_p).sum(1, keepdim=True), 0, 1)[0])
    information = float(-(output * np.log(output)).sum()) - noise
    bound = 0.0
    for value in (-1, 0, 1):
        std = p.std_one if value else p.std_zero
        centre = p.mean * value
        bound -= mean(log_p, centre, std)[value + 1] / 3
        bound += (0.5 * (centre**2 + std**2 - 1) - math.log(std)) / 3
    return 100 * math.exp(9 * information) / space.SIZE, 9 * bound


def test_its_metrics_are_nine_times_those_of_one_entry() -> None:
    found = evaluate(set_by_hand(), latents=2**18)
    coverage, bound = _one_dimension(PARAMETERS)
    for pathway in PATHWAYS:
        own = getattr(found, pathway)
        assert own.informative_coverage == pytest.approx(coverage, abs=1.5)  # the estimate falls with more latents
        assert own.informative_coverage > 95
        assert own.neg_elbo == pytest.approx(bound, abs=0.05)
        assert 12.7 < own.neg_elbo < 13.0
        assert own.active_units == 9
        shares = found.reconstruction[pathway]
        assert (shares.train, shares.validation, shares.test) == (100, 100, 100)


@pytest.mark.parametrize("narrow", [
    {"latent_dim": 8}, {"encoder_hidden": (64, 17)}, {"decoder_A_hidden": (64,)}, {"decoder_A_hidden": (8, 64)},
    {"decoder_A_hidden": (32, 35)}, {"decoder_A_hidden": (32, 64, 35)}, {"decoder_B_hidden": 44},
    {"decoder_B_blocks": 0},
])
def test_networks_that_are_too_narrow_are_refused(narrow: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(narrow))}: weights set by hand need at least"):
        set_by_hand(config.Model.model_validate(narrow))
