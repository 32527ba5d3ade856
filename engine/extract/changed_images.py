"""Compare image files as they are now with what a store's sets were made of."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from penultimate.engine.extract.upgrade import contents_by_id
from penultimate.engine.images.image_set import ImageSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.format.contents import UNREADABLE, is_known
from penultimate.store.key import FeatureKey
from penultimate.store.stored_columns import read_column


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedImage:
    """An image that is not any more what its features were made of."""

    dataset: str
    digest: str
    """Digest of the key whose features they are; of several keys of one set the first."""

    image: str
    """Id of the image."""

    problem: str


def changed_images(store: FeatureStore, images: ImageSet) -> list[ChangedImage]:
    """Read ``images`` and return which of them changed, or are gone, since the sets they are in were embedded.

    Looked at are the sets of format 2 of the same name, or if there are none, all sets that have an id in common with
    them. Images that no set has are not reported.
    """
    images.contents.complete(images.source)
    keys = store.keys()
    first_of: dict[str, FeatureKey] = {}
    for key in [key for key in keys if key.dataset == images.name] or keys:
        first_of.setdefault(key.images, key)
    return [change for key in first_of.values() for change in _changed(store, key, images)]


def _changed(store: FeatureStore, key: FeatureKey, images: ImageSet) -> Iterator[ChangedImage]:
    info = store.info(key)
    if info["format"] == 1:  # it holds the contents in one digest only
        return
    ids_M = read_column(store.objects, key.path, layout.IDS, info["checksums"])
    then_M3 = read_column(store.objects, key.path, layout.CONTENT, info["checksums"])
    now_M3 = contents_by_id(images, ids_M)
    if not (now_M3 != 0).any():
        return
    for sample in np.flatnonzero((then_M3 != now_M3).any(axis=1) & is_known(then_M3)).tolist():
        now = tuple(now_M3[sample].tolist())
        problem = "is gone" if not any(now) else "cannot be read" if now == UNREADABLE else "was changed"
        yield ChangedImage(
            dataset=key.dataset, digest=key.digest, image=str(ids_M[sample]), problem=f"{problem} since it was embedded"
        )
