"""Rules for claims about schedules, StateNet, settings, the run and generalisation, by the id of the claim."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from ternary_lab import space
from ternary_lab.config_files import load_config
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.studies.report.evidence import Evidence, SeedEvidence
from ternary_lab.studies.report.ledger import ledger
from ternary_lab.studies.report.rule_builders import (
    PAIR,
    PEAK_EPOCH,
    column,
    configured,
    extreme,
    final_information,
    statement,
)
from ternary_lab.studies.report.verdicts import Measure, Rule


def _lr_correction(run: SeedEvidence) -> Any:
    """Return StateNet's relative correction of the learning rate in each epoch, in percent."""
    return 100 * (run.history["lr"] / run.history["lr_scheduled"] - 1)


def _lambda_shift(number: int) -> tuple[Measure, Measure]:
    """Return measures of the least and the greatest change of a loss weight by StateNet in epochs 0-103."""
    def shifts(run: SeedEvidence) -> Any:
        return run.config.statenet.lambda_scale * run.history.loc[:103, f"delta_lambda{number}"]
    return (lambda run: float(shifts(run).min())), (lambda run: float(shifts(run).max()))


def _statenet_range(number: int) -> Rule:
    return Rule(
        ends=_lambda_shift(number), order=lambda run: _lambda_shift(number)[0](run) > 0,
        also=lambda run: run.mean(f"delta_lambda{number}", 0, 103),
        note="StateNet's raw output (median {also:.3f}), which its scale of 1 % then shrinks, is of the printed size.",
    )


def _modulation(run: SeedEvidence) -> float:
    """Return the standard deviation of the learning-rate correction over epochs 40-103, as a share of its scale."""
    return float(_lr_correction(run).loc[40:103].std() / (100 * run.config.statenet.lr_scale))


def _worst_correlation(first: str, second: str, last: int) -> Measure:
    """Return a measure of the correlation of two columns over epochs 0 to `last`.

    The measure is the smaller of the two pathways' correlations.
    """
    return lambda run: min(
        float(run.over(f"{first}_{p}", 0, last).corr(run.over(f"{second}_{p}", 0, last))) for p in PAIR
    )


def _relative_jaccard(run: SeedEvidence, epoch: int) -> float:
    """Return the Jaccard overlap of the two drawn sets, divided by that of independent sets of the same sizes."""
    a, b = (run.at(f"coverage_{SAMPLES}_{p}", epoch) / 100 for p in PAIR)
    return run.at("jaccard", epoch) * (a + b - a * b) / (a * b)


def _beta_shape(evidence: Evidence) -> str:
    betas = [evidence.config.betas(epoch) for epoch in range(104)]
    largest = max(abs(b - a) for before, after in pairwise(betas) for a, b in zip(before, after, strict=True))
    return "gradual, 50 epochs" if largest < 0.05 else f"jumps by {largest:.4f} in one epoch"


def _beta_ends(evidence: Evidence) -> str:
    (a_first, b_first), (a_last, b_last) = (evidence.config.betas(e) for e in (0, 50))
    return f"A {a_first:.1f} to {a_last:.1f}, B {b_first:.1f} to {b_last:.4f}"


def _takes_effect(key: str, value: float, answer: str) -> Callable[[Evidence], str]:
    """Return a function that returns `answer` if a changed setting changes a temperature in a planned epoch.

    Otherwise the function returns "no effect". The changed setting has the key `key` and the new value `value`.
    """
    def fact(evidence: Evidence) -> str:
        changed = load_config(evidence.config.as_dict(), {key: value})
        planned = range(evidence.config.training.total_epochs)
        differ = any(changed.temperatures(e) != evidence.config.temperatures(e) for e in planned)
        return answer if differ else "no effect"
    return fact


def _listed_checkpoints(evidence: Evidence) -> list[str]:
    every, last = evidence.config.checkpoints.every, min(run.last for run in evidence.runs)
    return ["best.pt", *(f"epoch_{e}.pt" for e in range(0, last + 1, every)), "latest.pt"]


TRAINING_RULES: Mapping[str, Rule] = {
    # Schedules
    "beta-gradual-50": Rule(fact=_beta_shape),
    "beta-schedules-differ": Rule(
        fact=_beta_ends,
        order=lambda run: any(a != b for a, b in (run.config.betas(e) for e in range(104))),
    ),
    "trigger-beta-b-half": configured(
        lambda c: c.betas(50)[1],
        order=lambda run: run.config.betas(50)[1] > 0 and run.config.betas(49)[1] == 0,
        note="β_B does leave 0 at that epoch, in one step.",
    ),
    "beta-a-end": configured(
        lambda c: c.betas(50)[0],
        order=lambda run: run.config.betas(50)[0] > run.config.betas(0)[0],
    ),
    "beta-b-end": configured(
        lambda c: c.betas(50)[1],
        order=lambda run: run.config.betas(50)[1] > run.config.betas(0)[1],
    ),
    "rec-keep-warmup-schedule": statement(
        lambda run: run.against("beta_b_warms_up", final_information), lambda v: v >= 0,
        "Informative coverage at 103 as scheduled minus with a real warm-up of β_B: {median:+.1f} points.",
    ),
    "rec-shift-beta-b-warmup": statement(
        lambda run: -run.against("jump_at_40", final_information), lambda v: v > 0,
        "Informative coverage at 103 with the jump at 40 minus as scheduled: {median:+.2f} points.",
    ),
    "temperature-a-start": configured(
        lambda c: c.temperature.A.start, note="The base; the swing adds a tenth in epoch 0."
    ),
    "temperature-a-end": configured(lambda c: c.temperature.A.end, note="At epoch 400."),
    "temperature-b-start": configured(lambda c: c.temperature.B.start),
    "temperature-b-end": configured(lambda c: c.temperature.B.end, note="At epoch 430."),
    "rho-phase-scheduled": configured(
        lambda c: "phase-scheduled"
        if c.permeability(c.phases.consolidation - 1, True) == c.rho.isolated
        < c.permeability(c.phases.convergence - 1, True) else "constant",
    ),
    "rho-phase-1": configured(lambda c: max(c.permeability(e, True) for e in range(41))),
    "rho-epoch-40": configured(lambda c: c.permeability(40, True)),
    "rho-epoch-103": configured(lambda c: c.permeability(103, True)),
    "rho-smooth-rise": statement(
        lambda run: float(run.over("rho", 40, 103).diff().abs().max()), lambda v: 0 < v < 0.01,
        "Largest change of ρ in one epoch.",
    ),
    "rho-range": configured(lambda c: [c.rho.isolated, c.rho.coupled]),
    "phase-1-span": configured(lambda c: [0, c.phases.consolidation], note="Epoch 40 itself belongs to phase 2."),
    "phase-2-span": Rule(
        ends=(lambda run: float(run.history.index[run.history["phase"] == 2].min()), lambda run: run.last)
    ),
    "phase-transition-completed": Rule(
        measure=lambda run: float((run.over("phase", 0, 103).diff() > 0).sum()), note="One of the three planned."
    ),
    "lr-epoch-40": configured(lambda c: c.lr(49)),
    "lr-transitions-count": configured(
        lambda c: len(c.optimiser.lr_steps) - 1,
        note="The schedule has one more, at epoch 350.",
    ),
    "lambda3-cyclic": configured(lambda c: "cyclic" if c.lambda3(0) != c.lambda3(7) else "constant"),
    # StateNet and balance
    "delta-lr-phase-2": Rule(
        measure=lambda run: float(_lr_correction(run).loc[40:103].mean()),
        order=lambda run: float(_lr_correction(run).loc[40:103].mean()) > 0,
        also=lambda run: run.mean("delta_lr", 40, 103),
        note="StateNet's raw output, before its scale of 5 %, is {also:.3f}.",
    ),
    "delta-lr-typical": Rule(
        ends=(
            lambda run: float(_lr_correction(run).loc[:103].quantile(0.25)),
            lambda run: float(_lr_correction(run).loc[:103].quantile(0.75)),
        ),
        order=lambda run: float(_lr_correction(run).loc[:103].min()) > 0,
        note="The middle half of the epochs; the printed figures are of the size of the raw output.",
    ),
    "statenet-active": statement(
        _modulation, lambda v: v > 0.1, "The correction varies over epochs 40-103 by {median:.2%} of its scale."
    ),
    "statenet-adaptive": statement(
        lambda run: abs(float(run.over("delta_lr", 0, 103).corr(run.over("grad_ratio", 0, 103)))), lambda v: v > 0.5,
        "Correlation of its output with the gradient ratio, without its sign; StateNet itself is never trained.",
    ),
    "role-statenet-meta": statement(
        _modulation, lambda v: v > 0.1, "Its correction varies over epochs 40-103 by {median:.2%} of its scale."
    ),
    "lr-above-base": statement(
        lambda run: float(_lr_correction(run).loc[:103].min()), lambda v: v > 0,
        "StateNet gets no gradient: the sign is that of its initialisation.",
    ),
    "delta-lambda1-range": _statenet_range(1),
    "delta-lambda2-range": _statenet_range(2),
    "delta-lambda3-range": _statenet_range(3),
    "gradient-balance-late": Rule(ends=(
        lambda run: float(run.over("grad_ratio", 60, 103).min()),
        lambda run: float(run.over("grad_ratio", 60, 103).max()),
    )),
    "gradient-balance-near-1": Rule(measure=lambda run: run.mean("grad_ratio", 60, 103)),
    # Roles and settings
    "role-a-chaotic": statement(
        lambda run: float((run.over("temperature_A", 0, 103) - run.over("temperature_B", 0, 103)).mean()),
        lambda v: v > 0, "Mean difference of the temperatures; both sample in training only.",
    ),
    "role-b-frozen": statement(
        lambda run: abs(run.at("kl_B", 100) - run.at("kl_B", 0)), lambda v: v == 0, "Its KL moves by {median:.0f} nats."
    ),
    "seed": Rule(fact=lambda evidence: 42 if any(run.seed == 42 for run in evidence.runs) else "other seeds"),
    "optimizer": configured(
        lambda c: "AdamW" if c.optimiser.weight_decay > 0 else "Adam",
        note="Weight decay decoupled from the gradient.",
    ),
    "fix-temp-boost-amplitude": Rule(fact=_takes_effect(
        "temperature.A.temp_boost_amplitude", 0.9, "temp_boost_amplitude active"
    ), note="From phase 4 on, which no run of the report reached."),
    "fix-temp-phase4": Rule(fact=_takes_effect("temperature.B.temp_phase4", 0.9, "temp_phase4 active in phase 4"),
                            note="Phase 4 was not reached in the report's run."),
    "use-statenet": configured(lambda c: c.model.use_statenet),
    "dataset-exhaustive": Rule(fact=lambda evidence: len({tuple(row) for row in space.operations().int().tolist()})),
    # The run
    "loss-recovery-one-epoch": statement(
        lambda run: run.at("train_loss", 51) / run.at("train_loss", 49), lambda v: v <= 1.1,
        "After one epoch the loss is {median:.1f} times that before the spike.",
        order=lambda run: run.at("train_loss", 51) < run.at("train_loss", 50),
    ),
    "best-coverage-epoch-gap": Rule(measure=lambda run: run.peak - run.best, order=lambda run: run.peak > run.best),
    "early-stopping-met": statement(
        lambda run: float(run.stopped.startswith("early stop")), lambda v: v == 1,
        "1 where a run ended by early stopping: patience 100 on the validation loss.",
    ),
    "timeline-end-103": statement(
        lambda run: float("coverage" in run.stopped), lambda v: v == 1,
        "1 where coverage ended a run; the rule that fired watches the validation loss.",
    ),
    "rec-future-stop-120": statement(
        lambda run: run.change_after_119("neg_elbo"), lambda v: v > 0,
        "Going on from 120 to 400 epochs changes -ELBO by {median:+.0f} nats ({n} runs) and reconstruction from the "
        "own code by {also:+.0f} points.", also=lambda run: run.change_after_119("reconstruction"),
    ),
    "run-status-completed": statement(
        lambda run: 100 * (run.last + 1) / run.config.training.total_epochs, lambda v: v == 100,
        "Percent of the planned epochs that were run.",
    ),
    "conclusion-gpu-efficient": statement(
        lambda run: float((run.history["seconds_train"] + run.history["seconds_eval"]).median()), lambda v: v >= 60,
        "Seconds of an epoch of the whole cohort of runs, with every metric, on the device that trained them.",
    ),
    "rec-future-saving-67": configured(
        lambda c: 100 * (1 - ledger().v("rec-future-stop-120") / c.training.total_epochs)
    ),
    "monitoring-interval-v5-5": Rule(measure=lambda run: float(run.history.index.to_series().diff().max())),
    "rec-future-denser-checks": statement(
        lambda run: float(run.history.index.to_series().diff().max()), lambda v: v > 1,
        "Epochs between two counts of coverage; they cannot come closer.",
    ),
    "checkpoint-size": Rule(
        fact=lambda evidence: float(f"{4 * 3 * evidence.architecture.parameters:.1e}"),
        note="Weights and two moments in float32, rounded to two digits.",
    ),
    "checkpoint-list": Rule(fact=_listed_checkpoints),
    "checkpoint-latest-epoch": Rule(measure=lambda run: run.last),
    "rec-prod-checkpoints-60-70": statement(
        lambda run: (run.mean("informative_coverage_A", 60, 70) + run.mean("informative_coverage_B", 60, 70)) / 2
        - run.both("informative_coverage", 100), lambda v: v >= 0,
        "Informative coverage of epochs 60-70 minus that of 100: {median:+.1f} points; -ELBO is {also:+.2f} nats off.",
        also=lambda run: (run.mean("neg_elbo_A", 60, 70) + run.mean("neg_elbo_B", 60, 70)) / 2
        - run.both("neg_elbo", 100),
    ),
    "rec-prod-ensemble": statement(
        lambda run: run.of_weights("equal weights: informative_coverage")
        - run.of_weights("epoch 100: informative_coverage"),
        lambda v: v >= 0,
        "Informative coverage of the four as a mixture minus that of epoch 100 alone: {median:+.1f} points ({n} runs); "
        "-IWAE {also:+.2f} nats.",
        also=lambda run: run.of_weights("equal weights: neg_iwae") - run.of_weights("epoch 100: neg_iwae"),
    ),
    "rec-prod-ensemble-variance": statement(
        lambda run: run.of_weights("equal weights: noisy") - run.of_weights("epoch 100: noisy"), lambda v: v > 0,
        "Read together from posterior samples, the four are right {median:+.0f} points more often than epoch 100 from "
        "one sample ({n} runs).",
    ),
    "rec-prod-ensemble-robust": statement(
        lambda run: run.of_weights("equal weights: noisy") - run.of_weights("epoch 100, 4 samples: noisy"),
        lambda v: v > 0,
        "Read together from posterior samples, the four are right {median:+.1f} points more often than epoch 100 from "
        "as many samples ({n} runs).",
    ),
    # Generalisation
    "higher-beta-generalisation": statement(
        lambda run: min(run.at(f"reconstruction_{p}", PEAK_EPOCH) - run.at(f"reconstruction_{p}", 3) for p in PAIR),
        lambda v: v > 0,
        "Exact reconstruction of held-out operations at 69 minus at 3, percent, the smaller of both pathways.",
    ),
    **{
        name: Rule(
            measure=extreme("own_test", 70, 70, min),
            note="On the test split the weaker pathway reconstructs {median:.2f} % exactly at epoch 70 "
            "({low:.2f} to {high:.2f}, {n} runs).",
        )
        for name in (
            "ready-holdout-testing", "rec-prod-holdout", "rec-prod-holdout-generalisation", "rec-prod-holdout-accuracy",
        )
    },
    "rec-prod-holdout-interpolation": Rule(
        measure=lambda run: run.of_weights("path: detour"),
        note="Straight paths between codes at epoch 100 change {median:.2f} entries for each that differs ({n} runs); "
        "{also:.0f} % of their steps are on a shortest way.",
        also=lambda run: 100 * run.of_weights("path: between"),
    ),
    "strong-convergence": statement(
        lambda run: run.at("train_loss", 100) - float(run.history["train_loss"].min()), lambda v: v < 0.5,
        "The loss at 100 is {median:.1f} nats above its least; -ELBO is {also:.2f} above its own.",
        also=lambda run: run.both("neg_elbo", 100)
        - float((run.history["neg_elbo_A"] + run.history["neg_elbo_B"]).min() / 2),
    ),
    "comprehensive-metrics": Rule(
        fact=lambda evidence: "no figure on held-out operations"
        if ledger().holds("generalisation-untested") else "comprehensive",
    ),
    "seed-reproducible": statement(
        lambda run: abs(run.against("as_scheduled", lambda r: r.at("train_loss", 103))) if run.controls else math.nan,
        lambda v: v < 0.5e-4,
        "Difference in loss at 103 between a run and its repetition from epoch 50 on, in other company on one machine.",
    ),
    "phase-1-independent-aim": statement(
        column("cka", 40), lambda v: v < 0.1, "Linear CKA of both codes at epoch 40; independent codes have about 0.",
        order=lambda run: run.at("cka", 40) < run.at("cka", 100),
    ),
    "phase-1-independent-result": statement(
        column("cka", 40), lambda v: v < 0.1, "Linear CKA of both codes at epoch 40; independent codes have about 0.",
        order=lambda run: run.at("cka", 40) < run.at("cka", 100),
    ),
    "phase-1-different-regions": statement(
        lambda run: _relative_jaccard(run, 40), lambda v: v < 0.9,
        "Overlap of the sets that A and B draw at epoch 40 beside that of independent sets of their sizes.",
    ),
    "phase-2-diversity": statement(
        lambda run: run.at("jaccard", 100) - run.at("jaccard", 40), lambda v: v <= 0,
        "Jaccard overlap of the drawn sets at 100 minus at 40.",
    ),
    "higher-beta-better-latents": statement(
        lambda run: -run.against("beta_b_jumps_to_half", lambda r: r.at("informative_coverage_B", 103)),
        lambda v: v > 0,
        "Informative coverage of B at 103 with β_B 0.5 minus as scheduled: {median:+.2f} points.",
    ),
    "entropy-means-utilisation": statement(
        _worst_correlation("H", "coverage", 103), lambda v: v > 0.5,
        "Correlation of H and coverage over epochs, the lower of both pathways.",
    ),
    "kl-exceed-expected": statement(
        _worst_correlation("kl", "coverage", 100), lambda v: v > 0,
        "Correlation of KL and coverage over epochs, the lower of both pathways.",
    ),
    "disruption-robust-model": statement(
        lambda run: -run.against("nothing_at_50", lambda r: r.both("neg_elbo", 103)), lambda v: v > 0,
        "-ELBO without any event at 50 is {median:.0f} nats higher at 103.",
    ),
    "best-loss-not-best-model": statement(
        lambda run: run.both("neg_elbo", run.best) - run.both("neg_elbo", PEAK_EPOCH), lambda v: v > 0,
        "-ELBO at the epoch of the best validation loss is {median:.0f} nats above that at 69.",
    ),
    "rec-select-by-coverage": statement(
        lambda run: run.both("neg_elbo", run.best)
        - run.both("neg_elbo", run.peak), lambda v: v > 0,
        "-ELBO chosen by validation loss minus chosen by sampled coverage: {median:+.0f} nats.",
    ),
}
