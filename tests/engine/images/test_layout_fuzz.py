"""Random layouts: every file is accounted for, nothing crashes, and digests do not depend on the order of listing."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from penultimate.engine.images.folders.file_kinds import kind_of_name
from penultimate.engine.images.folders.folder_index import FolderIndex
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.layout import Interpretation, interpret
from penultimate.engine.images.load import load_images
from penultimate.store.errors import InputError

FOLDERS = (
    *("train", "Test", "valid", "seg_train", "seg_test", "seg_pred", "images", "data", "dev", "val2017", "Testing"),
    *("cat", "dog", "01", "1", "test_tube", "__MACOSX", ".git", "caf\u00e9", "cafe\u0301", "extra"),
    *("00000", "00001"),
)
FILES = (
    *(
        "0.jpg",
        "1.JPG",
        "2.png",
        "b.heic",
        "c.nef",
        "noise",
        "notes.txt",
        "a.tar",
        "x.parquet",
        "labels.csv",
        "z.tar.gz",
    ),
    *("metadata.csv", "metadata.jsonl", "classnames.txt", ".DS_Store", "Thumbs.db", "d.json"),
    *("several.csv", "nested.json", "labels.npy", "set.npz", "link.jpg", "a b.png", "\u732b.webp"),
)
COLUMNS: tuple[list[str], ...] = (["file_name", "label"], ["file_name", "caption"], ["x"], [])


def random_paths(rng: np.random.Generator) -> list[str]:
    """Make up to sixty files in a random tree of levels, each with a few names, of which every folder has some.

    Every fifth is what img2dataset downloads as files, in one to three shards, or an ``imagefolder`` with its table; at
    times with a few files more.
    """
    if rng.random() < 0.2:
        known = img2dataset_paths(rng) if rng.random() < 0.7 else imagefolder_paths(rng)
        return sorted({*known, *random_paths(rng)[: rng.integers(1, 3)]} if rng.random() < 0.3 else known)
    levels = [rng.choice(FOLDERS, size=rng.integers(1, 5), replace=False).tolist() for _ in range(rng.integers(0, 4))]
    folders = [""]
    paths: set[str] = set()
    for level in levels:
        folders = [f"{above}{name}/" for above in folders for name in level if rng.random() < 0.8]
        if rng.random() < 0.3:
            paths |= {folder + str(rng.choice(FILES)) for folder in folders}
    names = rng.choice(FILES, size=rng.integers(1, 5), replace=False).tolist()
    paths |= {folder + name for folder in folders for name in names}
    if rng.random() < 0.4:
        paths.add(str(rng.choice(FILES)))
    return sorted(paths)[:60]


def img2dataset_paths(rng: np.random.Generator) -> list[str]:
    above = str(rng.choice(["", "", "laion/", "train/", "data/train/"]))
    paths = [
        f"{above}{shard:05d}{ending}" for shard in range(rng.integers(1, 4)) for ending in (".parquet", "_stats.json")
    ]
    for shard in range(len(paths) // 2):
        numbers = [f"{above}{shard:05d}/{shard:05d}{number:04d}" for number in range(rng.integers(1, 6))]
        paths += [f"{number}.{kind}" for number in numbers for kind in ("jpg", "txt", "json") if rng.random() < 0.9]
    return paths


def imagefolder_paths(rng: np.random.Generator) -> list[str]:
    above = str(rng.choice(["", "train/", "data/"]))
    return [*(f"{above}{number}.jpg" for number in range(rng.integers(6, 12))), f"{above}metadata.csv"]


def random_index(rng: np.random.Generator, paths: list[str]) -> FolderIndex:
    """Index the files as if they were listed; Parquet files hold images or not."""
    folders = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
    files = []
    for path in paths:
        kind = kind_of_name(path.rpartition("/")[2]) or "without suffix"
        files.append((path, "parquet images" if kind == "parquet" and rng.random() < 0.5 else kind))
    tables = [path for path in paths if path.rpartition("/")[2].startswith("metadata.")]
    columns = {path: COLUMNS[rng.integers(len(COLUMNS))] for path in tables}
    order = rng.permutation(len(files))
    return FolderIndex(
        folders=sorted(rng.permutation(sorted(folders)).tolist()),
        files=sorted(files[number] for number in order),
        columns=dict(sorted(columns.items(), reverse=bool(rng.integers(2)))),
    )


def interpreted(index: FolderIndex, labels: bool) -> Interpretation | str:
    """Return the interpretation of the folder, or the error message."""
    try:
        return interpret(index, name="set", labels=labels)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("labels", [True, False])
def test_every_file_of_a_random_layout_is_read_or_counted_or_the_reason_is_one_line(labels: bool) -> None:
    rng = np.random.default_rng(20261128)
    read = 0
    for _ in range(1500):
        paths = random_paths(rng)
        index = random_index(rng, paths)
        found = interpreted(index, labels)
        if isinstance(found, str):
            assert "\n" not in found
            assert len(found) < 700
            continue
        read += 1
        beside = len(found.beside)
        assert len(found.files) + beside + sum(found.left_out.values()) == len(paths), paths
        assert len(set(found.files)) == len(found.files)
        assert list(found.files) == sorted(found.files)
        if found.reader == "images":
            assert len(found.labels) == len(found.splits) == len(found.files)
            assert set(found.splits) <= {"train", "val", "test", ""}
            assert -1 <= min(found.labels) <= max(found.labels) < max(1, len(found.class_names))
            assert labels or set(found.labels) == {-1}
    assert read > 300  # the layouts are not all refused


def fill(root: Path, paths: list[str]) -> None:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".tar"):
            write_tar(root / path)
        elif path.endswith(".parquet"):
            write_parquet(root / path, with_images=number % 2 == 0)
        elif path.endswith("link.jpg"):
            (root / path).symlink_to("nowhere.jpg")
        elif path.endswith("metadata.csv"):
            folder = path.rpartition("/")[0]
            names = [name for above, _, name in (each.rpartition("/") for each in paths) if above == folder]
            beside = [name for name in names if name.endswith(".jpg")] or ["0.jpg"]
            rows = [f"{name},{'cat' if number % 2 else 'dog'}" for number, name in enumerate(beside)]
            (root / path).write_text("\n".join(["file_name,label", *rows]))
        else:
            (root / path).write_bytes(path.encode())


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(6):
            for ending, content in (("jpg", b"%d" % number), ("cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, *, with_images: bool) -> None:
    images = pa.array([{"bytes": b"%d" % number, "path": None} for number in range(6)])
    parquet.write_table(pa.table({"image" if with_images else "x": images, "label": list("ababab")}), path)
    if not with_images:
        parquet.write_table(pa.table({"url": ["x"]}), path)


def outcome(root: Path, **options: Any) -> tuple[str, ImageSet | None]:
    """Load a folder; return a text of what was found or of the error, which must not change, and the set."""
    try:
        images = load_images(str(root), **options)
    except InputError as error:
        return str(error), None
    return f"{images.digest} {images.provenance['layout']} {images.provenance['left_out']}", images


def entries(root: Path) -> int:
    """Count the files below a folder, and each hidden or system folder as one, by other code than is tested."""
    count = 0
    for _, folders, files in os.walk(root):
        closed = [name for name in folders if name.startswith(".") or name == "__MACOSX"]
        count += len(files) + len(closed)
        folders[:] = [name for name in folders if name not in closed]
    return count


@pytest.mark.slow
def test_real_files_give_one_outcome_in_every_order_of_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, shuffling = np.random.default_rng(7), np.random.default_rng(8)  # whatever else lists a folder meanwhile
    scandir = os.scandir

    class Shuffled:
        def __init__(self, path: Any) -> None:
            with scandir(path) as found:
                listed = list(found)
            self.entries = [listed[number] for number in shuffling.permutation(len(listed))]

        def __enter__(self) -> Iterator[Any]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

    read = Counter[str]()
    for number in range(90):
        root = tmp_path / str(number)
        root.mkdir()
        fill(root, random_paths(rng))
        for options in ({}, {"labels": False}):
            plain, images = outcome(root, **options)
            if images is not None:
                read[images.provenance["source"]] += 1
                assert files_read(root, images) + sum(left_out(images).values()) == entries(root)
            with monkeypatch.context() as patch:
                patch.setattr(os, "scandir", Shuffled)
                assert {outcome(root, **options)[0] for _ in range(2)} == {plain}
    assert read["folder"] > 20
    assert min(read[source] for source in ("webdataset", "parquet images", "image folder")) > 0, read


def left_out(images: ImageSet) -> dict[str, int]:
    """Return the kinds of files that were not read; samples of tars without an image are no files."""
    return {kind: n for kind, n in images.provenance["left_out"].items() if kind != "samples without an image"}


def files_read(root: Path, images: ImageSet) -> int:
    """Count the files that were read, by what the ids say."""
    if images.provenance["source"] in ("webdataset", "parquet images"):
        return len({id_.rpartition("/")[0] for id_ in images.ids_N.tolist()})
    rows = sum(os.path.lexists(root / id_) for id_ in images.ids_N.tolist())  # a table may name what is not there
    return rows + len(images.provenance.get("tables", ()))


_DIGESTS = """
import os, random, sys
from penultimate.engine.images.load import load_images
from penultimate.store.errors import InputError

class Shuffled(list):
    def __init__(self, path):
        with scandir(path) as found:
            super().__init__(sorted(found, key=lambda _: random.random()))
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass

scandir, os.scandir = os.scandir, Shuffled
for spec in sys.argv[1:]:
    for labels in (True, False):
        try:
            images = load_images(spec, labels=labels)
            given = images.provenance
            print(images.digest, images.class_names, given.get("layout"), given.get("left_out"), list(images.split_N))
        except InputError as error:
            print(error)
"""


@pytest.mark.slow
def test_no_outcome_depends_on_the_hash_seed_or_the_order_of_listing(tmp_path: Path) -> None:
    specs = [str(path) for path in _of_each_reader(tmp_path)]
    rng = np.random.default_rng(11)
    for number in range(40):
        fill(tmp_path / f"random{number}", random_paths(rng))
        specs.append(str(tmp_path / f"random{number}"))
    found = set()
    for seed in ("0", "1", "4711"):
        command = [sys.executable, "-c", _DIGESTS, *specs]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1, found
    lines = found.pop().splitlines()
    assert "('001', '01', '1', '2')" in lines[0]
    refused = [line for line in lines[: 2 * _READERS : 2] if len(line.split()[0]) != 16]
    assert not refused  # each reader did read its files, with labels


_READERS = 9


def _of_each_reader(root: Path) -> list[Path]:
    """Write one source for each reader, with classes and labels that tie or repeat."""
    labels = ["1", "01", "001", "2"] * 4
    for number in range(16):
        (root / f"{number}.jpg").write_bytes(b"%d" % number)
    rows = [f"{number}.jpg,{label}" for number, label in enumerate(labels)]
    (root / "ties.csv").write_text("\n".join(["path,label", *rows]))
    (root / "several.csv").write_text("\n".join(["path,label", *(row + "|eel|01" for row in rows)]))
    lists = [{"path": f"{n}.jpg", "label": [label, "ant", "eel"]} for n, label in enumerate(labels)]
    (root / "lists.jsonl").write_text("\n".join(map(json.dumps, lists)))
    photos = [f"{split}/{name}/{n}.jpg" for split in ("seg_train", "seg_test") for name in "abcde" for n in range(3)]
    fill(root / "photos", [*photos, "seg_pred/x.png", "notes.txt", "a.json", "b.pdf", ".DS_Store"])
    fill(root / "tars", ["x-0.tar"])
    pixels = np.arange(16 * 4 * 4, dtype=np.uint8).reshape(16, 4, 4)
    np.savez(root / "arrays.npz", images=pixels, labels=labels)
    images = pa.array([{"bytes": b"%d" % number, "path": None} for number in range(16)])
    parquet.write_table(pa.table({"image": images, "label": labels}), root / "texts.parquet")
    parquet.write_table(pa.table({"image": images, "label": [[x, "b"] for x in labels]}), root / "lists.parquet")
    folder = root / "folder"
    fill(folder, [f"{number}.jpg" for number in range(16)])
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    names = (
        "ties.csv",
        "lists.jsonl",
        "photos",
        "tars",
        "arrays.npz",
        "texts.parquet",
        "lists.parquet",
        "folder",
        "several.csv",
    )
    return [root / name for name in names]
