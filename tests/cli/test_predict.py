"""``predict``: a head that ``probe`` saved scores images as it scored the features it was fitted on."""

import json
from pathlib import Path
from typing import Any

import pytest

import penultimate
from penultimate.cli.main import run
from penultimate.store.errors import NotAStoreError
from penultimate.store.trials.trial_log import TrialLog

TINY = ("--weights", "random", "--workers", "1", "--no-compile", "--decoder", "pillow")


@pytest.fixture
def trials(photos: Path, tmp_path: Path) -> Path:
    """Fit one probe on ``photos`` with seed 3."""
    store, trials = str(tmp_path / "f.zarr"), tmp_path / "trials"
    assert run(["extract", str(photos), "--store", store, "--model", "test_resnet", "--seed", "3", *TINY]) == 0
    assert run(["probe", store, "--trials", str(trials), "--l2", "1e-2:1:2"]) == 0
    return trials


def _predicted(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run(["predict", *arguments, "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_test_images_get_the_predictions_that_the_trial_keeps(
    photos: Path, trials: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trial,) = TrialLog(trials).trials()
    head = trials / "heads" / f"{trial.id}.safetensors"
    found = {row["id"]: row["class"] for row in _predicted(capsys, str(photos), "--head", str(head), *TINY)}
    names = sorted(path.name for path in photos.iterdir())
    kept = zip(trial.arrays["test_ids"].tolist(), trial.arrays["test_predictions"].tolist(), strict=True)
    assert len(found) == sum(1 for _ in photos.rglob("*.jpg"))
    for id_, index in kept:
        assert found[id_] == names[index]


def test_all_classes_of_an_image_come_best_first_and_sum_to_one(
    photos: Path, trials: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (head,) = (trials / "heads").iterdir()
    (photos / "broken.jpg").write_bytes(b"no image")
    rows = _predicted(capsys, str(photos), "--head", str(head), *TINY, "--top", "3")
    for first in range(0, len(rows), 3):
        one = rows[first : first + 3]
        assert len({row["id"] for row in one}) == 1
        chances = [row["probability"] for row in one]
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) == pytest.approx(1)
    assert run(["predict", str(photos), "--head", str(head), *TINY]) == 0
    assert "left out broken.jpg" in capsys.readouterr().err


def test_a_store_that_is_none_is_said_before_images_are_listed(
    tmp_path: Path, trials: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (head,) = (trials / "heads").iterdir()
    capsys.readouterr()
    assert run(["predict", str(tmp_path / "nowhere"), "--head", str(head), *TINY, "--store", str(trials)]) == 2
    assert f"{trials} is not empty and no feature store" in capsys.readouterr().err
    with pytest.raises(NotAStoreError):
        penultimate.predict(tmp_path / "nowhere", head, store=trials)


def test_weights_that_are_not_the_heads_are_refused_in_one_line(
    photos: Path, trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "other.safetensors")
    (head,) = (trials / "heads").iterdir()
    capsys.readouterr()
    arguments = ["predict", str(photos), "--head", str(head), *TINY]
    arguments[arguments.index("random")] = str(tmp_path / "other.safetensors")
    assert run(arguments) == 2
    assert "the head belongs to weights" in capsys.readouterr().err.splitlines()[-1]


def test_another_decoder_than_the_heads_is_said(photos: Path, trials: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (head,) = (trials / "heads").iterdir()
    arguments = ["predict", str(photos), "--head", str(head), *TINY]
    arguments[arguments.index("pillow")] = "dali"
    assert run(arguments) == 0
    assert "decoded by pillow, these are by dali" in capsys.readouterr().err
