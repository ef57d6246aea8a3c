"""Ternary Lab: training, measuring and auditing Ternary VAE v5.5 over all 19,683 ternary operations.

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ternary_lab.config import Config as Config
    from ternary_lab.config_files import Counterfactual as Counterfactual
    from ternary_lab.config_files import load_config as load_config
    from ternary_lab.config_files import load_counterfactual as load_counterfactual
    from ternary_lab.errors import CheckpointError as CheckpointError
    from ternary_lab.errors import ConfigError as ConfigError
    from ternary_lab.errors import DeviceError as DeviceError
    from ternary_lab.errors import DivergenceError as DivergenceError
    from ternary_lab.errors import EngineError as EngineError
    from ternary_lab.errors import InputError as InputError
    from ternary_lab.errors import NotebookError as NotebookError
    from ternary_lab.errors import RunError as RunError
    from ternary_lab.errors import TernaryLabError as TernaryLabError
    from ternary_lab.explorer import watch as watch
    from ternary_lab.history import EpochRecord as EpochRecord
    from ternary_lab.metrics.evaluate import Evaluation as Evaluation
    from ternary_lab.metrics.evaluate import evaluate as evaluate
    from ternary_lab.model import GaussianPosterior as GaussianPosterior
    from ternary_lab.model import TernaryVAE as TernaryVAE
    from ternary_lab.runs.checkpoint import load_model as load_model
    from ternary_lab.runs.compare import Comparison as Comparison
    from ternary_lab.runs.compare import compare as compare
    from ternary_lab.runs.load import RunRecord as RunRecord
    from ternary_lab.runs.load import RunSet as RunSet
    from ternary_lab.runs.load import load_run as load_run
    from ternary_lab.runs.load import load_runs as load_runs
    from ternary_lab.runs.train import branch as branch
    from ternary_lab.runs.train import run_experiment as run_experiment
    from ternary_lab.runs.train import train_counterfactuals as train_counterfactuals
    from ternary_lab.sweeps.design import load_sweep as load_sweep
    from ternary_lab.sweeps.run import run_sweep as run_sweep
    from ternary_lab.training.train import train as train

# Threads that spin while they wait make two processes on the same cores up to ten times slower. It has
# to be said before torch loads its thread library.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "config": ("Config",),
    "config_files": ("Counterfactual", "load_config", "load_counterfactual"),
    "errors": (
        "CheckpointError", "ConfigError", "DeviceError", "DivergenceError", "EngineError",
        "InputError", "NotebookError", "RunError", "TernaryLabError",
    ),
    "explorer": ("watch",),
    "history": ("EpochRecord",),
    "metrics.evaluate": ("Evaluation", "evaluate"),
    "model": ("GaussianPosterior", "TernaryVAE"),
    "runs.checkpoint": ("load_model",),
    "runs.compare": ("Comparison", "compare"),
    "runs.load": ("RunRecord", "RunSet", "load_run", "load_runs"),
    "runs.train": ("branch", "run_experiment", "train_counterfactuals"),
    "sweeps.design": ("load_sweep",),
    "sweeps.run": ("run_sweep",),
    "training.train": ("train",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ternary_lab' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ternary_lab.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
