"""Sentences of notebook 04. Their words follow from computed decisions, so they are right for other runs, too."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ternary_lab.model import PATHWAYS
from ternary_lab.studies.epoch50_disruption import effects
from ternary_lab.studies.epoch50_disruption.effects import AFTER, BEFORE, COSINE
from ternary_lab.studies.epoch50_disruption.tables import (
    CONTROL,
    PRIMARY,
    SAME_AGE,
    SAME_EPOCH,
    SAME_LEARNING,
    SECONDARY,
    decisions,
)
from ternary_lab.studies.statistics import Interval, interval, median_and_range

RISES, STAYS, NOTHING, MATCHED = "beta_b_rises", "beta_b_stays_0", "nothing_at_50", "beta_b_warms_up_matched"
BENEFIT = {
    "higher": "The jump itself is harmful",
    "lower": "The jump itself is useful",
    "not decided": "These runs show no benefit of the jump itself",
}
"""Conclusions about the jump, by the decision on informative coverage with a gradual rise of β_B instead."""
CHANGED = {
    "higher": "is higher in both comparisons",
    "lower": "is lower in both comparisons",
    "not decided": "is not decidedly different",
}
"""Words for the decision on informative coverage with a warm-up of β_B to the same value."""
NEG_ELBO = "\N{NON-BREAKING HYPHEN}ELBO"
BOTH = {"higher", "lower"}
"""Decisions of two outcomes that differ in opposite directions."""


def difference(differences: pd.DataFrame, name: str, comparison: str = SAME_EPOCH, metric: str = PRIMARY) -> str:
    """Return the text `mean [low, high]` of one difference from the control."""
    at = (differences["name"] == name) & (differences["comparison"] == comparison) & (differences["metric"] == metric)
    return _text(differences[at].to_dict("records")[0])


def _text(row: Mapping[Hashable, Any]) -> str:
    """Return `mean [low, high]` with three significant digits of its largest number, or with more if needed.

    More digits are needed if a rounded end of an interval that excludes 0 would be 0.
    """
    found = _interval(row)
    places = 2 if max(abs(found.low), abs(found.high)) < 10 else 1
    while found.excludes_zero and places < 6 and min(abs(found.low), abs(found.high)) < 0.5 * 10.0 ** -places:
        places += 1
    return format(found, f"+z.{places}f")


def _interval(row: Mapping[Hashable, Any]) -> Interval:
    return Interval(row["n"], row["mean"], row["low"], row["high"])


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


def seeds(values: Iterable[int]) -> str:
    """Return the number of seeds and their names: "4 seeds, 42 to 45"."""
    found = sorted(set(values))
    whole = len(found) > 1 and found == list(range(found[0], found[-1] + 1))
    names = f"{found[0]} to {found[-1]}" if whole else ", ".join(map(str, found))
    return f"{len(found)} seed{'s' * (len(found) > 1)}, {names}"


def answer(measured: pd.DataFrame, final: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    """Return the answer of the notebook, a sentence for each part of its question.

    The arguments are the tables of `tables.spike_and_surge`, `tables.final_outcomes` and `tables.control_differences`.
    They need the counterfactuals in which β_B stays 0 and in which it rises gradually.
    """
    by_name = measured.groupby("name")
    rise, later, surge = ({name: median_and_range(rows, form) for name, rows in by_name[column]}
                          for column, form in (("rise", ".3g"), ("later_rise", ".3g"), ("surge", "+z.1f")))
    at_end = final[final["comparison"] == SAME_EPOCH].groupby("name")[PRIMARY]
    end = {name: median_and_range(rows, ".1f") for name, rows in at_end}
    at = differences[(differences["name"] == RISES) & (differences["metric"] == PRIMARY)].iloc[0]
    found = [
        f"**The spike** comes from the jump of $\\beta_B$, the weight of B's KL term: the training loss reaches "
        f"{rise[CONTROL]} times the loss of epoch 49 in the first three epochs, but {rise[RISES]} times if $\\beta_B$ "
        f"rises over 20 epochs (and {later[RISES]} times in the epochs 53 to 75), and {rise[STAYS]} "
        f"times if it stays 0 (medians [ranges], {seeds(measured.loc[measured['name'] == CONTROL, 'seed'])}).",
        f"**The surge** comes from $\\beta_B$, too: from epoch 49 to 60, the informative coverage of B changes by "
        f"{surge[CONTROL]} percentage points as scheduled, by {surge[RISES]} points if $\\beta_B$ rises over 20 "
        f"epochs, and by {surge[STAYS]} points if it stays 0.",
        f"**Is it good for anything?** B's KL term is needed: informative coverage at the end (mean of A and B, epochs "
        f"74 to 103) is {end[CONTROL]} % as scheduled, but {end[STAYS]} % if $\\beta_B$ stays 0. "
        f"{BENEFIT[decisions(differences)[RISES]]}: if $\\beta_B$ rises over 20 epochs instead, informative coverage "
        f"differs by {difference(differences, RISES)} points from the runs as scheduled{_bound(at)} (mean difference "
        f"within seeds [simultaneous 95 % interval: Student's t with {at['n'] - 1} degrees of freedom, Bonferroni for "
        f"{at['comparisons']} comparisons]).{_without_correction(final, str(at['decided']))}",
    ]
    if MATCHED in set(differences["name"]):
        weight = final[final["name"].isin((MATCHED, CONTROL)) & (final["comparison"] == SAME_AGE)]
        mean = weight.groupby("name")["beta_B"].first()
        found.append(
            f"If $\\beta_B$ warms up from the start to its scheduled value, informative coverage "
            f"{CHANGED[decisions(differences)[MATCHED]]}: it differs by {difference(differences, MATCHED)} points at "
            f"the same epoch, and by {difference(differences, MATCHED, SAME_AGE)} points after as many epochs with "
            f"$\\beta_B$ above 0 (there the mean $\\beta_B$ is {mean[MATCHED]:.2f}, and {mean[CONTROL]:.2f} as "
            f"scheduled). {other_outcomes(differences, MATCHED)}"
        )
    return found


def _without_correction(final: pd.DataFrame, decided: str) -> str:
    """Return a sentence on the gradual rise of β_B if the interval of a single comparison decides otherwise."""
    values = final[final["comparison"] == SAME_EPOCH].pivot(index="seed", columns="name", values=PRIMARY)
    alone = interval((values[RISES] - values[CONTROL]).dropna())
    if alone.decided == decided:
        return ""
    ends = f"[{alone.low:+z.2f}, {alone.high:+z.2f}]"
    return f" Without this correction the interval is {ends}, and the difference would be {alone.decided}."


def _bound(row: pd.Series[Any]) -> str:
    """Return a clause with the largest benefit of the jump that the interval of the gradual rise admits."""
    return f", so a benefit of the jump above {max(-row['low'], 0):.2f} points is excluded"


def other_outcomes(differences: pd.DataFrame, name: str) -> str:
    """Return a sentence on the secondary outcomes of a counterfactual whose difference from the control is decided."""
    its = differences[(differences["name"] == name) & differences["metric"].isin(SECONDARY)]
    rows = its[its["decided"] != "not decided"]
    if rows.empty:
        return "Effective coverage and \N{NON-BREAKING HYPHEN}ELBO are not decidedly different."
    names = {"effective_coverage": ("effective coverage", "points"), "neg_elbo": (NEG_ELBO, "nats")}
    found = [
        f"{names[row['metric']][0]} is {row['decided']} at the {row['comparison']} "
        f"({_text(row)} {names[row['metric']][1]})"
        for row in rows.to_dict("records")
    ]
    return f"But the outcomes must be read together: {', and '.join(found)}. A lower {NEG_ELBO} is better."


def conflicts(differences: pd.DataFrame) -> str:
    """Return a sentence on the counterfactuals whose informative and effective coverage differ in opposite directions.

    Only differences at the same epoch that are decided count. The sentence is empty if there are none.
    """
    titles: dict[tuple[str, str], list[str]] = {}
    for title, rows in differences[differences["comparison"] == SAME_EPOCH].groupby("title", sort=False):
        decided = dict(zip(rows["metric"], rows["decided"], strict=True))
        if {decided[PRIMARY], decided["effective_coverage"]} == BOTH:
            titles.setdefault((decided[PRIMARY], decided["effective_coverage"]), []).append(f"“{title}”")
    return " ".join(
        f"The outcomes can disagree: {_listed(names)} {'has' if len(names) == 1 else 'have'} {informative} "
        f"informative coverage but {effective} effective coverage."
        for (informative, effective), names in titles.items()
    )


def _listed(names: Sequence[str]) -> str:
    """Return names as words: `a`, `a and b` or `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def largest(differences: pd.DataFrame) -> str:
    """Return a sentence on the counterfactual with the largest decided difference in informative coverage.

    It is empty if no counterfactual is decided.
    """
    found = decisions(differences)
    rows = differences[
        (differences["metric"] == PRIMARY) & (differences["comparison"] == SAME_EPOCH)
        & differences["name"].isin(found.index[found != "not decided"])
    ]
    if rows.empty:
        return ""
    row = rows.sort_values("mean", key=abs).iloc[-1]
    return (
        f"The largest decided difference is that of “{row['title']}”: {difference(differences, row['name'])} points of "
        f"informative coverage, and {difference(differences, row['name'], metric='neg_elbo')} nats of {NEG_ELBO}."
    )


def warm_up_or_jump(differences: pd.DataFrame) -> str:
    """Return the sentences on a warm-up and a jump to the same β_B.

    `differences` is a table of `tables.pair_differences`.
    """
    parts = [
        f"at the {row['comparison']} by {_text(row)} points ({row['decided']})"
        for row in differences[differences["metric"] == PRIMARY].to_dict("records")
    ]
    name = differences["name"].iloc[0]
    others = [
        f"at the {comparison} by {difference(differences, name, comparison, 'effective_coverage')} points of effective "
        f"coverage and {difference(differences, name, comparison, 'neg_elbo')} nats of {NEG_ELBO}"
        for comparison in differences["comparison"].unique()
    ]
    return f"The informative coverage differs {' and '.join(parts)}. The other outcomes differ {' and '.join(others)}."


def spikes(measured: pd.DataFrame) -> str:
    """Return a sentence on the loss after epoch 49 and on the surge, with and without a KL weight of B.

    `measured` is the table of `tables.spike_and_surge`, which defines a spike.
    """
    stays, rises = (measured[measured["name"].isin(names)] for names in ((STAYS, NOTHING), (RISES,)))
    return (
        f"If $\\beta_B$ stays 0 ({stays['seed'].nunique()} seeds, at {stays['name'].nunique()} learning rates), "
        f"{stays['spike'].sum()} of {len(stays)} runs have a spike, the loss reaches at most "
        f"{stays['rise'].max():.3g} times its value at epoch 49, and the largest surge is "
        f"{stays['surge'].max():+z.2f} points. If $\\beta_B$ rises over 20 epochs, {rises['spike'].sum()} of "
        f"{len(rises)} runs have a spike, but the loss reaches at least {rises['rise'].min():.3g} times its value at "
        f"epoch 49, and the smallest surge is {rises['surge'].min():+z.1f} points."
    )


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


def sum_of_effects(table: pd.DataFrame) -> str:
    """Return a sentence on how well the codes are sums of one vector for each entry, before and after the first epoch.

    `table` is that of `effects.load_effects`.
    """
    first = int(table.loc[table["model"] != effects.UNTRAINED, "epoch"].min())
    shown = {
        (epoch, p): format(interval(rows["explained"], bounds=(0, 1)), ".3f")
        for (epoch, p), rows in table.groupby(["epoch", "pathway"])
    }
    return (
        f"The share of the variance that this sum explains (R²) is {shown[-1, 'A']} in A and {shown[-1, 'B']} in B "
        f"before training. After epoch {first}, it is {shown[first, 'A']} in A and {shown[first, 'B']} in B (means "
        f"[95 % intervals], {seeds(table['seed'])})."
    )


def orthogonal_steps(table: pd.DataFrame) -> str:
    """Return a Markdown list on the angles and lengths of the steps before and after the jump of β_B.

    `table` is that of `effects.load_effects`. The text says so if the weights of these two epochs are missing.
    """
    rows = table[table["epoch"].isin((BEFORE, AFTER))]
    if set(rows["epoch"]) != {BEFORE, AFTER}:
        return f"These runs keep no weights of the epochs {BEFORE} and {AFTER}, so their steps cannot be compared."
    changes = effects.factors(rows, "epoch", BEFORE)
    lines = []
    for p in PATHWAYS:
        before, after = (rows[(rows["pathway"] == p) & (rows["epoch"] == epoch)] for epoch in (BEFORE, AFTER))
        cosine, ratio = (
            [format(interval(its[name], bounds=bounds), ".2f") for its in (before, after)]
            for name, bounds in ((COSINE, (0, 1)), ("ratio", (1, math.inf)))
        )
        change = changes[(changes["pathway"] == p) & (changes["metric"] == COSINE)].to_dict("records")[0]
        lines.append(
            f"- In {p}, the largest |cos| between the steps of two entries goes from {cosine[0]} to {cosine[1]}, by a "
            f"factor of {format(_interval(change), '.2f')}. In single seeds, it is between {before[COSINE].min():.2f} "
            f"and {before[COSINE].max():.2f} before, and between {after[COSINE].min():.2f} and "
            f"{after[COSINE].max():.2f} after. The longest step is {ratio[0]} times as long as the shortest step "
            f"before, and {ratio[1]} times after."
        )
    return (
        f"From epoch {BEFORE} to {AFTER}:\n\n" + "\n".join(lines) + f"\n\nThese are means [95 % intervals] of "
        f"{seeds(rows['seed'])}. The factors are geometric means within seeds, with simultaneous intervals "
        f"(Bonferroni, {len(PATHWAYS)} comparisons)."
    )


def steps_without_weight() -> str:
    """Return a sentence on the angles of the steps if β_B stays 0, from the published counterfactuals."""
    table = effects.published_effects()
    rows = table[table["model"].isin((effects.SCHEDULED, effects.STAYS))]
    changes = effects.factors(rows, "model", effects.SCHEDULED, [COSINE]).to_dict("records")
    parts = [
        f"{format(_interval(row), '.2f')} times in {row['pathway']} ({_larger(row['decided'])})" for row in changes
    ]
    return (
        f"If $\\beta_B$ stays 0, the largest |cos| at epoch {rows['epoch'].max()} is {' and '.join(parts)} what it is "
        f"as scheduled (geometric means of the ratios within {seeds(rows['seed'])}, with simultaneous 95 % intervals, "
        f"Bonferroni, {len(parts)} comparisons)."
    )


def _larger(decided: str) -> str:
    return {"higher": "larger", "lower": "smaller"}.get(decided, decided)
