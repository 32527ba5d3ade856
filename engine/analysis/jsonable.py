"""Turn results into plain values that JSON can hold."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from math import isnan
from typing import Any

import numpy as np
import pandas as pd


def jsonable(value: Any) -> Any:
    """Return ``value`` with dataclasses and mappings as dicts, arrays and tuples as lists, NaN as None.

    >>> jsonable({"r": np.float64("nan"), "counts": np.arange(2)})
    {'r': None, 'counts': [0, 1]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): jsonable(each) for name, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [jsonable(each) for each in value]
    return None if isinstance(value, float) and isnan(value) else value


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts of values that JSON can hold."""
    names = [str(name) for name in table.columns]
    return [dict(zip(names, jsonable(row), strict=True)) for row in table.itertuples(index=False, name=None)]
