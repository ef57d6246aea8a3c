"""Comparisons of recipes: goals, and differences that are paired by seed and have simultaneous intervals.

Each question has one primary outcome, informative coverage. All comparisons of the primary outcome that answer one
question are one family, and all comparisons of the other metrics are another (docs/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from ternary_lab import space
from ternary_lab.metrics.baselines import uniform
from ternary_lab.metrics.coverage import draws_needed
from ternary_lab.metrics.evaluate import evaluate
from ternary_lab.model import PATHWAYS
from ternary_lab.studies.beyond_v55.alternative_families import pathway_metrics
from ternary_lab.studies.beyond_v55.ideal_front import PARAMETER_NAMES
from ternary_lab.studies.beyond_v55.set_by_hand import Parameters, set_by_hand
from ternary_lab.studies.beyond_v55.tables import LATENTS, MEASURES, OFF, ONE_RATE, TAUGHT, WIDE, pick
from ternary_lab.studies.statistics import paired_differences

COMPARED = ("informative_coverage", "effective_coverage", "neg_elbo")
"""Metrics by which recipes are compared. The first one is the primary outcome (docs/statistics.md)."""
BY_HAND, B_ALONE, UNDECIDED = "by_hand", "B alone", "not decided"
FRONT_BY_HAND = "front_by_hand"
FRONT_LATENTS = 2**19
"""Sobol latents for each model of the front by hand."""
IN_ONE_RATE = "in beyond, one learning rate"


@dataclass(frozen=True)
class Goal:
    """A value that both pathways should reach. `in_loss` says whether the loss of *beyond* contains the measure."""

    metric: str
    value: float
    side: Literal["≥", "≤"]
    words: str
    in_loss: bool


GOALS = (
    Goal("effective_coverage", 99, "≥", MEASURES["effective_coverage"], False),
    Goal("missing_mass", 0.01, "≤", MEASURES["missing_mass"], False),
    Goal("n99", 1.05, "≤", "n₉₉ / n₉₉ of uniform noise", False),
    Goal("neg_iwae", 10.6, "≤", MEASURES["neg_iwae"], False),
    Goal("reconstruction_test", 100, "≥", MEASURES["reconstruction_test"], False),
    Goal("neg_elbo", 13.2, "≤", MEASURES["neg_elbo"], True),
    Goal("informative_coverage", 96, "≥", MEASURES["informative_coverage"], True),
)
"""The goals of the recipes. They were set by the authors, from the measures of the weights set by hand.

The goal for n₉₉, the number of draws that are needed to expect 99 % of the operations, is a multiple of that of uniform
noise. Measures that are not in the loss of *beyond* come first.
"""


def recipe_differences(
    table: pd.DataFrame, names: Sequence[str], base: str, metrics: Sequence[str] = COMPARED
) -> pd.DataFrame:
    """Return the differences of recipes from the base recipe, paired by seed, with simultaneous intervals.

    The first metric is the primary outcome. The columns are those of `statistics.paired_differences`, with the columns
    recipe, title and pathway.
    """
    rows = pick(table, list(dict.fromkeys((*names, base))))
    return paired_differences(rows, "recipe", base, metrics, ["pathway"], primary=metrics[0])


def statenet_differences(table: pd.DataFrame, metrics: Sequence[str] = COMPARED) -> pd.DataFrame:
    """Return the differences of recipes in which StateNet learns from the same recipes without a StateNet.

    Both recipes, v5.5 and `ONE_RATE`, answer one question, so their comparisons are one family. The first metric is the
    primary outcome. The columns are those of `statistics.paired_differences`, with the columns title (the recipe
    without a StateNet) and pathway.
    """
    places = {OFF: "in v5.5", TAUGHT[0]: "in v5.5", ONE_RATE: IN_ONE_RATE, TAUGHT[1]: IN_ONE_RATE}
    rows = pick(table, list(places)).drop(columns="title")
    learns = rows["recipe"].isin(TAUGHT).map({True: "yes", False: "no"})
    rows = rows.assign(where=rows["recipe"].map(places), learns=learns)
    found = paired_differences(rows, "learns", "no", metrics, ["where", "pathway"], primary=metrics[0])
    return found.rename(columns={"where": "title"})


def generator_differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return the differences in informative coverage of three generators from B alone, paired by seed.

    The pathways of `ONE_RATE` are trained apart, so each one is a model of its own. The generators are A alone, A or B
    with equal chance (`joint_informative_coverage`), and one pathway with about as many parameters as both. The columns
    are those of `statistics.paired_differences`, with the column title.
    """
    own, wide = pick(table, [ONE_RATE]), pick(table, [WIDE])
    a, b = (own[own["pathway"] == p] for p in PATHWAYS)
    generators = {
        B_ALONE: b,
        "A alone": a,
        "A or B with equal chance": b.assign(informative_coverage=b["informative_coverage_both"]),
        "one wide pathway": wide[wide["pathway"] == "B"],
    }
    rows = pd.concat([part.assign(generator=name).drop(columns="title") for name, part in generators.items()])
    found = paired_differences(rows, "generator", B_ALONE, ["informative_coverage"], primary="informative_coverage")
    return found.rename(columns={"generator": "title"})


def differences_table(differences: pd.DataFrame, form: str = "+z.2f") -> pd.DataFrame:
    """Return a table of texts `mean [low, high]`, with a row per title, and a column per metric and pathway.

    A text ends with an asterisk if the interval excludes 0.
    """
    cells = {
        (x.title, f"{x.metric}_{x.pathway}"):
        f"{x.mean:{form}} [{x.low:{form}}, {x.high:{form}}]{' *' if x.decided != UNDECIDED else ''}"
        for x in differences.itertuples()
    }
    titles, metrics, pathways = (dict.fromkeys(differences[name]) for name in ("title", "metric", "pathway"))
    names = [f"{metric}_{p}" for metric in metrics for p in pathways]
    columns = {name: [cells[title, name] for title in titles] for name in names}
    return pd.DataFrame(columns, index=pd.Index(titles, name="title"))


def decisions(differences: pd.DataFrame) -> str:
    """Return a sentence on what the intervals of one metric decide, such as `Higher: X (A); not decided: 3 of 4.`

    Args:
        differences: rows of one metric, with the columns title, decided and, if pathways are compared, pathway.
    """
    said = []
    for side in ("higher", "lower"):
        rows = differences[differences["decided"] == side]
        pathways = [f" ({p})" for p in rows["pathway"]] if "pathway" in rows else [""] * len(rows)
        names = [f"{title}{pathway}" for title, pathway in zip(rows["title"], pathways, strict=True)]
        said += [f"{side}: {', '.join(names)}"] if names else []
    undecided = int((differences["decided"] == UNDECIDED).sum())
    said += [f"{UNDECIDED}: {undecided} of {len(differences)}"] if undecided else []
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


def rows_by_hand(latents: int = LATENTS, seed: int = 0) -> pd.DataFrame:
    """Return rows, like those of the table, for the weights set by hand (`set_by_hand`). Nothing of it is trained."""
    found = evaluate(set_by_hand(), latents=latents, seed=seed)
    return pd.DataFrame([
        {"recipe": BY_HAND, "title": "by hand", "factor": 1.0, "seed": seed, "pathway": p, "latents": latents,
         **pathway_metrics(found, p)}
        for p in PATHWAYS
    ])


def front_by_hand(ideal: pd.DataFrame, latents: int = FRONT_LATENTS) -> pd.DataFrame:
    """Return rows for weights set by hand with the parameters of each row of `ideal`, a front of `ideal_front`.

    The networks have the log-odds of the ideal decoder, but with corners instead of bends.
    """
    rows = []
    for values in ideal.itertuples():
        parameters = Parameters(*(float(getattr(values, name)) for name in PARAMETER_NAMES))
        found = evaluate(set_by_hand(parameters=parameters), samples=1, latents=latents)
        rows += [
            {"recipe": FRONT_BY_HAND, "factor": 1.0, "seed": 0, "weight": values.weight, "pathway": p,
             **pathway_metrics(found, p)}
            for p in PATHWAYS
        ]
    return pd.DataFrame(rows)


def losses_by_cause(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the nats that recipes lose by three causes: medians over seeds, with a row per recipe and pathway.

    With N operations, the logarithm of informative coverage is that of 100 % minus `frequencies` minus `noise`:

        frequencies    ln N - H(X): the thresholds of the decoder do not divide the prior into equal parts
        noise          H(X|Z): the thresholds are not steep
        code           -ELBO - ln N - KL(U‖p) = KL(q(z|x) ‖ p(z|x)), mean over x: the encoder's posterior is not that of
                       the decoder (Jordan et al. 1999)

    No training removes `code` completely, because the exact posterior is not Gaussian. -ELBO is that of the test split,
    and KL(U‖p) that of the whole space, so `code` is exact up to the difference between them.
    """
    rows, uniform_entropy = pick(table, names), math.log(space.SIZE)
    found = rows.assign(
        frequencies=uniform_entropy - rows["output_entropy"], noise=rows["decoder_noise"],
        code=rows["neg_elbo"] - uniform_entropy - rows["missing_mass"],
    )
    causes = ["frequencies", "noise", "code"]
    return found.groupby(["title", "pathway"], sort=False)[causes].median().reset_index()


def goals_reached(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return a table with a row per goal of `GOALS` and a column per recipe of `names`.

    A cell is the text `A / B` with the medians of both pathways over seeds, and has a ✓ if both medians reach the goal.
    The other columns contain the goal, and whether *beyond* has the measure in its loss.
    """
    medians = table.groupby(["recipe", "pathway"])[[goal.metric for goal in GOALS]].median()
    titles = table.drop_duplicates("recipe").set_index("recipe")["title"]
    rows = {}
    for goal in GOALS:
        scale = draws_needed(uniform(space.SIZE)) if goal.metric == "n99" else 1.0
        cells = {"goal": f"{goal.side} {goal.value:.4g}", "in the loss": "yes" if goal.in_loss else "no"}
        for name in names:
            values = [float(medians[goal.metric][name, p]) / scale for p in PATHWAYS]
            met = all(value >= goal.value if goal.side == "≥" else value <= goal.value for value in values)
            cells[titles[name]] = f"{_beside(values[0], goal.value)} / {_beside(values[1], goal.value)}{' ✓' * met}"
        rows[goal.words] = cells
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("measure")


def _beside(value: float, goal: float) -> str:
    """Return a value with three digits, or with as many as distinguish it from the goal."""
    texts = (f"{value:.{digits}g}" for digits in range(3, 9))
    return next((text for text in texts if float(text) != goal), f"{value:.3g}")
