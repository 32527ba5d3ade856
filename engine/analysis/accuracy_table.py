"""Read a table of accuracies, models by datasets with one column for ImageNet, from any experiment or from trials.

A file holds one row a model, its name in the first column (or ``model_column``), and a column a dataset, one of them
ImageNet. The largest value decides whether values are percentages or fractions, and ``unit`` records the decision.
"""

# Shapes: M models, D datasets.

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from penultimate.store.errors import InputError, UnknownNameError

Unit = Literal["percent", "fraction"]

FEWEST_MODELS = 3

AN_AVERAGE = 0.001
"""Largest distance, for every model, of a column from the mean of the others at which it is taken for their average.
It is 0.1 %, one printed digit."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AccuracyTable:
    """A complete table of accuracies, as fractions."""

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    imagenet_M: NDArray[np.float64]
    accuracy_MD: NDArray[np.float64]
    unit: str
    """Unit of the accuracies in the file, and why: ``percent (largest value 97.6)``, ``fraction (as told)`` ..."""

    num_test_D: NDArray[np.float64] | None = None
    """Number of test samples of each dataset; decides how accuracies of 0 and 1 are moved (``log_odds``). None where
    it is not known."""

    notes: tuple[str, ...] = ()
    """Sentences about the table that a report repeats, such as a column that looks like an average."""

    def __post_init__(self) -> None:
        if len(self.models) < FEWEST_MODELS or not self.datasets:
            raise InputError(
                f"an analysis needs at least {FEWEST_MODELS} models and one dataset beside ImageNet, got "
                f"{len(self.models)} models ({', '.join(self.models)}) and {len(self.datasets)} datasets"
            )
        if len(set(self.models)) < len(self.models):
            twice = sorted({name for name in self.models if self.models.count(name) > 1})
            raise InputError(f"each model must have one row, found several of {', '.join(twice)}")
        shape = (len(self.models), len(self.datasets))
        if self.accuracy_MD.shape != shape or self.imagenet_M.shape != shape[:1]:
            raise InputError(
                f"expected accuracies of shape {shape} and ImageNet of {shape[:1]}, got {self.accuracy_MD.shape} "
                f"and {self.imagenet_M.shape}"
            )


def read_accuracy_table(
    path: str | Path,
    *,
    imagenet: str = "imagenet",
    model_column: str | None = None,
    datasets: Sequence[str] = (),
    unit: Unit | None = None,
) -> AccuracyTable:
    """Read a table of accuracies from a CSV or Parquet file.

    ``datasets`` names the columns to use (all beside models and ImageNet when empty), ``unit`` overrules what the
    values look like. Raises InputError, naming row and column, for what is no complete table of accuracies.
    """
    frame = _read(Path(path))
    models = model_column or str(frame.columns[0])
    for column in (models, imagenet, *datasets):
        if column not in frame.columns:
            raise UnknownNameError(f"column of {path}", column, [str(name) for name in frame.columns])
    chosen = list(datasets) or [str(name) for name in frame.columns if name not in (models, imagenet)]
    if models == imagenet or imagenet in chosen or models in chosen:
        raise InputError(f"{imagenet!r} is ImageNet and {models!r} holds the models; neither can be a dataset as well")
    if frame[models].isna().any():
        raise InputError(f"row {int(frame[models].isna().argmax()) + 1} of {path} has no name in column {models!r}")
    names = frame[models].astype(str).tolist()
    values = np.column_stack([_numbers(frame, column, names) for column in (imagenet, *chosen)])
    percent, unit_text = _is_percent(values, unit, [imagenet, *chosen])
    fractions = values / 100 if percent else values
    _check_range(values, 100.0 if percent else 1.0, names, [imagenet, *chosen], unit_text)
    return AccuracyTable(
        models=tuple(names),
        datasets=tuple(chosen),
        imagenet_M=fractions[:, 0],
        accuracy_MD=fractions[:, 1:],
        unit=unit_text,
        notes=_averages(fractions[:, 1:], chosen),
    )


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"there is no table at {path}; expected a CSV or Parquet file")
    try:
        frame = _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _csv(path)
    except (OSError, ValueError) as error:  # pandas' and pyarrow's parse errors derive from ValueError
        message = f"{path} cannot be read as a table: {error}; expected CSV with a header line, or Parquet"
        raise InputError(message) from error
    if frame.shape[1] < 2 or frame.empty:
        raise InputError(f"{path} has {frame.shape[0]} rows and {frame.shape[1]} columns; expected models by datasets")
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise InputError(f"{path} has several columns named {twice[0]!r}; each dataset must have one")
    return frame


def _csv(path: Path) -> pd.DataFrame:
    """Read all cells as text. The header is split off here, since pandas renames a repeated column silently."""
    cells = pd.read_csv(path, dtype=str, header=None, skipinitialspace=True)
    return cells.iloc[1:].set_axis(cells.iloc[0].astype(str).str.strip(), axis=1).reset_index(drop=True)


def _parquet(path: Path) -> pd.DataFrame:
    """Read the file, and make a stored index (``DataFrame.to_parquet``), which holds the models, the first column."""
    frame = pd.read_parquet(path)
    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index(names=frame.index.name or "model")


def _numbers(frame: pd.DataFrame, column: str, models: Sequence[str]) -> NDArray[np.float64]:
    numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        cell = frame[column].iloc[bad[0]]
        found = "an empty cell" if pd.isna(cell) else repr(cell)
        raise InputError(
            f"column {column!r} has {found} for {models[bad[0]]} ({len(bad)} such cells); expected numbers: "
            "leave the column out by naming the datasets to use, or complete it"
        )
    return numbers


def _is_percent(values: NDArray[np.float64], unit: Unit | None, columns: Sequence[str]) -> tuple[bool, str]:
    """Return True for percentages and False for fractions, and the unit in words for ``AccuracyTable.unit``."""
    if unit is not None:
        if unit not in get_args(Unit):
            raise UnknownNameError("unit", unit, get_args(Unit))
        return unit == "percent", f"{unit} (as told)"
    highest = values.max(axis=0)
    if highest.max() <= 1:
        return False, f"fraction (largest value {highest.max():g})"
    small = [name for name, value in zip(columns, highest, strict=True) if value <= 1]
    if small:
        raise InputError(
            f"no value of {', '.join(small)} is above 1 while {columns[int(highest.argmax())]} reaches "
            f"{highest.max():g}: percentages beside fractions? Bring them to one unit, or say which unit they are"
        )
    return True, f"percent (largest value {highest.max():g})"


def _check_range(
    values: NDArray[np.float64], top: float, models: Sequence[str], columns: Sequence[str], unit_text: str
) -> None:
    outside = np.argwhere((values < 0) | (values > top))
    if len(outside):
        m, d = outside[0]
        raise InputError(
            f"{models[m]} has {values[m, d]:g} on {columns[d]}; expected 0 to {top:g}, as the table is {unit_text}"
        )


def _averages(accuracy_MD: NDArray[np.float64], datasets: Sequence[str]) -> tuple[str, ...]:
    """Return one sentence for each column that looks like the average of the others. Such a column still counts."""
    if len(datasets) < 3:
        return ()
    others_MD = (accuracy_MD.sum(axis=1, keepdims=True) - accuracy_MD) / (len(datasets) - 1)
    return tuple(
        f"column {name!r} is the average of the other {len(datasets) - 1}, yet counted as a dataset; "
        "name the datasets to use to leave it out"
        for name, off in zip(datasets, np.abs(accuracy_MD - others_MD).max(axis=0), strict=True)
        if off <= AN_AVERAGE
    )
