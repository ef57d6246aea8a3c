"""Generated inputs give a correct result or a TernaryLabError that names the wrong input, never another traceback.

These tests generate some hundreds of cases; `make fuzz` (TERNARY_LAB_FUZZ=1) generates over 30,000.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import SMALL

from ternary_lab import (
    CheckpointError,
    ConfigError,
    InputError,
    NotebookError,
    RunError,
    TernaryLabError,
    evaluate,
    load_config,
    load_model,
    load_run,
    notebooks,
    score,
    space,
)
from ternary_lab.arguments import as_whole
from ternary_lab.cli import main
from ternary_lab.config import Config
from ternary_lab.config_files import from_yaml, parse_override
from ternary_lab.metrics.baselines import untrained
from ternary_lab.model import TernaryVAE
from ternary_lab.runs import checkpoint as checkpoints
from ternary_lab.runs.checkpoint import Checkpoint

LONG = os.environ.get("TERNARY_LAB_FUZZ") == "1"
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_train.ipynb"


def wild(cases: int) -> Any:
    """Hypothesis settings: this number of cases in CI, thirty times as many in the long mode."""
    return settings(
        max_examples=30 * cases if LONG else cases, deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.binary(max_size=6),
    st.sampled_from([-1, 0, 1, 1e-9, 1e308, 2**63, "off", "1e-3", "lagged_after_warmup", "nan", ".inf", "A", "B"]),
)
NESTED = st.recursive(
    PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=10,
)


def keys(data: Any, prefix: str = "") -> list[str]:
    """Every dotted key of nested mappings."""
    found = []
    for key, value in data.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += keys(value, f"{prefix}{key}.")
    return found


KEYS = keys(SMALL.as_dict())
KEY = st.one_of(st.sampled_from(KEYS), st.text(max_size=12), st.sampled_from(KEYS).map(lambda key: key[:-1]))


# Configurations


@wild(120)
@given(KEY, NESTED)
def test_an_override_is_taken_or_refused(key: str, value: Any) -> None:
    try:
        config = load_config(SMALL.as_dict(), {key: value})
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert isinstance(config, Config)
    assert load_config(config.as_dict()) == config
    assert from_yaml(config.as_yaml(), "it") == config


@wild(60)
@given(NESTED)
def test_any_data_is_a_configuration_or_refused(data: Any) -> None:
    with contextlib.suppress(ConfigError):
        load_config(data if isinstance(data, dict) else {"training": data})


@wild(80)
@given(st.one_of(
    st.text(max_size=60), NESTED.map(lambda data: yaml.dump(data)),
    st.sampled_from(["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "a: &a [*a]", "{" * 60]),
))
def test_any_text_is_a_configuration_or_refused(text: str) -> None:
    try:
        from_yaml(text, "a hostile file")
    except ConfigError as error:
        assert "a hostile file" in str(error)  # noqa: PT017


@wild(80)
@given(st.text(max_size=30))
def test_any_text_is_an_override_or_refused(text: str) -> None:
    try:
        key, _ = parse_override(text)
        assert key
    except ConfigError:
        pass


# Notebook parameters


@wild(60)
@given(st.sampled_from(["config", "seeds", "run_dir", "device", "x", ""]), st.one_of(st.text(max_size=20), NESTED))
def test_any_value_is_a_parameter_or_refused(name: str, value: Any) -> None:
    try:
        checked = notebooks.check_parameters(NOTEBOOK, {name: value})
    except NotebookError:
        return
    # papermill writes every value into the notebook as a literal.
    assert all(isinstance(v, int | float | bool | str | list) for v in checked.values())


@wild(60)
@given(st.sampled_from(["config", "seeds", "device"]), st.text(max_size=20))
def test_any_text_is_a_parameter_or_refused(name: str, text: str) -> None:
    with contextlib.suppress(NotebookError):
        notebooks.parse_parameters(NOTEBOOK, {name: text})


# The command line


@functools.cache
def small_checkpoint() -> bytes:
    from ternary_lab.training.run_state import RunState

    state = RunState.initial(SMALL, 1)
    path = Path(tempfile.mkdtemp()) / "good.safetensors"
    checkpoints.save(path, Checkpoint(SMALL, 1, 0, 0.1, state.blocks, state, ("seed=1",)))
    return path.read_bytes()


WORDS = st.sampled_from([
    "train", "evaluate", "score", "verify", "claims", "compare", "run", "branch", "probe", "import-v55", "quick",
    "--seeds", "mine:sample",
    "42", "-1", "--set", "training.total_epochs=0", "beta=3", "--device", "cpu", "tpu", "--json", "--samples", "0",
    "--latents", "1e9", "nowhere", "v5_5/seed=1", "--epoch", "x", "--run-dir", "/proc/none", "-p", "a", "b", "--help",
    "",
])


@wild(25)
@given(st.lists(st.one_of(WORDS, st.text(max_size=8)), max_size=5))
def test_any_command_line_ends_with_a_status_and_no_traceback(words: list[str]) -> None:
    if words[:1] and words[0] not in ("evaluate", "score", "verify", "compare", "import-v55"):
        words = [*words, "--no-such-option"]  # refused at the last word, instead of training for minutes
    result = CliRunner().invoke(main, words)
    assert result.exit_code in (0, 1, 2)
    assert result.exception is None or isinstance(result.exception, SystemExit), words


# Tensors


@functools.cache
def model() -> TernaryVAE:
    return untrained(0, SMALL.model)


TENSOR = st.builds(
    lambda shape, dtype, fill, device: torch.full(shape, fill, dtype=torch.float64).to(dtype).to(device),
    st.lists(st.integers(0, 10), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.int8, torch.bool, torch.cfloat]),
    st.sampled_from([-1.0, 0.0, 1.0, 0.5, 2.0, float("nan"), float("inf"), -0.0]),
    st.sampled_from(["cpu", "cpu", "cpu", "meta"]),
)
THING = st.one_of(TENSOR, PLAIN, st.lists(st.integers(-2, 2), max_size=9))


@wild(120)
@given(THING)
def test_any_operations_are_encoded_or_refused(x: Any) -> None:
    for pathway in ("A", "B"):
        try:
            code = model().encode(x, pathway)  # type: ignore[arg-type]
        except InputError:
            continue
        assert bool(code.mean.isfinite().all())
        assert code.mean.shape == (*x.shape[:-1], SMALL.model.latent_dim)


@wild(120)
@given(THING, st.one_of(st.sampled_from(["A", "B"]), PLAIN))
def test_any_latents_are_decoded_or_refused(z: Any, pathway: Any) -> None:
    try:
        logits = model().decode(z, pathway)
    except InputError:
        return
    assert logits.shape == (*z.shape[:-1], 9, 3)


@wild(60)
@given(THING, PLAIN)
def test_any_reconstruction_and_index_is_right_or_refused(x: Any, rho: Any) -> None:
    for call in (lambda: model().reconstruct(x, rho), lambda: space.index_of(x), lambda: space.operations(x)):
        try:
            found = call()
        except InputError:
            continue
        assert isinstance(found, torch.Tensor)


@pytest.mark.parametrize("odd", [
    torch.zeros(2, 9, device="meta"), torch.zeros(2, 9).to_sparse(),
    torch.zeros(2, 9, device="meta", dtype=torch.int64),
], ids=["meta", "sparse", "meta integers"])
def test_a_tensor_without_values_is_refused(odd: torch.Tensor) -> None:
    for call in (model().encode, model().decode, model().reconstruct, space.index_of, space.operations):
        with pytest.raises(InputError):
            call(odd)


@wild(40)
@given(st.one_of(PLAIN, st.integers(-3, 40)), st.one_of(st.sampled_from(["A", "B"]), PLAIN))
def test_any_sample_is_drawn_or_refused(n: Any, pathway: Any) -> None:
    if (as_whole(n) or 0) > 10_000:
        n = 10_000
    try:
        drawn = model().sample(n, pathway)
    except InputError:
        return
    assert drawn.shape == (n, 9)


@wild(20)
@given(PLAIN, PLAIN)
def test_any_evaluation_is_made_or_refused(samples: Any, latents: Any) -> None:
    if all((as_whole(n) or 0) > 0 for n in (samples, latents)):
        samples, latents = 100, 64
    with contextlib.suppress(InputError):
        evaluate(model(), samples=samples, latents=latents)


@wild(40)
@given(THING, st.sampled_from(["sample", "log_prob"]), st.booleans())
def test_any_small_thing_is_too_little_for_a_score(given: Any, name: str, called: bool) -> None:
    with pytest.raises(InputError, match=r"sample|log_prob"):
        score(**{name: (lambda _: given) if called else given})


# Files


@wild(60)
@given(st.data())
def test_any_damage_to_a_checkpoint_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    good = small_checkpoint()
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "swap", "noise"]))
    at = data.draw(st.integers(0, len(good) - 1))
    some = data.draw(st.binary(min_size=1, max_size=12))
    bad = {
        "flip": good[:at] + bytes([good[at] ^ (some[0] or 1)]) + good[at + 1:], "cut": good[:at],
        "insert": good[:at] + some + good[at:], "swap": good[at:] + good[:at], "noise": some * 50,
    }[kind]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(bad)
    try:
        point = checkpoints.load(path)
    except CheckpointError as error:
        assert "bad.safetensors" in str(error)  # noqa: PT017
        return
    original = tmp_path / "good.safetensors"
    original.write_bytes(good)
    ours = checkpoints.load(original)
    assert all(torch.equal(a, b) for a, b in zip(vars(point.blocks).values(), vars(ours.blocks).values(), strict=True))
    assert (point.epoch, point.seed, point.rho, point.cohort) == (ours.epoch, ours.seed, ours.rho, ours.cohort)


@wild(60)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_checkpoint_or_refused(tmp_path: Path, data: bytes) -> None:
    for name in ("x.safetensors", "x.pt"):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=name):
            load_model(path)


def _safetensors(header: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("content", [
    _safetensors({"w": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}),
    _safetensors({"__metadata__": {"ternary-lab-1": json.dumps({"config": "model: {latent_dim: 256}", "seed": 1})}}),
    struct.pack("<Q", 2**63) + b"{}",
    struct.pack("<Q", 2**31) + b"{" * 1000,
    _safetensors({"__metadata__": {"ternary-lab-1": "[" * 100_000}}),
], ids=["huge tensor", "no weights", "huge header", "torn header", "deep header"])
def test_a_checkpoint_with_an_impossible_header_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        load_model(path)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"model": {"w": Evil(mark)}, "epoch": 1}, tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps({"model": Evil(mark)}))
    for name in ("x.pt", "y.pt"):
        with pytest.raises(CheckpointError, match="refused"):
            load_model(tmp_path / name)
    assert not mark.exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * (300 * 2**20))
        file.writestr("archive/version", "3\n")
    assert path.stat().st_size < 2**20
    with pytest.raises(CheckpointError, match=r"bomb\.pt.*unpack"):
        load_model(path)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
"""A page of YAML that expands to 9^12 words."""


@pytest.mark.parametrize("text", [
    "!!python/object/apply:os.system ['touch mark']", "a: !!python/name:os.system", "!!python/module:os",
    "base: ../../../../etc/passwd", "base: /dev/zero", "&a [*a, *a]",
    LAUGHS, "a: " + "x" * 2**21, "[" * 5000,
])
def test_a_hostile_configuration_runs_nothing(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_config(tmp_path / "x.yaml")
    assert not (tmp_path / "mark").exists()


def test_a_name_cannot_leave_the_folder_of_published_runs() -> None:
    for name in ("../v5_5", "v5_5/../../../../etc", "v5_5/seed=42/../../../model.py"):
        with pytest.raises(RunError):
            load_run(name)


@pytest.mark.parametrize("value", [
    '"; import os; os.system("touch mark"); "', "__import__('os').system('touch mark')", "${HOME}", "\\\n'\"",
])
def test_a_parameter_is_always_a_literal(value: str, tmp_path: Path) -> None:
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell('word = "a"  # any', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("assert len(word) > 1"),
    ])
    nbformat.write(notebook, tmp_path / "x.ipynb")
    notebooks.run_notebook(tmp_path / "x.ipynb", tmp_path / "out.ipynb", {"word": value}, progress=False)
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    (injected,) = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    names: dict[str, Any] = {}
    exec(injected.source, names)
    assert names["word"] == value
    assert not (tmp_path / "mark").exists()


def test_all_errors_have_one_base_class() -> None:
    for kind in (CheckpointError, ConfigError, InputError, NotebookError, RunError):
        assert issubclass(kind, TernaryLabError)
