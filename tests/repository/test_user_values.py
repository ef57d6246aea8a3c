"""Every public function takes whole numbers, paths, devices and objects of the library as users hand them over.

The functions are found by the annotations of their parameters. A function that is new must have an entry in a table
here, or it is called with nothing but the argument under test.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import SMALL

import ternary_lab
from ternary_lab import (
    DeviceError,
    InputError,
    TernaryLabError,
    TernaryVAE,
    explorer,
    load_run,
    load_runs,
    load_sweep,
    space,
)
from ternary_lab.explorer import Explorer, StillMap, TwoMaps
from ternary_lab.explorer.view import View
from ternary_lab.metrics.baselines import uniform, uniform_draws, untrained
from ternary_lab.runs.load import RunSet

pytestmark = pytest.mark.usefixtures("one_thread")

UNSET = "$TERNARY_LAB_TEST_UNSET/x"
RUN = "v5_5/seed=42"


@cache
def _functions() -> dict[str, Callable[..., Any]]:
    """Return the public functions and methods of the package by their dotted names, and classes for their methods
    `__init__`."""
    found: dict[str, Callable[..., Any]] = {}
    for info in pkgutil.walk_packages(ternary_lab.__path__, "ternary_lab."):
        if info.name.endswith(("__main__", "triton_kernels")) or ".cli" in info.name:
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", "") != info.name:
                continue
            label = f"{info.name.removeprefix('ternary_lab.')}.{name}"
            if inspect.isfunction(value):
                found[label] = value
            elif inspect.isclass(value):
                found[label] = value
                for method, inner in vars(value).items():
                    if not method.startswith("_") and inspect.isfunction(inspect.unwrap(inner)):
                        found[f"{label}.{method}"] = getattr(value, method)
    return found


def _parameters(wanted: str) -> Iterator[tuple[str, str, str]]:
    """Yield (function, parameter, annotation) for every annotation that contains `wanted`."""
    for label, function in _functions().items():
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # a class of the standard library has no signature
            continue
        for parameter in parameters:
            if wanted in str(parameter.annotation):
                yield label, parameter.name, str(parameter.annotation)


def _call(label: str, **arguments: Any) -> Any:
    """Call a public function. Parameters that must be given, and are not in `arguments`, are None."""
    function = _functions()[label]
    given = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in arguments:
            given[parameter.name] = arguments[parameter.name]
        elif parameter.default is parameter.empty and parameter.kind != parameter.VAR_KEYWORD:
            given[parameter.name] = None
    if "self" in given:
        return function(given.pop("self"), **given)
    result = function(**given)
    if isinstance(result, AbstractContextManager):
        return result.__enter__()
    return list(result) if inspect.isgenerator(result) else result


# --- paths

# The arguments that a function reads before its path.
BEFORE_THE_PATH: dict[str, dict[str, Any]] = {
    "config_files.find_shipped": {"shipped": {}, "kind": "", "listing": ""},
    "runs.train.run_experiment": {"config": SMALL},
    "runs.train.branch": {"run": RUN, "epoch": 100, "overrides": {}},
    "runs.train.train_counterfactuals": {"runs": [RUN], "counterfactuals": ["lr_stays"]},
    "studies.beyond_v55.alternatives.benchmark": {"seeds": [1]},
    "studies.beyond_v55.tables.write_all": {"folder": "x", "table": "t.csv"},
    "sweeps.plan.directory": {"sweep": "warmup_rho"},
    "sweeps.run.run_sweep": {"sweep": "warmup_rho"},
    "sweeps.run.status": {"sweep": "warmup_rho"},
    "sweeps.run.results": {"sweep": "warmup_rho"},
    "figures.draw_all": {"runs": RUN},
    "figures.save.Gallery": {"notebook": "x"},
    "studies.report.ledger_page.LedgerPage.write": {"self": "page"},
    "notebooks.run.run_notebook": {"path": "nb.ipynb", "output": "out.ipynb"},
    "notebooks.run.run_each": {"notebook": "nb.ipynb", "fixed": {}, "each": ["n=1"]},
    "notebooks.export.export_html": {"path": "nb.ipynb", "output": "out.html"},
}
NO_FILE = {
    "metrics.evaluate.default_title",  # prints the path
    "figures.save.Gallery",  # reads its folder in `save`, see the test below
    "explorer.explorer.Explorer",  # shows the error on its page, see the test below
    "explorer.explorer.Explorer.explore",
    "notebooks.parameters.declared_parameters",  # is given the notebook as well
}
PATHS = [(label, name, kind) for label, name, kind in _parameters("str | Path") if label not in NO_FILE]


def _made(value: Any) -> Any:
    """Return the object that a name in a table stands for."""
    from ternary_lab import load_counterfactual
    from ternary_lab.studies.report.ledger_page import LedgerPage

    if isinstance(value, list):
        return [_made(inner) for inner in value]
    makers: dict[str, Callable[[], Any]] = {
        RUN: lambda: load_run(RUN), "warmup_rho": lambda: load_sweep("warmup_rho"), "page": lambda: LedgerPage([]),
        "lr_stays": lambda: load_counterfactual("lr_stays"),
    }
    return makers[value]() if isinstance(value, str) and value in makers else value


@pytest.mark.parametrize(("label", "name", "kind"), PATHS, ids=[f"{label}-{name}" for label, name, _ in PATHS])
def test_every_path_is_expanded(
    label: str, name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that is not set is named before anything is written. So the function has expanded the path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nb.ipynb").write_text(
        '{"cells": [{"cell_type": "code", "execution_count": null, "id": "a", "metadata": {"tags": ["parameters"]}, '
        '"outputs": [], "source": "n = 1"}, {"cell_type": "code", "execution_count": null, "id": "b", "metadata": {}, '
        '"outputs": [], "source": "n"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    )
    before = set(tmp_path.rglob("*"))
    many = kind.startswith(("Sequence", "Iterable"))
    others = {key: _made(value) for key, value in BEFORE_THE_PATH.get(label, {}).items()}
    with pytest.raises(InputError, match="TERNARY_LAB_TEST_UNSET is not set"):
        _call(label, **{**others, name: [UNSET] if many else UNSET})
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "out.ipynb"}


def test_the_explorer_and_a_gallery_expand_paths() -> None:
    assert "TERNARY_LAB_TEST_UNSET is not set" in Explorer(UNSET).alert.value
    from ternary_lab.figures.save import Gallery

    with pytest.raises(InputError, match="TERNARY_LAB_TEST_UNSET is not set"):
        Gallery(UNSET, "x").save("x", None)  # type: ignore[arg-type]


def test_the_search_finds_paths_in_functions_methods_and_classes() -> None:
    labels = {label for label, _, _ in _parameters("str | Path")}
    assert {"runs.load.load_run", "explorer.explorer.Explorer", "studies.report.ledger_page.LedgerPage.write"} <= labels
    assert len(labels) > 40


# --- mappings

MAPPINGS = [
    (label, name) for label, name, kind in _parameters("Mapping[str, ")
    if name == "overrides" or "object" in kind or label.endswith("run_each")
]


@pytest.mark.parametrize("value", [["a=1"], "a=1", 3, {1: 2}], ids=str)
@pytest.mark.parametrize(("label", "name"), MAPPINGS, ids=[f"{label}-{name}" for label, name in MAPPINGS])
def test_every_mapping_of_a_user_is_checked(label: str, name: str, value: Any) -> None:
    notebook = Path(__file__).parents[2] / "notebooks" / "00_start_here.ipynb"
    others: dict[str, Any] = {
        "config_files.load_config": {"source": "quick"}, "runs.train.branch": {"run": load_run(RUN), "epoch": 100},
        "notebooks.run.run_notebook": {"path": notebook, "output": "out.ipynb"},
    }.get(label, {"notebook": notebook, "path": notebook, "fixed": {}, "each": []})
    with pytest.raises(InputError, match=f"{name} must be a dictionary with texts as keys, got "):
        _call(label, **{**others, name: value})


def test_the_search_finds_mappings() -> None:
    labels = {label for label, _ in MAPPINGS}
    assert {"config_files.load_config", "runs.train.branch", "notebooks.run.run_notebook"} <= labels


# --- devices

DEVICES = sorted({label for label, _, _ in _parameters("str | torch.device")})
BEFORE_THE_DEVICE: dict[str, dict[str, Any]] = {
    "model.TernaryVAE.to": {"self": "model"},
    "runs.train.run_experiment": {"config": SMALL},
    "runs.train.branch": {"run": RUN, "epoch": 100, "overrides": {}},
    "runs.train.train_counterfactuals": {"runs": [RUN], "counterfactuals": ["lr_stays"], "run_dir": "x"},
    "runs.train.train_runs": {"plans": []},
    "runs.checkpoint.load_model": {"source": Path(__file__).parents[1] / "data" / "epoch_60.pt"},
    "training.train.train": {"config": SMALL},
    "studies.beyond_v55.alternatives.benchmark": {"seeds": [1], "run_dir": "x"},
    "studies.beyond_v55.alternatives.train_family": {"seeds": [1]},
    "studies.beyond_v55.tables.write_recipes": {"names": [], "seeds": [1], "folder": Path("x"), "table": Path("t.csv")},
    "studies.beyond_v55.tables.write_all": {"folder": "x", "table": "t.csv"},
    "sweeps.engines.engine": {"name": "local"},
    "sweeps.run.run_sweep": {"sweep": "warmup_rho"},
}
MEASURES = {"studies.beyond_v55.alternatives.v5_5_rows", "studies.beyond_v55.alternatives.floor_rows"}
"""Functions whose device `benchmark` has resolved."""


@pytest.mark.parametrize("label", [label for label in DEVICES if label not in MEASURES])
def test_every_device_is_refused_before_any_work(label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    others = {key: _made(value) for key, value in BEFORE_THE_DEVICE.get(label, {}).items()}
    if others.get("self") == "model":
        others["self"] = untrained()
    with pytest.raises(DeviceError, match="'tpu': use auto, cpu or cuda"):
        _call(label, **others, device="tpu")
    assert not list(tmp_path.iterdir())


# --- whole numbers

MODEL = untrained(0, SMALL.model)
SPLIT = space.split(42, 0.01, 0.97)


def _run() -> Any:
    return load_run(RUN)


@cache
def _height(make: Callable[[], Any]) -> int:
    """Return the height of the page of a view, without computing the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(View, "in_background", lambda *_: None)
        return int(make()._height)


def _evaluated(**arguments: Any) -> dict[str, Any]:
    fast = {"samples": 64, "latents": 64, "split": SPLIT, "iwae_samples": 1}
    return ternary_lab.evaluate(MODEL, **{**fast, **arguments}).as_dict()


# Function and parameter -> a call with the value, and the value. The result of the call is compared by its repr.
NUMBERS: dict[tuple[str, str], tuple[Callable[[Any], Any], int]] = {
    ("evaluate", "samples"): (lambda n: _evaluated(samples=n), 70),
    ("evaluate", "latents"): (lambda n: _evaluated(latents=n), 128),
    ("evaluate", "iwae_samples"): (lambda n: _evaluated(iwae_samples=n), 2),
    ("evaluate", "seed"): (lambda n: _evaluated(seed=n), 3),
    ("branch", "epoch"): (lambda n: _branch_error(n), 99),
    ("RunRecord.checkpoint", "epoch"): (lambda n: _run().checkpoint(n).epoch, 100),
    ("RunRecord.model", "epoch"): (lambda n: _run().model(n).core.blocks.decoder_A.sum(), 100),
    ("RunRecord.trained_on", "epoch"): (lambda n: _run().trained_on(n), 100),
    ("TernaryVAE.sample", "n"): (lambda n: MODEL.sample(n, generator=torch.Generator().manual_seed(1)), 5),
    ("run_experiment", "seeds"): (lambda n: _trained(n), 3),
    ("train", "seeds"): (lambda n: next(ternary_lab.train(SMALL, [n], device="cpu")).seed, 3),
    ("space.split", "split_seed"): (lambda n: space.split(n).train, 42),
    ("metrics.baselines.untrained", "seed"): (lambda n: untrained(n, SMALL.model).core.blocks.decoder_A, 7),
    ("metrics.baselines.random_map", "seed"): (lambda n: _random_map(n), 7),
    ("explorer.Explorer", "height"): (lambda n: _height(lambda: Explorer(RUN, height=n)), 300),
    ("explorer.TwoMaps", "height"): (lambda n: _height(lambda: TwoMaps(RUN, RUN, height=n)), 300),
    ("explorer.StillMap.at", "epoch"): (lambda n: [(m.title, m.mu.sum()) for m in StillMap(_run()).at(n)], 100),
    ("explorer.StillMap.codes", "epoch"): (lambda n: StillMap(_run()).codes(n).sum(), 100),
    ("metrics.baselines.uniform", "size"): (uniform, 7),
    ("metrics.baselines.uniform_draws", "n"): (uniform_draws, 7),
    ("metrics.baselines.uniform_draws", "seed"): (lambda n: uniform_draws(7, n), 7),
    ("score", "draws"): (lambda n: ternary_lab.score(uniform_draws, draws=n), 2000),
}
ARITHMETIC = "Config."
"""Methods of a configuration compute a schedule at e, which may be any real number."""


def _trained(seed: Any) -> list[int]:
    from ternary_lab.runs import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_runs", lambda plans, **_: None)
        patch.setattr(train, "RunRecord", lambda path: path.name)
        return list(train.run_experiment(SMALL, [seed]))


def _branch_error(epoch: Any) -> str:
    with pytest.raises(TernaryLabError) as caught:
        ternary_lab.branch(_run(), epoch, {})
    if "whole number" in str(caught.value):
        raise caught.value
    return str(caught.value)


def _random_map(seed: Any) -> torch.Tensor:
    from ternary_lab.metrics.baselines import random_map

    return random_map(seed).core.blocks.decoder_A


def _public_numbers() -> set[tuple[str, str]]:
    """Return (function, parameter) for each parameter of type int or of several int.

    The functions are those of the public names, and of the modules that users import beside them.
    """
    views = [kind for kind in vars(explorer).values() if inspect.isclass(kind)]
    public = {f"{module}.{name}".removeprefix("ternary_lab."): name for name, module in ternary_lab._MODULE_OF.items()}
    public |= {
        f"{kind.__module__}.{kind.__name__}".removeprefix("ternary_lab."): f"explorer.{kind.__name__}" for kind in views
    }
    found = set()
    for label, name, kind in _parameters("int"):
        whole, _, method = label.rpartition(".")
        module = label.split(".")[0]
        if kind.split(" | ")[0] not in ("int", "Iterable[int]", "Sequence[int]"):
            continue
        if inspect.isclass(_functions()[label]) and not module.startswith("explorer"):  # a table of results
            continue
        if label in public or whole in public:
            found.add((public.get(label) or f"{public[whole]}.{method}", name))
        elif whole in ("space", "splits", "metrics.baselines"):
            found.add((label, name))
    return {(label, name) for label, name in found if not label.startswith(ARITHMETIC)}


def test_the_table_of_whole_numbers_is_complete() -> None:
    assert _public_numbers() == set(NUMBERS)


@pytest.mark.parametrize("key", NUMBERS, ids="-".join)
def test_every_whole_number_is_taken_as_numpy_and_pandas_give_it(key: tuple[str, str]) -> None:
    call, value = NUMBERS[key]
    plain = repr(call(value))
    for spelled in (np.int64(value), float(value), np.float64(value)):
        assert repr(call(spelled)) == plain
    for wrong in (value + 0.5, True, str(value) if key[1] != "epoch" else b"1"):
        with pytest.raises(TernaryLabError) as caught:
            call(wrong)
        message = str(caught.value)
        assert "\n" not in message
        assert key[1] in message
        assert repr(wrong) in message


# --- objects of the library

OBJECTS = {
    "run_experiment": "config", "train": "config", "branch": "run", "compare": "run", "evaluate": "model",
    "run_sweep": "sweep", "train_counterfactuals": "run",
}


@pytest.mark.parametrize(("function", "name"), OBJECTS.items())
def test_a_name_in_place_of_an_object_is_refused_with_the_remedy(function: str, name: str) -> None:
    label = next(label for label in _functions() if label.endswith(f".{function}"))
    given = {
        "config": "quick", "run": RUN, "model": RUN, "sweep": "warmup_rho", "run_a": RUN, "runs": [RUN],
        "counterfactuals": [1],
    }
    parameters = inspect.signature(_functions()[label]).parameters
    arguments = {key: value for key, value in given.items() if key in parameters}
    with pytest.raises(InputError, match=rf"^{name} must be a \w+, got '.*': \w+"):
        _call(label, **arguments)


def test_a_run_in_place_of_a_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"run\.model\(\)"):
        ternary_lab.evaluate(load_run(RUN))  # type: ignore[arg-type]


def test_the_table_of_objects_is_complete() -> None:
    kinds = ("Config", "RunRecord", "TernaryVAE", "Sweep")
    found = set()
    for name in ternary_lab.__all__:
        value = getattr(ternary_lab, name)
        if inspect.isfunction(value):
            annotations = [str(p.annotation) for p in inspect.signature(value).parameters.values()]
            if any(kind in (annotation, annotation.removeprefix("Sequence[").removesuffix("]"))
                   for kind in kinds for annotation in annotations):
                found.add(name)
    assert found == set(OBJECTS)


# --- values at the edge


def test_a_run_is_read_after_a_change_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(load_run(RUN).path.parent)
    one, several = load_run("runs/seed=42"), load_runs("runs")
    assert isinstance(several, RunSet)
    monkeypatch.chdir("/")
    assert len(one.history) == len(several[42].history) > 0
    assert one.path == tmp_path / "runs" / "seed=42"


def test_weights_that_are_not_finite_and_an_empty_test_split_are_not_measured() -> None:
    broken = TernaryVAE(MODEL.settings, MODEL.core.blocks.copy())
    broken.core.blocks.decoder_B[0, 5] = float("nan")
    with pytest.raises(InputError, match="model: a weight is not finite"):
        ternary_lab.evaluate(broken, 64, 64)
    with pytest.raises(InputError, match="split: its test part is empty"):
        ternary_lab.evaluate(MODEL, 64, 64, split=space.split(42, 0.5, 0.6))
