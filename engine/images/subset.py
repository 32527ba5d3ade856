"""Take some samples of an ImageSet as an ImageSet of their own, for a benchmark or a check to run on."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from penultimate.engine.images.digest_cache import FileFingerprint
from penultimate.engine.images.image_set import SPLITS, ImageSet
from penultimate.engine.images.image_source import ImageSource
from penultimate.store.errors import InputError

# Shapes: N samples of the whole set, M of the subset.


def sample_rows(num_rows: int, num_sampled: int) -> NDArray[np.int64]:
    """Return at most ``num_sampled`` rows, evenly spaced over a set and increasing."""
    return np.unique(np.linspace(0, num_rows - 1, min(num_rows, num_sampled)).round().astype(np.int64))


def subset(images: ImageSet, rows_M: NDArray[np.int64]) -> ImageSet:
    """Return the ImageSet of the samples at ``rows_M``, which must increase, under a digest of its own.

    What is read through it is known to ``images`` too.
    """
    return replace(
        images,
        ids_N=images.ids_N[rows_M],
        labels_N=images.labels_N[rows_M],
        split_N=images.split_N[rows_M],
        source=_SubsetSource(images.source, rows_M),
        contents=images.contents.of_rows(rows_M),
        subset_of=(images, rows_M),
        provenance={**images.provenance, "subset_rows": len(rows_M)},
    )


def at_most_per_class(images: ImageSet, most: Mapping[str, int], *, seed: int) -> ImageSet:
    """Keep at most ``most[split]`` random samples of every class; splits that are not in ``most`` stay whole.

    Raises InputError for samples with several labels.
    """
    if images.labels_N.ndim == 2:
        raise InputError(f"samples of {images.name} have several labels: there is no fixed number of them a class")
    kept_N = ~np.isin(images.split_N, list(most))
    for number, split in enumerate(SPLITS):
        for label in range(len(images.class_names)) if split in most else ():
            members = np.flatnonzero((images.split_N == split) & (images.labels_N == label))
            kept_N[np.random.default_rng((seed, number, label)).permutation(members)[: most[split]]] = True
    chosen = subset(images, np.flatnonzero(kept_N))
    return replace(chosen, provenance={**chosen.provenance, "at_most_per_class": dict(most), "subset_seed": seed})


class _SubsetSource(ImageSource):
    """A source whose sample i is sample ``rows_M[i]`` of another source."""

    def __init__(self, source: ImageSource, rows_M: NDArray[np.int64]) -> None:
        self._source = source
        self._rows_M = rows_M

    @property
    @override
    def location(self) -> str:
        return self._source.location

    @property
    @override
    def reads_at_once(self) -> int:
        return self._source.reads_at_once

    @override
    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        return self._source.read(int(self._rows_M[index]))

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return self._source.fingerprint(int(self._rows_M[index]))
