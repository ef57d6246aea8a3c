"""A place that cannot be written is refused before a long computation, not after it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench
import gpu
import pytest
from small import SMALL

from ternary_lab import run_experiment
from ternary_lab.cli import main
from ternary_lab.runs.files import require_writable

pytestmark = pytest.mark.usefixtures("one_thread")


def _script(function: Callable[[], Any], *words: str) -> Callable[[pytest.MonkeyPatch], None]:
    def call(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(sys, "argv", ["script", *words])
        sys.exit(function())

    return call


def _command(*words: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda _: main(words, prog_name="ternary-lab")


@pytest.mark.parametrize(("call", "work", "place"), [
    (_command("probe", "a"), "ternary_lab.studies.probes.probe", "a/seed=1/probes.csv"),
    (_command("recipes", "beyond", "--table", "full/table.csv"),
     "ternary_lab.studies.beyond_v55.tables.run_experiment", "full/table.csv"),
    (_command("alternatives", "--seeds", "42", "--run-dir", "full"),
     "ternary_lab.studies.beyond_v55.alternatives.v5_5_rows", "full/table.csv"),
    (_command("claims", "v5_5", "--page", "full/page.html"), "ternary_lab.studies.report.judge_runs", "full/page.html"),
    (_command("reproduce", "--quick"), "ternary_lab.cli.reproduce.run_experiment", "figures/quick/02_train.ipynb"),
    (_script(bench.main, "--output", "full/bench.json"), "bench.bench", "full/bench.json"),
    (_script(gpu.main, "--device", "cpu", "--small", "--output", "full/gpu.json"), "gpu.Findings", "full/gpu.json"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    call: Callable[[pytest.MonkeyPatch], None], work: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work, lambda *_, **__: pytest.fail("the work has begun"))
    if place.startswith("a/"):
        run_experiment(SMALL, [1], "a", device="cpu")
    Path(place).mkdir(parents=True)  # root may write everywhere, but no file can take the place of a folder
    with pytest.raises(SystemExit) as end:
        call(monkeypatch)
    shown = capsys.readouterr()
    said = end.value.code if isinstance(end.value.code, str) else shown.err
    places = (place, Path(place).absolute())  # a run has an absolute path
    assert said.startswith(tuple(f"error: {path}: cannot be written: Is a directory" for path in places))
    assert shown.out == ""
    assert isinstance(end.value.code, str) or end.value.code == 2


def test_the_check_leaves_everything_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    require_writable(file)
    assert [*tmp_path.rglob("*")] == [tmp_path / "new"]
    file.write_text("kept")
    require_writable(file)
    assert (file.read_text(), [*file.parent.iterdir()]) == ("kept", [file])


def test_a_result_is_shown_although_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "bench.json"

    def fills_the_disk(**_: object) -> Any:
        yield "everything", {"cohorts": {}}
        place.mkdir()  # from here on, the file cannot be written

    monkeypatch.setattr(bench, "bench", fills_the_disk)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--json", "--output", str(place)])
    with pytest.raises(SystemExit, match=r"^error: .*bench\.json: cannot be written"):
        bench.main()
    assert capsys.readouterr().out == '{"cohorts": {}}\n'
