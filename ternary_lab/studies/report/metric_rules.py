"""Rules for claims about coverage, losses, latent entropy and KL, by the id of the claim."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ternary_lab import space
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.studies.report.evidence import SeedEvidence
from ternary_lab.studies.report.ledger import ledger
from ternary_lab.studies.report.rule_builders import (
    COVERED_UNTRAINED,
    PAIR,
    PEAK_EPOCH,
    extreme,
    final_information,
    reading,
    relative_change,
    statement,
    untrained_reaches,
)
from ternary_lab.studies.report.verdicts import Measure, Rule

EQUAL_COUNTS = "A hash count and a distinct count of the same draws are equal."


def _hashes(equal: str, unequal: str, note: str) -> Rule:
    """Return a rule for a claim about counting by hashes.

    The measured value is `equal` if a hash count and a distinct count of the same draws agree, and `unequal` otherwise.
    """
    return Rule(fact=lambda evidence: equal if evidence.hash_minus_distinct == 0 else unequal, note=note)


def _highest(name: str) -> Measure:
    return lambda run: float(run.history[name].max())


def _late_mean(name: str) -> Measure:
    return lambda run: run.mean(name, 60, 103)


def _jump(run: SeedEvidence) -> float:
    """Return the smaller of the two pathways' gains of coverage from epoch 49 to 50, in percentage points."""
    return min(run.at(f"coverage_{p}", 50) - run.at(f"coverage_{p}", 49) for p in PAIR)


METRIC_RULES: Mapping[str, Rule] = {
    # Coverage
    "coverage-b-stable-phase-1": statement(
        lambda run: float((run.over("coverage_B", 0, 40) - 89).abs().max()), lambda v: v <= 2,
        "The largest distance from it in these epochs is {median:.1f} points.",
    ),
    "coverage-over-95-by-55": statement(
        extreme("coverage", 55, 103, min), lambda v: v >= 95, COVERED_UNTRAINED, baseline=untrained_reaches(95)
    ),
    "coverage-over-98-from-60": statement(extreme("coverage", 60, 103, min), lambda v: v >= 98),
    "high-coverage-span": statement(
        extreme("coverage", 60, 103, min), lambda v: v >= 95,
        "Least coverage of both pathways in the span. " + COVERED_UNTRAINED, baseline=untrained_reaches(95),
    ),
    "disruption-final-convergence": statement(
        lambda run: run.against("nothing_at_50", lambda r: r.both("coverage", 103)), lambda v: v > 0,
        "Coverage at epoch 103 as scheduled is {median:+.2f} points away from that without any event at 50.",
    ),
    "early-coverage-low-beta": statement(
        lambda run: run.at("coverage_A", 0) - run.at("coverage_B", 0), lambda v: abs(v) < 1,
        "Both β are 0 at epoch 0, yet the pathways are {median:.1f} points apart.",
    ),
    "coverage-sampling-dependent": statement(
        lambda run: run.at(f"coverage_{SAMPLES}_B", 60) - run.at("coverage_10000_B", 60), lambda v: v > 1,
        "The same weights at epoch 60 cover {median:.1f} points more with 195,000 draws than with 10,000.",
    ),
    "history-sampling-duplicates": statement(
        lambda run: 100 * SAMPLES / space.SIZE, lambda v: v <= 100,
        "With duplicates counted as many draws would give {median:.0f} % of the space.",
    ),
    "history-current-run": reading("coverage_B", PEAK_EPOCH, baseline=untrained_reaches(98.86), note=COVERED_UNTRAINED),
    "timeline-stable-100": statement(
        lambda run: max(float(run.over(f"coverage_{p}", 90, 103).max() - run.over(f"coverage_{p}", 90, 103).min())
                        for p in PAIR),
        lambda v: v <= 1, "The spread of coverage over epochs 90-103 is {median:.2f} points. " + COVERED_UNTRAINED,
        baseline=untrained_reaches(98),
    ),
    "rec-future-plateau-100": statement(
        lambda run: run.both("coverage", 103) - run.both("coverage", 70), lambda v: v <= 0.25,
        "Mean coverage still rises by {median:.2f} points from 70 to 103, informative coverage by {also:.1f}.",
        also=lambda run: run.both("informative_coverage", 103) - run.both("informative_coverage", 70),
    ),
    "coverage-combined-is-mean": Rule(
        fact=lambda evidence: "mean of A and B" if ledger().holds("combined-is-mean") else "another combination",
        also=lambda run: run.at("union", 60), note="Together they cover {also:.2f} % at epoch 60.",
    ),
    "rec-prod-60-70-best-balance": statement(
        lambda run: (run.mean("coverage_A", 60, 70) + run.mean("coverage_B", 60, 70)
                     - run.mean("coverage_A", 90, 103) - run.mean("coverage_B", 90, 103)) / 2,
        lambda v: v >= 0, "Mean coverage of epochs 60-70 minus that of 90-103: {median:+.2f} points.",
    ),
    "history-hash-true-unique": _hashes(
        "true unique operations", "hashes collide",
        "On the same draws hashed tuples and distinct operations are equally many; so are any two such counts.",
    ),
    "rec-use-hash-validation": _hashes("no difference", "hash validation", EQUAL_COUNTS),
    "rec-future-hash-in-loop": _hashes("no difference", "v5.6", EQUAL_COUNTS),
    "rec-future-hash-no-inflation": _hashes(
        "nothing to remove", "no inflation",
        "A set never counted duplicates; what inflates the figure is the number of draws.",
    ),
    "disruption-catalyses-coverage": statement(
        lambda run: run.against("beta_b_stays_0", _jump), lambda v: v > 0,
        "With the jump of β_B the smaller of the two gains is {median:+.1f} points above that without it.",
    ),
    "transition-smooth": statement(
        lambda run: abs(run.at("coverage_A", 40) - run.at("coverage_A", 39))
        - float(run.over("coverage_A", 30, 39).diff().abs().max()),
        lambda v: v <= 0,
        "A's step at 40 minus its largest step of the nine epochs before, points: {median:+.1f}; "
        "from 40 to 49 A loses {also:.1f}.",
        also=lambda run: run.at("coverage_A", 40) - run.at("coverage_A", 49),
    ),
    "coverage-surge-both-20-30": statement(
        _jump, lambda v: 20 <= v <= 30, "The smaller of the two gains.", order=lambda run: _jump(run) > 0
    ),
    "disruption-gain-20-30": statement(
        _jump, lambda v: 20 <= v <= 30, "The smaller of the two gains.", order=lambda run: _jump(run) > 0
    ),
    "disruption-beneficial": statement(
        lambda run: run.against("nothing_at_50", final_information), lambda v: v > 0,
        "Informative coverage at 103 is {median:+.1f} points above that without any event at 50, "
        "but {also:+.1f} beside a run whose β_B warmed up from the start.",
        also=lambda run: run.against("beta_b_warms_up", final_information),
    ),
    "higher-beta-coverage-plus-4": Rule(
        measure=lambda run: run.both("coverage", 100) - run.both("coverage", 0),
        order=lambda run: run.both("coverage", 100) > run.both("coverage", 0),
    ),
    "within-measurement-variance": Rule(
        measure=lambda run: run.at("coverage_B", PEAK_EPOCH),
        note="Over seeds v5.5 itself lies between {low:.2f} and {high:.2f} % at that epoch.",
    ),
    "rec-future-diminishing": statement(
        lambda run: run.change_after_119("coverage"), lambda v: v <= 0.25,
        "From 120 to 400 epochs sampled coverage changes by {median:+.1f} points ({n} runs), informative coverage by "
        "{also:+.1f}: it is lost, not just gained more slowly.",
        also=lambda run: run.change_after_119("informative_coverage"),
    ),
    "rec-shift-smooths-surge": statement(
        lambda run: (run.controls["jump_at_40"].both("coverage", 40) - run.both("coverage", 39))
        - (run.both("coverage", 50) - run.both("coverage", 49)) if "jump_at_40" in run.controls else math.nan,
        lambda v: v < 0, "The gain when β_B jumps at 40 minus the gain at 50, points: {median:+.1f}.",
    ),
    # The peak
    **{
        name: reading("coverage_B", PEAK_EPOCH, baseline=untrained_reaches(98.86), note=COVERED_UNTRAINED)
        for name in ("coverage-headline", "v5-5-peak", "conclusion-coverage")
    },
    **{
        f"coverage-{p.lower()}-epoch-69-headline": Rule(
            measure=_highest(f"coverage_{p}"), note="The highest of all epochs, as the claim says."
        )
        for p in PAIR
    },
    "timeline-peak-highest": statement(
        lambda run: run.both("coverage", run.peak) - run.both("coverage", PEAK_EPOCH),
        lambda v: v <= 0, "Another epoch is {median:.2f} points higher.",
    ),
    "peak-epoch": Rule(
        measure=lambda run: run.peak,
        note="Epoch of the highest mean of both pathways; epoch 0 of A covers {also:.2f} %.",
        also=lambda run: run.at("coverage_A", 0),
    ),
    # Losses
    "disruption-breaks-minima": statement(
        lambda run: float(run.over("train_loss", 51, 103).min()) / run.at("train_loss", 49), lambda v: v <= 1,
        "The lowest loss after the spike is {median:.1f} times the loss before it; -ELBO falls by {also:.0f} nats.",
        also=lambda run: run.both("neg_elbo", 49) - run.both("neg_elbo", 103),
    ),
    "phase-2-no-disruption": statement(
        lambda run: float((run.over("train_loss", 40, 103) / run.over("train_loss", 39, 102).to_numpy()).max()),
        lambda v: v < 2, "In one epoch of phase 2 the loss grows {median:.1f} times.",
    ),
    "timeline-recovery-complete-55": statement(
        lambda run: run.at("train_loss", 55) / run.at("train_loss", 49), lambda v: v <= 1.1,
        "The loss at 55 is {median:.1f} times that at 49.",
    ),
    "rec-prod-60-70-converged": statement(
        lambda run: 100 * (1 - run.at("train_loss", 100) / run.at("train_loss", 60)), lambda v: v < 5,
        "From 60 to 100 the loss still falls by {median:.1f} %, -ELBO by {also:.2f} nats.",
        also=lambda run: run.both("neg_elbo", 60) - run.both("neg_elbo", 100),
    ),
    "best-val-remained-stable": statement(
        lambda run: run.at("val_loss", 103) / float(run.history["val_loss"].min()), lambda v: 0 < v <= 1.5,
        "At 103 it is {median:.0f} times its best value.",
    ),
    "val-loss-around-5": Rule(measure=lambda run: run.mean("val_loss", 60, 103)),
    "val-loss-falls-first-3": statement(
        lambda run: float(run.over("val_loss", 0, 3).diff().max()), lambda v: v < 0,
        "Largest change from one epoch to the next in epochs 0-3.",
    ),
    "val-loss-gradual-rise": statement(
        lambda run: float(run.over("val_loss", 3, 60).diff().max())
        / (run.at("val_loss", 60) - run.at("val_loss", 3)), lambda v: v < 0.2,
        "One epoch makes {median:.0%} of the whole rise.",
    ),
    "val-loss-late-range": Rule(ends=(
        lambda run: float(run.over("val_loss", 60, 103).min()), lambda run: float(run.over("val_loss", 60, 103).max())
    )),
    "checkpoint-best": Rule(measure=lambda run: float(run.history["val_loss"].min())),
    "checkpoint-latest-val-loss": Rule(measure=lambda run: run.at("val_loss", run.last)),
    "higher-beta-raises-val-loss": statement(
        lambda run: run.at("val_loss", 103) - run.at("val_loss", 3), lambda v: v > 0,
        "At a fixed β of 1 the validation -ELBO falls by {also:.0f} nats in the same epochs: the weights rise, "
        "not the loss.",
        also=lambda run: run.both("neg_elbo", 3) - run.both("neg_elbo", 103),
        baseline=lambda evidence: all(
            run.both("neg_elbo", 103) < run.both("neg_elbo", 3) for run in evidence.runs
        ),
    ),
    "best-val-loss": Rule(measure=lambda run: float(run.history["val_loss"].min())),
    "best-val-epoch": Rule(measure=lambda run: run.best),
    "timeline-best-remained": Rule(measure=lambda run: run.best),
    "loss-spike-pct": relative_change("train_loss")(ledger().claims["loss-spike-pct"]),
    "loss-recovery-pct": relative_change("train_loss")(ledger().claims["loss-recovery-pct"]),
    # Entropy and KL
    **{
        f"entropy-{p.lower()}-converged-3": Rule(measure=_late_mean(f"H_{p}")) for p in PAIR
    },
    "entropy-above-2-8-throughout": statement(extreme("H", 0, 103, min), lambda v: v >= 2.8),
    "rec-prod-60-70-entropy": statement(
        lambda run: sum(run.mean(f"H_{p}", 60, 70) - run.mean(f"H_{p}", 90, 103) for p in PAIR) / 2, lambda v: v >= 0,
        "Mean H of epochs 60-70 minus that of 90-103, nats.",
    ),
    "entropy-max-log2-16": Rule(
        fact=lambda evidence: math.log(50),
        note="The ceiling of a 50-bin histogram is ln 50 nats, whatever the number of dimensions.",
    ),
    "higher-beta-utilisation-plus-42": relative_change("H")(ledger().claims["higher-beta-utilisation-plus-42"]),
    "mechanism-kl-enforcement": statement(
        lambda run: run.at("kl_B", 50) / run.at("kl_B", 49), lambda v: v < 0.5,
        "KL_B falls to {median:.3f} of its value in the epoch in which β_B leaves 0.",
    ),
    "kl-a-controlled-50": Rule(ends=(
        lambda run: float(run.over("kl_A", 50, 100).min()), lambda run: float(run.over("kl_A", 50, 100).max())
    )),
    "kl-b-stable-100": statement(
        lambda run: float((run.over("kl_B", 90, 103).max() - run.over("kl_B", 90, 103).min())
                          / run.over("kl_B", 90, 103).mean()), lambda v: v < 0.1,
        "Its spread over epochs 90-103 is {median:.1%} of its mean.",
    ),
    "kl-target-exceeded": statement(
        extreme("kl", 0, 100, min), lambda v: v > 1,
        "In total; per dimension the late KL is {also:.2f} nats, inside the target.",
        also=lambda run: run.both("kl", 100) / run.config.model.latent_dim,
    ),
    "no-posterior-collapse": statement(
        extreme("active", 0, 103, min), lambda v: v == 16,
        "Least number of active units of both pathways at any kept epoch.",
    ),
    "free-bits-purpose": statement(
        lambda run: run.against("free_bits_off", final_information), lambda v: v > 0,
        "Informative coverage at 103 with free bits minus without: {median:+.1f} points.",
    ),
    "variance-healthy-16-dims": statement(
        extreme("variance_min", 0, 103, min), lambda v: v > 0.01,
        "Least variance of a dimension's posterior mean at any kept epoch.",
    ),
}
