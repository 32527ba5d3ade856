"""RemoteObjects keep the contract, before S3's protocol and before a store in memory; versions are special to them."""

import itertools

import pytest
from support.objects_contract import ObjectsContract

pytest.importorskip("obstore", reason="needs the extra `cloud`")

from obstore.store import MemoryStore
from support.memory_objects import MemoryObjects
from support.s3_server import BUCKET, Proxy, every

from penultimate.store.errors import ForbiddenError, InputError
from penultimate.store.objects import remote
from penultimate.store.objects.objects import VersionedObjects
from penultimate.store.objects.open import open_objects
from penultimate.store.objects.remote import RemoteObjects
from penultimate.store.objects.requests import RESPONSES

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

    def test_a_range_is_that_of_the_version_that_is_asked_for(self, objects: RemoteObjects) -> None:
        objects.put("a", b"0123456789")
        head = objects.head("a")
        assert head is not None
        assert objects.get_range("a", 3, 4) == objects.get_range("a", 3, 4, e_tag=head["e_tag"]) == b"3456"
        assert objects.get_range("a", 8, 4) == b"89"
        objects.put("a", b"abcdefghij")
        with pytest.raises(RESPONSES):
            objects.get_range("a", 3, 4, e_tag=head["e_tag"])
        with pytest.raises(FileNotFoundError):
            objects.get_range("nothing", 3, 4)

    def test_pages_list_what_is_below_a_folder_behind_a_name_whatever_fails(
        self, objects: RemoteObjects, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "_PAGE", 3)
        names = [f"k/{number // 4}/{number:02d}" for number in range(12)]
        objects.put_many({name: b"x" * len(name) for name in [*names, "k2/0", "j/0"]})
        pages = [[meta["path"] for meta in page] for page in objects.pages("k")]
        assert pages == [names[:3], names[3:6], names[6:9], names[9:]]
        assert [meta["path"] for page in objects.pages("k", after="k/1/06") for meta in page] == names[7:]
        assert {meta["size"] for page in objects.pages("k") for meta in page} == {6}
        proxy.plan = every(2, "503", "GET")
        assert objects.walk("k") == names
        assert objects.walk("") == sorted([*names, "k2/0", "j/0"])

    def test_whatever_is_refused_is_not_asked_for_again(self, objects: RemoteObjects, proxy: Proxy) -> None:
        proxy.plan = lambda method, path: "403"
        for request in (lambda: objects.get("a"), lambda: objects.walk(""), lambda: objects.head("a")):
            proxy.seen.clear()
            with pytest.raises(ForbiddenError, match="check the credentials"):
                request()
            assert len(proxy.seen) == 1
