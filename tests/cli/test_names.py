"""Networks, sets of networks and datasets are found by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from penultimate.cli.main import run


def test_the_sixteen_are_listed_with_their_sizes_and_accuracies(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--set", "kornblith16", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 16
    assert all(row["network"] and row["feature_dim"] and row["parameters"] and row["imagenet_source"] for row in rows)
    assert [row["parameters"] for row in rows if row["network"] == "BN-Inception"] == [10_260_224]


def test_models_take_a_users_list_and_a_users_accuracies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("models: [test_resnet, resnet18.tv_in1k]\n")
    (tmp_path / "measured.csv").write_text("model,top1\nresnet18.tv_in1k,69.0\n")
    assert (
        run(["models", "--set", str(tmp_path / "mine.yaml"), "--imagenet", str(tmp_path / "measured.csv"), "--json"])
        == 0
    )
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["resnet18.tv_in1k"]["imagenet_top1"] == 0.69
    assert rows["test_resnet"]["imagenet_top1"] is None


def test_the_twelve_datasets_are_listed_and_a_copy_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["datasets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 12
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    for file, numbers in (("trainval.txt", range(20)), ("test.txt", range(20, 25))):
        lines = [f"Abyssinian_{number} 1 1 1\n" for number in numbers]
        (tmp_path / "annotations" / file).write_text("".join(lines))
    for number in range(24):
        (tmp_path / "images" / f"Abyssinian_{number}.jpg").write_bytes(b"")
    assert run(["datasets", "check", "pets", "--root", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "Abyssinian: 16 train, 4 val, 4 test" in out
    assert "missing: images/Abyssinian_24.jpg" in err
    assert "train 16 of 2,940" in err
    assert run(["datasets", "check", "pets", "--root", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["missing"] == ["images/Abyssinian_24.jpg"]


def test_wrong_names_and_what_nobody_serves_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["datasets", "check", "pet", "--root", str(tmp_path)],
        ["datasets", "check", "cars", "--root", str(tmp_path), "--download"],
        ["models", "--set", "kornblith"],
        ["imagenet-eval", str(tmp_path), "--model", "test_resnet", "--weights", "random"],
    ):
        assert run(command) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.strip().splitlines())) == ("", 1)


def test_imagenet_eval_prints_fractions_and_writes_a_table_in_per_cent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "val" / "n01440764"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / "a.jpg")
    measured = tmp_path / "measured.csv"
    command = ["imagenet-eval", str(tmp_path / "val"), "--model", "test_resnet", "--weights", "random"]
    assert run([*command, "--decoder", "pillow", "--output", str(measured), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["model"], row["num_images"], row["failed"]) == ("test_resnet.random0", 1, 0)
    assert measured.read_text().splitlines()[0] == "model,top1,top5,num_images,images,preprocess"
    for verb in (["datasets"], ["datasets", "check"], ["imagenet-eval"]):
        assert run([*verb, "--help"]) == 0
        assert f"penultimate {' '.join(verb)}" in capsys.readouterr().out
