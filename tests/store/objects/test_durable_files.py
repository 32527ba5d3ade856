"""DurableFiles sync in an order in which a power cut leaves a file whole or absent, and no more than that takes."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penultimate.store.errors import StoreError
from penultimate.store.objects.durable_files import DurableFiles
from penultimate.store.objects.local import LocalObjects

Events = list[tuple[str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch, root: Path) -> Events:
    """Return the syncs and renames that come, by name below ``root``; a partial file bears the name it will have."""
    seen: Events = []
    fsync, replace = os.fsync, os.replace

    def name(path: str) -> str:
        below = os.path.relpath(path, root)
        return f"{below.rsplit('.', 2)[0]} (partial)" if below.endswith(".partial") else below

    def seen_fsync(handle: int) -> None:
        seen.append(("sync", name(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def seen_replace(source: Path, target: Path) -> Path:
        seen.append(("rename", name(str(target))))
        replace(source, target)
        return target

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not say which file a handle is of")
    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    return seen


def test_a_commit_has_its_shard_on_the_disk_before_the_record_gets_its_name(root: Path, events: Events) -> None:
    objects = LocalObjects(root)
    objects.commit("k/c/0/0", [b"sha", b"rd"], "k/commits/0.json", b"{}", is_record=lambda document: True)
    assert events == [
        ("sync", "k/c/0/0 (partial)"),
        ("rename", "k/c/0/0"),
        ("sync", "k/c/0"),
        ("sync", "k/c"),
        ("sync", "k"),
        ("sync", "."),
        ("sync", "k/commits/0.json (partial)"),
        ("rename", "k/commits/0.json"),
        ("sync", "k/commits"),
        ("sync", "k"),
    ]


def test_folders_that_are_known_to_be_there_are_not_synced_again(root: Path, events: Events) -> None:
    files = DurableFiles(root)
    files.write(root / "k" / "a", [b"1"])
    events.clear()
    files.write(root / "k" / "b", [b"2"])
    assert events == [("sync", "k/b (partial)"), ("rename", "k/b"), ("sync", "k")]


def test_folders_that_another_process_made_are_synced_once(root: Path, events: Events) -> None:
    (root / "k" / "deep").mkdir(parents=True)
    files = DurableFiles(root)
    for name in "ab":
        files.write(root / "k" / "deep" / name, [b""])
    assert [name for kind, name in events if kind == "sync" and "partial" not in name] == ["k/deep", "k", ".", "k/deep"]


def test_a_folder_that_was_removed_is_made_again(root: Path, events: Events) -> None:
    files = DurableFiles(root)
    files.write(root / "k" / "a", [b"1"])
    shutil.rmtree(root / "k")
    events.clear()
    files.write(root / "k" / "a", [b"2"])
    assert (root / "k" / "a").read_bytes() == b"2"
    assert ("sync", ".") in events


def test_many_parts_and_empty_ones_are_written_in_order(root: Path) -> None:
    parts = [bytes([number % 251]) * (number % 7) for number in range(3000)]
    DurableFiles(root).write(root / "a", parts)
    assert (root / "a").read_bytes() == b"".join(parts)


def test_writing_goes_on_where_the_kernel_took_less_than_was_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "writev", lambda handle, parts: os.write(handle, bytes(parts[0])[:2]))
    parts: list[bytes | memoryview] = [b"abc", b"", memoryview(b"defghi"), b"j"]
    DurableFiles(root).write(root / "a", parts)
    assert (root / "a").read_bytes() == b"abcdefghij"


def test_a_write_that_fails_leaves_what_was_there_and_nothing_beside_it(root: Path) -> None:
    resource = pytest.importorskip("resource")
    objects = LocalObjects(root)
    objects.put("a", b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StoreError, match="could not be written: file too large; free some space"):
            objects.put("a", [b"x" * 60] * 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert objects.get("a") == b"before"
    assert objects.names("") == ["a"]


def test_threads_that_need_the_same_new_folders_get_in_nobodys_way(root: Path) -> None:
    files = DurableFiles(root)
    names = [f"k/{number % 3}/deep/{number}" for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: files.write(root / name, [name.encode()]), names))
    assert {name: (root / name).read_bytes() for name in names} == {name: name.encode() for name in names}


def test_many_files_are_all_on_the_disk_before_one_gets_its_name_and_then_each_folder_is_synced_once(
    root: Path, events: Events
) -> None:
    names = ["k/a", "k/b", "k/deep/a", "a"]
    DurableFiles(root).write_many({root / name: [name.encode()] for name in names})
    assert {name: (root / name).read_bytes() for name in names} == {name: name.encode() for name in names}
    assert sorted(events[:4]) == sorted(("sync", f"{name} (partial)") for name in names)
    assert events[4:8] == [("rename", name) for name in names]
    assert sorted(events[8:]) == [("sync", "."), ("sync", "k"), ("sync", "k/deep")]


def test_of_many_files_none_is_there_if_one_fails(root: Path) -> None:
    resource = pytest.importorskip("resource")
    objects = LocalObjects(root)
    objects.put("a", b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StoreError, match="free some space and run again"):
            objects.put_many({"a": b"small", "b": b"x" * 200, "c": b"small"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert objects.names("") == ["a"]
    assert objects.get("a") == b"before"


def test_a_folder_that_was_removed_is_made_again_for_many_files(root: Path) -> None:
    objects = LocalObjects(root)
    objects.put_many({"k/deep/a": b"1"})
    objects.delete_folder("k")
    objects.put_many({"k/deep/a": b"2", "k/b": b"3"})
    assert objects.get_many(["k/deep/a", "k/b"]) == [b"2", b"3"]
