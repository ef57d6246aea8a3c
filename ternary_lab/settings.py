"""Groups of settings: their base classes, the ranges of their numbers, and the YAML that they are written in.

`Section` is a group of settings. `Choice` is a group that a configuration chooses by its `mode`, such as a schedule.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails, PydanticCustomError

try:
    from yaml import CSafeDumper as SafeDumper
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML was built without libyaml, which is several times as fast
    from yaml import SafeDumper, SafeLoader  # type: ignore[assignment]

Epoch = Annotated[int, Field(ge=0, le=1_000_000)]
Period = Annotated[int, Field(ge=1, le=1_000_000)]
Width = Annotated[int, Field(ge=1, le=4096)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
DEEPEST = 100
"""The largest number of levels in a YAML text."""


class Section(BaseModel):
    """A group of settings: strict, closed, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Choice(Section):
    """A group of settings that a configuration chooses by its `mode`, from a family that anybody can extend.

    A direct subclass is a family, for example `schedules.Schedule`. A subclass of a family becomes a member by its own
    `mode: Literal["name"] = "name"`. A setting of the family's type accepts every member, even if it is defined later
    and elsewhere.
    """

    mode: str
    modes: ClassVar[dict[str, type[Choice]]]
    """Mode -> member of the family."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if Choice in cls.__bases__:
            cls.modes = {}
        elif get_origin(annotation := cls.model_fields["mode"].annotation) is Literal:
            (mode,) = get_args(annotation)
            known = cls.modes.get(mode, cls)
            # A notebook cell that is executed again replaces its own class.
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"{cls.__qualname__}: mode {mode!r} is taken by {known.__qualname__}: choose another")
            cls.modes[mode] = cls

    @model_validator(mode="wrap")
    @classmethod
    def _member(cls, data: Any, handler: ModelWrapValidatorHandler[Choice]) -> Choice:
        """Data for the family, validated by the member whose mode they name."""
        if "modes" not in vars(cls) or not isinstance(data, dict):
            return handler(data)
        mode = data.get("mode")
        if isinstance(mode, str) and mode in cls.modes:
            return cls.modes[mode].model_validate(data)
        problem = PydanticCustomError("unknown_mode", "must be one of {modes}", {"modes": ", ".join(cls.modes)})
        raise ValidationError.from_exception_data(
            cls.__name__, [InitErrorDetails(type=problem, loc=("mode",), input=mode)]
        )


class StrictLoader(SafeLoader):
    """Safe YAML that reads 1e-3 as a number and refuses a key given twice."""

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
    """Safe YAML that puts a text into quotes where `StrictLoader` would read a number."""


for _kind in (StrictLoader, StrictDumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def read_yaml(text: str) -> Any:
    """The content of a YAML text, read by `StrictLoader`. Raises yaml.YAMLError and ValueError.

    Refuses more than `DEEPEST` levels. Refuses aliases, because a page of them can unfold to more than memory holds.
    """
    depth = 0
    for event in yaml.parse(text, Loader=SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", event.start_mark)  # type: ignore[arg-type]
        if depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEEPEST} levels", event.start_mark)  # type: ignore[arg-type]
    return yaml.load(text, Loader=StrictLoader)
