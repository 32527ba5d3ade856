"""Readouts of one backbone are compared with each other, layers in order, and ties are of the paired test."""

import pytest
from markupsafe import escape
from support.trial_cases import trial_of

from penultimate.engine.analysis.curves.depth import ReadoutCurve, readout_curves
from penultimate.engine.analysis.findings import find
from penultimate.engine.report.figures.depth import depth_figure
from penultimate.engine.report.sections.readouts import readouts
from penultimate.engine.report.sections.section import Material
from penultimate.engine.report.sentences import headline, readout_sentences, sentences
from penultimate.store.trials.trial import CHOSEN, Trial


def probe(readout: str, num_wrong: int, **fields: object) -> Trial:
    features = {} if readout == "penultimate" else {"readout": readout}
    return trial_of(features=features, wrong=range(num_wrong), **fields)  # type: ignore[arg-type]  # passed on


LAYERS = [probe(f"stage:{index}", wrong) for index, wrong in enumerate((60, 40, 20, 12, 10))]
TRIALS = [probe("penultimate", 8), *LAYERS[::-1], probe("cls", 9)]


def the_curve(trials: list[Trial]) -> ReadoutCurve:
    (curve,) = readout_curves(trials)
    return curve


def test_layers_are_in_the_order_of_their_depth_and_other_readouts_behind_them() -> None:
    curve = the_curve([probe(f"block:{index}", 20 - index) for index in (10, 2, 0, 11)] + TRIALS[:1])
    assert [score.readout for score in curve.scores] == ["block:0", "block:2", "block:10", "block:11", "penultimate"]
    assert [score.layer for score in curve.layers] == [0, 2, 10, 11]


def test_a_readout_ties_where_the_paired_test_finds_no_difference() -> None:
    """Trials are wrong at the first so many images, so that McNemar's exact p of m discordant pairs is 2^(1-m)."""
    curve = the_curve(TRIALS)
    best = curve.best
    assert (best.readout, best.value, best.p_value) == ("penultimate", 0.92, None)
    of = {score.readout: score for score in curve.scores}
    assert {readout for readout, score in of.items() if score.ties_with_best} == {
        *("penultimate", "cls", "stage:4", "stage:3")
    }
    for readout, discordant in (("cls", 1), ("stage:4", 2), ("stage:3", 4), ("stage:2", 12)):
        assert of[readout].p_value == pytest.approx(2.0 ** (1 - discordant), rel=1e-9)
    low, high = of["stage:2"].interval or (0, 0)
    assert low < 0.8 < high


def test_other_settings_have_curves_of_their_own_and_chosen_readouts_and_subsets_none() -> None:
    hinge = [probe(f"stage:{i}", 9, settings={"loss": "squared_hinge"}) for i in range(2)]
    chosen = probe(CHOSEN, 5, settings={"loss": "softmax", "readouts": ["cls", "stage:4"]})
    few = [probe(f"stage:{i}", 30, settings={"loss": "softmax", "shots": 5}) for i in range(2)]
    curves = readout_curves([*TRIALS, *hinge, chosen, *few])
    assert {curve.variant: len(curve.scores) for curve in curves} == {"loss=softmax": 7, "loss=squared_hinge": 2}
    assert readout_curves([TRIALS[0], trial_of(backbone="other", features={"readout": "cls"})]) == []


def test_the_report_says_which_readouts_tie_and_compares_no_single_layers_in_pairs() -> None:
    found = find([*TRIALS, *(probe("stage:0", 50, backbone="b"), probe("penultimate", 20, backbone="b"))])
    said = sentences(found)
    assert (
        "Readouts of a.in1k on digits: penultimate scores best of 7 with 92.00 % on test; stage:3, stage:4, cls "
        "tie with it (paired test on the same images, p > 0.05)." in said
    )
    pairs = {(pair.first, pair.second) for pair in found.setting_pairs}
    assert pairs == {("probe (readout=cls)", "probe (readout=penultimate)")}
    assert {row.readout for row in found.board.rows} == {"penultimate", "cls", *(f"stage:{i}" for i in range(5))}
    assert len(found.as_json()["readouts"]) == 2
    assert not any("Readouts of" in sentence for sentence in headline(found))
    section = readouts(Material(found=found, trials=TRIALS))
    assert section is not None
    assert [figure.name for figure in section.figures] == ["readouts"]
    assert all(escape(sentence) in section.html for sentence in readout_sentences(found))


def test_single_layers_are_left_out_of_what_is_compared_unless_one_is_best() -> None:
    found = find(TRIALS)
    assert {row.readout for row in found.main_rows} == {each.readout for each in found.contenders}
    assert {row.readout for row in found.main_rows} == {"penultimate", "cls"}
    found = find([*TRIALS, probe("stage:5", 2)])
    assert [row.readout for row in found.main_rows] == ["stage:5", "penultimate", "cls"]
    alone = find([probe("stage:3", 9), probe("stage:3", 12, backbone="b")])  # which all were probed at
    assert len(alone.main_rows) == len(alone.contenders) == 2


def test_neighbours_have_curves_of_their_own() -> None:
    voted = [probe(f"stage:{index}", 30 - index, method="knn") for index in range(3)]
    curves = readout_curves([*TRIALS, *voted])
    assert [(curve.method, len(curve.scores)) for curve in curves] == [("knn", 3), ("probe", 7)]
    section = readouts(Material(found=find([*TRIALS, *voted]), trials=[*TRIALS, *voted]))
    assert section is not None
    assert [figure.name for figure in section.figures] == ["readouts_knn", "readouts"]
    assert "(nearest neighbours): stage:2 scores best of 3" in section.html


def test_the_figure_has_a_line_a_network_and_a_point_for_each_readout() -> None:
    other = [probe(f"stage:{index}", 70 - index, backbone="b") for index in range(5)]
    figure = depth_figure("Accuracy by depth", readout_curves([*TRIALS, *other]))
    numbers = figure.numbers[""]
    assert len(numbers) == 12
    assert len(figure.hover) == 12
    lines = [line for line in figure.figure.axes[0].lines if len(line.get_xdata()) == 5]  # type: ignore[arg-type]  # arrays
    assert len(lines) == 2
    point = numbers[(numbers.backbone == "a.in1k") & (numbers.readout == "stage:2")].iloc[0]
    assert (point.layer, point.accuracy, bool(point.ties_with_best)) == (2, 0.8, False)
    assert point.low < point.accuracy < point.high
