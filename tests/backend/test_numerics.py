"""The caller's settings of torch change no number, and the library restores them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from functools import cache
from typing import Any

import pytest
import torch

from ternary_lab import TernaryVAE, evaluate, load_config, load_run, score, space, train
from ternary_lab.backend import numerics
from ternary_lab.history import TIMING_COLUMNS
from ternary_lab.metrics.information import Sums, decoder_sums

SHARP = ("v5_5/seed=42", 100), ("beyond/seed=42", None)


def _trained() -> str:
    """All metrics of two epochs, exactly; they also depend on every weight."""
    config = load_config("beyond", {
        "data.batch_size": 128, "data.train_fraction": 0.05, "training.total_epochs": 2,
        "evaluation.coverage_samples": 1000, "evaluation.latents": 1000, "information.latents": 128,
    })
    rows = [asdict(record) for record in train(config, [1, 2], device="cpu")]
    return repr([{k: v for k, v in row.items() if k not in TIMING_COLUMNS} for row in rows])


def _evaluated() -> str:
    """All metrics of two published models, and digests of their output distributions."""
    found = []
    for name, epoch in SHARP:
        model = load_run(name).model(epoch=epoch)
        e = evaluate(model, samples=3000, latents=2048, iwae_samples=1)
        found.append((repr(e.as_dict()), *(_digest(p) for p in e.output.values())))
        found.append((repr(score(log_prob=e.output["B"].log())), repr(score(sample=_drawn(model)))))
        z = torch.linspace(-2, 2, 64, dtype=torch.float32, device="cpu").reshape(4, 16)
        generator = torch.Generator().manual_seed(1)
        operations = model.reconstruct(space.operations()[:99], 0.2)
        posterior = model.encode(operations, "A")
        found.append((
            _digest(model.decode(z)), _digest(model.sample(50, generator=generator)), _digest(operations),
            _digest(posterior.mean), _digest(posterior.log_variance),
        ))
    return repr(found)


def _drawn(model: TernaryVAE) -> torch.Tensor:
    return model.sample(2000, generator=torch.Generator().manual_seed(2))


def _digest(values: torch.Tensor) -> str:
    return hashlib.sha256(values.detach().cpu().numpy().tobytes()).hexdigest()


@cache
def _usual(computation: Callable[[], str]) -> str:
    return computation()


@contextmanager
def _set(change: Callable[[Any], object], value: object, back: object) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(back)


@contextmanager
def _backend(value: str) -> Iterator[None]:
    matmul: Any = torch.backends.mkldnn
    with _set(lambda v: setattr(matmul.matmul, "fp32_precision", v), value, "none"):
        yield


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default dtype float64": lambda: _set(torch.set_default_dtype, torch.float64, torch.float32),
    "default dtype float16": lambda: _set(torch.set_default_dtype, torch.float16, torch.float32),
    "default device meta": lambda: _set(torch.set_default_device, "meta", None),
    "inside a meta device": lambda: torch.device("meta"),
    "matmul precision high": lambda: _set(torch.set_float32_matmul_precision, "high", "highest"),
    "matmul precision medium": lambda: _set(torch.set_float32_matmul_precision, "medium", "highest"),
    "oneDNN bf16": lambda: _backend("bf16"),
    "autocast bf16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "deterministic algorithms": lambda: _set(torch.use_deterministic_algorithms, True, False),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "one thread": lambda: _set(torch.set_num_threads, 1, 2),
    "denormals flushed": lambda: _set(torch.set_flush_denormal, True, False),
    "denormals kept": lambda: _set(torch.set_flush_denormal, False, False),
}


def _settings() -> tuple[object, ...]:
    try:
        precision: object = torch.get_float32_matmul_precision()
    except RuntimeError:
        precision = "set apart"
    backends: Any = torch.backends
    return (
        torch.get_default_dtype(), torch.get_default_device(), precision, backends.cuda.matmul.fp32_precision,
        backends.mkldnn.matmul.fp32_precision, torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(), torch.get_num_threads(), numerics.denormals_are_zero(),
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("computation", [_trained, _evaluated], ids=["train", "evaluate"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_callers_settings_change_no_bit_and_stay(name: str, computation: Callable[[], str]) -> None:
    usual = _usual(computation)
    with SETTINGS[name]():
        before = _settings()
        found = computation()
        assert _settings() == before
    assert found == usual


@pytest.mark.usefixtures("two_threads")
def test_all_settings_at_once_change_no_bit() -> None:
    usual = _usual(_evaluated)
    with ExitStack() as stack:
        for name, setting in SETTINGS.items():
            if name != "denormals kept":
                stack.enter_context(setting())
        assert _evaluated() == usual


@pytest.mark.usefixtures("two_threads")
def test_a_thread_pool_of_the_user_computes_the_same() -> None:
    usual = _usual(_evaluated)
    with _set(torch.set_default_dtype, torch.float64, torch.float32), ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: (_evaluated(), numerics.denormals_are_zero()), range(2)))
        assert torch.get_default_dtype() == torch.float64
    assert found == [(usual, False)] * 2


@pytest.mark.usefixtures("two_threads")
def test_a_helping_thread_keeps_one_cpu_thread_if_another_thread_then_sets_more() -> None:
    """torch initialises a thread at its first operation, with the number of CPU threads that was set last anywhere."""
    with ThreadPoolExecutor(1, initializer=numerics.prepare_thread) as pool:
        pool.submit(int).result()  # the thread is prepared, and has not used torch
        torch.set_num_threads(2)
        assert pool.submit(torch.get_num_threads).result() == 1


def test_between_two_epochs_the_users_settings_hold() -> None:
    config = load_config("v5_5", {
        "data.train_fraction": 0.01, "training.total_epochs": 2, "evaluation.coverage_samples": 500,
        "evaluation.latents": 500,
    })
    with _set(torch.set_default_dtype, torch.float64, torch.float32):
        before = _settings()
        for _ in train(config, [1], device="cpu"):
            assert _settings() == before


@pytest.mark.usefixtures("two_threads")
def test_openmp_threads_flush_denormals_inside_the_fence_only() -> None:
    tiny = torch.full((400_000,), 1e-39)

    def flushed() -> float:
        return float((tiny * 1.0 == 0).double().mean())

    assert flushed() == 0.0
    with numerics.fixed_arithmetic():
        assert flushed() == 1.0
        with numerics.fixed_arithmetic():
            assert flushed() == 1.0
        assert flushed() == 1.0
    assert flushed() == 0.0


def test_an_error_inside_restores_the_settings() -> None:
    def fail() -> None:
        with numerics.fixed_arithmetic():
            assert torch.get_default_dtype() == torch.float32
            raise ZeroDivisionError

    with _set(torch.set_default_dtype, torch.float64, torch.float32):
        before = _settings()
        with pytest.raises(ZeroDivisionError):
            fail()
        assert _settings() == before


def test_products_below_the_range_of_float32_are_kept() -> None:
    """Compared with float64, for logits whose products leave the range of float32."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 9, 3, 2000, generator=generator)
    logits[:, :, 2] -= 12

    def exact(found: Sums) -> None:
        q = torch.softmax(logits.double(), 2)[0]
        classes = (space.operations() + 1).long()
        want = torch.zeros(space.SIZE, dtype=torch.float64)
        for part in range(0, 2000, 250):
            p = torch.ones(space.SIZE, 250, dtype=torch.float64)
            for k in range(space.ENTRIES):
                p *= q[k, classes[:, k], part : part + 250]
            want += p.sum(1)
        held = want > 1e-45
        assert int((want < 1e-38).sum()) > 10
        torch.testing.assert_close(found.p[0][held], want[held], rtol=1e-4, atol=0)

    with numerics.fixed_arithmetic():
        exact(decoder_sums(lambda z: logits[..., : z.shape[-1]], torch.zeros(1, 16, 2000)))
