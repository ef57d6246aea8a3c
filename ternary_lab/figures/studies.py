"""The figures of the notebooks 07 to 10 as files, from the published runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from ternary_lab import disruption, effects, generalisation, model_choice, recipes
from ternary_lab.figures import generalisation as of_generalisation
from ternary_lab.figures import model_choice as of_choice
from ternary_lab.figures import recipes as of_recipes
from ternary_lab.figures import sweeps as of_sweeps
from ternary_lab.figures.save import Drawing, save_figure
from ternary_lab.metrics.per_entry import ideal_front
from ternary_lab.numerics import fenced
from ternary_lab.record import FULL, RunSet, load_runs
from ternary_lab.sweep import load_results

RUNS = "v5_5"
SEEDS = (42, 43, 44, 45)
"""Runs whose weights are published at `model_choice.RECOMMENDED`."""
LAST = 119
"""The last epoch of the training that the report recommends."""
RADII = [i / 4 for i in range(17)]
SHARES = [i / 10 for i in range(11)]
LEAK = (10, 20, 40, 49, 50, 60, 100)
EPOCHS = (60, 100)


def studies() -> Mapping[str, Callable[[], Drawing]]:
    """How each figure is made, by its name."""
    runs, full, experiments = load_runs(RUNS), load_runs(FULL), generalisation.load_experiments()
    some, dense = RunSet({seed: runs[seed] for seed in SEEDS}), runs[SEEDS[0]]
    probes, scores, epoch = disruption.probes(runs), model_choice.scored(full), EPOCHS[-1]
    choices = model_choice.chosen(scores, LAST, fixed=[60, 65, 70, 100])
    g, m, r, s = generalisation, model_choice, of_recipes, of_sweeps
    swept = load_results()
    table, taught = recipes.load_recipes(), [recipes.load_histories(name) for name in recipes.TAUGHT]
    drawn = {name: recipes.load_histories(name) for name in recipes.THREE}
    drawn = {recipes.RECIPES[name].title: rows[rows["epoch"] <= recipes.END] for name, rows in drawn.items()}
    return {
        "reconstruction": lambda: of_generalisation.parts(g.parts(probes)),
        "leak": lambda: of_generalisation.mixing(g.mixing(dense, LEAK, SHARES)),
        "training_size": lambda: of_generalisation.sizes(g.sizes(experiments, runs)),
        "structures": lambda: of_generalisation.structures(g.structures(experiments)),
        "latent_noise": lambda: of_generalisation.tolerance(g.tolerance(some, EPOCHS, RADII)),
        "interpolation": lambda: of_generalisation.interpolation(g.interpolation(some, epoch)),
        "neighbourhoods": lambda: of_generalisation.neighbourhoods(g.neighbourhoods(some, epoch)),
        "checkpoint_scores": lambda: of_choice.scores(scores, LAST),
        "checkpoint_regrets": lambda: of_choice.regrets(m.regret(choices, scores, LAST)),
        "full_training": lambda: of_choice.full(full.history, next(iter(full.values())).config),
        "checkpoint_ensembles": lambda: of_choice.checkpoint_ensembles(m.checkpoint_ensembles(some)),
        "pathway_ensembles": lambda: of_choice.pathway_ensembles(m.pathway_ensembles(dense, dense.epochs)),
        "rate_distortion": lambda: of_choice.rate_distortion(probes),
        "calibration": lambda: of_choice.calibration(m.reliabilities(some, EPOCHS)),
        "operation_bounds": lambda: of_choice.operations(m.operation_bounds(dense, epoch)),
        "defects": lambda: r.compared(table, recipes.names(table, "v5.5", "defect", "repaired"), r.OF_DEFECTS),
        "search": lambda: r.searched(recipes.load_search(), ideal_front(r.WEIGHTS), table),
        "front": lambda: r.front(table, ideal_front(r.WEIGHTS), recipes.names(table, *r.OF_FRONT)),
        "recipes_through_epochs": lambda: r.epochs(drawn, table[table["recipe"] == recipes.SHARPENED]),
        "statenet_worth": lambda: r.compared(table, r.OF_STATENET[recipes.V5_5], r.OF_WORTH),
        "statenet_worth_beyond": lambda: r.compared(table, r.OF_STATENET[recipes.BEYOND], r.OF_WORTH),
        "statenet_decisions": lambda: r.decisions(taught[0], drawn["v5.5"]),
        "statenet_decisions_beyond": lambda: r.decisions(taught[1]),
        "pathways": lambda: r.compared(table, recipes.names(table, *r.OF_PARTS), r.OF_WORTH),
        "sweep_effects": lambda: s.main_effects(effects.main_effects(swept, s.METRICS)),
        "sweep_interactions": lambda: s.interactions(effects.interactions(swept, s.METRICS[:1])),
        "sweep_points": lambda: s.parallel(swept, s.METRICS[0]),
        "alternatives": lambda: of_choice.alternatives(m.load_alternatives()),
    }


@fenced
def draw_studies(folder: str | Path, *, progress: bool = False) -> list[Path]:
    """Draw them all into a folder and return the files. Raises RunError as `save_figure` does."""
    files: list[Path] = []
    for name, draw in tqdm(studies().items(), desc="studies", unit="figure", disable=not progress):
        drawing = draw()
        seeds = sorted({int(seed) for seed in drawing.data["seed"]}) if "seed" in drawing.data else [SEEDS[0]]
        files += save_figure(
            drawing.figure, folder, name, drawing.data, drawing.alt, "ternary_lab.figures", {"runs": RUNS}, seeds
        )
    return files
