"""Look up the ImageNet top-1 of published weights, the x axis of the paper's figures; users may override the table."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from penultimate.store.errors import InputError

TABLE = "imagenet_top1.csv"
"""Name of the table in this package: model, img_size, top1 and top5 in per cent, source, and when it was copied.

``model`` is a backbone's name: ``arch.tag``, or the bare architecture for weights from an installed package.
``img_size`` is the network's input size, one row a model: other test sizes are other numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """The accuracy of one set of weights on the ImageNet validation set."""

    top1: float
    """Top-1 accuracy as a fraction."""

    source: str
    """Publication that prints the value and when it was copied, or the user's file."""


def imagenet_top1(overrides: Path | None = None) -> Mapping[str, float]:
    """Return the ImageNet validation top-1, as a fraction, by name of backbone.

    Takes ``overrides`` and raises errors as ``imagenet_table`` does.
    """
    return {model: accuracy.top1 for model, accuracy in imagenet_table(overrides).items()}


def imagenet_table(overrides: Path | None = None) -> Mapping[str, Accuracy]:
    """Return the accuracy of published weights by name of backbone; random and fine-tuned weights have none.

    ``overrides`` is a CSV with columns ``model`` and ``top1`` (per cent), for example of what
    ``penultimate imagenet-eval`` measured: its rows replace the table's. Raises InputError if it is not that.
    """
    rows = _rows(files(__package__).joinpath(TABLE).read_text(encoding="utf-8").splitlines(), TABLE)
    if overrides is None:
        return rows
    try:
        lines = overrides.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"table of ImageNet accuracies {overrides} cannot be read: {error}") from error
    return rows | _rows(lines, str(overrides))


def _rows(lines: Iterable[str], origin: str) -> dict[str, Accuracy]:
    reader = csv.DictReader(lines)
    columns = reader.fieldnames or []
    if "model" not in columns or "top1" not in columns:
        raise InputError(f"{origin} must have columns model and top1 (per cent), it has {', '.join(columns) or 'none'}")
    return {row["model"]: Accuracy(top1=_fraction(row, origin), source=_source(row, origin)) for row in reader}


def _source(row: Mapping[str, str], origin: str) -> str:
    return f"{row['source']}, copied {row['copied']}" if row.get("source") and row.get("copied") else origin


def _fraction(row: Mapping[str, str], origin: str) -> float:
    try:
        percent = float(row["top1"])
    except (TypeError, ValueError):
        percent = float("nan")
    if not 0.0 < percent < 100.0:
        raise InputError(
            f"{origin}: top1 of {row['model']!r} must be in per cent, between 0 and 100, got {row['top1']!r}"
        )
    if percent <= 1.0:
        raise InputError(f"{origin}: top1 of {row['model']!r} is {percent}, which looks like a fraction; give per cent")
    return percent / 100.0
