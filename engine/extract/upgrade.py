"""Upgrade the keys of format 1 in a store: find the contents of their images in the digest cache, or read them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.found_again import images_by_provenance
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.images.subset import subset
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.contents import is_unknown, no_contents
from penultimate.store.format.layout import Strings
from penultimate.store.key import Embedding
from penultimate.store.upkeep.upgrade import format_1_paths, ids_in_format_1, ids_of, upgrade

# Shapes: M samples of a key.


def contents_by_id(images: ImageSet, ids_M: Strings) -> NDArray[np.uint64]:
    """Return the contents, (M, 3), of the images with these ids, UNKNOWN where there is none or it was not read yet."""
    index_of = {id_: index for index, id_ in enumerate(images.ids_N.tolist())}
    indices_M = np.array([index_of.get(id_, -1) for id_ in ids_M.tolist()], np.int64)
    return np.concatenate([images.contents.known(), no_contents(1)])[indices_M]


def read_for_format_1(images: ImageSet, embeddings: Sequence[Embedding], store: FeatureStore) -> None:
    """Read those of ``images`` whose contents prove what the rows of format 1 are of, as far as they are not known.

    Such keys hold one digest of all their images; nothing is read where the store has none of these ``embeddings``, or
    where not all of its images are here.
    """
    if not is_unknown(images.contents.known()).any():
        return
    index_of = {id_: index for index, id_ in enumerate(images.ids_N.tolist())}
    for ids_M in ids_in_format_1(store.objects, embeddings):
        indices = sorted(index_of.get(id_, -1) for id_ in ids_M.tolist())
        if indices[0] >= 0:
            chosen = subset(images, np.array(indices, np.int64))
            chosen.contents.complete(chosen.source)


def upgrade_store(
    store: FeatureStore,
    *,
    images: Sequence[str] = (),
    cache: DigestCache | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[int, int]:
    """Bring every key of format 1 to format 2 whose images can be found as they were; nothing is embedded.

    ``images`` are what the features were extracted from, as ``load_images`` takes them; without any, each key's own
    provenance says where they were. What the digest cache remembers is not read. Returns how many keys were upgraded
    and how many stay as they are; of these ``log`` is told why.
    """
    given = [load_images(spec, labels=False, cache=cache) for spec in images]
    upgraded = kept = 0
    for path in format_1_paths(store.objects):
        ids_M = ids_of(store.objects, path)
        found = given or images_by_provenance(store.catalog.set_content(path)["provenance"], cache=cache)
        if any(_upgrade(store, path, ids_M, one) for one in found):
            log(f"{path}: upgraded")
            upgraded += 1
        else:
            reason = "they are not, or not all, as they were" if found else "its images were not found"
            log(f"{path}: stays in format 1, which can be read: {reason}; name them with --images")
            kept += 1
    return upgraded, kept


def _upgrade(store: FeatureStore, path: str, ids_M: Strings, images: ImageSet) -> bool:
    if not set(ids_M.tolist()) <= set(images.ids_N.tolist()):
        return False
    images.contents.complete(images.source)
    return upgrade(store.objects, path, contents_by_id(images, ids_M))
