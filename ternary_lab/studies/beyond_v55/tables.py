"""Recipes compared: v5.5, each of its defects mended, all of them at once, and what goes beyond it.

A recipe is a shipped configuration, trained for 104 epochs with seeds that nothing was chosen by. The table has a row
per recipe, seed and pathway. What a defect does is the difference from v5.5, seed by seed.
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
from ternary_lab.model import PATHWAYS, Pathway, TernaryVAE
from ternary_lab.runs.checkpoint import Checkpoint
from ternary_lab.runs.files import write_table
from ternary_lab.runs.load import PUBLISHED, RunRecord, RunSet, load_runs, local_or_published
from ternary_lab.runs.train import run_experiment
from ternary_lab.studies.beyond_v55.alternatives import row
from ternary_lab.studies.statistics import interval

Group = Literal["v5.5", "defect", "repaired", "statenet", "beyond", "part", "front", "short"]

END = 103
"""The last epoch of every recipe but the short ones."""
CALM = 20
"""Epochs at the end that `wobble` is taken over."""
SETTLED = 10
"""First epoch whose rise counts as a spike: before it the loss is still falling steeply."""
LATENTS, CLOSE = 2**20, 2**22
"""Sobol latents that recipes are measured with, and those of `THREE`, for which a goal is set."""
FACTORS = (1, 2, 4, 8, 16, 32)
"""What the logits of v5.5 are multiplied by, for the generator that it becomes without any training."""
TABLE, SEARCH = "recipes.csv", "search.csv"
V5_5, REPAIRED, BEYOND, SHARPENED = "v5_5", "ablations/all_repaired", "beyond", "v5_5_sharpened"

THREE = (V5_5, REPAIRED, BEYOND)
"""The recipes that the report compares."""
TAUGHT = ("ablations/statenet_learns", "variants/statenet_learns")
"""Recipes in which StateNet learns: under v5.5's objective, and under that of beyond."""
OFF, DRAWN = "ablations/statenet_off", "variants/statenet_as_drawn"
"""v5.5 without StateNet, where v5.5 has one as drawn; beyond with one as drawn, where beyond has none."""
WIDE = "variants/one_wide_pathway"


@dataclass(frozen=True)
class Recipe:
    """A configuration by its shipped name, which is also the folder of its runs."""

    name: str
    title: str
    group: Group


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

MEASURES: Mapping[str, str] = {
    "informative_coverage": "informative coverage, %",
    "effective_coverage": "effective coverage, %",
    "neg_elbo": "-ELBO, test, nats",
    "neg_iwae": "-IWAE, test, nats",
    "reconstruction_test": "reconstruction, test, %",
    "missing_mass": "KL(U‖p), nats",
    "n99": "n₉₉, draws",
    "spike": "largest rise of the loss",
    "wobble": "wobble of -ELBO, nats",
}
"""Columns of the table that recipes are compared by."""
BETTER: Mapping[str, int] = {
    "informative_coverage": 1, "effective_coverage": 1, "neg_elbo": -1, "neg_iwae": -1, "reconstruction_test": 1,
    "missing_mass": -1, "n99": -1, "spike": -1, "wobble": -1,
}
"""Whether more of a measure is better, 1, or less, -1."""
SEEDS = tuple(range(42, 50))
"""Seeds that recipes are reported on. None of them was looked at while a recipe was chosen."""
FEWER = ("part", "front")
"""Groups of which half the seeds are trained: what they are compared for is far larger than its interval."""


@fenced
def write_recipes(
    names: Sequence[str], seeds: Sequence[int], folder: Path, table: Path, latents: int | None = None, *,
    device: str | torch.device = "auto", progress: bool = False,
) -> Path:
    """Train recipes (default: all) into `folder`/NAME and write their rows into a table; other rows of it are kept.

    They are measured with so many latents, by default `LATENTS` or `CLOSE`.

    Recipes that are there already are not trained again. Raises TernaryLabError, for a name that is none too.
    """
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise ConfigError(f"{unknown[0]}: no such recipe{nearest(unknown[0], RECIPES, '`ternary-lab list recipes`')}")
    for name in names or RECIPES:
        runs = run_experiment(load_config(name), seeds, folder / name, device=device, progress=progress)
        rows = list(measured(name, runs, latents or (CLOSE if name in THREE else LATENTS), progress=progress))
        if name == V5_5:
            rows += sharpened(runs, latents=latents or LATENTS, progress=progress)
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
    """Train and measure every recipe with the seeds of the published table; see `write_recipes`."""
    for recipe in RECIPES.values():
        write_recipes([recipe.name], seeds_of(recipe), Path(folder), Path(table), device=device, progress=progress)
    return Path(table)


def seeds_of(recipe: Recipe) -> tuple[int, ...]:
    """The seeds that a recipe has in the published table."""
    return SEEDS[: len(SEEDS) // 2] if recipe.group in FEWER else SEEDS


def measured(
    recipe: str, runs: RunSet, latents: int = LATENTS, *, progress: bool = False
) -> Iterator[dict[str, Any]]:
    """Rows of the table: both pathways of every run at `END`, or at the last epoch before it whose weights are kept."""
    for seed, run in tqdm(runs.items(), desc=recipe, unit="run", disable=not progress):
        point, history = end(run), run.history
        steady = {p: steadiness(history[history["epoch"] <= END], p) for p in PATHWAYS}
        for values in _evaluated(point, point.model(), seed, latents):
            yield {"recipe": recipe, "factor": 1.0, **values, **steady[values["pathway"]]}


def sharpened(
    runs: RunSet, factors: Sequence[float] = FACTORS, latents: int = LATENTS, *, progress: bool = False
) -> Iterator[dict[str, Any]]:
    """Rows of v5.5 with its logits multiplied by each factor: what its generator becomes without any training."""
    for seed, run in tqdm(runs.items(), desc="sharpened", unit="run", disable=not progress):
        point = end(run)
        for factor in factors:
            for values in _evaluated(point, scaled(point.model(), factor), seed, latents):
                yield {"recipe": SHARPENED, "factor": factor, **values}


@fenced
def end(run: RunRecord) -> Checkpoint:
    """The weights after `END` or the run's own last epoch, or the last kept before it. Raises RunError for none."""
    last = min(END, int(run.history["epoch"].max()))
    try:
        return run.checkpoint(last)
    except RunError:
        kept = [epoch for epoch in run.epochs if epoch < last]
        if not kept:
            raise
        return run.checkpoint(kept[-1])


def steadiness(history: pd.DataFrame, pathway: Pathway) -> dict[str, float]:
    """How smoothly a run went: `spike`, the largest rise of the training loss from one epoch to the next, after the
    first `SETTLED`; `wobble`, the mean change of the validation -ELBO between the last `CALM` epochs, in nats."""
    loss = history.loc[history["epoch"] >= SETTLED - 1, "train_loss"]
    late = history.loc[history["epoch"] > history["epoch"].max() - CALM, f"neg_elbo_{pathway}"]
    return {"spike": float(loss.diff().max()), "wobble": float(late.diff().abs().mean())}


def _evaluated(point: Checkpoint, model: TernaryVAE, seed: int, latents: int) -> Iterator[dict[str, Any]]:
    found = evaluate(model, latents=latents, seed=seed, split=splits.split(point.config.data))
    for p in PATHWAYS:
        yield {"seed": seed, "pathway": p, "epoch": point.epoch, "latents": latents, **row(found, p),
               "informative_coverage_both": of_both(found)}


def of_both(found: Evaluation) -> float:
    """Informative coverage, %, of the generator that asks A or B with equal chance, and whose latent says which.

    H(X) is that of the latents decoded, without the correction for their number that each pathway's has.
    """
    p = (found.output["A"] + found.output["B"]).double() / 2
    information = -float(torch.xlogy(p, p).sum()) - (found.A.decoder_noise + found.B.decoder_noise) / 2
    return float(100 * math.exp(information) / space.SIZE)


def load_recipes(path: str | Path = TABLE) -> pd.DataFrame:
    """The published table, or a file of one, with a column `title`. Raises RunError when there is none."""
    file = local_or_published(path)
    if not file.is_file():
        raise RunError(f"{path}: no table of recipes: make one with `ternary-lab recipes`")
    table = pd.read_csv(file)
    return table.assign(title=[
        RECIPES[name].title if name in RECIPES else f"v5.5, logits × {factor:g}"
        for name, factor in zip(table["recipe"], table["factor"], strict=True)
    ])


def load_histories(name: str, folder: str = "") -> pd.DataFrame:
    """The histories of a recipe's runs: published, or in a folder of `ternary-lab recipes`. Raises RunError.

    Effective coverage is missing where fewer latents than there are operations were decoded: it cannot be told so.
    """
    runs = load_runs(f"{folder}/{name}" if folder else name)
    history = runs.history
    if any(run.config.evaluation.latents < space.SIZE for run in runs.values()):
        history[[f"effective_coverage_{p}" for p in PATHWAYS]] = math.nan
    return history


def load_search() -> pd.DataFrame:
    """What was tried before beyond was chosen, a row per trial and pathway, with seeds of which none is reported on.

    Measured with 2^16 latents and 32 importance samples. `output_deficit` is ln N - H(X), in nats. Linear costs of
    certainty, as against squared ones, are no longer to be had (`ternary_lab.information_loss`).
    """
    return pd.read_csv(PUBLISHED / SEARCH, keep_default_na=False, na_values=[""])


def names(table: pd.DataFrame, *wanted: str) -> list[str]:
    """The recipes that a table has of those wanted, by group or by name, in the order of `RECIPES`."""
    known = set(table["recipe"])
    return [name for name, recipe in RECIPES.items() if name in known and {name, recipe.group} & set(wanted)]


def effects(table: pd.DataFrame, names: Sequence[str], base: str, measures: Sequence[str]) -> pd.DataFrame:
    """recipe, title, pathway, measure, n, mean, low, high: difference from the base, seed by seed, 95 % interval."""
    values = table.set_index(["recipe", "seed", "pathway"])
    rows = []
    for name in names:
        for p in PATHWAYS:
            for measure in measures:
                column = values[measure]
                of, without = (column.xs((r, p), level=("recipe", "pathway")) for r in (name, base))
                rows.append({"recipe": name, "title": RECIPES[name].title, "pathway": p, "measure": measure,
                             **vars(interval((of - without).dropna()))})
    return pd.DataFrame(rows)


def listed(differences: pd.DataFrame) -> str:
    """What `effects` found as text: a table per measure, a line per recipe, `mean [low, high]` of both pathways."""
    blocks = []
    for measure, rows in differences.groupby("measure", sort=False):
        cells = rows.assign(cell=[f"{x.mean:+.3g} [{x.low:+.3g}, {x.high:+.3g}]" for x in rows.itertuples()])
        wide = cells.pivot(index="title", columns="pathway", values="cell").loc[rows["title"].unique()]
        blocks.append(f"{MEASURES[str(measure)]}\n{wide.rename_axis(None).rename_axis(None, axis=1).to_string()}")
    return "\n\n".join(blocks)


def sure(differences: pd.DataFrame, bullet: str = "- ") -> str:
    """Markdown: of each measure, the recipes whose difference leaves 0 out of its interval, and to which side."""
    lines = []
    for measure, rows in differences.groupby("measure", sort=False):
        signed = BETTER[str(measure)] * rows[["low", "high"]]
        sides = {"better": signed.min(axis=1) > 0, "worse": signed.max(axis=1) < 0}
        said = {
            side: ", ".join(f"{x.title} ({x.pathway})" for x in rows[where].itertuples()) or "none"
            for side, where in sides.items()
        }
        lines.append(f"{bullet}**{MEASURES[str(measure)]}**: better: {said['better']}; worse: {said['worse']}.")
    return "\n".join(lines)


def standing(
    medians: pd.DataFrame, goals: Mapping[str, tuple[float, str]], names: Sequence[str]
) -> pd.DataFrame:
    """A row per goal: its value, and of each recipe `A / B`, with a ✓ where both pathways reach it.

    Args:
        medians: a column per measure, index recipe and pathway.
        goals: measure -> (value, "≥" or "≤").
    """
    rows = {}
    for measure, (goal, side) in goals.items():
        cells = {"goal": f"{side} {goal:.4g}"}
        for name in names:
            values = [float(medians[measure][name, p]) for p in PATHWAYS]
            met = all(value >= goal if side == "≥" else value <= goal for value in values)
            cells[RECIPES[name].title] = f"{values[0]:.4g} / {values[1]:.4g}{' ✓' if met else ''}"
        rows[MEASURES[measure]] = cells
    return pd.DataFrame.from_dict(rows, orient="index")


def pick(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows of some recipes, in the order of the names."""
    place = {name: i for i, name in enumerate(names)}
    rows = table[table["recipe"].isin(place)]
    return rows.sort_values("recipe", key=lambda column: column.map(place), kind="stable")
