"""Bad values of options are one line and exit code 2, before anything is computed, in every verb that has them."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from support.photographs import write_photos
from support.trial_cases import trial_of

import penultimate
from penultimate.cli.main import run
from penultimate.engine.study.study import Dataset
from penultimate.store.errors import InputError, NotAStoreError
from penultimate.store.trials.trial_log import TrialLog

RANDOM = ("--model", "test_resnet", "--weights", "random")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must be refused in one line; return that line."""
    capsys.readouterr()
    assert run([str(each) for each in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("penultimate: ")
    return lines[0]


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    log = TrialLog.create(tmp_path / "trials")
    log.append(trial_of())
    return tmp_path / "trials"


@pytest.mark.parametrize("seed", ["-1", "9223372036854775808", str(10**30)])
def test_a_seed_that_no_generator_takes_is_refused_by_every_verb(
    seed: str, tmp_path: Path, trials: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    for command in (
        ["extract", nowhere, "--store", tmp_path / "s", *RANDOM],
        ["bench", "extract", nowhere, *RANDOM],
        ["parity", nowhere, *RANDOM],
        ["train", nowhere, "--out", tmp_path / "runs", *RANDOM],
        ["analyze", trials],
        ["report", trials, "-o", tmp_path / "page.html"],
    ):
        assert "a seed is a whole number from 0 to 9,223,372,036,854,775,807, got " in refused(
            capsys, *command, "--seed", seed
        )


def test_a_seed_of_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = {"datasets": {"p": {"source": "p"}}, "backbones": ["test_resnet"], "probe": {}, "seed": -1}
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    assert "seed: a seed is a whole number" in refused(capsys, "study", "run", tmp_path / "study.yaml", "--dry-run")


@pytest.mark.parametrize("name", ["", " ", ".", ".."])
def test_a_name_that_would_lead_out_of_the_store_is_refused(
    name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "extract", photos, "--store", tmp_path / "s", *RANDOM, "--name", name)
    assert f"images cannot be called {name!r}" in line
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_no_store_is_said_before_images_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").touch()
    command = ["extract", tmp_path / "nowhere", *RANDOM, "--store"]
    line = refused(capsys, *command, tmp_path / "notes")
    assert line.endswith(f"{tmp_path / 'notes'} is not empty and no feature store; choose a new or empty folder")
    assert "there is no folder" in refused(capsys, *command, tmp_path / "no" / "store")
    with pytest.raises(NotAStoreError):
        penultimate.extract(tmp_path / "nowhere", store=tmp_path / "notes", model="test_resnet", weights="random")


def test_no_store_is_made_where_the_images_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, "extract", tmp_path / "nowhere", "--store", tmp_path / "store", *RANDOM)
    assert not (tmp_path / "store").exists()


def test_what_needs_labels_is_not_advised_to_do_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(tmp_path / "photos")
    flat = tmp_path / "photos" / "cat"
    (tmp_path / "list.txt").write_text("photos/cat/00.jpg\n")
    (tmp_path / "bare.csv").write_text("path,species\nphotos/cat/00.jpg,cat\n")
    (tmp_path / "split.csv").write_text("path,label,split\nphotos/cat/00.jpg,cat,test\nphotos/dog/00.jpg,dog,test\n")
    np.savez(tmp_path / "bare.npz", images=np.zeros((3, 4, 4, 3), np.uint8))
    np.save(tmp_path / "bare.npy", np.zeros((3, 4, 4, 3), np.uint8))
    for images, helps in (
        (flat, "put them in one folder a class"),
        (flat / "00.jpg", "name a folder with one folder a class, or a manifest"),
        (tmp_path / "list.txt", "name a table with a column of labels"),
        (tmp_path / "bare.csv", "name another with --label-column"),
        (tmp_path / "split.csv", "leave the split away to have splits drawn"),
        (tmp_path / "bare.npz", "add them to the archive"),
        (tmp_path / "bare.npy", "keep them in a labels.npy beside it"),
    ):
        line = refused(capsys, "train", images, "--out", tmp_path / "runs", *RANDOM)
        assert line.endswith(f"; {helps} (nothing can be learned without labels)")
        line = refused(capsys, "extract", images, "--store", tmp_path / "store", *RANDOM)
        assert line.endswith(f"; {helps}, or take the images without labels (--no-labels; in Python labels=False)")
        with pytest.raises(InputError, match="nothing can be learned without labels"):
            penultimate.train(images, model="test_resnet", out=tmp_path / "runs", weights="random")
        with pytest.raises(InputError, match="nothing can be learned without labels"):
            Dataset(images=str(images)).load("p", data="", seed=0, cache=None)


def test_one_error_alone_advises_to_do_without_labels() -> None:
    root = Path(penultimate.__file__).parent
    files = [path for part in ("engine", "store") for path in (root / part).rglob("*.py")]
    advising = {path.relative_to(root).as_posix() for path in files if "--no-labels" in path.read_text()}
    assert advising == {"store/errors.py", "engine/audit/label_issues.py"}  # the latter of the audit's own option


def test_a_label_column_is_refused_where_nothing_has_columns(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "extract", photos, "--store", tmp_path / "s", *RANDOM, "--label-column", "species")
    assert "--label-column goes with tables, tars and Parquet files" in line


def test_what_cannot_be_written_is_said_before_anything_is_read(
    trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder, nowhere = tmp_path / "file", tmp_path / "folder", tmp_path / "nowhere"
    file.touch()
    folder.mkdir()
    for command, says in (
        (["train", nowhere, *RANDOM, "--out", file / "runs"], "is a file, not a folder"),
        (["demo", "--folder", file], "is a file, not a folder"),
        (["report", trials, "-o", folder], "it is a folder; name a file in it"),
        (["report", trials, "-o", tmp_path / "page.html", "--figures", file], "is a file, not a folder"),
        (["imagenet-eval", nowhere, *RANDOM, "--output", folder], "it is a folder; name a file in it"),
        (["show", trials, "--figure", tmp_path / "board.docx"], "ends in .png or .pdf"),
        (["show", trials, "--figure", file / "board.png"], "is a file, not a folder"),
    ):
        assert says in refused(capsys, *command)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no files, as /proc is")
def test_a_file_that_its_folder_does_not_take_is_refused(trials: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'/proc/board.png'" in refused(capsys, "show", trials, "--figure", "/proc/board.png")


def test_a_weight_package_that_is_none_is_said_before_any_image_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb, out in (("extract", "--store"), ("train", "--out")):
        line = refused(
            capsys, verb, tmp_path / "nowhere", out, tmp_path / "out", "-m", "test_resnet", "--weights", "package"
        )
        assert "no network with a weight package named 'test_resnet'" in line


def test_strengths_and_memory_that_are_none_say_what_was_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["probe", tmp_path / "store", "--trials", tmp_path / "trials"]
    assert "from 2 to 10,000 strengths" in refused(capsys, *command, "--l2", "1e-2:1:100000000")
    assert "a number with a unit, such as 500M or 4G" in refused(capsys, *command, "--memory", "5")


def test_a_group_without_its_verb_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store"]) == 2
    assert "  verify  " in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_said_at_once(probe_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    began = time.monotonic()
    line = refused(capsys, "probe", probe_store, "--trials", probe_store.parent / "t", "--cluster", "127.0.0.1:9")
    assert time.monotonic() - began < 60  # Ray itself tries for five minutes
    assert "there is no Ray cluster at '127.0.0.1:9'" in line
