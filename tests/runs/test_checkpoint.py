"""Tests of checkpoints.

A checkpoint is read back bit for bit. Any other file is refused with a message of one line, and no code in it is run.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import SMALL
from torch import Tensor

from ternary_lab import CheckpointError, RunError, load_config, load_model
from ternary_lab.runs.checkpoint import FORMAT, LARGEST, Checkpoint, import_original, load, open_checkpoint, save
from ternary_lab.training.cohort import Cohort

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCH_60 = Path(__file__).parents[1] / "data" / "epoch_60.pt"


@pytest.fixture(scope="module")
def point(one_thread: None) -> Checkpoint:
    cohort = Cohort([SMALL, SMALL], [3, 4], torch.device("cpu"))
    (record, _) = cohort.advance()
    state = cohort.state(0)
    return Checkpoint(SMALL, 3, record.epoch, record.rho, state.blocks, state, ("seed=3", "seed=4"))


@pytest.fixture
def saved(point: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    save(path, point)
    return path


def _same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_a_checkpoint_is_read_back_bit_for_bit(point: Checkpoint, saved: Path) -> None:
    back = load(saved)
    assert (back.config, back.seed, back.epoch, back.rho, back.cohort) == (SMALL, 3, 0, point.rho, point.cohort)
    assert point.state is not None
    assert back.state is not None
    assert _same(back.blocks, point.blocks)
    assert _same(back.state.first_moments, point.state.first_moments)
    assert _same(back.state.second_moments, point.state.second_moments)
    for name in ("next_epoch", "steps", "controllers", "best", "stopped"):
        assert getattr(back.state, name) == getattr(point.state, name), name
    assert back.state.best.epoch == 0


def test_saving_again_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save(tmp_path / "again.safetensors", load(saved))
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_a_loaded_state_trains_on_as_the_cohort_itself_does(saved: Path) -> None:
    """A checkpoint contains everything that the next epoch needs."""
    cohort = Cohort([SMALL], [3], torch.device("cpu"))
    cohort.advance()
    save(saved, Checkpoint(SMALL, 3, 0, 0.1, cohort.state(0).blocks, cohort.state(0)))
    state = load(saved).state
    assert state is not None
    resumed = Cohort([SMALL], [3], torch.device("cpu"), [state])
    rows = [
        {k: v for k, v in asdict(c.advance()[0]).items() if not k.startswith("seconds")} for c in (cohort, resumed)
    ]
    assert rows[0] == rows[1]
    assert _same(cohort.blocks, resumed.blocks)


def test_weights_alone_are_kept_without_a_state(point: Checkpoint, tmp_path: Path) -> None:
    save(tmp_path / "w.safetensors", replace(point, state=None))
    back = load(tmp_path / "w.safetensors")
    assert back.state is None
    assert _same(back.blocks, point.blocks)


def test_an_imported_original_has_the_originals_weights(tmp_path: Path) -> None:
    original = torch.load(EPOCH_60, weights_only=True)
    out = tmp_path / "epoch_60.safetensors"
    save(out, import_original(EPOCH_60))
    weights = {k.removeprefix("model."): v for k, v in load_file(out).items()}
    assert {k for k in original["model"] if not k.startswith("grad_norm")} == weights.keys()
    assert all(torch.equal(v, original["model"][k]) for k, v in weights.items())
    assert (load(out).epoch, load(out).seed) == (60, None)
    assert load_model(out).decode(torch.ones(16)).equal(load_model(EPOCH_60).decode(torch.ones(16)))


def _refused(path: Path, part: str = "") -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 1e-5, 0.001, 0.02, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_truncated_file_is_refused(saved: Path, share: float, suffix: str, tmp_path: Path) -> None:
    data = (saved if suffix == ".safetensors" else EPOCH_60).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    _refused(path)


def _rewrite(saved: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    """Change the tensors and the library's header in a file. The file remains a valid safetensors file."""
    data = saved.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    tensors, header = load_file(saved), json.loads(metadata[FORMAT])
    change(tensors, header)
    save_file(tensors, saved, {FORMAT: json.dumps(header)})


def _put(name: str, value: Tensor) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    return lambda tensors, header: tensors.update({name: value})


def _head(**values: Any) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    return lambda tensors, header: header.update(values)


WEIGHT = "model.decoder_A.decoder.0.bias"
LARGE = load_config(SMALL.as_dict(), {"model.encoder_hidden": [4096] * 16}).as_yaml()


@pytest.mark.parametrize(("change", "part"), [
    (_put(WEIGHT, torch.zeros(17)), "has shape (17,), this model needs (16,)"),
    (_put(WEIGHT, torch.full((16,), float("nan"))), "not finite"),
    (lambda tensors, header: tensors.pop(WEIGHT), "decoder_A.decoder.0.bias is missing"),
    (lambda tensors, header: tensors.pop("second.decoder_A.decoder.0.bias"), "is missing"),
    (_head(config="name: [1"), "not YAML"),
    (_head(config="nome: x"), "unknown key nome"),
    (_head(config=LARGE), "holds less than"),
    (_head(config=3), ""),
    (_head(epoch=None), "damaged"),
    (_head(cohort=None), "damaged"),
    (_head(state={}), "damaged"),
    (_head(state=[1]), "damaged"),
    (lambda tensors, header: header["state"]["controllers"].update(extra=1), "damaged"),
    (lambda tensors, header: header.pop("rho"), "damaged"),
], ids=range(14))
def test_a_damaged_checkpoint_is_refused(
    saved: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None], part: str
) -> None:
    _rewrite(saved, change)
    _refused(saved, part)


FOREIGN = {
    "empty": b"",
    "text": b"I am no checkpoint",
    "yaml": b"name: v5_5\n" * 100,
    "huge header": struct.pack("<Q", 2**63) + b"{}",
    "long header": struct.pack("<Q", 10**9) + b"{}" * 100,
    "header no JSON": struct.pack("<Q", 4) + b"{{{{" + b"\0" * 100,
    "header a list": struct.pack("<Q", 4) + b"[12]" + b"\0" * 100,
    "deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "metadata a list": struct.pack("<Q", 19) + b'{"__metadata__":[]}',
    "metadata not text": struct.pack("<Q", 42) + b'{"__metadata__":{"ternary-lab-1":{"a":1}}}',
    "zip": b"PK\x03\x04" + b"\0" * 500,
    "pickle": pickle.dumps({"model": {}}),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_foreign_file_is_refused(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"foreign{suffix}"
    path.write_bytes(data)
    _refused(path)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    _refused(tmp_path / "a.safetensors", "not a Ternary Lab checkpoint")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_never_run(tmp_path: Path, new_format: bool) -> None:
    trap = tmp_path / "executed"
    content = {"model": {"w": torch.zeros(1)}, "epoch": _Bomb(trap)}
    path = tmp_path / "bomb.pt"
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    _refused(path, "could run code")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(content))
    _refused(tmp_path / "plain.pt")
    assert not trap.exists()
    pickle.loads(pickle.dumps(_Bomb(trap)))
    assert trap.exists()  # without the check, the code is executed


def test_unreadable_and_oversized_files_are_refused(tmp_path: Path) -> None:
    for suffix in (".pt", ".safetensors"):
        _refused(tmp_path / f"missing{suffix}", "No such file")
        (tmp_path / f"folder{suffix}").mkdir()
        _refused(tmp_path / f"folder{suffix}", "is not a file")
        with open(tmp_path / f"large{suffix}", "wb") as file:
            file.truncate(LARGEST + 1)  # the file is sparse and takes no space
        _refused(tmp_path / f"large{suffix}", "not read")


def test_a_failed_write_leaves_the_old_file(
    point: Checkpoint, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        save(saved, replace(point, seed=99))
    assert saved.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [saved.name]


def test_a_path_that_cannot_be_written_is_named(point: Checkpoint, saved: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "a.safetensors", saved / "a.safetensors", tmp_path / ("x" * 300)):
        with pytest.raises(RunError, match="cannot be written"):
            save(path, point)
