"""Tests of configurations.

A configuration is read back unchanged, an error names the key, and every key has an effect.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ternary_lab import ConfigError, load_config, run_experiment, train
from ternary_lab.config import Config, differences, flatten
from ternary_lab.config_files import find_config, from_yaml, parse_override
from ternary_lab.history import TIMING_COLUMNS
from ternary_lab.metrics import per_epoch
from ternary_lab.schedules import Schedule
from ternary_lab.training.cohort import Cohort

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = find_config("v5_5").parent
SHIPPED = sorted([*FOLDER.glob("*.yaml"), *(FOLDER / "generalisation").glob("*.yaml")])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_load_by_path_and_by_name(path: Path) -> None:
    config = load_config(path)
    assert config == load_config(path.relative_to(FOLDER).with_suffix("").as_posix())
    assert config.name == path.stem


def test_the_defaults_are_v55() -> None:
    assert load_config("v5_5") == Config()


def test_v5_5_full_differs_in_patience_and_what_it_keeps() -> None:
    differing = differences(load_config("v5_5"), load_config("v5_5_full"))
    assert differing.keys() == {"name", "early_stopping.patience", "checkpoints.windows"}


def _round_trips(config: Config) -> bool:
    text = config.as_yaml()
    return config == from_yaml(text, "text") == load_config(config.as_dict()) == load_config(yaml.safe_load(text))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_yaml_and_plain_data_read_back(path: Path) -> None:
    assert _round_trips(load_config(path))


@pytest.mark.parametrize("name", ["1e5", "12", "1.5", "true", "null", "2001-01-01", "0x1F", "a.b-c_d"])
def test_a_name_that_looks_like_another_type_reads_back(name: str) -> None:
    config = load_config("v5_5", {"name": name})
    assert from_yaml(config.as_yaml(), "text") == config


def test_differences_are_exactly_the_overrides() -> None:
    overrides = {"training.total_epochs": 60, "beta.B.lag": 1.0, "model.encoder_hidden": [8, 4]}
    changed = differences(load_config("v5_5"), load_config("v5_5", overrides))
    assert {key: new for key, (_, new) in changed.items()} == overrides


def test_a_new_mode_drops_the_settings_of_the_old_one() -> None:
    beta = load_config("v5_5", {"beta.B.mode": "linear_warmup", "beta.B.end": 0.4}).as_dict()["beta"]["B"]
    assert beta == {"mode": "linear_warmup", "end": 0.4, "warmup_epochs": 50}
    assert load_config("v5_5", {"beta.A.mode": "off"}).as_dict()["beta"]["A"] == {"mode": "off"}


def test_a_table_of_steps_replaces_the_old_one() -> None:
    assert load_config("v5_5", {"optimiser.lr_steps": {0: 0.1}}).optimiser.lr_steps == {0: 0.1}


@pytest.mark.parametrize(("text", "value"), [
    ("1e-3", 0.001), ("1E3", 1000.0), ("2.5e+2", 250.0), ("1_0.5e1", 105.0), ("3", 3), ("true", True), ("off", "off"),
    ("[1, 2]", [1, 2]), ("{0: 1e-3}", {0: 0.001}), ("e5", "e5"), ("'1e-3'", "1e-3"),
])
def test_an_override_is_read_as_yaml(text: str, value: object) -> None:
    assert parse_override(f" kl.free_bits ={text}") == ("kl.free_bits", value)


# Wrong overrides, and parts of the message: the key, the allowed values, the nearest name.
BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"training.total_epoch": 3}, ["training.total_epoch", "did you mean training.total_epochs?"]),
    ({"optimizer.beta1": 0.5}, ["optimizer: did you mean optimiser or runtime? All names: `ternary-lab list"]),
    ({"beta.B.ramp": 3}, ["beta.B.ramp", "did you mean beta.B.ramp_epochs?"]),
    ({"beta.C.mode": "off"}, ["beta.C", "known here: A, B"]),
    ({"jump": 3}, ["unknown key jump; the nearest names are", "All names: `ternary-lab list settings`"]),
    ({"beta.B.mode": "lag"}, ["beta.B.mode", "one of", "lagged_after_warmup", "off"]),
    ({"beta.B": 0.5}, ["beta.B"]),
    ({"beta.A.mode": "lagged_after_warmup"}, ["beta", "one of them must lead"]),
    ({"training": 3}, ["training", "got 3"]),
    ({"training.total_epochs": "60"}, ["training.total_epochs", "integer", "'60'"]),
    ({"training.total_epochs": 60.5}, ["training.total_epochs", "integer", "60.5"]),
    ({"training.total_epochs": "010"}, ["training.total_epochs", "'010': write 10"]),
    ({"training.total_epochs": "1:30"}, ["training.total_epochs", "'1:30': write one number without a colon"]),
    ({"model.use_statenet": "off"}, ["model.use_statenet", "'off': write false"]),
    ({"kl.free_bits": "0,5"}, ["kl.free_bits", "write 0.5, with a point"]),
    ({"optimiser.lr_steps": {0: 0.1, "050": 0.1}}, ["optimiser.lr_steps.050", "write 50"]),
    ({"model.encoder_hidden": 8}, ["model.encoder_hidden: must be a list, got 8"]),
    ({"data.train_fraction": 1e-5}, ["data", "at least 5.1e-5"]),
    ({"data.validation_fraction": 1e-9}, ["data", "at least 5.1e-5"]),
    ({"training.total_epochs": True}, ["training.total_epochs", "integer", "True"]),
    ({"training.total_epochs": None}, ["training.total_epochs", "integer", "None"]),
    ({"training.total_epochs": 0}, ["training.total_epochs", "greater than or equal to 1", "got 0"]),
    ({"training.total_epochs": 10**9}, ["training.total_epochs", "less than or equal to"]),
    ({"kl.free_bits": math.nan}, ["kl.free_bits", "got nan"]),
    ({"kl.free_bits": math.inf}, ["kl.free_bits", "got inf"]),
    ({"kl.free_bits": -0.1}, ["kl.free_bits", "greater than or equal to 0"]),
    ({"kl.free_bits": "0.5"}, ["kl.free_bits", "number"]),
    ({"kl.free_bits_per": "batch"}, ["kl.free_bits_per", "'sample' or 'dimension_mean'", "'batch'"]),
    ({"model.use_statenet": 1}, ["model.use_statenet", "boolean"]),
    ({"model.encoder_hidden": []}, ["model.encoder_hidden", "at least 1"]),
    ({"model.encoder_hidden": [8, 0]}, ["model.encoder_hidden.1", "got 0"]),
    ({"model.encoder_hidden": [8] * 17}, ["model.encoder_hidden", "at most 16"]),
    ({"optimiser.lr_steps": {5: 0.1}}, ["lr_steps", "must contain epoch 0"]),
    ({"optimiser.lr_steps": {0: 0.0}}, ["optimiser.lr_steps.0", "greater than 0"]),
    ({"optimiser.lr_steps": {"a": 0.1}}, ["optimiser.lr_steps.a", "integer"]),
    ({"checkpoints.windows": [[1, 2, 3]]}, ["checkpoints.windows.0"]),
    ({"data.train_fraction": 0.95}, ["data", "must leave room for a test split"]),
    ({"phases.final": 30}, ["phases", "in order"]),
    ({"loss_weights.low": 0.96}, ["loss_weights.low must not exceed loss_weights.high"]),
    ({"gradient_balance.low": 3.0}, ["gradient_balance.low must not exceed gradient_balance.high"]),
    ({"statenet.lr_low": 0.1}, ["statenet.lr_low must not exceed statenet.lr_high"]),
    ({"name": "../elsewhere"}, ["name", "pattern"]),
    ({"name": ".."}, ["name", "pattern"]),
    ({"name": ""}, ["name", "pattern"]),
    ({"": 1}, ["a key is a dotted name"]),
    ({"training.": 1}, ["a key is a dotted name"]),
    ({"training.total_epochs": 3, "kl.bits": 1, "loss.x": 2}, ["and 1 more"]),
]


@pytest.mark.parametrize(("overrides", "parts"), BAD, ids=[str(overrides)[:50] for overrides, _ in BAD])
def test_a_bad_setting_is_named(overrides: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("v5_5", overrides)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_an_error_names_the_overrides_or_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("kl: {free_bits: -1}")
    with pytest.raises(ConfigError, match=r"^--set: training\.total_epochs: .* got 3\.5$"):
        load_config("quick", {"training.total_epochs": 3.5}, overrides_from="--set")
    with pytest.raises(ConfigError, match=rf"^{path}: kl\.free_bits"):
        load_config(path, {"training.total_epochs": 3}, overrides_from="--set")


@pytest.mark.parametrize(("key", "spellings"), [
    ("training.total_epochs", [60, np.int64(60), 60.0, np.float64(60), torch.tensor(60)]),
    ("model.encoder_hidden", [[8, 4], (8.0, 4.0), np.array([8, 4]), [np.int64(8), torch.tensor(4)]]),
    ("optimiser.lr_steps", [{0: 0.1, 5: 0.01}, {0.0: 0.1, np.int64(5): np.float64(0.01)}]),
    ("checkpoints.windows", [[[3, 5]], np.array([[3, 5]])]),
    ("kl.free_bits", [1, 1.0, np.int64(1), np.float32(1), torch.tensor(1.0)]),
    ("model.use_statenet", [True, np.True_, torch.tensor(True)]),
])
def test_values_of_numpy_and_whole_floats_are_plain_settings(key: str, spellings: list[Any]) -> None:
    texts = {load_config("v5_5", {key: value}).as_yaml() for value in spellings}
    assert len(texts) == 1
    assert from_yaml(texts.pop(), "text")


def test_a_split_of_one_operation_trains() -> None:
    config = load_config(TINY.as_dict(), {
        "data.train_fraction": 5.1e-5, "data.validation_fraction": 5.1e-5, "training.total_epochs": 1,
    })
    assert [math.isfinite(record.val_loss) for record in train(config, [1], device="cpu")] == [True]


def test_a_base_is_beside_the_file_or_shipped_or_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TL_UNSET", raising=False)
    (tmp_path / "deep").mkdir()
    mine = tmp_path / "deep" / "mine.yaml"
    (tmp_path / "home.yaml").write_text("name: home")
    bases = {"quick": "quick", "~/home.yaml": "home", "../home.yaml": "home", "variants/aligned": "aligned"}
    for base, name in bases.items():
        mine.write_text(f"base: {base}")
        assert load_config(mine).name == name
    (mine.parent / "quick").write_text("name: beside")
    mine.write_text("base: quick")
    assert load_config(mine).name == "beside"
    mine.write_text("base: $TL_UNSET/x.yaml")
    with pytest.raises(ConfigError, match=r"mine\.yaml: base: .* TL_UNSET is not set"):
        load_config(mine)


BAD_FILES = {
    "unclosed": ("training: {total_epochs: 3", "not YAML: line 1"),
    "tab": ("training:\n\ttotal_epochs: 3", "not YAML: line 2"),
    "list": ("- 1\n- 2", "must be a mapping of settings, found a list"),
    "text": ("just words", "found a str"),
    "empty": ("", "found nothing"),
    "twice": ("name: a\nkl: {}\nname: b", "key 'name' is given twice"),
    "object": ("name: !!python/object/apply:os.system ['true']", "not YAML: line 1"),
    "odd key": ("{[1, 2]: 3}", "is not plain"),
    "long number": ("name: " + "9" * 5000, "not YAML"),
    "deep": ("name: " + "[" * 1500, "not YAML"),
    "number key": ("1: 2", "1"),
    "no base": ("base: missing.yaml", "its base 'missing.yaml' does not exist"),
    "base no text": ("base: 3", "base must be the name of a file"),
    "own base": ("base: config.yaml", "circular `base`: config.yaml -> config.yaml"),
}


@pytest.mark.parametrize(("text", "part"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_named(text: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert part in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: Łódź".encode("utf-16"))
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    for source, part in (
        (tmp_path / "latin.yaml", "not UTF-8"), (tmp_path / "a.yaml", "circular `base`: a.yaml -> b.yaml -> a.yaml"),
        (tmp_path, "is a directory"), (tmp_path / "none.yaml", "no such file"), ("v55", "did you mean v5_5?"),
        ("x" * 5000, "no such file"),
    ):
        with pytest.raises(ConfigError, match=part):
            load_config(source)


def test_a_file_overrides_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: base\nkl: {free_bits: 0.1}\nloss: {entropy_weight: 1e-3}")
    (tmp_path / "top.yaml").write_text("base: base.yaml\nkl: {free_bits: 0.2}")
    config = load_config(tmp_path / "top.yaml", {"name": "mine"})
    assert (config.name, config.kl.free_bits, config.loss.entropy_weight) == ("mine", 0.2, 0.001)


@pytest.mark.parametrize("text", ["total_epochs", "=3", "a=[1", f"a={'9' * 5000}", f"a={'[' * 1500}"])
def test_a_bad_override_text_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_override(text)


KEYS = [
    *flatten(Config().as_dict()), "beta", "beta.A", "beta.B.end", "beta.B.value", "optimiser", "nothing", "a..b", "",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["off", "jump", "constant", "staged", "cpu", "argmax", "raw", 10**400, 0, 1, 0.5, 2]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_any_overrides_give_a_configuration_or_its_error(overrides: dict[str, Any]) -> None:
    try:
        config = load_config("v5_5", overrides)
    except ConfigError:
        return
    assert from_yaml(config.as_yaml(), "text") == config
    assert all(math.isfinite(v) for v in flatten(config.as_dict()).values() if isinstance(v, float))


@given(st.text() | st.recursive(VALUES, lambda inner: st.dictionaries(st.sampled_from(KEYS), inner)).map(repr))
def test_any_text_gives_a_configuration_or_its_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(from_yaml(text, "text"), Config)


# --- Every key changes a run. Runs are small, and every schedule changes within a few epochs. ---

TINY = load_config("v5_5", {
    "model": {"latent_dim": 4, "encoder_hidden": [16, 8], "decoder_A_hidden": [16], "decoder_B_hidden": 16},
    "data": {"batch_size": 128, "train_fraction": 0.02, "validation_fraction": 0.01},
    "evaluation": {"coverage_samples": 500, "latents": 64},
    "training.total_epochs": 7,
    "schedule.horizon": 20,
    "beta.A.warmup_epochs": 2, "beta.B.warmup_epochs": 2,
    "phases": {"consolidation": 1, "convergence": 3, "convergence_end": 5, "final": 6},
    "temperature.A.period": 4, "temperature.B.delay_epochs": 1,
    "loss_weights": {"lambda3_period": 4, "ratio_low": 0.0, "ratio_high": 1e6},
    "optimiser.lr_steps": {0: 0.001, 3: 0.0005},
    "checkpoints.windows": [[2, 3]],
    "information": {
        "noise_weight": 0.5, "entropy_weight": 0.5, "certainty_weight": 0.5, "margin": 0.2, "start_epoch": 1,
        "ramp_epochs": 2, "latents": 16, "decay": 0.9,
    },
})
UNBALANCED = {"loss_weights.ratio_low": 1e5}
COVERAGE_RULE = {"loss_weights.coverage_ratio_high": 1e-6, "loss_weights.coverage_ratio_low": 0.0}
LEARNS = {"statenet.training": "hypergradient"}
# Keys for which `_another` finds no value with an effect, or whose effect needs other settings: (value, settings).
SPECIAL: dict[str, tuple[Any, dict[str, Any]]] = {
    "data.left_out": ("pattern:++*******", {}),
    "data.epoch_operations": (100, {}),
    "temperature.A.floor": (5.0, {}),
    "loss_weights.low": (0.71, {}),
    "loss_weights.high": (0.69, {}),
    "loss_weights.step": (0.01, UNBALANCED),
    "loss_weights.ratio_low": (1e5, {}),
    "loss_weights.ratio_high": (1e-6, {}),
    "loss_weights.coverage_ratio_low": (1e5, {"loss_weights.coverage_ratio_high": 1e6}),
    "loss_weights.coverage_ratio_high": (1e6, COVERAGE_RULE),
    "loss_weights.coverage_factor": (1.01, COVERAGE_RULE),
    "loss_weights.coverage_factor_down": (0.99, COVERAGE_RULE),
    "loss_weights.lambda3_low": (0.4, {}),
    "loss_weights.lambda3_high": (0.2, {}),
    "kl.free_bits_per": ("dimension_mean", {"kl.free_bits": 0.01}),
    "gradient_balance.low": (1.5, {}),
    "gradient_balance.norm": ("raw", {}),
    "gradient_balance.momentum_unbalanced": (0.25, UNBALANCED),
    "entropy_alignment.gradient": ("differentiable", {}),
    "statenet.training": ("hypergradient", {}),
    "statenet.learning_rate": (0.1, LEARNS),
    "statenet.lessons": (1, LEARNS),
    "statenet.lesson_operations": (20, LEARNS),
    "statenet.information_weight": (1.0, LEARNS),
    "statenet.lr_low": (0.005, {}),
    "statenet.lr_high": (1e-4, {}),
    "optimiser.eps": (1e-3, {}),
    "optimiser.clip_per": ("pathway", {}),
    "optimiser.lr_steps": ({0: 0.001}, {}),
    "optimiser.lr_decay": ("cosine", {}),
    "early_stopping.patience": (1, {}),
    "evaluation.coverage_decoding": ("argmax", {}),
    "evaluation.coverage_at": ("when_read", UNBALANCED),
    "beta.A.mode": ("off", {}),
    "beta.B.mode": ("off", {}),
}
ON_DISK = {
    "name": "other", "early_stopping.metric": "coverage", "select_by": "coverage",
    "checkpoints.every": 2, "checkpoints.windows": [[4, 5]],
}
ELSEWHERE = {"runtime.streams", "loss.added"}
"""Keys that other tests cover. These tests are below and in test_new_loss_term."""
MODES: dict[str, dict[str, Any]] = {
    "linear_warmup": {"end": 0.5, "warmup_epochs": 2},
    "jump": {"end": 0.5, "at_epoch": 2, "ramp_epochs": 2},
    "constant": {"value": 0.5},
    "staged": {"start": 0.3, "end": 0.8, "warmup_epochs": 2},
    "lagged_after_warmup": {"start": 0.1, "warmup_epochs": 2, "lag": 0.785, "ramp_epochs": 2},
    "off": {},
}


def _changes() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield (key, another valid value, settings under which the value has an effect) for every key."""
    for key, value in flatten(TINY.as_dict()).items():
        if key in SPECIAL:
            yield key, *SPECIAL[key]
        elif key not in ON_DISK and key not in ELSEWHERE:
            yield key, _another(value), {}
    for pathway, leader in (("A", "B"), ("B", "A")):
        for mode, values in MODES.items():
            follower = {f"beta.{leader}": {"mode": "constant", "value": 1.0}}
            settings = {**follower, f"beta.{pathway}": {"mode": mode, **values}}
            for name, value in values.items():
                yield f"beta.{pathway}.{name}", _another(value), settings


def _another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 if value else 0.25
        case [*_]:
            return [*value[:-1], value[-1] + 1]
    raise AssertionError(f"name another value than {value!r} in SPECIAL")


@functools.cache
def _base(extra: str) -> list[dict[str, Any]]:
    return list(_run(yaml.safe_load(extra)))


def _run(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for record in train(load_config(TINY.as_dict(), settings), [1], device="cpu"):
        yield {k: v for k, v in asdict(record).items() if k not in TIMING_COLUMNS}


CHANGES = list(_changes())


@pytest.mark.parametrize(("key", "value", "settings"), CHANGES, ids=[f"{k}={v}" for k, v, _ in CHANGES])
def test_every_key_changes_a_run(key: str, value: Any, settings: dict[str, Any]) -> None:
    """`any` ends the training at the first epoch that differs."""
    base, changed = _base(yaml.safe_dump(settings)), _run({**settings, key: value})
    assert any(row != other for row, other in itertools.zip_longest(base, changed))


@pytest.mark.parametrize(("key", "value"), ON_DISK.items())
def test_every_key_about_files_changes_the_files(
    key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def files(place: str, settings: Mapping[str, Any]) -> set[Path]:
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        run_experiment(load_config(TINY.as_dict(), settings), [1], device="cpu")
        return {path.relative_to(tmp_path / place) for path in Path.cwd().rglob("*")}

    assert files("base", {}) != files("changed", {key: value})


def test_runtime_streams_decides_where_random_numbers_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU both settings draw the same numbers. The test therefore observes the device."""
    monkeypatch.setattr(per_epoch, "Streams", lambda *_, device: [torch.device(device).type])
    drawn = {}
    for place in ("device", "cpu"):
        cohort = Cohort([load_config(TINY.as_dict(), {"runtime.streams": place})], [1], torch.device("meta"))
        drawn[place] = cohort.streams("noise")
    assert drawn == {"device": ["meta"], "cpu": ["cpu"]}


def test_no_key_is_left_out_of_these_tests() -> None:
    tested = {key for key, _, _ in CHANGES} | ON_DISK.keys() | ELSEWHERE
    assert tested >= flatten(Config().as_dict()).keys()
    fields = {mode: set(schedule.model_fields) - {"mode"} for mode, schedule in Schedule.modes.items()}
    assert fields == {mode: set(values) for mode, values in MODES.items()}
