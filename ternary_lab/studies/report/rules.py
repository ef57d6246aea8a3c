"""The rule that tests each claim.

A claim has a rule of its own, which is found by the id of the claim, for example if the claim is a statement about the
runs. Otherwise the rule depends on the claim's quantity, for example for a number that is read from the history. A
claim that states a figure again has the rule of the first claim that states it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ternary_lab import space
from ternary_lab.config import Config
from ternary_lab.model import PATHWAYS
from ternary_lab.studies.report.advice_rules import ADVICE_RULES
from ternary_lab.studies.report.evidence import Evidence, SeedEvidence
from ternary_lab.studies.report.ledger import Claim, ledger
from ternary_lab.studies.report.metric_rules import METRIC_RULES
from ternary_lab.studies.report.original_rules import ORIGINAL_RULES
from ternary_lab.studies.report.rule_builders import configured, number, reading, relative_change, untrained_reaches
from ternary_lab.studies.report.training_rules import TRAINING_RULES
from ternary_lab.studies.report.verdicts import Rule

_ALL: Mapping[str, Rule] = {**METRIC_RULES, **TRAINING_RULES, **ADVICE_RULES, **ORIGINAL_RULES}
DIFFERENCES = sum(its.comparisons > 0 for its in _ALL.values())
"""Number of claims about a difference from other runs of the same seeds. Their intervals are simultaneous."""
RULES: Mapping[str, Rule] = {
    name: replace(its, comparisons=DIFFERENCES) if its.comparisons else its for name, its in _ALL.items()
}
"""Rules by the id of the claim."""


def _coverage(claim: Claim) -> Rule:
    """Return a rule for sampled coverage or for a number of distinct draws of one pathway at one epoch."""
    assert claim.number is not None
    name, share = ("unique_ops", 100 / space.SIZE) if claim.quantity == "unique_ops_sampled" else ("coverage", 1.0)
    pathway = claim.pathway if claim.pathway in PATHWAYS else "A"  # the headline names none, and A has this figure
    return reading(
        f"{name}_{pathway}", claim.span[1], **untrained_reaches(share * claim.number, [pathway]),
    )


def _combined(claim: Claim) -> Rule:
    epoch = claim.span[1]
    assert claim.number is not None
    return Rule(
        of=f"Mean sampled coverage of A and B at epoch {epoch}", measure=lambda run: run.both("coverage", epoch),
        epochs=lambda e: lambda run: run.both("coverage", e), **untrained_reaches(claim.number),
        note="It is the mean of A and B, not what they cover together.",
    )


def _by_pathway(name: str) -> Callable[[Claim], Rule]:
    return lambda claim: reading(f"{name}_{claim.pathway}", claim.span[1])


def _plain(name: str) -> Callable[[Claim], Rule]:
    return lambda claim: reading(name, claim.span[1])


def _gain(claim: Claim) -> Rule:
    """Return a rule for the coverage that is gained over the claim's span, in percentage points."""
    first, last = claim.span
    sign = math.copysign(1, claim.number or 0)
    def measure(run: SeedEvidence) -> float:
        return run.at(f"coverage_{claim.pathway}", last) - run.at(f"coverage_{claim.pathway}", first)
    of = f"The gain of sampled coverage of {claim.pathway} from epoch {first} to {last}, in points"
    way = f"the gain is {'positive' if sign > 0 else 'negative'} in every run"
    return number(of, measure, order=lambda run: measure(run) * sign > 0, way=way)


def _configured(of: str, read: Callable[[Config], Any]) -> Callable[[Claim], Rule]:
    return lambda claim: configured(of, read)


def _setting(of: str, read: Callable[[Evidence, Claim], Any], source: str) -> Callable[[Claim], Rule]:
    return lambda claim: Rule(of=of, fact=lambda evidence: read(evidence, claim), source=source)


def _beta(evidence: Evidence, claim: Claim) -> float:
    return evidence.config.betas(claim.span[1])[PATHWAYS.index(claim.pathway)]


def _parameters(evidence: Evidence, claim: Claim) -> int:
    architecture = evidence.architecture
    decoders = {"A": architecture.decoder_A.size, "B": architecture.decoder_B.size}
    if claim.pathway in decoders:
        return architecture.encoder.size + decoders[claim.pathway]
    if "statenet" in claim.id:
        return architecture.parameters - 2 * architecture.encoder.size - sum(decoders.values())
    return architecture.parameters


def _part(evidence: Evidence, claim: Claim) -> int:
    part = claim.id.split("-")[-1]
    return len(getattr(evidence.split, "validation" if part == "val" else part))


BY_QUANTITY: Mapping[str, Callable[[Claim], Rule]] = {
    **dict.fromkeys(("coverage_sampled_pct", "coverage_peak_pct", "unique_ops_sampled"), _coverage),
    "coverage_combined_pct": _combined,
    "coverage_delta_points": _gain,
    "train_loss": _plain("train_loss"),
    "val_loss": _plain("val_loss"),
    "cross_entropy_nats": _by_pathway("ce"),
    "latent_entropy_nats": _by_pathway("H"),
    "entropy_change_pct": relative_change("H"),
    "kl_nats": _by_pathway("kl"),
    "loss_change_pct": relative_change("val_loss"),
    "beta": _setting("β of the pathway at that epoch", _beta, "the schedule"),
    "beta_warmup_epochs": _setting(
        "The number of warm-up epochs", lambda evidence, c: getattr(evidence.config.beta, c.pathway).warmup_epochs,
        "the configuration",
    ),
    "lr": _setting("The scheduled learning rate", lambda evidence, c: evidence.config.lr(c.span[0]), "the schedule"),
    "phase_index": _plain("phase"),
    "param_count": _setting("The number of parameters", _parameters, "the architecture"),
    "param_share_pct": _setting(
        "The share of all parameters, in percent",
        lambda evidence, c: 100 * _parameters(evidence, c) / evidence.architecture.parameters, "the architecture",
    ),
    "input_dim": _setting("The number of entries of an operation", lambda evidence, c: space.ENTRIES, "the space"),
    "latent_dim": _configured("The number of latent dimensions", lambda c: c.model.latent_dim),
    "space_size": _setting(
        "The number of different operations in the data",
        lambda evidence, c: len({tuple(row) for row in space.operations().int().tolist()}), "the space",
    ),
    "split_size": _setting("The number of operations of the split", _part, "the split"),
    "split_share_pct": _setting(
        "The share of operations in the split, in percent",
        lambda evidence, c: 100 * _part(evidence, c) / space.SIZE, "the split",
    ),
    "batch_size": _configured("The batch size", lambda c: c.data.batch_size),
    "weight_decay": _configured("The weight decay", lambda c: c.optimiser.weight_decay),
    "grad_clip": _configured("The clipping norm", lambda c: c.optimiser.grad_clip),
    "free_bits_nats_per_dim": _configured("The free bits, in nats per dimension", lambda c: c.kl.free_bits),
    "epochs_planned": _configured("The number of planned epochs", lambda c: c.training.total_epochs),
    "checkpoint_freq": _configured("The number of epochs between checkpoints", lambda c: c.checkpoints.every),
    "lambda3": _configured("The base of λ₃", lambda c: c.loss_weights.lambda3_base),
    "lambda3_amplitude": _configured("The amplitude of λ₃", lambda c: c.loss_weights.lambda3_amplitude),
    "statenet_lr_scale_pct": _configured(
        "StateNet's scale for the learning rate, in percent", lambda c: 100 * c.statenet.lr_scale
    ),
    "statenet_lambda_scale_pct": _configured(
        "StateNet's scale for the loss weights, in percent", lambda c: 100 * c.statenet.lambda_scale
    ),
    "epochs_completed": lambda claim: number("The last epoch", lambda run: run.last, until=0),
}
"""Functions that return the rule of a claim, by the quantity of the claim."""


def rule(claim: Claim) -> Rule:
    """Return the rule of a claim: the rule for its id or, if there is none, the rule for its quantity.

    If the claim states a figure again, the rule is that of the first claim. If the claim is untestable, the rule
    contains the ledger's reason.
    """
    claim = ledger().claims[ledger().repeats.get(claim.id, claim.id)]
    if claim.untestable:
        return replace(RULES.get(claim.id, Rule()), why=claim.untestable)
    return RULES[claim.id] if claim.id in RULES else BY_QUANTITY[claim.quantity](claim)
