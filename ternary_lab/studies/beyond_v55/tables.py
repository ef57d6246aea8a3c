"""Recipes compared: v5.5, v5.5 with one or all of its defects repaired, and configurations beyond it.

A recipe is a shipped configuration. It is trained for 104 epochs, with seeds that were not used for any choice. The
table has a row per recipe, seed and pathway. The effect of a defect is the difference from v5.5, seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from tqdm import tqdm

from ternary_lab import space, splits
from ternary_lab.backend.numerics import fenced
from ternary_lab.config_files import load_config
from ternary_lab.errors import ConfigError, RunError, nearest
from ternary_lab.metrics.baselines import scaled
from ternary_lab.metrics.evaluate import Evaluation, evaluate
from ternary_lab.metrics.quantities import QUANTITIES, label
from ternary_lab.model import PATHWAYS, Pathway, TernaryVAE
from ternary_lab.runs.checkpoint import Checkpoint
from ternary_lab.runs.files import write_table
from ternary_lab.runs.load import PUBLISHED, RunRecord, RunSet, load_runs
from ternary_lab.runs.train import run_experiment
from ternary_lab.studies.beyond_v55.alternative_families import pathway_metrics
from ternary_lab.studies.statistics import load_table, paired_differences

RecipeGroup = Literal["v5.5", "defect", "repaired", "statenet", "beyond", "part", "front", "short"]

END = 103
"""The last epoch of every recipe but the short ones."""
WOBBLE_EPOCHS = 20
"""Number of epochs at the end for `wobble`."""
FIRST_SPIKE_EPOCH = 10
"""First epoch that can have a spike: before it the loss still falls steeply."""
LATENTS, MORE_LATENTS = 2**20, 2**22
"""Numbers of Sobol latents: for most recipes, and for those of `REPORTED`, which have goals."""
FACTORS = (1, 2, 4, 8, 16, 32)
"""Factors of v5.5's logits, for the generators that it becomes without further training."""
TABLE, SEARCH = "recipes.csv", "search.csv"
V5_5, REPAIRED, BEYOND, SHARPENED = "v5_5", "ablations/all_repaired", "beyond", "v5_5_sharpened"

REPORTED = (V5_5, REPAIRED, BEYOND)
"""The recipes in the report."""
TAUGHT = ("ablations/statenet_learns", "variants/statenet_learns")
"""Recipes in which StateNet learns: with v5.5's objective, and with that of `BEYOND`."""
OFF, DRAWN = "ablations/statenet_off", "variants/statenet_as_drawn"
"""v5.5 without its StateNet; `BEYOND`, which has none, with a StateNet that keeps its initial weights."""
WIDE = "variants/one_wide_pathway"


@dataclass(frozen=True)
class Recipe:
    """A configuration by its shipped name, which is also the name of its runs' folder."""

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
    Recipe(DRAWN, "with StateNet as drawn", "statenet"),
    Recipe(TAUGHT[1], "with StateNet that learns", "statenet"),
    Recipe("variants/injected", "with cross-injection", "part"),
    Recipe("variants/aligned", "with alignment", "part"),
    Recipe(WIDE, "one wide pathway", "part"),
    Recipe("variants/information_10", "information × 10", "front"),
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
"""Seeds of the published table. None of them was used while recipes were chosen."""
FEWER = ("part", "front")
"""Groups that are trained with half of the seeds, because their effects are far larger than the intervals."""


@fenced
def write_recipes(
    names: Sequence[str], seeds: Sequence[int], folder: Path, table: Path, latents: int | None = None, *,
    device: str | torch.device = "auto", progress: bool = False,
) -> Path:
    """Train recipes (default: all) into `folder`/NAME and write their rows into a table, which is returned.

    Rows of other recipes in the table are kept. Recipes that are in the folder already are not trained again. The
    default number of latents is `LATENTS` or `MORE_LATENTS`. Raises TernaryLabError, also for an unknown name.
    """
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise ConfigError(f"{unknown[0]}: no such recipe{nearest(unknown[0], RECIPES, '`ternary-lab list recipes`')}")
    for name in names or RECIPES:
        runs = run_experiment(load_config(name), seeds, folder / name, device=device, progress=progress)
        most = MORE_LATENTS if name in REPORTED else LATENTS
        rows = list(recipe_rows(name, runs, latents or most, progress=progress))
        if name == V5_5:
            rows += sharpened_rows(runs, latents=latents or LATENTS, progress=progress)
        found = pd.DataFrame(rows)
        if table.is_file():
            before = pd.read_csv(table)
            found = pd.concat([before[~before["recipe"].isin(found["recipe"])], found], ignore_index=True)
        write_table(found, table)
    return table


@fenced
def write_all(
    folder: str | Path, table: str | Path, *, device: str | torch.device = "auto", progress: bool = False
) -> Path:
    """Train and measure every recipe with its seeds in the published table, as `write_recipes` does."""
    for recipe in RECIPES.values():
        write_recipes([recipe.name], seeds_of(recipe), Path(folder), Path(table), device=device, progress=progress)
    return Path(table)


def seeds_of(recipe: Recipe) -> tuple[int, ...]:
    """Seeds of a recipe in the published table."""
    return SEEDS[: len(SEEDS) // 2] if recipe.group in FEWER else SEEDS


def recipe_rows(
    recipe: str, runs: RunSet, latents: int = LATENTS, *, progress: bool = False
) -> Iterator[dict[str, Any]]:
    """Rows of the table: both pathways of every run, at its `end_point`."""
    for seed, run in tqdm(runs.items(), desc=recipe, unit="run", disable=not progress):
        point, history = end_point(run), run.history
        steady = {p: steadiness(history[history["epoch"] <= END], p) for p in PATHWAYS}
        for values in _evaluated(point, point.model(), seed, latents):
            yield {"recipe": recipe, "factor": 1.0, **values, **steady[values["pathway"]]}


def sharpened_rows(
    runs: RunSet, factors: Sequence[float] = FACTORS, latents: int = LATENTS, *, progress: bool = False
) -> Iterator[dict[str, Any]]:
    """Rows of v5.5 with its logits multiplied by each factor, without further training."""
    for seed, run in tqdm(runs.items(), desc="sharpened", unit="run", disable=not progress):
        point = end_point(run)
        for factor in factors:
            for values in _evaluated(point, scaled(point.model(), factor), seed, latents):
                yield {"recipe": SHARPENED, "factor": factor, **values}


@fenced
def end_point(run: RunRecord) -> Checkpoint:
    """The checkpoint of `END` or of the run's last epoch, or the last one before it. Raises RunError for none."""
    last = min(END, int(run.history["epoch"].max()))
    try:
        return run.checkpoint(last)
    except RunError:
        kept = [epoch for epoch in run.epochs if epoch < last]
        if not kept:
            raise
        return run.checkpoint(kept[-1])


def steadiness(history: pd.DataFrame, pathway: Pathway) -> dict[str, float]:
    """How smoothly a run trained: `spike` and `wobble`, in nats.

    `spike` is the largest rise of the training loss in one epoch, from `FIRST_SPIKE_EPOCH` on. `wobble` is the mean
    change of the validation -ELBO from one epoch to the next, over the last `WOBBLE_EPOCHS` epochs.
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
    """Informative coverage, %, of the generator that uses A or B with equal chance; its latent includes the choice.

    Its H(X) is not corrected for the number of latents, unlike that of each pathway.
    """
    p = (found.output["A"] + found.output["B"]).double() / 2
    information = -float(torch.xlogy(p, p).sum()) - (found.A.decoder_noise + found.B.decoder_noise) / 2
    return float(100 * math.exp(information) / space.SIZE)


def load_recipes(path: str | Path = TABLE) -> pd.DataFrame:
    """The published table of recipes, or the table in a file, with a column `title`. Raises RunError for none."""
    table = load_table(path, "recipes", "recipes")
    return table.assign(title=[
        RECIPES[name].title if name in RECIPES else f"v5.5, logits × {factor:g}"
        for name, factor in zip(table["recipe"], table["factor"], strict=True)
    ])


def load_histories(name: str, folder: str = "") -> pd.DataFrame:
    """The histories of a recipe's runs: published, or in a folder of `ternary-lab recipes`. Raises RunError for none.

    Effective coverage is nan if fewer latents were decoded than there are operations: that does not suffice for it.
    """
    runs = load_runs(f"{folder}/{name}" if folder else name)
    history = runs.history
    if any(run.config.evaluation.latents < space.SIZE for run in runs.values()):
        history[[f"effective_coverage_{p}" for p in PATHWAYS]] = math.nan
    return history


def load_search() -> pd.DataFrame:
    """The published search for `BEYOND`: a row per trial and pathway. Its seeds are not in the table of recipes.

    Trials were measured with 2^16 latents and 32 importance samples. `output_deficit` is ln N - H(X), in nats. Some
    trials have a linear cost of certainty; `ternary_lab.information_loss` has the squared one only.
    """
    return pd.read_csv(PUBLISHED / SEARCH, keep_default_na=False, na_values=[""])


def recipe_names(table: pd.DataFrame, *wanted: str) -> list[str]:
    """The names of a table's recipes that belong to the wanted groups or names, in the order of `RECIPES`."""
    known = set(table["recipe"])
    return [name for name, recipe in RECIPES.items() if name in known and {name, recipe.group} & set(wanted)]


def pick(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows of some recipes, in the order of the names."""
    rows = table[table["recipe"].isin(names)]
    return rows.sort_values("recipe", key=lambda column: column.map(list(names).index), kind="stable")


def recipe_differences(table: pd.DataFrame, names: Sequence[str], base: str, metrics: Sequence[str]) -> pd.DataFrame:
    """recipe, title, pathway, metric, n, mean, low, high: difference from the base, seed by seed, 95 % interval."""
    return paired_differences(pick(table, list(dict.fromkeys((*names, base)))), "recipe", base, metrics, ["pathway"])


def differences_text(differences: pd.DataFrame) -> str:
    """Differences as text: a table per metric, a line per recipe, `mean [low, high]` of both pathways."""
    blocks = []
    for metric, rows in differences.groupby("metric", sort=False):
        cells = rows.assign(cell=[f"{x.mean:+.3g} [{x.low:+.3g}, {x.high:+.3g}]" for x in rows.itertuples()])
        wide = cells.pivot(index="title", columns="pathway", values="cell").loc[rows["title"].unique()]
        blocks.append(f"{MEASURES[str(metric)]}\n{wide.rename_axis(None).rename_axis(None, axis=1).to_string()}")
    return "\n\n".join(blocks)


def clear_differences(differences: pd.DataFrame, bullet: str = "- ") -> str:
    """Markdown: for each metric the recipes whose interval does not contain 0, better ones and worse ones."""
    lines = []
    for metric, rows in differences.groupby("metric", sort=False):
        signed = (1 if QUANTITIES[str(metric)].better == "more" else -1) * rows[["low", "high"]]
        sides = {"better": signed.min(axis=1) > 0, "worse": signed.max(axis=1) < 0}
        said = {
            side: ", ".join(f"{x.title} ({x.pathway})" for x in rows[where].itertuples()) or "none"
            for side, where in sides.items()
        }
        lines.append(f"{bullet}**{MEASURES[str(metric)]}**: better: {said['better']}; worse: {said['worse']}.")
    return "\n".join(lines)


def goals_reached(
    medians: pd.DataFrame, goals: Mapping[str, tuple[float, str]], names: Sequence[str]
) -> pd.DataFrame:
    """A row per goal: its value, and for each recipe `A / B`, with a ✓ if both pathways reach it.

    Args:
        medians: a column per metric, index recipe and pathway.
        goals: metric -> (value, "≥" or "≤").
    """
    rows = {}
    for metric, (goal, side) in goals.items():
        cells = {"goal": f"{side} {goal:.4g}"}
        for name in names:
            values = [float(medians[metric][name, p]) for p in PATHWAYS]
            met = all(value >= goal if side == "≥" else value <= goal for value in values)
            cells[RECIPES[name].title] = f"{values[0]:.4g} / {values[1]:.4g}{' ✓' if met else ''}"
        rows[MEASURES[metric]] = cells
    return pd.DataFrame.from_dict(rows, orient="index")
