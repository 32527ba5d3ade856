"""From what a source lists to an ImageSet: sorting, checking and digesting, the same for every source."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.digest_cache import DigestCache, Stamp
from penultimate.engine.images.digests import UNREADABLE, content_digest, content_digests, image_set_digest
from penultimate.engine.images.image_set import ImageSet, ImageSource, Strings
from penultimate.store.errors import VanishedImageError


class FileSource:
    """Samples that are files, one each."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        """``paths`` are relative to ``root`` (or absolute), in the order of the samples."""
        self.root = root
        self.paths = paths

    @property
    def place(self) -> str:
        """See ``ImageSource.place``."""
        return str(self.root.resolve())

    def read(self, index: int) -> bytes:
        """See ``ImageSource.read``."""
        return (self.root / self.paths[index]).read_bytes()

    def stamp(self, index: int) -> Stamp:
        """See ``ImageSource.stamp``."""
        return Stamp.of(self.root / self.paths[index])


class SteadySource:
    """A source that gives what it gave when its set was digested, or says that it cannot.

    Features are kept under the digest of the set, so that other pixels than those it was made of must not get there.
    """

    def __init__(self, source: ImageSource, ids: Sequence[str], contents_N: NDArray[np.bytes_]) -> None:
        """``contents_N``: the content digest of each sample."""
        self.original = source
        self._ids = ids
        self._contents_N = contents_N

    @property
    def place(self) -> str:
        """See ``ImageSource.place``."""
        return self.original.place

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """As ``ImageSource.read``; VanishedImageError if what was readable is not any more, or is not the same.

        OSError, which decoding records for this sample alone, if it could not be read then either.
        """
        if self._contents_N[index] == UNREADABLE:
            self.original.read(index)
            raise OSError("it could not be read when the set was listed, and can be now: list the set again")
        try:
            content = self.original.read(index)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise VanishedImageError(
                f"{self._ids[index]} in {self.place} was there when its set was digested and cannot be read now: "
                f"{reason}; bring it back and run again to resume (without it the set is another one)"
            ) from error
        if content_digest(content) != self._contents_N[index]:
            raise VanishedImageError(
                f"{self._ids[index]} in {self.place} was changed after its set was digested; "
                "run again to extract the set as it is now"
            )
        return content

    def stamp(self, index: int) -> Stamp:
        """See ``ImageSource.stamp``."""
        return self.original.stamp(index)


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
    """The ImageSet of samples already in the order of their ids; reads every sample ``cache`` does not know, once."""
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
        source=SteadySource(source, ids, contents_N),
        digest=digest,
        provenance=dict(provenance),
    )
