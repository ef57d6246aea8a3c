"""`score`: exact values beside slow formulas and `evaluate`, estimates beside exact values, and bad input."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import binom

from ternary_lab import InputError, evaluate, load_model, score, space
from ternary_lab.cli import main
from ternary_lab.metrics import evaluate as evaluation
from ternary_lab.metrics.baselines import uniform, uniform_draws, untrained
from ternary_lab.metrics.from_draws import Draws
from ternary_lab.metrics.quantities import QUANTITIES
from ternary_lab.studies.beyond_v55.tables import load_recipes
from ternary_lab.studies.score import ROWS, baseline_measures, describe

pytestmark = pytest.mark.usefixtures("one_thread")
EPOCH_60 = Path(__file__).parents[1] / "data" / "epoch_60.pt"
N = space.SIZE


@pytest.fixture(scope="module")
def evaluated(one_thread: None) -> Iterator[Any]:
    """v5.5 at epoch 60, with the measures of rare operations of the distribution that few latents give."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "ENOUGH_FOR_RARE", 0)
        yield evaluate(load_model(EPOCH_60), 50_000, 65_536, iwae_samples=1)


# --- probabilities


@pytest.mark.parametrize("pathway", ["A", "B"])
def test_the_probabilities_of_our_models_get_the_score_that_evaluate_gives(pathway: str, evaluated: Any) -> None:
    its, p = getattr(evaluated, pathway), evaluated.output[pathway]
    found = score(log_prob=p.log()).measures
    for name in ("missing_mass", "n99", "rarest"):
        assert found[name].value == pytest.approx(getattr(its, name), rel=1e-5), name
    assert found["expected_coverage_50000"].value == pytest.approx(its.expected_coverage, rel=1e-7)
    # `evaluate` corrects H(X) for its finite number of latents.
    uncorrected = math.log(its.informative_coverage_raw / 100 * N) + its.decoder_noise
    assert found["output_entropy"].value == pytest.approx(uncorrected, abs=1e-6)
    assert uncorrected < its.output_entropy


def test_the_exact_measures_follow_from_their_definitions() -> None:
    p = np.random.default_rng(0).gamma(0.5, size=N)
    p[:7] = 0
    p /= p.sum()
    found = {name: its.value for name, its in score(log_prob=torch.from_numpy(p).log()).measures.items()}
    u = 1 / N
    h, tv, jsd, reached = 0.0, 0.0, 0.0, 0.0
    for x in p.tolist():
        h -= x * math.log(x) if x else 0
        tv += abs(x - u) / 2
        jsd += (x * math.log(2 * x / (x + u)) if x else 0) / 2 + u * math.log(2 * u / (x + u)) / 2
        reached += 100 * (1 - (1 - x) ** 10_000) / N
    slow = {
        "expected_coverage_10000": reached, "output_entropy": h, "effective_share": 100 * math.exp(h) / N,
        "entropy_deficit": math.log(N) - h, "total_variation": tv, "jensen_shannon": jsd, "rarest": 0,
        "missing_mass": math.inf,
    }
    assert {name: found[name] for name in slow} == pytest.approx(slow, rel=1e-9)


def test_the_least_probable_operations_are_named() -> None:
    log_p = uniform(N).log()
    log_p[[5, 9]] -= torch.tensor([3.0, 4.0])
    found = score(log_prob=log_p - torch.logsumexp(log_p, 0))
    assert list(found.least_probable)[:2] == [9, 5]
    assert found.least_probable[9] * N == pytest.approx(math.exp(-4), rel=1e-3)


def test_a_function_gets_all_operations_in_order_and_may_return_an_array() -> None:
    def log_prob(tables: torch.Tensor) -> Any:
        assert torch.equal(space.index_of(tables), torch.arange(N))
        return np.full(N, -math.log(N), dtype=np.float32)

    found = score(log_prob=log_prob)
    assert found.measures["n99"].value == 90_641
    assert (found.draws, found.unique_operations) == (None, None)
    assert all(its.low == its.value == its.high for its in found.measures.values())


# --- draws


def test_tables_indices_arrays_lists_and_functions_are_the_same_draws() -> None:
    indices = uniform_draws(2000)
    tables = space.operations(indices)
    for given in (indices.numpy(), indices.tolist(), tables, tables.numpy().astype(np.int8), lambda _: tables):
        assert score(sample=given, draws=2000) == score(sample=indices)
    assert score(sample=indices).unique_operations == len(set(indices.tolist()))


def test_coverage_of_fewer_draws_is_the_mean_over_all_choices_of_them() -> None:
    draws = [0, 0, 0, 1, 1, 2, 5]
    found = Draws(np.bincount(draws, minlength=N))
    for m in range(1, 8):
        chosen = [len({draws[i] for i in some}) for some in itertools.combinations(range(7), m)]
        value = found.coverage(m).value
        assert value is not None
        assert value * N / 100 == pytest.approx(sum(chosen) / len(chosen))


def test_the_error_of_the_entropy_is_that_of_leaving_out_each_draw() -> None:
    """The lower end, from the estimate and its jackknife, computed by the sums of the definitions."""
    draws = np.random.default_rng(0).integers(0, 12, 60) ** 2

    def entropy(some: list[int]) -> float:
        n = len(some)
        return sum(c / n * sum(1 / k for k in range(c, n)) for c in Counter(some).values())

    whole = draws.tolist()
    without = [entropy(whole[:i] + whole[i + 1:]) for i in range(60)]
    variance = 59 / 60 * sum((h - sum(without) / 60) ** 2 for h in without)
    low = Draws(np.bincount(draws, minlength=N)).entropy.low
    assert low == pytest.approx(entropy(whole) - 1.959964 * math.sqrt(variance))


def test_the_number_of_draws_for_99_percent_inverts_the_coverage() -> None:
    found = Draws(np.bincount(uniform_draws(120_000).numpy(), minlength=N))
    needed = found.draws_needed().value
    assert needed is not None

    def coverage(m: float) -> float:
        value = found.coverage(int(m)).value
        assert value is not None
        return value

    assert coverage(needed - 1) < 99 <= coverage(needed)
    few = Draws(np.bincount(uniform_draws(50_000).numpy(), minlength=N)).draws_needed()
    assert (few.value, few.low, few.high) == (None, 50_000, math.inf)


ROUNDS = 30


@pytest.fixture(scope="module")
def misses(evaluated: Any) -> dict[tuple[str, str, int], int]:
    """Return the number of intervals, among `ROUNDS`, that miss the true value: by measure, generator and draws."""
    initial = evaluate(untrained(), 1000, 16_384, iwae_samples=1).output["A"]
    generators = {
        "v5.5 A": evaluated.output["A"], "v5.5 B": evaluated.output["B"], "untrained": initial, "noise": uniform(N),
        "skewed": 1 / torch.arange(1, N + 1, dtype=torch.float64),
    }
    random = np.random.default_rng(0)
    found: Counter[tuple[str, str, int]] = Counter()
    for (name, weights), n in itertools.product(generators.items(), (2000, 20_000, 195_000)):
        p = (weights / weights.sum()).numpy()
        true = {key: its.value for key, its in score(log_prob=np.log(p)).measures.items()}
        true["sampled_coverage"] = float(100 * (1 - (1 - p) ** n).mean())
        for _ in range(ROUNDS):
            counts = random.multinomial(n, p)
            true["unseen_mass"] = 100 * float(p[counts == 0].sum())
            for key, its in score(sample=np.repeat(np.arange(N), counts)).measures.items():
                value = true[key]
                assert value is not None
                found[key, name, n] += not its.low - 1e-9 <= value <= its.high + 1e-9
    return dict(found)


def test_the_intervals_contain_the_exact_values_of_our_models_in_95_of_100_cases(
    misses: dict[tuple[str, str, int], int]
) -> None:
    """The test rejects a level of 95 % with probability 0.001 for all its counts together (Bonferroni)."""
    assert {name for name, _, _ in misses} == ROWS.keys() - {"rarest"}
    trials: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for (name, _, _), count in misses.items():
        trials[name] += ROUNDS
        total[name] += count
    tests = len(misses) + len(total)
    assert {key: count for key, count in misses.items() if binom.sf(count - 1, ROUNDS, 0.05) < 0.001 / tests} == {}
    assert {name: k for name, k in total.items() if binom.sf(k - 1, trials[name], 0.05) < 0.001 / tests} == {}


def test_the_intervals_of_many_draws_are_narrow_and_those_of_few_draws_wide(evaluated: Any) -> None:
    p = evaluated.output["B"].numpy()

    def widths(n: int) -> dict[str, float]:
        counts = np.random.default_rng(1).multinomial(n, p / p.sum())
        found = score(sample=np.repeat(np.arange(N), counts)).measures
        return {name: its.high - its.low for name, its in found.items()}

    many, few = widths(195_000), widths(2000)
    limits = {"sampled_coverage": 0.8, "expected_coverage_10000": 0.15, "unseen_mass": 0.2, "output_entropy": 0.05,
              "total_variation": 0.2, "missing_mass": math.inf}
    assert {name for name, limit in limits.items() if many[name] > limit} == set()
    assert few["output_entropy"] > 1


def test_a_generator_of_one_operation_has_the_worst_exact_score() -> None:
    found = score(log_prob=torch.where(torch.arange(N) == 7, 0.0, -math.inf))
    its = {name: estimate.value for name, estimate in found.measures.items()}
    assert str(its["output_entropy"]) == "0.0"
    assert its["total_variation"] == pytest.approx(1 - 1 / N)
    assert its["missing_mass"] == its["n99"] == math.inf
    assert found.as_dict()["n99"] == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize("kind", [1, 100])
def test_a_generator_of_few_operations_has_a_narrow_score(kind: int) -> None:
    found = score(sample=np.arange(20_000) % kind).measures
    assert found["effective_share"].value == pytest.approx(100 * kind / N, rel=0.01)
    assert found["sampled_coverage"].value == pytest.approx(100 * kind / N)
    # 3.69 is the upper end of the 95 % interval of a Poisson mean whose count is 0.
    assert found["unseen_mass"].high == pytest.approx(100 * 3.69 / 20_000, rel=1e-3)
    assert found["total_variation"].low > 0.98
    assert found["missing_mass"].low > 0.5


def test_nothing_is_unseen_if_every_operation_occurs() -> None:
    unseen = score(sample=np.arange(N)).measures["unseen_mass"]
    assert (unseen.value, unseen.low, unseen.high) == (0, 0, 0)


def test_the_entropy_of_few_draws_is_estimated_with_what_they_cannot_show(evaluated: Any) -> None:
    p = evaluated.output["B"]
    exact = score(log_prob=p.log()).measures["output_entropy"].value
    assert exact is not None
    for n, error in ((2000, 0.5), (5000, 0.25), (20_000, 0.1)):
        counts = np.random.default_rng(2).multinomial(n, p.numpy())
        assert Draws(counts).entropy.value == pytest.approx(exact, abs=error)
        assert -sum(c / n * math.log(c / n) for c in counts.tolist() if c) < exact - 2 * error  # the usual estimate


def test_the_draws_of_a_model_get_the_score_of_its_distribution(evaluated: Any) -> None:
    model, generator = load_model(EPOCH_60), torch.Generator().manual_seed(0)
    found = score(sample=lambda n: model.sample(n, "B", generator=generator), draws=50_000)
    its = found.measures["sampled_coverage"]
    assert its.low < evaluated.B.sampled_coverage < its.high  # the count of other 50,000 draws
    assert its == found.measures["expected_coverage_50000"]
    assert found.measures["output_entropy"].low < evaluated.B.output_entropy < found.measures["output_entropy"].high


# --- baselines and table


def test_the_baselines_are_those_of_the_published_table() -> None:
    found, recipes = baseline_measures(), load_recipes()
    assert list(found) == ["uniform", "untrained", "v5.5", "beyond"]
    for name, recipe in (("v5.5", "v5_5"), ("beyond", "beyond")):
        its = recipes[recipes["recipe"] == recipe]
        assert found[name]["n99"] == its["n99"].median()
        assert found[name]["entropy_deficit"] == pytest.approx(math.log(N) - its["output_entropy"].median())
        assert found[name]["expected_coverage_195000"] == its["sampled_coverage"].median()
    assert found["uniform"]["missing_mass"] == pytest.approx(0, abs=1e-9)
    assert 0.01 < found["untrained"]["missing_mass"] < 0.2


@pytest.mark.parametrize("given", [{"sample": uniform_draws(195_000)}, {"sample": uniform_draws(1000)},
                                   {"log_prob": uniform(N).log()}], ids=["many", "few", "exact"])
def test_the_table_is_aligned_and_has_a_row_for_each_measure(given: dict[str, Any]) -> None:
    found = score(**given)
    above, table = describe(found, "mine").split("\n\n")
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert max(map(len, [*above.splitlines(), *lines])) <= 110
    assert [line.split("  ")[0] for line in lines[1:]] == [ROWS[name][0] for name in found.measures]
    assert lines[0].split()[0] == "score"
    assert lines[0].split()[1:] == list(baseline_measures())


def test_every_measure_is_in_the_table_of_quantities() -> None:
    counted = {"sampled_coverage", *(name for name in ROWS if name.startswith("expected_coverage_"))}
    assert ROWS.keys() - counted <= QUANTITIES.keys()


# --- bad input

FLAT = uniform(N).log()


def _at(index: int, value: float) -> torch.Tensor:
    log_p = FLAT.clone()
    log_p[index] = value
    return log_p


@pytest.mark.parametrize(("given", "words"), [
    ({}, "sample or log_prob must be given, but neither is"),
    ({"sample": uniform_draws, "log_prob": FLAT}, "but both are"),
    ({"sample": uniform_draws, "draws": 999}, "draws must be a whole number in 1000"),
    ({"sample": uniform_draws(999)}, "999 draws say too little"),
    ({"sample": lambda n: uniform_draws(n - 1)}, "asked for 195,000 draws and gave 194,999"),
    ({"sample": torch.zeros(2000, 8)}, r"truth tables \(n, 9\) or operation indices \(n,\), got \(2000, 8\)"),
    ({"sample": torch.zeros(20, 100, 9)}, r"got \(20, 100, 9\)"), ({"sample": 3}, r"got \(\)"),
    ({"sample": torch.full((2000, 9), 2)}, "sample: entries of an operation must be -1, 0 or [+]1, got 2"),
    ({"sample": torch.full((2000, 9), math.nan)}, "got nan"),
    ({"sample": torch.full((2000,), N)}, "sample: operation indices must lie in 0..19682, got 19683"),
    ({"sample": torch.zeros(2000)}, "sample: operation indices must be integers"),
    ({"sample": lambda _: None}, "sample must be an array of numbers, got None"),
    ({"sample": "mine"}, "sample must be an array of numbers, got 'mine'"),
    ({"log_prob": FLAT[:-1]}, r"\(19683,\) floats, got \(19682,\)"),
    ({"log_prob": lambda x: x}, r"\(19683,\) floats, got \(19683, 9\)"),
    ({"log_prob": FLAT.long()}, "floats, got .* torch.int64"),
    ({"log_prob": _at(7, math.nan)}, "NaN for 1 operations, first for operation 7: give -inf"),
    ({"log_prob": _at(7, math.inf)}, "ln p.x. is inf for operation 7, but it must be at most 0"),
    ({"log_prob": uniform(N)}, "must be at most 0: take the logarithm of p"),
    ({"log_prob": FLAT - 1}, "the probabilities sum to 0.367879, not to 1: take"),
    ({"log_prob": torch.full((N,), -math.inf)}, "the probabilities sum to 0, not to 1"),
], ids=range(22))
def test_bad_input_is_named_in_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        score(**given)
    assert "\n" not in str(caught.value)


def test_errors_of_float32_are_divided_out() -> None:
    found = score(log_prob=(FLAT + 2e-5).float()).measures
    assert found["missing_mass"].value == pytest.approx(0, abs=1e-6)
    assert found["effective_share"].value == pytest.approx(100, abs=1e-4)


# --- the command


MODULE = """
import torch

def sample(n):
    return torch.randint(-1, 2, (n, 9), generator=torch.Generator().manual_seed(0))

def log_prob(x):
    return torch.full((len(x),), -9.887510598012987)

def broken(n):
    raise KeyError("no\\nweights")
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command in a folder that has the module my_generator."""
    (tmp_path / "my_generator.py").write_text(MODULE)
    (tmp_path / "half_written.py").write_text("def sample(n:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_generator", raising=False)
    return lambda *words: CliRunner().invoke(main, ["score", *words])


def test_the_command_prints_the_table_and_the_json_of_a_function(command: Callable[..., Any]) -> None:
    table = command("my_generator:sample", "--draws", "5000")
    assert (table.exit_code, table.output) == (0, table.stdout)  # nothing on stderr
    assert table.stdout.startswith("my_generator:sample\nestimated from 5,000 draws with ")
    data = json.loads(command("my_generator:sample", "--draws", "5000", "--json").stdout)
    assert (data["source"], data["exact"], data["draws"]) == ("my_generator:sample", False, 5000)
    assert data["sampled_coverage"].keys() == {"value", "low", "high"}
    assert data["missing_mass"] == {"value": None, "low": 0.0, "high": None}
    exact = json.loads(command("my_generator:log_prob", "--log-prob", "--json").stdout)
    assert exact["n99"] == {"value": 90_641, "low": 90_641, "high": 90_641}
    assert exact["exact"]
    assert len(exact["least_probable"]) == 5


@pytest.mark.parametrize(("source", "words"), [
    ("my_generator", "'my_generator' names no function: write MODULE:FUNCTION"), (":sample", "names no function"),
    ("my_generato:sample", "module 'my_generato' cannot be imported (ModuleNotFoundError"),
    ("my_generator.py:sample", "and write its name without .py"),
    ("half_written:sample", "module 'half_written' cannot be imported (SyntaxError"),
    ("my_generator:smple", "module 'my_generator' has no 'smple': did you mean sample?"),
    ("my_generator:broken", "my_generator:broken: raised KeyError: 'no\\nweights': run it in Python to see the line"),
    ("my_generator:log_prob", "my_generator:log_prob: raised TypeError"),
])
def test_a_function_that_cannot_be_used_is_named_in_one_line(
    command: Callable[..., Any], source: str, words: str
) -> None:
    found = command(source)
    assert found.exit_code == 2
    (line,) = found.output.splitlines()
    assert line.startswith("error: ")
    assert words in line
