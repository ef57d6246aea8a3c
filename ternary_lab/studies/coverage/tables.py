"""Tables of coverage: trained runs beside their own initial networks, and models that do well in a single metric.

Rows of a run and of a network belong to one pathway. Coverages are in percent, entropies and bounds in nats. In all
these measures, a decoder reads the draw from the prior alone: there is no cross-injection (ρ = 0).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from ternary_lab import config, space, splits
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.errors import RunError
from ternary_lab.metrics import baselines
from ternary_lab.metrics.coverage import draws_needed, expected_coverage, rare_figures, uniform_coverage
from ternary_lab.metrics.evaluate import SAMPLES, evaluate
from ternary_lab.metrics.information import information
from ternary_lab.metrics.quantities import label
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import PATHWAYS, TernaryVAE
from ternary_lab.runs.load import RunRecord, RunSet
from ternary_lab.studies.beyond_v55.set_by_hand import set_by_hand
from ternary_lab.studies.beyond_v55.tables import BEYOND, SHARPENED, V5_5
from ternary_lab.studies.probes import all_probes
from ternary_lab.studies.statistics import CYCLE, cycle_means, median_and_range, paired_differences

COUNTED = {"coverage_50000": 50_000, "coverage_195000": SAMPLES}
"""Number of draws behind each count of operations that is compared."""
UNTRAINED, TRAINED = "initial network", "trained"
BEST = {
    "coverage": 100.0, "informative_coverage": 100.0, "effective_coverage": 100.0, "reconstruction_test": 100.0,
    "neg_elbo": math.log(space.SIZE), "missing_mass": 0.0,
}
"""Metrics by which `rivals` compares models, with their best possible values."""
NO_PATHWAY = "none"
"""Entry of the column pathway for a model that has no pathways."""
RANDOM, MAPS = "random sharp map", range(5)
"""Name of the random maps that are never trained, and the seeds of these maps."""
FEW, IMPORTANCE_SAMPLES = 65_536, 16
"""Latents and posterior samples for an untrained network, whose output distribution is smooth."""


@with_fixed_arithmetic
def initial_networks(seeds: Iterable[int]) -> pd.DataFrame:
    """Return the measures of v5.5's networks before training, with a row per seed and pathway.

    The columns are seed, pathway, those of `COUNTED` and those of `BEST`. The counts are expected counts. A run of a
    seed starts with the weights of the network of this seed.
    """
    rows = []
    for seed in seeds:
        model = baselines.untrained(seed)
        for row in _scores(model, FEW, seed):
            output = row.pop("output")
            counts = {name: float(expected_coverage(output, draws)) for name, draws in COUNTED.items()}
            rows.append({"seed": seed, **row, **counts})
    return pd.DataFrame(rows)


def trained_runs(runs: RunSet, epoch: int) -> pd.DataFrame:
    """Return counts and other measures of trained runs at one epoch, with a row per seed and pathway.

    The columns are seed, pathway, those of `COUNTED`, informative_coverage, reconstruction_test (own code) and neg_elbo
    (test split). Each count is one count of draws. Raises RunError if a run has no probes of the epoch.
    """
    probes, history = all_probes(runs), runs.history
    at = probes[probes["epoch"] == epoch].set_index("seed")
    if missing := sorted(set(runs) - set(at.index)):
        raise RunError(f"the run of seed {missing[0]} has no probes of epoch {epoch}: choose another epoch")
    known = history[history["epoch"] == epoch].set_index("seed")
    bound = {p: at[f"rate_{p}"] + at[f"distortion_{p}"] for p in PATHWAYS}
    return pd.DataFrame([
        {"seed": seed, "pathway": p, **{name: at.at[seed, f"{name}_{p}"] for name in COUNTED},
         "informative_coverage": known.at[seed, f"informative_coverage_{p}"],
         "reconstruction_test": at.at[seed, f"own_test_{p}"],
         "neg_elbo": bound[p].at[seed]}
        for seed in runs for p in PATHWAYS
    ])


def changes_by_training(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Return the differences of trained runs from their own initial networks, paired by seed.

    `before` and `after` have the columns seed, pathway, those of `COUNTED` and informative_coverage. The table is that
    of `statistics.paired_differences`, with the columns pathway and metric. The count of 50,000 draws is the primary
    outcome, because 195,000 draws find almost everything in every case.
    """
    metrics = [*COUNTED, "informative_coverage"]
    table = pd.concat([before.assign(state=UNTRAINED), after.assign(state=TRAINED)], ignore_index=True)
    return paired_differences(table, "state", UNTRAINED, metrics, ["pathway"], primary="coverage_50000")


def change_of_counts(changes: pd.DataFrame) -> str:
    """Return `lower` or `higher` if training changes every count of `COUNTED` in this direction in both pathways.

    Otherwise return `not decided`. `changes` comes from `changes_by_training`.
    """
    decided = set(changes.loc[changes["metric"].isin(list(COUNTED)), "decided"])
    return str(decided.pop()) if len(decided) == 1 else "not decided"


def count_error(coverage: float) -> float:
    """Return the largest standard deviation, in points, of one count of draws whose expected coverage is given in %.

    The events that operations are missed are negatively associated, so the variance of the number of missed operations
    is at most the sum of the variances of these events (Dubhashi and Ranjan 1998). For a given expected coverage, this
    sum is largest if all operations are missed with the same probability.
    """
    found = coverage / 100
    return 100 * math.sqrt(found * (1 - found) / space.SIZE)


def measured_epochs(table: pd.DataFrame) -> str:
    """Return the epochs of a table's rows as a text, for example `100 or 103`."""
    return " or ".join(str(epoch) for epoch in sorted({int(epoch) for epoch in table["epoch"]}))


def by_epoch(history: pd.DataFrame, epochs: Sequence[int], forms: Mapping[str, str]) -> pd.DataFrame:
    """Return the texts `median [lowest, highest]` over runs, with a row per quantity and epoch.

    `forms` maps quantities of the history to formats. The columns are quantity, epoch, pathway A and pathway B. If all
    runs have them, the means over the last cycle of the temperature τ_A follow as a last row of each quantity.
    """
    columns = [f"{name}_{p}" for name in forms for p in PATHWAYS]
    times = {str(epoch): history[history["epoch"] == epoch] for epoch in epochs if epoch in set(history["epoch"])}
    last = int(history.groupby("seed")["epoch"].max().min())
    if last >= CYCLE - 1:
        times[f"mean {last - CYCLE + 1}-{last}"] = cycle_means(history, columns, last)
    return pd.DataFrame([
        {"quantity": label(name), "epoch": time,
         **{f"pathway {p}": median_and_range(its[f"{name}_{p}"], form) for p in PATHWAYS}}
        for name, form in forms.items() for time, its in times.items()
    ])


@with_fixed_arithmetic
def rivals(recipes: pd.DataFrame, untrained: pd.DataFrame, factor: float, latents: int) -> pd.DataFrame:
    """Return the scores of models that do well in some metrics, with a row per model, pathway and seed.

    The columns are model, pathway, seed, epoch, neg_log_p and those of `BEST`. Models without a seed have the seed 0,
    untrained models have no epoch, and uniform noise and the random maps have the pathway `NO_PATHWAY`. Reconstruction
    (own code), -ELBO and neg_log_p, the mean of -ln p(x), belong to the test split. The coverage of a recipe is one
    count of draws, that of other models is expected.

    Args:
        recipes: published table of recipes, from `beyond_v55.tables.load_recipes`.
        untrained: table of `initial_networks`.
        factor: factor of v5.5's logits in one row of the models.
        latents: number of latents for the models that are not in a table, at least 2^20.
    """
    noise = {"coverage": uniform_coverage(SAMPLES), "missing_mass": 0.0} | dict.fromkeys(
        ("neg_elbo", "neg_log_p"), math.log(space.SIZE)
    )
    empty = dict.fromkeys(("informative_coverage", "effective_coverage", "reconstruction_test"), 100 / space.SIZE)
    parts = [
        pd.DataFrame([{"model": "uniform noise", "pathway": NO_PATHWAY, "seed": 0, **noise, **empty}]),
        untrained.assign(model="untrained"),
        pd.DataFrame([_random_map(seed, latents) for seed in MAPS]).assign(model=RANDOM, pathway=NO_PATHWAY),
    ]
    named = ((V5_5, 1.0, "v5.5"), (SHARPENED, factor, f"v5.5, logits × {factor:g}"), (BEYOND, 1.0, "beyond"))
    for recipe, of, title in named:
        rows = recipes[(recipes["recipe"] == recipe) & (recipes["factor"] == of)]
        parts.append(rows.rename(columns={"sampled_coverage": "coverage"}).assign(model=title))
    parts.append(_rows("set by hand", set_by_hand(), latents))
    return pd.concat(parts, ignore_index=True)[["model", "pathway", "seed", "epoch", *BEST, "neg_log_p"]]


def medians_of_pathways(table: pd.DataFrame, forms: Mapping[str, str]) -> pd.DataFrame:
    """Return the texts `A / B` of medians over seeds, with a row per model and a column per metric.

    `table` comes from `rivals`. `forms` maps the metrics to the formats of their numbers. A model with one pathway has
    one number. An infinite median stands for an estimate that failed: its text is a dash.
    """
    def text(rows: pd.DataFrame, metric: str, form: str) -> str:
        values = rows.groupby("pathway")[metric].median()
        return " / ".join("–" if math.isinf(value) else format(value, form) for value in values)

    groups = list(table.groupby("model", sort=False))
    return pd.DataFrame({
        metric: {name: text(rows, metric, form) for name, rows in groups} for metric, form in forms.items()
    })


def bound_parts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the parts of -ELBO on the test split in nats, means over seeds, with a row per model and pathway.

    -ELBO = ln N + (mean of -ln p(x) minus ln N) + mean of KL(q(z|x) ‖ p(z|x)). Over all N operations, the second part
    would be KL(U‖p). The columns are model, pathway, n, neg_elbo, ln_size, excess and gap. `table` comes from `rivals`;
    models are left out if the estimated probability of a test operation is 0.
    """
    size = math.log(space.SIZE)
    finite = table[table["neg_log_p"] < math.inf]
    parts = finite.assign(ln_size=size, excess=finite["neg_log_p"] - size, gap=finite["neg_elbo"] - finite["neg_log_p"])
    groups = parts.groupby(["model", "pathway"], sort=False)
    means = groups[["neg_elbo", "ln_size", "excess", "gap"]].mean()
    means.insert(0, "n", groups["seed"].nunique())
    return means.reset_index()


def coverage_by_draws(outputs: Mapping[str, torch.Tensor], draws: Sequence[int]) -> pd.DataFrame:
    """Return the expected coverage C(n) of output distributions, with a row per model, uniform noise first.

    `outputs` maps names to distributions (N,). The columns are the numbers of draws n, in percent, and `ratio`: the
    number of draws at which 99 % of the operations are expected, divided by that number for uniform noise.
    """
    most = draws_needed(baselines.uniform(space.SIZE))
    rows = {"uniform noise": [*(uniform_coverage(n) for n in draws), 1.0]}
    for name, p in outputs.items():
        rows[name] = [*(float(expected_coverage(p, n)) for n in draws), draws_needed(p) / most]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*map(str, draws), "ratio"])


@with_fixed_arithmetic
def entropies_by_epoch(run: RunRecord, epochs: Iterable[int]) -> pd.DataFrame:
    """Return H(X), H(X|Z) and the informative coverage of one run, with a row per epoch and pathway.

    The columns are epoch, pathway, output_entropy, decoder_noise and informative_coverage. The number of latents is
    that of the run's own measurement after each epoch.
    """
    rows = []
    for epoch in epochs:
        core = run.model(epoch).core
        for p in PATHWAYS:
            latents = sobol_normal(run.config.model.latent_dim, run.config.evaluation.latents, run.seed, core.device)
            found = information(core, p, (z.unsqueeze(0) for z in latents)).figures()
            names = ("output_entropy", "decoder_noise", "informative_coverage")
            rows.append({"epoch": epoch, "pathway": p, **{name: found[name] for name in names}})
    return pd.DataFrame(rows)


@with_fixed_arithmetic
def coverages_by_latents(
    model: TernaryVAE, latents: Sequence[int], seeds: Sequence[int] = (0, 1)
) -> pd.DataFrame:
    """Return informative and effective coverage of one model, estimated from several numbers of latents.

    The table has a row per number of latents, pathway and seed of the latents. The columns are latents, pathway, seed,
    informative_coverage_raw, informative_coverage and effective_coverage, in percent. All are corrected for the finite
    number of latents (see `metrics.information`) except the one whose name ends in raw.
    """
    names = ("informative_coverage_raw", "informative_coverage", "effective_coverage")
    rows = []
    for count in latents:
        for p in PATHWAYS:
            for seed in seeds:
                points = sobol_normal(model.latent_dim, count, seed, model.device)
                found = information(model.core, p, (z.unsqueeze(0) for z in points)).figures()
                rows.append({"latents": count, "pathway": p, "seed": seed, **{name: found[name] for name in names}})
    return pd.DataFrame(rows)


def _rows(name: str, model: TernaryVAE, latents: int) -> pd.DataFrame:
    return pd.DataFrame(_scores(model, latents, 0)).assign(model=name, seed=0)


def _random_map(seed: int, latents: int) -> dict[str, Any]:
    """Return the scores of decoder A of a random map. The other pathway is not measured on many latents."""
    model = baselines.random_map(seed)
    few = _scores(model, FEW, seed)[0]
    points = sobol_normal(model.settings.latent_dim, latents, seed, model.device)
    found = information(model.core, "A", (z.unsqueeze(0) for z in points))
    coverages = {name: found.figures()[name] for name in ("informative_coverage", "effective_coverage")}
    return {"seed": seed, **few, **coverages, **_likelihood(found.p[0])}


def _likelihood(p: torch.Tensor) -> dict[str, float]:
    """Return the measures of an output distribution (N,) that need many latents."""
    return {
        "coverage": float(expected_coverage(p, SAMPLES)), "missing_mass": rare_figures(p)["missing_mass"],
        "neg_log_p": float(-p[splits.split(config.Data()).test].log().mean()),
    }


def _scores(model: TernaryVAE, latents: int, seed: int) -> list[dict[str, Any]]:
    """Return the pathway, the scores and the output distribution of both pathways of a model."""
    split = splits.split(config.Data())
    found = evaluate(model, latents=latents, split=split, iwae_samples=IMPORTANCE_SAMPLES, seed=seed)
    rows: list[dict[str, Any]] = []
    for p in PATHWAYS:
        values = vars(getattr(found, p)) | _likelihood(found.output[p])
        values["reconstruction_test"] = found.reconstruction[p].test
        rows.append({
            "pathway": p, **{name: values[name] for name in (*BEST, "neg_log_p")}, "output": found.output[p],
        })
    return rows
