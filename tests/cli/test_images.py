"""Every form of IMAGES is read and reported in one line, and nothing is guessed silently."""

import json
from pathlib import Path

import pytest

from penultimate.cli.main import run

TINY = ("--model", "test_resnet", "--weights", "random", "--workers", "1", "--no-compile", "--decoder", "pillow")
SMALL = (
    "--model", "test_resnet", "--init", "random", "--size", "32", "--batch-size", "4", "--set", "decoder=pillow",
    "--workers", "1", "--learning-rate", "0.05", "--steps", "2",
)  # fmt: skip


def test_extract_begins_with_classes_sizes_and_what_is_left_out(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "notes.txt").write_text("x")
    assert run(["extract", str(photos), "--store", str(tmp_path / "s.zarr"), *TINY, "--set", "parity=false"]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first == (
        "photos: 3 classes (cat, dog, owl); train 12, val 6, test 6; read as one folder a class; left out: 1 .txt"
    )


def test_train_begins_with_the_same_line_and_refuses_one_class(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", str(photos), "--out", str(tmp_path / "runs"), *SMALL]) == 0
    assert capsys.readouterr().err.startswith("photos: 3 classes (cat, dog, owl); train 12, val 6, test 6;")
    (tmp_path / "one").mkdir()
    (photos / "cat").rename(tmp_path / "one" / "cat")
    assert run(["train", str(tmp_path / "one"), "--out", str(tmp_path / "again"), *SMALL]) == 2
    assert "fewer than two classes (cat)" in capsys.readouterr().err


def test_a_probe_of_one_class_is_refused(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one").mkdir()
    (photos / "cat").rename(tmp_path / "one" / "cat")
    store = str(tmp_path / "s.zarr")
    assert run(["extract", str(tmp_path / "one"), "--store", store, *TINY, "--set", "parity=false"]) == 0
    assert run(["probe", store, "--trials", str(tmp_path / "t")]) == 2
    assert "are of one class, 'cat'; a classifier needs two or more" in capsys.readouterr().err


def test_the_same_command_again_does_not_find_its_own_store(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos)
    command = ["extract", ".", "--store", "features.zarr", *TINY, "--set", "parity=false", "--json"]
    digests = []
    for _ in range(2):
        assert run(command) == 0
        digests.append(json.loads(capsys.readouterr().out)[0]["digest"])
    assert digests[0] == digests[1]


def test_a_wrong_model_is_said_before_any_image_is_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("images were read")

    for verb in ("extract", "train", "bench extract", "parity"):
        module = "penultimate.engine.bench.extract" if verb == "bench extract" else f"penultimate.cli.{verb}"
        monkeypatch.setattr(f"{module}.load_{'labelled_' * (verb == 'train')}images", never)
        out = {"extract": ["--store", str(tmp_path / "s")], "train": ["--out", str(tmp_path / "r")]}.get(verb, [])
        assert run([*verb.split(), str(photos), *out, "--model", "resnet5O"]) == 2
        assert "resnet50" in capsys.readouterr().err


def test_more_failed_images_than_are_named_are_counted(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(photos.rglob("*.jpg"))[:15]:
        path.write_bytes(path.name.encode() * 9 + str(path).encode())
    assert run(["extract", str(photos), "--store", str(tmp_path / "s.zarr"), *TINY, "--set", "parity=false"]) == 0
    err = capsys.readouterr().err
    assert err.count("left out cat/") + err.count("left out dog/") == 10
    assert "left out 5 more" in err


def test_a_manifest_without_labels_and_images_by_name_are_extracted(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos)
    Path("list.csv").write_text("path\ncat/00.jpg\ndog/00.jpg\n")
    store = ["--store", str(tmp_path / "s.zarr"), *TINY, "--set", "parity=false", "--json"]
    for names, rows in ((["list.csv"], 2), (["cat/00.jpg"], 1), (["cat/00.jpg", "dog", "owl/0[12].jpg"], 11)):
        assert run(["extract", *names, "--no-labels", *store]) == 0
        assert json.loads(capsys.readouterr().out)[0]["rows"] == rows
    assert run(["extract", "cat", "dog", "owl", *store]) == 2
    assert "name the folder that holds them, '.'" in capsys.readouterr().err


def test_predict_takes_images_folders_lists_and_globs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, trials = str(tmp_path / "s.zarr"), tmp_path / "trials"
    assert run(["extract", str(photos), "--store", store, *TINY, "--set", "parity=false"]) == 0
    assert run(["probe", store, "--trials", str(trials), "--l2", "1e-2:1:2"]) == 0
    (head,) = (trials / "heads").iterdir()
    monkeypatch.chdir(photos)
    Path("list.csv").write_text("path\ncat/03.jpg\n")
    capsys.readouterr()
    names = ["cat/00.jpg", "dog/0[01].jpg", "owl", "list.csv"]
    assert run(["predict", *names, "--head", str(head), *TINY[2:], "--json"]) == 0
    found = [row["id"] for row in json.loads(capsys.readouterr().out)]
    assert found == ["cat/00.jpg", "cat/03.jpg", "dog/00.jpg", "dog/01.jpg", *(f"owl/{n:02d}.jpg" for n in range(8))]
