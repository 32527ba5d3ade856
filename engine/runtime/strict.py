"""Strict is the base of every model that declares options once for the command line, YAML and Python.

A field is an option: its annotation is the type and the range, its docstring the help text, its default the default.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from penultimate.engine.runtime.seeds import check_seed
from penultimate.store.errors import InputError, UnknownNameError

Part = TypeVar("Part", bound="Strict")

Seed = Annotated[int, AfterValidator(check_seed)]
"""Field that is a seed of random numbers."""


class Strict(BaseModel):
    """A frozen value, checked when it is built; an unknown name is refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def of(cls, given: Mapping[str, Any], *, origin: str = "") -> Self:
        """Build the value from options by name. ``origin``, such as a file's name, begins the error message.

        Raises InputError, one line, for an unknown name or a value that is not allowed.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise one_line(error, origin=origin) from error

    def part(self, model: "type[Part]") -> "Part":
        """Return the options that ``model`` declares, with the values they have here."""
        return model.of({name: getattr(self, name) for name in model.model_fields})

    def replace(self, **changes: Any) -> Self:
        """Build an equal value but for ``changes``, checked again as a whole. Raises InputError as ``of`` does."""
        return self.of({name: getattr(self, name) for name in type(self).model_fields} | changes)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f"expected a mapping of {', '.join(cls.model_fields)}; got {given!r}")
        for key in given:
            if key not in cls.model_fields:
                raise UnknownNameError("key", str(key), cls.model_fields)
        return given


def one_line(error: ValidationError, *, origin: str) -> InputError:
    """Say in one line what is wrong first, where it is, and how many more errors there are."""
    first, *others = error.errors()
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] not in ("value_error", "missing"):
        what += f", got {first['input']!r}"
    more = f" (and {len(others)} more)" if others else ""
    return InputError(": ".join(part for part in (origin, where, what) if part) + more)
