"""Rules for claims about schedules, StateNet, settings, the run and the two pathways, by the id of the claim."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from ternary_lab.config import Config
from ternary_lab.config_files import load_config
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.model import PATHWAYS
from ternary_lab.studies.report.conditions import (
    above,
    at_most,
    below,
    between,
    control,
    equal_to,
    statenet,
    table,
    weights,
)
from ternary_lab.studies.report.evidence import RECIPES, Evidence, SeedEvidence
from ternary_lab.studies.report.ledger import ledger
from ternary_lab.studies.report.rule_builders import (
    AT_THE_END,
    PEAK_EPOCH,
    column,
    configured,
    difference,
    final_information,
    lowest_and_highest,
    lr_correction,
    number,
    statement,
)
from ternary_lab.studies.report.verdicts import Measure, Rule

WITHOUT_STATENET = tuple(f"ablations/statenet_off: informative_coverage_{p}" for p in PATHWAYS)
"""Measures of v5.5 without StateNet at epoch 103, in percent. v5.5 itself is read at this epoch of its histories."""


def _modulation(run: SeedEvidence) -> float:
    """Return the standard deviation of the learning-rate correction over epochs 40-103, in percent of its scale."""
    return float(lr_correction(run).loc[40:].std() / run.config.statenet.lr_scale)


def _worst_correlation(first: str, second: str, last: int) -> Measure:
    """Return a measure of the correlation of two columns over epochs 0 to `last`.

    The measure is the smaller of the two pathways' correlations.
    """
    return lambda run: min(
        float(run.over(f"{first}_{p}", 0, last).corr(run.over(f"{second}_{p}", 0, last))) for p in PATHWAYS
    )


def _relative_jaccard(run: SeedEvidence, epoch: int) -> float:
    """Return the Jaccard overlap of the two drawn sets, divided by that of independent sets of the same sizes."""
    a, b = (run.at(f"coverage_{SAMPLES}_{p}", epoch) / 100 for p in PATHWAYS)
    return run.at("jaccard", epoch) * (a + b - a * b) / (a * b)


def _statenet_gain(run: SeedEvidence) -> float:
    """Return the informative coverage with StateNet minus without, in points, averaged over both pathways."""
    return run.both("informative_coverage", 103) - sum(map(run.of_table, WITHOUT_STATENET)) / 2


def _statenet_imbalance(run: SeedEvidence) -> float:
    """Return the distance of the pathways' informative coverages with StateNet minus without, in points."""
    a, b = (run.at(f"informative_coverage_{p}", 103) for p in PATHWAYS)
    a_without, b_without = map(run.of_table, WITHOUT_STATENET)
    return abs(a - b) - abs(a_without - b_without)


def _val_fall(run: SeedEvidence) -> float:
    """Return the fall of the validation loss from epoch 0 to 3, in percent."""
    return 100 * (1 - run.at("val_loss", 3) / run.at("val_loss", 0))


def _beta_shape(evidence: Evidence) -> str:
    betas = [evidence.config.betas(epoch) for epoch in range(104)]
    largest = max(abs(b - a) for before, after in pairwise(betas) for a, b in zip(before, after, strict=True))
    return "gradual, 50 epochs" if largest < 0.05 else f"jumps by {largest:.4f} in one epoch"


def _beta_ends(evidence: Evidence) -> str:
    (a_first, b_first), (a_last, b_last) = (evidence.config.betas(e) for e in (0, 50))
    return f"A {a_first:.1f} to {a_last:.1f}, B {b_first:.1f} to {b_last:.4f}"


def _last_temperature(pathway: int) -> Rule:
    """Return a rule for the temperature of a pathway in the last planned epoch, without the swing of A."""
    def last(config: Config, epoch: int) -> float:
        return load_config(config.as_dict(), {"temperature.A.temp_cyclic": False}).temperatures(epoch)[pathway]
    return configured(
        "The temperature of the last planned epoch, without the swing of τ_A",
        lambda c: last(c, c.training.total_epochs - 1), source="the schedule",
        order=lambda run: last(run.config, run.config.training.total_epochs - 1) < last(run.config, 0),
        way="the temperature falls from the first to the last epoch",
        note="The run of the report ended long before.",
    )


def _takes_effect(key: str, value: float, answer: str) -> Rule:
    """Return a rule that gives `answer` if a changed setting changes a temperature in a planned epoch.

    Otherwise it gives "no effect". The changed setting has the key `key` and the new value `value`.
    """
    def fact(evidence: Evidence) -> str:
        changed = load_config(evidence.config.as_dict(), {key: value})
        planned = range(evidence.config.training.total_epochs)
        differ = any(changed.temperatures(e) != evidence.config.temperatures(e) for e in planned)
        return answer if differ else "no effect"
    return Rule(
        of=f"The effect of {key.rpartition('.')[2]} on the planned temperatures", fact=fact, source="the schedule",
        note="It acts from phase 4 on, which the report's run did not reach. That v5.4 did not use it is not tested: "
        "v5.4 is not here.",
    )


def _listed_checkpoints(evidence: Evidence) -> list[str]:
    every, last = evidence.config.checkpoints.every, min(run.last for run in evidence.runs)
    epochs = range(0, last + 1, every) if every else ()
    return ["best.pt", *(f"epoch_{e}.pt" for e in epochs), "latest.pt"]


def _beta_end(pathway: int) -> Rule:
    """Return a rule for β at the end of the warm-up."""
    return configured(
        "β of the pathway at epoch 50", lambda c: c.betas(50)[pathway], source="the schedule",
        order=lambda run: run.config.betas(50)[pathway] > run.config.betas(0)[pathway], way="β rises to epoch 50",
    )


INDEPENDENT = statement(
    "Linear CKA of the codes of A and B at epoch 40, which is about 0 for independent codes", column("cka", 40),
    below(0.1), needs=(weights(40),), until=40,
)

TRAINING_RULES: Mapping[str, Rule] = {
    # Schedules
    "beta-gradual-50": Rule(
        of="The course of β, which is called gradual if no epoch changes it by 0.05 or more", fact=_beta_shape,
        source="the schedule",
    ),
    "beta-schedules-differ": Rule(
        of="The start of both β and their values at epoch 50", fact=_beta_ends, source="the schedule",
        order=lambda run: any(a != b for a, b in (run.config.betas(e) for e in range(104))), way="both β differ",
    ),
    "beta-a-end": _beta_end(0),
    "beta-b-end": _beta_end(1),
    "temperature-a-start": configured(
        "The first temperature of A, without its swing", lambda c: c.temperature.A.start,
        note="The swing adds a tenth in epoch 0.",
    ),
    "temperature-a-end": _last_temperature(0),
    "temperature-b-start": configured("The first temperature of B", lambda c: c.temperature.B.start),
    "temperature-b-end": _last_temperature(1),
    "rho-phase-scheduled": configured(
        "The course of ρ over the phases",
        lambda c: "phase-scheduled"
        if c.permeability(c.phases.consolidation - 1, True) == c.rho.isolated
        < c.permeability(c.phases.convergence - 1, True) else "constant", source="the schedule",
    ),
    "rho-phase-1": configured(
        "The largest ρ of epochs 0-40", lambda c: max(c.permeability(e, True) for e in range(41)), source="the "
        "schedule",
    ),
    "rho-epoch-40": configured("ρ at epoch 40", lambda c: c.permeability(40, True), source="the schedule"),
    "rho-epoch-103": configured("ρ at epoch 103", lambda c: c.permeability(103, True), source="the schedule"),
    "rho-smooth-rise": statement(
        "The largest change of ρ in one epoch of epochs 40-103",
        lambda run: float(run.over("rho", 40, 103).diff().abs().max()), between(0.0001, 0.01),
    ),
    "rho-range": configured("The least and the greatest planned ρ", lambda c: [c.rho.isolated, c.rho.coupled]),
    "phase-1-span": configured(
        "The epochs of phase 1", lambda c: [0, c.phases.consolidation], note="Epoch 40 itself belongs to phase 2.",
    ),
    "phase-2-span": Rule(
        of="The first and the last epoch of phase 2",
        ends=(lambda run: float(run.history.index[run.over("phase", 0, run.last) == 2].min()), lambda run: run.last),
    ),
    "phase-transition-completed": number(
        "The number of phase changes in epochs 0-103", lambda run: float((run.over("phase", 0, 103).diff() > 0).sum()),
        "Three are planned.", until=103,
    ),
    "lr-epoch-40": configured("The learning rate at epoch 49", lambda c: c.lr(49), source="the schedule"),
    "lr-transitions-count": configured(
        "The number of changes of the learning rate", lambda c: len(c.optimiser.lr_steps) - 1, source="the schedule",
        note="The report leaves out the last one, at epoch 350.",
    ),
    "lambda3-cyclic": configured(
        "The course of λ₃", lambda c: "cyclic" if c.lambda3(0) != c.lambda3(7) else "constant", source="the schedule",
    ),
    "phase-2-exchange-aim": difference(
        f"Informative coverage ({AT_THE_END}) as scheduled minus with ρ at 0.1",
        lambda run: run.against("rho_stays_0_1", final_information), above(0, "points"),
        "-ELBO differs by {elbo:+.2f} nats.",
        also={"elbo": lambda run: run.against("rho_stays_0_1", lambda r: r.cycle("neg_elbo"))},
        needs=(control("rho_stays_0_1"),),
    ),
    "early-convergence-credit": difference(
        "The cross-entropy at epoch 3 (mean of both pathways) with β at its printed start minus as scheduled",
        lambda run: -run.against("beta_at_start_values", lambda r: r.both("ce", 3)), above(0, "nats"),
        "The validation loss falls by {fall:.0f} % with β at its printed start, but it has other weights then. The "
        "initialisation is not tested.",
        also={"fall": lambda run: _val_fall(run.control("beta_at_start_values"))},
        needs=(control("beta_at_start_values"),),
    ),
    "warmup-prevents-collapse": difference(
        "A's reconstruction from its own code at epoch 103, as scheduled minus with β_A 0.8 from the start",
        lambda run: run.against("beta_a_from_start", lambda r: r.at("reconstruction_A", 103)), above(50, "points"),
        "With β_A 0.8 from the start, A reconstructs {full:.1f} % at epoch 103, and its informative coverage is "
        "{information:.1f} %. At epoch 49, A reconstructs {early:.1f} % with it and {scheduled:.1f} % as scheduled.",
        also={
            "early": lambda run: run.control("beta_a_from_start").at("reconstruction_A", 49),
            "scheduled": lambda run: run.at("reconstruction_A", 49),
            "full": lambda run: run.control("beta_a_from_start").at("reconstruction_A", 103),
            "information": lambda run: run.control("beta_a_from_start").at("informative_coverage_A", 103),
        },
        needs=(control("beta_a_from_start"),),
    ),
    # StateNet and balance
    "statenet-active": statement(
        "The standard deviation of StateNet's correction of the learning rate over epochs 40-103, in percent of its "
        "scale",
        _modulation, above(10, "%"), "StateNet is never trained: it gets no gradient.", until=103, needs=(statenet(),),
    ),
    "statenet-adaptive": statement(
        "The correlation of StateNet's output for the learning rate with the gradient ratio, without its sign",
        lambda run: abs(float(run.over("delta_lr", 0, 103).corr(run.over("grad_ratio", 0, 103)))), above(0.5),
        "StateNet is never trained: it gets no gradient.", needs=(statenet(),),
    ),
    "role-statenet-meta": statement(
        "The standard deviation of StateNet's correction of the learning rate over epochs 40-103, in percent of its "
        "scale",
        _modulation, above(10, "%"), "StateNet is never trained: it gets no gradient.", until=103, needs=(statenet(),),
    ),
    "lr-above-base": statement(
        "The least correction of the learning rate by StateNet in epochs 0-103",
        lambda run: float(lr_correction(run).min()), above(0, "%"),
        "StateNet gets no gradient, so the sign is that of its initialisation.",
    ),
    "statenet-balanced": difference(
        "The distance of the pathways' informative coverages at epoch 103 with StateNet minus without",
        _statenet_imbalance, below(0, "points"),
        "Its shifts of λ₁ and λ₂ are at most {shift:.4f}.",
        also={"shift": lambda run: max(
            float((run.config.statenet.lambda_scale * run.over(f"delta_lambda{i}", 0, 103)).abs().max()) for i in (1, 2)
        )},
        needs=(table(*WITHOUT_STATENET, source=RECIPES),),
    ),
    "statenet-efficient": difference(
        "Informative coverage at epoch 103 (mean of both pathways) with StateNet minus without", _statenet_gain,
        above(0, "points"), needs=(table(*WITHOUT_STATENET, source=RECIPES),), until=103,
    ),
    "gradient-balance-late": lowest_and_highest(
        "The least and the greatest gradient ratio B/A of epochs 60-103", "grad_ratio", 60, 103
    ),
    "gradient-balance-near-1": number(
        "The mean gradient ratio B/A of epochs 60-103", lambda run: run.mean("grad_ratio", 60, 103)
    ),
    # Roles and settings
    "role-a-chaotic": statement(
        "The mean temperature of A minus that of B in epochs 0-103",
        lambda run: float((run.over("temperature_A", 0, 103) - run.over("temperature_B", 0, 103)).mean()), above(0),
        "Both pathways sample in training only.", until=103,
    ),
    "seed": Rule(
        of="A seed of the runs", source="the runs",
        fact=lambda evidence: 42 if any(run.seed == 42 for run in evidence.runs) else "other seeds",
    ),
    "optimizer": configured(
        "The optimiser", lambda c: "AdamW" if c.optimiser.weight_decay > 0 else "Adam",
        note="Its weight decay is decoupled from the gradient.",
    ),
    "fix-temp-boost-amplitude": _takes_effect(
        "temperature.A.temp_boost_amplitude", 0.9, "temp_boost_amplitude active"
    ),
    "fix-temp-phase4": _takes_effect("temperature.B.temp_phase4", 0.9, "temp_phase4 active in phase 4"),
    "use-statenet": configured("Whether StateNet is on", lambda c: c.model.use_statenet),
    # The run
    "loss-recovery-one-epoch": statement(
        "The training loss at epoch 51 as a multiple of that at epoch 49",
        lambda run: run.at("train_loss", 51) / run.at("train_loss", 49), at_most(1.1),
    ),
    "best-coverage-epoch-gap": number(
        "The epochs between the lowest validation loss and the highest mean coverage", lambda run: run.peak - run.best,
        order=lambda run: run.peak > run.best, way="the highest coverage comes after the lowest loss in every run",
        until=103,
    ),
    "early-stopping-met": statement(
        "Whether early stopping ended the run (1 or 0)", lambda run: float(run.stopped.startswith("early stop")),
        equal_to(1), "The rule watches the validation loss, with a patience of 100 epochs.", until=0,
    ),
    "timeline-end-103": statement(
        "Whether the coverage ended the run (1 or 0)", lambda run: float("coverage" in run.stopped), equal_to(1),
        "The rule that ended the runs watches the validation loss.", until=0,
    ),
    "run-status-completed": statement(
        "Whether a run ended regularly, by early stopping or after all planned epochs (1 or 0)",
        lambda run: float(run.stopped.startswith("early stop") or run.last + 1 == run.config.training.total_epochs),
        equal_to(1), "The runs have {share:.0f} % of the planned epochs.", until=0,
        also={"share": lambda run: 100 * (run.last + 1) / run.config.training.total_epochs},
    ),
    "monitoring-interval-v5-5": number(
        "The epochs between two rows of the history", lambda run: float(run.history.index.to_series().diff().max()),
        until=0,
    ),
    "checkpoint-size": Rule(
        of="The bytes of the weights and of two moments in float32, rounded to two digits", source="the architecture",
        fact=lambda evidence: float(f"{4 * 3 * evidence.architecture.parameters:.1e}"),
    ),
    "checkpoint-list": Rule(of="The checkpoints that the settings ask for", fact=_listed_checkpoints),
    "strong-convergence": statement(
        "-ELBO (mean of both pathways) at epoch 100 minus its least value",
        lambda run: run.both("neg_elbo", 100)
        - float((run.over("neg_elbo_A", 0, run.last) + run.over("neg_elbo_B", 0, run.last)).min() / 2),
        below(0.5, "nats"),
        "The training loss is {loss:.2f} nats above its least value, but β has changed its weights.",
        also={"loss": lambda run: run.at("train_loss", 100) - float(run.over("train_loss", 0, run.last).min())},
    ),
    "comprehensive-metrics": Rule(
        of="Whether the report has a figure on held-out operations", source="the report itself",
        fact=lambda evidence: "no figure on held-out operations"
        if ledger().holds("generalisation-untested") else "comprehensive",
    ),
    # The pathways
    "phase-1-independent-aim": INDEPENDENT,
    "phase-1-no-premature-coupling": statement(
        "A's reconstruction at epoch 40 with B's code injected minus from its own code alone",
        lambda run: run.at("injected_A", 40) - run.at("own_train_A", 40), at_most(1, "point"),
        "From its own code alone, A reconstructs {own:.1f} %.",
        also={"own": lambda run: run.at("own_train_A", 40)}, needs=(weights(40),),
    ),
    "phase-1-different-regions": statement(
        "The overlap of the sets that A and B draw at epoch 40, as a multiple of that of independent sets of their "
        "sizes",
        lambda run: _relative_jaccard(run, 40), below(0.9), needs=(weights(40),),
    ),
    "phase-2-diversity": statement(
        "The Jaccard overlap of the sets that A and B draw at epoch 100 minus at epoch 40",
        lambda run: run.at("jaccard", 100) - run.at("jaccard", 40), at_most(0), needs=(weights(40, 100),),
    ),
    "entropy-means-utilisation": statement(
        "Whether H and reconstruction from the own code have the same order of the pathways at epoch 49 (1 or -1)",
        lambda run: float((run.at("H_A", 49) > run.at("H_B", 49))
                          == (run.at("reconstruction_A", 49) > run.at("reconstruction_B", 49))) * 2 - 1, equal_to(1),
        "At epoch 49, H is {ha:.2f} nats in A and {hb:.2f} nats in B, and reconstruction is {a:.1f} % and {b:.1f} %. H "
        "counts values inside its bins (notebook 03).",
        also={
            "a": column("reconstruction_A", 49), "b": column("reconstruction_B", 49), "ha": column("H_A", 49),
            "hb": column("H_B", 49),
        },
    ),
    "kl-exceed-expected": statement(
        "The correlation of KL and sampled coverage over epochs 0-100, the lower of both pathways",
        _worst_correlation("kl", "coverage", 100), above(0),
    ),
    "disruption-robust-model": difference(
        f"The excess of -ELBO ({AT_THE_END}) without the jump, where β_B rises over 20 epochs, over that as scheduled",
        lambda run: 100 * (run.control("beta_b_rises").cycle("neg_elbo") / run.cycle("neg_elbo") - 1),
        above(0, "%"),
        "Without any event at epoch 50, where β_B stays 0, it is {event:.0f} nats higher: B must be regularised, but "
        "this needs no jump.",
        also={"event": lambda run: -run.against("nothing_at_50", lambda r: r.cycle("neg_elbo"))},
        needs=(control("beta_b_rises", "nothing_at_50"),),
    ),
    "best-loss-not-best-model": statement(
        "-ELBO (mean of both pathways) at the epoch of the lowest validation loss minus that at epoch 69",
        lambda run: run.both("neg_elbo", run.best) - run.both("neg_elbo", PEAK_EPOCH), above(0, "nats"),
    ),
}
