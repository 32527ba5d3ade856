"""``penultimate train`` on the command line: wrong inputs, Ctrl-C, a full disk, and the same command again."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import finish, start
from support.small_disks import enlarge, small_disk

import penultimate
from penultimate.cli.extract import ExtractOptions
from penultimate.cli.main import run
from penultimate.cli.train import TrainOptions
from penultimate.engine.runtime.strict import Strict
from penultimate.store.errors import InputError

SMALL = (
    "--model", "test_resnet", "--init", "random", "--size", "32", "--batch-size", "4", "--set", "decoder=pillow",
    "--workers", "1", "--learning-rate", "0.05",
)  # fmt: skip


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line of stderr, the only one that is an error."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if line.startswith("penultimate: ")] == lines[-1:]
    return lines[-1]


@pytest.mark.parametrize(
    ("options", "expected", "code"),
    [
        (["--steps", "4", "--batch-size", "13"], "batch size 13 is larger than the 12 training images", 2),
        (["--steps", "4", "--model", "vit_tiny_patch16_224"], "refuses images of 32 x 32 pixels", 2),
        (["--steps", "4", "--grid", "quik"], "quick", 2),
        (["--steps", "40", "--learning-rate", "1e12"], "all 2 runs diverged (learning rates", 1),
        (["--steps", "4", "--shots", "9"], "fewer than the 9 shots asked for", 2),
        (["--steps", "4", "--shard", "2/2"], "counts from 0: expected 0/2 to 1/2, got 2/2", 2),
        (["--steps", "4;8"], "steps.0: Input should be a valid integer", 2),
        (["--steps", "4", "--set", "momentun=0.8"], "no setting named 'momentun'; did you mean momentum?", 2),
        (["--steps", "4", "--set", "steps=5"], "steps is given twice", 2),
        (["--steps", "4", "--set", "momentum"], "--set takes name=value", 2),
        (["--steps", "4", "--set", "momentum=1.5"], "momentum: Input should be less than 1, got 1.5", 2),
        (["--steps", "4", "--set", "momentum=["], "is no YAML value", 2),
        (["--steps", "4", "--set", "auxiliary_head=true"], "auxiliary heads", 2),
        (["--steps", "4", "--set", "warmup_steps=4"], "warmup_steps must be in [0, 4)", 2),
        (["--steps", "0"], "steps.0: Input should be greater than or equal to 1, got 0", 2),
        (["--steps", "4", "--set", "crop_scale=1.5"], "crop_scale", 2),
        (["--steps", "4", "--set", "logs=tensorbord"], "tensorboard", 2),
    ],
)
def test_wrong_input_is_one_line(
    options: list[str], expected: str, code: int, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = SMALL if expected != "all 2 runs diverged (learning rates" else (*SMALL[:-1], "1e11")
    assert run(["train", str(photos), "--out", str(tmp_path / "runs"), *small, *options]) == code
    assert expected in _error(capsys)


def test_asked_again_nothing_is_trained_and_the_row_still_says_where_the_network_is(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(photos), "--out", str(tmp_path / "runs"), *SMALL, "--steps", "4", "--json"]
    assert run(command) == 0
    (first,) = json.loads(capsys.readouterr().out)
    weights = Path(first["run"]) / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert run(command) == 0
    (again,) = json.loads(capsys.readouterr().out)
    assert again == first
    assert weights.stat().st_mtime_ns == before


def test_budgets_differ_in_their_steps_alone(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several budgets are trials that the analysis reads as one curve."""
    command = ["train", str(photos), "--out", str(tmp_path / "runs"), *SMALL, "--no-retrain", "--json"]
    assert run([*command, "--steps", "2,40"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["steps"] for row in rows] == [2, 40]
    assert {name for name in rows[0] if rows[0][name] != rows[1][name]} <= {"steps", "value", "trial", "run"}


@pytest.mark.parametrize(("verb", "options"), [("train", TrainOptions), ("extract", ExtractOptions)])
def test_the_verb_has_few_flags_in_groups_and_the_others_are_listed(
    verb: str, options: type[Strict], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([verb, "--help"]) == 0
    text = capsys.readouterr().out
    flags = [line for line in text.splitlines() if line.startswith("  -") and "--help" not in line]
    assert len(flags) <= 26
    headings = ["What:", "How:", "Where, and what is kept:"]
    assert sorted(headings, key=text.index) == headings
    assert run(["settings", verb, "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == set(options.model_fields)


def test_a_verb_without_settings_is_refused_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["settings", "trian"]) == 2
    assert "did you mean train" in capsys.readouterr().err


def test_python_finds_the_trial_that_the_command_line_made(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(photos), "--out", str(tmp_path / "runs"), *SMALL, "--steps", "4", "--json"]
    assert run([*command, "--set", "label_smoothing=0.1"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    (result,) = penultimate.train(
        photos, "test_resnet", tmp_path / "runs", init="random", size=32, batch_size=4, decoder="pillow", workers=1,
        learning_rates=0.05, steps=4, label_smoothing=0.1,
    )  # fmt: skip
    assert result.trial is not None
    assert (result.trial.id, result.trial.value, str(result.folder)) == (row["trial"], row["value"], row["run"])
    with pytest.raises(InputError, match="did you mean steps"):
        penultimate.train(photos, "test_resnet", tmp_path / "runs", step=4)


def _wait_for(log: Path, text: str) -> None:
    until = time.monotonic() + 300  # a busy machine takes a minute to import torch
    while not log.exists() or text not in log.read_text():
        assert time.monotonic() < until, f"{text!r} was never said"
        time.sleep(0.01)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(photos: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [
        "train",
        str(photos),
        "--out",
        str(tmp_path / "runs"),
        *SMALL,
        "--steps",
        "150",
        "--set",
        "eval_every=20",
    ]
    process = start(command, log)
    _wait_for(log, " 20/150: train loss")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert finish(process, within=60) == 130
    (error,) = [line for line in log.read_text().splitlines() if line.startswith("penultimate: ")]
    assert "of 150 updates and checkpointed" in error
    assert error.endswith("run the same command again to go on there")
    assert finish(start(command, log)) == 0
    assert ": resumed" in log.read_text()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount 4 MiB, which hold one checkpoint but not two."""
    with small_disk(tmp_path / "disk", "4m") as mounted:
        yield mounted


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_with_more_space_it_goes_on_at_the_checkpoint_before(
    photos: Path, tmp_path: Path, disk: Path
) -> None:
    log = tmp_path / "log"
    command = ["train", str(photos), "--out", str(disk / "runs"), *SMALL, "--steps", "40", "--no-retrain"]
    command += ["--set", "checkpoint_every=10", "--set", "eval_every=40"]
    assert finish(start(command, log)) == 1
    (error,) = [line for line in log.read_text().splitlines() if line.startswith("penultimate: ")]
    assert "could not be written" in error
    assert "the one before it is untouched" in error
    enlarge(disk, "64m")
    assert finish(start(command, log)) == 0
    assert ": resumed" in log.read_text()
