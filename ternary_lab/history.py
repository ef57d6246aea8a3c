"""The columns of a run's history, and the criteria that choose the best epoch.

    val_loss               validation loss under the current β and λ; values of different epochs are not comparable
    val_elbo               ELBO of the validation split, mean of both pathways
    coverage               sampled coverage, mean of both pathways
    informative_coverage   informative coverage, mean of both pathways
    reconstruction         share of validation operations that a pathway reconstructs exactly from its own latents,
                           mean of both pathways

A criterion never reads the test split. If several epochs are equally good, the first of these epochs is the best, as in
training.
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
    """One epoch of one run, as a row of `history.csv`.

    After epochs in which `evaluation.coverage_at` omits the sampled coverage, `coverage_*` is NaN and `unique_ops_*` is
    None. Older histories lack `loss_information_*`.

    `MEANINGS` gives the unit and the meaning of each column.
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
    """Values by column of the loss terms that the configuration adds; `config.LossTerm` describes these terms."""


MEANINGS: dict[str, tuple[str, str]] = {
    "run": ("", "name of the run"),
    "seed": ("", "seed of the run"),
    "epoch": ("epochs", "number of the epoch, counted from 0"),
    "phase": ("", "training phase, 1 to 4"),
    "train_loss": ("nats", "training loss, mean over the batches; the sum of all loss_* columns"),
    "val_loss": ("nats", "loss of the validation split under the current β and λ"),
    "val_elbo": ("nats", "ELBO of the validation split, mean of both pathways; higher is better"),
    "ce": ("nats", "cross-entropy of an operation, mean over the batches"),
    "kl": ("nats", "KL term of an operation with free bits, mean over the batches"),
    "H": ("nats", "latent entropy from histograms, mean over dimensions and batches"),
    "entropy_B": ("nats", "entropy S of the outputs of decoder B, mean over the batches"),
    "repulsion_B": ("", "latent repulsion of pathway B, mean over the batches"),
    "loss_ce": ("nats", "share of the cross-entropy in the training loss, with its λ and gradient scale"),
    "loss_kl": ("nats", "share of the KL term in the training loss, with its λ, gradient scale and β"),
    "loss_entropy_B": ("nats", "share of the output entropy in the training loss, with λ, gradient scale and weight"),
    "loss_repulsion_B": ("nats", "share of the repulsion in the training loss, with λ, gradient scale and weight"),
    "loss_alignment": ("nats", "share of the entropy alignment in the training loss, with λ₃"),
    "loss_information": ("nats", "share of the information terms in the training loss; 0 if there are none"),
    "beta": ("", "weight β of the KL term"),
    "temperature": ("", "temperature τ of the posterior noise"),
    "rho": ("", "permeability ρ: share of the other pathway's latent in the input of a decoder"),
    "lambda1": ("", "weight λ₁ of pathway A, mean over the batches, so before and after StateNet's correction"),
    "lambda2": ("", "weight λ₂ of pathway B, as lambda1"),
    "lambda3": ("", "weight λ₃ of the entropy alignment, as lambda1"),
    "lr_scheduled": ("", "learning rate of the schedule"),
    "lr": ("", "learning rate after StateNet's correction"),
    "delta_lr": ("", "output of StateNet for the learning rate, in (-1, 1)"),
    "delta_lambda1": ("", "output of StateNet for λ₁, in (-1, 1)"),
    "delta_lambda2": ("", "output of StateNet for λ₂, in (-1, 1)"),
    "delta_lambda3": ("", "output of StateNet for λ₃, in (-1, 1)"),
    "grad_ratio": ("", "average gradient norm of B divided by that of A, at the start of the epoch"),
    "grad_momentum": ("", "momentum of the average gradient norms"),
    "grad_norm": ("", "norm of the pathway's gradient, with λ and gradient scale, before clipping"),
    "unique_ops": ("operations", "distinct operations among the samples"),
    "coverage": ("%", "sampled coverage: distinct operations among the samples, divided by 19,683"),
    "informative_coverage": ("%", "informative coverage exp(I(X;Z))/N"),
    "effective_coverage": ("%", "effective coverage from the exact output distribution"),
    "neg_elbo": ("nats", "-ELBO of the validation split from the pathway's own latents"),
    "reconstruction": ("%", "validation operations that are reconstructed exactly from the pathway's own latents"),
    "seconds_train": ("s", "time of the cohort's training and validation; the previous epoch is measured meanwhile"),
    "seconds_eval": ("s", "additional time for which the cohort waited for the measurement of this epoch"),
}
"""Unit and meaning of each column. A name without its pathway stands for two columns: `ce` for `ce_A` and `ce_B`."""
COLUMNS = tuple(f.name for f in fields(EpochRecord) if f.name != "added")
LATER = {f.name: f.default for f in fields(EpochRecord) if f.default is not MISSING}
"""Default values of the columns that older histories lack, by column. These columns are the last ones."""
TIMING_COLUMNS = ("seconds_train", "seconds_eval")
OLD_NAMES = {
    "info_coverage": "informative_coverage",
    "info_coverage_A": "informative_coverage_A",
    "info_coverage_B": "informative_coverage_B",
}
"""The names that the library uses, by the old names in the files of runs and sweeps."""
_IN_FILES = {name: old for old, name in OLD_NAMES.items()}


def name_in_files(name: str) -> str:
    """Return the name of a column or criterion in the files of runs.

    These files keep the old name of a column that has been renamed in the library.
    """
    return _IN_FILES.get(name, name)


FILE_COLUMNS = tuple(name_in_files(name) for name in COLUMNS)
"""The names of `COLUMNS` in the first line of `history.csv`. The columns of added loss terms follow in that line."""
Criterion = Literal["val_loss", "val_elbo", "coverage", "informative_coverage", "reconstruction"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


def cost(values: Mapping[str, Any] | pd.DataFrame, criterion: Criterion) -> Any:
    """Return the cost of one row of measurements, or of each row of a table, under a criterion. Smaller is better."""
    match criterion:
        case "val_loss":
            return values["val_loss"]
        case "val_elbo":
            return -values["val_elbo"]
        case _:
            return -(values[f"{criterion}_A"] + values[f"{criterion}_B"]) / 2


def best_epoch(history: pd.DataFrame, criterion: Criterion, last: int | None = None) -> int:
    """Return the epoch that a criterion chooses from the history of one run, among the epochs up to `last`.

    Only epochs in which the criterion was measured count. Raises InputError if there is no such epoch.
    """
    rows = history if last is None else history[history["epoch"] <= last]
    costs = cost(rows, criterion).dropna()
    if costs.empty:
        raise InputError(f"{criterion}: was not measured after any epoch")
    return int(rows.loc[costs.idxmin(), "epoch"])
