"""Verify a store: read every byte again and report what differs from what was written.

Each of our documents carries a digest of itself and is compared to the byte; of groups, what is ours in them is. Zarr's
metadata and every column have a checksum in the group's attributes or the plan, every shard has one in its commit
record.
"""

from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.verification.feature_set import verify_set
from penultimate.store.verification.format1 import verify_format_1
from penultimate.store.verification.inspection import Finding
from penultimate.store.verification.rows import verify_rows


def verify(store: FeatureStore) -> list[Finding]:
    """Return the findings about all sets and rows of a store, unfinished ones included; none if all is as written."""
    of_sets = [finding for path in store.catalog.set_paths() for finding in verify_key(store, path)]
    return of_sets + [
        finding for folder in store.catalog.rows_folders() for finding in verify_rows(store.objects, folder)
    ]


def verify_key(store: FeatureStore, path: str) -> list[Finding]:
    """Return the findings about the set at ``path``, of either format; rows of format 2 are verified apart."""
    if store.objects.names(f"{path}/{layout.FEATURES}"):  # of format 1, or what others refer to of one that was removed
        return verify_format_1(store.objects, path)
    return verify_set(store.objects, path) if store.catalog.is_complete(path) else []
