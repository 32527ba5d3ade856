"""Load WebDataset tars, in which the members with the same path up to the first dot of their names are one sample.

The members ``train/n01.jpg`` and ``train/n01.cls`` have the key ``train/n01`` and the extensions ``jpg`` and ``cls``
(https://github.com/webdataset/webdataset). A tar is indexed once, by its headers, and images are read by byte range:
nothing is unpacked, and no member's name is used as a path. DALI's own reader is not used: it streams tars in order,
so it could neither resume at a given row nor say which member did not decode.
"""

import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.digest_cache import DigestCache, FileFingerprint
from penultimate.engine.images.folders.file_kinds import IMAGE_SUFFIXES
from penultimate.engine.images.formats.file_patterns import stems
from penultimate.engine.images.formats.labels import DEFAULT_RANDOM_SPLIT, Labelling, RandomSplit, splits_by_name
from penultimate.engine.images.formats.remote_tars import RemoteTar
from penultimate.engine.images.formats.tables import DEFAULT_COLUMNS, Columns
from penultimate.engine.images.formats.tar_labels import TarLabel, tar_labelling
from penultimate.engine.images.formats.tars import LocalTar, Tar
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.store.errors import InputError, PenultimateError

# Shapes: N samples.

_KEY_AND_EXTENSION = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_LABELS = ("cls", "json")
"""Extensions of the members that hold labels, the first that has one."""

_BLOCK = 512  # POSIX.1-2017, pax, "ustar Interchange Format"


def load_webdataset(
    files: Sequence[Path | RemoteTar],
    *,
    name: str,
    labels: bool = True,
    columns: Columns = DEFAULT_COLUMNS,
    names: Sequence[str] | None = None,
    random_split: RandomSplit = DEFAULT_RANDOM_SPLIT,
    metric: str | None = None,
    left_out: Mapping[str, int] | None = None,
    cache: DigestCache | None = None,
) -> ImageSet:
    """Load images in uncompressed tars, files or ``remote_tars``; ids are ``<tar without .tar>/<key>``.

    In ids, a tar's path is relative to the deepest folder that holds all tars.

    The label is the text of ``.cls``, or else the field ``columns.label`` of ``.json``. If that is a list or, with
    ``multi_label``, names separated by ``|``, the metric is ``map11`` unless another is given. With ``names``, labels
    are numbers from 0 that stand for these class names. Splits are those that the tars' names tell
    (``train-0001.tar``), others are drawn as by ``load_folder``; ``labels=False`` reads no labels and takes all as
    ``test``. Keys without an image are left out and counted. Raises InputError for a damaged or compressed tar, a key
    that comes twice or has several images, a sample without a label, a number without a name, and a class of val or
    test that train lacks.
    """
    label_column = (columns.label or "label") if labels else None
    tars: list[Tar] = [LocalTar(file) if isinstance(file, Path) else file for file in files]
    folder, stems_of_tars = stems([tar.path for tar in tars])
    shared = tars[0].folder(folder)
    # Of tars in a bucket at most a block of 4 MiB each is in memory.
    num_threads = min(32, max(min(16, 2 * usable_cores()), *(tar.reads_at_once for tar in tars)))
    with ThreadPoolExecutor(num_threads, thread_name_prefix="tar") as pool:
        indexes = list(pool.map(lambda tar: _index(tar, label_column), tars))
    samples = sorted(
        (f"{tar}/{key}", number, sample)
        for number, (tar, index) in enumerate(zip(stems_of_tars, indexes, strict=True))
        for key, sample in index.samples
    )
    if not samples:
        raise InputError(f"no images in {len(tars)} tars, the first of them {str(tars[0])!r}")
    ids = [id_ for id_, _, _ in samples]
    if (twice := next((a for a, b in pairwise(ids) if a == b), None)) is not None:
        raise InputError(f"the sample {twice!r} comes twice; keys must be unique within a tar")
    tar_N = np.array([number for _, number, _ in samples], np.int32)
    labelling = Labelling.unlabelled(len(ids))
    if label_column is not None:
        given_N = splits_by_name(stems_of_tars)[tar_N]
        found = [sample.label for _, _, sample in samples]
        labelling = tar_labelling(ids, found, given_N, columns=columns, names=names, random_split=random_split)
    without_image = sum(index.without_image for index in indexes)
    return build_image_set(
        name=name,
        ids=ids,
        labels_N=labelling.labels_N,
        split_N=labelling.split_N,
        class_names=labelling.class_names,
        metric=metric or ("map11" if labelling.labels_N.ndim == 2 else "top1"),
        source=TarSource(
            tars,
            tar_N,
            np.array([sample.offset for _, _, sample in samples], np.int64),
            np.array([sample.size for _, _, sample in samples], np.int64),
            location=shared,
        ),
        provenance={
            "source": "webdataset",
            "root": shared,
            "tars": len(tars),
            "keys_without_image": without_image,
            "labels": label_column or False,
            "layout": f"{len(tars):,} WebDataset tar{'s' * (len(tars) != 1)}{_fetched_twice(tars)}",
            "left_out": {**(left_out or {}), **({"samples without an image": without_image} if without_image else {})},
            "seed": random_split.seed,
        },
        cache=cache,
    )


def _fetched_twice(tars: Sequence[Tar]) -> str:
    """Say how much of the tars is fetched a second time; nothing where nothing is."""
    refused = sum(tar.bytes_refused for tar in tars if isinstance(tar, RemoteTar))
    if not refused:
        return ""
    return f", of which up to {refused / 1e6:,.1f} MB are fetched twice, for want of space in {tempfile.gettempdir()}"


class TarSource(ImageSource):
    """A source of samples that are byte ranges of tars; the fingerprint of a sample is that of its tar."""

    def __init__(
        self,
        tars: Sequence[Tar],
        tar_N: NDArray[np.int32],
        offset_N: NDArray[np.int64],
        size_N: NDArray[np.int64],
        *,
        location: str,
    ) -> None:
        """Take for each sample the index of its tar in ``tars``, the offset of its bytes and their number."""
        self.tars = tars
        self._location = location
        self._tar_N = tar_N
        self._offset_N = offset_N
        self._size_N = size_N

    @property
    @override
    def location(self) -> str:
        return self._location

    @property
    @override
    def reads_at_once(self) -> int:
        return max(tar.reads_at_once for tar in self.tars)

    @override
    def read(self, index: int) -> bytes:
        size = int(self._size_N[index])
        content = self._tar(index).read(int(self._offset_N[index]), size)
        if len(content) < size:
            raise OSError(f"{self._tar(index)} ends within the sample")
        return content

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        return self._tar(index).fingerprint()

    def _tar(self, index: int) -> Tar:
        return self.tars[int(self._tar_N[index])]


class _Sample(NamedTuple):
    offset: int
    size: int

    label: TarLabel


class _Index(NamedTuple):
    samples: list[tuple[str, _Sample]]
    """Key and sample of every image."""

    without_image: int
    """Number of keys that have no image."""


def _index(source: Tar, label_column: str | None) -> _Index:
    """Index the samples of one tar; their labels are read only if there is a ``label_column``."""
    path = str(source)
    try:
        with source.open() as file, tarfile.open(fileobj=file, mode="r:") as tar:
            groups: dict[str, dict[str, tarfile.TarInfo]] = {}
            texts: dict[str, dict[str, bytes]] = {}
            for key, extension, member in _members(tar):
                if groups.setdefault(key, {}).setdefault(extension, member) is not member:
                    raise InputError(f"{path!r} has {key}.{extension} twice")
                if label_column is not None and extension in _LABELS:  # now, as its bytes follow the header
                    texts.setdefault(key, {})[extension] = _content(tar, member)
            _check_end(path, source.read(tar.offset, _BLOCK), tar.offset)
            samples = []
            for key, members in groups.items():
                if (image := _image(path, key, members)) is not None:
                    label = None if label_column is None else _label(path, members, texts.get(key, {}), label_column)
                    samples.append((key, _Sample(image.offset_data, image.size, label)))
    except PenultimateError:
        raise
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"cannot read the tar {path!r}: {error}; WebDataset tars are not compressed") from error
    return _Index(samples, len(groups) - len(samples))


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield (key, extension in lower case, member) of the regular files that are part of samples."""
    for member in tar:
        match = _KEY_AND_EXTENSION.fullmatch(member.name.removeprefix("./"))
        if match and member.isreg() and not member.issparse():
            yield match[1], match[2].lower(), member


def _check_end(path: str, block: bytes, offset: int) -> None:
    """Raise InputError unless the block at ``offset`` is the zeros that end a tar: tarfile stops at any bad header."""
    if len(block) < _BLOCK or block.strip(b"\0"):
        what = "no tar header" if len(block) == _BLOCK else "the end, but no end mark: it was cut off"
        raise InputError(f"{path!r} is damaged: at byte {offset} there is {what}")


def _image(path: str, key: str, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """Return the member with an image's extension (``jpg``), or else with one at its end (``rgb.jpg``), or None."""
    exact = [member for extension, member in members.items() if f".{extension}" in IMAGE_SUFFIXES]
    dotted = [member for extension, member in members.items() if os.path.splitext(extension)[1] in IMAGE_SUFFIXES]
    images = exact or dotted
    if len(images) > 1:
        raise InputError(f"{path!r} has several images for {key!r}: {', '.join(image.name for image in images)}")
    return images[0] if images else None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "it is a regular file"
    return file.read()


def _label(path: str, members: dict[str, tarfile.TarInfo], texts: dict[str, bytes], column: str) -> TarLabel:
    for extension in _LABELS:
        if extension not in texts:
            continue
        text = texts[extension]
        try:
            value = json.loads(text).get(column) if extension == "json" else text.decode().strip()
        except (ValueError, AttributeError) as error:
            raise InputError(f"{members[extension].name!r} in {path!r} holds no label: {error}") from error
        if isinstance(value, list):
            return [str(label) for label in value]
        if value not in (None, ""):
            return str(value)
    return None
