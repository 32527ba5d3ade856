"""Probe settings are declared once for Python, YAML and the command line, and the ids of trials do not change."""

import math
import pickle
from dataclasses import fields
from fractions import Fraction
from typing import Any

import pytest
import typer

from penultimate.cli.probe import probe
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import planned_trial_id
from penultimate.engine.probe.settings import ProbeGrid, ProbeJob, ProbeSettings
from penultimate.engine.study.settings import ProbeSection
from penultimate.store.errors import InputError
from penultimate.store.key import FeatureKey

PAPER = RegularizationPath.paper()
FEW = RegularizationPath.parse("1,0.1")


@pytest.mark.capability
def test_strengths_are_the_nearest_floats_whatever_the_processors_powers_are() -> None:
    for at, value in enumerate(PAPER.l2):
        power = Fraction(10) ** (20 - at)  # of value ** 4
        below, above = (Fraction(math.nextafter(value, end)) + Fraction(value) for end in (0.0, math.inf))
        assert (below / 2) ** 4 < power < (above / 2) ** 4


@pytest.mark.parametrize(
    ("settings", "dataset", "trial"),
    [
        (ProbeSettings(path=PAPER), {"multi_label": False, "metric": "top1"}, "33ec68d0da186fda"),
        (
            ProbeSettings(path=FEW, loss="squared_hinge", metric="top5", tol=1e-3, solver="sklearn", shots=5),
            {"multi_label": False, "metric": "top1", "seed": 2},
            "fa6658a6a2adedbb",
        ),
        (
            ProbeSettings(path=RegularizationPath(l2=(1.0,))),
            {"multi_label": True, "metric": "map11"},
            "6436b365e2535add",
        ),
    ],
    ids=["defaults", "nothing by default", "several labels"],
)
def test_a_trial_keeps_the_id_that_logs_of_2026_have_it_under(
    settings: ProbeSettings, dataset: dict[str, Any], trial: str
) -> None:
    """Ids are those of commit 44b7c90 on a processor without AVX-512: a renamed setting would orphan every log."""
    names = {field.name: field.name for field in fields(FeatureKey)}
    key = FeatureKey(**(names | {"readout": "penultimate"}))  # of which those logs knew no other
    assert planned_trial_id(key, settings, **dataset) == trial


def test_choosing_by_the_metric_itself_is_the_same_trial() -> None:
    asked: dict[str, Any] = {"multi_label": False, "metric": "top1"}
    plain = ProbeSettings(path=FEW).resolved(**asked)
    assert ProbeSettings(path=FEW, choose_by="top1").resolved(**asked) == plain
    assert ProbeSettings(path=FEW, choose_by="log_loss").resolved(**asked) == plain | {"choose_by": "log_loss"}


def test_class_weights_and_transforms_are_part_of_a_trial_only_where_they_are_not_the_papers() -> None:
    asked: dict[str, Any] = {"multi_label": False, "metric": "top1"}
    plain = ProbeSettings(path=FEW).resolved(**asked)
    assert ProbeSettings(path=FEW, transform="none", class_weight=None).resolved(**asked) == plain
    found = ProbeSettings(path=FEW, transform="l2", class_weight="balanced").resolved(**asked)
    assert found == plain | {"transform": "l2", "class_weight": "balanced"}
    (grid, _), *_ = ProbeGrid(transform="standardize", class_weight="balanced").settings()
    assert isinstance(grid, ProbeSettings)
    assert (grid.transform, grid.class_weight) == ("standardize", "balanced")
    with pytest.raises(InputError, match="transform is of the method probe, and the method is knn"):
        ProbeJob.of({"method": "knn", "transform": "l2"})


def test_memory_and_the_size_of_a_kept_path_are_sizes_with_a_unit() -> None:
    assert (ProbeJob().resources.memory_bytes, ProbeJob().resources.path_bytes) == (None, 64 << 20)
    found = ProbeJob(memory="1.5G", keep_path="0M").resources
    assert (found.memory_bytes, found.path_bytes) == (3 << 29, 0)
    with pytest.raises(InputError, match="keep_path: expected a number with a unit"):
        ProbeJob.of({"keep_path": "none"})


def test_a_grid_has_every_loss_with_every_number_of_shots_and_its_seeds() -> None:
    grid = ProbeGrid(losses=(None, "logistic"), shots=(1, "all"), seeds=2, l2="1,0.1", tol=1e-3)
    found = [(each.loss, each.shots, seed) for each, seed in grid.settings() if isinstance(each, ProbeSettings)]
    assert found == [
        *((None, 1, 0), (None, 1, 1), (None, None, 0)),
        *(("logistic", 1, 0), ("logistic", 1, 1), ("logistic", None, 0)),
    ]
    paths = {(each.path, each.tol) for each, _ in grid.settings() if isinstance(each, ProbeSettings)}
    assert paths == {(FEW, 1e-3)}


def test_the_defaults_are_those_of_one_probe_on_the_papers_path() -> None:
    assert ProbeGrid().settings() == [(ProbeSettings(path=PAPER), 0)]


def test_the_command_line_takes_defaults_and_help_from_the_declaration() -> None:
    app = typer.Typer()
    app.command()(probe)
    options = {option.name: option for option in typer.main.get_command(app).params}
    for name in (
        "l2",
        "metric",
        "tol",
        "solver",
        "seeds",
        "losses",
        "shots",
        "memory",
        "transform",
        "class_weight",
        "keep_path",
    ):
        assert options[name].default is None  # not typed: the declaration's own default holds
        said = " ".join((ProbeJob.model_fields[name].description or "").replace("``", "").split())
        assert getattr(options[name], "help", "").startswith(said)


def test_the_yaml_of_a_study_takes_every_field() -> None:
    assert set(ProbeSection.model_fields) == {"only", *ProbeGrid.model_fields}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "softmx"}, "did you mean softmax"),
        ({"metric": "map_11"}, "did you mean map11"),
        ({"solver": "troch"}, "did you mean torch"),
        ({"choose_by": "logloss"}, "did you mean log_loss"),
        ({"transform": "whiten"}, "transform: Input should be 'none', 'l2' or 'standardize'"),
        ({"class_weight": "even"}, "class_weight: Input should be 'balanced'"),
        ({"tol": 2}, "tol: Input should be less than 1, got 2"),
        ({"tol": float("nan")}, "tol: "),
        ({"shots": 0}, "shots: "),
        ({"sholts": 3}, "did you mean shots"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        ProbeSettings(path=PAPER, **values)
    assert "\n" not in str(refused.value)


def test_settings_go_to_other_processes_and_are_keys() -> None:
    settings = ProbeSettings(path=FEW, shots=3)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert len({settings, ProbeSettings(path=FEW, shots=3)}) == 1
