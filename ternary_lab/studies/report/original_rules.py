"""Rules for claims about the original's code, files and earlier session, by the id of the claim.

Their evidence is `original_code`, which was read in the original's public repository, and `original_runs`, which three
runs of the original printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ternary_lab.studies.report.evidence import Evidence, SeedEvidence
from ternary_lab.studies.report.ledger import ledger
from ternary_lab.studies.report.original import original_code, original_runs
from ternary_lab.studies.report.rule_builders import lr_correction, number
from ternary_lab.studies.report.verdicts import Rule

CODE = original_code()
SETTINGS, SCRIPT = "configs/ternary_v5_5.yaml", "scripts/train/train_ternary_v5_5.py"
SESSION = "local-reports/SESSION.md"
SEED = 42
"""Seed of the report's run."""


def _in(path: str) -> str:
    """Return the words for a file of the original."""
    return f"the original's {path}"


def _known(of: str, value: Any, source: str, note: str = "") -> Rule:
    """Return a rule for a value of the original that the library knows."""
    return Rule(of=of, fact=lambda evidence: value, source=source, note=note)


def _file(path: str) -> Rule:
    """Return a rule for a file or, if the path ends with /, for a folder of the original's repository."""
    found = any(file == path or (path.endswith("/") and file.startswith(path)) for file in CODE.files)
    return _known("The path in the original's repository", path if found else "no such file", CODE.repository)


def _without_effect(evidence: Evidence) -> str:
    return f"{len(CODE.without_effect)} of {CODE.setting_count} change nothing"


def _raw(name: str) -> str:
    """Return the range of a raw output of StateNet in the original's run of the report's seed, as text."""
    runs = original_runs()
    values = runs.loc[(runs["seed"] == SEED) & (runs["epoch"] <= 103), name]
    return f"{values.min():.3f} to {values.max():.3f}"


RAW_RATE = (
    f"The printed figure is not the correction. It is StateNet's raw output with the weights of seed {SEED}, "
    f"{_raw('delta_lr')} in the original's own run of this seed. A scale of 5 % makes the correction of it."
)


def _statenet_range(index: int) -> Rule:
    """Return a rule for the shift of a loss weight by StateNet."""
    name = f"delta_lambda{index}"

    def shift(run: SeedEvidence) -> Any:
        return run.config.statenet.lambda_scale * run.over(name, 0, 103)
    return Rule(
        of=f"The least and the greatest shift of λ{'₁₂₃'[index - 1]} by StateNet in epochs 0-103",
        ends=(lambda run: float(shift(run).min()), lambda run: float(shift(run).max())),
        order=lambda run: float(shift(run).min()) > 0, way="every shift is positive in every run",
        note=f"The printed range is not the shift. It is StateNet's raw output with the weights of seed {SEED}, "
        f"{_raw(name)} in the original's own run of this seed. A scale of 1 % makes the shift of it.",
    )


def _loss(epoch: int) -> float:
    """Return the training loss that the original's run of the report's seed prints at an epoch."""
    runs = original_runs()
    return float(runs.loc[(runs["seed"] == SEED) & (runs["epoch"] == epoch), "train_loss"].iloc[0])


def _repeated(evidence: Evidence) -> str:
    """Return whether the original's run of the report's seed repeats the training losses of the report."""
    epochs = (0, 10, 49, 50, 51, 60, 100)
    equal = sum(abs(_loss(epoch) - ledger().v(f"train-loss-epoch-{epoch}")) < 1e-9 for epoch in epochs)
    return "reproducible" if equal == len(epochs) else f"{equal} of {len(epochs)} losses are equal"


ORIGINAL_RULES: Mapping[str, Rule] = {
    # Files
    "config-path": _file(SETTINGS),
    "path-train-script": _file(SCRIPT),
    "path-model-code": _file("src/models/ternary_vae_v5_5.py"),
    "path-report": _file("reports/training_report_2025-11-23.md"),
    "path-theory-maths": _file("docs/theory/MATHEMATICAL_FOUNDATIONS.md"),
    "path-theory-model": _file("docs/theory/WHAT_DOES_THIS_MODEL_DO.md"),
    "path-install-guide": _file("docs/INSTALLATION_AND_USAGE.md"),
    "path-previous-session": _file(SESSION),
    "path-tests": _file("tests/"),
    "checkpoint-folder": _known("The folder of the checkpoints", f"{CODE.values['checkpoint_dir']}/", _in(SETTINGS)),
    # Code and settings
    "config-all-validated": Rule(
        of="Whether every setting of the original's configuration changes a run", fact=_without_effect,
        source=_in(SCRIPT), note=f"These settings change nothing: {', '.join(CODE.without_effect)}.",
    ),
    "v5-5-uses-hash": _known(
        "How the original counts", "hash-based" if "hash" in CODE.counting else CODE.counting, _in(SCRIPT),
        f"It is {CODE.counting}. Any other count of distinct operations gives the same figure.",
    ),
    "checkpoint-contains-optimizer": _known(
        "The contents of a checkpoint",
        "parameters and optimizer state" if {"parameters", "optimizer state"} <= set(CODE.in_checkpoint) else "others",
        _in(SCRIPT), f"A checkpoint contains {', '.join(CODE.in_checkpoint)}.",
    ),
    "logs-in-checkpoints": _known(
        "The contents of a checkpoint",
        "logs inside checkpoints" if any("histories" in part for part in CODE.in_checkpoint) else "no logs",
        _in(SCRIPT), "They contain the histories of H and coverage and StateNet's corrections, but no loss.",
    ),
    "kl-target-range": _known(
        "The target of KL", [CODE.values["target_kld_min"], CODE.values["target_kld_max"]], _in(SETTINGS),
        "No code reads it.",
    ),
    "eps-kl": _known(
        "The KL epsilon", CODE.values["model.eps_kl"], _in(SETTINGS), "The code stores it and uses it nowhere.",
    ),
    "monitoring-interval-v5-4": _known(
        "The number of epochs between two readings in v5.4", CODE.v5_4_monitoring_interval,
        f"a comment in {_in(SETTINGS)}",
    ),
    # The earlier session
    "disruption-known-feature": _known(
        "What the earlier session calls the spike", CODE.early_session["disruption"].split(",")[0], _in(SESSION),
        f"It says: {CODE.early_session['disruption']}.",
    ),
    "history-sampling-coverage": _known(
        "The sampled coverage of A in the earlier session, in percent", CODE.early_session["sampled_coverage"]["A"],
        _in(SESSION), "It is a printed figure; no weights of that session exist here.",
    ),
    "history-hash-coverage": _known(
        "The hash-validated coverage of A in the earlier session, in percent",
        CODE.early_session["hash_validated_coverage"]["A"], _in(SESSION),
        "It is a printed figure; no weights of that session exist here. Coverage of v5.5 with 50,000 argmax draws is "
        "as low (notebook 05).",
    ),
    # Runs of the original
    "delta-lr-phase-2": number(
        "The mean correction of the learning rate by StateNet in epochs 40-103, in percent",
        lambda run: float(lr_correction(run).loc[40:].mean()),
        RAW_RATE, order=lambda run: float(lr_correction(run).loc[40:].mean()) > 0,
        way="the mean is positive in every run", until=103,
    ),
    "delta-lr-typical": Rule(
        of="The middle half of StateNet's corrections of the learning rate in epochs 0-103, in percent",
        ends=(
            lambda run: float(lr_correction(run).quantile(0.25)),
            lambda run: float(lr_correction(run).quantile(0.75)),
        ),
        note=RAW_RATE, order=lambda run: float(lr_correction(run).min()) > 0,
        way="every correction is positive in every run",
    ),
    "seed-reproducible": Rule(
        of="Whether the original's run of seed 42 on another machine repeats the printed training losses",
        fact=_repeated, source="3 printed runs of the original",
        note=f"At epoch 50 the report prints {ledger().v('train-loss-epoch-50'):.4f}, and the original run again "
        f"prints {_loss(50):.4f}. A seed fixes a run only on the same type of machine.",
    ),
    **{f"delta-lambda{i}-range": _statenet_range(i) for i in (1, 2, 3)},
}
