"""Ternary Lab: training, measuring and auditing Ternary VAE v5.5 over all 19,683 ternary operations.

A public name is imported when it is first used. Importing the package alone does not import torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Type checkers read these lines, and `_modules` reads them as text. A line declares a public name.
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
    from ternary_lab.studies.score import Score as Score
    from ternary_lab.studies.score import score as score
    from ternary_lab.sweeps.design import load_sweep as load_sweep
    from ternary_lab.sweeps.run import run_sweep as run_sweep
    from ternary_lab.training.train import train as train

# Without this setting, waiting threads spin, and two processes on the same cores become up to ten times slower. torch
# reads the setting when it loads its thread library, so the setting must be made before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _modules() -> dict[str, str]:
    """Return a dictionary from public name to module, read from the lines `from MODULE import NAME as NAME` above."""
    with open(__file__, encoding="utf-8") as source:
        words = [line.split() for line in source if line.startswith("    from ternary_lab.")]
    return {name: module for _, module, _, name, *_ in words}


_MODULE_OF = _modules()
__all__ = sorted(_MODULE_OF)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


if not TYPE_CHECKING:  # a type checker that sees this function accepts any name

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'ternary_lab' has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value
