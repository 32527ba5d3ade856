"""``penultimate study`` reads its options, prints its results, and loses nothing but time to a kill."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.command import finish, start
from support.store_cases import array_files

from penultimate.cli.main import run
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial_log import TrialLog

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(photos: Path) -> Path:
    path = photos.parent / "small.yaml"
    brief = {"size": 32, "batch_size": 4, "decoder": "pillow", "retrain": False}
    content = {
        "data": str(photos.parent),
        "workers": 1,
        "datasets": {"photos": {}},
        "backbones": [
            {"model": "test_resnet", "weights": "random"},
            {"model": "test_resnet", "pretrain": {"dataset": "photos", "steps": 4, **brief}},
        ],
        "extract": {"decoder": "pillow", "compile": False},
        "probe": {"l2": "0.01:100:5", "shots": ["all", 2], "seeds": 2},
        "finetune": {"steps": [2, 4], **brief},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_init_writes_what_can_be_planned_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # the digits are written there
    assert run(["study", "init"]) == 0
    command = ["study", "run", "study.yaml", "--dry-run", "--no-estimate", "--json"]
    assert run([*command, "--set", "backbones=[{model: test_resnet, weights: random}]"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [(step["method"], step["status"]) for step in steps] == [("extract", "to do"), ("probe", "to do")]
    assert run(["study", "init"]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_pairs"), [("kornblith2019", 12 * 16), ("caltech-lite", 2 * 6 + 6), ("convergence", 3)]
)
def test_the_examples_can_be_planned_where_their_data_is_not(
    name: str, num_pairs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["study", "run", str(ROOT / "examples" / f"{name}.yaml"), "--dry-run", "--no-estimate", "--json"]
    assert run([*command, "--out", str(tmp_path / "out"), "--set", f"data={tmp_path}"]) == 0
    out, err = capsys.readouterr()
    steps = json.loads(out)["steps"]
    probed = {(step["dataset"], step["backbone"]) for step in steps if step["method"] == "probe"}
    assert len(probed) == num_pairs
    blocked = [step for step in steps if step["status"] == "blocked"]
    assert all("caltech101" not in step["dataset"] or step in blocked for step in steps)
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in err


def test_a_dry_run_tells_what_and_how_long_and_a_run_does_it(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", "run", str(study), "--out", str(tmp_path / "out")]
    changes = ["--set", "backbones=[{model: test_resnet, weights: random}]", "--set", "scratch={steps: 2, size: 32}"]
    batch = ["--set", "scratch.batch_size=4", "--set", "scratch.decoder=pillow"]
    assert run([*command, *changes, *batch, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [step["status"] for step in planned["steps"]] == ["to do"] * 5
    extraction, probes, training = planned["estimates"]
    assert extraction["seconds"] > 0
    assert "24 images" in extraction["source"]
    assert probes["seconds"] is None  # nothing to go by: no number is made up
    assert training["seconds"] > 0
    assert "4 updates, 16 images" in training["source"]  # two runs of two: retrained on train + val
    assert not (tmp_path / "out").exists()

    assert run([*command, *changes[:2], "--set", "finetune=[]"]) == 0
    out, err = capsys.readouterr()
    assert "test_resnet.random0" in out
    assert "4 cells run" in err
    assert run([*command, *changes, *batch, "--dry-run"]) == 0
    out, _ = capsys.readouterr()
    assert "3 there" in out
    assert "1 to do" in out


@pytest.mark.parametrize(
    ("change", "expected"), [("prob.l2=1", "did you mean probe"), ("data", "--set takes a.b=c"), ("seed=x", "seed")]
)
def test_a_wrong_study_is_one_line_and_exit_code_2(
    change: str, expected: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "run", str(study), "--set", change]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert expected in err


def test_what_could_not_be_done_is_listed_with_exit_code_1(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", "run", str(study), "--out", str(tmp_path / "out"), "--set", "finetune=[]"]
    changes = ["--set", "datasets.pets={}", "--set", "backbones=[{model: test_resnet, weights: random}]"]
    assert run([*command, *changes]) == 1
    out, err = capsys.readouterr()
    assert "photos" in out
    assert "cannot be done: 4 steps, the first extract pets, test_resnet.random0: no Oxford-IIIT Pets" in err


@pytest.mark.slow
def test_killed_wherever_it_is_the_same_command_ends_as_if_nothing_had_happened(study: Path, tmp_path: Path) -> None:
    """Kill a study once in each stage, when pretraining, extraction, probes and fine-tuning left their first trace."""
    log = tmp_path / "log"
    untouched, killed = tmp_path / "untouched", tmp_path / "killed"

    def command(out: Path) -> list[str]:
        return ["study", "run", str(study), "--out", str(out)]

    assert finish(start(command(untouched), log)) == 0
    traces = ["study.yaml", "pretraining/*/last.pt", "features.zarr/photos", "trials/arrays/*", "runs/*/log.jsonl"]
    kills = 0
    for trace in traces:
        process = start(command(killed), log, sync_seconds=0.02)  # so that there is something between two stages
        while process.exitcode is None and not list(killed.glob(trace)):
            process.join(0.002)
        if process.exitcode is None:
            process.kill()
            assert finish(process) == -signal.SIGKILL
            kills += 1
    assert kills >= 3
    assert finish(start(command(killed), log)) == 0
    assert _results(killed) == _results(untouched)
    stores = [FeatureStore(out / "features.zarr") for out in (killed, untouched)]
    keys = [store.keys() for store in stores]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 2
    assert array_files(stores[0]) == array_files(stores[1])


def _results(out: Path) -> dict[str, Any]:
    """Return every field of every trial except those of time."""
    times = ("seconds", "wall_seconds")
    return {
        trial.id: (
            trial.backbone, trial.value, dict(trial.metrics), dict(trial.chosen), dict(trial.settings),
            [{name: value for name, value in row.items() if name not in times} for row in trial.history],
            {name: np.asarray(array).tolist() for name, array in trial.arrays.items()},
        )
        for trial in TrialLog(out / "trials").trials()
    }  # fmt: skip
