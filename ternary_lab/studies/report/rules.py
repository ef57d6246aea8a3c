"""The rule that tests each claim.

A claim has a rule of its own, which is found by the id of the claim, for example if the claim is a statement about the
runs. Otherwise the rule depends on the claim's quantity, for example for a number that is read from the history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ternary_lab import space
from ternary_lab.config import Config
from ternary_lab.studies.report.evidence import Evidence, SeedEvidence
from ternary_lab.studies.report.ledger import Claim
from ternary_lab.studies.report.metric_rules import METRIC_RULES
from ternary_lab.studies.report.rule_builders import PAIR, configured, reading, relative_change, untrained_gives
from ternary_lab.studies.report.training_rules import TRAINING_RULES
from ternary_lab.studies.report.verdicts import Rule

RULES: Mapping[str, Rule] = {**METRIC_RULES, **TRAINING_RULES}
"""Rules by the id of the claim."""


def _coverage(claim: Claim) -> Rule:
    return reading(f"coverage_{claim.pathway}", claim.span[1], baseline=untrained_gives(claim))


def _combined(claim: Claim) -> Rule:
    epoch = claim.span[1]
    return Rule(
        measure=lambda run: run.both("coverage", epoch), epochs=lambda e: lambda run: run.both("coverage", e),
        baseline=untrained_gives(claim), note="It is the mean of A and B, not what they cover together.",
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
    return Rule(measure=measure, order=lambda run: measure(run) * sign > 0)


def _configured(read: Callable[[Config], Any]) -> Callable[[Claim], Rule]:
    return lambda claim: configured(read)


def _setting(read: Callable[[Evidence, Claim], Any]) -> Callable[[Claim], Rule]:
    return lambda claim: Rule(fact=lambda evidence: read(evidence, claim))


def _beta(evidence: Evidence, claim: Claim) -> float:
    return evidence.config.betas(claim.span[1])[PAIR.index(claim.pathway)]


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
    "coverage_sampled_pct": _coverage,
    "coverage_combined_pct": _combined,
    "coverage_delta_points": _gain,
    "unique_ops_sampled": _by_pathway("unique_ops"),
    "train_loss": _plain("train_loss"),
    "val_loss": _plain("val_loss"),
    "cross_entropy_nats": _by_pathway("ce"),
    "latent_entropy_nats": _by_pathway("H"),
    "entropy_change_pct": relative_change("H"),
    "kl_nats": _by_pathway("kl"),
    "loss_change_pct": relative_change("val_loss"),
    "beta": _setting(_beta),
    "beta_warmup_epochs": _setting(lambda evidence, c: getattr(evidence.config.beta, c.pathway).warmup_epochs),
    "lr": _setting(lambda evidence, c: evidence.config.lr(c.span[0])),
    "phase_index": _plain("phase"),
    "param_count": _setting(_parameters),
    "param_share_pct": _setting(lambda evidence, c: 100 * _parameters(evidence, c) / evidence.architecture.parameters),
    "input_dim": _setting(lambda evidence, c: space.ENTRIES),
    "latent_dim": _configured(lambda c: c.model.latent_dim),
    "space_size": _setting(lambda evidence, c: len(space.operations())),
    "split_size": _setting(_part),
    "split_share_pct": _setting(lambda evidence, c: 100 * _part(evidence, c) / space.SIZE),
    "batch_size": _configured(lambda c: c.data.batch_size),
    "weight_decay": _configured(lambda c: c.optimiser.weight_decay),
    "grad_clip": _configured(lambda c: c.optimiser.grad_clip),
    "free_bits_nats_per_dim": _configured(lambda c: c.kl.free_bits),
    "epochs_planned": _configured(lambda c: c.training.total_epochs),
    "checkpoint_freq": _configured(lambda c: c.checkpoints.every),
    "lambda3": _configured(lambda c: c.loss_weights.lambda3_base),
    "lambda3_amplitude": _configured(lambda c: c.loss_weights.lambda3_amplitude),
    "statenet_lr_scale_pct": _configured(lambda c: 100 * c.statenet.lr_scale),
    "statenet_lambda_scale_pct": _configured(lambda c: 100 * c.statenet.lambda_scale),
    "epochs_completed": lambda claim: Rule(measure=lambda run: run.last),
}
"""Functions that return the rule of a claim, by the quantity of the claim."""


def rule(claim: Claim) -> Rule:
    """Return the rule of a claim: the rule for its id or, if there is none, the rule for its quantity.

    If the claim is untestable, the rule contains the ledger's reason.
    """
    if claim.untestable:
        return replace(RULES.get(claim.id, Rule()), why=claim.untestable)
    return RULES[claim.id] if claim.id in RULES else BY_QUANTITY[claim.quantity](claim)
