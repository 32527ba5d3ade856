"""Figures hold the numbers they draw, describe each point, and are readable without colour."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from scipy.special import logit
from support.studies import whole_figures, whole_study
from support.trial_cases import trial_of

from penultimate.engine.analysis.findings import find
from penultimate.engine.report.figures import style
from penultimate.engine.report.figures.embedding import FeatureSpace, embedding_figure
from penultimate.engine.report.figures.forest import ForestRow, forest_figure
from penultimate.engine.report.figures.path import path_rows
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.page import figures, make_sections
from penultimate.engine.report.sections.section import Material
from penultimate.store.errors import InputError, UnknownNameError
from penultimate.store.trials.trial import Trial

SVG = "{http://www.w3.org/2000/svg}"


def drawn_of(trials: Sequence[Trial]) -> dict[str, ReportFigure]:
    material = Material(found=find(trials, num_resamples=100), trials=trials)
    return {each.name: each for each in figures(make_sections(material))}


def test_a_whole_study_has_the_papers_figures() -> None:
    assert [name for name in whole_figures() if name.startswith("figure")] == [
        "figure1", "figure2_finetune", "figure2_probe_loss_softmax", "figure2_scratch", "figure3", "figure6",
        "figure7_scratch_finetune", "figure7_probe_finetune", "figure7_scratch_probe", "figure9_inception_v3",
        "figure8_inception_v3",
    ]  # fmt: skip


def test_a_single_probe_has_the_figures_it_is_enough_for() -> None:
    assert list(drawn_of([trial_of()])) == ["forest_digits_probe_top1", "classes_digits", "confusions_digits"]


@pytest.mark.parametrize("name", ["figure2_scratch", "figure3", "figure6", "figure7_scratch_finetune"])
def test_a_figure_is_saved_as_png_pdf_and_its_numbers(name: str, tmp_path: Path) -> None:
    paths = whole_figures()[name].save(tmp_path)
    assert {f"{name}.png", f"{name}.pdf", f"{name}.csv"} <= {path.name for path in paths}
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_the_same_numbers_give_the_same_files(tmp_path: Path) -> None:
    first, again = (next(iter(drawn_of([trial_of(), trial_of(backbone="b")]).values())) for _ in range(2))
    for one, other in zip(first.save(tmp_path / "1"), again.save(tmp_path / "2"), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert first.svg() == again.svg()


@pytest.mark.parametrize(
    "name",
    [
        "figure1",
        "figure2_finetune",
        "figure6",
        "figure8_inception_v3",
        "forest_probe",
        "classes_cars",
        "confusions_cars",
    ],
)
def test_every_point_of_the_picture_says_what_it_is(name: str) -> None:
    drawn = whole_figures()[name]
    root = ElementTree.fromstring(drawn.svg())
    points = [element for element in root.iter(f"{SVG}g") if element.get("class") == "point"]
    titles = [point.findtext(f"{SVG}title", "") for point in points]
    assert sorted(titles) == sorted(drawn.hover.values())
    assert titles


def test_points_of_several_figures_keep_their_ids_apart_on_one_page() -> None:
    ids = [
        element.get("id")
        for name in ("figure2_finetune", "figure2_scratch")
        for element in ElementTree.fromstring(whole_figures()[name].svg()).iter()
        if element.get("class") == "point"
    ]
    assert len(ids) == len(set(ids))


def test_figure_2_draws_the_accuracies_of_the_trials(tmp_path: Path) -> None:
    whole_figures()["figure2_scratch"].save(tmp_path)
    with (tmp_path / "figure2_scratch.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["panel"] != "average"]
    drawn = {(row["panel"], row["model"]): float(row["accuracy"]) for row in rows}
    final = {
        (trial.dataset, trial.backbone): trial.value
        for trial in whole_study()
        if trial.method == "scratch" and trial.settings["steps"] == 16384
    }
    assert drawn == pytest.approx(final)
    best = {panel: max((value, m) for (p, m), value in drawn.items() if p == panel)[1] for panel, _ in drawn}
    assert all(row["ties_with_best"] == "True" for row in rows if best[row["panel"]] == row["model"])


def test_figure_7_puts_points_above_the_line_where_fine_tuning_wins() -> None:
    drawn = whole_figures()["figure7_scratch_finetune"]
    assert drawn.title == "Fine-tuned is better than random initialization in 30 of 30"
    axes = drawn.figure.axes[0]
    points = [np.asarray(line.get_xydata())[0] for line in axes.get_lines() if str(line.get_gid()).startswith("n")]
    assert len(points) == 30
    assert all(y > x for x, y in points)


def test_figure_9_has_the_error_over_three_subsets() -> None:
    numbers = whole_figures()["figure9_inception_v3"].numbers[""]
    one = numbers[(numbers.dataset == "cars") & (numbers.method == "probe") & (numbers.shots == 4)].iloc[0]
    values = [
        t.value for t in whole_study() if t.settings.get("shots") == 4 and (t.dataset, t.method) == ("cars", "probe")
    ]
    assert one.subsets == len(values) == 3
    assert one.standard_error == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))


def test_figure_9_has_all_training_images_on_its_upper_axis() -> None:
    axes = whole_figures()["figure9_inception_v3"].figure.axes[0]
    (upper,) = axes.child_axes
    below, above = (np.array(one.get_xticks()) for one in (axes, upper))
    classes = len({label for trial in whole_study() for label in trial.arrays["test_labels"].tolist()})
    assert above.tolist() == (classes * below).tolist()
    assert upper.get_xlabel() == "Training images"


def test_figure_9_compares_backbones_that_share_a_method_and_keeps_those_that_differ_in_methods() -> None:
    few = [
        trial_of(backbone=backbone, method=method, settings={"shots": shots})
        for backbone, method in (("a", "probe"), ("b", "probe"), ("b", "finetune"), ("c", "scratch"))
        for shots in (1, 2)
    ]
    drawn = drawn_of(few)
    assert [name for name in drawn if name.startswith("figure9")] == ["figure9_probe", "figure9_b", "figure9_c"]
    (legend,) = drawn["figure9_probe"].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert sorted(drawn["figure9_probe"].numbers[""].backbone.unique()) == ["a", "b"]
    assert sorted(drawn["figure9_b"].numbers[""].method.unique()) == ["finetune", "probe"]


def test_a_legend_of_many_long_names_stays_inside_its_figure() -> None:
    names = [f"vit_large_patch14_reg4_dinov2.lvd142m_{number}" for number in range(9)]
    few = [trial_of(backbone=name, settings={"shots": shots}) for name in names for shots in (1, 2)]
    figure = drawn_of(few)["figure9_probe"].figure
    figure.canvas.draw()
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0
    assert box.x1 <= whole.x1


def test_logit_ticks_are_round_spread_and_inside() -> None:
    assert style.logit_ticks(0.4, 0.97) == [0.5, 0.8, 0.9, 0.95]
    for low, high in [(0.912, 0.934), (0.001, 0.999), (0.71, 0.805), (0.99, 0.9995), (0.0005, 0.03)]:
        ticks = style.logit_ticks(low, high)
        assert len(ticks) >= 2
        assert all(low <= tick <= high for tick in ticks)
        assert len(ticks) <= 7
        assert np.all(np.diff(logit(ticks)) > 0)


def test_methods_differ_in_marker_and_line_and_colours_in_lightness() -> None:
    assert len(set(style.METHOD_MARKERS.values())) == len(style.METHOD_MARKERS)
    assert len(set(style.METHOD_LINES.values())) == len(style.METHOD_LINES)
    lightness = [np.dot(to_rgb(colour), [0.299, 0.587, 0.114]) for colour in style.METHOD_COLOURS.values()]
    assert np.diff(sorted(lightness)).min() > 0.15  # apart on a grey print: 0 is black, 1 white


def test_no_two_of_seventy_names_look_alike() -> None:
    names = [f"net{i}" for i in range(70)]
    assert len({(style.colour_of(name, names), style.marker_of(name, names)) for name in names}) == 70


def _space(name: str = "a", num: int = 90) -> FeatureSpace:
    rng = np.random.default_rng(0)
    labels = np.arange(num) % 3
    features = rng.normal(size=(num, 5)) + 20 * np.eye(5)[labels]
    return FeatureSpace(name=name, features_ND=features, labels_N=labels, ids_N=np.array([f"{i}" for i in range(num)]))


def test_the_two_feature_spaces_keep_well_separated_classes_apart() -> None:
    drawn = embedding_figure(_space(), _space("b"), ["x", "y", "z"], classes=["x", "z"], perplexity=10)
    numbers = drawn.numbers[""]
    assert set(numbers["class"]) == {"x", "z"}
    assert len(numbers) == 2 * 60
    for _, space in numbers.groupby("space"):
        centers = space.groupby("class")[["x", "y"]].mean().to_numpy()
        spread = space.groupby("class")[["x", "y"]].std().to_numpy().max()
        assert np.linalg.norm(centers[0] - centers[1]) > 2 * spread


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (["xx"], UnknownNameError, "no class named 'xx'"),
        (["x"] * 13, InputError, "at most 12"),
        (["x"], InputError, "has 3 images of these classes"),
    ],
)
def test_a_figure_of_feature_spaces_that_cannot_be_is_refused(
    classes: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        embedding_figure(_space(num=9), _space(num=9), ["x", "y", "z"], classes=classes)


def test_a_forest_draws_each_row_where_its_value_is_and_marks_who_ties() -> None:
    rows = [
        ForestRow(name="a", value=0.9, interval=(0.85, 0.95), standing="best"),
        ForestRow(name="b", value=0.88, interval=(0.82, 0.93), standing="tie"),
        ForestRow(name="c", value=0.5, interval=None, standing="behind", converged=False),
    ]
    drawn = forest_figure("forest", "a and b tie", rows, axis="top1", caption="Lines.")
    points = [line for line in drawn.figure.axes[0].lines if line.get_gid()]
    at = [np.asarray(line.get_xydata())[0].tolist() for line in points]
    assert at == [[0.9, -1], [0.88, -2], [0.5, -3]]  # rows from the top
    assert drawn.caption == (
        "Lines. Filled circle: the best; hollow circle: ties with it; diamond: worse; crossed: did not converge."
    )
    assert drawn.hover["r0"] == "a: 90.0 %  (85.0 to 95.0)"


def test_the_path_of_a_chosen_readout_is_that_of_the_chosen_one() -> None:
    history = [
        {"readout": readout, "l2": l2, "fitted_on": "train", "val": val}
        for readout, val in (("cls", 0.3), ("last4", 0.6))
        for l2 in (1.0, 0.1)
    ]
    refitted = {"l2": 0.1, "fitted_on": "train+val", "val": None}
    trial = trial_of(history=[*history, refitted], chosen={"l2": 0.1, "readout": "last4"})
    assert path_rows(trial)["val"].tolist() == [0.6, 0.6]
    assert path_rows(trial)["l2"].tolist() == [1.0, 0.1]


def test_long_names_of_a_forest_are_broken_and_no_text_covers_another() -> None:
    name = "vit_base_patch16_224.augreg_in21k block:11 (chosen) (choose_by=log_loss)"
    best = ForestRow(name=name, value=0.5, interval=(0.4, 0.6), standing="best")
    rows = [best, replace(best, name="short"), best]
    drawn = forest_figure("forest", "all tie", rows, axis="top1", caption="Lines.").figure
    with style.style():  # as a file or a page is drawn
        drawn.savefig(io.BytesIO(), dpi=drawn.dpi)
    boxes = [text.get_window_extent() for text in drawn.axes[0].texts]
    assert len(boxes) == 6
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert not any(box.x1 > drawn.bbox.x1 for box in boxes)


def test_on_a_page_the_colours_are_the_pages_and_in_files_they_are_not(tmp_path: Path) -> None:
    drawn = whole_figures()["forest_probe"]
    svg = drawn.svg()
    assert "var(--green)" in svg
    assert "var(--ink)" in svg
    assert not re.search(r"(fill|stroke): #(?!fff)", svg)
    drawn.save(tmp_path)
    assert "var(--" not in (tmp_path / "forest_probe.pdf").read_bytes().decode("latin1")
