"""Measures of generalisation compared with slow, simple implementations, and relations between them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ternary_lab import ConfigError, InputError, load_config, space, splits, symmetry
from ternary_lab.config import CONNECTIVES
from ternary_lab.metrics import baselines, likelihood
from ternary_lab.model import PATHWAYS, Architecture, TernaryVAE
from ternary_lab.studies.checkpoints_and_ensembles import calibration
from ternary_lab.studies.generalisation import arithmetic, neighbourhood, paths, robustness, trivial

pytestmark = pytest.mark.usefixtures("one_thread")

SOME = torch.arange(0, space.SIZE, 97)


@pytest.fixture(scope="module")
def copying() -> TernaryVAE:
    """A model whose code is the operation itself, entry by entry, and whose decoders return it."""
    settings = load_config("v5_5", {
        "model": {"latent_dim": 9, "encoder_hidden": [18], "decoder_A_hidden": [18], "decoder_B_hidden": 18,
                  "decoder_B_blocks": 0},
    }).model
    blocks = Architecture(settings).empty()
    network = Architecture(settings)
    identity = torch.eye(9)
    signs = torch.cat((identity, -identity))
    for encoder in (blocks.encoders[0], blocks.encoders[1]):
        (first, _), (head, bias) = network.encoder.views(encoder)
        first[0], head[0, :9] = signs, torch.cat((identity, -identity), 1)
        bias[0, 9:] = -12  # σ = e^-6
    for decoder, block in ((network.decoder_A, blocks.decoder_A), (network.decoder_B, blocks.decoder_B)):
        (first, _), (last, bias) = decoder.views(block)
        first[0] = signs
        for k, value in itertools.product(range(9), (-1, 0, 1)):
            # Logits -8 (z_k - value)², without the part that all three values share.
            last[0, 3 * k + value + 1, [k, k + 9]] = torch.tensor([16.0, -16.0]) * value
            bias[0, 3 * k + value + 1] = -8.0 * value**2
    return TernaryVAE(settings, blocks)


def test_the_copying_model_copies(copying: TernaryVAE) -> None:
    tables = space.operations(SOME)
    for pathway in PATHWAYS:
        torch.testing.assert_close(copying.encode(tables, pathway).mean, tables)
        assert (copying.reconstruct(tables, pathway=pathway) == tables).all()


# --- splits


def test_kleenes_clone_is_the_free_kleene_algebra_without_its_constants() -> None:
    """Berman & Mukaidono 1984: 84 elements on two generators, the constants 0 and 1 among them."""
    assert len(splits.members("logic:kleene")) == 82


def test_lukasiewicz_defines_the_operations_that_preserve_the_classical_values() -> None:
    """McNaughton 1951: with three values, exactly those operations."""
    expected = torch.nonzero(symmetry.preserves_classical(space.operations())).flatten()
    assert torch.equal(splits.members("logic:lukasiewicz"), expected)


def test_goedels_clone_equals_the_closure_of_a_python_set() -> None:
    connectives = [space.NAMED[name] for name in CONNECTIVES["goedel"] if name in space.NAMED]
    values = (-1, 0, 1)
    pairs = list(itertools.product(values, values))
    found = {tuple(a for a, _ in pairs), tuple(b for _, b in pairs), (-1,) * 9}
    while True:
        more = {tuple(f(x, y) for x, y in zip(one, other, strict=True))
                for one in found for other in found for f in connectives}
        if more <= found:
            break
        found |= more
    expected = space.index_of(torch.tensor(sorted(found)))
    assert torch.equal(splits.members("logic:goedel"), expected.sort().values)


@pytest.fixture(scope="module")
def named() -> torch.Tensor:
    """The orbit of every operation."""
    return symmetry.orbits(symmetry.GROUPS["isotopy and swap"])


@settings(max_examples=30)
@given(st.integers(0, space.SIZE - 1))
def test_an_orbit_agrees_with_the_orbits_of_the_group(named: torch.Tensor, index: int) -> None:
    assert torch.equal(splits.members(f"orbit:{index}"), torch.nonzero(named == named[index]).flatten())


@given(st.text("-0+*", min_size=9, max_size=9))
def test_a_pattern_contains_the_operations_that_match_it(pattern: str) -> None:
    signs = {-1: "-", 0: "0", 1: "+"}
    members = set(splits.members(f"pattern:{pattern}").tolist())
    assert len(members) == 3 ** pattern.count("*")
    for index in [0, 19_682, 5681, *list(members)[:5]]:
        table = space.operations(torch.tensor(index)).int().tolist()
        fits = all(c in ("*", signs[value]) for c, value in zip(pattern, table, strict=True))
        assert (index in members) == fits


@pytest.mark.parametrize(
    "structure", ["", "orbit", "orbit:-1", "orbit:19683", "logic:x", "pattern:++", "pattern:x********"]
)
def test_an_invalid_structure_is_refused(structure: str) -> None:
    with pytest.raises(InputError, match="orbit:INDEX"):
        splits.members(structure)
    if structure:
        with pytest.raises(ConfigError, match=r"data\.left_out"):
            load_config("v5_5", {"data.left_out": structure})


@pytest.mark.parametrize("structure", ["orbit:15929", "logic:kleene", "pattern:++-******"])
def test_a_left_out_structure_is_in_no_other_part_of_the_split(structure: str) -> None:
    data = load_config("v5_5", {"data.left_out": structure}).data
    whole, cut = space.split(data.split_seed), splits.split(data)
    members = set(splits.members(structure).tolist())
    assert set(cut.left_out.tolist()) == members
    for name in ("train", "validation", "test"):
        assert getattr(cut, name).tolist() == [i for i in getattr(whole, name).tolist() if i not in members]


def test_a_structure_that_leaves_an_empty_part_is_refused() -> None:
    data = load_config("v5_5", {"data.train_fraction": 0.0001, "data.left_out": "pattern:***0*****"}).data
    whole = space.split(data.split_seed, data.train_fraction)
    assert len(whole.train) == 1
    value = "-0+"[int(space.operations(whole.train)[0, 3]) + 1]
    data = load_config("v5_5", {"data.train_fraction": 0.0001, "data.left_out": f"pattern:***{value}*****"}).data
    with pytest.raises(ConfigError, match="no operation in the train split"):
        splits.split(data)


# --- robustness


@given(st.integers(0, space.SIZE - 1), st.integers(1, 3))
def test_flipped_tables_are_all_tables_at_their_distance(index: int, entries: int) -> None:
    table = space.operations(torch.tensor([index]))
    found = robustness.flipped(table, entries)[0]
    assert ((found != table).sum(1) == entries).all()
    assert len(set(space.index_of(found).tolist())) == 2**entries * math.comb(9, entries)


@pytest.mark.parametrize("pathway", PATHWAYS)
def test_a_copying_model_restores_no_table_and_tolerates_small_noise(copying: TernaryVAE, pathway: str) -> None:
    tables = space.operations(SOME)
    found = robustness.denoising(copying, pathway, tables, 1)  # type: ignore[arg-type]
    assert (found.original, found.flipped, found.other) == (0, 100, 0)
    shares = robustness.noise_tolerance(
        copying, pathway, tables, [0.0, 0.49, 1.0, 30.0], torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    )
    assert shares[:2] == [100, 100]
    assert 0 < shares[2] < 100
    assert shares[3] < 10


def test_the_best_denoising_is_a_guess_among_equally_likely_tables() -> None:
    """A model that always changes the same entry in the same way is right once in 18."""
    tables = space.operations()
    seen = robustness.flipped(tables).flatten(0, 1)
    guess = seen.clone()
    guess[:, 4] = (guess[:, 4] + 2) % 3 - 1
    right = (guess == tables.repeat_interleave(18, 0)).all(1).float().mean()
    assert 100 * float(right) == pytest.approx(robustness.best_denoising(1), rel=1e-5)
    assert robustness.best_denoising(2) == pytest.approx(100 / 144)


def test_half_radius_is_where_the_curve_crosses() -> None:
    assert robustness.half_radius([0, 1, 2], [100, 60, 40]) == pytest.approx(1.5)
    assert math.isnan(robustness.half_radius([0, 1], [100, 60]))


@pytest.mark.parametrize("entries", [0, 10, True, 1.5])
def test_a_wrong_number_of_entries_is_refused(entries: int) -> None:
    with pytest.raises(InputError, match="entries"):
        robustness.flipped(space.operations(SOME), entries)


# --- trivial methods


@pytest.mark.parametrize("components", [9, 8, 3])
def test_reconstruction_by_components_equals_that_of_a_loop(components: int) -> None:
    train, operations = space.operations(SOME), space.operations(SOME + 1)
    centred = train.double() - train.double().mean(0)
    values, vectors = np.linalg.eigh((centred.T @ centred).numpy())
    axes = vectors[:, np.argsort(-values)[:components]]
    expected = [
        [min(max(round(v), -1), 1) for v in train.double().mean(0).numpy() + axes @ axes.T @ row]
        for row in (operations.double() - train.double().mean(0)).numpy()
    ]
    assert trivial.by_components(train, operations, components).tolist() == expected


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_all_components_copy_operations_that_were_not_seen(seed: int) -> None:
    order = torch.randperm(space.SIZE, generator=torch.Generator().manual_seed(seed))
    train, unseen = space.operations(order[:196]), space.operations(order[196:])
    assert torch.equal(trivial.by_components(train, unseen), unseen)


@pytest.mark.parametrize("components", [0, 3, 10])
def test_components_that_the_training_operations_lack_are_refused(components: int) -> None:
    with pytest.raises(InputError, match=r"components must be a number in 1\.\.2"):
        trivial.by_components(space.operations(torch.tensor([0, 1, 5])), space.operations(SOME), components)


def test_the_nearest_seen_operation_equals_that_of_a_loop() -> None:
    train, operations = space.operations(SOME), space.operations(torch.arange(5, 2000, 13))
    found = trivial.nearest(train, operations)
    for operation, given_back in zip(operations, found, strict=True):
        distances = [int((operation != seen).sum()) for seen in train]
        assert torch.equal(given_back, train[distances.index(min(distances))])
    assert torch.equal(trivial.nearest(train, train), train)


# --- paths


@pytest.mark.parametrize("way", ["straight", "spherical"])
def test_paths_of_a_model_that_copies_have_no_detours(copying: TernaryVAE, way: str) -> None:
    generator = torch.Generator().manual_seed(1)
    pairs = torch.randperm(space.SIZE, generator=generator)[:400].view(200, 2)
    found = paths.path_quality(copying, "A", pairs, way)
    tables = space.operations(pairs)
    assert torch.equal(found.distance, (tables[:, 0] != tables[:, 1]).sum(1))
    assert found.arrives.all()
    assert (found.detour >= 1).all()
    if way == "straight":
        # From -1 to +1 a path leads over 0, which neither end has: two changes of one entry.
        across = ((tables[:, 0] - tables[:, 1]).abs() == 2).sum(1)
        assert torch.equal(found.detour * found.distance, (found.distance + across).float())
        assert torch.equal(found.between == 1, across == 0)
        length = (tables[:, 0] - tables[:, 1]).norm(dim=1)
        torch.testing.assert_close(found.per_length * length, found.detour * found.distance, atol=1e-3, rtol=1e-4)


def test_path_quality_agrees_with_walk() -> None:
    model = baselines.untrained(3)
    blocks = model.core.blocks.one(0).copy()
    blocks.decoder_B *= 3
    model = TernaryVAE(model.settings, blocks)
    pairs = torch.tensor([[5, 19_000], [77, 8000]])
    found = paths.path_quality(model, "B", pairs, "spherical", 33)
    for i, (a, b) in enumerate(pairs.tolist()):
        mu = model.encode(space.operations(torch.tensor([a, b])), "B").mean
        walked = paths.walk(model, "B", paths.spherical(mu[0], mu[1], 33), (a, b))
        assert float(found.detour[i] * found.distance[i]) == pytest.approx(walked.entries_changed)
        assert float(found.confidence[i]) == pytest.approx(float(walked.log_probability.exp().mean()), rel=1e-4)
        assert bool(found.arrives[i]) == (walked.operations[[0, -1]].tolist() == [a, b])


def test_equal_ends_and_unknown_ways_are_refused() -> None:
    for pairs, way in (([[3, 3]], "straight"), ([[3, 4]], "bent")):
        with pytest.raises(InputError):
            paths.path_quality(baselines.untrained(), "A", torch.tensor(pairs), way)


# --- arithmetic


@pytest.mark.parametrize("pathway", PATHWAYS)
def test_where_entries_are_dimensions_arithmetic_is_exact(copying: TernaryVAE, pathway: str) -> None:
    found = arithmetic.analogies(copying, pathway, 500, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert (found.right, found.unchanged, found.other, found.entry) == (100, 0, 0, 100)
    vectors = arithmetic.edit_vectors(copying, pathway, SOME)  # type: ignore[arg-type]
    for k, v, w in itertools.product(range(9), range(3), range(3)):
        expected = torch.zeros(9)
        expected[k] = w - v
        torch.testing.assert_close(vectors[k, v, w], expected)
    edited = arithmetic.edits(copying, pathway, SOME, vectors)  # type: ignore[arg-type]
    assert (edited.right, edited.attempts) == (100, 18 * len(SOME))


def test_without_a_displacement_nothing_changes(copying: TernaryVAE) -> None:
    found = arithmetic.edits(copying, "A", SOME, torch.zeros(9, 3, 3, 9))
    assert (found.right, found.unchanged, found.other, found.entry) == (0, 100, 0, 0)


@given(st.integers(0, space.SIZE - 1), st.integers(0, 8), st.integers(0, 2))
def test_changed_sets_one_entry(index: int, entry: int, value: int) -> None:
    table = space.operations(torch.tensor(index))
    table[entry] = value - 1
    found = arithmetic.changed(*(torch.tensor(given) for given in (index, entry, value)))
    assert int(found) == space.index_of(table)


# --- neighbourhood


def test_trustworthiness_without_ties_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    high, low, k = rng.normal(size=(150, 5)), rng.normal(size=(150, 2)), 7
    low[:, 0] += 3 * high[:, 0]

    def distances(points: np.ndarray) -> Tensor:
        values = torch.cdist(torch.tensor(points), torch.tensor(points))
        return values.fill_diagonal_(torch.inf)

    lost = neighbourhood.intrusion(distances(high), distances(low), k)
    n = len(high)
    ours = 1 - 2 * lost / (n * k * (2 * n - 3 * k - 1))
    penalty = 0
    for i in range(n):
        others = [j for j in range(n) if j != i]
        by_rank = sorted(others, key=lambda j: np.linalg.norm(high[i] - high[j]))
        near = sorted(others, key=lambda j: np.linalg.norm(low[i] - low[j]))[:k]
        penalty += sum(max(0, by_rank.index(j) + 1 - k) for j in near)
    assert ours == pytest.approx(1 - 2 * penalty / (n * k * (2 * n - 3 * k - 1)), abs=1e-12)


def test_one_hot_codes_keep_every_neighbourhood_and_random_ones_none() -> None:
    codes = torch.nn.functional.one_hot((space.operations() + 1).long(), 3).flatten(1).float()
    kept = neighbourhood.preservation(codes, SOME)
    assert (kept.trustworthiness, kept.continuity, kept.shared) == (1, 1, 1)
    random = neighbourhood.preservation(torch.randn(space.SIZE, 16, generator=torch.Generator().manual_seed(0)), SOME)
    # A random neighbour at Hamming distance h has a higher rank than all nearer operations.
    share = [math.comb(9, h) * 2**h / space.SIZE for h in range(10)]
    rank = space.SIZE * sum(share[h] * sum(share[:h]) for h in range(10))
    expected = 1 - 2 * (rank - 18) / (2 * space.SIZE - 3 * 18 - 1)
    error = 2 * 0.3 / math.sqrt(18 * len(SOME))  # standard error: ranks have a standard deviation of about 0.3 N
    assert random.trustworthiness == pytest.approx(expected, abs=3 * error)
    assert random.continuity == pytest.approx(0.5, abs=3 * error)
    assert random.shared < 0.01


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.data())
def test_the_nearest_of_equally_near_points_have_the_lowest_indices(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    taken = neighbourhood.nearest_points(torch.tensor([values], dtype=torch.float32), k)[0]
    expected = sorted(sorted(range(len(values)), key=lambda i: (values[i], i))[:k])
    assert taken.nonzero().flatten().tolist() == expected


def test_an_invalid_number_of_neighbours_is_refused() -> None:
    for k in (0, 9842):
        with pytest.raises(InputError, match="k must be"):
            neighbourhood.preservation(torch.zeros(space.SIZE, 2), SOME, k)


# --- calibration


def test_reliability_equals_that_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(3000, generator=generator)
    right = torch.rand(3000, generator=generator) < confidence**2
    found = calibration.reliability(confidence, right, 7)
    error = 0.0
    for b in range(7):
        inside = [(c, r) for c, r in zip(confidence.tolist(), right.tolist(), strict=True) if b <= 7 * c < b + 1]
        assert int(found.count[b]) == len(inside)
        mean, share = np.mean([c for c, _ in inside]), np.mean([r for _, r in inside])
        assert float(found.confidence[b]) == pytest.approx(mean)
        assert float(found.accuracy[b]) == pytest.approx(share)
        error += len(inside) / 3000 * abs(mean - share)
    assert found.error == pytest.approx(error)
    assert found.bias == pytest.approx(float(confidence.mean()) - float(right.float().mean()), abs=1e-6)


def test_predictions_that_are_right_as_often_as_their_confidence_are_calibrated() -> None:
    confidence = torch.rand(200_000, generator=torch.Generator().manual_seed(1))
    right = torch.rand(200_000, generator=torch.Generator().manual_seed(2)) < confidence
    assert calibration.reliability(confidence, right).error < 0.01
    sure = calibration.reliability(torch.ones(100), torch.arange(100) < 30)
    assert sure.error == pytest.approx(0.7)
    assert sure.bias == pytest.approx(0.7)


@pytest.mark.parametrize(("confidence", "right"), [([], []), ([0.5], [True, False]), ([1.5], [True])])
def test_invalid_predictions_are_refused(confidence: list[float], right: list[bool]) -> None:
    with pytest.raises(InputError):
        calibration.reliability(torch.tensor(confidence), torch.tensor(right))


def test_a_uniform_decoder_has_a_confidence_of_one_third() -> None:
    confidence, right = calibration.entry_predictions(baselines.collapsed(), "B", space.operations())
    torch.testing.assert_close(confidence, torch.full((space.SIZE, 9), 1 / 3))
    assert float(right.float().mean()) == pytest.approx(1 / 3)


# --- likelihood


def test_rate_and_distortion_add_up_to_the_elbo() -> None:
    core = baselines.untrained(5).core
    x = space.operations(SOME).unsqueeze(0)
    noise = torch.randn(4, 2, 1, len(SOME), 16, generator=torch.Generator().manual_seed(0))
    coded = likelihood.coding(core, x, noise)
    assert coded.rate.shape == coded.distortion.shape == (2, 1, len(SOME))
    assert (coded.rate >= 0).all()
    torch.testing.assert_close(coded.neg_elbo.mean(2), likelihood.negative_elbo(core, x, noise))


def test_over_the_whole_space_distortion_is_at_least_ln_n_less_the_rate(copying: TernaryVAE) -> None:
    x = space.operations().unsqueeze(0)
    for model in (baselines.untrained(1).core, baselines.collapsed().core, copying.core):
        latent = model.architecture.settings.latent_dim
        noise = torch.randn(1, 2, 1, space.SIZE, latent, generator=torch.Generator().manual_seed(0))
        rate, distortion = (v.mean(2) for v in likelihood.coding(model, x, noise)[:2])
        assert (distortion >= math.log(space.SIZE) - rate - 1e-3).all()


def test_the_bound_of_an_operation_does_not_depend_on_the_others() -> None:
    core = baselines.untrained(5).core
    x = space.operations(SOME).unsqueeze(0)
    noise = torch.randn(8, 2, 1, len(SOME), 16, generator=torch.Generator().manual_seed(0))
    each = likelihood.coding(core, x, noise).neg_iwae
    for i in (0, 7):
        alone = likelihood.coding(core, x[:, i : i + 1], noise[:, :, :, i : i + 1])
        torch.testing.assert_close(alone.neg_iwae[..., 0], each[..., i])


def test_entries_are_right_at_least_as_often_as_operations(copying: TernaryVAE) -> None:
    core, x = baselines.untrained(5).core, space.operations().unsqueeze(0)
    decoded = torch.stack([baselines.untrained(5).reconstruct(x[0], pathway=p) for p in PATHWAYS])
    expected = 100 * (decoded == x).float().mean((1, 2))
    right = likelihood.right_entries(core, core.encode(x)[0], x)
    entries = 100 * right.float().mean((2, 3))
    torch.testing.assert_close(entries[:, 0], expected)
    assert (entries >= likelihood.percent_exact(right)).all()
    assert likelihood.right_entries(copying.core, copying.core.encode(x)[0], x).all()
