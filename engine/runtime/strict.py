"""Strict: what every part of a study file is made of: frozen, and an unknown key is refused with the nearest one."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from penultimate.store.errors import InputError, UnknownNameError


class Strict(BaseModel):
    """A part of a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    """The first thing that is wrong, where it is, and how many more there are."""
    first, *others = error.errors()
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] not in ("value_error", "missing"):
        what += f", got {first['input']!r}"
    more = f" (and {len(others)} more)" if others else ""
    return InputError(f"{origin}: {where}: {what}{more}" if where else f"{origin}: {what}{more}")
