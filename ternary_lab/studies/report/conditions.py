"""Parts of rules: the condition of a statement, the evidence that a rule needs, and the bounds of quantities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ternary_lab.config_files import shipped_counterfactuals
from ternary_lab.runs.load import ANSWERS, FULL
from ternary_lab.space import SIZE
from ternary_lab.studies.report.evidence import ALTERNATIVES, RECIPES, SeedEvidence
from ternary_lab.studies.statistics import PERCENT, POSITIVE, Bounds

BOUNDS: Mapping[str, Bounds] = {
    "coverage_sampled_pct": PERCENT,
    "coverage_combined_pct": PERCENT,
    "coverage_peak_pct": PERCENT,
    "unique_ops_sampled": (0.0, float(SIZE)),
    "cross_entropy_nats": POSITIVE,
    "latent_entropy_nats": POSITIVE,
    "entropy_change_pct": (-100.0, math.inf),
    "kl_nats": POSITIVE,
    "gradient_balance_ratio": POSITIVE,
    **dict.fromkeys(("best_val_epoch", "peak_epoch", "epochs_completed"), (0.0, 399.0)),
}
"""Least and greatest possible value of each quantity of the ledger that has bounds.

The training and the validation loss are not here: both contain the entropy bonus of pathway B, so they have no lower
bound. The training loss is below 0 in some epochs of some seeds. Differences have no bounds either.
"""

TABLES = {ANSWERS: "table of answers", RECIPES: "table of recipes", ALTERNATIVES: "table of other models"}
"""Words for the published tables, by file name."""


@dataclass(frozen=True)
class Condition:
    """A condition on one number, and the words for it, which contain the threshold."""

    words: str
    met: Callable[[float], bool]
    limits: tuple[float, ...] = ()
    """Numbers at which the condition changes."""
    unit: str = ""

    def __call__(self, value: float) -> bool:
        return self.met(value)


def _text(limit: float, unit: str) -> str:
    return f"{limit:g}{' ' * bool(unit)}{unit}"


def above(limit: float, unit: str = "") -> Condition:
    """Return the condition that a number is greater than `limit`."""
    return Condition(f"above {_text(limit, unit)}", lambda value: value > limit, (limit,), unit)


def at_least(limit: float, unit: str = "") -> Condition:
    """Return the condition that a number is `limit` or greater."""
    return Condition(f"at least {_text(limit, unit)}", lambda value: value >= limit, (limit,), unit)


def below(limit: float, unit: str = "") -> Condition:
    """Return the condition that a number is less than `limit`."""
    return Condition(f"below {_text(limit, unit)}", lambda value: value < limit, (limit,), unit)


def at_most(limit: float, unit: str = "") -> Condition:
    """Return the condition that a number is `limit` or less."""
    return Condition(f"at most {_text(limit, unit)}", lambda value: value <= limit, (limit,), unit)


def equal_to(limit: float, unit: str = "") -> Condition:
    """Return the condition that a number equals `limit`."""
    return Condition(f"equal to {_text(limit, unit)}", lambda value: value == limit, (limit,), unit)


def between(low: float, high: float, unit: str = "") -> Condition:
    """Return the condition that a number lies in [low, high]."""
    return Condition(f"between {low:g} and {_text(high, unit)}", lambda value: low <= value <= high, (low, high), unit)


@dataclass(frozen=True)
class Need:
    """Evidence that runs may lack, for example because a user gave runs without counterfactuals."""

    words: str
    """Name of the evidence. It completes the sentence "The runs given have no ..."."""
    source: str
    """Name of the evidence as an additional source. It completes the words "8 runs of v5_5 and ...", or it is empty."""
    met: Callable[[SeedEvidence], bool]


def control(*names: str) -> Need:
    """Return the need for counterfactual runs of the same seed."""
    titles = {c.name: c.title for c in shipped_counterfactuals()}
    kind = "counterfactuals" if len(names) > 1 else "counterfactual"
    listed = f"{kind} {' and '.join(f'“{titles[name]}”' for name in names)}"
    return Need(f"published {listed}", f"the {listed}", lambda run: set(names) <= set(run.controls))


def weights(*epochs: int) -> Need:
    """Return the need for measures of saved weights, at all the given epochs or, if there are none, at any epoch."""
    where = f" of {'epochs' if len(epochs) > 1 else 'epoch'} {' and '.join(map(str, epochs))}" if epochs else ""
    return Need(
        f"saved weights{where}", f"their saved weights{where}",
        lambda run: len(run.probes) > 0 and set(epochs) <= set(run.probes.index),
    )


def whole_run() -> Need:
    """Return the need for the run over all planned epochs."""
    return Need("run over all planned epochs", "the run over all planned epochs", lambda run: FULL in run.controls)


def table(*measures: str, source: str) -> Need:
    """Return the need for measures from a published table, by their names in `SeedEvidence.measures`."""
    words = f"published {TABLES[source]}"
    return Need(words, words, lambda run: set(measures) <= set(run.measures))


def statenet() -> Need:
    """Return the need for StateNet."""
    return Need("StateNet", "", lambda run: run.config.model.use_statenet)


def reaches(epoch: int) -> Need:
    """Return the need for runs that contain an epoch."""
    return Need(f"epoch {epoch}", "", lambda run: run.last >= epoch)
