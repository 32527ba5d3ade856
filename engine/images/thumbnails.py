"""Make thumbnails of images by id, as bytes for who shows them: reports and audits never decode an image."""

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from penultimate.engine.images.decode.pillow import open_image
from penultimate.engine.images.found_again import images_by_provenance
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.store.errors import ForbiddenError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.format.contents import content_of, is_known

PIXELS = 112
"""Longest side of a thumbnail: about 2 kB of WebP."""

_QUALITY = 60


def thumbnails(
    features: FeatureSet, ids: Iterable[str], *, images: Sequence[str] = (), pixels: int = PIXELS
) -> dict[str, bytes]:
    """Return thumbnails of images of a set by id, WebP files with a longest side of ``pixels``, turned upright.

    They are read from ``images``, which are what ``load_images`` takes and where ids are the same, and else where the
    set's provenance says they were. An image that is not there, cannot be read, or is not what was embedded (by its
    content, where the store knows it) has no thumbnail. Raises InputError for ``images`` that cannot be listed.
    """
    given = [load_images(spec, labels=False) for spec in images]
    sources = [*images_by_provenance(features.provenance), *given]  # of two with an id the last is read
    index_of = {id_: (source, index) for source in sources for index, id_ in enumerate(source.ids_N.tolist())}
    row_of = {id_: row for row, id_ in enumerate(features.ids.tolist())}
    known_N = is_known(features.contents)
    wanted = [id_ for id_ in ids if id_ in index_of and id_ in row_of]

    def thumbnail(id_: str) -> bytes | None:
        row = row_of[id_]
        return _thumbnail(*index_of[id_], features.contents[row].tolist() if known_N[row] else None, pixels)

    cores = usable_cores()
    with ThreadPoolExecutor(cores, thread_name_prefix="thumbnails") as pool:
        made = prefetch_map(pool, thumbnail, wanted, depth=4 * cores)
        return {id_: content for id_, content in zip(wanted, made, strict=True) if content is not None}


def _thumbnail(images: ImageSet, index: int, expected: list[int] | None, pixels: int) -> bytes | None:
    """Return the thumbnail of a sample, None where it is not what is expected or cannot be read."""
    try:
        data = images.source.read(index)
        if expected is not None and list(content_of(data)) != expected:
            return None
        image = open_image(data, upright=True)
    except ForbiddenError:
        raise
    except Exception:  # Pillow's plugins raise some ten kinds on bad files
        return None
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=_QUALITY)
    return file.getvalue()
