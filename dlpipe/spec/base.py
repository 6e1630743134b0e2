"""The two bases of what is declared: `Spec`, a frozen record, and `Component`, one with a `kind` out of a registry.

A component's spec says what may be declared and which class does the work; that class is imported only when a stage
runs, so that planning never pays for torch. The work's results are pinned by `version`: raise it when they change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, Union, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

FAMILIES: dict[str, dict[str, type[Component]]] = {}


class Spec(BaseModel):
    """A frozen record: unknown keys are errors, numbers are finite, and `"5"` is not 5."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    example: ClassVar[str] = ""
    """How such a mapping is written, for messages."""


class Component(Spec):
    """A `kind` of a `family`: an abstract base names the family, a final subclass the kind.

    A final subclass declares `kind: Literal["name"] = "name"` and is then found by that name. `implementation` is
    `package.module:Class`; it comes from Python code alone, never from a YAML file.
    """

    family: ClassVar[str]
    version: ClassVar[int] = 1
    implementation: ClassVar[str] = ""
    if TYPE_CHECKING:
        kind: str  # in final subclasses

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "kind" not in cls.model_fields:
            return
        kind = get_args(cls.model_fields["kind"].annotation)[0]
        known = FAMILIES.setdefault(cls.family, {})
        other = known.setdefault(kind, cls)
        if other is not cls:
            raise ValueError(f"{cls.family} kind {kind!r} is declared twice: {other.__module__} and {cls.__module__}")

    @property
    def component(self) -> str:
        """The name under which versions are recorded, such as `layer.rbm`."""
        return f"{self.family}.{self.kind}"

    def arguments(self) -> dict[str, Any]:
        """The declared fields, less `kind`: the keyword arguments of the implementation."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}

    def load(self) -> Any:
        """Imports the class (or function) that does the work."""
        module, _, name = self.implementation.partition(":")
        return getattr(importlib.import_module(module), name)


def one_of(family: str) -> Any:
    """The type "any registered kind of this family", told apart by `kind`, which must be written."""
    kinds = tuple(FAMILIES[family].values())
    if len(kinds) == 1:
        return Annotated[kinds[0], BeforeValidator(_with_kind)]
    return Annotated[Union[kinds], Field(discriminator="kind")]  # noqa: UP007 - built at run time


def _with_kind(value: object) -> object:
    if isinstance(value, dict) and "kind" not in value:
        raise PydanticCustomError("union_tag_not_found", "kind is missing")
    return value


class Example(NamedTuple):
    """Metadata of a type: how a value is written, for messages."""

    text: str


def misuse(message: str, *field: str | int) -> PydanticCustomError:
    """To be raised by a validator of a whole record; the message is shown at `field`, a path from the record."""
    return PydanticCustomError("misuse", "{message}", {"message": message, "field": field})


Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Many = Field(strict=False)
"""For a tuple field: YAML has lists only."""


def _one_or_many(value: object) -> str:
    return "many" if isinstance(value, list | tuple) else "one"


Item = TypeVar("Item")
OneOrMany = Annotated[
    Annotated[Item, Tag("one")] | Annotated[tuple[Item, ...], Many, Tag("many")], Discriminator(_one_or_many)
]
"""One item, or a list of them (a tuple, once validated)."""

__all__ = [
    "FAMILIES",
    "Component",
    "Example",
    "Literal",
    "Many",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OneOrMany",
    "PositiveFloat",
    "PositiveInt",
    "Probability",
    "Spec",
    "misuse",
    "one_of",
]
