"""RunResult: how one run ended, as kept beside its weights."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from penultimate.store.errors import StoreError

_NAME = "result.json"


def forget(folder: Path) -> None:
    """Make a run that has ended one that has not."""
    (folder / _NAME).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """One run that has ended."""

    recipe: Mapping[str, Any]
    """``Recipe.as_dict()``."""

    status: Literal["finished", "diverged"]
    """``diverged``: the training loss stopped being finite, and the run ended there."""

    steps: int
    """Updates done; the recipe's unless it diverged."""

    history: Sequence[Mapping[str, Any]]
    """A row an evaluation: ``step``, ``epoch``, ``train_loss``, ``learning_rate``, and where there is a val split to
    evaluate on ``val_loss`` and ``val_<metric>``."""

    left_out: Mapping[str, str]
    """Id -> reason, of images that could not be decoded; others stood in for them."""

    wall_seconds: float
    """Of all sittings together."""

    @property
    def last(self) -> Mapping[str, Any]:
        """Row of the last evaluation; empty if the run diverged before the first."""
        return self.history[-1] if self.history else {}

    def write(self, folder: Path) -> None:
        """Whole or not at all. Raises OSError."""
        partial = folder / f"{_NAME}.partial"
        with partial.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / _NAME)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """What ``write`` wrote, or None if that run has not ended."""
        path = folder / _NAME
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise StoreError(f"{path} is no result of a run ({error}); remove it to do that run again") from error
