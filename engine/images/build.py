"""Build an ImageSet from the samples that a source lists: digest every sample, and the set as a whole."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.digests import content_digests, image_set_digest
from penultimate.engine.images.image_set import ImageSet, ImageSource, Strings
from penultimate.engine.images.sources import VerifiedSource


def build_image_set(
    *,
    name: str,
    ids: Sequence[str],
    labels_N: NDArray[np.int64] | NDArray[np.uint8],
    split_N: NDArray[np.str_],
    class_names: Sequence[str],
    metric: str,
    source: ImageSource,
    provenance: Mapping[str, Any],
    cache: DigestCache | None = None,
) -> ImageSet:
    """Build the ImageSet of samples that are in the order of their ids, and read once every one ``cache`` lacks."""
    contents_N = content_digests(ids, source, cache=cache)
    digest = image_set_digest(
        ids=ids, labels_N=labels_N, split_N=split_N, class_names=class_names, contents_N=contents_N
    )
    ids_N = cast(Strings, np.array(ids, dtype=np.dtypes.StringDType()))  # NumPy's own annotation says dtype[Any]
    return ImageSet(
        name=name,
        ids_N=ids_N,
        labels_N=labels_N,
        split_N=split_N,
        class_names=tuple(class_names),
        metric=metric,
        source=VerifiedSource(source, ids, contents_N),
        digest=digest,
        provenance=dict(provenance),
    )
