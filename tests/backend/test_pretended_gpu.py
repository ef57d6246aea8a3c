"""The library on a pretended GPU: no mixed devices, the CPU's numbers, and limits for the cost of an epoch."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pretend_gpu import CPU, NAME, PretendedGPU, RefusedByCUDAError, TensorFloat32
from small import SMALL
from torch import Tensor

from ternary_lab import evaluate, load_config, load_run, losses, run_experiment, space, symmetry
from ternary_lab.backend import kernels
from ternary_lab.config import Config
from ternary_lab.history import TIMING_COLUMNS
from ternary_lab.metrics import coverage, latent_entropy
from ternary_lab.metrics.codes import all_codes, principal_directions
from ternary_lab.metrics.decoding import entry_probabilities
from ternary_lab.metrics.entry_effects import entry_effects
from ternary_lab.metrics.information import log_probability
from ternary_lab.metrics.likelihood import right_entries
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import GaussianPosterior, TernaryVAE
from ternary_lab.runs.load import RunSet
from ternary_lab.studies import probes
from ternary_lab.studies.beyond_v55 import alternative_families, alternatives
from ternary_lab.studies.checkpoints_and_ensembles import calibration, ensembles
from ternary_lab.studies.generalisation import arithmetic, neighbourhood, paths, robustness
from ternary_lab.training.cohort import Cohort
from ternary_lab.training.train import train

BUDGETS = {
    "kernels of a training step": 157,
    "kernels of a training step, for each further run": 0.5,
    "kernels of an epoch besides its steps": 682,
    "kernels of an epoch, for each further run": 13,
    "host waits of a training step": 0,
    "host waits of a training step, for each further run": 0,
    "host waits of an epoch besides its steps": 7,
    "host waits of an epoch, for each further run": 0,
}
"""Upper limits of v5.5's cost on a GPU; they may only be lowered. Besides its steps an epoch contains validation,
measurement (little here) and a copy of each run's state. Sums that depend on their order are never allowed."""

CLOSE = 3e-6
"""Tolerance, relative above 1 and absolute below. The arithmetic is the CPU's, but on a GPU runs are measured together
and in larger pieces, and `soft_entropy` adds in another order: float32 sums of about 10 nats differ by about 1e-6."""
AFTER_STEPS = 1e-4
"""The same after training. The optimiser on a GPU may round its rates to float32, 1e-7 of a step, and later steps
amplify this."""

TINY = {
    "model": {"latent_dim": 4, "encoder_hidden": [16], "decoder_A_hidden": [16], "decoder_B_hidden": 16},
    "data": {"batch_size": 128, "train_fraction": 0.02, "validation_fraction": 0.01},
    "evaluation": {"coverage_samples": 500, "latents": 256},
    "information": {"start_epoch": 0, "latents": 64},
    "training.total_epochs": 2,
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread: None) -> None:
    """Helping threads do no work on a GPU, and the work on the CPU is small."""


@pytest.fixture(autouse=True)
def _by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`resolve_device` knows the pretended GPU by name, and CUDA returns properties for it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("ternary_lab") and (resolve := getattr(module, "resolve_device", None)):
            def resolved(device: Any = "auto", resolve: Callable[[Any], torch.device] = resolve) -> torch.device:
                return torch.device(NAME, 0) if str(device).startswith(NAME) else resolve(device)

            monkeypatch.setattr(module, "resolve_device", resolved)
    card = SimpleNamespace(name="a pretended GPU", multi_processor_count=132, total_memory=2**36, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: card.name)


@pytest.fixture
def gpu() -> Iterator[PretendedGPU]:
    with PretendedGPU() as pretended:
        yield pretended


@pytest.fixture(scope="module")
def model() -> TernaryVAE:
    return load_run("v5_5/seed=42").model(100)


def plain(value: Any) -> Any:
    """The value with tensors as lists and NaN as None, ready for comparison."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def close(found: Any, expected: Any, tolerance: float, where: str = "") -> None:
    """Assert that nested numbers agree within a tolerance, relative above 1, and that all other values are equal."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            close(found[key], expected[key], tolerance, f"{where} {key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            close(a, b, tolerance, f"{where} {i}")
    elif isinstance(expected, float) and math.isfinite(expected):
        assert found is not None, where
        assert abs(found - expected) <= tolerance * max(1.0, abs(expected)), f"{where}: {found} and {expected}"
    else:
        assert found == expected, where


def on_both(call: Callable[[torch.device], Any], tolerance: float = CLOSE) -> None:
    """Assert that a call returns the same on CPU and pretended GPU, and that no sum there depends on its order."""
    expected = plain(call(CPU))
    with PretendedGPU() as gpu:
        found = plain(call(gpu.device))
    close(found, expected, tolerance)
    assert gpu.kernels, "nothing was done on the GPU"
    assert not gpu.atomics, f"sums whose order shows: {most(gpu.atomics)}"


def most(places: Counter[str]) -> str:
    return "; ".join(f"{count} × {place}" for place, count in places.most_common(12) if count)


def columns(records: Sequence[Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in asdict(r).items() if key not in TIMING_COLUMNS} for r in records]


def trained(configs: Sequence[Config], device: torch.device, epochs: int = 2) -> list[dict[str, Any]]:
    cohort = Cohort(configs, range(len(configs)), device)
    return columns([record for _ in range(epochs) for record in cohort.advance()])


# --- the same numbers

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "v5_5": ("v5_5", {}),
    "repaired": ("repaired", {}),
    "beyond": ("beyond", {}),
    "aligned": ("variants/aligned", {}),
    "statenet that learns": ("ablations/statenet_learns", {}),
    "statenet that learns of information": ("variants/statenet_learns", {}),
    "statenet as drawn": ("variants/statenet_as_drawn", {}),
    "no statenet": ("ablations/statenet_off", {}),
    "free bits of means": ("ablations/free_bits_of_means", {}),
    "raw norms": ("ablations/raw_gradient_norms", {}),
    "clipped per pathway": ("v5_5", {"optimiser.clip_per": "pathway"}),
    "argmax": ("v5_5", {"evaluation.coverage_decoding": "argmax"}),
    "counted when read": ("v5_5", {"evaluation.coverage_at": "when_read"}),
    "streams of the CPU": ("beyond", {"runtime.streams": "cpu"}),
    "more operations than there are": ("v5_5", {"data.epoch_operations": 500}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_as_on_the_cpu(name: str) -> None:
    recipe, changes = VARIANTS[name]
    config = load_config(load_config(recipe, TINY).as_dict(), changes)
    on_both(lambda device: trained([config, config], device), AFTER_STEPS)


def test_runs_that_differ_in_values_train_side_by_side_as_on_the_cpu() -> None:
    changes: tuple[dict[str, Any], ...] = (
        {}, {"kl.free_bits": 0.0, "optimiser.lr_steps": {0: 0.01}},
        {"optimiser.grad_clip": 0.1, "loss.entropy_weight": 1.0},
    )
    configs = [load_config("v5_5", {**TINY, **change}) for change in changes]
    on_both(lambda device: trained(configs, device), AFTER_STEPS)


def test_a_run_that_diverges_leaves_and_the_other_goes_on_as_on_the_cpu() -> None:
    wild = {"optimiser.lr_steps": {0: 1e6}, "statenet.lr_high": 1e6}
    configs = [load_config("v5_5", {**TINY, **change}) for change in (wild, {})]

    def left(device: torch.device) -> list[Any]:
        cohort = Cohort(configs, [1, 2], device)
        records = [record for epoch in cohort.epochs() for record, _ in epoch.finish()]
        return [list(cohort.diverged), columns(records)]

    assert left(CPU)[0] == ["seed=1"]
    on_both(left, AFTER_STEPS)


def test_it_is_found_by_its_name(gpu: PretendedGPU) -> None:
    assert [record.epoch for record in train(load_config("v5_5", TINY), [1], device=NAME)] == [0, 1]
    assert gpu.kernels["baddbmm"] > 0


@pytest.mark.parametrize("recipe", ["v5_5", "repaired", "beyond"])
def test_a_run_cut_after_an_epoch_goes_on_with_the_same_bits(recipe: str, gpu: PretendedGPU) -> None:
    configs = [load_config(recipe, {**TINY, "training.total_epochs": 3})] * 2
    whole = Cohort(configs, [1, 2], gpu.device)
    whole.advance()
    states = [whole.state(i) for i in range(2)]
    resumed = Cohort(configs, [1, 2], gpu.device, states)
    assert plain(columns(whole.advance())) == plain(columns(resumed.advance()))
    for i in range(2):
        for part in ("blocks", "first_moments", "second_moments"):
            a, b = (vars(getattr(cohort.state(i), part)).values() for cohort in (whole, resumed))
            assert all(map(torch.equal, a, b)), part


def test_a_run_cut_on_disk_ends_with_the_bytes_of_a_whole_one(tmp_path: Path, gpu: PretendedGPU) -> None:
    def left(where: str) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (tmp_path / where).rglob("*.safetensors")}

    # With streams that go on on any device: to provenance this one is a CUDA GPU, which it is not.
    config = load_config(SMALL.as_dict(), {"runtime.streams": "cpu"})
    run_experiment(config, [1], tmp_path / "whole", device=NAME)
    run_experiment(config, [1], tmp_path / "cut", device=NAME, stop=lambda: True)
    cut = left("cut")
    run_experiment(config, [1], tmp_path / "cut", device=NAME)
    assert left("whole") == left("cut") != cut


def test_evaluation(model: TernaryVAE) -> None:
    on_both(lambda device: evaluate(model.to(device), samples=2000, latents=1024, iwae_samples=2).as_dict())


def test_probes(model: TernaryVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {
        "DRAWS": (500, 1000), "ARGMAX_DRAWS": 500, "JUDGED": 64, "POSTERIOR_SAMPLES": 2, "IMPORTANCE_SAMPLES": 4,
    }
    for name, value in fewer.items():
        monkeypatch.setattr(probes, name, value)
    on_both(lambda device: probes.probe(model.to(device).core, 0.3, space.split(42)))


@pytest.mark.parametrize("name", alternative_families.families())
def test_alternatives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = space.split
    monkeypatch.setattr(space, "split", lambda seed, *of: replace(whole(seed, *of), train=whole(seed, *of).train[:128]))
    monkeypatch.setattr(alternative_families, "SAMPLES", 2000)
    monkeypatch.setattr(alternative_families, "evaluate", partial(evaluate, samples=2000, iwae_samples=1))
    family = alternative_families.families()[name]

    def rows(device: torch.device) -> dict[str, Any]:
        found = alternatives.train_family(family, [1, 2], 1, device=device)
        row = next(iter(alternatives.family_rows(name, found, 256)))
        return {key: value for key, value in row.items() if key != "seconds"}

    on_both(rows, AFTER_STEPS)


def test_what_alternatives_are_compared_with_is_measured_on_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternatives, "evaluate", partial(evaluate, samples=2000, iwae_samples=1))
    runs = RunSet({42: load_run("v5_5/seed=42")})
    on_both(lambda device: list(alternatives.floor_rows([0], 64, device=device)))
    on_both(lambda device: list(alternatives.v5_5_rows(runs, 100, 64, device=device)))


def test_what_a_page_shows(model: TernaryVAE) -> None:
    def shown(device: torch.device) -> dict[str, Any]:
        there = model.to(device)
        mu, log_variance = all_codes(there.core)
        latents = sobol_normal(there.latent_dim, 4096, 0, device)
        return {
            "mu": mu[..., ::50, :], "log_variance": log_variance[..., ::50, :],
            "effects": entry_effects(mu[:, 0]).effects, "directions": principal_directions(mu[1, 0], 4)[0].abs(),
            "reconstructed": right_entries(there.core, mu, space.operations().unsqueeze(0).to(device)).all(-1),
            "prior": log_probability(there.core, "A", latents)[::50],
            "path": paths.walk(there, "B", paths.straight(*mu[1, 0, :2], 5), (0, 1)).log_probability,
        }

    on_both(shown)


def test_metrics_of_codes(model: TernaryVAE) -> None:
    some = torch.arange(0, space.SIZE, 97)
    tables = space.operations(some)

    def measured(device: torch.device) -> dict[str, Any]:
        there = model.to(device)
        posterior = there.encode(tables)
        code = latent_entropy.posterior_code(posterior.mean, posterior.std)
        vectors = arithmetic.edit_vectors(there, "A", some.to(device))
        p = torch.stack([entry_probabilities(there, way, tables) for way in ("A", "B")])
        return {
            "prior_kl": code.prior_kl, "active": code.active, "preservation": vars(neighbourhood.preservation(
                there.encode(space.operations()).mean, some[:20])),
            "edits": vars(arithmetic.edits(there, "A", some.to(device), vectors)),
            "flipped": vars(robustness.denoising(there, "B", tables)),
            "paths": vars(paths.path_quality(there, "B", torch.tensor([[0, 5], [7, 11]]))),
            "ensemble": ensembles.reconstruction(p, tables),
        }

    on_both(measured)


@pytest.mark.parametrize("of", ["cpu", NAME])
def test_a_generator_of_either_device_serves_a_model_on_either(of: str, model: TernaryVAE) -> None:
    tables = space.operations(torch.arange(0, space.SIZE, 97))

    def drawn(device: torch.device) -> dict[str, Any]:
        there = model.to(device)
        place = of if device.type == NAME else "cpu"

        def g() -> torch.Generator:
            return torch.Generator(place).manual_seed(5)

        calibrated = calibration.reliability(*calibration.entry_predictions(there, "A", tables, generator=g()))
        return {
            "sampled": there.sample(50, generator=g()), "best": there.sample(50, "A", argmax=True, generator=g()),
            "posterior": there.encode(tables).sample(generator=g()), "calibration": vars(calibrated),
            "error": calibrated.error,
            "members": entry_probabilities(there, "B", tables, generator=g()),
            "analogies": vars(arithmetic.analogies(there, "B", 100, g())),
            "tolerance": robustness.noise_tolerance(there, "B", tables, (0.5, 1.0), g()),
        }

    on_both(drawn)


def test_without_a_generator_the_models_own_device_draws(model: TernaryVAE, gpu: PretendedGPU) -> None:
    there = model.to(NAME)
    assert there.sample(3).device == there.encode(space.operations(torch.arange(3))).sample().device == gpu.device


# --- the same sums in any order and precision


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_soft_entropy_is_summed_in_order_and_is_the_cpus(scale: float) -> None:
    z = scale * torch.randn(2, 3, 64, 5, generator=torch.Generator().manual_seed(1))
    z[0, 0, :3, 0] = torch.tensor([math.nan, -3.0, 3.0])
    on_both(lambda device: latent_entropy.soft_entropy(z.to(device)))


def test_indices_do_not_depend_on_the_precision_of_products() -> None:
    classes = (space.operations().t() + 1).unsqueeze(0)
    powers = 3.0 ** torch.arange(9)
    with TensorFloat32():
        wrong = (torch.matmul(powers, classes).long()[0] != torch.arange(space.SIZE)).float().mean()
        found = coverage.class_index(classes)[0]
        images = symmetry.images(symmetry.GROUPS["negation"])
        codes = torch.nn.functional.one_hot(classes[0].t().long(), 3).flatten(1).float()
        kept = neighbourhood.preservation(codes, torch.arange(0, space.SIZE, 997))
    assert float(wrong) > 0.5  # what a product would give
    assert torch.equal(found, torch.arange(space.SIZE))
    assert torch.equal(images, symmetry.images(symmetry.GROUPS["negation"]))
    assert (kept.trustworthiness, kept.continuity) == (1, 1)


# --- what it costs


@contextmanager
def own_kernels(gpu: PretendedGPU) -> Iterator[None]:
    """The library calls its own kernels, as on CUDA; each computes its plain form and counts as one kernel."""
    inside = False

    def plain(form: Callable[..., Any], *of: Any) -> Any:
        nonlocal inside
        inside = True
        try:
            return form(*of)
        finally:
            inside = False

    def terms(target: Tensor, logits: Tensor, entropy: Tensor) -> tuple[Tensor, ...]:
        ce, p, gradient = losses.cross_entropy(target, logits)
        value, slope = losses.mean_output_entropy(p[1])
        gradient[1].addcmul_(slope, entropy[:, None, None, None], value=-1)
        return ce, value, gradient

    forms: dict[str, Callable[..., Any]] = {
        "adamw": kernels.adamw, "add_bias": kernels.add_bias, "linear": kernels.linear, "output_terms": terms,
    }
    own = {name: gpu.as_one_kernel(partial(plain, form), name) for name, form in forms.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "usable", lambda tensor: tensor.device.type == NAME and not inside)
        patch.setattr(kernels, "_triton", lambda: SimpleNamespace(**own))
        yield


def counted(runs: int, steps: int, **changes: Any) -> PretendedGPU:
    """The counts of the second epoch of v5.5 with this many steps; the first epoch also allocates buffers."""
    config = load_config("v5_5", {
        "data.epoch_operations": 64 * steps, "evaluation.coverage_samples": 500, "evaluation.latents": 64, **changes,
    })
    with PretendedGPU() as gpu, own_kernels(gpu):
        cohort = Cohort([config] * runs, range(runs), gpu.device)
        cohort.advance()
        gpu.kernels.clear()
        gpu.waits.clear()
        cohort.advance()
    return gpu


@pytest.fixture(scope="module")
def costs(one_thread: None) -> dict[str, tuple[float, str]]:
    """Name of a budget -> (cost, places in the code that cause it)."""
    cases = [counted(runs, steps) for runs in (1, 3) for steps in (2, 6)]

    def cost(unit: str, counts: Sequence[Counter[str]]) -> dict[str, tuple[float, str]]:
        few, many, few_of_3, many_of_3 = counts
        steps, steps_of_3 = many - few, many_of_3 - few_of_3
        step = steps.total() / 4
        return {
            f"{unit} of a training step": (step, most(steps)),
            f"{unit} of a training step, for each further run": (
                (steps_of_3.total() - steps.total()) / 8, most(steps_of_3 - steps),
            ),
            f"{unit} of an epoch besides its steps": (few.total() - 2 * step, most(few)),
            f"{unit} of an epoch, for each further run": ((few_of_3.total() - few.total()) / 2, most(few_of_3 - few)),
        }

    return cost("kernels", [c.kernels for c in cases]) | cost("host waits", [c.waits for c in cases])


def check_budget(name: str, found: float, places: str) -> None:
    assert found <= BUDGETS[name], f"{name}: {found:g}, allowed are {BUDGETS[name]}: {places}"


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_holds(name: str, costs: dict[str, tuple[float, str]]) -> None:
    check_budget(name, *costs[name])


# --- planted faults are seen


def _left_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = space.one_hot
    monkeypatch.setattr(space, "one_hot", lambda x: whole(x).cpu())


def _setting_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = losses.free_bits_kl
    monkeypatch.setattr(losses, "free_bits_kl", lambda *of: whole(*of[:-1], of[-1].cpu()))


def _through_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = space.one_hot
    monkeypatch.setattr(space, "one_hot", lambda x: torch.from_numpy(np.asarray(whole(x))))


def _generator_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = space.one_hot
    monkeypatch.setattr(space, "one_hot", lambda x: whole(x.clone().random_(-1, 2, generator=torch.Generator())))


@pytest.mark.parametrize(("plant", "refused"), [
    (_left_on_the_cpu, r"tensors on gpu and on cpu, \(.*\), at losses\.py:\d+"),
    (_setting_on_the_cpu, r"tensors on gpu and on cpu, \(.*\), at losses\.py:\d+"),
    (_through_numpy, r"numpy: a tensor on gpu at [\w/]+\.py:\d+"),
    (_generator_of_the_cpu, r"random_: a tensor on gpu, a generator on cpu at [\w/]+\.py:\d+"),
])
def test_a_fault_in_training_is_refused_and_named(
    plant: Callable[[pytest.MonkeyPatch], None], refused: str, gpu: PretendedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(RefusedByCUDAError, match=refused):
        trained([load_config("v5_5", TINY)], gpu.device, 1)


def test_noise_on_the_cpu_is_refused_and_named(
    model: TernaryVAE, gpu: PretendedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(of: GaussianPosterior, *, generator: torch.Generator) -> Tensor:
        return of.mean + of.std * torch.empty(of.mean.shape).normal_(generator=generator)

    monkeypatch.setattr(GaussianPosterior, "sample", sample)
    tables = space.operations(torch.arange(3))
    place = r"at metrics/decoding\.py:\d+"
    with pytest.raises(RefusedByCUDAError, match=rf"on gpu and on cpu, \(3, 16\), {place}"):
        calibration.entry_predictions(model.to(NAME), "A", tables, generator=torch.Generator())


def test_a_wait_in_every_step_breaks_the_budget_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, name = losses.repulsion, "host waits of a training step"
    monkeypatch.setattr(losses, "repulsion", lambda z, *of: whole(z + 0 * float(z[0, 0, 0]) * float(z[0, 0, 1]), *of))
    few, many = (counted(1, steps, data={"validation_fraction": 0.01}).waits for steps in (2, 6))
    with pytest.raises(AssertionError, match=rf"{name}: .* 8 × _local_scalar_dense at losses.py:\d+"):
        check_budget(name, (many.total() - few.total()) / 4, most(many - few))


def test_a_race_in_a_loss_is_seen_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def scattered(place: Tensor, inside: Tensor) -> Tensor:
        counts = torch.zeros(*place.shape[:-2], 50, place.shape[-1], device=place.device)
        return counts.scatter_add_(-2, place.long(), 0.3 * inside)

    monkeypatch.setattr(latent_entropy, "_soft_counts", scattered)
    with PretendedGPU() as gpu:
        trained([load_config("variants/aligned", TINY)], gpu.device, 1)
    assert gpu.atomics
    assert all(place.startswith("scatter_add_ at metrics/latent_entropy.py:") for place in gpu.atomics)
