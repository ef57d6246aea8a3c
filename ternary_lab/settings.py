"""Base classes of groups of settings, ranges of numbers, and strict YAML.

`Section` is a group of settings. `Choice` is a group that exists in several variants, such as a schedule. A
configuration chooses the variant by the setting `mode`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails, PydanticCustomError

from ternary_lab.arguments import as_whole

try:
    from yaml import CSafeDumper as SafeDumper
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML was built without libyaml, which is several times as fast
    from yaml import SafeDumper, SafeLoader  # type: ignore[assignment]



def _whole(value: Any) -> Any:
    """Return a whole number as an int. Return another value unchanged, so that pydantic refuses it."""
    whole = as_whole(value)
    return value if whole is None else whole


Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number, also from numpy or as a float without a fraction, such as 60.0."""
Epoch = Annotated[Whole, Field(ge=0, le=1_000_000)]
Period = Annotated[Whole, Field(ge=1, le=1_000_000)]
Width = Annotated[Whole, Field(ge=1, le=4096)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
DEEPEST = 100
"""The largest number of levels in a YAML text."""


class Section(BaseModel):
    """A group of settings.

    Unknown keys are errors, and an instance cannot be changed. Only whole numbers are converted between types
    (see `Whole`).
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Choice(Section):
    """Base class of groups of settings that exist in several variants.

    A direct subclass of `Choice`, for example `schedules.Schedule`, is a base class of variants. A subclass of this
    base class becomes a variant if it declares a name by `mode: Literal["name"] = "name"`. A setting whose type is the
    base class accepts every variant, even if the variant is defined later and in another file. So users can add
    variants.
    """

    mode: str
    modes: ClassVar[dict[str, type[Choice]]]
    """The variants by mode."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if Choice in cls.__bases__:
            cls.modes = {}
        elif get_origin(annotation := cls.model_fields["mode"].annotation) is Literal:
            (mode,) = get_args(annotation)
            known = cls.modes.get(mode, cls)
            # If a notebook cell is executed again, the new class replaces the old class of the same name.
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"{cls.__qualname__}: mode {mode!r} is taken by {known.__qualname__}: choose another")
            cls.modes[mode] = cls

    @model_validator(mode="wrap")
    @classmethod
    def _member(cls, data: Any, handler: ModelWrapValidatorHandler[Choice]) -> Choice:
        """Validate data for a base class of variants with the variant that the data name by `mode`."""
        if "modes" not in vars(cls) or not isinstance(data, dict):
            return handler(data)
        mode = data.get("mode")
        if isinstance(mode, str) and mode in cls.modes:
            return cls.modes[mode].model_validate(data)
        problem = PydanticCustomError("unknown_mode", "must be one of {modes}", {
            "modes": ", ".join(cls.modes) or "the modes of your own classes, and none is defined"
        })
        raise ValidationError.from_exception_data(
            cls.__name__, [InitErrorDetails(type=problem, loc=("mode",), input=mode)]
        )


class StrictLoader(SafeLoader):
    """A safe YAML loader that rejects duplicate keys, and that reads no word or number as another one.

    The loader of PyYAML follows YAML 1.1: it reads `off` as false, `010` as 8, `1:30` as 90, and `2026-11-27` as a
    date. This loader reads them as texts. So a setting that takes no text refuses them, and `explain` names the
    spelling to use. As in YAML 1.2, only true and false are booleans, and 1e-3 is a number.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not plain", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class StrictDumper(SafeDumper):
    """A safe YAML dumper that quotes each text that a loader of YAML 1.1 or `StrictLoader` would read as another type.
    """


_DIGITS = "[0-9](?:_?[0-9])*"  # as in Python, an underscore stands between two digits only
_FLOAT = (
    rf"[-+]?(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?|[-+]?{_DIGITS}[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9](?:_?[0-9])*|0b(?:_?[01])+|0x(?:_?[0-9a-fA-F])+)", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    for _kind in (StrictLoader, StrictDumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read_yaml(text: str) -> Any:
    """Return the content of a YAML text, which `StrictLoader` reads.

    Raises yaml.YAMLError or ValueError if the text is invalid, has aliases, or has more than `DEEPEST` levels. Aliases
    are not allowed, because a page of aliases can expand to more data than fits into memory.
    """
    depth = 0
    for event in yaml.parse(text, Loader=SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", event.start_mark)  # type: ignore[arg-type]
        if depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEEPEST} levels", event.start_mark)  # type: ignore[arg-type]
    return yaml.load(text, Loader=StrictLoader)
