"""Verify a store: read every byte again and report what differs from what was written.

Each of our documents carries a digest of itself and is compared to the byte; of groups, what is ours in them is. Zarr's
metadata and every column have a checksum in the group's attributes or the plan, every shard has one in its commit
record.
"""

from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.rows.rows_folder import RowsFolder
from penultimate.store.upkeep.inspection import Finding
from penultimate.store.upkeep.verify_format1 import verify_format_1, verify_format_1_rows
from penultimate.store.upkeep.verify_rows import verify_rows
from penultimate.store.upkeep.verify_set import verify_set


def verify(store: FeatureStore) -> list[Finding]:
    """Return the findings about all sets and rows of a store, unfinished ones included; none if all is as written."""
    of_sets = [finding for path in store.catalog.set_paths() for finding in verify_key(store, path)]
    return of_sets + [
        finding for folder in store.catalog.rows_folders() for finding in verify_rows(store.objects, folder)
    ]


def verify_key(store: FeatureStore, path: str) -> list[Finding]:
    """Return the findings about the set at ``path``, of either format; rows that lie elsewhere are verified apart."""
    complete = store.catalog.is_complete(path)
    if not store.objects.exists(f"{path}/{layout.PLAN_OBJECT}"):
        return verify_set(store.objects, path) if complete else []
    if complete and _format(store, path) == layout.FORMAT_VERSION:  # upgraded
        return verify_set(store.objects, path) + verify_format_1_rows(store.objects, path)
    if RowsFolder(store.objects, path).is_closed:
        return verify_format_1_rows(store.objects, path)
    return verify_format_1(store.objects, path)


def _format(store: FeatureStore, path: str) -> int:
    """Return the format of a complete set; of one that is damaged 1, whose verification says so too."""
    try:
        return int(store.catalog.set_content(path)["format"])
    except CorruptFeaturesError:
        return 1
