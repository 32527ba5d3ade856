import json
from pathlib import Path

import pytest
from support.trial_cases import trial_of

from penultimate.cli.main import run
from penultimate.store.trials.trial_log import TrialLog

TABLE = "model,imagenet,cars,dtd\na,70,50.5,60\nb,75,55,62.5\nc,80,60,70\nd,77,59,61\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "accuracies.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    trials = TrialLog.create(tmp_path / "trials")
    for b, wrong in enumerate((40, 30, 10)):
        for dataset in ("cars", "dtd"):
            trials.append(trial_of(backbone=f"net{b}", dataset=dataset, wrong=range(wrong + len(dataset))))
    (tmp_path / "imagenet.csv").write_text("model,top1\nnet0,70.1\nnet1,74.5\nnet2,78.9\n")
    return tmp_path / "trials"


def test_a_table_gives_json_on_stdout_and_its_unit_on_stderr(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", "--table", str(table), "--imagenet", "imagenet", "--json"]) == 0
    out, err = capsys.readouterr()
    got = json.loads(out)
    assert (got["n_models"], got["n_datasets"]) == (4, 2)
    assert err == "accuracies are percent (largest value 80)\n"


def test_a_table_for_people_names_the_best_and_how_sure(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", "--table", str(table)]) == 0
    out = capsys.readouterr().out
    assert "4 models, 2 datasets" in out
    best = next(line for line in out.splitlines() if " c " in line)
    assert "best" in best


def test_a_log_is_analysed_setting_by_setting(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overruled = ["--imagenet-table", str(tmp_path / "imagenet.csv"), "--resamples", "200"]
    assert run(["analyze", str(log), *overruled, "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["settings"]["probe"]["n_models"] == 3
    assert len(got["rows"]) == 6
    assert run(["analyze", str(log), *overruled]) == 0
    assert "probe: 3 models, 2 datasets" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["trials", "--table", "t.csv"]])
def test_a_log_and_a_table_exclude_each_other(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", *arguments]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_a_missing_imagenet_column_is_one_line_with_the_nearest_name(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["analyze", "--table", str(table), "--imagenet", "imagnet"]) == 2
    err = capsys.readouterr().err
    assert "did you mean imagenet" in err
    assert err.count("\n") == 1


def test_a_folder_that_is_no_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", str(tmp_path)]) == 2
    assert "no trial log" in capsys.readouterr().err
