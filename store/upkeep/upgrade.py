"""Upgrade a key of format 1 in place: with the contents of its samples it becomes a set whose rows others may share.

Its features stay where they are, in the set's own folder. Two columns are added, then the group's document is replaced
at once, so that a kill leaves the key in one format or the other.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from penultimate.store.catalog import Catalog
from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.format import layout
from penultimate.store.format.arrays import column_objects
from penultimate.store.format.contents import set_digest
from penultimate.store.format.documents import FEATURE_SET, STORE
from penultimate.store.format.layout import Strings
from penultimate.store.format.reading import array_documents, read_array
from penultimate.store.key import Embedding, FeatureKey
from penultimate.store.objects.objects import Objects

# Shapes: M samples of the ImageSet.


def format_1_paths(objects: Objects) -> list[str]:
    """Return the paths of the complete keys of format 1."""
    catalog = Catalog(objects)
    return [path for path in catalog.complete_paths() if catalog.set_content(path)["format"] == 1]


def ids_in_format_1(objects: Objects, embeddings: Sequence[Embedding]) -> Iterator[Strings]:
    """Yield the ids, (M,), of every key of format 1 of these embeddings, complete or begun, that is not damaged."""
    catalog, digests = Catalog(objects), {embedding.digest for embedding in embeddings}
    for path in catalog.set_paths():
        with suppress(CorruptFeaturesError):  # which a writer says
            content = catalog.set_content(path) if catalog.is_complete(path) else catalog.begun_format_1(path)
            if content and content["format"] == 1 and FeatureKey(**content["key"]).embedding.digest in digests:
                yield ids_of(objects, path)


def ids_of(objects: Objects, path: str) -> Strings:
    """Return the ids, (M,), of the key at ``path``."""
    return read_array(objects, f"{path}/{layout.IDS}")


def upgrade(objects: Objects, path: str, contents_M3: NDArray[np.uint64]) -> bool:
    """Bring the complete key of format 1 at ``path`` to format 2, given the contents of its samples.

    Returns False, having changed nothing, where these are not the contents that its digest was made of.
    """
    content = Catalog(objects).set_content(path)
    key = FeatureKey(**content["key"])
    ids_M, labels_M, split_M, failed_M = (
        read_array(objects, f"{path}/{name}") for name in (layout.IDS, layout.LABELS, layout.SPLIT, layout.FAILED)
    )
    digest = set_digest(
        ids=ids_M.tolist(),
        labels_N=labels_M,
        split_N=split_M.tolist(),
        class_names=content["class_names"],
        contents_N3=contents_M3,
    )
    if digest != key.images:
        return False
    row_M = np.where(failed_M == "", np.arange(len(ids_M)), -1)
    columns = {layout.CONTENT: contents_M3, layout.ROW: row_M}
    for name, values_M in columns.items():
        objects.put_many({f"{path}/{name}/{part}": made for part, made in column_objects(name, values_M).items()})
    documents = array_documents(objects, path, (layout.FEATURES, *layout.COLUMNS))
    upgraded = {name: value for name, value in content.items() if name != "shard_rows"} | {
        "format": layout.FORMAT_VERSION,
        "sources": [{"path": path, "num_rows": content["num_rows"], "shard_rows": content["shard_rows"]}],
        "num_embedded": content["num_rows"] - content["num_failed"],
        "num_reused": 0,
        "checksums": content["checksums"] | {name: layout.values_checksum(column) for name, column in columns.items()},
        "array_metadata": {name: layout.bytes_checksum(document) for name, document in documents.items()},
    }
    objects.put(layout.METADATA, STORE.document({"format": layout.FORMAT_VERSION}))
    arrays = {name: json.loads(document) for name, document in documents.items()}
    objects.put(f"{path}/{layout.METADATA}", FEATURE_SET.document(upgraded, arrays=arrays))
    return True
