"""Sweeps: the table, cohorts, runs that are not repeated, failures, and the progress while one trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from small import SMALL

from ternary_lab import ConfigError, EngineError, RunError, load_config, load_run, run_experiment
from ternary_lab.cli import main
from ternary_lab.config import Config, differences, is_structural
from ternary_lab.errors import TernaryLabError
from ternary_lab.history import COLUMNS, TIMING_COLUMNS
from ternary_lab.runs.files import write_atomically
from ternary_lab.sweeps import plan, run
from ternary_lab.sweeps.design import Sweep, load_sweep, points
from ternary_lab.sweeps.engines import Local
from ternary_lab.sweeps.plan import Cohort, Plan, assign_cohorts, digest
from ternary_lab.sweeps.run import METRICS, PUBLISHED_SWEEP, load_results, results, run_sweep, status
from ternary_lab.training.memory import run_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

KEYS: dict[str, Any] = {"rho.isolated": {"values": [0.0, 0.5]}, "kl.free_bits": {"values": [0.1, 0.5]}}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory with small.yaml. fsync is left out: it only protects against power cuts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    (tmp_path / "small.yaml").write_text(SMALL.as_yaml())


def _sweep(keys: dict[str, Any] = KEYS, seeds: str | list[int] = "1..2", **more: Any) -> Sweep:
    data = {"base": "small.yaml", "design": {"kind": "grid", "keys": keys}, "seeds": seeds, "budget": {"runs": 100}}
    Path("it.yaml").write_text(json.dumps(data | more))
    return load_sweep("it.yaml")


def _runs() -> list[Path]:
    return sorted(path.parent for path in Path("runs/sweeps/it").rglob("config.yaml"))


def _starts() -> dict[Path, int]:
    """How often the training of each run was started or resumed."""
    logs = {path: (path / "log.jsonl").read_text().splitlines() for path in _runs()}
    return {path: sum('"stopped"' not in line for line in log) for path, log in logs.items()}


# --- the table


def test_the_table_is_what_training_each_run_by_itself_gives() -> None:
    table = run_sweep(_sweep(), device="cpu")
    assert list(table.columns) == ["point", "seed", *KEYS, "status", "reason", "epochs", *METRICS]
    assert set(METRICS) == {*COLUMNS} - {"run", "seed", "epoch", *TIMING_COLUMNS}
    assert len(table) == 8
    for _, row in table.iterrows():
        config = load_config(SMALL.as_dict(), {key: row[key] for key in KEYS})
        alone = run_experiment(config, [row["seed"]], f"alone/{digest(config)}", device="cpu")[row["seed"]]
        assert (row["status"], row["reason"], row["epochs"]) == ("done", "complete: 3 epochs", 3)
        last = alone.history.iloc[-1]
        for metric in ("train_loss", "val_elbo", "kl_A", "rho"):
            assert row[metric] == pytest.approx(last[metric], rel=1e-4), metric  # company changes rounding


def test_the_file_is_the_table_and_holds_the_histories_own_digits() -> None:
    it = _sweep()
    table = run_sweep(it, device="cpu")
    pd.testing.assert_frame_equal(run.read_results("runs/sweeps/it/results.csv"), table)
    pd.testing.assert_frame_equal(results(it), table)
    for _, row in table.iterrows():
        history = Path(f"runs/sweeps/it/{row['point']}/seed={row['seed']}/history.csv").read_text().splitlines()
        assert f",{row['train_loss']!r}," in history[-1]


def test_a_directory_is_named_by_settings_that_a_reader_knows() -> None:
    run_sweep(_sweep(), device="cpu")
    names = {path.parent.name: load_run(path).config for path in _runs()}
    for name, config in names.items():
        assert name == f"rho.isolated={config.rho.isolated},kl.free_bits={config.kl.free_bits}-{digest(config)}"


def test_values_of_any_kind_are_cells() -> None:
    keys = {"optimiser.lr_steps": {"values": [{0: 0.01}, {0: 0.02, 1: 0.01}]}, "beta.B": {"values": [{"mode": "off"}]},
            "temperature.A.temp_cyclic": {"values": [True]}}
    Path("it.yaml").write_text(
        "base: small.yaml\nseeds: [1]\nbudget: {runs: 2}\ndesign:\n  kind: grid\n  keys:\n" + "".join(
            f"    {key}: {{values: {values['values']!r}}}\n".replace("True", "true") for key, values in keys.items()
        )
    )
    table = run_sweep(load_sweep("it.yaml"), device="cpu")
    assert list(table["optimiser.lr_steps"]) == ['{"0": 0.01}', '{"0": 0.02, "1": 0.01}']
    assert table["temperature.A.temp_cyclic"].all()
    assert (table["beta_B"] == 0).all()
    assert all(set(path.parent.name) <= set("abcdefghijklmnopqrstuvwxyzAB0123456789=.,_-") for path in _runs())


# --- nothing is trained twice


def test_a_sweep_again_trains_nothing_and_more_seeds_only_those() -> None:
    first = run_sweep(_sweep(seeds=[1]), device="cpu")
    weights = {path: (path / "checkpoints" / "latest.safetensors").stat().st_mtime_ns for path in _runs()}
    pd.testing.assert_frame_equal(run_sweep(_sweep(seeds=[1]), device="cpu"), first)
    assert set(_starts().values()) == {1}
    both = run_sweep(_sweep(seeds=[1, 2]), device="cpu")
    assert len(_runs()) == 8
    assert set(_starts().values()) == {1}
    assert all((path / "checkpoints" / "latest.safetensors").stat().st_mtime_ns == t for path, t in weights.items())
    pd.testing.assert_frame_equal(both[both["seed"] == 1].reset_index(drop=True), first)


def test_points_that_are_added_or_named_by_more_keys_keep_what_is_done() -> None:
    run_sweep(_sweep({"rho.isolated": {"values": [0.0, 0.5]}}, [1]), device="cpu")
    more = {"rho.isolated": {"values": [0.0, 0.5, 1.0]}, "kl.free_bits": {"values": [SMALL.kl.free_bits]}}
    table = run_sweep(_sweep(more, [1]), device="cpu")
    assert list(table["rho.isolated"]) == [0.0, 0.5, 1.0]
    assert len(_runs()) == 3
    assert set(_starts().values()) == {1}


def test_a_smaller_sweep_has_a_smaller_table() -> None:
    run_sweep(_sweep(seeds=[1, 2]), device="cpu")
    assert set(run_sweep(_sweep(seeds=[2]), device="cpu")["seed"]) == {2}
    assert len(_runs()) == 8


def test_a_sweep_interrupted_anywhere_ends_with_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    it = _sweep(cohort=3)
    run_sweep(it, "whole", device="cpu")
    expected = Path("whole/results.csv").read_bytes()

    class Killed(BaseException):
        """Stands for SIGKILL."""

    real = os.replace
    for n in range(5, 300, 47):
        count = 0

        def trapped(*names: Any, at: int = n) -> None:
            nonlocal count
            count += 1
            if count == at:
                raise Killed
            real(*names)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", trapped)
            try:
                run_sweep(it, str(n), device="cpu")
                break
            except Killed:
                found = status(it, str(n))
                assert found.done + found.left == 8
        run_sweep(it, str(n), device="cpu")
        assert Path(f"{n}/results.csv").read_bytes() == expected
    else:
        pytest.fail("300 file operations were not the end")
    assert n > 100


# --- cohorts


def _assigned(it: Sweep, slots: int = 1) -> list[Cohort]:
    workers = Local("cpu")
    workers.slots = slots
    Path("cohorts").mkdir(exist_ok=True)
    return list(assign_cohorts(Plan.read(it, Path(".")), workers).cohorts.values())


def test_runs_that_differ_in_values_train_side_by_side_and_others_apart() -> None:
    keys = {**KEYS, "data.batch_size": {"values": [64, 128]}, "model.latent_dim": {"values": [2, 4]}}
    it = _sweep(keys, [1])
    runs = Plan.read(it, Path(".")).runs
    for cohort in _assigned(it):
        first, *others = [runs[name].point.config for name in cohort.runs]
        assert not any(is_structural(key) for other in others for key in differences(first, other))
    assert [len(cohort.runs) for cohort in _assigned(it)] == [4, 4, 4, 4]


@pytest.mark.parametrize(("slots", "most", "sizes"), [
    (1, None, [6, 6]), (1, 5, [4, 4, 4]), (4, None, [3, 3, 3, 3]), (100, None, [1] * 12), (1, 1, [1] * 12),
])
def test_cohorts_are_as_large_as_they_may_be_and_of_a_size(slots: int, most: int | None, sizes: list[int]) -> None:
    found = _assigned(_sweep(seeds="1..3", **({"cohort": most} if most else {})), slots)
    assert [len(cohort.runs) for cohort in found] == sizes
    assert len({name for cohort in found for name in cohort.runs}) == 12


def test_a_cohort_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    one = run_bytes(SMALL, "cpu")
    monkeypatch.setattr(plan, "free_bytes", lambda device: 3 * one)
    assert [len(cohort.runs) for cohort in _assigned(_sweep())] == [2, 3, 3]


def test_the_first_seed_of_every_point_comes_first() -> None:
    found = _assigned(_sweep(cohort=4))
    assert [{name.rpartition("=")[2] for name in cohort.runs} for cohort in found] == [{"1"}, {"2"}]


def test_the_estimate_of_memory_holds_for_what_was_measured() -> None:
    """Memory of cohorts of 8 and 64 runs of v5.5, compared with a single run (benchmarks/cpu.json)."""
    measured = json.loads((Path(__file__).parents[2] / "benchmarks" / "cpu.json").read_text())["cohorts"]
    estimate = run_bytes(load_config("v5_5"), "cpu")
    for runs in (8, 64):
        each = (measured[str(runs)]["peak_bytes"] - measured["1"]["peak_bytes"]) / (runs - 1)
        assert each <= estimate <= 3 * each


@pytest.mark.parametrize("change", [
    {"data.batch_size": 1024}, {"model.latent_dim": 64}, {"model.encoder_hidden": [2048]},
    {"evaluation.latents": 2**20}, {"data.epoch_operations": 100_000}, {"information.noise_weight": 1.0},
])
def test_the_estimate_grows_with_what_takes_memory(change: dict[str, Any]) -> None:
    base = load_config("v5_5")
    changed: Config = load_config(base.as_dict(), change)
    assert run_bytes(changed, "cpu") > run_bytes(base, "cpu")


# --- failure


def test_a_run_that_diverges_fails_with_its_reason_and_ends_no_other() -> None:
    Path("it.yaml").write_text(
        "base: small.yaml\nseeds: [1]\nbudget: {runs: 2}\nset: {statenet.lr_high: 1.0e+6}\n"
        "design: {kind: grid, keys: {optimiser.lr_steps: {values: [{0: 1.0e-3}, {0: 1.0e-3, 1: 1.0e+6}]}}}\n"
    )
    it = load_sweep("it.yaml")
    table = run_sweep(it, device="cpu")
    assert list(table["status"]) == ["done", "failed"]
    assert table["reason"][1].startswith("diverged: ")
    assert (table["epochs"] >= 1).all()
    assert table["train_loss"].notna().all()  # those of its last good epoch
    found = status(it)
    assert (found.done, found.failed, found.left, found.seconds_left) == (1, 1, 0, 0.0)
    assert [*found.failures.values()] == [table["reason"][1]]
    run_sweep(it, device="cpu")
    assert set(_starts().values()) == {1}  # it is not tried again, as it would diverge again


def test_what_breaks_a_cohort_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    it = _sweep(cohort=4)
    real = run.train_runs
    calls = 0

    def breaks(*args: Any, **more: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise MemoryError("no more\nof it")
        real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(run, "train_runs", breaks)
        table = run_sweep(it, device="cpu")
    assert list(table["status"]) == ["failed"] * 4 + ["done"] * 4
    assert set(table["reason"][:4]) == {"MemoryError: no more"}
    assert table["train_loss"].isna().tolist() == [True] * 4 + [False] * 4
    assert (run_sweep(it, device="cpu")["status"] == "done").all()


def test_damage_is_named() -> None:
    it = _sweep(seeds=[1])
    run_sweep(it, device="cpu")
    history = _runs()[0] / "history.csv"
    *rows, last = history.read_text().splitlines(keepends=True)
    history.write_text("".join([*rows, last.replace("0.", "1.", 1)]))
    row = results(it).set_index("point").loc[history.parents[1].name]
    assert row["status"] == "failed"
    assert "damaged" in row["reason"]
    (Path("runs/sweeps/it/cohorts/0001.json")).write_text("{")
    with pytest.raises(RunError, match=r"0001\.json: cannot be read: .*: delete it"):
        status(it)


@pytest.mark.parametrize(("more", "error", "part"), [
    ({"engine": "spark"}, EngineError, "there are local and ray"),
    ({"address": "auto"}, EngineError, "add --engine ray"),
    ({"device": "tpu"}, TernaryLabError, "use auto, cpu or cuda"),
    ({"run_dir": "small.yaml"}, RunError, "small.yaml"),
])
def test_what_is_wrong_is_said_before_anything_is_written(more: Any, error: type[Exception], part: str) -> None:
    it, before = _sweep(), set(Path(".").rglob("*"))
    with pytest.raises(error, match=part):
        run_sweep(it, **more)
    assert set(Path(".").rglob("*")) == before


def test_a_bad_point_is_named_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match=r"point 2 \(rho.isolated=1.5"):
        run_sweep(_sweep({"rho.isolated": {"values": [0.5, 1.5]}}), device="cpu")
    assert not _runs()


# --- status


def test_status_writes_nothing_and_knows_a_sweep_that_has_not_begun() -> None:
    found = status(_sweep())
    assert (found.points, found.runs, found.left, found.epochs, found.seconds_left) == (4, 8, 8, 24, None)
    assert not Path("runs").exists()
    assert "time to go not known yet" in str(found)


def test_status_and_table_are_there_while_another_process_sweeps() -> None:
    it = _sweep(seeds=[1], cohort=2, set={"training.total_epochs": 40})
    code = "from ternary_lab.cli import main; main()"
    words = [sys.executable, "-c", code, "sweep", "it.yaml", "--device", "cpu"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        found = status(it)
        while not (found.running == 2 and found.done == 0 and found.epochs_done > 4):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
            found = status(it)
        assert (found.left, found.failed) == (2, 0)
        assert found.seconds_left is not None
        assert 0 < found.seconds_left < 600
        assert sorted(results(it)["status"]) == ["left", "left", "running", "running"]
        with pytest.raises(RunError, match="is being trained by process"):
            run_sweep(it, device="cpu")
        process.kill()
    found = status(it)
    assert (found.running, found.done, found.left) == (0, 0, 4)
    assert (run_sweep(it, device="cpu")["status"] == "done").all()


def test_time_to_go_is_what_is_left_times_what_it_took() -> None:
    it = _sweep(cohort=4)
    run_sweep(it, device="cpu")
    second = Path("runs/sweeps/it/cohorts/0002.json")
    for path in _runs():
        provenance = json.loads((path / "provenance.json").read_text())
        provenance.pop("sha256")
        if f"{path.parent.name}/{path.name}" in Cohort.read(second).runs:
            provenance |= {"stopped": None, "wall_seconds": 0.0}
            history = (path / "history.csv").read_text().splitlines(keepends=True)
            (path / "history.csv").write_text("".join(history[:1]))
        else:
            provenance["wall_seconds"] = 6.0  # of four runs side by side, three epochs each
        write_atomically(path / "provenance.json", json.dumps(provenance).encode())
    assert status(it).seconds_left == pytest.approx(6.0)
    assert "4 of 8 runs done, 0 running, 0 failed, 4 left; about 6 s to go" in str(status(it))


# --- the command


def _call(*words: str) -> Result:
    return CliRunner().invoke(main, ["sweep", "it.yaml", *words])


def test_the_command_trains_says_how_far_and_names_the_table() -> None:
    _sweep(seeds=[1])
    before = json.loads(_call("--status", "--json").stdout)
    assert before.keys() == {*vars(status(_sweep(seeds=[1]))), "results"}
    assert (before["runs"], before["left"]) == (4, 4)
    done = _call("--device", "cpu")
    assert done.exit_code == 0, done.output
    assert done.stdout == "runs/sweeps/it/results.csv: 4 of 4 runs done, 0 running, 0 failed, 0 left\n"
    assert done.stderr.splitlines()[0] == "it: 1 of 1 cohorts to train on cpu"
    again = _call("--json", "--device", "cpu")
    assert json.loads(again.stdout) == json.loads(_call("--json", "--status").stdout)
    assert json.loads(again.stdout)["done"] == 4
    assert again.stderr == ""
    assert _call("--run-dir", "other", "--status").stdout.startswith("other: 0 of 4 runs done")


def test_the_command_lists_what_failed_with_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    _sweep(seeds=[1])

    def breaks(*_: Any, **__: Any) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(run, "train_runs", breaks)
    done = _call("--device", "cpu")
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 5
    assert done.stdout.splitlines()[-1].endswith("/seed=1: MemoryError: no more")
    assert _call("--status").exit_code == 0


def test_a_users_error_is_one_line_without_torch() -> None:
    Path("it.yaml").write_text(
        "base: quick\nseeds: [1]\nbudget: {runs: 1}\ndesign: {kind: grid, keys: {rho.coupled: {low: 0}}}"
    )
    code = "import sys\nfrom ternary_lab.cli import main\ntry: main(['sweep', 'it.yaml'])\nexcept SystemExit as e: " \
           "sys.exit(9 if 'torch' in sys.modules else e.code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: it.yaml: design.keys.rho.coupled: give values, or low and high")


# --- the published table


def test_the_published_table_is_whole_and_that_of_the_shipped_sweep() -> None:
    shipped, table = load_sweep(PUBLISHED_SWEEP), load_results()
    assert (table["status"] == "done").all()
    keys = list(shipped.design.keys)
    assert list(table.columns) == ["point", "seed", *keys, "status", "reason", "epochs", *METRICS]
    assert sorted(table[[*keys, "seed"]].itertuples(index=False, name=None)) == sorted(
        (*point.values.values(), seed) for point in points(shipped) for seed in shipped.seeds
    )


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(RunError, match=r"none\.csv: no table of a sweep"):
        load_results("none.csv")
