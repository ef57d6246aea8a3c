"""The figures of the notebooks 07 to 10 as files, from the published runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from ternary_lab.backend.numerics import fenced
from ternary_lab.figures.save import Drawing, Gallery
from ternary_lab.runs.load import FULL, RunSet, load_runs
from ternary_lab.studies.beyond_v55 import figures as recipe_figures
from ternary_lab.studies.beyond_v55 import tables as recipe_tables
from ternary_lab.studies.beyond_v55.ideal_front import ideal_front
from ternary_lab.studies.checkpoints_and_ensembles import figures as checkpoint_figures
from ternary_lab.studies.checkpoints_and_ensembles import tables as checkpoint_tables
from ternary_lab.studies.epoch50_disruption import tables
from ternary_lab.studies.generalisation import figures as generalisation_figures
from ternary_lab.studies.generalisation import tables as generalisation_tables
from ternary_lab.sweeps import figures as sweep_figures
from ternary_lab.sweeps import main_effects
from ternary_lab.sweeps.run import load_results

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
    runs, full, experiments = load_runs(RUNS), load_runs(FULL), generalisation_tables.load_experiments()
    some, dense = RunSet({seed: runs[seed] for seed in SEEDS}), runs[SEEDS[0]]
    probes, scores, epoch = tables.probes(runs), checkpoint_tables.scored(full), EPOCHS[-1]
    choices = checkpoint_tables.chosen(scores, LAST, fixed=[60, 65, 70, 100])
    g, m, r, s = generalisation_tables, checkpoint_tables, recipe_figures, sweep_figures
    swept = load_results()
    recipes = recipe_tables
    table, taught = recipes.load_recipes(), [recipes.load_histories(name) for name in recipes.TAUGHT]
    drawn = {name: recipes.load_histories(name) for name in recipes.THREE}
    drawn = {recipes.RECIPES[name].title: rows[rows["epoch"] <= recipes.END] for name, rows in drawn.items()}
    return {
        "reconstruction": lambda: generalisation_figures.reconstruction_of_splits(g.parts(probes)),
        "leak": lambda: generalisation_figures.mixing(g.mixing(dense, LEAK, SHARES)),
        "training_size": lambda: generalisation_figures.sizes(g.sizes(experiments, runs)),
        "structures": lambda: generalisation_figures.structures(g.structures(experiments)),
        "latent_noise": lambda: generalisation_figures.tolerance(g.tolerance(some, EPOCHS, RADII)),
        "interpolation": lambda: generalisation_figures.interpolation(g.interpolation(some, epoch)),
        "neighbourhoods": lambda: generalisation_figures.neighbourhoods(g.neighbourhoods(some, epoch)),
        "checkpoint_scores": lambda: checkpoint_figures.checkpoint_scores(scores, LAST),
        "checkpoint_regrets": lambda: checkpoint_figures.checkpoint_regrets(m.regret(choices, scores, LAST)),
        "full_training": lambda: checkpoint_figures.full_training(full.history, next(iter(full.values())).config),
        "checkpoint_ensembles": lambda: checkpoint_figures.checkpoint_ensembles(m.checkpoint_ensembles(some)),
        "pathway_ensembles": lambda: checkpoint_figures.pathway_ensembles(m.pathway_ensembles(dense, dense.epochs)),
        "rate_distortion": lambda: checkpoint_figures.rate_and_distortion(probes),
        "calibration": lambda: checkpoint_figures.calibration(m.reliabilities(some, EPOCHS)),
        "operation_bounds": lambda: checkpoint_figures.operation_bounds(m.operation_bounds(dense, epoch)),
        "defects": lambda: r.recipe_comparison(table, recipes.names(table, "v5.5", "defect", "repaired"), r.OF_DEFECTS),
        "search": lambda: r.search_trials(recipes.load_search(), ideal_front(r.WEIGHTS), table),
        "front": lambda: r.coverage_front(table, ideal_front(r.WEIGHTS), recipes.names(table, *r.OF_FRONT)),
        "recipes_through_epochs": lambda: r.recipes_by_epoch(drawn, table[table["recipe"] == recipes.SHARPENED]),
        "statenet_worth": lambda: r.recipe_comparison(table, r.OF_STATENET[recipes.V5_5], r.OF_WORTH),
        "statenet_worth_beyond": lambda: r.recipe_comparison(table, r.OF_STATENET[recipes.BEYOND], r.OF_WORTH),
        "statenet_decisions": lambda: r.statenet_decisions(taught[0], drawn["v5.5"]),
        "statenet_decisions_beyond": lambda: r.statenet_decisions(taught[1]),
        "pathways": lambda: r.recipe_comparison(table, recipes.names(table, *r.OF_PARTS), r.OF_WORTH),
        "sweep_effects": lambda: s.main_effects(main_effects.main_effects(swept, s.METRICS)),
        "sweep_interactions": lambda: s.interactions(main_effects.interactions(swept, s.METRICS[:1])),
        "sweep_points": lambda: s.parallel(swept, s.METRICS[0]),
        "alternatives": lambda: checkpoint_figures.alternative_models(m.load_alternatives()),
    }


@fenced
def draw_studies(folder: str | Path, *, progress: bool = False) -> list[Path]:
    """Draw them all into a folder and return the files. Raises RunError as `Gallery.save` does."""
    gallery = Gallery(folder, "ternary_lab.figures", {"runs": RUNS}, SEEDS[:1])
    files: list[Path] = []
    for name, draw in tqdm(studies().items(), desc="studies", unit="figure", disable=not progress):
        files += gallery.save(name, draw())
    return files
