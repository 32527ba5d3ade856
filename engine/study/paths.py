"""Name the folders and files of a study's results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from penultimate.engine.study.study import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPaths:
    """The folders and files of a study's results."""

    out: Path
    store: Path
    """The feature store."""

    @classmethod
    def of(cls, study: Study, out: Path) -> Self:
        """Return the paths below ``out``, with the store that the study names or one in it."""
        return cls(out=out, store=out / "features.zarr" if study.store is None else Path(study.store).expanduser())

    @property
    def study(self) -> Path:
        """Return the file of the resolved study, YAML."""
        return self.out / "study.yaml"

    @property
    def trials(self) -> Path:
        """Return the folder of the trial log that `analyze` and `report` read."""
        return self.out / "trials"

    @property
    def runs(self) -> Path:
        """Return the folder of runs of fine-tuning and of training from scratch."""
        return self.out / "runs"

    @property
    def pretraining(self) -> Path:
        """Return the folder of runs of networks that become backbones, with a trial log of their own."""
        return self.out / "pretraining"
