"""Rules for claims about coverage, losses, latent entropy and KL, by the id of the claim."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ternary_lab import space
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.model import PATHWAYS
from ternary_lab.studies.report.conditions import above, at_least, at_most, below, between, control, equal_to, weights
from ternary_lab.studies.report.evidence import SeedEvidence
from ternary_lab.studies.report.ledger import ledger
from ternary_lab.studies.report.rule_builders import (
    AT_THE_END,
    PEAK_EPOCH,
    column,
    difference,
    extreme,
    final_information,
    lowest_and_highest,
    number,
    reading,
    relative_change,
    spread,
    statement,
    untrained_reaches,
)
from ternary_lab.studies.report.verdicts import Measure, Rule

EQUAL_COUNTS = "A hash count and a distinct count of the same draws are equal."
STABLE = 10
"""A quantity is called stable here if its range over epochs 90-103 is at most this share of its mean, in percent."""


def _hashes(equal: str, unequal: str, note: str) -> Rule:
    """Return a rule for a claim about counting by hashes.

    The measured value is `equal` if a hash count and a distinct count of the same draws agree, and `unequal` otherwise.
    """
    return Rule(
        of="The result of counting the same draws by hash and by index", note=note, source="20,000 draws counted twice",
        fact=lambda evidence: equal if evidence.hash_minus_distinct == 0 else unequal,
    )


def _late_mean(name: str) -> Measure:
    return lambda run: run.mean(name, 60, 103)


def _gains(run: SeedEvidence, after: SeedEvidence, last: int = 50) -> float:
    """Return the smaller of the two pathways' gains of coverage, in percentage points.

    The gain is the difference from epoch 49 of `run` to epoch `last` of `after`. A counterfactual that starts after
    epoch 49 has its epoch 49 in common with the run.
    """
    return min(after.at(f"coverage_{p}", last) - run.at(f"coverage_{p}", 49) for p in PATHWAYS)


def _least_elbo(run: SeedEvidence, first: int, last: int) -> float:
    """Return the least -ELBO, mean of both pathways, over a span of epochs, in nats."""
    return float((run.over("neg_elbo_A", first, last) + run.over("neg_elbo_B", first, last)).min()) / 2


def _surge(run: SeedEvidence) -> float:
    return _gains(run, run)


def _own_effect(name: str, run: SeedEvidence) -> float:
    """Return the effect of a larger β on a quantity of its own pathway, at the end, averaged over both pathways."""
    larger = {"A": "beta_a_from_start", "B": "beta_b_jumps_to_half"}
    return -sum(
        run.against(counterfactual, lambda r, column=f"{name}_{p}": r.mean(column, 74, 103))  # type: ignore[misc]
        for p, counterfactual in larger.items()
    ) / len(larger)


LARGER_BETA = "with a larger β of the pathway (A 0.8 from the start, B 0.5 from epoch 50) minus as scheduled"

METRIC_RULES: Mapping[str, Rule] = {
    # Coverage
    "coverage-b-stable-phase-1": statement(
        "The largest distance of B's sampled coverage from 89 % in epochs 0-40",
        lambda run: float((run.over("coverage_B", 0, 40) - 89).abs().max()), at_most(2, "points"),
    ),
    "coverage-over-95-by-55": statement(
        "The least sampled coverage of both pathways in epochs 55-103", extreme("coverage", 55, 103, min),
        at_least(95, "%"), **untrained_reaches(95),
    ),
    "coverage-over-98-from-60": statement(
        "The least sampled coverage of both pathways in epochs 60-103", extreme("coverage", 60, 103, min),
        at_least(98, "%"), **untrained_reaches(98),
    ),
    "high-coverage-span": statement(
        "The least sampled coverage of both pathways in epochs 60-103", extreme("coverage", 60, 103, min),
        at_least(95, "%"), **untrained_reaches(95),
    ),
    "disruption-final-convergence": difference(
        f"Sampled coverage ({AT_THE_END}) as scheduled minus without the jump, where β_B rises over 20 epochs",
        lambda run: run.against("beta_b_rises", lambda r: r.cycle("coverage")), above(0, "points"),
        "Without any event at epoch 50, where β_B stays 0, it is {event:+.1f} points from that as scheduled: B must be "
        "regularised, but this needs no jump.",
        also={"event": lambda run: -run.against("nothing_at_50", lambda r: r.cycle("coverage"))},
        needs=(control("beta_b_rises", "nothing_at_50"),),
    ),
    "early-coverage-low-beta": statement(
        "The distance of the pathways' sampled coverages at epoch 0, where both β are 0",
        lambda run: abs(run.at("coverage_A", 0) - run.at("coverage_B", 0)), below(1, "point"),
    ),
    "coverage-sampling-dependent": statement(
        "The coverage of B's weights of epoch 60 with 195,000 draws minus with 10,000 draws",
        lambda run: run.at(f"coverage_{SAMPLES}_B", 60) - run.at("coverage_10000_B", 60), above(1, "point"),
        needs=(weights(60),), until=60,
    ),
    "history-sampling-duplicates": statement(
        "The number of draws as a share of the space, which is the coverage if duplicates count",
        lambda run: 100 * SAMPLES / space.SIZE, at_most(100, "%"), until=0,
    ),
    "timeline-stable-100": statement(
        "The range of sampled coverage over epochs 90-103 as a share of its mean, the larger of both pathways",
        lambda run: max(spread(f"coverage_{p}")(run) for p in PATHWAYS), at_most(STABLE, "%"),
        **untrained_reaches(98),
    ),
    "rec-future-plateau-100": statement(
        "The gain of mean sampled coverage from epoch 70 to 103",
        lambda run: run.both("coverage", 103) - run.both("coverage", 70), at_most(0.25, "points"),
        "Informative coverage still rises by {information:.1f} points in these epochs.",
        also={"information": lambda run: run.both("informative_coverage", 103) - run.both("informative_coverage", 70)},
    ),
    "coverage-combined-is-mean": Rule(
        of="What the printed combined figures are", source="arithmetic on the printed table",
        fact=lambda evidence: "mean of A and B" if ledger().holds("combined-is-mean") else "another combination",
    ),
    "rec-prod-60-70-best-balance": statement(
        "Mean sampled coverage of epochs 60-70 minus that of epochs 90-103",
        lambda run: sum(run.mean(f"coverage_{p}", 60, 70) - run.mean(f"coverage_{p}", 90, 103) for p in PATHWAYS) / 2,
        at_least(0, "points"), until=103,
    ),
    "history-hash-true-unique": _hashes(
        "true unique operations", "hashes collide", f"{EQUAL_COUNTS} The claim holds for any count of distinct draws.",
    ),
    "rec-use-hash-validation": _hashes("no difference", "hash validation", EQUAL_COUNTS),
    "rec-future-hash-in-loop": _hashes("no difference", "v5.6", EQUAL_COUNTS),
    "rec-future-hash-no-inflation": _hashes(
        "nothing to remove", "no inflation", "A set never counts duplicates. The number of draws makes the figure "
        "high.",
    ),
    "disruption-catalyses-coverage": difference(
        "The smaller of the pathways' gains of sampled coverage from epoch 49 to 50, with the jump of β_B minus "
        "without",
        lambda run: _surge(run) - _gains(run, run.control("beta_b_stays_0")), above(0, "points"),
        "Only the gain of sampled coverage in that one epoch is tested. Informative coverage needs the KL weight of B "
        "(notebook 04). From epoch 49 to 103 sampled coverage gains {jump:.1f} points with the jump, and "
        "{rises:.1f} points where β_B rises over 20 epochs.",
        also={
            "jump": lambda run: _gains(run, run, 103),
            "rises": lambda run: _gains(run, run.control("beta_b_rises"), 103),
        },
        needs=(control("beta_b_stays_0", "beta_b_rises"),), until=103,
    ),
    "transition-smooth": statement(
        "The change of A's sampled coverage at epoch 40 minus its largest change in epochs 31-39, both without sign",
        lambda run: abs(run.at("coverage_A", 40) - run.at("coverage_A", 39))
        - float(run.over("coverage_A", 30, 39).diff().abs().max()),
        at_most(0, "points"), "From epoch 40 to 49 A loses {lost:.1f} points.",
        also={"lost": lambda run: run.at("coverage_A", 40) - run.at("coverage_A", 49)},
    ),
    "coverage-surge-both-20-30": statement(
        "The smaller of the pathways' gains of sampled coverage from epoch 49 to 50", _surge, between(20, 30, "points"),
        order=lambda run: _surge(run) > 0, way="both pathways gain coverage in every run",
    ),
    "disruption-beneficial": difference(
        f"The excess of informative coverage ({AT_THE_END}) over that without the jump, where β_B rises over 20 "
        f"epochs",
        lambda run: 100 * (final_information(run) / final_information(run.control("beta_b_rises")) - 1),
        above(0, "%"),
        "As scheduled minus without any event at epoch 50, where β_B stays 0: {event:+.1f} points. So B must be "
        "regularised, but this needs no jump.",
        also={"event": lambda run: run.against("nothing_at_50", final_information)},
        needs=(control("beta_b_rises", "nothing_at_50"),), until=103,
    ),
    "higher-beta-coverage-plus-4": number(
        f"The difference of sampled coverage {LARGER_BETA}, in points", lambda run: _own_effect("coverage", run),
        "The printed figure is that of epoch 100 minus epoch 0, {printed:+.1f} points here, in which β is not the only "
        "change.",
        order=lambda run: _own_effect("coverage", run) > 0, way="the difference is positive in every run", until=103,
        needs=(control("beta_a_from_start", "beta_b_jumps_to_half"),),
        also={"printed": lambda run: run.both("coverage", 100) - run.both("coverage", 0)},
    ),
    "within-measurement-variance": statement(
        "The distance of two measurements of B's sampled coverage from the same weights of epoch 69, with other draws",
        lambda run: abs(run.at(f"coverage_{SAMPLES}_B", PEAK_EPOCH) - run.at("coverage_B", PEAK_EPOCH)),
        at_least(abs(ledger().v("v5-4-v5-5-difference")), "points"),
        "Differences between seeds are another matter: coverage-b-epoch-69 shows their interval.",
        needs=(weights(PEAK_EPOCH),), until=PEAK_EPOCH,
    ),
    # The peak
    "timeline-peak-highest": statement(
        "The highest mean sampled coverage of an epoch up to 103 minus that of epoch 69",
        lambda run: run.both("coverage", run.peak) - run.both("coverage", PEAK_EPOCH), at_most(0, "points"), until=103,
    ),
    "peak-epoch": number(
        "The epoch up to 103 with the highest mean sampled coverage", lambda run: run.peak,
        "Epoch 0 of A covers {start:.2f} %.", also={"start": lambda run: run.at("coverage_A", 0)}, until=103,
    ),
    # Losses
    "disruption-breaks-minima": difference(
        f"-ELBO ({AT_THE_END}) as scheduled minus without the jump, where β_B rises over 20 epochs",
        lambda run: run.against("beta_b_rises", lambda r: r.cycle("neg_elbo")), below(0, "nats"),
        "From epoch 49 to its least later value, -ELBO changes by {fall:+.0f} nats as scheduled. The training loss "
        "cannot decide, because β_B changes its weights at epoch 50: its least later value is {loss:.1f} times that of "
        "epoch 49.",
        also={
            "loss": lambda run: float(run.over("train_loss", 51, 103).min()) / run.at("train_loss", 49),
            "fall": lambda run: _least_elbo(run, 51, 103) - run.both("neg_elbo", 49),
        },
        needs=(control("beta_b_rises"),), until=103,
    ),
    "phase-2-no-disruption": statement(
        "The largest ratio of the training losses of two successive epochs in phase 2",
        lambda run: float((run.over("train_loss", 40, 103) / run.over("train_loss", 39, 102).to_numpy()).max()),
        below(2),
    ),
    "timeline-recovery-complete-55": statement(
        "The smaller sampled coverage of both pathways at epoch 55", extreme("coverage", 55, 55, min),
        at_least(95, "%"),
        "-ELBO has fallen by {fall:.0f} nats since epoch 49. The training loss is {loss:.1f} times that of epoch 49, "
        "but β_B has changed its weights.",
        also={
            "fall": lambda run: run.both("neg_elbo", 49) - run.both("neg_elbo", 55),
            "loss": lambda run: run.at("train_loss", 55) / run.at("train_loss", 49),
        },
    ),
    "rec-prod-60-70-converged": statement(
        "The fall of -ELBO (mean of both pathways) from epoch 60 to 100, in percent of its value at 60",
        lambda run: 100 * (1 - run.both("neg_elbo", 100) / run.both("neg_elbo", 60)), below(5, "%"),
        "The training loss falls by {loss:.1f} %, but β changes its weights in these epochs.", until=100,
        also={"loss": lambda run: 100 * (1 - run.at("train_loss", 100) / run.at("train_loss", 60))},
    ),
    "best-val-remained-stable": statement(
        "-ELBO (mean of both pathways) at epoch 103 as a multiple of its least value",
        lambda run: run.both("neg_elbo", 103) / _least_elbo(run, 0, run.last), at_most(1.5),
        "The validation loss at epoch 103 is {loss:.1f} times its least value, but β has changed its weights.",
        also={"loss": lambda run: run.at("val_loss", 103) / float(run.over("val_loss", 0, run.last).min())},
    ),
    "val-loss-around-5": number("Mean validation loss of epochs 60-103", _late_mean("val_loss")),
    "val-loss-falls-first-3": statement(
        "The largest change of the validation loss from one epoch to the next in epochs 0-3",
        lambda run: float(run.over("val_loss", 0, 3).diff().max()), below(0, "nats"),
    ),
    "val-loss-gradual-rise": statement(
        "The share of the rise of the validation loss in epochs 3-60 that falls on one epoch",
        lambda run: 100 * float(run.over("val_loss", 3, 60).diff().max())
        / (run.at("val_loss", 60) - run.at("val_loss", 3)), below(20, "%"),
    ),
    "val-loss-late-range": lowest_and_highest(
        "The least and the greatest validation loss of epochs 60-103", "val_loss", 60, 103
    ),
    "checkpoint-latest-val-loss": number(
        "The validation loss of the last epoch", lambda run: run.at("val_loss", run.last), until=0
    ),
    "higher-beta-raises-val-loss": statement(
        "The validation loss at epoch 103 minus that at epoch 3",
        lambda run: run.at("val_loss", 103) - run.at("val_loss", 3), above(0, "nats"),
        "-ELBO, which has a fixed β of 1, falls by {elbo:.0f} nats in the same epochs: the weights rise, not the loss.",
        also={"elbo": lambda run: run.both("neg_elbo", 3) - run.both("neg_elbo", 103)},
        baseline=lambda evidence: all(run.both("neg_elbo", 103) < run.both("neg_elbo", 3) for run in evidence.runs),
        beats="-ELBO falls in every run",
    ),
    "best-val-loss": reading("val_loss", 3),
    "best-val-epoch": number("The epoch of the lowest validation loss", lambda run: run.best),
    "loss-spike-pct": relative_change("train_loss")(ledger().claims["loss-spike-pct"]),
    "loss-recovery-pct": relative_change("train_loss")(ledger().claims["loss-recovery-pct"]),
    # Entropy and KL
    **{
        f"entropy-{p.lower()}-converged-3":
            number(f"Mean latent entropy H of {p} in epochs 60-103", _late_mean(f"H_{p}"))
        for p in PATHWAYS
    },
    "entropy-above-2-8-throughout": statement(
        "The least latent entropy H of both pathways in epochs 0-103", extreme("H", 0, 103, min), at_least(2.8, "nats")
    ),
    "rec-prod-60-70-entropy": statement(
        "Mean latent entropy H of epochs 60-70 minus that of epochs 90-103, mean of both pathways",
        lambda run: sum(run.mean(f"H_{p}", 60, 70) - run.mean(f"H_{p}", 90, 103) for p in PATHWAYS) / 2,
        at_least(0, "nats"), until=103,
    ),
    "entropy-max-log2-16": Rule(
        of="The highest possible H of a histogram with 50 bins, log₂ 50 bits", source="the estimator of H",
        fact=lambda evidence: math.log2(50),
        note=f"It is {math.log(50):.3f} nats, and does not depend on the number of dimensions.",
    ),
    "higher-beta-utilisation-plus-42": number(
        "The difference of A's latent entropy H (mean of epochs 74-103) with β_A 0.8 from the start, in percent of "
        "that as scheduled",
        lambda run: 100 * (run.control("beta_a_from_start").mean("H_A", 74, 103) / run.mean("H_A", 74, 103) - 1),
        "The printed figure is that of epoch 100 against epoch 0, {printed:+.0f} % here, in which β is not the only "
        "change. H does not measure utilisation (notebook 03).",
        order=lambda run: run.control("beta_a_from_start").mean("H_A", 74, 103) > run.mean("H_A", 74, 103),
        way="H is higher with the larger β in every run",
        also={"printed": lambda run: 100 * (run.at("H_A", 100) / run.at("H_A", 0) - 1)},
        needs=(control("beta_a_from_start"),), until=103,
    ),
    "mechanism-kl-enforcement": statement(
        "KL of B at epoch 50 as a share of that at epoch 49",
        lambda run: 100 * run.at("kl_B", 50) / run.at("kl_B", 49), below(50, "%"),
    ),
    "kl-a-controlled-50": lowest_and_highest(
        "The least and the greatest KL of A in epochs 50-100", "kl_A", 50, 100
    ),
    "kl-b-stable-100": statement(
        "The range of B's KL over epochs 90-103 as a share of its mean", spread("kl_B"), at_most(STABLE, "%"),
        until=103,
    ),
    "kl-target-exceeded": statement(
        "The least total KL of both pathways in epochs 0-100", extreme("kl", 0, 100, min), above(1, "nat"),
        "Per dimension, KL at epoch 100 is {dimension:.2f} nats, inside the target.",
        also={"dimension": lambda run: run.both("kl", 100) / run.config.model.latent_dim},
    ),
    "no-posterior-collapse": statement(
        "The least exact reconstruction of test operations from the own code, of both pathways at any saved epoch",
        extreme("own_test", 0, 103, min), at_least(50, "%"),
        "At epoch 49, A reconstructs {own:.1f} % of the validation operations from its own code, and its KL is "
        "{kl:.2f} nats, with a floor of {floor:.0f}. The report counts the dimensions whose posterior mean varies: at "
        "every saved epoch there are at least {active:.0f}.",
        order=lambda run: extreme("active", 0, 103, min)(run) >= ledger().v("no-posterior-collapse"),
        way="every dimension of both pathways has a posterior mean that varies, at every saved epoch",
        also={
            "own": column("reconstruction_A", 49), "kl": column("kl_A", 49),
            "floor": lambda run: run.config.kl.free_bits * run.config.model.latent_dim,
            "active": extreme("active", 0, 103, min),
        },
        needs=(weights(),),
    ),
    "free-bits-purpose": difference(
        "The mechanism alone: KL without its floor (mean of both pathways, epoch 100), with free bits minus without",
        lambda run: run.both("rate", 100) - run.control("free_bits_off").both("kl", 100), above(0, "nats"),
        "The mechanism holds: KL is higher. A benefit is another matter: with free bits, informative coverage "
        f"({AT_THE_END}) is {{information:+.1f}} points from that without.",
        also={"information": lambda run: run.against("free_bits_off", final_information)},
        needs=(weights(100), control("free_bits_off")),
    ),
    "variance-healthy-16-dims": statement(
        "The least variance of a dimension's posterior mean, of both pathways at any saved epoch",
        extreme("variance_min", 0, 103, min), above(0.01), needs=(weights(),),
    ),
    "role-b-frozen": statement(
        "The distance of B's KL at epoch 100 from that at epoch 0",
        lambda run: abs(run.at("kl_B", 100) - run.at("kl_B", 0)), equal_to(0, "nats"),
    ),
}
