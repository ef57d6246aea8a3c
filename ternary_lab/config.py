"""The configuration of an experiment: all settings, with defaults, ranges and descriptions.

A dotted key names a setting, for example `beta.B.mode` or `training.total_epochs`. The letter e is the number of an
epoch, counted from 0. The settings whose values depend on the epoch are in `schedules`. `config_files` reads
configurations from files and explains errors.

A cohort is a set of runs that are computed together. Its runs may differ in all settings except those in `STRUCTURAL`.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from ternary_lab.history import OLD_NAMES, Criterion
from ternary_lab.schedules import Betas, Phases, Rho, Temperatures, cosine_decay, cycle, jump, step_value
from ternary_lab.settings import Choice, Epoch, Momentum, Period, Positive, Section, StrictDumper, Weight, Whole, Width

if TYPE_CHECKING:
    from torch import Tensor

COUNTERFACTUALS = "counterfactuals"
"""Name of two folders: one in `configs` holds the files of counterfactuals, the other holds their runs."""
CONNECTIVES: dict[str, tuple[str, ...]] = {
    "kleene": ("not", "min (Kleene and)", "max (Kleene or)"),
    "lukasiewicz": ("not", "Łukasiewicz implication"),
    "goedel": ("false", "min (Kleene and)", "max (Kleene or)", "Gödel implication"),
}
"""The connectives of each logic. A connective is a name in `space.NAMED`, `not` (negation) or `false` (constant -1)."""


def parse_structure(text: str) -> tuple[str, str]:
    """Return (kind, name) of a structure that can be left out of training; `splits` describes the structures.

    Raises ValueError if the text is not the name of a structure.
    """
    kind, _, name = text.partition(":")
    known = {"orbit": "[0-9]{1,5}", "logic": "|".join(CONNECTIVES), "pattern": "[-0+*]{9}"}
    if not re.fullmatch(known.get(kind, "(?!)"), name) or (kind == "orbit" and int(name) >= 19_683):
        raise ValueError(
            f"must be orbit:INDEX with an index below 19683, logic:{' or logic:'.join(CONNECTIVES)}, "
            f"or pattern: and nine of -, 0, + and *; got {text!r}"
        )
    return kind, name


class Data(Section):
    """Settings of the split of the space, and of the batches of an epoch."""

    split_seed: Whole = Field(42, ge=0, le=2**32 - 1, description="seed of the split, apart from the run's seed")
    train_fraction: float = Field(0.8, gt=0, lt=1, description="share of the 19,683 operations to train on")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="share to validate on; the rest is the test split")
    left_out: str = Field(
        "", max_length=40, description="structure left out of training: orbit:I, logic:NAME or pattern:++-******"
    )
    epoch_operations: Whole = Field(
        0, ge=0, le=1_000_000, description="operations per epoch; 0: each of the training split once"
    )
    batch_size: Whole = Field(64, ge=2, le=19_683, description="operations per optimiser step; the last may be smaller")

    @field_validator("left_out")
    @classmethod
    def _a_structure(cls, value: str) -> str:
        if value:
            parse_structure(value)
        if value == "pattern:*********":
            raise ValueError(f"{value} leaves out the whole space: give at least one entry as -, 0 or +")
        return value

    @model_validator(mode="after")
    def _no_split_is_empty(self) -> Data:
        if self.train_fraction + self.validation_fraction > 0.999:
            raise ValueError("train_fraction + validation_fraction must leave room for a test split (at most 0.999)")
        if int(19_683 * min(self.train_fraction, self.validation_fraction)) < 1:
            raise ValueError("train_fraction and validation_fraction must be at least 5.1e-5: one of 19,683 operations")
        return self


class Model(Section):
    """Sizes of the networks, and whether StateNet is used."""

    latent_dim: Whole = Field(16, ge=1, le=256, description="latent dimensions of each pathway")
    encoder_hidden: tuple[Width, ...] = Field(
        (256, 128, 64), min_length=1, max_length=16, description="widths of both encoders"
    )
    decoder_A_hidden: tuple[Width, ...] = Field(
        (32, 64), min_length=1, max_length=16, description="widths of decoder A"
    )
    decoder_B_hidden: Width = Field(128, description="width of decoder B")
    decoder_B_blocks: Whole = Field(2, ge=0, le=16, description="residual blocks of decoder B")
    use_statenet: bool = Field(True, description="whether StateNet corrects learning rate and loss weights")


class LossWeights(Section):
    """The weights λ₁ of pathway A, λ₂ of pathway B and λ₃ of the entropy alignment.

    All three weights change during training.
    """

    initial: Weight = Field(0.7, description="λ₁ and λ₂ at epoch 0")
    low: Weight = Field(0.5, description="lower bound of λ₁ and λ₂")
    high: Weight = Field(0.95, description="upper bound of λ₁ and λ₂")
    step: Weight = Field(0.02, description="change of λ₁ and λ₂ per epoch while gradients are unbalanced")
    ratio_low: Weight = Field(0.8, description="gradient ratio below which A is strengthened")
    ratio_high: Weight = Field(1.2, description="gradient ratio above which B is strengthened")
    coverage_ratio_low: Weight = Field(0.67, description="coverage ratio B/A below which B is strengthened")
    coverage_ratio_high: Weight = Field(1.5, description="coverage ratio B/A above which A is strengthened")
    coverage_factor: Positive = Field(1.05, description="factor on the strengthened weight")
    coverage_factor_down: Positive = Field(0.95, description="factor on the other weight")
    lambda3_base: Weight = Field(0.3, description="mean of λ₃'s cycle")
    lambda3_amplitude: Weight = Field(0.15, description="half-width of λ₃'s cycle")
    lambda3_period: Period = Field(30, description="epochs per cycle of λ₃")
    lambda3_low: Weight = Field(0.15, description="lower bound of λ₃ after StateNet's correction")
    lambda3_high: Weight = Field(0.75, description="upper bound of λ₃ after StateNet's correction")

    def lambda3(self, e: int) -> float:
        """Return λ₃ at the start of epoch e."""
        return self.lambda3_base + self.lambda3_amplitude * cycle(e, self.lambda3_period, phase=math.pi / 2)


class KL(Section):
    """Settings of the lower bound of the KL terms."""

    free_bits: Weight = Field(0.5, description="lower bound of a dimension's KL, in nats")
    free_bits_per: Literal["sample", "dimension_mean"] = Field(
        "sample", description="v5.5 bounds every sample and dimension; dimension_mean: the batch mean of each dimension"
    )


@dataclass(frozen=True)
class PathwayBatch:
    """A batch of one pathway, for an added loss term.

    R is the number of runs, B the number of operations in the batch, and L the number of latent dimensions.
    """

    target: Tensor
    """(R, B, 9, 3): one-hot operations."""
    mu: Tensor
    """(R, B, L): posterior means."""
    log_variance: Tensor
    """(R, B, L): logarithms of the posterior variances."""
    z: Tensor
    """(R, B, L): sampled latents."""
    logits: Tensor
    """(R, B, 9, 3): decoder outputs."""


@dataclass(frozen=True)
class TermGradients:
    """Gradients of the value of a term with respect to the tensors of a `PathwayBatch`.

    Each gradient has the shape of its tensor. None stands for a gradient of zero. The gradients with respect to `mu`
    and `log_variance` must not include the part that comes through `z`.
    """

    mu: Tensor | None = None
    log_variance: Tensor | None = None
    z: Tensor | None = None
    logits: Tensor | None = None


TermName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class LossTerm(Choice):
    """Base class of loss terms that a configuration adds to the terms of v5.5.

    To add a term, write a subclass with a `mode` that no other term has, with `words`, with the settings of the term,
    and with `value`. The class may be defined in any file, but it must be defined before a configuration or a run that
    uses it is loaded. A configuration gives each added term a NAME. In the history, the column NAME_A holds the value
    of the term for pathway A, and loss_NAME_A holds its share in the training loss.

        class LargeLogits(LossTerm):
            mode: Literal["large_logits"] = "large_logits"
            words: ClassVar[str] = "the size of the logits"

            def value(self, batch: PathwayBatch) -> tuple[Tensor, TermGradients]:
                count = batch.logits[0].numel()
                return batch.logits.square().sum((1, 2, 3)) / count, TermGradients(logits=2 * batch.logits / count)

        load_config("v5_5", {"loss.added.size": {"mode": "large_logits", "weight": 0.001}})
    """

    words: ClassVar[str]
    """Words that stand for the term in messages."""
    pathways: ClassVar[Literal["AB", "A", "B"]] = "AB"
    weight: float = Field(ge=-1e6, le=1e6, allow_inf_nan=False, description="factor of the term in the loss")

    def weight_at(self, epoch: int) -> float:
        """Return the factor of the term in the loss at an epoch, which is counted from 0."""
        return self.weight

    @abstractmethod
    def value(self, batch: PathwayBatch) -> tuple[Tensor, TermGradients]:
        """Return the value (R,) of this term on a batch of one pathway, and the gradients of this value.

        The value is a mean over the batch, in nats. The loss adds weight · value.
        """


class Loss(Section):
    """Settings of the loss terms of pathway B alone, and of added loss terms."""

    entropy_weight: Weight = Field(0.05, description="weight of B's output entropy S")
    repulsion_weight: Weight = Field(0.01, description="weight of B's latent repulsion")
    repulsion_sigma: Positive = Field(0.5, description="width of the repulsion kernel exp(-d²/σ²)")
    added: dict[TermName, SerializeAsAny[LossTerm]] = Field(
        {}, description="more terms: name -> mode, weight and settings (LossTerm)"
    )


class EntropyAlignment(Section):
    """Settings of the alignment of the latent entropies of A and B."""

    gradient: Literal["none", "differentiable"] = Field(
        "none", description="v5.5 counts values in bins, which has no gradient; differentiable: each value in two bins"
    )


class Information(Section):
    """Settings of the information terms of the loss.

    These terms increase the mutual information I(X;Z) = H(X) - H(X|Z), where X is the output of a decoder and Z is a
    latent drawn from the prior. v5.5 does not have these terms, so the default weights are 0.
    """

    noise_weight: Weight = Field(0.0, description="weight of the decoder noise H(X|Z), which is minimised")
    entropy_weight: Weight = Field(0.0, description="weight of the output entropy H(X), which is maximised")
    certainty_weight: Weight = Field(0.0, description="weight of squared log-odds beyond the margin, also minimised")
    margin: Positive = Field(9.0, description="largest log-odds without a penalty, in nats")
    start_epoch: Epoch = Field(20, description="epoch at which the weights start to rise from 0")
    ramp_epochs: Epoch = Field(20, description="epochs until the weights are reached; 0: at once")
    latents: Whole = Field(512, ge=2, le=65_536, description="prior latents per step")
    decay: Momentum = Field(0.995, description="decay per step of the moving average from which H(X) is computed")

    @property
    def enabled(self) -> bool:
        """Return whether any weight is above 0."""
        return self.noise_weight > 0 or self.entropy_weight > 0 or self.certainty_weight > 0

    def weights(self, e: int) -> tuple[float, float, float]:
        """Return the weights of H(X|Z), of H(X) and of the certainty at epoch e."""
        share = jump(e, 1.0, self.start_epoch, self.ramp_epochs)
        return share * self.noise_weight, share * self.entropy_weight, share * self.certainty_weight


class GradientBalance(Section):
    """Settings of the gradient balance.

    The balance multiplies the gradient of each pathway by a factor that makes the gradient norms more equal.
    """

    enabled: bool = Field(True, description="whether the pathways' losses are scaled by their gradient norms")
    low: Positive = Field(0.5, description="lower bound of the scales")
    high: Positive = Field(2.0, description="upper bound of the scales")
    norm: Literal["clipped", "raw"] = Field("clipped", description="v5.5 averages norms after clipping; raw: before")
    momentum_balanced: Momentum = Field(0.95, description="momentum of the average norms while balanced")
    momentum_unbalanced: Momentum = Field(0.5, description="momentum of the average norms while not balanced")


class StateNet(Section):
    """Settings of StateNet's corrections, and of the training of StateNet."""

    training: Literal["none", "hypergradient"] = Field(
        "none", description="v5.5 does not train it; hypergradient: by the effect of its corrections on validation"
    )
    learning_rate: Positive = Field(0.01, description="learning rate of StateNet's own AdamW")
    lessons: Whole = Field(4, ge=1, le=1000, description="steps per epoch from whose hypergradients StateNet learns")
    lesson_operations: Whole = Field(256, ge=2, le=19_683, description="validation operations per lesson")
    information_weight: Weight = Field(
        0.0, description="StateNet minimises -ELBO minus this weight times I(X;Z), summed over both pathways"
    )
    lr_scale: Weight = Field(0.05, description="largest relative correction of the learning rate")
    lambda_scale: Weight = Field(0.01, description="largest correction of a loss weight per epoch")
    lr_low: Positive = Field(1e-6, description="lower bound of the corrected learning rate")
    lr_high: Positive = Field(0.01, description="upper bound of the corrected learning rate")


class LrScale(Section):
    """Factors of the learning rate, one for each network."""

    encoder_A: Positive = Field(1.0, description="learning rate of encoder A, divided by that of the schedule")
    encoder_B: Positive = Field(1.0, description="learning rate of encoder B, divided by that of the schedule")
    decoder_A: Positive = Field(1.0, description="learning rate of decoder A, divided by that of the schedule")
    decoder_B: Positive = Field(1.0, description="learning rate of decoder B, divided by that of the schedule")

    def by_pathway(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return (encoder, decoder) of pathway A and of pathway B."""
        return (self.encoder_A, self.decoder_A), (self.encoder_B, self.decoder_B)


class Optimiser(Section):
    """Settings of AdamW (Loshchilov & Hutter 2019)."""

    lr_steps: dict[Epoch, Positive] = Field(
        {0: 1e-3, 50: 5e-4, 120: 3e-4, 180: 1e-4, 220: 5e-5, 250: 2e-5, 300: 1e-5, 350: 5e-6},
        description="first epoch -> learning rate; must contain epoch 0",
    )
    lr_decay: Literal["none", "cosine"] = Field(
        "none", description="v5.5 has steps only; cosine: also times (1 + cos(pi e/schedule.horizon))/2"
    )
    lr_scale: LrScale = LrScale()
    weight_decay: Weight = Field(1e-4, description="decoupled weight decay")
    beta1: Momentum = Field(0.9, description="momentum of the first moment")
    beta2: Momentum = Field(0.999, description="momentum of the second moment")
    eps: Positive = Field(1e-8, description="added to the root of the second moment")
    grad_clip: Positive = Field(1.0, description="largest norm of a gradient")
    clip_per: Literal["model", "pathway"] = Field(
        "model", description="v5.5 clips the norm of the whole gradient; pathway: of each pathway separately"
    )

    @model_validator(mode="after")
    def _starts_at_zero(self) -> Optimiser:
        if 0 not in self.lr_steps:
            raise ValueError("optimiser.lr_steps must contain epoch 0, the learning rate to start from")
        return self

    def lr(self, e: int, horizon: int) -> float:
        """Return the scheduled learning rate at epoch e; `horizon` is the setting schedule.horizon, in epochs."""
        rate = step_value(e, self.lr_steps)
        return rate * cosine_decay(e, horizon) if self.lr_decay == "cosine" else rate


class Horizon(Section):
    """The common length of the slow schedules."""

    horizon: Period = Field(400, description="epochs that the rise of β_A, the decay of τ and a cosine of lr take")


class Training(Section):
    """Settings of the length of the training and of a step."""

    total_epochs: Whole = Field(400, ge=1, le=100_000, description="epochs to train at most")
    posterior_samples: Whole = Field(1, ge=1, le=256, description="posterior samples z of each operation in a step")


def _rename(name: Any) -> Any:
    """Return the present name of a criterion. Older configurations use an old name."""
    return OLD_NAMES.get(name, name) if isinstance(name, str) else name


CriterionName = Annotated[Criterion, BeforeValidator(_rename)]


class EarlyStopping(Section):
    """Settings of early stopping."""

    patience: Whole = Field(100, ge=0, le=1_000_000, description="epochs without improvement before stopping; 0: never")
    metric: CriterionName = Field("val_loss", description="criterion that must improve (history.CRITERIA)")


class Evaluation(Section):
    """Settings of the metrics after every epoch."""

    coverage_samples: Whole = Field(195_000, ge=1, le=10_000_000, description="prior samples per pathway and epoch")
    coverage_decoding: Literal["categorical", "argmax"] = Field("categorical", description="how samples are decoded")
    coverage_at: Literal["every_epoch", "when_read"] = Field(
        "every_epoch", description="when_read: coverage is sampled only after epochs in which a controller reads it"
    )
    latents: Whole = Field(65_536, ge=64, le=2**22, description="Sobol latents for the output distribution")
    elbo_samples: Whole = Field(1, ge=1, le=1024, description="posterior samples per validation operation for -ELBO")


class Checkpoints(Section):
    """Settings of the checkpoints.

    They choose the epochs whose weights are kept.
    """

    every: Epoch = Field(10, description="epochs between two checkpoints; 0: none")
    windows: tuple[tuple[Epoch, Epoch], ...] = Field(
        ((39, 39), (45, 60), (69, 69)), description="ranges of epochs that are all kept: [first, last]"
    )

    def keeps(self, e: int) -> bool:
        """Return whether the weights of epoch e are kept."""
        return (self.every > 0 and e % self.every == 0) or any(a <= e <= b for a, b in self.windows)


class Runtime(Section):
    """Settings of the computation that do not change the experiment."""

    streams: Literal["device", "cpu"] = Field(
        "device", description="where random numbers are drawn; cpu: CPU and CUDA runs draw the same numbers"
    )


class Config(Section):
    """All settings of a run except the seed. The default values are the values of v5.5."""

    name: str = Field(
        "v5_5", max_length=80, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="name of the experiment"
    )
    data: Data = Data()
    model: Model = Model()
    schedule: Horizon = Horizon()
    beta: Betas = Betas()
    temperature: Temperatures = Temperatures()
    phases: Phases = Phases()
    rho: Rho = Rho()
    loss_weights: LossWeights = LossWeights()
    kl: KL = KL()
    loss: Loss = Loss()
    entropy_alignment: EntropyAlignment = EntropyAlignment()
    information: Information = Information()
    gradient_balance: GradientBalance = GradientBalance()
    statenet: StateNet = StateNet()
    optimiser: Optimiser = Optimiser()
    training: Training = Training()
    early_stopping: EarlyStopping = EarlyStopping()
    select_by: CriterionName | None = Field(
        None, description="criterion whose best epoch becomes the run's model; null: early_stopping.metric"
    )
    evaluation: Evaluation = Evaluation()
    checkpoints: Checkpoints = Checkpoints()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        for group, section in self:
            for low, value in section if isinstance(section, Section) else ():
                high = f"{low.removesuffix('low')}high"
                if low.endswith("low") and value > getattr(section, high):
                    raise ValueError(f"{group}.{low} must not exceed {group}.{high}")
        if self.statenet.training != "none" and not self.model.use_statenet:
            raise ValueError("statenet.training: hypergradient needs model.use_statenet: true")
        if self.evaluation.coverage_at != "every_epoch" and "coverage" in (self.early_stopping.metric, self.criterion):
            raise ValueError("early_stopping.metric and select_by: coverage needs evaluation.coverage_at: every_epoch")
        return self

    @property
    def criterion(self) -> Criterion:
        """Return the criterion that chooses the epoch whose weights become the model of the run."""
        return self.select_by or self.early_stopping.metric

    @property
    def added_columns(self) -> tuple[str, ...]:
        """Return the history columns of the added loss terms.

        For each term, the columns of its value come first, then the columns of its share in the training loss.
        """
        return tuple(
            f"{prefix}{name}_{pathway}"
            for name, term in self.loss.added.items() for prefix in ("", "loss_") for pathway in term.pathways
        )

    def betas(self, e: int) -> tuple[float, float]:
        """Return (β_A, β_B) at epoch e."""
        return self.beta.values_at(e, self.schedule.horizon)

    def temperatures(self, e: int) -> tuple[float, float]:
        """Return (τ_A, τ_B) at epoch e."""
        t, horizon, final = self.temperature, self.schedule.horizon, self.phases.final
        return t.A.value_at(e, horizon, final), t.B.value_at(e, horizon, final)

    def permeability(self, e: int, balanced: bool) -> float:
        """Return ρ at epoch e. After phase 2 and before phase 4, ρ depends on whether the gradients are balanced."""
        return self.rho.value_at(e, balanced, self.phases)

    def phase(self, e: int, previous: int, balanced: bool) -> int:
        """Return the training phase 1..4 at epoch e; `previous` is the phase of the previous epoch."""
        return self.phases.phase_at(e, previous, balanced)

    def lr(self, e: int) -> float:
        """Return the scheduled learning rate at epoch e."""
        return self.optimiser.lr(e, self.schedule.horizon)

    def lambda3(self, e: int) -> float:
        """Return λ₃ at the start of epoch e."""
        return self.loss_weights.lambda3(e)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as nested dictionaries of plain values for YAML and JSON. `load_config` reads them."""
        data: dict[str, Any] = self.model_dump(mode="json")
        # JSON mode turns the epochs into text.
        data["optimiser"]["lr_steps"] = dict(self.optimiser.lr_steps)
        return data

    def as_yaml(self) -> str:
        """Return all settings as a YAML text. `from_yaml` reads the text, and `load_config` reads a file with it."""
        return yaml.dump(self.as_dict(), Dumper=StrictDumper, sort_keys=False, allow_unicode=True)


STRUCTURAL = (
    "data", "model", "kl.free_bits_per", "loss.added", "entropy_alignment.gradient", "information.latents",
    "information.decay", "information.margin", "gradient_balance.norm", "gradient_balance.enabled",
    "statenet.training", "statenet.lessons", "statenet.lesson_operations", "optimiser.clip_per",
    "training", "evaluation", "runtime",
)
"""Settings that must be the same in all runs of a cohort, because they decide shapes, computations or epochs."""


def is_structural(key: str) -> bool:
    """Return whether a dotted key is in `STRUCTURAL` or belongs to a group of settings in `STRUCTURAL`."""
    return any(key == name or key.startswith(f"{name}.") for name in STRUCTURAL)


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Return a dictionary from dotted key to (value in a, value in b), for every setting that differs."""
    flat_a, flat_b = flatten(a.as_dict()), flatten(b.as_dict())
    keys = dict.fromkeys([*flat_a, *flat_b])
    return {key: (flat_a.get(key), flat_b.get(key)) for key in keys if flat_a.get(key) != flat_b.get(key)}


def flatten(data: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested data as a flat dictionary from dotted key to value."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and all(isinstance(inner, str) for inner in value):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
