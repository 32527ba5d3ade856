"""A study file is read as it is meant, and refused where it is wrong."""

from pathlib import Path

import pytest

from penultimate.cli.study import example
from penultimate.engine.study.document import parse_study, read_study, write_study
from penultimate.store.errors import InputError

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
TEXT = """
datasets:
  photos: {}
  cifar10: {root: data/cifar10, per_class: {train: 20}}
backbones:
  - resnet18
  - {model: tf_efficientnet_lite0, weights: package}
probe: {losses: [softmax, squared_hinge], shots: [1, 5, all], seeds: 3}
finetune: {grid: quick, steps: [100, 400], seeds: 2}
"""


def test_lists_multiply() -> None:
    study = parse_study(TEXT)
    (probe,), (finetune,) = study.probe, study.finetune
    asked = probe.settings()
    assert len(asked) == len(set(asked)) == 2 * (3 + 3 + 1)  # subsets are drawn three times, all images once
    settings = finetune.settings("pretrained", seed=7)
    assert [(each.steps, each.seed) for each in settings] == [(100, 7), (100, 8), (400, 7), (400, 8)]
    assert all(len(each.resolved_grid) == 20 for each in settings)


def test_a_dataset_may_be_a_path_alone() -> None:
    study = parse_study(TEXT, ["datasets.pets=/mnt/pets", "datasets.mine=photos/mine"])
    assert study.datasets["pets"].root == "/mnt/pets"
    assert study.datasets["mine"].images == "photos/mine"


def test_a_resolved_study_reads_back_as_itself(tmp_path: Path) -> None:
    study = parse_study(TEXT, ["backbones.0={model: resnet18, name: mine, pretrain: {dataset: photos}}"])
    write_study(study, tmp_path / "study.yaml")
    assert read_study(tmp_path / "study.yaml") == study
    assert "tol: 0.0001" in (tmp_path / "study.yaml").read_text()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.stem))
def test_the_examples_are_studies(path: Path) -> None:
    study = read_study(path)
    assert study.datasets
    assert study.backbones
    assert study.probe or study.finetune or study.scratch


def test_the_papers_study_is_whole() -> None:
    study = read_study(ROOT / "examples" / "kornblith2019.yaml")
    assert len(study.datasets) == 12
    assert [len(backbone.requests(data=".", seed=0)) for backbone in study.backbones] == [16]
    assert {
        len(train.settings("pretrained", seed=0)[0].resolved_grid) for train in (*study.finetune, *study.scratch)
    } == {56}


def test_what_init_writes_is_a_study_and_so_is_all_of_it_uncommented() -> None:
    assert parse_study(example()).datasets.keys() == {"digits"}
    lines = [line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line for line in _body(example())]
    whole = parse_study("\n".join(lines))
    assert len(whole.datasets) == 5
    assert whole.finetune
    assert any(backbone.pretrain for backbone in whole.backbones)


def _body(text: str) -> list[str]:
    """Return the text below the opening comment."""
    lines = text.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("data:")) :]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("data=/mnt", ("data", "/mnt")),
        ("extract.precision=bfloat16", ("extract.precision", "bfloat16")),
        ("probe.tol=1e-3", ("probe.0.tol", 1e-3)),
        ("backbones.1.weights=random", ("backbones.1.weights", "random")),
        ("datasets.photos.val_fraction=0.5", ("datasets.photos.val_fraction", 0.5)),
        ("finetune.steps=[5]", ("finetune.0.steps", (5,))),
    ],
)
def test_set_changes_one_value(change: str, expected: tuple[str, object]) -> None:
    value: object = parse_study(TEXT, [change])
    for part in expected[0].split("."):
        if isinstance(value, tuple):
            value = value[int(part)]
        elif isinstance(value, dict):
            value = value[part]
        else:
            value = getattr(value, part)
    assert value == expected[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("prob.tol=1", "no key named 'prob'; did you mean probe"),
        ("datasets.cifar10.rot=x", "datasets.cifar10: no key named 'rot'; did you mean root"),
        ("finetune.weight_decay=[0]", "no key named 'weight_decay'; did you mean weight_decays"),
        ("backbones.0=resnet1", "backbones.0: no model named 'resnet1'"),
        ("backbones.2.model=resnet18", "'2' is no index of a list of 2"),
        ("finetune.grid=paper", "no grid named 'paper'; did you mean paper-scratch or paper-finetune"),
        (
            "probe.losses=[hinge]",
            "probe.0.losses.0: no loss named 'hinge'; did you mean squared_hinge?",
        ),
        ("probe.shots=[some]", "expected all, or a number of images a class from 1 up, got 'some'"),
        ("probe.l2=1e-3:1e-6:4", "expected 0 < low < high"),
        ("backbones.0={model: 'resnet1*', name: mine}", "name and pretrain go with one network; resnet1* is"),
        ("backbones.0={model: resnet18, pretrain: {dataset: dogs}}", "'dogs', which is none of the datasets"),
        ("backbones.0={model: resnet18, weights: timm, pretrain: {dataset: photos}}", "weights or pretrain, not both"),
        ("datasets.photos.root=x", "datasets.photos: root goes with a dataset taken by name, and 'photos' is none"),
        ("finetune.learning_rates=[]", "finetune.0.learning_rates: Value should have at least 1 item"),
        ("datasets={}", "datasets: Dictionary should have at least 1 item"),
        ("datasets=photos", "datasets: Input should be a valid dictionary"),
        ("data.x=1", "data: Input should be a valid string"),
        ("backbones.0.weights=random", "backbones.0 is 'resnet18', which has no 'weights'"),
        ("data", "--set takes a.b=c"),
        ("data=[", "is no YAML value"),
    ],
)
def test_what_is_not_meant_is_refused_in_one_line(change: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_study(TEXT, [change], origin="my.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: {photos: {}}\nbackbones: [resnet18]\n", "at least one of probe, finetune and scratch"),
        ("seed: 1\nseed: 2\n", "key 'seed' stands twice"),
        ("- a\n", "holds no study"),
        ("a: [\n", "is no YAML"),
        ("probe: {}\n", "datasets: Field required (and 1 more)"),
    ],
)
def test_a_file_that_is_no_study_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_study(tmp_path / "a.yaml")
    assert message in str(caught.value)
    assert "a.yaml" in str(caught.value)
