"""Functions and a text field that read an operation given by name, index or truth table."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets as widgets
import torch

from ternary_lab import space
from ternary_lab.errors import InputError

NAMES: Mapping[int, str] = {index: name for name, index in space.named().items()}


def operation_name(index: int) -> str:
    """Return index and name of an operation, "8,019 (product)", or the index alone if the operation has no name."""
    return f"{index:,}" + (f" ({NAMES[index]})" if index in NAMES else "")


def operation_index(text: str) -> int:
    """Return the index of the operation that the text names.

    The text is a name, an index or nine entries, for example "product", "8,019" or "+0-000-0+". At least one of the
    nine entries must be + or -. Raises InputError for any other text. The message of the error quotes the text.
    """
    wanted = text.strip()
    by_name = {name.casefold(): index for index, name in NAMES.items()}
    if (found := by_name.get(wanted.casefold())) is not None:
        return found
    signs = wanted.replace("−", "-").replace(" ", "")
    if len(signs) == space.ENTRIES and set(signs) <= set("+-0") and set(signs) & set("+-"):
        return int(space.index_of(torch.tensor(["-0+".index(sign) - 1 for sign in signs])))
    digits = wanted.split("(")[0].replace(",", "").strip()
    if digits.isascii() and digits.isdigit() and len(digits) < 9 and int(digits) < space.SIZE:
        return int(digits)
    raise InputError(
        f"no operation {text!r}: give a name ({', '.join(list(by_name)[:3])}, ...), an index 0..{space.SIZE - 1} "
        "or nine of -, 0, +"
    )


class OperationPicker(widgets.Combobox):  # type: ignore[misc]
    """A text field for an operation.

    The user types a name, an index or nine entries. The field suggests the operations that have a name.
    """

    def __init__(self, description: str, value: str = "") -> None:
        super().__init__(
            description=description, value=value, options=list(NAMES.values()), continuous_update=False,
            placeholder="name, index or nine of -0+", style={"description_width": "initial"},
            layout=widgets.Layout(width="26em", min_width="26em"),
        )

    @property
    def operation(self) -> int:
        """Index of the operation in the field. Raises InputError if the text is not an operation."""
        return operation_index(self.value)
