"""A folder of photographs that is changed in every way, its extractions killed in between, against fresh ones."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.command import finish, start

from penultimate.cli.main import run
from penultimate.engine.backbones.timm_backbone import BATCH_TOLERANCE
from penultimate.engine.images.decode import pillow
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.upkeep.verify import verify

CLASSES = ("ant", "bee", "cat")
MODEL = ("--model", "test_resnet", "--weights", "random", "--workers", "1", "--decoder", "pillow", "--no-compile")
SETTINGS = ("--batch-size", "4", "--set", "shard_rows=8", "--set", "parity=false", "--no-cache")

Change = Callable[[Path, np.random.Generator], list[str]]


def files_in(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def add(root: Path, rng: np.random.Generator, number: int) -> None:
    for _ in range(number):
        path = root / str(rng.choice(CLASSES)) / f"{rng.integers(10**9):09d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if rng.random() < 0.05:
            path.write_bytes(b"no image " + rng.bytes(8))
        else:
            pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)


def grow(root: Path, rng: np.random.Generator) -> list[str]:
    add(root, rng, int(rng.integers(1, 30)))
    return []


def copy_some(root: Path, rng: np.random.Generator) -> list[str]:
    for path in rng.permutation(np.array(files_in(root), object))[:5]:
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    return []


def shrink(root: Path, rng: np.random.Generator) -> list[str]:
    for path in files_in(root)[10:]:
        if rng.random() < 0.3:
            path.unlink()
    return []


def relabel(root: Path, rng: np.random.Generator) -> list[str]:
    for path in files_in(root):
        if rng.random() < 0.3:
            target = root / str(rng.choice(CLASSES)) / path.name
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                path.rename(target)
    return []


def rename(root: Path, rng: np.random.Generator) -> list[str]:
    for path in files_in(root):
        path.rename(path.with_name(f"{rng.integers(10**9):09d}.png"))
    return []


def split_anew(root: Path, rng: np.random.Generator) -> list[str]:
    return ["--val-fraction", f"{rng.uniform(0.1, 0.5):.2f}"]


def merge(root: Path, rng: np.random.Generator) -> list[str]:
    """Take in another folder of new photographs and of some that are here."""
    other = root.with_name("other")
    add(other, rng, 10)
    for path in files_in(root)[:5]:
        target = other / "bee" / f"merged {path.name}"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(other, root, dirs_exist_ok=True)
    shutil.rmtree(other)
    return []


CHANGES: tuple[Change, ...] = (grow, copy_some, relabel, split_anew, rename, shrink, merge, grow)


def rows_by_content(features: FeatureSet, root: Path) -> dict[bytes, NDArray[Any]]:
    """Return the features by the bytes of the file they are of."""
    return {(root / id_).read_bytes(): row for id_, row in zip(features.ids.tolist(), features.features, strict=True)}


def num_files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))  # which bears that some vanish


@pytest.mark.slow
def test_a_changing_folder_killed_in_between_is_always_that_of_a_fresh_extraction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    root, log = tmp_path / "photos", tmp_path / "log"
    add(root, rng, 40)
    carried: dict[bytes, NDArray[Any]] = {}
    kills = num_failed = 0
    for number, change in enumerate((split_anew, *CHANGES)):
        command = ["extract", str(root), *MODEL, *SETTINGS, *change(root, rng)]
        store, fresh_store = tmp_path / "store", tmp_path / f"fresh{number}"
        more = num_files(store) + int(rng.integers(1, 20))
        process = start([*command, "--store", str(store)], log, sync_seconds=0.03)
        while process.exitcode is None and num_files(store) < more:  # of its work, not of a machine's time
            process.join(0.005)
        process.kill()
        kills += finish(process) == -signal.SIGKILL
        assert run([*command, "--store", str(store), "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert run([*command, "--store", str(fresh_store)]) == 0
        capsys.readouterr()
        opened, fresh = FeatureStore(store), FeatureStore(fresh_store)
        (key,) = fresh.keys()
        found, expected = opened.read(key), fresh.read(key)
        assert found.ids.tolist() == expected.ids.tolist()
        np.testing.assert_array_equal(found.labels, expected.labels, strict=True)
        np.testing.assert_array_equal(found.split, expected.split, strict=True)
        assert (found.failed, found.class_names) == (expected.failed, expected.class_names)
        by_content = rows_by_content(found, root)
        for content in by_content.keys() & carried.keys():
            np.testing.assert_array_equal(by_content[content], carried[content])
        distance_N = np.linalg.norm(found.features - expected.features, axis=1)
        assert (distance_N <= BATCH_TOLERANCE["float32"] * np.linalg.norm(expected.features, axis=1)).all()
        num_new = len(by_content.keys() - carried.keys())
        assert opened.info(key)["num_embedded"] == num_new, change
        assert (row["rows"], row["embedded"] + row["reused"]) == (found.num_rows, found.num_rows)
        assert row["failed"] == len(found.failed)
        carried |= by_content
        num_failed += len(found.failed)
        assert verify(opened) == []
        assert opened.incomplete() == []
    assert kills >= 3
    assert num_failed


def test_a_grown_folder_embeds_what_is_new_and_says_so(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["extract", str(photos), "--store", str(tmp_path / "store"), *MODEL, *SETTINGS, "--json"]
    assert run(command) == 0
    first = capsys.readouterr()
    shutil.move(photos / "cat" / "00.jpg", photos / "dog" / "moved.jpg")
    shutil.copy(photos / "owl" / "01.jpg", photos / "owl" / "twin.jpg")
    Image.new("RGB", (20, 20), (5, 250, 7)).save(photos / "dog" / "new.png")
    (photos / "dog" / "bad.jpg").write_bytes(b"no image")
    assert run(command) == 0
    second = capsys.readouterr()
    rows = [json.loads(said.out)[0] for said in (first, second)]
    assert [(row["rows"], row["embedded"], row["reused"], row["failed"]) for row in rows] == [
        (24, 24, 0, 0),
        (26, 1, 25, 1),
    ]


def test_images_that_failed_are_tried_again_only_where_that_is_asked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    open_image = pillow.open_image

    def counted(content: bytes, **options: Any) -> Any:
        decoded.append(content)
        return open_image(content, **options)

    monkeypatch.setattr(pillow, "open_image", counted)
    (photos / "dog" / "bad.jpg").write_bytes(b"no image")
    command = ["extract", str(photos), "--store", str(tmp_path / "store"), *MODEL, *SETTINGS]
    assert run(command) == 0
    assert (len(decoded), b"no image" in decoded) == (25, True)
    for more, again in (([], []), (["--val-fraction", "0.3"], []), (["--retry-failed"], [b"no image"])):
        decoded.clear()
        assert run([*command, *more]) == 0
        assert decoded == again
    (photos / "dog" / "bad.jpg").write_bytes(b"no image either")
    decoded.clear()
    assert run(command) == 0
    assert decoded == [b"no image either"]
    capsys.readouterr()
