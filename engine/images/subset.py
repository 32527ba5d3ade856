"""Some samples of an ImageSet as an ImageSet: what a benchmark or a check runs on."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.digest_cache import Stamp
from penultimate.engine.images.image_set import ImageSet, ImageSource
from penultimate.store.digest import digest_of

# Shapes: N samples of the whole set, M of the subset.


def sample_rows(num_rows: int, num_sampled: int) -> NDArray[np.int64]:
    """Rows evenly spaced over a set, increasing; all of them if there are no more."""
    return np.unique(np.linspace(0, num_rows - 1, min(num_rows, num_sampled)).round().astype(np.int64))


def subset(images: ImageSet, rows_M: NDArray[np.int64]) -> ImageSet:
    """The samples at ``rows_M``, which must increase, under a digest of their own."""
    return replace(
        images,
        ids_N=images.ids_N[rows_M],
        labels_N=images.labels_N[rows_M],
        split_N=images.split_N[rows_M],
        source=_Chosen(images.source, rows_M),
        digest=digest_of([images.digest, rows_M.tolist()]),
        provenance={**images.provenance, "subset_rows": len(rows_M)},
    )


class _Chosen:
    """A source seen through ``rows_M``."""

    def __init__(self, source: ImageSource, rows_M: NDArray[np.int64]) -> None:
        self._source = source
        self._rows_M = rows_M

    @property
    def place(self) -> str:
        """See ``ImageSource.place``."""
        return self._source.place

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """See ``ImageSource.read``."""
        return self._source.read(int(self._rows_M[index]))

    def stamp(self, index: int) -> Stamp:
        """See ``ImageSource.stamp``."""
        return self._source.stamp(int(self._rows_M[index]))
