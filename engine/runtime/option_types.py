"""Types of options that several settings models declare: counts, positive numbers, training images a class."""

from collections.abc import Collection
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from penultimate.store.errors import UnknownNameError

ALL: Final = "all"
"""Word for every training image in a list of shots."""

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


def listed(value: Any) -> Any:
    """Read one value as a list of one."""
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


Shots = Annotated[int | Literal["all"], BeforeValidator(_shots)]
"""Number of training images a class, or ``all``."""

ManyShots = Annotated[tuple[Shots, ...], BeforeValidator(listed), Field(min_length=1)]
