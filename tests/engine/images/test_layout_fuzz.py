"""Random layouts: every file is accounted for, nothing crashes, and digests do not depend on the order of listing."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penultimate.engine.images.folders.file_kinds import kind_of_name
from penultimate.engine.images.folders.folder_index import FolderIndex
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.layout import Interpretation, interpret
from penultimate.engine.images.load import load_images
from penultimate.store.errors import InputError

FOLDERS = (
    *("train", "Test", "valid", "seg_train", "seg_test", "seg_pred", "images", "data", "dev", "val2017", "Testing"),
    *("cat", "dog", "01", "1", "test_tube", "__MACOSX", ".git", "caf\u00e9", "cafe\u0301", "extra"),
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
)
COLUMNS: tuple[list[str], ...] = (["file_name", "label"], ["file_name", "caption"], ["x"], [])


def random_paths(rng: np.random.Generator) -> list[str]:
    """Make up to sixty files in a random tree of levels, each with a few names, of which every folder has some."""
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
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".tar"):
            write_tar(root / path)
        elif path.endswith("metadata.csv"):
            (root / path).write_text("file_name,label\n0.jpg,cat\n")
        else:
            (root / path).write_bytes(path.encode())


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(6):
            for ending, content in (("jpg", b"%d" % number), ("cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


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


def test_real_files_give_one_outcome_in_every_order_of_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    scandir = os.scandir

    class Shuffled:
        def __init__(self, path: Any) -> None:
            with scandir(path) as found:
                listed = list(found)
            self.entries = [listed[number] for number in rng.permutation(len(listed))]

        def __enter__(self) -> Iterator[Any]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

    read = 0
    for number in range(60):
        root = tmp_path / str(number)
        root.mkdir()
        fill(root, random_paths(rng))
        for options in ({}, {"labels": False}):
            plain, images = outcome(root, **options)
            if images is not None and images.provenance["source"] in ("folder", "image folder"):
                read += 1
                rows = sum((root / id_).exists() for id_ in images.ids_N.tolist())  # a table may name what is not there
                tables = len(images.provenance.get("tables", ()))
                assert rows + tables + sum(images.provenance["left_out"].values()) == entries(root)
            with monkeypatch.context() as patch:
                patch.setattr(os, "scandir", Shuffled)
                assert {outcome(root, **options)[0] for _ in range(2)} == {plain}
    assert read > 20


_DIGESTS = """
import sys
from penultimate.engine.images.load import load_images
for spec in sys.argv[1:]:
    images = load_images(spec)
    print(images.digest, images.class_names, images.provenance.get("left_out"))
"""


def test_digests_and_the_order_of_classes_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    (tmp_path / "ties.csv").write_text(
        "path,label\n" + "".join(f"{number}.jpg,{['1', '01', '001', '2'][number % 4]}\n" for number in range(16))
    )
    for number in range(16):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
    photos = [f"{split}/{name}/{n}.jpg" for split in ("seg_train", "seg_test") for name in "abcde" for n in range(3)]
    fill(tmp_path / "photos", [*photos, "seg_pred/x.png", "notes.txt", "a.json", "b.pdf", ".DS_Store"])
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "0.tar")
    specs = [str(tmp_path / name) for name in ("ties.csv", "photos", "tars")]
    found = set()
    for seed in ("0", "1", "4711"):
        command = [sys.executable, "-c", _DIGESTS, *specs]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1, found
    assert "('001', '01', '1', '2')" in found.pop()
