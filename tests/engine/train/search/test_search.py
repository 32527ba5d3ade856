from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.backbones import penultimate

from penultimate.engine.backbones.timm_backbone import load_backbone
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.partition import Partition
from penultimate.engine.train.learner.network import InitialModel, load_initial_model
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.runs.resources import Resources
from penultimate.engine.train.runs.run_result import RunResult
from penultimate.engine.train.search.choose import choose
from penultimate.engine.train.search.grid import GRIDS, Grid, grid_named
from penultimate.engine.train.search.grid_search import GridSearch
from penultimate.engine.train.search.run_search import run_search
from penultimate.store.errors import InputError, NoRunConvergedError, UnknownNameError
from penultimate.store.trials.trial_log import TrialLog

GRID = Grid(learning_rates=(0.05, 1e12), weight_decays=(0.0, 1e-3), steps=4, batch_size=4)


@pytest.fixture
def search(images: ImageSet, initial: InitialModel, recipe: Recipe) -> GridSearch:
    return GridSearch(images=images, initial=initial, recipe=recipe.replace(steps=4, eval_every=2), grid=GRID)


def test_the_grids_are_those_of_the_papers() -> None:
    assert {name: (len(grid), grid.steps, grid.batch_size) for name, grid in GRIDS.items()} == {
        "paper-finetune": (7 * 8, 20_000, 256),
        "paper-scratch": (7 * 8, 20_000, 256),
        "quick": (4 * 5, 5_000, 64),
    }
    assert GRIDS["paper-finetune"].learning_rates[::6] == (1e-4, 0.1)
    assert GRIDS["paper-finetune"].weight_decays[:2] == (0.0, 1e-6)
    assert GRIDS["paper-scratch"].weight_decays[-1] == pytest.approx(10**-1.5, rel=1e-5)  # written with six digits
    with pytest.raises(UnknownNameError, match="paper-finetune"):
        grid_named("paper-finetun")


@pytest.fixture
def result(recipe: Recipe) -> Callable[..., RunResult]:
    def make(score: float, loss: float, *, status: Any = "finished", rate: float = 0.1) -> RunResult:
        return RunResult(
            recipe=recipe.replace(learning_rate=rate).as_dict(),
            status=status,
            steps=4,
            history=[{"step": 4, "epoch": 1.0, "val_loss": loss, "val_top1": score}],
            left_out={},
            wall_seconds=1.0,
        )

    return make


def test_the_best_on_val_is_chosen_and_a_diverged_run_never(result: Callable[..., RunResult]) -> None:
    good, better, tied = result(0.6, 1.0), result(0.7, 1.2, rate=0.2), result(0.7, 1.1, rate=0.3)
    best_of_all = result(0.9, 0.1, status="diverged")
    assert choose([good, better, tied, best_of_all], "top1") is tied
    with pytest.raises(NoRunConvergedError, match=r"all 2 runs diverged \(learning rates 0\.1, 3\)"):
        choose([result(0.9, 0.1, status="diverged", rate=rate) for rate in (3.0, 0.1)], "top1")


def test_a_grid_is_chosen_from_retrained_and_scored_once(
    search: GridSearch, resources: Resources, tmp_path: Path
) -> None:
    outcome = run_search(search, tmp_path, resources)
    trial = outcome.trial
    assert trial is not None
    assert outcome.folder is not None
    assert trial.id == search.trial_id
    assert trial.chosen["learning_rate"] == 0.05
    assert trial.settings["learning_rates"] == [0.05, 1e12]
    assert [row["status"] for row in trial.history if row["phase"] == "grid"] == ["finished"] * 2 + ["diverged"] * 2
    assert {row["phase"] for row in trial.history} == {"grid", "chosen", "retrained"}
    assert trial.history[-1]["step"] == 4
    assert len([note for note in trial.notes if note.startswith("diverged")]) == 2
    test_rows = np.flatnonzero(search.images.split_N == "test")
    assert trial.arrays["test_ids"].tolist() == search.images.ids_N[test_rows].tolist()
    right = trial.arrays["test_predictions"] == trial.arrays["test_labels"]
    assert trial.value == right.mean() == trial.metrics["test"]["top1"]
    assert sorted(path.parent.name for path in tmp_path.rglob("model.safetensors")) == [outcome.folder.name]
    TrialLog.create(tmp_path / "trials").append(trial)
    assert TrialLog(tmp_path / "trials").trials()[0].value == trial.value


@pytest.mark.slow
def test_partitions_together_give_the_trial_of_one_machine(
    search: GridSearch, resources: Resources, tmp_path: Path
) -> None:
    first = run_search(search, tmp_path / "shared", resources, partition=Partition.parse("0/2"))
    assert (first.trial, first.num_waiting) == (None, 2)
    second = run_search(search, tmp_path / "shared", resources, partition=Partition.parse("1/2"))
    alone = run_search(search, tmp_path / "alone", resources)
    assert second.trial is not None
    assert alone.trial is not None
    assert second.trial.id == alone.trial.id
    assert second.trial.metrics == alone.trial.metrics


def test_a_grid_in_which_all_diverge_is_an_error(search: GridSearch, resources: Resources, tmp_path: Path) -> None:
    hopeless = replace(search, grid=replace(GRID, learning_rates=(1e12,)))
    with pytest.raises(NoRunConvergedError, match="all 2 runs diverged"):
        run_search(hopeless, tmp_path, resources)


def test_shots_train_on_that_many_a_class_and_keep_the_images_identity(
    search: GridSearch, resources: Resources, tmp_path: Path
) -> None:
    single = replace(GRID, learning_rates=(0.05,), weight_decays=(0.0,))
    few = replace(search, recipe=search.recipe.replace(shots=2), grid=single, retrain=False)
    trial = run_search(few, tmp_path, resources).trial
    assert trial is not None
    assert trial.settings["shots"] == 2
    assert trial.features["images"] == search.images.digest
    assert trial.history[-1]["epoch"] == 4.0  # 6 images, one batch of 4 an epoch
    with pytest.raises(InputError, match="no-retrain"):
        replace(few, retrain=True)


def test_a_trained_network_is_a_backbone_like_any_other(
    search: GridSearch, resources: Resources, tmp_path: Path
) -> None:
    folder = run_search(search, tmp_path, resources).folder
    assert folder is not None
    backbone = load_backbone("test_efficientnet", weights=str(folder))
    assert (backbone.preprocess.height, backbone.preprocess.mean) == (32, (0.5, 0.5, 0.5))
    assert backbone.num_classes == 3
    assert backbone.weights_digest != search.recipe.weights
    assert penultimate(backbone, np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, backbone.feature_dims["penultimate"])
    with pytest.raises(InputError, match="holds a network test_efficientnet"):
        load_backbone("test_resnet", weights=str(folder))
    again = load_initial_model("test_efficientnet", init="pretrained", weights=str(folder), seed=0)
    assert again.digest == backbone.weights_digest


def test_timm_itself_opens_the_folder_of_a_run(search: GridSearch, resources: Resources, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    folder = run_search(search, tmp_path, resources).folder
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert model.num_classes == 3
    assert tuple(model.pretrained_cfg["input_size"]) == (3, 32, 32)


@pytest.mark.slow
def test_a_run_whose_weights_another_search_dropped_is_trained_again(
    search: GridSearch, resources: Resources, tmp_path: Path
) -> None:
    retrained = run_search(search, tmp_path, resources)
    as_chosen = run_search(replace(search, retrain=False), tmp_path, resources)
    alone = run_search(replace(search, retrain=False), tmp_path / "alone", resources)
    assert as_chosen.trial is not None
    assert alone.trial is not None
    assert as_chosen.trial.metrics == alone.trial.metrics
    assert as_chosen.folder != retrained.folder
    assert {row["phase"] for row in as_chosen.trial.history} == {"grid", "chosen"}


def test_fine_tuned_and_from_scratch_have_one_label(search: GridSearch) -> None:
    package = load_initial_model("test_efficientnet", init="random", weights="package", seed=0)
    assert (package.label, package.digest) == ("test_efficientnet", "random")
    assert replace(search, initial=package).method == "scratch"
