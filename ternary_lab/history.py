"""The history of a run: its columns, and the criteria that choose its best epoch from them.

    val_loss               validation loss under the current β and λ; values of different epochs are not comparable
    val_elbo               ELBO of the validation split, mean of both pathways
    coverage               sampled coverage, mean of both pathways
    informative_coverage   informative coverage, mean of both pathways
    reconstruction         exact reconstruction of the validation split from the own code, mean of both pathways

A criterion never reads the test split. The first of several equally good epochs is the best, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from ternary_lab.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class EpochRecord:
    """One run's epoch: a row of `history.csv`.

    Losses, entropies and KL are in nats, coverages and reconstruction in percent. Loss terms, H and λ are means over
    the epoch's batches, so λ₁₋₃ mix the values before and after StateNet's correction. Where `evaluation.coverage_at`
    leaves out the sampled coverage, it is NaN and its counts are None. `loss_*` are the shares of the terms in the
    training loss, with λ, gradient scale and weight: their sum is `train_loss`. `loss_information_*` are 0 without
    information terms; older histories lack them. `grad_norm_*` are norms of λ g ∇L before clipping. `val_elbo` is the
    mean ELBO of both pathways on the validation split (higher is better). `delta_*` are StateNet's outputs in (-1, 1).

    Seconds are those of the whole cohort. `seconds_train` is the time of training and validation; the previous epoch is
    measured beside them. `seconds_eval` is the time that the measurement of this epoch took beyond that.
    """

    run: str
    seed: int
    epoch: int
    phase: int
    train_loss: float
    val_loss: float
    val_elbo: float
    ce_A: float
    ce_B: float
    kl_A: float
    kl_B: float
    H_A: float
    H_B: float
    entropy_B: float
    repulsion_B: float
    loss_ce_A: float
    loss_kl_A: float
    loss_ce_B: float
    loss_kl_B: float
    loss_entropy_B: float
    loss_repulsion_B: float
    loss_alignment: float
    beta_A: float
    beta_B: float
    temperature_A: float
    temperature_B: float
    rho: float
    lambda1: float
    lambda2: float
    lambda3: float
    lr_scheduled: float
    lr: float
    delta_lr: float
    delta_lambda1: float
    delta_lambda2: float
    delta_lambda3: float
    grad_ratio: float
    grad_momentum: float
    grad_norm_A: float
    grad_norm_B: float
    unique_ops_A: int | None
    unique_ops_B: int | None
    coverage_A: float
    coverage_B: float
    informative_coverage_A: float
    informative_coverage_B: float
    effective_coverage_A: float
    effective_coverage_B: float
    neg_elbo_A: float
    neg_elbo_B: float
    reconstruction_A: float
    reconstruction_B: float
    seconds_train: float
    seconds_eval: float
    loss_information_A: float = 0.0
    loss_information_B: float = 0.0
    added: Mapping[str, float] = field(default_factory=dict)
    """Column -> value of the loss terms that the configuration adds: see `config.LossTerm`."""


COLUMNS = tuple(f.name for f in fields(EpochRecord) if f.name != "added")
LATER = {f.name: f.default for f in fields(EpochRecord) if f.default is not MISSING}
"""The last columns, which older histories lack -> their values there."""
TIMING_COLUMNS = ("seconds_train", "seconds_eval")
OLD_NAMES = {
    "info_coverage": "informative_coverage",
    "info_coverage_A": "informative_coverage_A",
    "info_coverage_B": "informative_coverage_B",
}
"""Names that files of runs and sweeps use -> the names that the library uses."""
_IN_FILES = {name: old for old, name in OLD_NAMES.items()}


def name_in_files(name: str) -> str:
    """The name of a column or criterion in a run's files, which keep an old name where they have always had it."""
    return _IN_FILES.get(name, name)


FILE_COLUMNS = tuple(name_in_files(name) for name in COLUMNS)
"""`COLUMNS` as the head of `history.csv` has them. The columns of added loss terms follow."""
Criterion = Literal["val_loss", "val_elbo", "coverage", "informative_coverage", "reconstruction"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


def cost(values: Mapping[str, Any] | pd.DataFrame, criterion: Criterion) -> Any:
    """The value of a criterion for a row of measurements, or for whole columns of them: smaller is better."""
    match criterion:
        case "val_loss":
            return values["val_loss"]
        case "val_elbo":
            return -values["val_elbo"]
        case _:
            return -(values[f"{criterion}_A"] + values[f"{criterion}_B"]) / 2


def best_epoch(history: pd.DataFrame, criterion: Criterion, last: int | None = None) -> int:
    """The epoch of one run that a criterion chooses among the measured ones up to `last`.

    Raises InputError when none of them was measured.
    """
    rows = history if last is None else history[history["epoch"] <= last]
    costs = cost(rows, criterion).dropna()
    if costs.empty:
        raise InputError(f"{criterion}: was not measured after any epoch")
    return int(rows.loc[costs.idxmin(), "epoch"])
