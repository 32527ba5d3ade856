"""Arrange the scoreboard's rows of one method or setting as a complete table of contenders by shared datasets.

Rows from all training images and, for trained networks, from the largest step budget of their backbone and dataset:
smaller budgets and subsets belong to their own curves (``convergence``, ``data_size``).
"""

# Shapes: M contenders, D datasets.

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.analysis.statistics.log_odds import LogOdds, log_odds
from penultimate.store.trials.trial import CHOSEN

_Cells = Mapping[tuple[str, str], Mapping[tuple[str, str], Sequence[ScoreRow]]]
"""(backbone, variant) -> (dataset, images) -> rows."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Panel:
    """Results of one method with all its variants, or of one setting: a panel of the paper's figure 2."""

    name: str
    """Name of the method, or ``method (setting)``."""

    contenders: tuple[tuple[str, str], ...]
    """Backbone and variant, in alphabetical order."""

    labels: tuple[str, ...]
    """Name of each contender: the network's within a setting, with the variant within a method."""

    readouts: tuple[str, ...]
    """Readout of each contender, as the scoreboard has it; ``CHOSEN`` where another was chosen on another dataset."""

    datasets: tuple[tuple[str, str], ...]
    """Name and digest of the images; empty where no dataset has all contenders."""

    accuracy_MD: NDArray[np.float64]
    """Accuracies as fractions; the mean where several seeds were run."""

    num_test_D: NDArray[np.float64]
    imagenet_M: NDArray[np.float64]
    """ImageNet top-1, a fraction; NaN where it is not known."""

    left_out: tuple[str, ...]
    """One sentence for each dataset that some contender lacks."""

    @property
    def log_odds(self) -> LogOdds:
        """Return the log odds of the accuracies, shape (M, D)."""
        return log_odds(self.accuracy_MD, num_test=self.num_test_D)

    @property
    def dataset_labels(self) -> tuple[str, ...]:
        """Return the datasets' names, with the digest of the images where two have the same name."""
        times = Counter(name for name, _ in self.datasets)
        return tuple(f"{name} ({images[:8]})" if times[name] > 1 else name for name, images in self.datasets)


def panels(rows: Iterable[ScoreRow]) -> list[Panel]:
    """Return one panel for each method, in alphabetical order; none for a method that ran on subsets only."""
    by_method: defaultdict[str, list[ScoreRow]] = defaultdict(list)
    for row in main_rows(rows):
        by_method[row.method].append(row)
    return [_panel(name, by_method[name], _with_variant) for name in sorted(by_method)]


def setting_panels(rows: Iterable[ScoreRow]) -> list[Panel]:
    """Return one panel for each setting, in alphabetical order. Each network counts once in its correlation."""
    by_setting: defaultdict[str, list[ScoreRow]] = defaultdict(list)
    for row in main_rows(rows):
        by_setting[row.setting].append(row)
    return [_panel(name, by_setting[name], lambda row: row.network) for name in sorted(by_setting)]


def _with_variant(row: ScoreRow) -> str:
    return f"{row.backbone} ({row.variant})" if row.variant else row.backbone


def main_rows(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
    """Keep rows of all training images and of the largest budget of their images, backbone, variant and method."""
    known = [row for row in rows if row.shots is None]
    largest: defaultdict[tuple[str, ...], int] = defaultdict(int)
    for row in known:
        largest[_run(row)] = max(largest[_run(row)], row.steps or 0)
    return [row for row in known if (row.steps or 0) == largest[_run(row)]]


def _run(row: ScoreRow) -> tuple[str, ...]:
    return (row.images, row.backbone, row.variant, row.method)


def _panel(name: str, rows: Sequence[ScoreRow], label_of: Callable[[ScoreRow], str]) -> Panel:
    cells: defaultdict[tuple[str, str], defaultdict[tuple[str, str], list[ScoreRow]]]
    cells = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.backbone, row.variant][row.dataset, row.images].append(row)
    contenders = sorted(cells)
    everywhere = sorted({dataset for by_dataset in cells.values() for dataset in by_dataset})
    shared = [dataset for dataset in everywhere if all(dataset in cells[contender] for contender in contenders)]
    table = [[cells[contender][dataset] for dataset in shared] for contender in contenders]
    accuracy = [[np.mean([row.value for row in cell]) for cell in of_contender] for of_contender in table]
    ones = [next(iter(cells[contender].values()))[0] for contender in contenders]
    return Panel(
        name=name,
        contenders=tuple(contenders),
        labels=tuple(label_of(row) for row in ones),
        readouts=tuple(_readout(row for cell in cells[contender].values() for row in cell) for contender in contenders),
        datasets=tuple(shared),
        accuracy_MD=np.array(accuracy, dtype=np.float64).reshape(len(contenders), len(shared)),
        num_test_D=np.array(
            [min(row.n_test for of in table for row in of[d]) for d in range(len(shared))], dtype=float
        ),
        imagenet_M=np.array([np.nan if row.imagenet_top1 is None else row.imagenet_top1 for row in ones]),
        left_out=tuple(_left_out(dataset, name, cells) for dataset in everywhere if dataset not in shared),
    )


def _readout(rows: Iterable[ScoreRow]) -> str:
    readouts = {row.readout for row in rows}
    return readouts.pop() if len(readouts) == 1 else CHOSEN


def _left_out(dataset: tuple[str, str], panel: str, cells: _Cells) -> str:
    lacking = sorted(" ".join(filter(None, key)) for key, by_dataset in cells.items() if dataset not in by_dataset)
    return f"{panel}: {dataset[0]} ({dataset[1][:8]}) is left out of the means: no trial of {', '.join(lacking)}"
