"""``store upgrade``, ``store verify --images``, ``store ls``, ``info`` and ``rm`` on sets that share rows."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from penultimate.cli.main import run
from penultimate.store.feature_store import FeatureStore
from penultimate.store.upkeep.verify import verify

FORMAT1 = Path(__file__).parents[1] / "data" / "format1"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a writable copy of a store of format 1 and of its images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(FORMAT1, tmp_path / "format1"))


def listed(store: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run(["store", "ls", str(store), "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_keys_of_format_1_come_forward_where_their_images_are_as_they_were(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    location = work / "features.zarr"
    before = {key.path: FeatureStore(location).read(key).features.tobytes() for key in FeatureStore(location).keys()}  # noqa: SIM118
    (work / "images" / "cat" / "00.jpg").rename(work / "kept.jpg")
    assert run(["store", "upgrade", str(location), "--images", str(work / "images"), "--no-cache"]) == 0
    assert "0 keys upgraded, 2 stay in format 1" in capsys.readouterr().err
    (work / "kept.jpg").rename(work / "images" / "cat" / "00.jpg")
    both = ["--images", str(work / "images"), "--images", str(work / "animals.csv")]
    assert run(["store", "upgrade", str(location), *both, "--no-cache"]) == 0
    assert "2 keys upgraded, 0 stay in format 1" in capsys.readouterr().err
    store = FeatureStore(location)
    assert {store.info(key)["format"] for key in store.keys()} == {2}  # noqa: SIM118
    assert {key.path: store.read(key).features.tobytes() for key in store.keys()} == before  # noqa: SIM118
    assert verify(store) == []
    assert run(["store", "upgrade", str(location)]) == 0
    assert "0 keys upgraded, 0 stay in format 1" in capsys.readouterr().err


def test_images_that_are_not_what_was_embedded_are_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    location, images = str(work / "features.zarr"), work / "images"
    assert run(["store", "upgrade", location, "--images", str(images), "--no-cache"]) == 0
    capsys.readouterr()
    assert run(["store", "verify", location, "--images", str(images)]) == 0
    assert "every byte as written" in capsys.readouterr().err
    shutil.copy(images / "dog" / "01.jpg", images / "dog" / "02.jpg")
    (images / "owl" / "03.jpg").unlink()
    assert run(["store", "verify", location, "--images", str(images)]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "images dog/02.jpg: was changed since it was embedded",
        "images owl/03.jpg: is gone since it was embedded",
    ]
    assert err.startswith("penultimate: 2 images are not what was embedded")


def test_sets_that_share_rows_are_shown_and_removing_one_keeps_what_the_other_needs(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    location = tmp_path / "s.zarr"
    extract = ["extract", str(photos), "--store", str(location), "--model", "test_resnet", "--weights", "random"]
    extract += ["--workers", "1", "--no-cache", "--set", "parity=false", "--decoder", "pillow"]
    assert run(extract) == 0
    (photos / "cat" / "00.jpg").rename(photos / "cat" / "zz.jpg")
    assert run([*extract, "--name", "renamed"]) == 0
    first, second = listed(location, capsys)
    assert [first["dataset"], second["dataset"]] == ["photos", "renamed"]
    assert (first["shared"], second["shared"]) == (24, 24)
    assert first["shares"] == {second["digest"]: 24}
    assert run(["store", "info", str(location), second["digest"]]) == 0
    (source,) = json.loads(capsys.readouterr().out)["sources"]
    assert (source["rows"], source["dataset"]) == (24, "photos")
    assert source["provenance"]["images"]["source"] == "folder"
    assert run(["store", "rm", str(location), first["digest"]]) == 0
    assert "of its rows stay: other sets refer to them" in capsys.readouterr().err
    (left,) = listed(location, capsys)
    assert (left["digest"], left["shared"], left["shares"]) == (second["digest"], 0, {})
    assert verify(FeatureStore(location)) == []
    assert run(["store", "rm", str(location), second["digest"]]) == 0
    assert listed(location, capsys) == []
