"""RemoteImages is a source of images that are objects in object stores, one each, some of them perhaps local files.

An image's path is an address (``s3://bucket/key``), or relative to the folder of the table that names it. What a
listing of the buckets tells, sizes and ETags, recognises images without a request each; the images themselves are read
with one request each.
"""

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from typing_extensions import override

from penultimate.engine.images.digest_cache import UNKNOWN, FileFingerprint
from penultimate.engine.images.formats.tables import TableObject
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.images.subset import sample_rows
from penultimate.store.errors import ForbiddenError, InputError
from penultimate.store.objects.address import Address, is_address
from penultimate.store.objects.open import open_objects

if TYPE_CHECKING:  # it needs the extra `cloud`
    from penultimate.store.objects.remote import RemoteObjects

# Shapes: N samples.

READS_AT_ONCE = 64
"""Number of requests in flight. Of answers that take 20 ms, 64 make at most 3,200 images a second; more requests gain
little, as one Python process is then busy with them (benchmarks/results/remote_reads_xeon2_202611.md)."""

_LISTINGS, _PER_RANGE = 32, 1000
"""Largest number of ranges of names that are listed at once, and smallest number of names in one of them."""

_LISTED_AT_LEAST, _LISTED_PER_IMAGE = 10_000, 20
"""Numbers of objects after which a listing is given up: it costs a request a thousand, and saves one an image."""

_OPTIONS = re.compile(r"\?(?:endpoint|region)=[^?]*$")


class ObjectPath(NamedTuple):
    """A location in an object store, or a file of this machine."""

    bucket: str
    """Address of the bucket, with options; empty for a file."""

    key: str
    """Name in the bucket, whatever characters it has; for a file its path."""

    @classmethod
    def parse(cls, text: str, *, options: str = "") -> "ObjectPath":
        """Parse the address of an object; ``options`` are those of an ``s3://`` address that has none of its own.

        Raises InputError for what is none.
        """
        scheme, _, plain = text.partition("://")
        if own := _OPTIONS.search(plain):
            plain, options = plain[: own.start()], own[0]
        name, _, key = plain.partition("/")
        bucket = f"{scheme}://{name}" + (options if scheme.lower() == "s3" else own[0] if own else "")
        _check_bucket(bucket)
        if set(key.split("/")) & {"", ".", ".."}:
            raise InputError(f"{text!r} names no object: expected a bucket and a key without empty parts, . and ..")
        return cls(bucket, key)

    @property
    def options(self) -> str:
        """Options of the address with the question mark before them, or nothing."""
        return self.bucket[self.bucket.index("?") :] if "?" in self.bucket else ""

    def beside(self, path: str) -> "ObjectPath":
        """Return the location that ``path`` names in a table that lies here: an address, or relative to the table.

        An absolute path is a file of this machine. Raises InputError for a path that leaves the bucket.
        """
        if is_address(path):
            return ObjectPath.parse(path, options=self.options)
        if path.startswith("/"):
            return ObjectPath("", path)
        key = posixpath.normpath(posixpath.join(posixpath.dirname(self.key), path))
        if key.startswith("../") or key in ("..", "."):
            raise InputError(f"{path!r} leads out of the bucket of the table that names it, {self.where()!r}")
        return ObjectPath(self.bucket, key)

    def where(self) -> str:
        """Return the whole address without its options, for people."""
        return f"{self.bucket.partition('?')[0]}/{self.key}" if self.bucket else self.key


@lru_cache(maxsize=1024)
def _check_bucket(address: str) -> None:
    Address.parse(address)


def open_table(address: str) -> TableObject:
    """Read a table at an address; raise InputError if it is not there, StoreError if its server does not answer."""
    path = ObjectPath.parse(address)
    content = open_objects(path.bucket).get(path.key)
    if content is None:
        raise InputError(f"there is no manifest at {path.where()!r}")
    return TableObject(path.where(), content)


class RemoteImages(ImageSource):
    """A source of samples that are objects, or files, one each; an object's ETag and size are its fingerprint."""

    def __init__(self, paths: Sequence[ObjectPath], *, location: str) -> None:
        """Take the samples in their order; ``location`` is that of the table that names them.

        Raises UnavailableError where the extra ``cloud`` is not installed.
        """
        buckets = list(dict.fromkeys(path.bucket for path in paths if path.bucket))
        number_of = {bucket: number for number, bucket in enumerate(buckets)} | {"": -1}
        self._location = location
        self._buckets: list[RemoteObjects] = [_opened(bucket) for bucket in buckets]
        self._bucket_N = np.array([number_of[path.bucket] for path in paths], np.int32)
        self._keys = [path.key for path in paths]
        self._fingerprints_N2 = np.full((len(paths), 2), UNKNOWN[:2], np.int64)

    @property
    @override
    def location(self) -> str:
        return self._location

    @property
    @override
    def reads_at_once(self) -> int:
        return READS_AT_ONCE

    @override
    def read(self, index: int) -> bytes:
        """Read sample ``index`` with one request; raise StoreError if the server does not answer."""
        number, key = int(self._bucket_N[index]), self._keys[index]
        if number < 0:
            return Path(key).read_bytes()
        if (found := self._buckets[number].get_versioned(key)) is None:
            raise FileNotFoundError("there is no such object")
        # Of an object that was replaced after it was listed, this shows that its content is not what was listed.
        self._fingerprints_N2[index] = FileFingerprint.of_object(found.version, len(found.content))[:2]
        return found.content

    @override
    def fingerprint(self, index: int) -> FileFingerprint:
        if self._bucket_N[index] < 0:
            return FileFingerprint.of(self._keys[index])
        number, size = self._fingerprints_N2[index].tolist()
        return UNKNOWN if number == UNKNOWN.number else FileFingerprint(number, size, 0, 0)

    def recognise(self) -> None:
        """List the objects for their fingerprints, as far as that takes far fewer requests than there are samples.

        Where listing is forbidden they stay unknown. Raises what ``RemoteObjects`` raises.
        """
        for number, objects in enumerate(self._buckets):
            rows = np.flatnonzero(self._bucket_N == number).tolist()
            found = _listed(objects, [self._keys[row] for row in rows])
            for row in rows:
                self._fingerprints_N2[row] = found.get(self._keys[row], UNKNOWN)[:2]

    def is_anything_there(self) -> bool:
        """Return whether one of the samples exists: one that was listed, a file, or one of a few that are asked for."""
        if (self._fingerprints_N2[:, 0] != UNKNOWN.number).any():
            return True
        if any(os.path.exists(self._keys[row]) for row in np.flatnonzero(self._bucket_N < 0)):
            return True
        remote = np.flatnonzero(self._bucket_N >= 0)
        asked = remote[sample_rows(len(remote), 8)] if len(remote) else remote
        return any(self._buckets[self._bucket_N[row]].exists(self._keys[row]) for row in asked)


def list_images(table: str, paths: Sequence[ObjectPath], *, location: str) -> RemoteImages:
    """Return the source of the images that ``table`` names; raise InputError if none of them exists."""
    source = RemoteImages(paths, location=location)
    source.recognise()
    if not source.is_anything_there():
        raise InputError(
            f"none of the {len(paths)} images in {table!r} exists; paths are addresses, or relative to the address of "
            f"the table itself: tried {paths[0].where()!r}"
        )
    return source


def _opened(bucket: str) -> "RemoteObjects":
    objects = open_objects(bucket)
    from penultimate.store.objects.remote import RemoteObjects

    assert isinstance(objects, RemoteObjects), "it is an address"
    return objects


def _listed(objects: "RemoteObjects", keys: Sequence[str]) -> Mapping[str, FileFingerprint]:
    """Return the fingerprints of those of ``keys`` that listings find, in ranges of names at the same time."""
    ordered = sorted(set(keys))
    # Azure lists from the beginning whatever range is asked for.
    size = len(ordered) if objects.address.startswith("az:") else max(_PER_RANGE, -(-len(ordered) // _LISTINGS))
    ranges = [ordered[first : first + size] for first in range(0, len(ordered), size)]
    with ThreadPoolExecutor(len(ranges), thread_name_prefix="list") as pool:
        try:
            found = list(pool.map(lambda keys: _listed_range(objects, keys), ranges))
        except ForbiddenError:  # to list, perhaps not to read, as in many public buckets
            return {}
    return {key: fingerprint for part in found for key, fingerprint in part.items()}


def _listed_range(objects: "RemoteObjects", keys: Sequence[str]) -> Mapping[str, FileFingerprint]:
    """List from the first to the last of ``keys``, which increase, unless too many others lie between them."""
    wanted, num_listed = set(keys), 0
    found: dict[str, FileFingerprint] = {}
    # Few names lie between a name and the same without its last character.
    for page in objects.pages(os.path.commonprefix(keys).rpartition("/")[0], after=keys[0][:-1] or None):  # noqa: RUF071
        num_listed += len(page)
        found |= {
            meta["path"]: FileFingerprint.of_object(meta, meta["size"]) for meta in page if meta["path"] in wanted
        }
        if page[-1]["path"] >= keys[-1] or num_listed > _LISTED_AT_LEAST + _LISTED_PER_IMAGE * len(found):
            break
    return found
