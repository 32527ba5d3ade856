"""A study does what is missing, once, goes on past what fails, and its cells can run anywhere."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from penultimate.engine.analysis.findings import find
from penultimate.engine.study.cell import Cell, RunContext
from penultimate.engine.study.document import read_study
from penultimate.engine.study.paths import StudyPaths
from penultimate.engine.study.plan import StudyPlan, make_plan
from penultimate.engine.study.run import CellResult, Summary, attempt, in_turn, run_study
from penultimate.engine.study.study import Study
from penultimate.store.errors import InputError, RunInterruptedError, UnavailableError
from penultimate.store.trials.trial_log import TrialLog

MakeStudy = Callable[..., Study]


def done(study: Study, out: Path, **more: Any) -> Summary:
    return run_study(study, out, **more)


def planned(study: Study, out: Path) -> StudyPlan:
    return make_plan(study, StudyPaths.of(study, out), RunContext())


def test_a_plan_names_every_step_before_anything_is_there(small: MakeStudy, tmp_path: Path) -> None:
    plan = planned(small(probe={"l2": "0.1", "shots": [1, 2], "seeds": 2}), tmp_path / "out")
    counted = [(step.method, step.backbone, step.status) for step in plan.steps]
    assert counted.count(("extract", "test_resnet.random0", "to do")) == 1
    assert counted.count(("probe", "test_resnet.random0", "to do")) == 4
    assert {method: len(cells) for method, cells in plan.cells.items() if cells} == {"extract": 1, "probe": 8}
    assert not (tmp_path / "out").exists()


def test_each_dataset_is_extracted_once_and_what_is_there_is_not_done_again(small: MakeStudy, tmp_path: Path) -> None:
    first = done(small(), tmp_path / "out")
    assert (first.ran, first.there, len(first.trials), first.failed, first.problems) == (3, 0, 2, [], [])
    records = (tmp_path / "out" / "trials" / "trials.jsonl").read_bytes()
    again = done(small(), tmp_path / "out")
    assert (again.ran, again.there) == (0, 4)
    assert (tmp_path / "out" / "trials" / "trials.jsonl").read_bytes() == records
    assert read_study(tmp_path / "out" / "study.yaml") == small()


def test_readouts_are_an_axis_of_a_study_and_one_may_be_chosen(small: MakeStudy, tmp_path: Path) -> None:
    network = [{"model": "test_resnet", "weights": "random"}]
    readouts = {"decoder": "pillow", "compile": False, "readouts": ["penultimate", "stage:-1"]}
    probes = [{"l2": "0.01:100:3"}, {"l2": "0.01:100:3", "choose_readout": True}]
    study = small(backbones=network, extract=readouts, probe=probes)
    steps = [(step.method, step.setting) for step in planned(study, tmp_path / "out").steps]
    assert steps == [
        ("extract", ""), ("extract", "stage:4"), ("probe", ""), ("probe", "stage:4"), ("probe", "best of 2 readouts")
    ]  # fmt: skip
    first = done(study, tmp_path / "out")
    assert (first.ran, [trial.readout for trial in first.trials]) == (4, ["penultimate", "stage:4", "chosen"])
    more = small(backbones=network, extract=readouts | {"readouts": ["penultimate", "stage:*"]}, probe=probes)
    second = done(more, tmp_path / "out")
    assert (second.ran, second.there) == (1 + 4 + 1, 4)  # an extraction of four stages, their probes, and a new choice
    alone = small(backbones=network, probe=probes[1])
    (blocked,) = planned(alone, tmp_path / "alone").with_status("blocked")
    assert "has the readout penultimate alone" in blocked.reason


@pytest.mark.slow
def test_two_studies_may_share_a_store(small: MakeStudy, tmp_path: Path) -> None:
    shared = str(tmp_path / "features.zarr")
    assert done(small(store=shared), tmp_path / "first").ran == 3
    second = done(small(store=shared, probe={"l2": "1"}), tmp_path / "second")
    assert (second.ran, second.there) == (2, 2)
    assert not (tmp_path / "second" / "features.zarr").exists()


def test_a_study_that_grew_does_what_is_new(small: MakeStudy, tmp_path: Path) -> None:
    done(small(), tmp_path / "out")
    grown = small(probe={"l2": "0.01:100:5", "losses": [None, "squared_hinge"]})
    summary = done(grown, tmp_path / "out")
    assert (summary.ran, summary.there, len(summary.trials)) == (2, 4, 4)


def test_it_goes_on_past_a_dataset_and_a_network_that_are_not_here(
    small: MakeStudy, photos: Path, tmp_path: Path
) -> None:
    backbones = [{"model": "test_resnet", "weights": "random"}, {"model": "test_vit", "weights": "nowhere.pth"}]
    summary = done(small(datasets={"photos": {}, "cars": {}}, backbones=backbones), tmp_path / "out")
    assert [trial.backbone for trial in summary.trials] == ["test_resnet.random0"]
    reasons = {(step.dataset, step.backbone): step.reason for step in summary.problems}
    assert "no Stanford Cars at" in reasons["cars", "test_resnet.random0"]
    assert "no weights file" in reasons["photos", "test_vit"]
    assert len(reasons) == 3


def test_what_fails_on_the_way_is_listed_and_kept(small: MakeStudy, tmp_path: Path) -> None:
    """After a bug in one cell the others are done, and its traceback is kept."""

    def some_fail(cells: Sequence[Cell], context: RunContext) -> Iterator[CellResult]:
        for number, cell in enumerate(cells):
            if cell.title.startswith("probe") and number == 0:
                yield attempt(_Broken(cell.dataset, ZeroDivisionError("by zero")), context)
            else:
                yield attempt(cell, context)

    summary = done(small(), tmp_path / "out", run_cells=some_fail)
    assert [result.error for result in summary.failed] == ["ZeroDivisionError: by zero"]
    assert len(summary.trials) == 1
    assert "Traceback" in (tmp_path / "out" / "errors.log").read_text()
    assert len(done(small(), tmp_path / "out").trials) == 2


class _Broken:
    def __init__(self, dataset: str, error: Exception) -> None:
        self.dataset, self.error = dataset, error
        self.title = f"break {dataset}"

    def run(self, context: RunContext) -> None:
        raise self.error


def test_a_wish_to_stop_is_no_failure_of_a_cell() -> None:
    with pytest.raises(RunInterruptedError):
        list(
            in_turn([_Broken("a", RunInterruptedError("stop")), _Broken("b", ValueError("not reached"))], RunContext())
        )
    (result,) = in_turn([_Broken("a", InputError("two\nlines"))], RunContext())
    assert (result.error, result.trace) == ("two lines", None)


@pytest.mark.slow
def test_cells_survive_pickling_and_do_the_same_elsewhere(
    small: MakeStudy, brief: dict[str, Any], tmp_path: Path
) -> None:
    def elsewhere(cells: Sequence[Cell], context: RunContext) -> Iterator[CellResult]:
        """Run the last cell first, each unpickled from its bytes."""
        yield from in_turn([pickle.loads(pickle.dumps(cell)) for cell in reversed(cells)], context)

    study = small(scratch=brief, backbones=[{"model": "test_resnet", "weights": "random"}])
    here, there = done(study, tmp_path / "here"), done(study, tmp_path / "there", run_cells=elsewhere)
    assert {trial.id: trial.value for trial in here.trials} == {trial.id: trial.value for trial in there.trials}
    assert len(here.trials) == 3


@pytest.mark.slow
def test_a_network_that_is_trained_first_becomes_a_backbone(
    small: MakeStudy, brief: dict[str, Any], tmp_path: Path
) -> None:
    how = {**brief, "steps": 4, "dataset": "photos"}
    study = small(backbones=[{"model": "test_resnet", "pretrain": how}], finetune=brief, scratch=brief)
    waiting = planned(study, tmp_path / "out")
    assert {step.method: step.status for step in waiting.steps} == {
        "pretrain": "to do", "extract": "waits", "probe": "waits", "finetune": "waits",
    }  # fmt: skip
    summary = done(study, tmp_path / "out")
    assert {trial.backbone for trial in summary.trials} == {"test_resnet.photos"}
    assert sorted(trial.method for trial in summary.trials) == ["finetune", "finetune", "probe"]
    (pretrained,) = TrialLog(tmp_path / "out" / "pretraining" / "trials").trials()
    assert (pretrained.method, pretrained.settings["steps"]) == ("scratch", 4)
    probed = next(trial for trial in summary.trials if trial.method == "probe")
    assert probed.features["preprocess"] == pretrained.features["preprocess"]  # it sees the size it was trained at
    assert done(study, tmp_path / "out").ran == 0


@pytest.mark.slow
def test_what_the_trainer_logs_is_what_the_analysis_reads(
    small: MakeStudy, brief: dict[str, Any], tmp_path: Path
) -> None:
    """Budgets become a convergence curve, shots and seeds a data-size curve; neither is read as another setting."""
    few = {**brief, "steps": [2], "batch_size": 3, "shots": [1, 2], "seeds": 2}
    retrained = {**brief, "retrain": True}  # as by default, and never with shots
    study = small(backbones=[{"model": "test_resnet", "weights": "random"}], probe=(), scratch=[retrained, few])
    found = find(done(study, tmp_path / "out").trials)
    (curve,) = found.budget_curves
    assert (curve.method, curve.backbone) == ("scratch", "test_resnet")
    assert curve.steps_B.tolist() == [2, 4]
    assert curve.epochs_B.tolist() == [2 / 4, 4 / 4]  # 18 images of train and val in batches of 4, the last dropped
    (sizes,) = found.size_curves
    assert (sizes.shots_S.tolist(), sizes.num_subsets_S.tolist()) == ([1, 2], [2, 2])
    assert {row.variant for row in found.board.rows} == {"batch_size=3", "batch_size=4"}
    assert {(row.steps, row.shots) for row in found.board.rows} == {(2, None), (4, None), (2, 1), (2, 2)}


def test_only_keeps_settings_to_some_networks(small: MakeStudy, brief: dict[str, Any], tmp_path: Path) -> None:
    study = small(probe={"l2": "1", "only": "test_res*"}, scratch={**brief, "only": "test_eff*"})
    plan = planned(study, tmp_path / "out")
    assert {(step.method, step.backbone) for step in plan.steps} == {
        ("extract", "test_resnet.random0"), ("probe", "test_resnet.random0"), ("scratch", "test_efficientnet"),
    }  # fmt: skip


def test_at_most_so_many_of_a_class_make_another_set_of_images(small: MakeStudy) -> None:
    whole, part = (
        small(datasets={"photos": how}).datasets["photos"].load("photos", data=small().data, seed=0, cache=None)
        for how in ({}, {"per_class": {"train": 2}})
    )
    counts = [
        {split: (images.split_N == split).sum() for split in ("train", "val", "test")} for images in (whole, part)
    ]
    assert counts[0] == {"train": 12, "val": 6, "test": 6}
    assert counts[1] == {"train": 6, "val": 6, "test": 6}
    assert whole.digest != part.digest


def test_a_device_that_is_not_here_is_said_before_anything_is_begun(small: MakeStudy, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    study = small(device="cuda")
    with pytest.raises(UnavailableError, match="CUDA"):
        done(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert planned(study, tmp_path / "out").cells["extract"]  # to plan for another machine is allowed


def test_a_cell_run_twice_does_nothing_the_second_time(small: MakeStudy, tmp_path: Path) -> None:
    study, paths = small(), StudyPaths.of(small(), tmp_path)
    (cell,) = make_plan(study, paths, RunContext()).cells["extract"]
    cell.run(RunContext())
    shards = {path: path.stat().st_mtime_ns for path in paths.store.rglob("features/c/0/0")}
    cell.run(RunContext())
    assert {path: path.stat().st_mtime_ns for path in paths.store.rglob("features/c/0/0")} == shards
    assert len(shards) == 2
