"""What the sets of a store share, and where the rows of each are from."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.key import FeatureKey
from penultimate.store.rows.references import references
from penultimate.store.rows.rows_folder import RowsFolder
from penultimate.store.stored_columns import read_column


def sources_of(store: FeatureStore, key: FeatureKey) -> list[dict[str, Any]]:
    """Return where the rows of a complete key are from: the path, number of rows used and provenance of each source."""
    return [{"path": path, "rows": len(rows), **_made_by(store, path)} for path, rows in _rows(store, key).items()]


def shared_rows(store: FeatureStore) -> dict[FeatureKey, Mapping[FeatureKey, int]]:
    """Return of every complete key how many different rows it has in common with each other one, where it has any."""
    rows = {key: _rows(store, key) for key in store.keys()}  # noqa: SIM118  (a method of ours)
    found: dict[FeatureKey, dict[FeatureKey, int]] = {key: {} for key in rows}
    for one, other in combinations(rows, 2):
        count = sum(
            len(np.intersect1d(rows[one][path], rows[other][path])) for path in rows[one].keys() & rows[other].keys()
        )
        if count:
            found[one][other] = found[other][one] = count
    return {key: dict(shares) for key, shares in found.items()}


def _rows(store: FeatureStore, key: FeatureKey) -> dict[str, NDArray[np.int64]]:
    """Return by path of the source the rows that a complete key refers to."""
    content = store.info(key)
    if content["format"] == 1:
        return {key.path: np.arange(content["num_rows"] - content["num_failed"])}
    row_M = read_column(store.objects, key.path, layout.ROW, content["checksums"])
    return {found.source["path"]: np.unique(found.rows_R) for found in references(content["sources"], row_M)}


def _made_by(store: FeatureStore, path: str) -> dict[str, Any]:
    """Return for which dataset the rows of a source were made, and how; a key of format 1 tells it itself."""
    plan = RowsFolder(store.objects, path).plan_content() or {}
    return {name: plan[name] for name in ("dataset", "provenance") if name in plan}
