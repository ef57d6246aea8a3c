"""The data of a page agree with the library, within the precision of the numbers of the page."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import SMALL

from ternary_lab import CheckpointError, RunError, load_config, load_run, run_experiment, space
from ternary_lab.config import Checkpoints
from ternary_lab.metrics.codes import all_codes
from ternary_lab.metrics.information import information
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import PATHWAYS
from ternary_lab.page.data import HOLES, LATENTS, Bundle, bundle
from ternary_lab.page.events import events
from ternary_lab.runs.checkpoint import Checkpoint, save
from ternary_lab.runs.load import RunRecord
from ternary_lab.splits import split

Table = list[list[int]]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """Return a run of an own configuration: other sizes than v5.5's, and the epochs 0 and 2."""
    (run,) = run_experiment(SMALL, [3], run_dir=tmp_path_factory.mktemp("runs") / "mine").values()
    return run


@pytest.fixture(scope="module")
def small_held(small: RunRecord) -> Bundle:
    return bundle(small)


@pytest.fixture(scope="module", params=["small", "v5_5/seed=43"])
def run(request: pytest.FixtureRequest, small: RunRecord) -> RunRecord:
    return small if request.param == "small" else load_run(request.param)


@pytest.fixture(scope="module")
def held(run: RunRecord, small: RunRecord, small_held: Bundle) -> Bundle:
    """Return what a page holds of the run; of v5.5 without ln p, which takes seconds."""
    return small_held if run is small else bundle(run, prior=False)


def part(held: Bundle, name: str, kind: str, *shape: int) -> Any:
    return np.frombuffer(gzip.decompress(held.parts[name]), kind).reshape(shape)


def weights(held: Bundle, name: str, network: dict[str, Any]) -> Any:
    """Return the weights (networks, size) in a part, computed one by one from the scale of their neuron."""
    data, size = gzip.decompress(held.parts[name]), network["size"]
    rows = sum(layer["outputs"] for layer in network["layers"])
    count = len(data) // (4 * rows + 2 * size)
    scales = np.frombuffer(data, "<f4", count * rows).reshape(count, rows)
    low, high = np.frombuffer(data, "u1", offset=4 * count * rows).reshape(2, -1)
    levels = np.stack((low, high), -1).reshape(-1).view("<i2").reshape(count, size).astype(float)
    first, at = 0, 0
    for layer in network["layers"]:
        inputs, outputs = layer["inputs"], layer["outputs"]
        bias = at + inputs * outputs
        for row in range(outputs):
            scale = scales[:, first + row].astype(float)
            levels[:, at + row * inputs : at + (row + 1) * inputs] *= scale[:, None]
            levels[:, bias + row] *= scale
        first, at = first + outputs, bias + outputs
    assert (first, at) == (rows, size)
    return levels


def codes(run: RunRecord, epoch: int) -> Any:
    """Return the codes (P, N, L) in float64."""
    return all_codes(run.model(epoch).core)[0][:, 0].double().numpy()


def steps(mu: Any) -> Any:
    """Return the steps (9, L) of the entries from one linear regression on all values of all entries."""
    x = space.operations().numpy()
    columns = np.concatenate([np.ones((len(x), 1)), (x == 0).astype(float), x == 1], 1)
    return np.linalg.lstsq(columns, mu, rcond=None)[0][10:]


def test_the_header_names_the_run(run: RunRecord, held: Bundle) -> None:
    header = held.header
    assert header["run"] == f"{run.path.parent.name}/{run.name}"
    assert (header["config"], header["seed"], header["epochs"]) == (run.config.name, run.seed, run.epochs)
    assert (header["operations"], header["latents"]) == (space.SIZE, run.config.model.latent_dim)
    assert {name: int(index) for index, name in header["names"].items()} == space.named()
    history = header["history"]
    assert history["epoch"] == run.history["epoch"].tolist()
    np.testing.assert_allclose(history["loss"], run.history["train_loss"], rtol=1e-4)
    np.testing.assert_allclose(history["coverage_B"], run.history["informative_coverage_B"], rtol=1e-4)
    assert {len(column) for column in history.values()} == {len(run.history)}
    assert json.loads(json.dumps(header, allow_nan=False)) == json.loads(json.dumps(header))


def test_positions_are_the_codes_in_the_plane_of_two_entries(run: RunRecord, held: Bundle) -> None:
    header = held.header
    high, low = part(held, "positions", "u1", 2, len(run.epochs), 2, 2, space.SIZE).astype(int)
    levels = 256 * high + low
    assert levels.max() == 4095
    for (e, epoch), p in itertools.product(enumerate(run.epochs), range(2)):
        mu = codes(run, epoch)[p]
        axes = steps(mu)[header["default_entries"]]
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        ranges = np.array(header["plane_range"][e][p]).reshape(2, 2)
        width = ranges[:, 1] - ranges[:, 0]
        shown = ranges[:, :1] + levels[e, p] * width[:, None] / 4095
        away = np.abs(shown - axes @ (mu - mu.mean(0)).T).max(1)
        assert (away < 0.51 * width / 4095).all()


def test_the_default_entries_have_the_longest_steps_at_the_last_epoch(run: RunRecord, held: Bundle) -> None:
    lengths = np.mean([np.linalg.norm(steps(mu), axis=1) for mu in codes(run, run.epochs[-1])], 0)
    assert set(held.header["default_entries"]) == set(lengths.argsort()[-2:].tolist())


def test_directions_are_those_of_the_largest_variance(run: RunRecord, held: Bundle) -> None:
    latents, count = held.header["latents"], held.header["directions_per_epoch"]
    assert count == min(8, latents)
    shown = part(held, "directions", "<f4", len(run.epochs), 2, 1 + count, latents)
    for (e, epoch), p in itertools.product(enumerate(run.epochs), range(2)):
        mu, (mean, *axes) = codes(run, epoch)[p], shown[e, p]
        np.testing.assert_allclose(mean, mu.mean(0), atol=1e-5)
        np.testing.assert_allclose(np.array(axes) @ np.array(axes).T, np.eye(count), atol=1e-5)
        deviations = np.linalg.svd(mu - mu.mean(0), compute_uv=False)[:count] / len(mu) ** 0.5
        np.testing.assert_allclose((mu @ np.array(axes).T).std(0), deviations, rtol=1e-3)
    assert ((shown[1:, :, 1:] * shown[:-1, :, 1:]).sum(3) >= 0).all()


def test_a_weight_is_exact_to_16_bits_of_the_largest_of_its_neuron(run: RunRecord, held: Bundle) -> None:
    models = [run.model(epoch).core for epoch in run.epochs]
    blocks = {
        "encoders": torch.cat([model.blocks.encoders[:, 0] for model in models]),
        "decoder_A": torch.cat([model.blocks.decoder_A for model in models]),
        "decoder_B": torch.cat([model.blocks.decoder_B for model in models]),
    }
    for name, exact in blocks.items():
        network = held.header["networks"]["encoder" if name == "encoders" else name]
        away, at = np.abs(weights(held, name, network) - exact.double().numpy()), 0
        assert away.shape == exact.shape
        for layer in network["layers"]:
            inputs, count = layer["inputs"], layer["outputs"]
            for row in range(count):
                of_neuron = [*range(at + row * inputs, at + (row + 1) * inputs), at + inputs * count + row]
                largest = np.abs(exact[:, of_neuron].numpy()).max(1)
                assert (away[:, of_neuron].max(1) <= 0.501 * largest / 32767).all()
            at += count * (inputs + 1)


def outputs(network: dict[str, Any], row: Any, x: Any) -> Any:
    """Return the outputs of a network for inputs (n, inputs), from its description in the header."""
    activations, at = [x], 0
    for layer in network["layers"]:
        middle = at + layer["inputs"] * layer["outputs"]
        weight, bias = row[at:middle].reshape(layer["outputs"], -1), row[middle : middle + layer["outputs"]]
        y = activations[-1] @ weight.T + bias
        at = middle + layer["outputs"]
        y = y if layer["skip"] is None else y + activations[layer["skip"]]
        activations.append(np.maximum(y, 0) if layer["relu"] else y)
    assert at == network["size"]
    return activations[-1]


def test_the_networks_of_the_header_compute_codes_and_probabilities(run: RunRecord, held: Bundle) -> None:
    networks, epochs = held.header["networks"], len(run.epochs)
    encoders = weights(held, "encoders", networks["encoder"]).reshape(epochs, 2, -1)
    x = space.operations(torch.arange(0, space.SIZE, 17))
    for p, pathway in enumerate(PATHWAYS):
        name = f"decoder_{pathway}"
        decoders = weights(held, name, networks[name])
        for e, epoch in enumerate(run.epochs):
            model = run.model(epoch)
            code = model.encode(x, pathway)
            mu, log_variance = np.split(outputs(networks["encoder"], encoders[e, p], x.numpy()), 2, 1)
            scale = float(code.mean.abs().max())
            np.testing.assert_allclose(mu, code.mean.numpy(), rtol=0, atol=1e-3 * scale)
            np.testing.assert_allclose(log_variance, code.log_variance.numpy(), rtol=1e-3, atol=1e-3)
            logits = torch.from_numpy(outputs(networks[name], decoders[e], mu)).reshape(-1, 9, 3)
            q = torch.softmax(model.decode(code.mean, pathway), -1)
            torch.testing.assert_close(torch.softmax(logits, -1).float(), q, rtol=0, atol=1e-3)


def test_what_is_given_back_is_a_bit_of_each_operation(run: RunRecord, held: Bundle) -> None:
    bits = np.unpackbits(part(held, "reconstructed", "u1", len(run.epochs), 2, -1), axis=-1)[..., : space.SIZE]
    x = space.operations()
    for (e, epoch), (p, pathway) in itertools.product(enumerate(run.epochs), enumerate(PATHWAYS)):
        same = (run.model(epoch).reconstruct(x, 0.0, pathway) == x).all(1)
        assert (bits[e, p].astype(bool) == same.numpy()).mean() > 0.9999  # the last bits of a code may decide
        assert run.name == "seed=3" or same.all()


def test_ln_p_is_held_between_two_quantiles(small: RunRecord, small_held: Bundle) -> None:
    held = small_held
    levels = part(held, "log_probability", "u1", len(small.epochs), 2, space.SIZE)
    for e, epoch in enumerate(small.epochs):
        model = small.model(epoch)
        for p, pathway in enumerate(PATHWAYS):
            latents = sobol_normal(model.latent_dim, LATENTS, 0, model.device)
            exact = information(model.core, pathway, (z.unsqueeze(0) for z in latents)).p[0].log().numpy()
            low, high = held.header["log_p_range"][e][2 * p : 2 * p + 2]
            np.testing.assert_allclose((low, high), np.quantile(exact, (0.001, 0.999)), atol=1e-4)
            shown = low + levels[e, p] * (high - low) / 255
            assert np.abs(shown - exact.clip(low, high)).max() < 0.51 * (high - low) / 255
            holes = held.header["holes"][e][p]
            assert [hole for hole, _ in holes] == exact.argsort(kind="stable")[:HOLES].tolist()
            np.testing.assert_allclose([value for _, value in holes], np.sort(exact)[:HOLES], rtol=1e-3)


def test_without_the_prior_the_other_parts_stay(small: RunRecord, small_held: Bundle) -> None:
    whole, less = small_held, bundle(small, prior=False)
    left_out = ("log_p_range", "log_p_latents", "holes")
    assert [less.header[name] for name in left_out] == [None] * 3
    assert {**less.header, **{name: whole.header[name] for name in left_out}} == whole.header
    assert less.parts == {name: data for name, data in whole.parts.items() if name != "log_probability"}


def _cells() -> list[tuple[int, int]]:
    return list(itertools.product((-1, 0, 1), repeat=2))


def _relabelled(f: Callable[[int, int], int], to: dict[int, int]) -> bool:
    return all(f(to[a], to[b]) == to[f(a, b)] for a, b in _cells())


def _less(a: int, b: int) -> bool:
    """Return whether a is at most as definite as b, in the order 0 < -1 and 0 < +1."""
    return a in (0, b)


V = (-1, 0, 1)
ORACLES: dict[str, Callable[[Callable[[int, int], int]], Any]] = {
    "commutative": lambda f: all(f(a, b) == f(b, a) for a in V for b in V),
    "associative": lambda f: all(f(f(a, b), c) == f(a, f(b, c)) for a in V for b in V for c in V),
    "idempotent": lambda f: all(f(a, a) == a for a in V),
    "has_identity": lambda f: any(all(f(e, a) == f(a, e) == a for a in V) for e in V),
    "has_absorbing": lambda f: any(all(f(e, a) == f(a, e) == e for a in V) for e in V),
    "quasigroup": lambda f: all(len({f(a, b) for b in V}) == len({f(b, a) for b in V}) == 3 for a in V),
    "conservative": lambda f: all(f(a, b) in (a, b) for a in V for b in V),
    "monotone": lambda f: all(f(a, b) <= f(c, d) for a, b in _cells() for c, d in _cells() if a <= c and b <= d),
    "regular": lambda f: all(
        _less(f(a, b), f(c, d)) for a, b in _cells() for c, d in _cells() if _less(a, c) and _less(b, d)
    ),
    "preserves_classical": lambda f: all(f(a, b) != 0 for a in (-1, 1) for b in (-1, 1)),
    "self_dual": lambda f: all(f(-a, -b) == -f(a, b) for a in V for b in V),
    "zeros": lambda f: str(sum(f(a, b) == 0 for a, b in _cells())),
    "values": lambda f: str(len({f(a, b) for a, b in _cells()})),
    "automorphisms": lambda f: str(
        sum(_relabelled(f, dict(zip(V, images, strict=True))) for images in itertools.permutations(V))
    ),
    "depends_on": lambda f: " and ".join(
        (["a"] if any(f(a, b) != f(c, b) for a in V for b in V for c in V) else [])
        + (["b"] if any(f(a, b) != f(a, c) for a in V for b in V for c in V) else [])
    ) or "nothing (constant)",
}


def test_each_property_is_what_its_definition_says(run: RunRecord, held: Bundle) -> None:
    facts = held.header["properties"]
    assert {fact["key"] for fact in facts} == {*ORACLES, "split"}
    shown = dict(zip((fact["key"] for fact in facts), part(held, "properties", "u1", len(facts), -1), strict=True))
    # Every 23rd operation, and three of each value of each property, because a sample would miss the rare ones.
    some = set(range(0, space.SIZE, 23))
    for row in shown.values():
        some |= {int(n) for value in np.unique(row) for n in np.flatnonzero(row == value)[:3]}
    for fact in facts:
        if fact["key"] == "split":
            continue
        for n in sorted(some):
            found = ORACLES[fact["key"]](lambda a, b, n=n: n // 3 ** (3 * (a + 1) + b + 1) % 3 - 1)
            words = {False: "no", True: "yes"}.get(found, found) if fact["kind"] == "flag" else found
            assert fact["values"][shown[fact["key"]][n]] == words, f"{fact['key']} of {n}"
    parts, names = split(run.config.data), facts[-1]["values"]
    for name, members in (("train", parts.train), ("validation", parts.validation), ("test", parts.test)):
        assert (shown["split"][members.numpy()] == names.index(name)).all()


def test_a_page_can_hold_fewer_epochs_and_always_the_last_one() -> None:
    run = load_run("v5_5/seed=42")
    assert bundle(run, every=60, prior=False).header["epochs"] == [0, 60, 100]


def _copy(run: RunRecord, folder: Path, point: Checkpoint) -> RunRecord:
    """Return a copy of a run with another checkpoint of epoch 0."""
    shutil.copytree(run.path, folder)
    save(folder / "checkpoints" / "epoch_0000.safetensors", point)
    return RunRecord(folder)


def test_a_run_of_one_epoch_and_one_latent_dimension_has_a_page(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={
        "model": SMALL.model.model_copy(update={"latent_dim": 1}), "checkpoints": Checkpoints(every=0, windows=()),
    })
    (run,) = run_experiment(config, [0], run_dir=tmp_path / "one").values()
    held = bundle(run, prior=False)
    assert (held.header["epochs"], held.header["latents"], held.header["directions_per_epoch"]) == ([2], 1, 1)
    assert part(held, "directions", "<f4", 1, 2, 2, 1)[:, :, 1].tolist() == [[[1.0], [1.0]]]


def test_codes_that_are_all_equal_lie_at_the_origin(small: RunRecord, tmp_path: Path) -> None:
    """If the weights of the encoders are 0, every step has the length 0 and no direction."""
    point = small.checkpoint(0)
    point.blocks.encoders.zero_()
    held = bundle(_copy(small, tmp_path / "equal", point), prior=False)
    assert held.header["plane_range"][0] == [[0.0] * 4] * 2
    assert not part(held, "positions", "u1", 2, 2, 2, 2, space.SIZE)[:, 0].any()


# Errors


def test_a_page_needs_weights() -> None:
    with pytest.raises(RunError, match=r"seed=46: holds no weights: choose a run with weights, such as v5_5/seed=42"):
        bundle(load_run("v5_5/seed=46"))


def test_a_damaged_checkpoint_is_named(small: RunRecord, tmp_path: Path) -> None:
    run = _copy(small, tmp_path / "damaged", small.checkpoint(0))
    file = run.path / "checkpoints" / "epoch_0000.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"epoch_0000.safetensors: not a safetensors file, or truncated"):
        bundle(run, prior=False)


def test_weights_of_another_architecture_are_refused(small: RunRecord, tmp_path: Path) -> None:
    run = _copy(small, tmp_path / "other", load_run("v5_5/seed=42").checkpoint(0))
    with pytest.raises(RunError, match=r"other: the weights of epoch 0 have another architecture than config.yaml: "):
        bundle(run, prior=False)


# Events


@pytest.mark.parametrize(("name", "settings", "expected"), [
    ("v5_5", {}, [
        (40, "ρ starts to rise"), (50, "β_B leaves 0; learning rate 0.001 to 0.0005"),
        (120, "learning rate 0.0005 to 0.0003"), (180, "learning rate 0.0003 to 0.0001"),
    ]),
    ("quick", {}, [(3, "ρ starts to rise"), (4, "β_B leaves 0; learning rate 0.003 to 0.0015"), (20, "ρ becomes 0.7")]),
    ("beyond", {}, [(5, "information terms start")]),
    ("quick", {"beta.B": {"mode": "jump", "at_epoch": 6}}, [
        (3, "ρ starts to rise"), (4, "learning rate 0.003 to 0.0015"), (6, "β_B leaves 0"), (20, "ρ becomes 0.7"),
    ]),
])
def test_events_are_the_epochs_at_which_a_schedule_changes(
    name: str, settings: dict[str, Any], expected: list[tuple[int, str]]
) -> None:
    assert events(load_config(name, settings), 200) == expected
