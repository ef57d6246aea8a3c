"""Rules for the report's recommendations and for what it concludes on its design, by the id of the claim."""

from __future__ import annotations

from collections.abc import Mapping

from ternary_lab.model import PATHWAYS
from ternary_lab.runs.load import ANSWERS
from ternary_lab.studies.report.conditions import above, at_least, at_most, below, control, table, weights, whole_run
from ternary_lab.studies.report.evidence import ALTERNATIVES
from ternary_lab.studies.report.ledger import ledger
from ternary_lab.studies.report.rule_builders import (
    AT_THE_END,
    configured,
    difference,
    extreme,
    final_information,
    statement,
)
from ternary_lab.studies.report.verdicts import Measure, Rule

BETA_VAES = tuple(f"beta_vae_{p} β=0.3: informative_coverage" for p in PATHWAYS)
"""Measures of single VAEs with as many parameters as v5.5 and with its β_A of epoch 50, one for each decoder."""
TOGETHER, BEST = "equal weights: {}", "best member, 4 samples: {}"
"""Names of measures: the four checkpoints together, and the best of them with as many samples as all together.

The best one is chosen on validation operations, and the measures are of test operations.
"""


def _together(name: str) -> Measure:
    """Return a measure of the four checkpoints together minus the same measure of the best of them."""
    return lambda run: run.of_table(TOGETHER.format(name)) - run.of_table(BEST.format(name))


HELD_OUT = Rule(
    measure=extreme("own_test", 70, 70, min), needs=(weights(70),),
    note="On the test split the weaker pathway reconstructs {median:.2f} % exactly at epoch 70 ({low:.2f} to "
    "{high:.2f}, {n} runs).",
)


FAIR = {"epoch": 103, "age": 93, "learning": 83}
"""Last epochs of the cycles of the run with the jump at 40 that are compared with the last cycle of the schedule.

They have the same epochs, the same number of epochs since the jump, and the same sum of learning rates since the jump,
which is halved at epoch 50 (`epoch50_disruption.tables`).
"""


def _moved(name: str, comparison: str) -> Measure:
    """Return the gain at the end by the jump at 40: the mean of a quantity over both pathways and a cycle of τ_A."""
    last = FAIR[comparison]
    return lambda run: run.control("jump_at_40").cycle(name, last) - run.cycle(name, 103)


ADVICE_RULES: Mapping[str, Rule] = {
    # Schedules
    "rec-keep-warmup-schedule": difference(
        f"Informative coverage ({AT_THE_END}) as scheduled minus with a warm-up of β_B to the scheduled value",
        lambda run: run.against("beta_b_warms_up_matched", final_information), above(0, "points"),
        "Effective coverage differs by {effective:+.1f} points and -ELBO by {elbo:+.2f} "
        "nats.",
        also={
            "effective": lambda run: run.against("beta_b_warms_up_matched", lambda r: r.cycle("effective_coverage")),
            "elbo": lambda run: run.against("beta_b_warms_up_matched", lambda r: r.cycle("neg_elbo")),
        },
        needs=(control("beta_b_warms_up_matched"),), until=103,
    ),
    "rec-shift-beta-b-warmup": difference(
        "Informative coverage with the jump at 40 minus as scheduled (means of both pathways and of 30 epochs), the "
        "least of three fair comparisons: at the same epochs, at the same number of epochs since the jump, and at the "
        "same sum of learning rates since the jump",
        lambda run: min(_moved("informative_coverage", comparison)(run) for comparison in FAIR), above(0, "points"),
        "The comparisons give {epoch:+.2f}, {age:+.2f} and {learning:+.2f} points (medians).",
        also={comparison: _moved("informative_coverage", comparison) for comparison in FAIR},
        needs=(control("jump_at_40"),), until=103,
    ),
    "rec-shift-smooths-surge": difference(
        "The gain of mean sampled coverage where β_B jumps at 40 minus the gain at 50",
        lambda run: run.control("jump_at_40").both("coverage", 40) - run.both("coverage", 39)
        - (run.both("coverage", 50) - run.both("coverage", 49)), below(0, "points"), needs=(control("jump_at_40"),),
    ),
    "higher-beta-better-latents": difference(
        "Informative coverage of B (mean of epochs 74-103) with β_B 0.5 minus as scheduled",
        lambda run: -run.against("beta_b_jumps_to_half", lambda r: r.mean("informative_coverage_B", 74, 103)),
        above(0, "points"),
        "The measures disagree: effective coverage differs by {effective:+.1f} points and -ELBO by {elbo:+.2f} nats, "
        "which are better. Notebook 04 explains this by a noisier decoder.",
        also={
            "effective": lambda run: -run.against(
                "beta_b_jumps_to_half", lambda r: r.mean("effective_coverage_B", 74, 103)
            ),
            "elbo": lambda run: -run.against("beta_b_jumps_to_half", lambda r: r.mean("neg_elbo_B", 74, 103)),
        },
        needs=(control("beta_b_jumps_to_half"),),
    ),
    "higher-beta-generalisation": difference(
        "B's exact reconstruction of held-out operations (mean of epochs 74-103) with β_B 0.5 minus as scheduled",
        lambda run: -run.against("beta_b_jumps_to_half", lambda r: r.mean("reconstruction_B", 74, 103)),
        above(0, "points"), "As scheduled it is {scheduled:.2f} %.",
        also={"scheduled": lambda run: run.mean("reconstruction_B", 74, 103)},
        needs=(control("beta_b_jumps_to_half"),), until=103,
    ),
    "dual-pathway-benefit": difference(
        "Informative coverage of the better pathway at epoch 100 minus that of the better single VAE with as many "
        "parameters and β = 0.3",
        lambda run: max(run.at(f"informative_coverage_{p}", 100) for p in PATHWAYS) - max(map(run.of_table, BETA_VAES)),
        above(0, "points"), "Notebook 08 has all measures and other β, notebook 09 a single wide pathway.",
        needs=(table(*BETA_VAES, source=ALTERNATIVES),),
    ),
    # Which epochs, and how long
    "rec-select-by-coverage": statement(
        "-ELBO (mean of both pathways) at the epoch of the lowest validation loss minus that at the epoch of the "
        "highest sampled coverage",
        lambda run: run.both("neg_elbo", run.best) - run.both("neg_elbo", run.peak), above(0, "nats"),
    ),
    "rec-prod-checkpoints-60-70": statement(
        "Informative coverage of epochs 60-70 minus that of epoch 100, mean of both pathways",
        lambda run: sum(run.mean(f"informative_coverage_{p}", 60, 70) for p in PATHWAYS) / 2
        - run.both("informative_coverage", 100), at_least(0, "points"), "-ELBO differs by {elbo:+.2f} nats.",
        also={"elbo": lambda run: sum(run.mean(f"neg_elbo_{p}", 60, 70) for p in PATHWAYS) / 2
              - run.both("neg_elbo", 100)}, until=100,
    ),
    "rec-future-stop-120": statement(
        "The rise of -ELBO (mean of both pathways) from epoch 119 to 399",
        lambda run: run.change_after_119("neg_elbo"), above(0, "nats"),
        "Reconstruction from the own code changes by {own:+.0f} points.",
        also={"own": lambda run: run.change_after_119("reconstruction")}, needs=(whole_run(),),
        until=0,
    ),
    "rec-future-diminishing": statement(
        "The gain of mean sampled coverage from epoch 119 to 399", lambda run: run.change_after_119("coverage"),
        at_most(0.25, "points"),
        "Informative coverage changes by {information:+.1f} points.",
        also={"information": lambda run: run.change_after_119("informative_coverage")}, needs=(whole_run(),), until=0,
    ),
    "rec-future-saving-67": configured(
        "The share of the planned epochs after 120, in percent",
        lambda c: 100 * (1 - ledger().v("rec-future-stop-120") / c.training.total_epochs), source="arithmetic",
    ),
    "rec-future-denser-checks": statement(
        "The epochs between two counts of coverage, which must be more than 1 to become fewer",
        lambda run: float(run.history.index.to_series().diff().max()), above(1, "epoch"), until=0,
    ),
    # Ensembles
    "rec-prod-ensemble": statement(
        "Informative coverage of the four checkpoints as a mixture minus that of the best of them",
        _together("informative_coverage"), at_least(0, "points"), "-IWAE differs by {iwae:+.2f} nats.",
        also={"iwae": _together("neg_iwae")},
        needs=(table(*(name.format("informative_coverage") for name in (TOGETHER, BEST)), source=ANSWERS),), until=0,
    ),
    "rec-prod-ensemble-variance": statement(
        "The variance of decoded probabilities between repeated readings by the four checkpoints, one sample each, "
        "minus that of the best of them with four samples",
        _together("variance"), below(0),
        needs=(table(*(name.format("variance") for name in (TOGETHER, BEST)), source=ANSWERS),), until=0,
    ),
    "rec-prod-ensemble-robust": statement(
        "The share of operations that the four checkpoints read rightly from one posterior sample each, minus the "
        "share that the best of them reads rightly from four samples",
        _together("noisy"), above(0, "points"),
        needs=(table(*(name.format("noisy") for name in (TOGETHER, BEST)), source=ANSWERS),), until=0,
    ),
    # Held-out operations
    **dict.fromkeys((
        "ready-holdout-testing", "rec-prod-holdout", "rec-prod-holdout-generalisation", "rec-prod-holdout-accuracy",
    ), HELD_OUT),
    "rec-prod-holdout-interpolation": Rule(
        measure=lambda run: run.of_table("path: detour"), until=0, needs=(table("path: detour", source=ANSWERS),),
        note="Straight paths between codes at epoch 100 change {median:.2f} entries for each that differs ({n} runs), "
        "and {between:.0f} % of their steps are on a shortest way.",
        also={"between": lambda run: 100 * run.of_table("path: between")},
    ),
}
