"""Figures of notebook 05: each has its data and an alternative text."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from ternary_lab import load_runs, space
from ternary_lab.metrics import baselines
from ternary_lab.studies.coverage import figures
from ternary_lab.studies.probes import all_probes


def test_figures_have_alternative_text_and_data() -> None:
    runs = load_runs("v5_5")
    uniform = baselines.uniform(space.SIZE)
    tilted = torch.arange(1.0, space.SIZE + 1, dtype=torch.float64)
    outputs = {"flat, A": uniform, "tilted, B": tilted / tilted.sum()}
    entropies = pd.DataFrame([
        {"epoch": e, "pathway": p, "output_entropy": 9.0, "decoder_noise": 5.0 - e} for e in (0, 1) for p in "AB"
    ])
    metrics = [f"m{i}, {unit}" for i, unit in enumerate(("%", "%", "%", "%", "nats", "nats"))]
    scores = pd.DataFrame({metric: [1.0, 2.0] for metric in metrics}, index=["a", "v5.5"])
    drawings = {
        "curves": figures.coverage_curves(outputs), "counts": figures.coverage_counts(all_probes(runs)),
        "learnt": figures.measures_by_epoch(runs.history), "entropies": figures.output_entropies(entropies),
        "games": figures.baseline_scores(scores, dict.fromkeys(metrics, 1.0)), "rarest": figures.rarest(outputs),
    }
    for name, drawing in drawings.items():
        assert isinstance(drawing.figure, Figure), name
        assert len(drawing.data) > 0, name
        assert "nan" not in drawing.alt.split(), name
    curve = drawings["curves"].data
    assert curve["flat, A"].to_numpy() == pytest.approx(curve["uniform"].to_numpy())
    assert (curve["tilted, B"] <= curve["uniform"] + 1e-9).all()
    assert list(drawings["rarest"].data["operation"][5:]) == [0, 1, 2, 3, 4]
