"""The contract of every implementation of Objects, whose tests inherit it and give the fixture ``objects``."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from support.store_cases import Job, half_precision_job, small_job
from zarr.storage import MemoryStore

from penultimate.store.errors import CorruptFeaturesError, StoreBusyError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.format.arrays import contents
from penultimate.store.format.documents import STORE
from penultimate.store.format.reading import read_array
from penultimate.store.objects.claim import WHOLE_KEY
from penultimate.store.objects.objects import Objects
from penultimate.store.upkeep.verify import verify

RECORD = b'{"a commit record": "is longer than a pending one ever is, so that they are told apart"}'


def _is_record(document: bytes) -> bool:
    return document.startswith(b"{")


def _opened(objects: Objects) -> FeatureStore:
    """Create a store in these objects, also where no address leads to them."""
    objects.prepare()
    objects.put(layout.METADATA, STORE.document({"format": layout.FORMAT_VERSION}))
    store = FeatureStore.__new__(FeatureStore)
    store.objects = objects
    store._format = layout.FORMAT_VERSION
    return store


class ObjectsContract:
    """The fixture ``objects`` is at a location where nothing was written yet."""

    def test_a_location_is_vacant_until_something_lies_there(self, objects: Objects) -> None:
        assert objects.is_vacant()
        objects.prepare()
        objects.prepare()
        assert objects.is_vacant()
        objects.put("a", b"")
        assert not objects.is_vacant()

    def test_what_is_put_is_got_and_a_second_put_replaces_it(self, objects: Objects) -> None:
        objects.prepare()
        assert objects.get("folder/a") is None
        assert not objects.exists("folder/a")
        objects.put("folder/a", b"first")
        objects.put("folder/a", memoryview(b"second"))
        assert objects.get("folder/a") == b"second"
        assert objects.exists("folder/a")

    def test_a_content_may_come_in_parts(self, objects: Objects) -> None:
        objects.prepare()
        rows = np.arange(200, dtype=np.uint8)
        objects.put("parts", [b"first ", memoryview(b"second "), b"", rows.data])
        objects.put("none", [])
        assert objects.get("parts") == b"first second " + rows.tobytes()
        assert objects.get("none") == b""

    def test_what_was_never_written_is_absent_and_not_an_error(self, objects: Objects) -> None:
        assert objects.get("a") is None
        assert objects.names("nowhere") == objects.folders("nowhere") == objects.records("nowhere") == []

    def test_many_are_put_and_got_in_the_order_asked_for(self, objects: Objects) -> None:
        objects.prepare()
        objects.put_many({f"many/{number}": str(number).encode() for number in range(40)})
        names = [f"many/{number}" for number in reversed(range(42))]
        expected = [None, None, *(str(number).encode() for number in reversed(range(40)))]
        assert objects.get_many(names) == expected

    def test_put_new_writes_only_where_there_is_none(self, objects: Objects) -> None:
        objects.prepare()
        assert objects.put_new("a", b"first")
        assert not objects.put_new("a", b"second")
        assert objects.get("a") == b"first"

    def test_lost_objects_are_those_absent_or_empty(self, objects: Objects) -> None:
        objects.prepare()
        objects.put_many({"whole": b"x", "empty": b""})
        assert objects.lost(["empty", "whole", "absent"]) == ["empty", "absent"]

    def test_names_and_folders_are_sorted_and_one_level_deep(self, objects: Objects) -> None:
        objects.prepare()
        objects.put_many({"k/b": b"x", "k/a/deep/er": b"x", "k/c d/ü": b"x", "other/x": b"x"})
        assert objects.names("k") == ["a", "b", "c d"]
        assert objects.folders("k") == ["a", "c d"]
        assert objects.names("k/c d") == ["ü"]
        assert objects.folders("") == ["k", "other"]

    def test_deleted_objects_are_gone_and_deleting_what_is_absent_does_nothing(self, objects: Objects) -> None:
        objects.prepare()
        objects.put_many({"k/a": b"x", "k/deep/b": b"x", "kept": b"x"})
        objects.delete("k/a")
        objects.delete("k/a")
        assert objects.get("k/a") is None
        objects.delete_folder("k")
        objects.delete_folder("k")
        objects.delete_leftovers("")
        assert not objects.exists("k/deep/b")
        assert objects.get("kept") == b"x"

    def test_a_commit_leaves_the_shard_and_its_record(self, objects: Objects) -> None:
        objects.prepare()
        objects.commit("k/c/0", memoryview(b"shard"), "k/commits/0.json", RECORD, is_record=_is_record)
        assert (objects.get("k/c/0"), objects.get("k/commits/0.json")) == (b"shard", RECORD)
        assert objects.records("k/commits") == ["0.json"]

    def test_shards_in_parts_are_committed_by_several_threads_at_once(self, objects: Objects) -> None:
        objects.prepare()

        def commit(shard: int) -> None:
            parts: list[bytes | memoryview] = [str(shard).encode(), memoryview(b" shard")]
            objects.commit(f"k/c/{shard}/0", parts, f"k/commits/{shard}.json", RECORD, is_record=_is_record)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(commit, range(24)))
        assert objects.get_many([f"k/c/{shard}/0" for shard in range(24)]) == [
            f"{shard} shard".encode() for shard in range(24)
        ]
        assert sorted(objects.records("k/commits")) == sorted(f"{shard}.json" for shard in range(24))

    def test_a_shard_whose_record_is_damaged_is_committed_again(self, objects: Objects) -> None:
        objects.prepare()
        objects.put_many({"k/c/0": b"torn", "k/commits/0.json": b"damaged"})
        objects.commit("k/c/0", b"shard", "k/commits/0.json", RECORD, is_record=_is_record)
        assert (objects.get("k/c/0"), objects.get("k/commits/0.json")) == (b"shard", RECORD)

    def test_a_claim_excludes_others_from_its_shards_only_and_until_released(self, objects: Objects) -> None:
        objects.prepare()
        first = objects.claim("k/writer.lock", range(2))
        first.check()
        with pytest.raises(StoreBusyError, match=r"being written by process \d+ on .*; wait"):
            objects.claim("k/writer.lock", range(1, 4))
        with objects.claim("k/writer.lock", range(2, 4)), objects.claim("k/writer.lock", WHOLE_KEY):
            pass
        first.release()
        first.release()
        objects.claim("k/writer.lock", range(4)).release()

    def test_where_names_the_object_and_objects_survive_pickling(self, objects: Objects) -> None:
        assert objects.where("k/a").endswith("k/a")
        if type(objects).__module__.startswith("penultimate"):
            assert pickle.loads(pickle.dumps(objects)).address == objects.address

    def test_zarr_reads_what_was_put_and_damage_is_an_error_that_names_the_array(self, objects: Objects) -> None:
        objects.prepare()
        draft = MemoryStore()
        zarr.create_array(draft, data=np.arange(6), compressors=[zarr.codecs.Crc32cCodec()])
        found = contents(draft, "")
        objects.put_many({f"k/{name}": content for name, content in found.items()})
        np.testing.assert_array_equal(read_array(objects, "k", slice(2, 5)), [2, 3, 4])
        objects.put("k/c/0", found["c/0"][:-1] + bytes([found["c/0"][-1] ^ 1]))
        with pytest.raises(CorruptFeaturesError, match=r"k, rows 2 to 5, does not hold what was written"):
            read_array(objects, "k", slice(2, 5))

    @pytest.mark.parametrize("make_job", [small_job, half_precision_job])
    def test_a_feature_store_there_is_read_as_it_was_written_and_can_be_deleted(
        self, objects: Objects, make_job: Callable[[], Job]
    ) -> None:
        job, store = make_job(), _opened(objects)
        job.write(store)
        decoded = [*range(3), *range(4, 49)]
        features = store.read(job.key)
        np.testing.assert_array_equal(features.features, job.features_MD[decoded], strict=True)
        np.testing.assert_array_equal(features.labels, job.labels_M[decoded], strict=True)
        assert store.keys() == [job.key]
        assert verify(store) == []
        store.delete(job.key)
        assert store.keys() == []

    def test_one_block_has_one_writer_and_others_may_have_the_rest(self, objects: Objects) -> None:
        job, store = small_job(), _opened(objects)
        with job.writer(store, blocks=range(2)) as first:
            with pytest.raises(StoreBusyError, match=r"being written by process \d+ on .*; wait"):
                job.writer(store)
            with pytest.raises(StoreBusyError):
                store.delete(store.find_any(job.plan().job))
            with job.writer(store, blocks=range(2, 4)) as second:
                job.append(second, second.missing_samples)
            assert store.keys() == []
            job.append(first, first.missing_samples)
        assert store.keys() == [job.key]
        assert verify(store) == []
