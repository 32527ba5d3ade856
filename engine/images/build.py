"""Build an ImageSet from the samples that a source lists, of which none is read."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.contents import Contents
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.image_set import ImageSet, Strings
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.images.sources import DigestingSource


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
    """Build the ImageSet of samples that are in the order of their ids; none is read.

    Their contents are known as far as ``cache`` remembers them. Raises what ``Contents.recall`` raises.
    """
    contents = Contents.recall(ids, source, cache)
    ids_N = cast(Strings, np.array(ids, dtype=np.dtypes.StringDType()))  # NumPy's own annotation says dtype[Any]
    return ImageSet(
        name=name,
        ids_N=ids_N,
        labels_N=labels_N,
        split_N=split_N,
        class_names=tuple(class_names),
        metric=metric,
        source=DigestingSource(source, ids, contents),
        contents=contents,
        provenance=dict(provenance),
    )
