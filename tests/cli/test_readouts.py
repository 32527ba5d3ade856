"""Readouts on the command line: extracted together, listed, probed by glob, and chosen on val."""

import json
from pathlib import Path
from typing import Any

import pytest

from penultimate.cli.main import run
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial_log import TrialLog

TINY = ("--model", "test_vit", "--weights", "random", "--workers", "1", "--decoder", "pillow", "--no-cache")


def extract(photos: Path, store: Path, *options: str) -> int:
    return run(["extract", str(photos), "--store", str(store), *TINY, *options])


@pytest.fixture
def store(photos: Path, tmp_path: Path) -> Path:
    assert extract(photos, tmp_path / "s.zarr", "--readout", "penultimate,cls", "--readout", "block:-1") == 0
    return tmp_path / "s.zarr"


def table(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_each_readout_is_a_set_of_its_own_with_its_own_parity(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["readout"]: row for row in table(capsys, ["store", "ls", str(store)])}
    assert sorted(rows) == ["block:5", "cls", "penultimate"]  # of six blocks: -1 and 5 are the same readout
    opened = FeatureStore(store)
    for readout, row in rows.items():
        parity = opened.info(opened.find(row["digest"]))["provenance"]["parity"]
        assert parity["passed"]
        assert parity["readout"] == readout
    assert run(["store", "verify", str(store)]) == 0


def test_a_readout_that_is_added_leaves_the_others_as_they_are(
    store: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert extract(photos, store, "--readout", "cls,last4", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["readout"], row["embedded"], row["dim"]) for row in rows] == [("cls", 0, 64), ("last4", 24, 320)]


def test_a_readout_that_the_network_lacks_is_refused_before_images_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "s.zarr"
    assert run(["extract", "/nowhere", "--store", str(store), "--model", "test_resnet", "--readout", "cls"]) == 2
    assert capsys.readouterr().err.strip() == (
        "penultimate: test_resnet has no readout 'cls'; it has penultimate, stage:0 to stage:4"
    )
    assert not store.exists()


def test_probes_take_readouts_by_glob_and_choose_one_on_val(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = tmp_path / "trials"
    probe = ["probe", str(store), "--trials", str(trials), "--l2", "1e-2:1e2:3"]
    assert [row["readout"] for row in table(capsys, [*probe, "--readout", "c*"])] == ["cls"]
    rows = table(capsys, probe)
    assert sorted(row["readout"] for row in rows) == ["block:5", "cls", "penultimate"]
    (chosen,) = table(capsys, [*probe, "--choose-readout"])
    assert chosen["value"] == next(row["value"] for row in rows if f"{row['readout']} (chosen)" == chosen["readout"])
    assert len(TrialLog(trials).ids()) == 4
    assert table(capsys, [*probe, "--choose-readout"]) == [chosen]  # which is there, and is not fitted again
    assert run(["predict", "/nowhere", "--head", str(trials / "heads" / f"{chosen['trial']}.safetensors")]) != 0
    capsys.readouterr()
    assert run([*probe, "--choose-readout", "--readout", "cls"]) == 2
    assert "has the readout cls alone" in capsys.readouterr().err
    assert run([*probe, "--readout", "x"]) == 2
    assert "and readout 'x'" in capsys.readouterr().err


def test_a_head_scores_the_readout_it_was_fitted_on(
    store: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = tmp_path / "trials"
    (trial,) = table(capsys, ["probe", str(store), "--trials", str(trials), "--readout", "cls", "--l2", "1:2:2"])
    head = trials / "heads" / f"{trial['trial']}.safetensors"
    command = ["predict", str(photos), "--head", str(head), "--weights", "random", "--workers", "1"]
    predicted = {row["id"]: row["class"] for row in table(capsys, command)}
    kept = next(iter(TrialLog(trials).trials()))
    names = ["cat", "dog", "owl"]
    of_trial = dict(zip(kept.arrays["test_ids"].tolist(), kept.arrays["test_predictions"].tolist(), strict=True))
    assert {id_: predicted[id_] for id_ in of_trial} == {id_: names[index] for id_, index in of_trial.items()}


def test_models_lists_readouts_with_their_dimensions(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = table(capsys, ["models", "test_vit"])
    assert row["readouts"] == {"penultimate": 64, "cls": 64, "patch-mean": 64, "cls+patch-mean": 128, "last4": 320} | {
        f"block:{index}": 64 for index in range(6)
    }
    assert run(["models", "test_vit"]) == 0
    shown = [line.split("│")[2:4] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [cell.strip() for cell in shown[-1]] == ["block:0 to block:5", "64"]


def test_parity_and_bench_take_readouts(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = ["--model", "test_vit", "--weights", "random", "--workers", "1", "--images", "8"]
    network += ["--readout", "cls,last4"]
    rows = table(capsys, ["parity", str(photos), *network])
    assert [(row["readout"], row["passed"]) for row in rows] == [("cls", True), ("last4", True)]
    assert run(["bench", "extract", str(photos), *network, "--rounds", "1", "--no-compile", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {line["name"] for line in report["measurements"]} >= {"end to end"}
