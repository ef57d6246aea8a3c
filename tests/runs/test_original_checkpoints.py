"""Tests of the import of original `.pt` files: of other versions, wrapped in other programs, foreign and hostile.

The oracle is the import of an original file: the same weights in any wrapping are imported with the same bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from ternary_lab import CheckpointError
from ternary_lab.cli import main
from ternary_lab.runs.checkpoint import WEIGHTS, WRAPPERS, Checkpoint, import_original, open_checkpoint

EPOCH_60 = Path(__file__).parents[1] / "data" / "epoch_60.pt"
CONTENT = torch.load(EPOCH_60, weights_only=True)
MODEL: dict[str, Tensor] = CONTENT["model"]
NAME = "decoder_A.decoder.0.weight"


@pytest.fixture(scope="module")
def original() -> Checkpoint:
    return import_original(EPOCH_60)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("original") / "other.pt"


def _import(path: Path, content: object, *, new_format: bool = True) -> Checkpoint:
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    return import_original(path)


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    pairs = zip(vars(one.blocks).values(), vars(other.blocks).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _refusal(path: Path, content: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        _import(path, content)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()  # one line
    assert len(str(caught.value)) < len(str(path)) + 700
    return str(caught.value)


# What is imported


@settings(max_examples=25)
@given(
    key=st.sampled_from([*WEIGHTS, None]), wrappers=st.lists(st.sampled_from(sorted(WRAPPERS)), max_size=3),
    at=st.integers(0, 2), new_format=st.booleans(),
)
def test_any_key_and_wrapping_gives_the_weights_of_the_original(
    original: Checkpoint, path: Path, key: str | None, wrappers: list[str], at: int, new_format: bool
) -> None:
    """`torch.compile` of a part adds its prefix inside a name; other wrappers add theirs in front."""
    weights = {}
    for name, value in MODEL.items():
        parts = name.split(".")
        weights[".".join([*parts[:at], *wrappers, *parts[at:]])] = value
    content = weights if key is None else {"epoch": 60, key: weights}
    found = _import(path, content, new_format=new_format)
    assert _same(found, original)
    assert (found.epoch, found.rho) == ((60, original.rho) if key else (-1, found.rho))


@settings(max_examples=25)
@given(beside=st.one_of(
    arrays.scalar_dtypes().flatmap(arrays.from_dtype),
    arrays.arrays(arrays.nested_dtypes(), arrays.array_shapes(max_dims=2, max_side=3)),
    st.just(np.array([1, None, "x"], dtype=object)),
))
def test_numbers_and_arrays_of_numpy_beside_the_weights_do_no_harm(
    original: Checkpoint, path: Path, beside: object
) -> None:
    found = _import(path, CONTENT | {"best_val_loss": beside, "H_A_history": [beside]})
    assert (found.epoch, _same(found, original)) == (60, True)


@pytest.mark.parametrize("kind", [
    int, float, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
    np.float16, np.float32, np.float64,
])
def test_an_epoch_may_be_a_whole_number_of_any_type(path: Path, kind: Any) -> None:
    found = _import(path, CONTENT | {"epoch": kind(100)})
    assert (found.epoch, type(found.epoch)) == (100, int)


@pytest.mark.parametrize("change", [
    torch.nn.Parameter, Tensor.double, lambda value: value.clone().requires_grad_(), lambda value: value.t().clone().t()
    if value.dim() == 2 else value,
], ids=["parameter", "double", "requires grad", "transposed in memory"])
def test_weights_of_any_form_are_imported(original: Checkpoint, path: Path, change: Any) -> None:
    assert _same(_import(path, {"model": {name: change(value) for name, value in MODEL.items()}}), original)


def test_buffers_and_counters_beside_the_networks_are_left_out(original: Checkpoint, path: Path) -> None:
    weights = {"n_averaged": torch.tensor(3), "note": "x"} | {f"module.{name}": value for name, value in MODEL.items()}
    assert _same(_import(path, {"model": {"name": "v5.5"}, "state_dict": weights}), original)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("suffix", [".PT", ".ckpt", ".tar", ""])
def test_a_file_of_torch_is_known_by_its_content(
    original: Checkpoint, tmp_path: Path, suffix: str, new_format: bool
) -> None:
    torch.save(CONTENT, tmp_path / f"a{suffix}", _use_new_zipfile_serialization=new_format)
    assert _same(open_checkpoint(tmp_path / f"a{suffix}"), original)


def test_the_command_says_that_a_file_of_weights_alone_names_no_epoch(path: Path, tmp_path: Path) -> None:
    torch.save(MODEL, path)
    result = CliRunner().invoke(main, ["import-v55", str(path), str(tmp_path / "out.safetensors")])
    assert (result.exit_code, result.output) == (
        0, f"{tmp_path / 'out.safetensors'}: weights; {path} names no finished epoch\n"
    )


# What is refused


def _with(value: object, name: str = NAME) -> dict[str, object]:
    return {"model": {**MODEL, name: value}}


@pytest.mark.parametrize(("content", "part"), [
    ([1, 2], "holds no dictionary, but a list"),
    ({}, "its keys are none"),
    ({"model": {}, "epoch": 1}, "no tensors under model, model_state_dict or state_dict; its keys are model, epoch"),
    ({"net": MODEL, "epoch": 1}, "its keys are net, epoch"),
    ({"net\n": MODEL, **{f"key {i}": i for i in range(20)}}, r"its keys are 'net\n', key 0,"),
    ({"model": {name: value for name, value in MODEL.items() if name != NAME}}, f"{NAME} is missing; there are grad"),
    ({"model": {f"net.{name}": value for name, value in MODEL.items()}}, "and 42 more"),
    ({"model": {name: value.numpy() for name, value in MODEL.items()}}, "no tensors"),
    (_with(MODEL[NAME].numpy()), f"weight {NAME} is not a dense tensor of floating-point numbers"),
    (_with(torch.zeros(32, 16, dtype=torch.int32)), "is not a dense tensor of floating-point numbers"),
    (_with(torch.zeros(32, 16, dtype=torch.complex64)), "is not a dense tensor of floating-point numbers"),
    (_with(torch.zeros(32, 16).to_sparse()), "is not a dense tensor of floating-point numbers"),
    (_with(torch.zeros(32, 16, device="meta")), "is not a dense tensor of floating-point numbers"),
    (_with(torch.zeros(3, 3)), "has shape (3, 3)"),
    (_with(torch.zeros(1).expand(10**6, 10**6)), "has shape"),
    (_with(torch.zeros(1, dtype=torch.float64).expand(10**6, 10**6)), "has shape"),
    (_with(torch.full((32, 16), torch.inf)), "not finite"),
    (_with(torch.full((32, 16), 1e300, dtype=torch.float64)), "not finite in float32"),
    (_with(MODEL[NAME], f"module.{NAME}"), f"holds a weight twice, under another name as module.{NAME}"),
    (_with(torch.zeros(3), "decoder_B.residual3.block.0.bias"), "v5.5 has no weights decoder_B.residual3.block.0.bias"),
    *(({"model": MODEL, "epoch": epoch}, f"its epoch is {epoch!r}, not a whole number from 0, or -1")
      for epoch in ("sixty", True, -5, 60.5, float("nan"), None)),
    ({"model": MODEL, "epoch": np.bool_(True)}, "its epoch is True"),
    ({"model": MODEL, "epoch": {"a": "x" * 10**5}}, "its epoch is {'a': 'xxx"),
    ({"model": torch.nn.Linear(2, 2)}, "holds torch.nn.modules.linear.Linear, which could run code: save {'epoch': "),
    ({"model": MODEL, "config": Path("x")}, "holds pathlib."),
], ids=range(30))
def test_what_is_wrong_with_a_file_is_named(path: Path, content: object, part: str) -> None:
    assert part in _refusal(path, content)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_named(path: Path) -> None:
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    assert f"weight {NAME} is not a dense tensor" in _refusal(path, _with(nested))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_program_and_another_protocol_are_named(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(CheckpointError, match="holds a program of TorchScript: save "):
        import_original(path)
    torch.save(CONTENT, path, pickle_protocol=4)
    with pytest.raises(CheckpointError, match="not a torch checkpoint with pickle protocol 2"):
        import_original(path)


class _Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("call", [
    _Call(np._core.multiarray._reconstruct, np.ndarray, (2**62,), b"b"),  # type: ignore[attr-defined]
    _Call(np._core.multiarray.scalar, np.dtype("V8"), b"12345678"),  # type: ignore[attr-defined]
    _Call(np._core.multiarray.scalar, np.dtype("O"), b"12345678"),  # type: ignore[attr-defined]
    _Call(np._core.multiarray.scalar),  # type: ignore[attr-defined]
    _Call(np.dtype),
    _Call(np.ndarray, (2**62,)),
], ids=range(6))
def test_a_pickle_cannot_make_numpy_allocate_or_fail(original: Checkpoint, path: Path, call: _Call) -> None:
    """NumPy itself would fail here, or read memory that is not its own."""
    found = _import(path, CONTENT | {"best_val_loss": call})
    assert _same(found, original)
    assert "its epoch is" in _refusal(path, CONTENT | {"epoch": call})
