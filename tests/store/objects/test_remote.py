"""RemoteObjects keep the contract, before S3's protocol and before a store in memory; versions are special to them."""

import itertools

import pytest
from support.objects_contract import ObjectsContract

pytest.importorskip("obstore", reason="needs the extra `cloud`")

from obstore.store import MemoryStore
from support.memory_objects import MemoryObjects
from support.s3_server import BUCKET, Proxy

from penultimate.store.errors import InputError
from penultimate.store.objects.objects import VersionedObjects
from penultimate.store.objects.open import open_objects
from penultimate.store.objects.remote import RemoteObjects

NUMBERS = itertools.count()


class VersionedObjectsContract(ObjectsContract):
    """A server also writes on condition."""

    def test_a_conditional_put_succeeds_only_on_the_version_that_was_seen(self, objects: VersionedObjects) -> None:
        assert objects.version_of("a") is None
        first = objects.put_if("a", b"first", None)
        assert first is not None
        assert objects.version_of("a") == first
        assert objects.put_if("a", b"other", None) is None
        second = objects.put_if("a", b"second", first)
        assert second not in (None, first)
        assert objects.put_if("a", b"late", first) is None
        assert objects.get_versioned("a") == (b"second", second)

    def test_a_put_that_is_repeated_after_a_lost_answer_succeeds(self, objects: VersionedObjects) -> None:
        assert objects.put_if("a", b"same", None) == objects.put_if("a", b"same", None)

    def test_the_server_says_when_objects_were_written(self, objects: VersionedObjects) -> None:
        objects.put("k/a", b"x")
        objects.put("k/b", b"x")
        written = objects.modified("k")
        assert written["a"] <= written["b"]

    def test_there_is_no_folder_of_this_machine(self, objects: VersionedObjects) -> None:
        with pytest.raises(InputError, match=r"s3://.* is not a folder of this machine"):
            _ = objects.folder


class TestMemoryObjects(VersionedObjectsContract):
    @pytest.fixture
    def objects(self) -> RemoteObjects:
        return MemoryObjects(MemoryStore())


class TestS3Objects(VersionedObjectsContract):
    @pytest.fixture
    def objects(self, proxy: Proxy) -> RemoteObjects:
        opened = open_objects(f"s3://{BUCKET}/contract {next(NUMBERS)}?endpoint={proxy.endpoint}")
        assert isinstance(opened, RemoteObjects)
        return opened
