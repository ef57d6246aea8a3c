"""Sentences of notebook 04. Their words follow from computed decisions, so they are right for other runs, too."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from ternary_lab.studies.epoch50_disruption.tables import (
    CONTROL,
    PRIMARY,
    SAME_AGE,
    SAME_EPOCH,
    SAME_LEARNING,
    decisions,
)
from ternary_lab.studies.statistics import Interval, median_and_range

RISES, STAYS, NOTHING, MATCHED = "beta_b_rises", "beta_b_stays_0", "nothing_at_50", "beta_b_warms_up_matched"
BENEFIT = {
    "higher": "The jump itself is harmful",
    "lower": "The jump itself is useful",
    "not decided": "These runs show no benefit of the jump itself",
}
"""What it means for the jump if informative coverage is higher, lower or the same with a gradual rise of β_B."""


def difference(differences: pd.DataFrame, name: str, comparison: str = SAME_EPOCH, metric: str = PRIMARY) -> str:
    """Return the text `mean [low, high]` of one difference from the control."""
    at = (differences["name"] == name) & (differences["comparison"] == comparison) & (differences["metric"] == metric)
    return _text(differences[at].to_dict("records")[0])


def _text(row: Mapping[Hashable, Any]) -> str:
    return format(Interval(row["n"], row["mean"], row["low"], row["high"]), "+z.2f")


def difference_table(differences: pd.DataFrame) -> pd.DataFrame:
    """Return the differences as texts `mean [low, high]`.

    The table has a row per counterfactual and comparison, and the columns name, title, comparison and a column per
    metric.
    """
    texts = differences.assign(text=[_text(row) for row in differences.to_dict("records")])
    keys = ["name", "title", "comparison"]
    return pd.concat([
        rows.set_index(keys)["text"].rename(metric) for metric, rows in texts.groupby("metric", sort=False)
    ], axis=1).reset_index()


def answer(measured: pd.DataFrame, final: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    """Return the answer of the notebook, a sentence for each part of its question.

    The arguments are the tables of `tables.spike_and_surge`, `tables.final_outcomes` and `tables.control_differences`.
    They need the counterfactuals in which β_B stays 0 and in which it rises gradually.
    """
    by_name = measured.groupby("name")
    rise, surge = ({name: median_and_range(rows, form) for name, rows in by_name[column]}
                   for column, form in (("rise", ".2f"), ("surge", "+z.2f")))
    at_end = final[final["comparison"] == SAME_EPOCH].groupby("name")[PRIMARY]
    end = {name: median_and_range(rows, ".1f") for name, rows in at_end}
    found = [
        f"**The spike** comes from $\\beta_B$, the weight of B's KL term: when it jumps from 0, the training loss "
        f"reaches {rise[CONTROL]} times the loss of epoch 49, but only {rise[STAYS]} times if $\\beta_B$ stays 0 "
        f"(median [range], n = {by_name.size()[CONTROL]} seeds).",
        f"**The surge** has the same cause: up to epoch 60, the informative coverage of B changes by {surge[CONTROL]} "
        f"points as scheduled, and by {surge[STAYS]} points if $\\beta_B$ stays 0.",
        f"**Is it good for anything?** B must be regularised: informative coverage at the end (mean of A and B) is "
        f"{end[CONTROL]} % as scheduled, but {end[STAYS]} % if $\\beta_B$ stays 0. "
        f"{BENEFIT[decisions(differences)[RISES]]}: if $\\beta_B$ rises over 20 epochs instead, informative coverage "
        f"differs by {difference(differences, RISES)} points (mean difference from the runs as scheduled "
        "[simultaneous 95 % interval]).",
    ]
    if MATCHED in set(differences["name"]):
        found.append(
            f"If $\\beta_B$ warms up from the start to its scheduled values, the difference is "
            f"{difference(differences, MATCHED)} points at the same epoch, and "
            f"{difference(differences, MATCHED, SAME_AGE)} points after as many epochs with $\\beta_B$ above 0."
        )
    return found


def spikes_and_surges(measured: pd.DataFrame) -> str:
    """Return a sentence on spikes without a surge and one on a surge without a spike.

    `measured` is the table of `tables.spike_and_surge`, which defines a spike.
    """
    stays, rises = (measured[measured["name"].isin(names)] for names in ((STAYS, NOTHING), (RISES,)))
    found = (
        f"If $\\beta_B$ stays 0, at either learning rate, {stays['spike'].sum()} of {len(stays)} runs have a spike, "
        f"and their largest surge is {stays['surge'].max():+z.2f} points. If $\\beta_B$ rises over 20 epochs, "
        f"{rises['spike'].sum()} of {len(rises)} runs have a spike, and their smallest surge is "
        f"{rises['surge'].min():+z.1f} points."
    )
    alone = stays["spike"].any() and stays["surge"].max() < 1
    both = alone and not rises["spike"].any() and rises["surge"].min() > 1
    return f"{found} So there are spikes without a surge, and surges without a spike." if both else found


def decided_names(differences: pd.DataFrame) -> str:
    """Return a Markdown list of the counterfactuals by the decision on their informative coverage."""
    found, titles = decisions(differences), differences.drop_duplicates("name").set_index("name")["title"]
    lines = []
    for word, words in {
        "higher": "Higher than scheduled in every comparison", "lower": "Lower than scheduled in every comparison",
        "not decided": "Not decided",
    }.items():
        names = [str(titles[name]) for name in found.index[found == word]]
        lines.append(f"- {words}: {'; '.join(names) or 'none'}.")
    return "\n".join(lines)


def learning_rate(differences: pd.DataFrame) -> str:
    """Return a sentence on each counterfactual that learns faster than the control while β_B is above 0."""
    rows = differences[(differences["metric"] == PRIMARY) & (differences["comparison"] == SAME_LEARNING)]
    return " ".join(
        f"“{title}” differs by {difference(differences, name)} points at the same epoch and by "
        f"{difference(differences, name, SAME_LEARNING)} points at the same learning ({decided})."
        for name, title, decided in zip(rows["name"], rows["title"], rows["decided"], strict=True)
    )


def listed(differences: pd.DataFrame, names: Sequence[str]) -> str:
    """Return a Markdown list of the differences of `names` in informative coverage at the same epoch."""
    rows = differences[(differences["metric"] == PRIMARY) & (differences["comparison"] == SAME_EPOCH)]
    return "\n".join(
        f"- {title}: {difference(differences, name)} points, {decided}."
        for name, title, decided in zip(rows["name"], rows["title"], rows["decided"], strict=True) if name in names
    )
