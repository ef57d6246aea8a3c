"""Pages of the documentation that no other test reads: their numbers are those of the code, or are computed here."""

from __future__ import annotations

import inspect
import json
import math
import re
from pathlib import Path

import pytest

from ternary_lab import evaluate, load_config, load_run, space
from ternary_lab.cli.reproduce import ALL_SEEDS
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.metrics.latent_entropy import ACTIVE
from ternary_lab.model import Architecture
from ternary_lab.page.data import LATENTS
from ternary_lab.studies import statistics
from ternary_lab.studies.beyond_v55.tables import load_search, load_second_search
from ternary_lab.studies.report.verdicts import WIDE_POINTS, WIDE_SHARE
from ternary_lab.sweeps.run import load_results

ROOT = Path(__file__).parents[2]


def _page(name: str) -> str:
    """Return the text of a page as one line."""
    return " ".join((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").split())


def test_the_page_of_the_explorer() -> None:
    page, epochs = _page("explorer"), load_run("v5_5/seed=42").epochs
    assert f"{len(epochs)} epochs, among them each epoch from 45 to 55;" in page
    assert set(range(45, 56)) <= set(epochs)
    assert f"{space.SIZE:,} operations" in page
    assert f"a mean over {LATENTS:,} latents" in page


def test_the_statistics_policy() -> None:
    page = _page("statistics")
    last = inspect.signature(statistics.cycle_means).parameters["last"].default
    assert f"epochs {last - statistics.CYCLE + 1} to {last} (`cycle_means`)" in page
    assert f"a period of {statistics.CYCLE} epochs" in page
    assert f"{100 * statistics.LEVEL:.0f} % interval of Student's distribution" in page
    for name in re.findall(r"\(`(\w+)`\)", page):
        assert callable(getattr(statistics, name))
    assert f"its width exceeds the claimed number or, for a share in percent, {WIDE_POINTS:.0f} points" in page
    assert WIDE_SHARE == 0.5
    assert f"reported on seeds {ALL_SEEDS[0]} to {ALL_SEEDS[-1]}" in page
    swept = load_results()["seed"]
    assert f"has the seeds {swept.min()} to {swept.max()}" in page


def test_the_quickstart_describes_the_table_that_it_prints() -> None:
    words = "In A, it is over 99 % after the first epoch, falls until epoch 49, and is over 99 % again"
    assert words in _page("quickstart")
    history = load_run("v5_5/seed=42").history
    coverage = history["coverage_A"]
    assert coverage[0] > 99 < coverage[100]
    assert coverage[:51].idxmin() == 49
    assert history["informative_coverage_B"][:50].max() < 1


@pytest.mark.parametrize("page", ["statistics", "model_card"])
def test_choices_were_made_on_other_seeds_than_those_reported(page: str) -> None:
    assert "from 1000 on" in _page(page)
    for trials in (load_search(), load_second_search()):
        assert trials["seed"].min() >= 1000


def test_constants_of_the_metrics_on_the_page_of_concepts() -> None:
    page = _page("concepts")
    assert f"The library uses $K$ = {inspect.signature(evaluate).parameters['iwae_samples'].default} samples" in page
    assert f"is larger than {ACTIVE}" in page


def test_the_plan_for_three_inputs() -> None:
    page, n = _page("three_inputs"), 3**27
    pairs, triples = (math.comb(27, k) * 3**k for k in (2, 3))
    config = load_config("v5_5", {"model.latent_dim": 48})
    original = Architecture(load_config("v5_5").model)
    networks = Architecture(config.model)
    layers = [networks.encoder, networks.encoder, networks.decoder_A, networks.decoder_B]
    inputs = sum(one.layers[0].outputs for one in layers[:2]) * (27 - 9)  # more entries in the first layers
    outputs = sum(one.layers[-1].inputs + 1 for one in layers[2:]) * 3 * (27 - 9)  # more logits in the last layers
    uniform = 10**8 * (10**8 - 1) / 2 / n
    speed = json.loads((ROOT / "benchmarks" / "cpu.json").read_text())["cohorts"]["1"]
    expected = (
        f"N = 3²⁷ = {n:,} ", f"(ln N = {math.log(n):.2f} nats)", f"{space.SIZE:,} ({math.log(space.SIZE):.2f})",
        f"{4 * n / 1e12:.1f} TB in float32", f"({3**14:,} × {3**13:,})",
        f"{pairs:,} probabilities) and triples ({triples:,})",
        f"contain {SAMPLES**2 / 2 / n:.4f} equal pairs", f"n = 10⁸ gives {uniform:.0f}",
        f"a relative error of {100 / math.sqrt(uniform):.0f} %", f"{8e8 / 1e9:.1f} GB of sorted indices",
        f"{networks.parameters + inputs + outputs:,} parameters instead of {original.parameters:,}",
        f"ln K for K latents (Poole et al. 2019): {math.log(1e6):.1f} nats",
    )
    assert [text for text in expected if text not in page] == []
    assert n < 2**43
    assert 30_000 < load_config("v5_5").data.train_fraction * space.SIZE / speed["train_seconds"] < 40_000
