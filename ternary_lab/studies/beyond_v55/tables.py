"""The table of recipes: what is trained, how it is measured, and how it is loaded. `comparisons` compares the rows.

A recipe is a shipped configuration: v5.5 itself, v5.5 with one or all of its defects repaired, or an extension of v5.5.
Every recipe is trained for 104 epochs, except the short recipes. The seeds were not used for any choice. The table has
a row per recipe, seed and pathway. The effect of a repaired defect is the difference from v5.5 with the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from ternary_lab import space, splits
from ternary_lab.arguments import read_path
from ternary_lab.backend.console import bar
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.config import COUNTERFACTUALS
from ternary_lab.config_files import load_config, load_counterfactual
from ternary_lab.errors import ConfigError, nearest
from ternary_lab.metrics.baselines import scaled
from ternary_lab.metrics.evaluate import Evaluation, evaluate
from ternary_lab.metrics.quantities import label
from ternary_lab.model import PATHWAYS, Pathway, TernaryVAE
from ternary_lab.runs.checkpoint import Checkpoint
from ternary_lab.runs.files import read_csv, require_writable, write_table
from ternary_lab.runs.load import PUBLISHED, RunRecord, RunSet, load_runs
from ternary_lab.runs.train import run_experiment, train_counterfactuals
from ternary_lab.studies.beyond_v55.alternative_families import pathway_metrics
from ternary_lab.studies.epoch50_disruption.tables import CONTROL
from ternary_lab.studies.statistics import load_table

RecipeGroup = Literal["v5.5", "defect", "repaired", "statenet", "beyond", "one rate", "part", "front", "short"]

END = 103
"""Last epoch of every recipe except the short recipes."""
WOBBLE_EPOCHS = 20
"""Number of last epochs over which `wobble` is computed."""
FIRST_SPIKE_EPOCH = 10
"""First epoch that can have a spike. The loss still falls steeply before this epoch."""
LATENTS, MORE_LATENTS = 2**20, 2**22
"""Numbers of Sobol latents: the first for most recipes, the second for the recipes in `REPORTED`, which have goals."""
FACTORS = (1, 2, 4, 8, 16, 32)
"""Factors by which v5.5's logits are multiplied. The resulting generators are not trained further."""
TABLE, SEARCH, SECOND_SEARCH = "recipes.csv", "search.csv", "second_search.csv"
V5_5, REPAIRED, BEYOND, SHARPENED = "v5_5", "ablations/all_repaired", "beyond", "v5_5_sharpened"

REPORTED = (V5_5, REPAIRED, BEYOND)
"""Recipes in the report, which is notebook 11."""
TAUGHT = ("ablations/statenet_learns", "variants/statenet_learns")
"""Recipes in which StateNet learns, with the objective of v5.5 and with the objective of `ONE_RATE`."""
OFF, DRAWN = "ablations/statenet_off", "variants/statenet_as_drawn"
"""v5.5 without its StateNet, and `ONE_RATE` with a StateNet that keeps its initial weights."""
ONE_RATE, WIDE = "variants/one_rate", "variants/one_wide_pathway"
"""`BEYOND` with one learning rate and one posterior sample, and its variant with a single wide pathway.

`ONE_RATE` trains faster than `BEYOND`, so the other variants are variants of it. Neither has a StateNet.
"""


@dataclass(frozen=True)
class Recipe:
    """A shipped configuration that is compared with others.

    `name` is the name of the configuration and of the folder of its runs.
    """

    name: str
    title: str
    group: RecipeGroup


RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (
    Recipe(V5_5, "v5.5", "v5.5"),
    Recipe("ablations/beta_b_warms_up", "β_B warms up", "defect"),
    Recipe("ablations/free_bits_of_means", "free bits of means", "defect"),
    Recipe("ablations/alignment_with_gradient", "alignment with gradient", "defect"),
    Recipe("ablations/raw_gradient_norms", "raw gradient norms", "defect"),
    Recipe(TAUGHT[0], "StateNet learns", "defect"),
    Recipe(REPAIRED, "all repaired", "repaired"),
    Recipe(OFF, "StateNet off", "statenet"),
    Recipe(BEYOND, "beyond", "beyond"),
    Recipe(ONE_RATE, "one learning rate", "one rate"),
    Recipe(DRAWN, "with StateNet as drawn", "statenet"),
    Recipe(TAUGHT[1], "with StateNet that learns", "statenet"),
    Recipe("variants/injected", "with cross-injection", "part"),
    Recipe("variants/aligned", "with alignment", "part"),
    Recipe(WIDE, "one wide pathway", "part"),
    Recipe("variants/information_10", "information weight 10", "front"),
    Recipe("variants/unbounded_certainty", "certainty unbounded", "front"),
    Recipe("variants/in_52_epochs", "in 52 epochs", "short"),
    Recipe("variants/in_26_epochs", "in 26 epochs", "short"),
)}

MEASURES: Mapping[str, str] = {name: label(name, split) for name, split in (
    ("informative_coverage", ""), ("effective_coverage", ""), ("neg_elbo", "test"), ("neg_iwae", "test"),
    ("reconstruction_test", ""), ("missing_mass", ""), ("n99", ""), ("spike", ""), ("wobble", ""),
)}
"""Columns of the table by which recipes are compared, with their labels."""
SEEDS = tuple(range(42, 50))
"""Seeds of the published table. None of these seeds was used while recipes were chosen."""
FEWER = ("part", "front")
"""Groups that are trained with half of the seeds, because their effects are far larger than the intervals."""


@with_fixed_arithmetic
def write_recipes(
    names: Sequence[str], seeds: Sequence[int], folder: Path, table: Path, latents: int | None = None, *,
    device: str | torch.device = "auto", progress: bool = False,
) -> Path:
    """Train recipes into the folders `folder`/NAME, write their rows into a table, and return the path of the table.

    All recipes are trained if `names` is empty. Rows of other recipes in the table are kept. Recipes that are already
    in the folder are not trained again. The default number of latents is `LATENTS` or `MORE_LATENTS`. Raises
    TernaryLabError, for example for an unknown name.
    """
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise ConfigError(f"{unknown[0]}: no such recipe{nearest(unknown[0], RECIPES, '`ternary-lab list recipes`')}")
    require_writable(table)
    for name in names or RECIPES:
        runs = run_experiment(load_config(name), seeds, folder / name, device=device, progress=progress)
        most = MORE_LATENTS if name in REPORTED else LATENTS
        if name == V5_5:
            ends = _until_the_end(runs, folder / COUNTERFACTUALS, device, progress)
            rows = [*recipe_rows(name, runs, latents or most, ends=ends, progress=progress),
                    *sharpened_rows(ends, latents=latents or LATENTS, progress=progress)]
        else:
            rows = list(recipe_rows(name, runs, latents or most, progress=progress))
        found = pd.DataFrame(rows)
        if table.is_file():
            before = read_csv(table)
            found = pd.concat([before[~before["recipe"].isin(found["recipe"])], found], ignore_index=True)
        write_table(found, table)
    return table


@with_fixed_arithmetic
def write_all(
    folder: str | Path, table: str | Path, *, device: str | torch.device = "auto", progress: bool = False
) -> Path:
    """Train and measure every recipe with its seeds of the published table, and return the path of the new table."""
    folder, table = read_path(folder), read_path(table)
    for recipe in RECIPES.values():
        write_recipes([recipe.name], seeds_of(recipe), folder, table, device=device, progress=progress)
    return table


def seeds_of(recipe: Recipe) -> tuple[int, ...]:
    """Return the seeds of a recipe in the published table."""
    return SEEDS[: len(SEEDS) // 2] if recipe.group in FEWER else SEEDS


def _until_the_end(runs: RunSet, folder: Path, device: str | torch.device, progress: bool) -> RunSet:
    """Return runs with the same weights that end at epoch `END`.

    A run of v5.5 goes on after this epoch and does not keep the weights of this epoch. The counterfactual without a
    change ends there.
    """
    control = load_counterfactual(CONTROL)
    return train_counterfactuals(
        list(runs.values()), [control], folder, device=device, progress=progress
    )[control.name]


def recipe_rows(
    recipe: str, runs: RunSet, latents: int = LATENTS, *, ends: RunSet | None = None, progress: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield rows of the table for both pathways of every run, measured at the `end_point`.

    If runs go on after epoch `END`, `ends` are runs with the same seeds and weights that end at this epoch.
    """
    for seed, run in bar(runs.items(), desc=recipe, unit="run", show=progress):
        point, history = end_point((ends or runs)[seed]), run.history
        steady = {p: steadiness(history[history["epoch"] <= END], p) for p in PATHWAYS}
        for values in _evaluated(point, point.model(), seed, latents):
            yield {"recipe": recipe, "factor": 1.0, **values, **steady[values["pathway"]]}


def sharpened_rows(
    runs: RunSet, factors: Sequence[float] = FACTORS, latents: int = LATENTS, *, progress: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield rows of v5.5 with its logits multiplied by each factor, without further training."""
    for seed, run in bar(runs.items(), desc="sharpened", unit="run", show=progress):
        point = end_point(run)
        for factor in factors:
            for values in _evaluated(point, scaled(point.model(), factor), seed, latents):
                yield {"recipe": SHARPENED, "factor": factor, **values}


@with_fixed_arithmetic
def end_point(run: RunRecord) -> Checkpoint:
    """Return the checkpoint of epoch `END` or, if the run is shorter, of its last epoch.

    Raises RunError if there is no such checkpoint.
    """
    return run.checkpoint(min(END, int(run.history["epoch"].max())))


def steadiness(history: pd.DataFrame, pathway: Pathway) -> dict[str, float]:
    """Return measures of how smoothly a run was trained: `spike` and `wobble`, in nats.

    `spike` is the largest rise of the training loss in one epoch, from `FIRST_SPIKE_EPOCH` on. `wobble` is the mean
    absolute change of the validation -ELBO from one epoch to the next, over the last `WOBBLE_EPOCHS` epochs.
    """
    loss = history.loc[history["epoch"] >= FIRST_SPIKE_EPOCH - 1, "train_loss"]
    late = history.loc[history["epoch"] > history["epoch"].max() - WOBBLE_EPOCHS, f"neg_elbo_{pathway}"]
    return {"spike": float(loss.diff().max()), "wobble": float(late.diff().abs().mean())}


def _evaluated(point: Checkpoint, model: TernaryVAE, seed: int, latents: int) -> Iterator[dict[str, Any]]:
    found = evaluate(model, latents=latents, seed=seed, split=splits.split(point.config.data))
    for p in PATHWAYS:
        yield {"seed": seed, "pathway": p, "epoch": point.epoch, "latents": latents,
               **pathway_metrics(found, p), "informative_coverage_both": joint_informative_coverage(found)}


def joint_informative_coverage(found: Evaluation) -> float:
    """Return the informative coverage, in percent, of the generator that uses A or B with equal chance.

    The latent of this generator includes the choice of A or B. The entropy H(X) of its output is not corrected for the
    number of latents, unlike the entropy of each pathway.
    """
    p = (found.output["A"] + found.output["B"]).double() / 2
    information = -float(torch.xlogy(p, p).sum()) - (found.A.decoder_noise + found.B.decoder_noise) / 2
    return float(100 * math.exp(information) / space.SIZE)


def load_recipes(path: str | Path = TABLE) -> pd.DataFrame:
    """Load the published table of recipes, or the table in a file, and add a column `title`.

    Raises RunError if there is no such table.
    """
    table = load_table(path, "recipes", "recipes")
    return table.assign(title=[
        RECIPES[name].title if name in RECIPES else f"v5.5, logits × {factor:g}"
        for name, factor in zip(table["recipe"], table["factor"], strict=True)
    ])


def load_histories(name: str, folder: str = "") -> pd.DataFrame:
    """Return the histories of a recipe's runs, either published or in a folder of `ternary-lab recipes`.

    Effective coverage is nan if fewer latents were decoded than there are operations. So few latents do not suffice for
    this measure. Raises RunError if there are no such runs.
    """
    runs = load_runs(f"{folder}/{name}" if folder else name)
    history = runs.history
    if any(run.config.evaluation.latents < space.SIZE for run in runs.values()):
        history[[f"effective_coverage_{p}" for p in PATHWAYS]] = math.nan
    return history


def load_search() -> pd.DataFrame:
    """Return the published search for `ONE_RATE`, with a row per trial and pathway.

    The seeds of the search are not in the table of recipes. Trials were measured with 2^16 latents and 32 importance
    samples. `output_deficit` is ln N - H(X), in nats. Some trials have a linear cost of certainty.
    `ternary_lab.losses.information_loss` has only the squared cost.
    """
    return read_csv(PUBLISHED / SEARCH, keep_default_na=False, na_values=[""])


def load_second_search() -> pd.DataFrame:
    """Return the published search for `BEYOND`, with a row per trial. A trial is one run of one pathway.

    The seeds are 1000 to 1007, and no other table has them. The rates are those at the first epoch, or after the
    warm-up. `late_factor` multiplied the information weights in the last fifth of a run. `average_of_weights` is the
    momentum of a moving average of the weights, which replaced the weights at the end. `decay` is the setting
    `information.decay`. Coverage was measured with 2^18 or 2^19 latents and is corrected for their number.
    """
    return read_csv(PUBLISHED / SECOND_SEARCH)


def recipe_names(table: pd.DataFrame, *wanted: str) -> list[str]:
    """Return the names of those recipes in a table whose name or group is in `wanted`, in the order of `RECIPES`."""
    known = set(table["recipe"])
    return [name for name, recipe in RECIPES.items() if name in known and {name, recipe.group} & set(wanted)]


def pick(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the rows of the recipes in `names`, in the order of the names."""
    rows = table[table["recipe"].isin(names)]
    return rows.sort_values("recipe", key=lambda column: column.map(list(names).index), kind="stable")
