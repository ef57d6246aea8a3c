"""The comparisons that decide the answers of notebook 08.

Each function returns a table of `statistics.paired_differences` with a column `better`: "better", "worse" or "not
decided", by the direction of the quantity. The intervals of a table are simultaneous within a family, so that under no
difference the probability of any decision in a family is at most 5 %. The primary outcome of a question is one family,
and its secondary outcomes are another. The column `alone` has the words for the 95 % interval of a single comparison.
With few seeds, many harms are visible there only. So a comparison that is not decided together but decided alone must
not be read as harmless.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from scipy.special import stdtrit

from ternary_lab.metrics.quantities import QUANTITIES
from ternary_lab.model import PATHWAYS
from ternary_lab.studies.checkpoints_and_ensembles.choices import CRITERIA, OUTCOMES
from ternary_lab.studies.checkpoints_and_ensembles.tables import EQUAL, LEARNED, best_member
from ternary_lab.studies.statistics import LEVEL, paired_differences

MEASURES = {
    "informative_coverage": "informative coverage, %", "effective_coverage": "effective coverage, %",
    "neg_elbo": "-ELBO, test, nats", "neg_iwae": "-IWAE, test, nats", "neg_log_p": "-ln p(x), test, nats",
    "missing_mass": "missing mass KL(U‖p), nats", "draws": "n₉₉, in draws of uniform noise",
    "sampled_coverage": "sampled coverage, %", "reconstruction_test": "reconstruction, test, %",
}
"""The measures of a comparison of models, with their labels. The first is the primary outcome."""
_SMALLER = {"variance", "draws", *(name for name, quantity in QUANTITIES.items() if quantity.better == "less")}
"""Columns whose smaller values are better. Larger values of all other columns are better."""


def choice_differences(choices: pd.DataFrame) -> pd.DataFrame:
    """Compare the outcomes of each rule for choosing an epoch with those of the validation ELBO.

    `choices` is a table of `choices.chosen_epochs`. The primary outcome is -ELBO on the test split.
    """
    found = paired_differences(choices, "rule", CRITERIA["val_elbo"], list(OUTCOMES), primary="neg_elbo")
    return _judged(found)


def reading_differences(measures: pd.DataFrame, best: str = best_member()) -> pd.DataFrame:
    """Compare the checkpoints that decode together with the best of them, which decodes as many samples.

    `measures` is a table of `tables.ensemble_measures`, and `best` the name of the best member in it. The primary
    outcome is `noisy`, the percentage of test operations that are decoded exactly; the other is `variance`.
    """
    some = measures[measures["member"].isin([best, EQUAL])]
    return _judged(paired_differences(some, "member", best, ["noisy", "variance"], primary="noisy"))


def generator_differences(measures: pd.DataFrame, best: str = best_member()) -> pd.DataFrame:
    """Compare mixtures of checkpoints with the best of these checkpoints. All outcomes are secondary: one family.

    The arguments are those of `reading_differences`.
    """
    some = measures[measures["member"].isin([best, EQUAL, LEARNED])]
    return _judged(paired_differences(some, "member", best, ["informative_coverage", "effective_coverage", "neg_iwae"]))


def pathway_pairs(measures: pd.DataFrame, epoch: int) -> pd.DataFrame:
    """Return the exact reconstructions at an epoch that `pathway_differences` compares, a row per seed."""
    at = measures.pivot(index="seed", columns="member", values="noisy")
    both, better = (at[f"epoch {epoch}, {name}"] for name in ("both pathways", "better pathway, 2 samples"))
    return pd.DataFrame({"epoch": epoch, "both": both, "better": better}).reset_index()


def pathway_differences(pairs: pd.DataFrame) -> pd.DataFrame:
    """Compare both pathways that decode together with the better pathway, which decodes two samples.

    `pairs` has the columns of `pathway_pairs`, in percent of test operations. The differences at all epochs
    are one family.
    """
    long = pairs.melt(["seed", "epoch"], ["both", "better"], "reader", "noisy")
    return _judged(paired_differences(long, "reader", "better", ["noisy"], by=["epoch"]))


def model_differences(rivals: pd.DataFrame) -> pd.DataFrame:
    """Compare each β-VAE with the pathway of v5.5 that has the same decoder, in all `MEASURES`.

    `rivals` is a table of `tables.load_alternatives`. The columns of the result include decoder and rival (`β = 0.1`).
    The primary outcome is informative coverage; the other eight measures of all rivals are one family. Models without
    Gaussian latents have no counterpart and are not compared.
    """
    parts = []
    for p in PATHWAYS:
        ours, theirs = (rivals[rivals["model"] == f"{name}_{p}"] for name in ("v5_5", "beta_vae"))
        names = theirs["beta"].map("β = {:g}".format)
        parts.append(pd.concat([ours.assign(rival="v5.5"), theirs.assign(rival=names)]).assign(decoder=p))
    table = pd.concat(parts, ignore_index=True).drop(columns="title")
    primary = next(iter(MEASURES))
    return _judged(paired_differences(table, "rival", "v5.5", list(MEASURES), by=["decoder"], primary=primary))


def shown(row: pd.Series[Any], form: str = "+z.2f") -> str:
    """Return a difference and its interval as text, such as `+0.25 [+0.10, +0.40]`, or a dash for no difference.

    `row` is a row of a table above. Differences of 100 and more are rounded to whole numbers.
    """
    values = [float(row[name]) for name in ("mean", "low", "high")]
    if math.isnan(values[0]):
        return "–"
    mean, low, high = (format(value, form if abs(values[0]) < 100 else "+z,.0f") for value in values)
    return mean if low == mean == high else f"{mean} [{low}, {high}]"


def shown_table(differences: pd.DataFrame, rows: str, columns: str, form: str = "+z.2f") -> pd.DataFrame:
    """Return a table of texts: difference, interval and decision, with the values of two columns as its sides.

    A decision in parentheses is that of the comparison alone.
    """
    together = differences["better"].map({"better": " better", "worse": " worse"})
    alone = differences["alone"].map({"better": " (better)", "worse": " (worse)"})
    texts = differences.apply(shown, axis=1, form=form) + together.fillna(alone).fillna("")
    order = {side: list(dict.fromkeys(differences[side])) for side in (rows, columns)}
    wide = differences.assign(text=texts).pivot(index=rows, columns=columns, values="text")
    return wide.reindex(index=order[rows], columns=order[columns]).rename_axis(columns=None)


def _judged(differences: pd.DataFrame) -> pd.DataFrame:
    """Add the columns `better` and `alone`."""
    smaller = differences["metric"].isin(_SMALLER)
    level = 1 - (1 - LEVEL) / (2 * differences["comparisons"])
    degrees = (differences["n"] - 1).clip(lower=1)
    half = (differences["high"] - differences["mean"]) * stdtrit(degrees, (1 + LEVEL) / 2) / stdtrit(degrees, level)
    sign = (differences["mean"] > half).astype(int) - (differences["mean"] < -half).astype(int)
    together = differences["decided"].map({"higher": 1, "lower": -1, "not decided": 0})
    words = {1: "better", -1: "worse", 0: "not decided"}
    return differences.assign(**{
        name: found.where(~smaller, -found).map(words) for name, found in (("better", together), ("alone", sign))
    })
