"""Images at the addresses that a manifest names are the set of the same files, each fetched once, whatever fails."""

import itertools
import json
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("obstore", reason="needs the extra `cloud`")

from support.s3_server import BUCKET, Proxy, every

from penultimate.cli.main import run
from penultimate.engine.extract import fetch
from penultimate.engine.extract.fetch import FetchedSource
from penultimate.engine.extract.fetch_rates import measure_fetch
from penultimate.engine.images.digest_cache import UNKNOWN, DigestCache
from penultimate.engine.images.formats import remote_images
from penultimate.engine.images.formats.remote_images import ObjectPath
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.study.study import Dataset
from penultimate.store.errors import ForbiddenError, InputError, StoreError, VanishedImageError
from penultimate.store.objects.open import open_objects
from penultimate.store.objects.remote import RemoteObjects

NUMBERS = itertools.count()
LISTING = "list-type=2"


class Bucket:
    """The photographs below ``photos/`` of a folder of a bucket, and a manifest beside."""

    def __init__(self, proxy: Proxy, photos: Path) -> None:
        self.proxy = proxy
        self.folder = f"manifest {next(NUMBERS)}"
        self.options = f"?endpoint={proxy.endpoint}"
        self.address = f"s3://{BUCKET}/{self.folder}"
        objects = open_objects(self.address + self.options)
        assert isinstance(objects, RemoteObjects)
        self.objects = objects
        self.names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
        self.photos = photos
        for name in self.names:
            objects.put(f"photos/{name}", (photos / name).read_bytes())

    def put_manifest(self, path_of: Callable[[str], str], name: str = "labels.csv") -> str:
        """Put a manifest whose paths are ``path_of`` the names, and whose ids are these names; return its address."""
        frame = pd.DataFrame(
            {"path": [path_of(each) for each in self.names], "id": self.names, "label": [n[:3] for n in self.names]}
        )
        content = {
            ".csv": lambda: frame.to_csv(index=False).encode(),
            ".jsonl": lambda: frame.to_json(orient="records", lines=True).encode(),
            ".parquet": lambda: frame.to_parquet(index=False),
        }
        self.objects.put(name, content[Path(name).suffix]())
        return f"{self.address}/{name}{self.options}"

    def gets(self) -> Counter[str]:
        """Return how often each image was requested."""
        return Counter(path for method, path in self.proxy.seen if method == "GET" and ".jpg" in path)

    def listings(self) -> int:
        return sum(LISTING in path for _, path in self.proxy.seen)


@pytest.fixture
def bucket(proxy: Proxy, photos: Path) -> Bucket:
    return Bucket(proxy, photos)


@pytest.fixture
def local(photos: Path) -> ImageSet:
    """Return the set of the same photographs in a folder, of the same ids, labels and splits."""
    return load_images(str(photos))


def relative(name: str) -> str:
    return f"photos/{name}"


def read_all(images: ImageSet) -> list[object]:
    return [images.source.read(row) for row in range(len(images))]


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "below/labels.parquet"])
def test_paths_relative_to_a_manifest_in_a_bucket_are_the_set_of_a_folder(
    bucket: Bucket, local: ImageSet, name: str
) -> None:
    up = "../" * name.count("/")
    images = load_images(bucket.put_manifest(lambda each: f"{up}photos/{each}", name))
    assert read_all(images) == read_all(local)
    assert images.ids_N.tolist() == local.ids_N.tolist()
    assert images.labels_N.tolist() == local.labels_N.tolist()
    assert images.digest == load_images(bucket.put_manifest(lambda each: f"{bucket.address}/photos/{each}")).digest
    assert images.source.location == f"{bucket.address}/{name}".rpartition("/")[0]
    assert images.provenance["manifest"] == f"{bucket.address}/{name}"
    assert read_all(pickle.loads(pickle.dumps(images))) == read_all(local)


def test_addresses_and_files_of_this_machine_may_be_mixed(bucket: Bucket, local: ImageSet, tmp_path: Path) -> None:
    ways: list[Callable[[str], str]] = [
        lambda name: f"{bucket.address}/photos/{name}{bucket.options}",
        lambda name: f"photos/{name}",
        lambda name: str(bucket.photos / name),
    ]

    def path_of(name: str) -> str:
        return ways[bucket.names.index(name) % 3](name)

    here = tmp_path / "labels.csv"
    pd.DataFrame(
        {
            "path": [path_of(each) for each in bucket.names],
            "id": bucket.names,
            "label": [n[:3] for n in bucket.names],
        }
    ).to_csv(here, index=False)
    assert read_all(load_images(here)) == read_all(local)
    assert len(bucket.gets()) == 8  # and eight files are read below the folder of the table, eight anywhere
    images = load_images(bucket.put_manifest(path_of))
    assert read_all(images) == read_all(local)


def test_a_network_sees_each_image_once_and_of_a_set_that_is_known_none(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = bucket.put_manifest(relative)
    command = ["extract", manifest, "--store", str(tmp_path / "store"), "--model", "test_vit", "--weights", "random"]

    def extracted() -> dict[str, int]:
        bucket.proxy.seen.clear()
        capsys.readouterr()
        assert run([*command, "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        return {name: row[name] for name in ("rows", "reused", "embedded", "failed")}

    assert extracted() == {"rows": 24, "reused": 0, "embedded": 24, "failed": 0}
    assert set(bucket.gets().values()) == {1}  # those of the parity check too
    assert len(bucket.gets()) == 24
    assert extracted() == {"rows": 24, "reused": 24, "embedded": 0, "failed": 0}
    assert not bucket.gets()
    assert bucket.listings() == 1
    changed = (bucket.photos / bucket.names[3]).read_bytes() + b"\0"
    bucket.objects.put(f"photos/{bucket.names[5]}", changed)
    command += ["--set", "parity=false"]  # which would read what it compares
    assert extracted() == {"rows": 24, "reused": 23, "embedded": 1, "failed": 0}
    assert sum(bucket.gets().values()) == 1


def test_an_object_that_is_missing_is_a_failed_row_with_its_reason(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = bucket.put_manifest(relative)
    bucket.objects.delete(f"photos/{bucket.names[7]}")
    command = ["extract", manifest, "--store", str(tmp_path / "store"), "--model", "test_vit", "--weights", "random"]
    assert run([*command, "--json", "--no-cache"]) == 0
    said = capsys.readouterr()
    (row,) = json.loads(said.out)
    assert (row["rows"], row["failed"]) == (23, 1)
    assert f"{bucket.names[7]}: there is no such object" in said.err


def test_images_of_which_none_exists_and_manifests_that_do_not_are_wrong_input(bucket: Bucket) -> None:
    with pytest.raises(InputError, match=rf"there is no manifest at '{bucket.address}/nothing\.csv'"):
        load_images(f"{bucket.address}/nothing.csv{bucket.options}")
    manifest = bucket.put_manifest(lambda name: f"elsewhere/{name}")
    with pytest.raises(InputError, match=rf"none of the 24 images in .* exists.*tried '{bucket.address}/elsewhere/cat"):
        load_images(manifest)
    with pytest.raises(InputError, match="leads out of the bucket"):
        load_images(bucket.put_manifest(lambda name: f"../../../{name}"))
    with pytest.raises(InputError, match=r"there is no bucket s3://no-such-bucket"):
        load_images(bucket.put_manifest(lambda name: f"s3://no-such-bucket/{name}"))
    with pytest.raises(InputError, match=r"expected a folder or an address .* got https://example\.org"):
        load_images(bucket.put_manifest(lambda name: f"https://example.org/{name}"))
    with pytest.raises(InputError, match="names no object: expected a bucket and a key without empty parts"):
        load_images(bucket.put_manifest(lambda name: f"{bucket.address}//{name}"))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["503", "half answer", "cut answer", "hang"])
def test_faults_on_the_way_change_nothing(bucket: Bucket, local: ImageSet, fault: str) -> None:
    manifest = bucket.put_manifest(relative)
    bucket.proxy.plan = every(13 if fault == "hang" else 3, fault, "GET")
    assert read_all(load_images(manifest)) == read_all(local)


def test_a_server_that_does_not_answer_stops_the_run_with_one_line(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = bucket.put_manifest(relative)
    images = load_images(manifest)
    bucket.proxy.plan = lambda method, path: "500" if "owl" in path else None
    with pytest.raises(StoreError, match=rf"{bucket.address}/photos/owl/0\d\.jpg could not be read or written in 5"):
        read_all(images)
    command = ["extract", manifest, "--store", str(tmp_path / "store"), "--model", "test_vit", "--weights", "random"]
    assert run([*command, "--no-cache", "--set", "parity=false"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert "could not be read or written in 5 attempts: the server answered 500" in said[-1]
    assert sum("could not be read" in line for line in said) == 1


def test_of_an_object_that_is_replaced_no_other_content_is_remembered(
    bucket: Bucket, local: ImageSet, tmp_path: Path
) -> None:
    manifest, cache = bucket.put_manifest(relative), DigestCache(tmp_path / "cache")
    images = load_images(manifest, cache=cache)
    other = (bucket.photos / bucket.names[0]).read_bytes() + b"\0"
    bucket.objects.put(f"photos/{bucket.names[2]}", other)
    assert images.source.read(2) == other  # before the first read it may change
    assert images.digest != local.digest  # which reads the others
    bucket.objects.put(f"photos/{bucket.names[4]}", other)
    with pytest.raises(VanishedImageError, match=rf"{bucket.names[4]} in {bucket.address} was changed after"):
        images.source.read(4)
    bucket.objects.put(f"photos/{bucket.names[2]}", (bucket.photos / bucket.names[2]).read_bytes())  # as it was listed
    bucket.objects.put(f"photos/{bucket.names[4]}", (bucket.photos / bucket.names[4]).read_bytes())
    bucket.proxy.seen.clear()
    assert load_images(manifest, cache=cache).digest == local.digest
    assert set(bucket.gets()) == {path for path in bucket.gets() if bucket.names[2] in path} != set()


def test_where_listing_is_forbidden_images_are_read_and_not_remembered(
    bucket: Bucket, local: ImageSet, tmp_path: Path
) -> None:
    manifest, cache = bucket.put_manifest(relative), DigestCache(tmp_path / "cache")
    bucket.proxy.plan = lambda method, path: "403" if LISTING in path else None
    for _ in range(2):
        bucket.proxy.seen.clear()
        images = load_images(manifest, cache=cache)
        assert images.source.fingerprint(0) == UNKNOWN
        assert images.digest == local.digest
        assert len(bucket.gets()) == 24
    bucket.proxy.plan = lambda method, path: "403" if ".csv" not in path else None
    with pytest.raises(ForbiddenError, match="check the credentials"):
        load_images(manifest)


def test_ranges_of_names_are_listed_beside_each_other(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = bucket.put_manifest(relative)
    for number in range(9):
        bucket.objects.put(f"photos/dog/between-{number}.txt", b"not named")
    monkeypatch.setattr(remote_images, "_PER_RANGE", 5)
    images = load_images(manifest)
    found = [images.source.fingerprint(row) for row in range(24)]
    assert bucket.listings() == 5
    assert [each.size for each in found] == [(bucket.photos / name).stat().st_size for name in bucket.names]
    assert len({each.number for each in found}) == 24
    assert UNKNOWN not in found


def test_a_listing_of_other_objects_is_given_up(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = bucket.put_manifest(relative)
    for number in range(40):
        bucket.objects.put(f"photos/dog/between-{number:02d}.txt", b"not named")
    monkeypatch.setattr(remote_images, "_LISTED_AT_LEAST", 0)
    monkeypatch.setattr(remote_images, "_LISTED_PER_IMAGE", 2)
    monkeypatch.setattr("penultimate.store.objects.remote._PAGE", 5)
    images = load_images(manifest)
    known = [images.source.fingerprint(row) != UNKNOWN for row in range(24)]
    assert known == [True] * 16 + [False] * 8  # of cats and dogs, before the others; not of owls


def test_keys_are_taken_as_they_are_written(bucket: Bucket) -> None:
    odd = [
        "a b.jpg",
        "p%20q.jpg",
        "h#i.jpg",
        "q?r=s.jpg",
        "ü.jpg",
        "st*r[1].jpg",
        "plus+.jpg",
        "'quoted'.jpg",
        "c.jpg/d",
    ]
    for number, name in enumerate(odd):
        bucket.objects.put(f"odd/{name}", b"%d" % number)
    bucket.objects.put("odd.txt", "\n".join(f"odd/{name}" for name in odd).encode())
    images = load_images(f"{bucket.address}/odd.txt{bucket.options}", labels=False)
    assert {str(id_): images.source.read(row) for row, id_ in enumerate(images.ids_N)} == {
        f"odd/{name}": b"%d" % number for number, name in enumerate(odd)
    }
    assert UNKNOWN not in [images.source.fingerprint(row) for row in range(len(odd))]


def test_an_address_has_the_options_of_its_manifest_or_its_own() -> None:
    table = ObjectPath.parse("s3://bucket/set/labels.csv?endpoint=http://there:9000&region=x")
    assert table.beside("a/1.jpg") == ("s3://bucket?endpoint=http://there:9000&region=x", "set/a/1.jpg")
    assert table.beside("s3://other/1.jpg") == ("s3://other?endpoint=http://there:9000&region=x", "1.jpg")
    assert table.beside("s3://other/1.jpg?endpoint=http://here") == ("s3://other?endpoint=http://here", "1.jpg")
    assert table.beside("gs://other/1.jpg") == ("gs://other", "1.jpg")
    assert table.beside("/data/1.jpg") == ("", "/data/1.jpg")
    assert table.beside("../1.jpg").where() == "s3://bucket/1.jpg"
    with pytest.raises(InputError, match="must not hold credentials"):
        table.beside("s3://key:secret@bucket/1.jpg")


@pytest.mark.slow
def test_as_many_reads_are_in_flight_as_the_source_wants_and_fewer_of_large_images(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_images, "READS_AT_ONCE", 24)  # what the test's server answers in time on a busy machine
    for number in range(100):
        bucket.objects.put(f"many/{number}", bytes(20_000))
    bucket.objects.put("many.txt", "\n".join(f"many/{number}" for number in range(100)).encode())
    images = load_images(f"{bucket.address}/many.txt{bucket.options}", labels=False)
    bucket.proxy.latency_seconds = 0.2  # long enough for a busy machine to send the others meanwhile

    def most_at_once() -> int:
        bucket.proxy.most_at_once = 0
        source = FetchedSource(images.source, num_threads=2, is_needed=lambda rows, read: np.ones(len(rows), np.bool_))
        assert [source.read(index) for index in source.needed(range(100))] == [bytes(20_000)] * 100
        return bucket.proxy.most_at_once

    assert 12 < most_at_once() <= 24
    monkeypatch.setattr(fetch, "_MOST_BYTES", 200_000)
    assert 2 <= most_at_once() <= 11


@pytest.mark.slow
def test_a_slow_answer_is_told_from_a_full_network(bucket: Bucket) -> None:
    """The server answers after half a second however many ask; or one request after the other, each after 50 ms."""
    manifest = bucket.put_manifest(relative)
    bucket.objects.delete(f"photos/{bucket.names[7]}")
    one_at_a_time = threading.Lock()

    def crowded(method: str, path: str) -> None:
        with one_at_a_time:
            time.sleep(0.05)

    source = load_images(manifest).source
    bucket.proxy.latency_seconds = 0.5
    slow, kept, rows = measure_fetch(source, range(24))
    assert slow.limit == "connections"
    assert slow.request_ms_alone > 500
    assert slow.connections == remote_images.READS_AT_ONCE
    assert rows == [row for row in range(24) if row != 7]
    assert [kept.read(row) for row in rows] == [(bucket.photos / bucket.names[row]).read_bytes() for row in rows]
    bucket.proxy.latency_seconds, bucket.proxy.plan = 0.0, crowded
    full, _, _ = measure_fetch(source, range(24))
    assert full.limit == "network"
    assert full.request_ms > 2 * full.request_ms_alone
    assert full.images < 50


def test_a_study_takes_addresses_as_they_are(bucket: Bucket, local: ImageSet) -> None:
    dataset = Dataset(images=bucket.put_manifest(relative))
    images = dataset.load("pets", data="photos of mine", seed=0, cache=None)
    assert (images.name, len(images)) == ("pets", 24)
    assert images.digest == local.digest


@pytest.mark.slow
def test_bench_shows_fetching_and_listing_of_images_in_a_bucket_only(
    bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = bucket.put_manifest(relative)
    command = ["bench", "extract", manifest, "--model", "test_vit", "--weights", "random", "--rounds", "1"]
    assert run([*command, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert row["requests_per_sec"] > 0
    assert row["fetch_mb_per_sec"] > 0
    assert row["listing_per_sec"] == pytest.approx(24 / row["listing_seconds"])
    assert row["bottleneck"] in ("decode", "model", "write", "listing", "connections", "network", "cores")
    assert run(command) == 0
    assert "ms a request" in capsys.readouterr().err
    command[2] = str(bucket.photos)
    assert run(command) == 0
    assert "request" not in capsys.readouterr().err
