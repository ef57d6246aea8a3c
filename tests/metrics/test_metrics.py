"""Metrics compared with slow, simple implementations, and relations between metrics."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.backend.random_streams import Streams, stream
from ternary_lab.config import Model
from ternary_lab.metrics import coverage, latent_entropy, likelihood
from ternary_lab.metrics.codes import principal_directions
from ternary_lab.metrics.information import Information, information
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import PATHWAYS, Architecture, DualVAE, Pathway
from ternary_lab.networks import Blocks
from ternary_lab.runs.checkpoint import import_original
from ternary_lab.space import SIZE

pytestmark = pytest.mark.usefixtures("one_thread")

ARCHITECTURE = Architecture(Model(latent_dim=3, encoder_hidden=(12,), decoder_A_hidden=(10,), decoder_B_hidden=8))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> DualVAE:
    """Two runs with sharp decoders, so that the output depends on the latent."""
    blocks = Blocks.join([ARCHITECTURE.initialise(seed) for seed in (1, 2)])
    blocks.decoder_A *= 3
    blocks.decoder_B *= 3
    return DualVAE(ARCHITECTURE, blocks)


def _entry_probabilities(model: DualVAE, run: int, pathway: Pathway, z: Tensor) -> np.ndarray:
    """(M, 9, 3), float64, of latents z (L, M)."""
    logits = model.run(run).decode_features(z.unsqueeze(0), pathway)
    return torch.softmax(logits[0].double(), 1).permute(2, 0, 1).numpy()


# --- coverage


@pytest.mark.parametrize("n", [1, 1000, 19_683, 195_000])
def test_uniform_coverage_equals_that_of_simulated_draws(n: int) -> None:
    rng = np.random.default_rng(0)
    counts = [len(np.unique(rng.integers(0, SIZE, n))) for _ in range(20)]
    error = max(np.std(counts) / math.sqrt(20), 0.5)
    assert np.mean(counts) == pytest.approx(SIZE * coverage.uniform_coverage(n) / 100, abs=4 * error)


@pytest.mark.parametrize(("n", "percent"), [(10_000, 39.83), (50_000, 92.12), (195_000, 99.995)])
def test_uniform_coverage_has_the_values_of_the_design(n: int, percent: float) -> None:
    assert coverage.uniform_coverage(n) == pytest.approx(percent, abs=0.006)


def test_expected_coverage_of_the_uniform_distribution_is_the_uniform_coverage() -> None:
    uniform = torch.full((SIZE,), 1 / SIZE, dtype=torch.float64)
    for n in (1, 10_000, 195_000):
        assert float(coverage.expected_coverage(uniform, n)) == pytest.approx(coverage.uniform_coverage(n))


def test_draws_needed_inverts_expected_coverage() -> None:
    uniform = torch.full((SIZE,), 1 / SIZE, dtype=torch.float64)
    assert coverage.draws_needed(uniform) == 90_641
    p = torch.rand(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 2 + 1e-4
    p /= p.sum()
    for share in (0.5, 0.9, 0.99):
        n = coverage.draws_needed(p, share)
        assert float(coverage.expected_coverage(p, n - 1)) < 100 * share <= float(coverage.expected_coverage(p, n + 1))


@pytest.mark.parametrize("rare", [1e-12, 1e-30, 1e-300])
def test_draws_needed_for_very_rare_operations(rare: float) -> None:
    p = torch.full((SIZE,), rare, dtype=torch.float64)
    p[0] = 1 - (SIZE - 1) * rare
    assert coverage.draws_needed(p) == pytest.approx(math.log(100) / rare, rel=1e-3)
    p[1:] = 1e-320
    assert coverage.draws_needed(p) == math.inf


def test_operations_without_mass_are_never_drawn() -> None:
    p = torch.zeros(SIZE, dtype=torch.float64)
    p[: SIZE // 2] = 2 / SIZE
    assert coverage.draws_needed(p) == math.inf
    assert coverage.draws_needed(p, 0.25) < math.inf


@pytest.mark.parametrize("decoding", ["categorical", "argmax"])
@pytest.mark.parametrize("pathway", PATHWAYS)
def test_drawn_operations_equal_those_in_a_python_set(
    model: DualVAE, pathway: Pathway, decoding: coverage.Decoding
) -> None:
    """The same draws, decoded one by one with numpy into a Python set."""
    n = 6000  # more than a chunk
    streams = Streams((3, 4), "coverage", device=torch.device("cpu"))
    counted = coverage.drawn_operations(model, pathway, n, decoding, streams).sum(1).tolist()
    for run, seed in enumerate((3, 4)):
        generator = stream(seed, "coverage")
        z = torch.empty(3, n).normal_(generator=generator)
        p = _entry_probabilities(model, run, pathway, z)
        if decoding == "argmax":
            classes = p.argmax(2)
        else:
            u = torch.empty(9, n).uniform_(generator=generator).double().numpy().T[:, :, None]
            classes = (u > p.cumsum(2)[:, :, :2]).sum(2)
        seen = {tuple(row) for row in classes.tolist()}
        # A draw within float rounding of a class boundary may fall either way.
        assert abs(counted[run] - len(seen)) <= 1


def test_drawn_classes_have_the_frequencies_of_the_decoder() -> None:
    logits = torch.randn(1, 9, 3, 1, generator=torch.Generator().manual_seed(0)).expand(1, 9, 3, 40_000)
    u = torch.rand(1, 9, 40_000, generator=torch.Generator().manual_seed(1))
    classes = coverage.entry_classes(logits.clone(), u)[0].long()
    frequencies = torch.nn.functional.one_hot(classes, 3).double().mean(1)
    torch.testing.assert_close(frequencies, torch.softmax(logits[0, :, :, 0].double(), 1), atol=0.012, rtol=0)


def test_best_classes_is_argmax_with_the_lowest_of_equal_ones() -> None:
    values = torch.tensor(list(itertools.product((0.0, 1.0, 2.0), repeat=3)))  # all orders and all ties
    logits = values.t().reshape(1, 1, 3, -1).expand(1, 9, 3, -1)
    expected = [row.index(max(row)) for row in values.tolist()]
    assert coverage.best_classes(logits)[0].tolist() == [expected] * 9


def test_class_index_is_the_index_of_the_operation() -> None:
    assert torch.equal(coverage.class_index((space.operations().t() + 1).unsqueeze(0)), torch.arange(SIZE).unsqueeze(0))


# --- information


def _brute_force(model: DualVAE, run: int, pathway: Pathway, z: Tensor) -> tuple[np.ndarray, float, float, float]:
    """(p̂, H(X|Z), its correction, entropy of argmax) over all 19,683 operations, latent by latent."""
    classes = (space.operations() + 1).long().numpy()
    conditional = np.stack([
        np.prod(q[np.arange(9), classes], axis=1) for q in _entry_probabilities(model, run, pathway, z)
    ])
    p, m = conditional.mean(0), len(conditional)
    noise = float(np.mean(-(conditional * np.log(conditional)).sum(1)))
    correction = float(((conditional**2).mean(0) / p).sum() - 1) / (2 * m)
    _, counts = np.unique(conditional.argmax(1), return_counts=True)
    argmax = float(-(counts / m * np.log(counts / m)).sum()) + (len(counts) - 1) / (2 * m)
    return p, noise, correction, argmax


@pytest.mark.parametrize("pathway", PATHWAYS)
def test_information_equals_brute_force(model: DualVAE, pathway: Pathway) -> None:
    z = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(5))
    info = information(model, pathway, iter([z[:, :, :5], z[:, :, 5:]]))
    assert info.latents == 12
    for run in range(2):
        p, noise, correction, argmax = _brute_force(model, run, pathway, z[run])
        np.testing.assert_allclose(info.p[run].numpy(), p, rtol=1e-4, atol=1e-12)
        raw = float(-(p * np.log(p)).sum())
        assert float(info.output_entropy_raw[run]) == pytest.approx(raw, rel=1e-5)
        assert float(info.output_entropy[run]) == pytest.approx(raw + correction, rel=1e-5)
        assert float(info.decoder_noise[run]) == pytest.approx(noise, rel=1e-5)
        assert float(info.argmax_entropy[run]) == pytest.approx(argmax, rel=1e-6)
        share = 100 * math.exp(raw + correction - noise) / SIZE
        assert float(info.informative_coverage[run]) == pytest.approx(share, rel=1e-4)
        assert float(info.informative_coverage_raw[run]) == pytest.approx(100 * math.exp(raw - noise) / SIZE, rel=1e-4)
        assert float(info.effective_coverage[run]) == pytest.approx(100 * math.exp(argmax) / SIZE, rel=1e-5)
        rare = coverage.rare_figures(info.p[run])
        assert rare["missing_mass"] == pytest.approx(float(np.mean(-math.log(SIZE) - np.log(p))), rel=1e-4)
        assert rare["rarest"] == pytest.approx(SIZE * p.min(), rel=1e-3)


def test_corrected_entropies_agree_with_those_of_more_latents(data: Path) -> None:
    """For a trained model with many rare operations, 65,536 latents are too few without a correction."""
    trained = import_original(data / "epoch_60.pt").model().core

    def measured(m: int, seed: int) -> Information:
        return information(trained, "B", (z.unsqueeze(0) for z in sobol_normal(16, m, seed, CPU)))

    few, many = measured(32_768, 1), measured(262_144, 2)
    for name in ("output_entropy", "informative_coverage"):
        exact = float(getattr(many, name))
        raw, corrected = float(getattr(few, f"{name}_raw")), float(getattr(few, name))
        assert raw < exact, name
        assert abs(corrected - exact) < 0.25 * (exact - raw), name


def test_information_of_a_flat_decoder_and_of_a_constant_one() -> None:
    """Equal logits: I = 0 and H(X) = ln N. Sharp logits that do not depend on the latent: a single operation."""
    blocks = ARCHITECTURE.empty()
    flat = information(DualVAE(ARCHITECTURE, blocks), "A", iter([torch.randn(1, 3, 64)]))
    assert float(flat.output_entropy) == pytest.approx(math.log(SIZE))
    assert float(flat.information) == pytest.approx(0, abs=1e-4)
    assert coverage.rare_figures(flat.p[0])["missing_mass"] == pytest.approx(0, abs=1e-5)
    dict(ARCHITECTURE.decoder_A.parts(blocks.decoder_A[0]))["decoder.2.bias"][::3] = 50.0
    one = information(DualVAE(ARCHITECTURE, blocks), "A", iter([torch.randn(1, 3, 64)]))
    assert (float(one.output_entropy), int(one.p.argmax())) == (pytest.approx(0, abs=1e-6), 0)
    assert float(one.effective_coverage) == pytest.approx(100 / SIZE)


def test_sobol_latents_are_standard_normal_and_repeatable() -> None:
    def points(seed: int) -> Tensor:
        return torch.cat(list(sobol_normal(5, 8192, seed, CPU)), 1)

    z = points(1)
    assert z.shape == (5, 8192)
    assert bool(torch.isfinite(z).all())
    torch.testing.assert_close(z.mean(1), torch.zeros(5), atol=2e-3, rtol=0)
    torch.testing.assert_close(z @ z.t() / 8192, torch.eye(5), atol=2e-2, rtol=0)
    assert torch.equal(points(1), z)
    assert not torch.equal(points(2), z)


# --- latent entropy


def _oracle(z: Tensor) -> float:
    """The report's H with torch.histc: values outside [-3, 3] are dropped, 3.0 is in the last bin."""
    values = []
    for column in z.t():
        p = torch.histc(column, 50, -3, 3)
        p = p[p > 0] / p.sum()
        values.append(-(p * p.log()).sum().item())
    return sum(values) / len(values)


def test_batch_entropy_equals_histc() -> None:
    z = 1.5 * torch.randn(2, 3, 64, 16, generator=torch.Generator().manual_seed(0))
    h = latent_entropy.batch_entropy(z)
    assert h.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        assert h[i, j].item() == pytest.approx(_oracle(z[i, j]), rel=1e-5)


def test_values_at_the_edges_of_the_histogram() -> None:
    def h(*values: float) -> float:
        return latent_entropy.batch_entropy(torch.tensor(values).unsqueeze(1)).item()

    two = pytest.approx(math.log(2))
    assert h(3.0, 2.95) == 0  # both in the last bin
    assert h(-3.0, 3.0) == two
    assert h(-3.0, 3.0, 3.0001, -3.0001, math.inf, -math.inf, math.nan) == two  # values outside are dropped
    assert h(5.0, -5.0) == 0  # nothing inside
    assert h(1.0) == 0
    centres = [-3 + 0.12 * (i + 0.5) for i in range(50)]
    assert h(*centres) == pytest.approx(math.log(50))


def test_expected_entropy_is_that_of_64_normal_draws() -> None:
    mean, deviation = latent_entropy.expected_entropy(64)
    assert mean == pytest.approx(3.165, abs=0.006)
    assert deviation == pytest.approx(0.087, abs=0.004)
    assert latent_entropy.expected_entropy(200_000, repeats=4)[0] == pytest.approx(3.523, abs=0.003)


# --- likelihood


def _data(model: DualVAE, count: int, seed: int = 0) -> Tensor:
    indices = torch.randint(0, SIZE, (count,), generator=torch.Generator().manual_seed(seed))
    return space.operations(indices).expand(model.runs, -1, -1)


def _noise(samples: int, x: Tensor, seed: int) -> Tensor:
    return torch.randn(samples, 2, x.shape[0], x.shape[1], 3, generator=torch.Generator().manual_seed(seed))


def test_one_importance_sample_is_the_elbo_in_expectation(model: DualVAE) -> None:
    """They differ only in the KL term, which is sampled in one and exact in the other."""
    x = _data(model, 500)
    pairs = [(likelihood.negative_elbo(model, x, e), likelihood.coding(model, x, e).neg_iwae.mean(2))
             for e in (_noise(1, x, seed) for seed in range(60))]
    differences = torch.stack([iwae - elbo for elbo, iwae in pairs])
    error = differences.std(0) / math.sqrt(len(pairs))
    assert bool((differences.mean(0).abs() < 4 * error).all())
    assert bool((error < 0.05).all())


def test_more_importance_samples_give_a_tighter_bound(model: DualVAE) -> None:
    x = _data(model, 300)
    bounds = [likelihood.negative_elbo(model, x, _noise(64, x, 1))]
    bounds += [likelihood.coding(model, x, _noise(k, x, k)).neg_iwae.mean(2) for k in (4, 64)]
    assert bool((bounds[0] > bounds[1]).all())
    assert bool((bounds[1] > bounds[2]).all())


def test_elbo_of_all_samples_is_the_mean_over_samples(model: DualVAE) -> None:
    x = _data(model, 20)
    noise = _noise(5, x, 3)
    each = torch.stack([likelihood.negative_elbo(model, x, eps.unsqueeze(0)) for eps in noise])
    torch.testing.assert_close(likelihood.negative_elbo(model, x, noise), each.mean(0))


def test_elbo_equals_its_definition(model: DualVAE) -> None:
    x = _data(model, 6)
    noise = _noise(1, x, 4)
    mu, log_variance = model.encode(x)
    normal = torch.distributions.Normal(mu, (0.5 * log_variance).exp())
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1).mean(2)
    entries = torch.distributions.Categorical(logits=model.decode(mu + (0.5 * log_variance).exp() * noise[0]))
    log_p = entries.log_prob((x + 1).expand(2, -1, -1, -1)).sum(-1).mean(2)
    torch.testing.assert_close(likelihood.negative_elbo(model, x, noise), kl - log_p)


def test_over_the_whole_space_no_bound_is_below_ln_n(model: DualVAE) -> None:
    """The mean of -ln p over all N is ln N + KL(U‖p), and the flat decoder with q = prior attains it."""
    flat = DualVAE(ARCHITECTURE, ARCHITECTURE.empty())
    for candidate in (model, flat):
        x = space.operations().expand(candidate.runs, -1, -1)
        noise = _noise(1, x, 5)
        assert bool((likelihood.negative_elbo(candidate, x, noise) > math.log(SIZE) - 1e-3).all())
    torch.testing.assert_close(likelihood.negative_elbo(flat, x, noise), torch.full((2, 1), math.log(SIZE)))
    torch.testing.assert_close(likelihood.coding(flat, x, noise).neg_iwae.mean(2), torch.full((2, 1), math.log(SIZE)))


def test_exact_reconstruction_counts_operations_with_nine_right_entries(model: DualVAE) -> None:
    x = _data(model, 400)
    mu, _ = model.encode(x)
    for rho in (0.0, 0.3):
        mixed = torch.stack([(1 - rho) * mu[0] + rho * mu[1], (1 - rho) * mu[1] + rho * mu[0]])
        right = (model.decode(mixed).argmax(-1) - 1 == x).all(-1).double().mean(2) * 100
        found = likelihood.percent_exact(likelihood.right_entries(model, mu, x, rho))
        torch.testing.assert_close(found.double(), right)
    flat = DualVAE(ARCHITECTURE, ARCHITECTURE.empty())
    minus = -torch.ones(1, 4, 9)
    minus[0, 0, 0] = 1
    found = likelihood.percent_exact(likelihood.right_entries(flat, flat.encode(minus)[0], minus))
    assert found.tolist() == [[75.0], [75.0]]


def test_units_with_a_varying_mean_are_active() -> None:
    blocks = ARCHITECTURE.empty()
    for row, alive in ((blocks.encoders[0, 0], 2), (blocks.encoders[1, 0], 0)):
        parts = dict(ARCHITECTURE.encoder.parts(row))
        parts["encoder.0.weight"][0, 0] = 1.0  # h₀ = ReLU(x₀)
        parts["fc_mu.weight"][:alive, 0] = 1.0
        parts["fc_mu.weight"][2, 0] = 0.1  # variance 0.01 · 2/9
        parts["fc_mu.bias"][:] = 5.0
    x = space.operations().unsqueeze(0)
    assert likelihood.active_units(DualVAE(ARCHITECTURE, blocks).encode(x)[0]).tolist() == [[2], [0]]


def test_principal_directions_are_those_of_the_singular_value_decomposition() -> None:
    spread = torch.diag(torch.tensor([5.0, 3, 2, 1, 0.5, 0.1]))
    mu = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) @ spread
    directions, deviations = principal_directions(mu, 4)
    _, s, vh = np.linalg.svd((mu - mu.mean(0)).numpy(), full_matrices=False)
    np.testing.assert_allclose(deviations.numpy(), s[:4] / math.sqrt(300), rtol=1e-5)
    np.testing.assert_allclose(np.abs((directions.numpy() * vh[:4]).sum(1)), 1, rtol=1e-5)
