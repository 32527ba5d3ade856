"""SearchResult: the trial and network of a grid search, or the runs it still lacks."""

from dataclasses import dataclass
from pathlib import Path

from penultimate.store.trials.trial import Trial


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SearchResult:
    """Result of one trial of training: its scores and its network."""

    trial: Trial | None
    """Scores on test and all that led to them; None while other partitions are waited for, and without a test split."""

    folder: Path | None
    """Folder of the run whose network is the result, which is ``weights`` for a backbone; None while other partitions
    are waited for, and where the network has been removed."""

    num_waiting: int = 0
    """Runs of the grid that other partitions have not ended yet."""
