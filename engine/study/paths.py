"""Place: where the results of a study lie."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from penultimate.engine.study.study import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the results of a study lie."""

    out: Path
    store: Path
    """Features."""

    @classmethod
    def of(cls, study: Study, out: Path) -> Self:
        """The folder ``out``, and the store that the study names or one in it."""
        return cls(out=out, store=out / "features.zarr" if study.store is None else Path(study.store).expanduser())

    @property
    def study(self) -> Path:
        """The resolved study."""
        return self.out / "study.yaml"

    @property
    def trials(self) -> Path:
        """The log that `analyze` and `report` read."""
        return self.out / "trials"

    @property
    def runs(self) -> Path:
        """Of fine-tuning and of training from scratch."""
        return self.out / "runs"

    @property
    def pretraining(self) -> Path:
        """Runs of networks that become backbones, with a trial log of their own."""
        return self.out / "pretraining"
