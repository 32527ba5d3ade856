"""Types of settings that several models declare: counts, lists of one, training images a class."""

from collections.abc import Collection
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from penultimate.store.errors import UnknownNameError

ALL: Final = "all"
"""In a list of shots: every training image."""


def listed(value: Any) -> Any:
    """Return one setting as a list of one, and a list as it is."""
    return value if isinstance(value, list | tuple) else [value]


def one_of(kind: str, known: Collection[str]) -> AfterValidator:
    """Return a validator that refuses a name outside ``known`` with the nearest ones."""

    def check(name: str) -> str:
        if name not in known:
            raise UnknownNameError(kind, name, known)
        return name

    return AfterValidator(check)


def _shots(value: Any) -> Any:
    if value == ALL or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"expected all, or a number of images a class from 1 up, got {value!r}")


Count = Annotated[int, Field(ge=1)]
Shots = Annotated[int | Literal["all"], BeforeValidator(_shots)]
"""A number of training images a class, or ``all``."""

ManyShots = Annotated[tuple[Shots, ...], BeforeValidator(listed), Field(min_length=1)]
