"""The rule of every claim, in one place: by quantity where a figure is read off, by id where a statement is tested."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ternary_lab import space
from ternary_lab.config_files import load_config
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.studies.report.evidence import Run, Trial
from ternary_lab.studies.report.ledger import Claim, ledger
from ternary_lab.studies.report.verdicts import Interval, Measure, Rule

PAIR = ("A", "B")
PEAK_EPOCH = 69
"""At which the report sees its highest coverage."""


def column(name: str, epoch: int) -> Measure:
    return lambda run: run.at(name, epoch)


def reading(name: str, epoch: int, **more: Any) -> Rule:
    """A figure of the history at one epoch."""
    return Rule(measure=column(name, epoch), epochs=lambda e: column(name, e), **more)


def statement(measure: Measure, true: Callable[[float], bool], note: str = "", **more: Any) -> Rule:
    return Rule(measure=measure, true=true, note=note, **more)


EQUAL_COUNTS = "A hash count and a distinct count of the same draws are equal."


def hashes(equal: str, unequal: str, note: str) -> Rule:
    """What follows from whether a hash count and a distinct count of the same draws are equal."""
    return Rule(fact=lambda trial: equal if trial.hash_minus_distinct == 0 else unequal, note=note)


def untestable(why: str, **more: Any) -> Rule:
    return Rule(why=why, **more)


def extreme(name: str, first: int, last: int, pick: Callable[..., float]) -> Measure:
    """Least or greatest value of both pathways over a span of epochs."""
    def measure(run: Run) -> float:
        values = [pick(run.over(f"{name}_{p}", first, last)) for p in PAIR if len(run.over(f"{name}_{p}", first, last))]
        return float(pick(values)) if values else math.nan
    return measure


def probed(run: Run, name: str, first: int, last: int, pick: Callable[..., float]) -> float:
    """Least or greatest probe of both pathways over a span of epochs; nan without weights."""
    return extreme(name, first, last, pick)(run)


# Baselines


def untrained_gives(claim: Claim) -> Callable[[Trial], bool]:
    """The claimed coverage is one that another untrained network might have."""
    def baseline(trial: Trial) -> bool:
        found = trial.untrained_coverage
        values = found[claim.pathway] if claim.pathway in PAIR else [
            (a + b) / 2 for a, b in zip(found["A"], found["B"], strict=True)
        ]
        assert claim.number is not None
        return Interval(values).holds(claim.number, claim.half_digit)
    return baseline


def untrained_reaches(threshold: float) -> Callable[[Trial], bool]:
    """Every untrained network covers at least so much."""
    return lambda trial: min(map(min, trial.untrained_coverage.values())) >= threshold


UNTRAINED = "An untrained network covers more than that with as many draws."


# By quantity


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


def _change(name: str) -> Callable[[Claim], Rule]:
    """Relative change in percent over the claim's span."""
    def rule(claim: Claim) -> Rule:
        column_name = f"{name}_{claim.pathway}" if claim.pathway in PAIR else name
        first, last = claim.span
        sign = math.copysign(1, claim.number or 0)
        def measure(run: Run) -> float:
            return 100 * (run.at(column_name, last) / run.at(column_name, first) - 1)
        return Rule(measure=measure, order=lambda run: measure(run) * sign > 0)
    return rule


def _gain(claim: Claim) -> Rule:
    """Points of coverage gained over the claim's span."""
    first, last = claim.span
    sign = math.copysign(1, claim.number or 0)
    def measure(run: Run) -> float:
        return run.at(f"coverage_{claim.pathway}", last) - run.at(f"coverage_{claim.pathway}", first)
    return Rule(measure=measure, order=lambda run: measure(run) * sign > 0)


def _setting(read: Callable[[Trial, Claim], Any]) -> Callable[[Claim], Rule]:
    return lambda claim: Rule(fact=lambda trial: read(trial, claim))


def _beta(trial: Trial, claim: Claim) -> float:
    return trial.config.betas(claim.span[1])[PAIR.index(claim.pathway)]


def _parameters(trial: Trial, claim: Claim) -> int:
    architecture = trial.architecture
    decoders = {"A": architecture.decoder_A.size, "B": architecture.decoder_B.size}
    if claim.pathway in decoders:
        return architecture.encoder.size + decoders[claim.pathway]
    if "statenet" in claim.id:
        return architecture.parameters - 2 * architecture.encoder.size - sum(decoders.values())
    return architecture.parameters


def _part(trial: Trial, claim: Claim) -> int:
    return len(getattr(trial.split, {"train": "train", "val": "validation", "test": "test"}[claim.id.split("-")[-1]]))


NO_FILE = "The file is not part of what the report came with."
EARLIER = "No run, weights or record of the earlier session exist to test it on."
OTHER_MACHINE = "A time or device of a machine that is not here."
JUDGEMENT = "A judgement without a measurable criterion."
NO_CONTROL = "It would take a control run that was not trained: {}."

QUANTITIES: Mapping[str, Callable[[Claim], Rule]] = {
    "coverage_sampled_pct": _coverage,
    "coverage_combined_pct": _combined,
    "coverage_delta_points": _gain,
    "unique_ops_sampled": _by_pathway("unique_ops"),
    "train_loss": _plain("train_loss"),
    "val_loss": _plain("val_loss"),
    "cross_entropy_nats": _by_pathway("ce"),
    "latent_entropy_nats": _by_pathway("H"),
    "entropy_change_pct": _change("H"),
    "kl_nats": _by_pathway("kl"),
    "loss_change_pct": _change("val_loss"),
    "beta": _setting(_beta),
    "beta_warmup_epochs": _setting(lambda trial, c: getattr(trial.config.beta, c.pathway).warmup_epochs),
    "lr": _setting(lambda trial, c: trial.config.lr(c.span[0])),
    "phase_index": _plain("phase"),
    "param_count": _setting(_parameters),
    "param_share_pct": _setting(lambda trial, c: 100 * _parameters(trial, c) / trial.architecture.parameters),
    "input_dim": _setting(lambda trial, c: space.ENTRIES),
    "latent_dim": _setting(lambda trial, c: trial.config.model.latent_dim),
    "space_size": _setting(lambda trial, c: len(space.operations())),
    "split_size": _setting(_part),
    "split_share_pct": _setting(lambda trial, c: 100 * _part(trial, c) / space.SIZE),
    "batch_size": _setting(lambda trial, c: trial.config.data.batch_size),
    "weight_decay": _setting(lambda trial, c: trial.config.optimiser.weight_decay),
    "grad_clip": _setting(lambda trial, c: trial.config.optimiser.grad_clip),
    "free_bits_nats_per_dim": _setting(lambda trial, c: trial.config.kl.free_bits),
    "epochs_planned": _setting(lambda trial, c: trial.config.training.total_epochs),
    "checkpoint_freq": _setting(lambda trial, c: trial.config.checkpoints.every),
    "lambda3": _setting(lambda trial, c: trial.config.loss_weights.lambda3_base),
    "lambda3_amplitude": _setting(lambda trial, c: trial.config.loss_weights.lambda3_amplitude),
    "statenet_lr_scale_pct": _setting(lambda trial, c: 100 * trial.config.statenet.lr_scale),
    "statenet_lambda_scale_pct": _setting(lambda trial, c: 100 * trial.config.statenet.lambda_scale),
    "epochs_completed": lambda claim: Rule(measure=lambda run: run.last),
    "path": lambda claim: untestable(NO_FILE),
    "version": lambda claim: untestable("A label."),
    "date": lambda claim: untestable("A date."),
    "device": lambda claim: untestable(OTHER_MACHINE),
    "duration_minutes": lambda claim: untestable(OTHER_MACHINE),
}


# By id


def _info(run: Run) -> float:
    """Informative coverage at epoch 103, percent, mean of both pathways."""
    return run.both("informative_coverage", 103)


def _late_coverage(run: Run) -> float:
    return run.both("coverage", 103)


def _highest(name: str) -> Measure:
    return lambda run: float(run.history[name].max())


def _late_mean(name: str) -> Measure:
    return lambda run: run.mean(name, 60, 103)


def _jump(run: Run) -> float:
    """Smaller of the two pathways' gains of coverage from epoch 49 to 50, points."""
    return min(run.at(f"coverage_{p}", 50) - run.at(f"coverage_{p}", 49) for p in PAIR)


def _lr_correction(run: Run) -> Any:
    """Relative correction of the learning rate, percent, per epoch."""
    return 100 * (run.history["lr"] / run.history["lr_scheduled"] - 1)


def _lambda_shift(number: int) -> tuple[Measure, Measure]:
    """Least and greatest change of a loss weight that StateNet makes in an epoch."""
    def shifts(run: Run) -> Any:
        return run.config.statenet.lambda_scale * run.history.loc[:103, f"delta_lambda{number}"]
    return (lambda run: float(shifts(run).min())), (lambda run: float(shifts(run).max()))


def _statenet_range(number: int) -> Rule:
    return Rule(
        ends=_lambda_shift(number), order=lambda run: _lambda_shift(number)[0](run) > 0,
        also=lambda run: run.mean(f"delta_lambda{number}", 0, 103),
        note="StateNet's raw output (median {also:.3f}), which its scale of 1 % then shrinks, is of the printed size.",
    )


def _modulation(run: Run) -> float:
    """Standard deviation of the correction over epochs 40-103, as a share of its scale."""
    return float(_lr_correction(run).loc[40:103].std() / (100 * run.config.statenet.lr_scale))


def _worst_correlation(first: str, second: str, last: int) -> Measure:
    """Correlation of two columns over epochs 0..last, the smaller of both pathways'."""
    return lambda run: min(
        float(run.over(f"{first}_{p}", 0, last).corr(run.over(f"{second}_{p}", 0, last))) for p in PAIR
    )


def _expected_jaccard(run: Run, epoch: int) -> float:
    """Overlap of the two drawn sets beside that of independent sets of their sizes: 1 for independent ones."""
    a, b = (run.at(f"coverage_{SAMPLES}_{p}", epoch) / 100 for p in PAIR)
    return run.at("jaccard", epoch) * (a + b - a * b) / (a * b)


def _largest_step(run: Run, name: str, first: int, last: int) -> float:
    return float(run.over(name, first, last).diff().abs().max())


def _beta_shape(trial: Trial) -> str:
    steps = [
        abs(b - a) for e in range(1, 104) for a, b in zip(trial.config.betas(e - 1), trial.config.betas(e), strict=True)
    ]
    return "gradual, 50 epochs" if max(steps) < 0.05 else f"jumps by {max(steps):.4f} in one epoch"


def _beta_ends(trial: Trial) -> str:
    (a_first, b_first), (a_last, b_last) = (trial.config.betas(e) for e in (0, 50))
    return f"A {a_first:.1f} to {a_last:.1f}, B {b_first:.1f} to {b_last:.4f}"


def _takes_effect(key: str, value: float, answer: str) -> Callable[[Trial], str]:
    """Whether changing a setting changes a temperature in any epoch that is planned."""
    def fact(trial: Trial) -> str:
        changed = load_config(trial.config.as_dict(), {key: value})
        planned = range(trial.config.training.total_epochs)
        return answer if any(changed.temperatures(e) != trial.config.temperatures(e) for e in planned) else "no effect"
    return fact


def _listed_checkpoints(trial: Trial) -> list[str]:
    every, last = trial.config.checkpoints.every, min(run.last for run in trial.runs)
    return ["best.pt", *(f"epoch_{e}.pt" for e in range(0, last + 1, every)), "latest.pt"]


def _saving(trial: Trial) -> float:
    return 100 * (1 - ledger().v("rec-future-stop-120") / trial.config.training.total_epochs)


RULES: Mapping[str, Rule] = {
    # Coverage
    "coverage-b-stable-phase-1": statement(
        lambda run: float((run.over("coverage_B", 0, 40) - 89).abs().max()), lambda v: v <= 2,
        "The largest distance from it in these epochs is {median:.1f} points.",
    ),
    "coverage-over-95-by-55": statement(
        extreme("coverage", 55, 103, min), lambda v: v >= 95, UNTRAINED, baseline=untrained_reaches(95)
    ),
    "coverage-over-98-from-60": statement(extreme("coverage", 60, 103, min), lambda v: v >= 98),
    "high-coverage-span": statement(
        extreme("coverage", 60, 103, min), lambda v: v >= 95,
        "Least coverage of both pathways in the span. " + UNTRAINED, baseline=untrained_reaches(95),
    ),
    "disruption-final-convergence": statement(
        lambda run: run.against("nothing_at_50", _late_coverage), lambda v: v > 0,
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
    "history-sampling-coverage": untestable(EARLIER),
    "history-hash-coverage": untestable(EARLIER),
    "history-sampling-duplicates": statement(
        lambda run: 100 * SAMPLES / space.SIZE, lambda v: v <= 100,
        "With duplicates counted as many draws would give {median:.0f} % of the space.",
    ),
    "history-current-run": reading("coverage_B", PEAK_EPOCH, baseline=untrained_reaches(98.86), note=UNTRAINED),
    "timeline-stable-100": statement(
        lambda run: max(float(run.over(f"coverage_{p}", 90, 103).max() - run.over(f"coverage_{p}", 90, 103).min())
                        for p in PAIR),
        lambda v: v <= 1, "The spread of coverage over epochs 90-103 is {median:.2f} points. " + UNTRAINED,
        baseline=untrained_reaches(98),
    ),
    "rec-future-plateau-100": statement(
        lambda run: run.both("coverage", 103) - run.both("coverage", 70), lambda v: v <= 0.25,
        "Mean coverage still rises by {median:.2f} points from 70 to 103, informative coverage by {also:.1f}.",
        also=lambda run: run.both("informative_coverage", 103) - run.both("informative_coverage", 70),
    ),
    "coverage-combined-is-mean": Rule(
        fact=lambda trial: "mean of A and B" if ledger().holds("combined-is-mean") else "another combination",
        also=lambda run: run.at("union", 60), note="Together they cover {also:.2f} % at epoch 60.",
    ),
    "rec-prod-60-70-best-balance": statement(
        lambda run: (run.mean("coverage_A", 60, 70) + run.mean("coverage_B", 60, 70)
                     - run.mean("coverage_A", 90, 103) - run.mean("coverage_B", 90, 103)) / 2,
        lambda v: v >= 0, "Mean coverage of epochs 60-70 minus that of 90-103: {median:+.2f} points.",
    ),
    "v5-5-uses-hash": untestable("The original's counting code is not here; hashes and distinct tuples count alike."),
    "history-hash-true-unique": hashes(
        "true unique operations", "hashes collide",
        "On the same draws hashed tuples and distinct operations are equally many; so are any two such counts.",
    ),
    "rec-use-hash-validation": hashes("no difference", "hash validation", EQUAL_COUNTS),
    "rec-future-hash-in-loop": hashes("no difference", "v5.6", EQUAL_COUNTS),
    "rec-future-hash-no-inflation": hashes(
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
        lambda run: run.against("nothing_at_50", _info), lambda v: v > 0,
        "Informative coverage at 103 is {median:+.1f} points above that without any event at 50, "
        "but {also:+.1f} beside a run whose β_B warmed up from the start.",
        also=lambda run: run.against("beta_b_warms_up", _info),
    ),
    "higher-beta-coverage-plus-4": Rule(
        measure=lambda run: run.both("coverage", 100) - run.both("coverage", 0),
        order=lambda run: run.both("coverage", 100) > run.both("coverage", 0),
    ),
    "v5-4-v5-5-difference": untestable(EARLIER),
    "within-measurement-variance": untestable(
        EARLIER, measure=lambda run: run.at("coverage_B", PEAK_EPOCH),
        note="Over seeds v5.5 itself lies between {low:.2f} and {high:.2f} % at that epoch.",
    ),
    "rec-future-diminishing": statement(
        lambda run: run.later("coverage"), lambda v: v <= 0.25,
        "From 120 to 400 epochs sampled coverage changes by {median:+.1f} points ({n} runs), informative coverage by "
        "{also:+.1f}: it is lost, not just gained more slowly.", also=lambda run: run.later("informative_coverage"),
    ),
    "rec-shift-smooths-surge": statement(
        lambda run: (run.controls["jump_at_40"].both("coverage", 40) - run.both("coverage", 39))
        - (run.both("coverage", 50) - run.both("coverage", 49)) if "jump_at_40" in run.controls else math.nan,
        lambda v: v < 0, "The gain when β_B jumps at 40 minus the gain at 50, points: {median:+.1f}.",
    ),
    # The peak
    **{
        name: reading("coverage_B", PEAK_EPOCH, baseline=untrained_reaches(98.86), note=UNTRAINED)
        for name in ("coverage-headline", "v5-5-peak", "conclusion-coverage")
    },
    **{
        f"coverage-{p.lower()}-epoch-69-headline": Rule(
            measure=_highest(f"coverage_{p}"), note="The highest of all epochs, as the claim says."
        )
        for p in PAIR
    },
    "v5-4-peak": untestable(EARLIER),
    "v5-4-peak-epoch": untestable(EARLIER),
    "monitoring-interval-v5-4": untestable(EARLIER),
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
        baseline=lambda trial: all(
            run.both("neg_elbo", 103) < run.both("neg_elbo", 3) for run in trial.runs
        ),
    ),
    "best-val-loss": Rule(measure=lambda run: float(run.history["val_loss"].min())),
    "best-val-epoch": Rule(measure=lambda run: run.best),
    "timeline-best-remained": Rule(measure=lambda run: run.best),
    "loss-spike-pct": _change("train_loss")(ledger().claims["loss-spike-pct"]),
    "loss-recovery-pct": _change("train_loss")(ledger().claims["loss-recovery-pct"]),
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
        fact=lambda trial: math.log(50),
        note="The ceiling of a 50-bin histogram is ln 50 nats, whatever the number of dimensions.",
    ),
    "higher-beta-utilisation-plus-42": _change("H")(ledger().claims["higher-beta-utilisation-plus-42"]),
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
    "kl-target-range": untestable("The configuration that ran has no such setting."),
    "warmup-prevents-collapse": untestable(NO_CONTROL.format("A with its full β from the start")),
    "no-posterior-collapse": statement(
        lambda run: probed(run, "active", 0, 103, min), lambda v: v == 16,
        "Least number of active units of both pathways at any kept epoch.",
    ),
    "free-bits-purpose": statement(
        lambda run: run.against("free_bits_off", _info), lambda v: v > 0,
        "Informative coverage at 103 with free bits minus without: {median:+.1f} points.",
    ),
    "variance-healthy-16-dims": statement(
        lambda run: probed(run, "variance_min", 0, 103, min), lambda v: v > 0.01,
        "Least variance of a dimension's posterior mean at any kept epoch.",
    ),
    "collapse-definition": untestable("A definition."),
    # Schedules
    "beta-gradual-50": Rule(fact=_beta_shape),
    "beta-schedules-differ": Rule(
        fact=_beta_ends,
        order=lambda run: any(a != b for a, b in (run.config.betas(e) for e in range(104))),
    ),
    "trigger-beta-b-half": Rule(
        fact=lambda trial: trial.config.betas(50)[1],
        order=lambda run: run.config.betas(50)[1] > 0 and run.config.betas(49)[1] == 0,
        note="β_B does leave 0 at that epoch, in one step.",
    ),
    "beta-a-end": Rule(
        fact=lambda trial: trial.config.betas(50)[0], order=lambda run: run.config.betas(50)[0] > run.config.betas(0)[0]
    ),
    "beta-b-end": Rule(
        fact=lambda trial: trial.config.betas(50)[1], order=lambda run: run.config.betas(50)[1] > run.config.betas(0)[1]
    ),
    "rec-keep-warmup-schedule": statement(
        lambda run: run.against("beta_b_warms_up", _info), lambda v: v >= 0,
        "Informative coverage at 103 as scheduled minus with a real warm-up of β_B: {median:+.1f} points.",
    ),
    "rec-shift-beta-b-warmup": statement(
        lambda run: -run.against("jump_at_40", _info), lambda v: v > 0,
        "Informative coverage at 103 with the jump at 40 minus as scheduled: {median:+.2f} points.",
    ),
    "temperature-a-start": Rule(
        fact=lambda trial: trial.config.temperature.A.start, note="The base; the swing adds a tenth in epoch 0."
    ),
    "temperature-a-end": Rule(fact=lambda trial: trial.config.temperature.A.end, note="At epoch 400."),
    "temperature-b-start": Rule(fact=lambda trial: trial.config.temperature.B.start),
    "temperature-b-end": Rule(fact=lambda trial: trial.config.temperature.B.end, note="At epoch 430."),
    "rho-phase-scheduled": Rule(
        fact=lambda trial: "phase-scheduled"
        if trial.config.permeability(trial.config.phases.consolidation - 1, True) == trial.config.rho.isolated
        < trial.config.permeability(trial.config.phases.convergence - 1, True) else "constant",
    ),
    "rho-phase-1": Rule(fact=lambda trial: max(trial.config.permeability(e, True) for e in range(41))),
    "rho-epoch-40": Rule(fact=lambda trial: trial.config.permeability(40, True)),
    "rho-epoch-103": Rule(fact=lambda trial: trial.config.permeability(103, True)),
    "rho-smooth-rise": statement(
        lambda run: _largest_step(run, "rho", 40, 103), lambda v: 0 < v < 0.01, "Largest change of ρ in one epoch."
    ),
    "rho-range": Rule(fact=lambda trial: [trial.config.rho.isolated, trial.config.rho.coupled]),
    "phase-2-exchange-aim": untestable(NO_CONTROL.format("ρ held at 0.1 from epoch 40 on")),
    "phase-1-no-premature-coupling": untestable(NO_CONTROL.format("a higher ρ in phase 1")),
    "phase-2-gradual-exchange": untestable(NO_CONTROL.format("ρ held at 0.1 from epoch 40 on")),
    "phase-1-span": Rule(
        fact=lambda trial: [0, trial.config.phases.consolidation], note="Epoch 40 itself belongs to phase 2."
    ),
    "phase-2-span": Rule(
        ends=(lambda run: float(run.history.index[run.history["phase"] == 2].min()), lambda run: run.last)
    ),
    "phase-transition-completed": Rule(
        measure=lambda run: float((run.over("phase", 0, 103).diff() > 0).sum()), note="One of the three planned."
    ),
    "lr-epoch-40": Rule(fact=lambda trial: trial.config.lr(49)),
    "lr-transitions-count": Rule(
        fact=lambda trial: len(trial.config.optimiser.lr_steps) - 1, note="The schedule has one more, at epoch 350."
    ),
    "lambda3-cyclic": Rule(
        fact=lambda trial: "cyclic" if trial.config.lambda3(0) != trial.config.lambda3(7) else "constant"
    ),
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
    "statenet-efficient": untestable(NO_CONTROL.format("StateNet switched off")),
    "statenet-balanced": untestable(NO_CONTROL.format("StateNet switched off")),
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
    "seed": Rule(fact=lambda trial: 42 if any(run.seed == 42 for run in trial.runs) else "other seeds"),
    "optimizer": Rule(
        fact=lambda trial: "AdamW" if trial.config.optimiser.weight_decay > 0 else "Adam",
        note="Weight decay decoupled from the gradient.",
    ),
    "eps-kl": untestable("The configuration that ran has no such setting."),
    "fix-temp-boost-amplitude": Rule(fact=_takes_effect(
        "temperature.A.temp_boost_amplitude", 0.9, "temp_boost_amplitude active"
    ), note="From phase 4 on, which no run of the report reached."),
    "fix-temp-phase4": Rule(fact=_takes_effect("temperature.B.temp_phase4", 0.9, "temp_phase4 active in phase 4"),
                            note="Phase 4 was not reached in the report's run."),
    "use-statenet": Rule(fact=lambda trial: trial.config.model.use_statenet),
    "dataset-exhaustive": Rule(fact=lambda trial: len({tuple(row) for row in space.operations().int().tolist()})),
    # The run
    "loss-recovery-one-epoch": statement(
        lambda run: run.at("train_loss", 51) / run.at("train_loss", 49), lambda v: v <= 1.1,
        "After one epoch the loss is {median:.1f} times that before the spike.",
        order=lambda run: run.at("train_loss", 51) < run.at("train_loss", 50),
    ),
    "best-coverage-epoch-gap": Rule(
        measure=lambda run: run.peak - run.best, order=lambda run: run.peak > run.best,
    ),
    "early-stopping-met": statement(
        lambda run: float(run.stopped.startswith("early stop")), lambda v: v == 1,
        "1 where a run ended by early stopping: patience 100 on the validation loss.",
    ),
    "timeline-end-103": statement(
        lambda run: float("coverage" in run.stopped), lambda v: v == 1,
        "1 where coverage ended a run; the rule that fired watches the validation loss.",
    ),
    "rec-future-stop-120": statement(
        lambda run: run.later("neg_elbo"), lambda v: v > 0,
        "Going on from 120 to 400 epochs changes -ELBO by {median:+.0f} nats ({n} runs) and reconstruction from the "
        "own code by {also:+.0f} points.", also=lambda run: run.later("reconstruction"),
    ),
    "run-status-completed": statement(
        lambda run: 100 * (run.last + 1) / run.config.training.total_epochs, lambda v: v == 100,
        "Percent of the planned epochs that were run.",
    ),
    "seconds-per-epoch": untestable(OTHER_MACHINE),
    "gpu-utilisation": untestable(OTHER_MACHINE),
    "conclusion-gpu-efficient": statement(
        lambda run: float((run.history["seconds_train"] + run.history["seconds_eval"]).median()), lambda v: v >= 60,
        "Seconds of an epoch of the whole cohort of runs, with every metric, on the device that trained them.",
    ),
    "rec-future-saving-67": Rule(fact=_saving),
    "monitoring-interval-v5-5": Rule(measure=lambda run: float(run.history.index.to_series().diff().max())),
    "rec-future-denser-checks": statement(
        lambda run: float(run.history.index.to_series().diff().max()), lambda v: v > 1,
        "Epochs between two counts of coverage; they cannot come closer.",
    ),
    "rec-future-checkpoint-freq-5": untestable("Advice on what to keep; no figure depends on it."),
    "checkpoint-size": Rule(
        fact=lambda trial: float(f"{4 * 3 * trial.architecture.parameters:.1e}"),
        note="Weights and two moments in float32, rounded to two digits.",
    ),
    "checkpoint-list": Rule(fact=_listed_checkpoints),
    "checkpoint-latest-epoch": Rule(measure=lambda run: run.last),
    "checkpoint-contains-optimizer": untestable(NO_FILE),
    "logs-in-checkpoints": untestable(NO_FILE),
    "rec-prod-checkpoints-60-70": statement(
        lambda run: (run.mean("informative_coverage_A", 60, 70) + run.mean("informative_coverage_B", 60, 70)) / 2
        - run.both("informative_coverage", 100), lambda v: v >= 0,
        "Informative coverage of epochs 60-70 minus that of 100: {median:+.1f} points; -ELBO is {also:+.2f} nats off.",
        also=lambda run: (run.mean("neg_elbo_A", 60, 70) + run.mean("neg_elbo_B", 60, 70)) / 2
        - run.both("neg_elbo", 100),
    ),
    "rec-prod-ensemble": statement(
        lambda run: run.answer("equal weights: informative_coverage") - run.answer("epoch 100: informative_coverage"),
        lambda v: v >= 0,
        "Informative coverage of the four as a mixture minus that of epoch 100 alone: {median:+.1f} points ({n} runs); "
        "-IWAE {also:+.2f} nats.",
        also=lambda run: run.answer("equal weights: neg_iwae") - run.answer("epoch 100: neg_iwae"),
    ),
    "rec-prod-ensemble-variance": statement(
        lambda run: run.answer("equal weights: noisy") - run.answer("epoch 100: noisy"), lambda v: v > 0,
        "Read together from posterior samples, the four are right {median:+.0f} points more often than epoch 100 from "
        "one sample ({n} runs).",
    ),
    "rec-prod-ensemble-robust": statement(
        lambda run: run.answer("equal weights: noisy") - run.answer("epoch 100, 4 samples: noisy"), lambda v: v > 0,
        "Read together from posterior samples, the four are right {median:+.1f} points more often than epoch 100 from "
        "as many samples ({n} runs).",
    ),
    # Generalisation and judgements
    "higher-beta-generalisation": statement(
        lambda run: min(run.at(f"reconstruction_{p}", PEAK_EPOCH) - run.at(f"reconstruction_{p}", 3) for p in PAIR),
        lambda v: v > 0,
        "Exact reconstruction of held-out operations at 69 minus at 3, percent, the smaller of both pathways.",
    ),
    **{
        name: untestable(
            "Advice or an announcement without a figure.", measure=lambda run: probed(run, "own_test", 70, 70, min),
            note="On the test split the weaker pathway reconstructs {median:.2f} % exactly at epoch 70 "
            "({low:.2f} to {high:.2f}, {n} runs).",
        )
        for name in (
            "ready-holdout-testing", "rec-prod-holdout", "rec-prod-holdout-generalisation", "rec-prod-holdout-accuracy",
        )
    },
    "rec-prod-holdout-interpolation": untestable(
        "Advice without a figure.", measure=lambda run: run.answer("path: detour"),
        note="Straight paths between codes at epoch 100 change {median:.2f} entries for each that differs ({n} runs); "
        "{also:.0f} % of their steps are on a shortest way.",
        also=lambda run: 100 * run.answer("path: between"),
    ),
    "model-clean-rewrite": untestable(JUDGEMENT),
    "strong-convergence": statement(
        lambda run: run.at("train_loss", 100) - float(run.history["train_loss"].min()), lambda v: v < 0.5,
        "The loss at 100 is {median:.1f} nats above its least; -ELBO is {also:.2f} above its own.",
        also=lambda run: run.both("neg_elbo", 100)
        - float((run.history["neg_elbo_A"] + run.history["neg_elbo_B"]).min() / 2),
    ),
    "comprehensive-metrics": Rule(
        fact=lambda trial: "no figure on held-out operations"
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
        lambda run: _expected_jaccard(run, 40), lambda v: v < 0.9,
        "Overlap of the sets that A and B draw at epoch 40 beside that of independent sets of their sizes.",
    ),
    "phase-2-diversity": statement(
        lambda run: run.at("jaccard", 100) - run.at("jaccard", 40), lambda v: v <= 0,
        "Jaccard overlap of the drawn sets at 100 minus at 40.",
    ),
    "early-convergence-credit": untestable(NO_CONTROL.format("β held at its start value")),
    "disruption-known-feature": untestable(NO_FILE),
    "spike-previous-concern": untestable(EARLIER),
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
    "dual-pathway-benefit": untestable(NO_CONTROL.format("a single pathway of the same size")),
    "config-all-validated": untestable("The original's code is not here."),
    **{
        name: untestable(JUDGEMENT)
        for name in ("ready-production-pipelines", "ready-latent-research", "ready-benchmarks", "production-ready")
    },
}


def rule(claim: Claim) -> Rule:
    """How a claim is tested: by its own rule, else by that of its quantity."""
    return RULES[claim.id] if claim.id in RULES else QUANTITIES[claim.quantity](claim)
