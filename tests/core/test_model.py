"""Tests of the networks for several runs, and of the public model on valid and invalid tensors.

The networks for several runs are compared with plain torch.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ternary_lab import space
from ternary_lab.config import Config, Model
from ternary_lab.errors import InputError
from ternary_lab.model import Architecture, DualVAE, TernaryVAE, inject
from ternary_lab.networks import Blocks, Bound

ARCHITECTURE = Architecture(Model())


def _cohort(seeds: list[int]) -> DualVAE:
    return DualVAE(ARCHITECTURE, Blocks.join([ARCHITECTURE.initialise(seed) for seed in seeds]))


@pytest.fixture(scope="module")
def model() -> TernaryVAE:
    return TernaryVAE(Model(), ARCHITECTURE.initialise(7))


def test_parameter_counts_are_those_of_v55() -> None:
    a = ARCHITECTURE
    assert (a.encoder.size, a.decoder_A.size, a.decoder_B.size, a.parameters) == (45_792, 4_411, 71_707, 168_770)


@pytest.mark.parametrize("name", ["encoder", "decoder_A", "decoder_B"])
def test_a_network_equals_plain_torch_forwards_and_backwards(name: str) -> None:
    network = getattr(ARCHITECTURE, name)
    attribute = "encoders" if name == "encoder" else name
    rows = [getattr(_cohort([seed]).blocks, attribute).flatten()[: network.size] for seed in (1, 2)]
    block = torch.stack(rows).requires_grad_()
    x = torch.randn(2, 5, network.layers[0].inputs, requires_grad=True)

    def plain(run: int) -> torch.Tensor:
        w = dict(network.parts(block[run]))

        def linear(part: str, h: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(h, w[f"{part}.weight"], w[f"{part}.bias"])

        h = x[run]
        if name == "decoder_B":
            h = linear("fc_in", h).relu()
            h = h + linear("residual1.block.2", linear("residual1.block.0", h).relu())
            h = h.relu()
            h = h + linear("residual2.block.2", linear("residual2.block.0", h).relu())
            return linear("fc_out", h)
        if name == "decoder_A":
            return linear("decoder.4", linear("decoder.2", linear("decoder.0", h).relu()).relu())
        h = linear("encoder.4", linear("encoder.2", linear("encoder.0", h).relu()).relu()).relu()
        return torch.cat((linear("fc_mu", h), linear("fc_logvar", h)), -1)

    expected = torch.stack([plain(0), plain(1)])
    actual = network(block, x)
    torch.testing.assert_close(actual, expected)
    features_first = Bound(network, block.detach()).infer(x.detach().transpose(1, 2))
    torch.testing.assert_close(features_first.transpose(1, 2), expected)
    weights = torch.randn_like(expected)
    theirs = torch.autograd.grad((expected * weights).sum(), (block, x))
    ours = torch.autograd.grad((actual * weights).sum(), (block, x))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_initial_weights_are_those_that_torch_draws_for_the_seed() -> None:
    torch.manual_seed(43)
    first = torch.nn.Linear(9, 256)
    named = ARCHITECTURE.named(ARCHITECTURE.initialise(43))
    assert torch.equal(named["encoder_A.encoder.0.weight"], first.weight)
    assert torch.equal(named["encoder_A.encoder.0.bias"], first.bias)


def test_weights_by_name_come_back_as_the_same_blocks() -> None:
    blocks = ARCHITECTURE.initialise(3)
    again = ARCHITECTURE.from_named(ARCHITECTURE.named(blocks), "here")
    for mine, theirs in zip(vars(blocks).values(), vars(again).values(), strict=True):
        assert torch.equal(mine, theirs)


def test_runs_keep_to_themselves() -> None:
    x = space.operations(torch.arange(0, space.SIZE, 997)).expand(2, -1, -1)
    together = _cohort([1, 2]).encode(x)[0]
    for run, seed in enumerate((1, 2)):
        torch.testing.assert_close(together[:, run], _cohort([seed]).encode(x[:1])[0][:, 0], rtol=1e-5, atol=1e-6)


def test_injection_mixes_values_and_stops_the_others_gradient() -> None:
    z = torch.randn(2, 1, 4, 3, requires_grad=True)
    mixed = inject(z, 0.25)
    torch.testing.assert_close(mixed[0], 0.75 * z[0] + 0.25 * z[1])
    (gradient,) = torch.autograd.grad(mixed[0].sum(), z)
    assert torch.equal(gradient[0], torch.full_like(gradient[0], 0.75))
    assert not gradient[1].any()


def test_shapes_of_the_public_methods(model: TernaryVAE) -> None:
    x = space.operations(torch.arange(6)).view(2, 3, 9)
    posterior = model.encode(x, pathway="A")
    assert posterior.mean.shape == posterior.log_variance.shape == (2, 3, 16)
    assert posterior.kl().shape == (2, 3)
    assert (posterior.kl() >= 0).all()
    assert posterior.sample(generator=torch.Generator().manual_seed(0)).shape == (2, 3, 16)
    assert model.decode(posterior.mean).shape == (2, 3, 9, 3)
    assert model.reconstruct(x, rho=0.1).shape == x.shape
    for argmax in (False, True):
        drawn = model.sample(5, pathway="B", argmax=argmax, generator=torch.Generator().manual_seed(0))
        assert drawn.shape == (5, 9)
        assert torch.equal(space.operations(space.index_of(drawn)), drawn)


def test_reconstruct_is_the_argmax_of_the_decoded_mean(model: TernaryVAE) -> None:
    x = space.operations(torch.arange(0, space.SIZE, 1999))
    expected = model.decode(model.encode(x, "A").mean, "A").argmax(-1) - 1
    assert torch.equal(model.reconstruct(x, pathway="A"), expected.float())
    # With ρ = 1, a decoder decodes the code of the other pathway.
    crossed = model.decode(model.encode(x, "B").mean, "A").argmax(-1) - 1
    assert torch.equal(model.reconstruct(x, rho=1.0, pathway="A"), crossed.float())


def test_sampling_follows_the_decoders_probabilities(model: TernaryVAE) -> None:
    drawn = model.sample(40_000, generator=torch.Generator().manual_seed(1))
    z = torch.randn(40_000, 16, generator=torch.Generator().manual_seed(2))
    expected = torch.softmax(model.decode(z), -1).mean(0)
    observed = torch.stack([(drawn == value).float().mean(0) for value in (-1, 0, 1)], -1)
    torch.testing.assert_close(observed, expected, rtol=0, atol=0.015)


@pytest.mark.parametrize(
    ("call", "offender"),
    [
        (lambda m: m.encode(torch.zeros(3, 8)), r"\(3, 8\)"),
        (lambda m: m.encode(torch.full((1, 9), 2.0)), "got 2"),
        (lambda m: m.encode(torch.full((1, 9), float("nan"))), "nan"),
        (lambda m: m.encode([[0] * 9]), "list"),
        (lambda m: m.encode(torch.zeros(1, 9), pathway="C"), "'C'"),
        (lambda m: m.decode(torch.zeros(1, 15)), r"\(1, 15\)"),
        (lambda m: m.decode(torch.zeros(1, 16, dtype=torch.long)), "int64"),
        (lambda m: m.decode(torch.full((1, 16), float("inf"))), "finite"),
        (lambda m: m.sample(-1), "-1"),
        (lambda m: m.sample(1.5), "1.5"),
        (lambda m: m.reconstruct(torch.zeros(1, 9), rho=1.5), "1.5"),
        (lambda m: m.reconstruct(torch.zeros(9, 9, dtype=torch.bool)), "bool"),
    ],
)
def test_a_bad_tensor_is_named(model: TernaryVAE, call: object, offender: str) -> None:
    with pytest.raises(InputError, match=offender):
        call(model)  # type: ignore[operator]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 24), min_size=1, max_size=3), st.integers(1, 12), st.integers(0, 3))
def test_every_architecture_runs_both_ways(hidden: list[int], latent: int, blocks: int) -> None:
    settings_ = Config().model.model_copy(
        update={"encoder_hidden": tuple(hidden), "latent_dim": latent, "decoder_B_blocks": blocks}
    )
    architecture = Architecture(settings_)
    vae = TernaryVAE(settings_, architecture.initialise(0))
    x = space.operations(torch.arange(4))
    assert vae.reconstruct(x).shape == (4, 9)
    block = vae.core.blocks.decoder_B.clone().requires_grad_()
    out = architecture.decoder_B(block, torch.randn(1, 4, latent))
    assert torch.autograd.grad(out.sum(), block)[0].shape == block.shape
