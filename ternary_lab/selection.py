"""Which epoch of a run is its best: a criterion looks at one row of measurements and says how good it is.

    val_loss         the validation loss as scheduled: of every epoch another objective, with that epoch's β and λ
    val_elbo         the ELBO of the validation split, mean of both pathways
    coverage         sampled coverage, mean of both pathways
    info_coverage    informative coverage, mean of both pathways
    reconstruction   exact reconstruction of the validation split from the own code, mean of both pathways

A criterion never sees the test split. Of equals, the first epoch is the best, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from ternary_lab.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Criterion = Literal["val_loss", "val_elbo", "coverage", "info_coverage", "reconstruction"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


def cost(values: Mapping[str, Any] | pd.DataFrame, criterion: Criterion) -> Any:
    """What a criterion makes of an epoch's measurements, or of whole columns of them: smaller is better."""
    match criterion:
        case "val_loss":
            return values["val_loss"]
        case "val_elbo":
            return -values["val_elbo"]
        case _:
            return -(values[f"{criterion}_A"] + values[f"{criterion}_B"]) / 2


def best_epoch(history: pd.DataFrame, criterion: Criterion, last: int | None = None) -> int:
    """The epoch of one run that a criterion chooses, among those up to `last` that it was measured after.

    Raises InputError when there is none.
    """
    rows = history if last is None else history[history["epoch"] <= last]
    costs = cost(rows, criterion).dropna()
    if costs.empty:
        raise InputError(f"{criterion}: was not measured after any epoch")
    return int(rows.loc[costs.idxmin(), "epoch"])
