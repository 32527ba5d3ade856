"""WebDataset tars: a sample is the members of a tar whose paths are the same up to the first dot of the file's name.

Of ``train/n01.jpg`` and ``train/n01.cls`` the key is ``train/n01``, the extensions are ``jpg`` and ``cls``
(https://github.com/webdataset/webdataset). A tar is indexed once, by its headers, and images are read by byte range:
nothing is unpacked, and no member's name is used as a path. DALI's own reader is not used: it streams tars in order,
so it could neither go on at a given row nor say which member did not decode.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.digest_cache import DigestCache, Stamp
from penultimate.engine.images.formats.file_patterns import stems
from penultimate.engine.images.formats.folder import IMAGE_SUFFIXES
from penultimate.engine.images.formats.labels import (
    USUAL_DRAW,
    Draw,
    Labelling,
    label_indices,
    ordered_classes,
    splits_by_name,
)
from penultimate.engine.images.formats.tars import LocalTar, RemoteTar, Tar
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.store.errors import InputError, PenultimateError

# Shapes: N samples.

_KEY_AND_EXTENSION = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_BLOCK = 512  # POSIX.1-2017, pax, "ustar Interchange Format"


def load_webdataset(
    files: Sequence[Path | RemoteTar],
    *,
    name: str,
    labels: bool = True,
    label_column: str = "label",
    draw: Draw = USUAL_DRAW,
    metric: str = "top1",
    cache: DigestCache | None = None,
) -> ImageSet:
    """Images in uncompressed tars, files or ``remote_tars``; ids are ``<tar without .tar>/<key>``.

    Tars are named relative to the folder they share.

    The label is the text of ``.cls``, or else the field ``label_column`` of ``.json``. Splits are those that the tars'
    names tell (``train-0001.tar``), others are drawn as ``load_folder`` does; ``labels=False`` reads no labels and
    takes all as ``test``. Keys without an image are left out and counted. Raises InputError for a damaged or
    compressed tar, a key that comes twice or has several images, and a sample without a label.
    """
    tars: list[Tar] = [LocalTar(file) if isinstance(file, Path) else file for file in files]
    folder, names = stems([tar.path for tar in tars])
    shared = tars[0].folder(folder)
    with ThreadPoolExecutor(min(16, 2 * usable_cores()), thread_name_prefix="tar") as pool:
        indexes = list(pool.map(lambda tar: _index(tar, label_column if labels else None), tars))
    samples = sorted(
        (f"{tar}/{key}", number, sample)
        for number, (tar, index) in enumerate(zip(names, indexes, strict=True))
        for key, sample in index.samples
    )
    if not samples:
        raise InputError(f"no images in {len(tars)} tars, the first of them {str(tars[0])!r}")
    ids = [id_ for id_, _, _ in samples]
    if (twice := next((a for a, b in pairwise(ids) if a == b), None)) is not None:
        raise InputError(f"the sample {twice!r} comes twice; keys must be unique within a tar")
    tar_N = np.array([number for _, number, _ in samples], np.int32)
    texts = [sample.label for _, _, sample in samples]
    labelling = _labelling(ids, texts, splits_by_name(names)[tar_N], label_column, draw) if labels else None
    class_names, labels_N, split_N = labelling or Labelling.absent(len(ids))
    return build_image_set(
        name=name,
        ids=ids,
        labels_N=labels_N,
        split_N=split_N,
        class_names=class_names,
        metric=metric,
        source=TarSource(
            tars,
            tar_N,
            np.array([sample.offset for _, _, sample in samples], np.int64),
            np.array([sample.size for _, _, sample in samples], np.int64),
            place=shared,
        ),
        provenance={
            "source": "webdataset",
            "root": shared,
            "tars": len(tars),
            "keys_without_image": sum(index.without_image for index in indexes),
            "labels": label_column if labels else False,
            "seed": draw.seed,
        },
        cache=cache,
    )


class TarSource:
    """Samples that are byte ranges of tars."""

    def __init__(
        self,
        tars: Sequence[Tar],
        tar_N: NDArray[np.int32],
        offset_N: NDArray[np.int64],
        size_N: NDArray[np.int64],
        *,
        place: str,
    ) -> None:
        """Of each sample: which of ``tars`` it is in, where its bytes begin and how many there are."""
        self.tars = tars
        self.place = place
        self._tar_N = tar_N
        self._offset_N = offset_N
        self._size_N = size_N

    def read(self, index: int) -> bytes:
        """See ``ImageSource.read``."""
        size = int(self._size_N[index])
        content = self._tar(index).read(int(self._offset_N[index]), size)
        if len(content) < size:
            raise OSError(f"{self._tar(index)} ends within the sample")
        return content

    def stamp(self, index: int) -> Stamp:
        """See ``ImageSource.stamp``: that of the tar."""
        return self._tar(index).stamp()

    def _tar(self, index: int) -> Tar:
        return self.tars[int(self._tar_N[index])]


class _Sample(NamedTuple):
    offset: int
    size: int

    label: str | None
    """None where there is none or none was asked for."""


class _Index(NamedTuple):
    samples: list[tuple[str, _Sample]]
    """By key."""

    without_image: int
    """Keys that have no image."""


def _index(source: Tar, label_column: str | None) -> _Index:
    """What is in one tar; labels only with a ``label_column``."""
    path = str(source)
    try:
        with source.open() as file, tarfile.open(fileobj=file, mode="r:") as tar:
            groups: dict[str, dict[str, tarfile.TarInfo]] = {}
            for key, extension, member in _members(tar):
                if groups.setdefault(key, {}).setdefault(extension, member) is not member:
                    raise InputError(f"{path!r} has {key}.{extension} twice")
            _check_end(path, source.read(tar.offset, _BLOCK), tar.offset)
            samples = []
            for key, members in groups.items():
                if (image := _image(path, key, members)) is not None:
                    label = None if label_column is None else _label(path, tar, members, label_column)
                    samples.append((key, _Sample(image.offset_data, image.size, label)))
    except PenultimateError:
        raise
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"cannot read the tar {path!r}: {error}; WebDataset tars are not compressed") from error
    return _Index(samples, len(groups) - len(samples))


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """(key, extension in lower case, member) of the regular files that are part of samples."""
    for member in tar:
        match = _KEY_AND_EXTENSION.fullmatch(member.name.removeprefix("./"))
        if match and member.isreg() and not member.issparse():
            yield match[1], match[2].lower(), member


def _check_end(path: str, block: bytes, offset: int) -> None:
    """InputError unless the block at ``offset`` is the zeros that end a tar: tarfile stops at any bad header."""
    if len(block) < _BLOCK or block.strip(b"\0"):
        what = "no tar header" if len(block) == _BLOCK else "the end, but no end mark: it was cut off"
        raise InputError(f"{path!r} is damaged: at byte {offset} there is {what}")


def _image(path: str, key: str, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The member that is an image (``jpg``), or whose last extension is one's (``rgb.jpg``) where none is."""
    exact = [member for extension, member in members.items() if f".{extension}" in IMAGE_SUFFIXES]
    dotted = [member for extension, member in members.items() if os.path.splitext(extension)[1] in IMAGE_SUFFIXES]
    images = exact or dotted
    if len(images) > 1:
        raise InputError(f"{path!r} has several images for {key!r}: {', '.join(image.name for image in images)}")
    return images[0] if images else None


def _label(path: str, tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], column: str) -> str | None:
    for extension in ("cls", "json"):
        if extension not in members:
            continue
        file = tar.extractfile(members[extension])
        assert file is not None, "it is a regular file"
        text = file.read()
        try:
            value = json.loads(text).get(column) if extension == "json" else text.decode().strip()
        except (ValueError, AttributeError) as error:
            raise InputError(f"{members[extension].name!r} in {path!r} holds no label: {error}") from error
        if value not in (None, ""):
            return str(value)
    return None


def _labelling(
    ids: Sequence[str], texts: Sequence[str | None], given_N: NDArray[np.str_], column: str, draw: Draw
) -> Labelling:
    known = [text for text in texts if text is not None]
    if len(known) < len(texts):
        raise InputError(
            f"{ids[texts.index(None)]!r} has no label: expected a .cls, or a .json with {column!r}; name another field "
            "(--label-column), or take all images without labels (--no-labels)"
        )
    class_names = ordered_classes(known)
    return Labelling.drawn(label_indices(known, class_names), class_names, given_N, draw)
