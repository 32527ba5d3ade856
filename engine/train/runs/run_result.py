"""RunResult: the result of one run, kept beside its weights."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from penultimate.store.errors import StoreError

_NAME = "result.json"


def forget(folder: Path) -> None:
    """Remove the result of a run, so that it counts as not ended."""
    (folder / _NAME).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """Result of a run that has ended."""

    recipe: Mapping[str, Any]
    """``Recipe.as_dict()``."""

    status: Literal["finished", "diverged"]
    """``diverged`` if the training loss stopped being finite, which ended the run."""

    steps: int
    """Updates done: those of the recipe unless the run diverged."""

    history: Sequence[Mapping[str, Any]]
    """A row for each evaluation: ``step``, ``epoch``, ``train_loss`` and ``learning_rate``, and where there is a val
    split to evaluate on, ``val_loss`` and ``val_<metric>``."""

    left_out: Mapping[str, str]
    """Id -> reason, for images that could not be decoded; others stood in for them."""

    wall_seconds: float
    """Wall-clock seconds, summed over all resumed sessions."""

    @property
    def last(self) -> Mapping[str, Any]:
        """Return the row of the last evaluation; empty if the run diverged before the first."""
        return self.history[-1] if self.history else {}

    def write(self, folder: Path) -> None:
        """Write ``result.json``, whole or not at all. Raises OSError."""
        partial = folder / f"{_NAME}.partial"
        with partial.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / _NAME)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read what ``write`` wrote; None if that run has not ended. Raises StoreError for a file that is no result."""
        path = folder / _NAME
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise StoreError(f"{path} is no result of a run ({error}); remove it to do that run again") from error
