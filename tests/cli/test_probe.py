"""``probe`` and ``show`` from the command line: neighbours beside probes, scores, and what val chose by."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.probe_cases import mixture
from support.store_cases import small_job

from penultimate.cli.main import run
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.contents import content_of
from penultimate.store.format.layout import variable_width
from penultimate.store.plan import Plan


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Write the features of 300 samples of three classes, a third in each split."""
    features_ND, labels_N = mixture(300, 4, 3, apart=0.6)
    plan = Plan(
        dataset="animals",
        embedding=small_job().embedding,
        ids_M=variable_width([f"{sample}.png" for sample in range(300)]),
        labels_M=labels_N,
        split_M=variable_width(["train", "val", "test"] * 100),
        class_names=("ant", "bee", "cow"),
        metric="top1",
        feature_dim=4,
        shard_rows=64,
    )
    opened = FeatureStore.create(tmp_path / "store.zarr")
    with opened.writer(plan, provenance={}) as writer:
        contents_M3 = np.array([content_of(str(sample).encode()) for sample in range(300)], np.uint64)
        assert writer.offer(np.arange(300), contents_M3).all()
        writer.append(np.arange(300), features_ND)
    return str(tmp_path / "store.zarr")


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_neighbours_stand_beside_the_probe_with_every_score(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = str(tmp_path / "trials")
    (probe,) = _json(capsys, "probe", store, "--trials", trials, "--l2", "0.01:100:3")
    (knn,) = _json(capsys, "probe", store, "--trials", trials, "--method", "knn", "--k", "1,5", "--temperature", "0.1")
    assert set(probe["chosen"]) == {"l2", "temperature"}
    assert set(knn["chosen"]) == {"k", "vote_temperature"}
    board = {row["method"]: row for row in _json(capsys, "show", trials)}
    assert set(board) == {"probe", "knn"}
    for row in board.values():
        assert {"top1", "mean_per_class", "macro_f1", "auroc", "log_loss", "brier", "ece"} <= set(row["scores"])
    assert board["probe"]["calibrated"]
    assert not board["knn"]["calibrated"]
    assert run(["show", trials]) == 0
    table = capsys.readouterr().out
    for heading in ("macro F1 %", "AUROC", "log loss", "ECE %", "calibrated %", "chosen"):
        assert heading in table
    assert "{}" not in table
    assert run(["report", trials, "-o", str(tmp_path / "report.html"), "--resamples", "100"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert all(f'<section id="{name}"' in page for name in ("answer", "paths", "scoreboard", "classes", "calibration"))


def test_choosing_by_another_score_is_another_trial_of_the_same_metric(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ("probe", store, "--trials", str(tmp_path / "trials"), "--l2", "0.01:100:3")
    (plain,) = _json(capsys, *path)
    assert run(["show", str(tmp_path / "trials")]) == 0
    assert " setting " not in capsys.readouterr().out  # nothing differs
    (by_loss,), (by_metric,) = (
        _json(capsys, *path, "--choose-by", "log_loss"),
        _json(capsys, *path, "--choose-by", "top1"),
    )
    assert by_metric["trial"] == plain["trial"]
    assert by_loss["trial"] != plain["trial"]
    assert by_loss["metric"] == "top1"
    variants = {row["variant"] for row in _json(capsys, "show", str(tmp_path / "trials"))}
    assert variants == {"choose_by=top1", "choose_by=log_loss"}
    assert run(["show", str(tmp_path / "trials")]) == 0
    table = capsys.readouterr().out
    assert all(text in table for text in (" setting ", *variants))


def test_an_option_of_another_method_is_refused_in_one_line(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["probe", store, "--trials", str(tmp_path / "trials"), "--k", "3"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("leave it away or give --method knn")
    assert not (tmp_path / "trials").exists()


def test_transforms_and_class_weights_are_trials_of_their_own_named_where_they_differ(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = str(tmp_path / "trials")
    path = ("probe", store, "--trials", trials, "--l2", "0.01:100:3")
    (plain,), (same,), (other,) = (
        _json(capsys, *path),
        _json(capsys, *path, "--transform", "none"),
        _json(capsys, *path, "--transform", "standardize", "--class-weight", "balanced"),
    )
    assert same["trial"] == plain["trial"]
    assert other["trial"] != plain["trial"]
    variants = {row["variant"] for row in _json(capsys, "show", trials)}
    assert variants == {"class_weight=none, transform=none", "class_weight=balanced, transform=standardize"}
    assert run(["report", trials, "-o", str(tmp_path / "report.html"), "--resamples", "100"]) == 0
    assert "transform=standardize" in (tmp_path / "report.html").read_text()
    assert run([*path, "--method", "knn", "--transform", "l2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("leave it away or give --method probe")


def test_a_path_is_kept_beside_its_trial_unless_it_may_take_nothing(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ("probe", store, "--trials", str(tmp_path / "trials"), "--l2", "0.01:100:5")
    assert run([*path, "--keep-path", "0M"]) == 0
    assert not (tmp_path / "trials" / "paths").exists()
    assert run([*path, "--tol", "1e-5"]) == 0
    assert len(list((tmp_path / "trials" / "paths").glob("*.safetensors"))) == 2  # of train, and of its refit
    capsys.readouterr()
    assert run([*path, "--choose-by", "log_loss", "--tol", "1e-5"]) == 0
    assert "5 of 5 strengths needed no step from the path that was kept" in capsys.readouterr().err
