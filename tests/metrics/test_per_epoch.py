"""Measuring beside training: the same figures whoever does the work, and whenever."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch

from ternary_lab import load_config, space
from ternary_lab.backend.random_streams import stream
from ternary_lab.backend.threads import Tasks, helping_threads, in_order
from ternary_lab.config import Config
from ternary_lab.history import TIMING_COLUMNS
from ternary_lab.metrics.per_epoch import Group, Measurement, Source
from ternary_lab.metrics.sobol import PART, parts
from ternary_lab.model import Architecture, DualVAE
from ternary_lab.networks import Blocks
from ternary_lab.training.cohort import Cohort, Epoch

CPU = torch.device("cpu")
SEEDS = (3, 4)
pytestmark = pytest.mark.usefixtures("two_threads")


def _config(**changes: object) -> Config:
    small = {
        "data.batch_size": 128, "data.train_fraction": 0.2, "training.total_epochs": 4,
        "evaluation.coverage_samples": PART + 700, "evaluation.latents": PART + 300,
    }
    return load_config("v5_5", small | changes)


def _measurement(groups: list[Group], helpers: int) -> Measurement:
    split = space.split(42)
    source = Source(_config().evaluation, space.operations(split.validation), CPU)
    return Measurement(source, groups, 7, helping_threads(helpers))


def _models() -> list[DualVAE]:
    architecture = Architecture(_config().model)
    return [DualVAE(architecture, architecture.initialise(seed)) for seed in SEEDS]


def test_helpers_change_no_bit() -> None:
    groups = [Group(model, (seed,)) for model, seed in zip(_models(), SEEDS, strict=True)]
    alone, helped = (_measurement(groups, helpers).metrics for helpers in (0, 3))
    assert helped == alone


def test_runs_together_measure_what_each_measures_alone() -> None:
    """As on a GPU, where all runs are one group."""
    models = _models()
    both = DualVAE(models[0].architecture, Blocks.join([model.blocks for model in models]))
    together = _measurement([Group(both, SEEDS)], 0).metrics
    apart = _measurement([Group(model, (seed,)) for model, seed in zip(models, SEEDS, strict=True)], 0).metrics
    assert together.keys() == apart.keys()
    for name, values in together.items():
        # Float rounding may move a draw across the edge of a class.
        assert values == pytest.approx(apart[name], rel=1e-3), name


def test_every_part_of_the_draws_has_its_own_stream() -> None:
    assert sum(parts(195_000)) == 195_000
    assert parts(PART) == [PART]
    assert parts(PART + 1) == [PART, 1]
    first, again, other = (stream(1, "coverage", 2, part).initial_seed() for part in ("A0", "A0", "A1"))
    assert first == again
    assert first != other


def _finished(config: Config, finish: Callable[[Cohort], list[Epoch]]) -> list[dict[str, Any]]:
    cohort = Cohort([config] * 2, SEEDS, CPU)
    return [
        {k: v for k, v in asdict(record).items() if k not in TIMING_COLUMNS}
        for epoch in finish(cohort) for record, _ in epoch.finish()
    ]


@pytest.mark.parametrize("metric", ["val_loss", "informative_coverage"])
def test_measuring_beside_training_changes_no_bit(metric: str) -> None:
    """The loop that finishes every epoch before it trains the next is the obvious one."""

    def one_by_one(cohort: Cohort) -> list[Epoch]:
        epochs = []
        while True:
            epoch = cohort.train_next()
            epoch.finish()
            epochs.append(epoch)
            cohort.state(0)  # settles the controllers
            if not cohort.drop_stopped():
                return epochs

    # Always balanced, so that the plan of an epoch depends on the coverage of the one before.
    config = _config(**{
        "early_stopping.metric": metric, "loss_weights.ratio_low": 0.001, "loss_weights.ratio_high": 999.0,
        "loss_weights.coverage_ratio_high": 1.001,
    })
    beside = _finished(config, lambda cohort: list(cohort.epochs()))
    assert beside == _finished(config, one_by_one)
    assert len({row["lambda1"] for row in beside}) > 2


def test_counts_that_nobody_reads_can_be_left_out() -> None:
    """Of runs that are balanced now and then, the others of their cohort or not: training is the same to the bit."""
    balance = {
        "loss_weights.ratio_low": 0.5, "loss_weights.ratio_high": 1.1, "loss_weights.coverage_ratio_high": 1.01,
        "data.train_fraction": 0.8, "data.batch_size": 2048,
    }
    config = _config(**balance)
    sparing = _config(**balance, **{"evaluation.coverage_at": "when_read"})
    every, some = (_finished(c, lambda cohort: list(cohort.epochs())) for c in (config, sparing))
    counted = ("unique_ops_A", "unique_ops_B", "coverage_A", "coverage_B")
    read = [0.5 <= later["grad_ratio"] <= 1.1 for later in every[len(SEEDS):]]
    assert any(read)
    assert not all(read)
    for all_of, row, needed in zip(every, some, read, strict=False):  # of the last epoch nobody knows
        for name, value in all_of.items():
            if name not in counted or needed:
                assert row[name] == value, name
        assert (row["unique_ops_A"] is not None) == needed
        assert math.isnan(row["coverage_B"]) != needed
    assert len({row["lambda1"] for row in every}) > 2


def test_a_finished_epochs_state_continues_as_the_cohort_does() -> None:
    config = _config()
    cohort = Cohort([config], [5], CPU)
    first = next(cohort.epochs())
    ((_, state),) = first.finish()
    (expected,) = Cohort([config], [5], CPU, [state]).advance()
    cohort = Cohort([config], [5], CPU)
    cohort.advance()
    (record,) = cohort.advance()
    for name, value in asdict(record).items():
        if name not in TIMING_COLUMNS:
            assert value == getattr(expected, name), name


@pytest.mark.parametrize("helpers", [0, 2])
def test_tasks_return_what_their_calls_return_in_order(helpers: int) -> None:
    tasks = Tasks({i: partial(pow, i, 2) for i in range(50)}, helping_threads(helpers))
    assert list(tasks.results().items()) == [(i, i * i) for i in range(50)]


@pytest.mark.parametrize("helpers", [0, 2])
def test_what_a_task_raises_reaches_the_caller(helpers: int) -> None:
    tasks = Tasks({"bad": partial(int, "x")}, helping_threads(helpers))
    with pytest.raises(ValueError, match="invalid literal"):
        tasks.results()


def test_cancelled_tasks_are_not_begun() -> None:
    pool, gate, begun = ThreadPoolExecutor(1), threading.Event(), list[int]()
    pool.submit(gate.wait)
    Tasks({i: partial(begun.append, i) for i in range(5)}, pool).cancel()
    gate.set()
    pool.shutdown()
    assert begun == []


def test_calls_in_order_are_made_lazily_and_kept_in_order() -> None:
    made = []

    def calls() -> Any:
        for i in range(40):
            made.append(i)
            yield partial(pow, i, 2)

    results = in_order(calls(), CPU)
    assert next(results) == 0
    assert len(made) < 40
    assert list(results) == [i * i for i in range(1, 40)]
