"""The concepts page: its drawings, numbers and symbols agree with the library."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch

from ternary_lab import evaluate, load_config, space
from ternary_lab.config import flatten
from ternary_lab.metrics import baselines
from ternary_lab.metrics.coverage import draws_needed, uniform_coverage
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.metrics.latent_entropy import CEILING, expected_entropy, normal_entropy, sampled_code
from ternary_lab.model import PATHWAYS
from ternary_lab.notebooks.export import replace_formulas
from ternary_lab.schedules import Lagged, Staged
from ternary_lab.studies.score import score

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "concepts.md").read_text(encoding="utf-8")
CONFIG = load_config("v5_5")
NAMES = r"v5\.5|\[\d\d |\((?:[A-Z]\w+,? (?:and |et al\. )?)*\d{4}\)|\]\([^)]*\)|`[^`]*`|^\d\. |^!\[[^]]*\]"
"""Names of things, sources, links, code, pictures and numbers of a list, which contain numbers."""
METRICS = re.compile(r"^\| metric .*?\n\|---.*?\n(.*?)\n\n", re.MULTILINE | re.DOTALL)
"""The table of baselines; its rows are the group."""
EXACT = {
    "expected coverage, %": "expected_coverage_195000", "KL(U‖p), nats": "missing_mass", "n₉₉, draws": "n99",
    "TV(p, U)": "total_variation", "JSD(p, U), nats": "jensen_shannon",
}
"""The measures of the table that depend on the output distribution only, with their names in a `Score`."""


def _table() -> dict[str, list[str]]:
    """Return the cells of each row of the table of baselines, by the name of the metric."""
    found = METRICS.search(PAGE)
    assert found is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    return {name: cells for name, *cells in rows}


def _numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)]


def test_the_drawings_are_those_of_the_configuration() -> None:
    spec = importlib.util.spec_from_file_location("concept_figures", DOCS / "concept_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.drawings()
    assert {path.name for path in (DOCS / "concepts").iterdir()} == set(made)
    for name, text in made.items():
        assert (DOCS / "concepts" / name).read_text(encoding="utf-8") == text, "run docs/concept_figures.py"
        assert f"](concepts/{name})" in PAGE


def test_every_number_is_a_setting_or_is_computed() -> None:
    """The table of baselines has a test of its own."""
    settings = flatten(CONFIG.as_dict())
    facts = {float(value) for value in settings.values() if isinstance(value, int | float)}
    facts |= {float(e) for e in CONFIG.optimiser.lr_steps}
    parts = space.split(CONFIG.data.split_seed)
    phases, tau = CONFIG.phases, CONFIG.temperature
    facts |= {space.SIZE, *(len(part) for part in (parts.train, parts.validation, parts.test))}
    facts |= {phases.consolidation - 1, phases.convergence - 1, phases.final - 1}
    facts |= {settings["beta.A.end"] - settings["beta.A.start"]}
    facts |= {CONFIG.schedule.horizon - settings["beta.A.warmup_epochs"]}
    facts |= {tau.A.start - tau.A.end, tau.B.start - tau.B.end, CONFIG.model.latent_dim * CONFIG.kl.free_bits}
    facts |= {round(CONFIG.betas(50)[1], 3), space.named()["min (Kleene and)"], space.ENTRIES * space.VALUES}
    facts |= {round(uniform_coverage(n), 2) for n in (10_000, 50_000)} | {10_000, 50_000, SAMPLES, 99, 100, 95}
    facts |= {round(uniform_coverage(SAMPLES), 3), draws_needed(baselines.uniform(space.SIZE))}
    facts |= {round(math.log(space.SIZE), 4), round(CEILING, 3), round(normal_entropy(), 3), 50}
    facts |= {round(expected_entropy(64)[0], 3)}
    prose = re.sub(NAMES, " ", METRICS.sub("", PAGE), flags=re.MULTILINE)
    unknown = [n for n in _numbers(prose) if n > 9 or n % 1 if not any(math.isclose(n, fact) for fact in facts)]
    assert unknown == []


def test_the_formulas_of_the_schedules_have_the_settings() -> None:
    a, b, tau, weights = CONFIG.beta.A, CONFIG.beta.B, CONFIG.temperature.A, CONFIG.loss_weights
    horizon = CONFIG.schedule.horizon
    assert isinstance(a, Staged)
    assert isinstance(b, Lagged)
    start, warmup = a.start, a.warmup_epochs
    for formula in (
        rf"{start:g}\, e / {warmup} & e < {warmup} \\ "
        rf"{start:g} + {a.end - start:g}\, (e - {warmup}) / {horizon - warmup} & e \ge {warmup}",
        rf"0 & e < {b.warmup_epochs} \\ \beta_A(e)\, \sin {b.lag:g} & e \ge {b.warmup_epochs}",
        rf"\max(b + h \cos(2 \pi e / {tau.period}),\, {tau.floor:g})",
        rf"$b = {tau.start:g} - {tau.start - tau.end:g}\, e / {horizon}$",
        rf"{weights.lambda3_base:g} + {weights.lambda3_amplitude:g} \cos(2 \pi e / {weights.lambda3_period} + \pi / 2)",
    ):
        assert formula in PAGE


def test_the_table_of_baselines_is_measured() -> None:
    untrained, collapsed = baselines.untrained(0), baselines.collapsed()
    measured = evaluate(untrained, latents=2**16)
    noise = evaluate(collapsed, latents=4096, samples=1000, iwae_samples=1)
    order = torch.randperm(space.SIZE, generator=torch.Generator().manual_seed(0))
    columns: dict[str, list[float]] = {}
    for pathway in PATHWAYS:
        found = getattr(measured, pathway)
        exact = score(log_prob=measured.output[pathway].log()).measures
        code = untrained.encode(space.operations(), pathway).sample(generator=torch.Generator().manual_seed(0))
        for name, value in (
            ("sampled coverage, %", found.sampled_coverage), ("effective coverage, %", found.effective_coverage),
            ("informative coverage, %", found.informative_coverage), ("‑ELBO, nats", found.neg_elbo),
            ("‑IWAE, nats", found.neg_iwae), ("reconstruction, %", measured.reconstruction[pathway].all),
            ("latent entropy H, nats", float(sampled_code(code[order]).batch_entropy.mean())),
            *((label, exact[key].value) for label, key in EXACT.items()),
        ):
            columns.setdefault(name, []).append(value)
    even = score(log_prob=baselines.uniform(space.SIZE).log()).measures
    uniform = {label: even[key].value for label, key in EXACT.items()}
    uniform |= {
        "sampled coverage, %": uniform_coverage(SAMPLES), "effective coverage, %": noise.A.effective_coverage,
        "informative coverage, %": noise.A.informative_coverage, "‑ELBO, nats": noise.A.neg_elbo,
        "‑IWAE, nats": noise.A.neg_iwae, "reconstruction, %": noise.reconstruction["A"].all,
    }
    assert columns.keys() == _table().keys()
    for name, (of_noise, of_untrained, *_) in _table().items():
        for cell, expected in ((of_untrained, columns[name]), (of_noise, [uniform[name]] if name in uniform else [])):
            shown = re.findall(r"[\d,]+(?:\.\d+)?", cell)
            assert len(shown) == len(expected), name
            for number, value in zip(shown, expected, strict=True):
                # Half a unit of the last digit, or a little more for kernels that round differently.
                unit = 10 ** -len(number.partition(".")[2])
                assert float(number.replace(",", "")) == pytest.approx(value, rel=1e-4, abs=0.51 * unit), name


@pytest.mark.parametrize("page", ["concepts", "glossary"])
def test_formulas_can_be_shown(page: str) -> None:
    """The converter leaves a command that it does not know as it is."""
    pytest.importorskip("latex2mathml")
    shown = replace_formulas((DOCS / f"{page}.md").read_text(encoding="utf-8"))
    assert "$" not in shown
    assert re.findall(r"<m\w[^>]*>[^<]*\\[^<]*<", shown) == []
