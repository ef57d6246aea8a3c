"""The space of operations: all 3^9 = 19,683 truth tables of binary operations on {-1, 0, +1}.

The following notation holds in the whole library:

    N = 19,683   number of operations          k = 0..8   entry of a truth table
    i            operation index, 0..N-1       x_k        entry k, in {-1, 0, +1}

    x_k(i) = (i // 3^k) mod 3 - 1              i = sum_k (x_k + 1) 3^k

Entry k = 3 (a + 1) + (b + 1) is the result of the operation for the arguments a and b. So a truth table that is
reshaped to 3x3 has a row for each a and a column for each b. Rows and columns have the order -1, 0, +1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab.arguments import LARGEST_SEED, whole_number
from ternary_lab.errors import InputError

ENTRIES = 9
VALUES = 3
SIZE = VALUES**ENTRIES


@dataclass(frozen=True)
class Split:
    """A split of all N operations into four disjoint parts.

    Each tensor holds operation indices (int64, 1-D).
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    left_out: Tensor
    """Operations that were removed from the three other parts. This part is empty by default."""


def operations(indices: Tensor | None = None) -> Tensor:
    """Return the truth tables of operation indices (...) as float32 (..., 9) with values -1, 0, +1.

    By default, all 19,683 tables are returned in the order of their indices. Raises InputError if `indices` is not an
    integer tensor with values in 0..19,682.
    """
    if indices is None:
        indices = torch.arange(SIZE, device="cpu")
    if not isinstance(indices, Tensor):
        raise InputError(f"operation indices must be a torch tensor of integers, got {type(indices).__name__}")
    check_dense(indices, "operation indices")
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise InputError(f"operation indices must be integers, got {indices.dtype}: convert with .long()")
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= SIZE):
        raise InputError(
            f"operation indices must lie in 0..{SIZE - 1}, got {int(indices.min())}..{int(indices.max())}"
        )
    powers = VALUES ** torch.arange(ENTRIES, device=indices.device)
    return (indices.unsqueeze(-1) // powers % VALUES - 1).float()


def index_of(tables: Tensor) -> Tensor:
    """Return the operation indices, int64 (...), of truth tables (..., 9).

    This function is the inverse of `operations`. Raises InputError if an entry is not -1, 0 or +1, or if the last
    dimension is not 9.
    """
    classes = check_operations(tables).long() + 1
    powers = VALUES ** torch.arange(ENTRIES, device=classes.device)
    return (classes * powers).sum(-1)


def check_operations(tables: Tensor) -> Tensor:
    """Return the tables as float32.

    Raises InputError unless they are truth tables (..., 9) with entries -1, 0 or +1.
    """
    if not isinstance(tables, Tensor):
        raise InputError(f"operations must be a torch tensor (..., 9), got {type(tables).__name__}")
    check_dense(tables, "operations")
    if tables.ndim == 0 or tables.shape[-1] != ENTRIES:
        raise InputError(f"operations must have shape (..., 9), got {tuple(tables.shape)}")
    if tables.dtype.is_complex or tables.dtype == torch.bool:
        raise InputError(f"operations must be integers or floats, got {tables.dtype}")
    values = tables.float()
    wrong = ~((values == -1) | (values == 0) | (values == 1))
    if bool(wrong.any()):
        raise InputError(f"entries of an operation must be -1, 0 or +1, got {values[wrong][0].item():g}")
    return values


def check_dense(tensor: Tensor, name: str) -> None:
    """Raise InputError for a tensor that is sparse, quantised or on the meta device.

    `name` stands for the tensor in the message.
    """
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_quantized:
        kind = "meta" if tensor.device.type == "meta" else str(tensor.layout).removeprefix("torch.")
        raise InputError(f"{name} must be an ordinary dense tensor, got a {kind} one: convert it with .to_dense()")


def split(
    split_seed: int, train: float = 0.8, validation: float = 0.1, left_out: Tensor | None = None
) -> Split:
    """Split the space at random into train, validation and test parts.

    With the default shares, the parts have 15,746, 1,968 and 1,969 operations.

    Args:
        train: share of the space in the train part.
        validation: share of the space in the validation part. All other operations are the test part.
        left_out: indices of operations that are removed from the parts. Every other operation stays in its part.

    Raises InputError if `split_seed` is not a whole number in 0..2^32 - 1.
    """
    seed = whole_number(split_seed, "split_seed", 0, LARGEST_SEED)
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(SIZE, generator=generator, device="cpu")
    first = int(SIZE * train)
    second = first + int(SIZE * validation)
    absent = torch.empty(0, dtype=torch.int64, device="cpu") if left_out is None else left_out
    train_part, validation_part, test_part = (
        part[~torch.isin(part, absent)] for part in (order[:first], order[first:second], order[second:])
    )
    return Split(train_part, validation_part, test_part, absent)


def from_function(operation: Callable[[int, int], int]) -> Tensor:
    """Return the truth table, float32 (9,), of a Python function of two values in {-1, 0, +1}."""
    values = (-1, 0, 1)
    return check_operations(torch.tensor([operation(a, b) for a in values for b in values], device="cpu"))


def _sum_mod_3(a: int, b: int) -> int:
    return (a + b + 1) % 3 - 1


NAMED: dict[str, Callable[[int, int], int]] = {
    "min (Kleene and)": min,
    "max (Kleene or)": max,
    "Kleene implication": lambda a, b: max(-a, b),
    "Łukasiewicz implication": lambda a, b: min(1, 1 - a + b),
    "Gödel implication": lambda a, b: 1 if a <= b else b,
    "sum mod 3": _sum_mod_3,
    "product": lambda a, b: a * b,
    "consensus": lambda a, b: a if a == b else 0,
    "projection a": lambda a, b: a,
    "projection b": lambda a, b: b,
}
"""Operations that have a name. Here -1, 0, +1 mean false, unknown, true (Kleene 1938, Łukasiewicz 1920, Gödel 1932)."""


def named() -> dict[str, int]:
    """Return a dictionary from name to operation index, for every operation in `NAMED`."""
    return {name: int(index_of(from_function(function))) for name, function in NAMED.items()}


def one_hot(x: Tensor) -> Tensor:
    """Return operations x (..., 9) as one-hot classes (..., 9, 3) of type float32."""
    return torch.nn.functional.one_hot((x + 1).long(), 3).float()
