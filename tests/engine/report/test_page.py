"""The page holds its content as text, and renders, sorts and filters in headless Chromium."""

import html
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.browser import BROWSER, run_in_page
from support.probe_cases import mixture
from support.studies import IMAGENET, whole_figures, whole_findings, whole_study
from support.trial_cases import trial_of

from penultimate.engine.analysis.accuracy_table import AccuracyTable
from penultimate.engine.analysis.analysis import analyze
from penultimate.engine.analysis.findings import find
from penultimate.engine.analysis.table_findings import table_findings
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import run_probe
from penultimate.engine.probe.settings import KnnSettings, ProbeSettings
from penultimate.engine.report.page import figures, make_sections, page
from penultimate.engine.report.sections.classes import pictured
from penultimate.engine.report.sections.section import Material, Section
from penultimate.engine.report.sentences import headline, more, sentences
from penultimate.store.feature_set import FeatureSet
from penultimate.store.trials.trial import Trial


@cache
def _page() -> str:
    material = Material(found=whole_findings(), trials=whole_study())
    few = [replace(each, figures=each.figures[:2]) for each in make_sections(material)]  # drawing takes the time
    return page(material, few)


def _of(trials: Sequence[Trial]) -> tuple[list[Section], str]:
    material = Material(found=find(trials, num_resamples=100), trials=trials)
    sections = make_sections(material)
    return sections, page(material, sections)


def test_the_page_needs_no_network() -> None:
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", _page())
    assert not re.search(r"(src|href|action)\s*=\s*[\"'](?!#|data:)", without_names)
    assert "url(http" not in without_names
    assert "@import" not in without_names


def test_a_name_cannot_become_markup() -> None:
    evil = "<script>alert('x')</script>"
    trials = [trial_of(backbone=evil, dataset="</script><b>", notes=(evil,), settings={"loss": evil}, converged=False)]
    text = _of(trials)[1]
    assert "<script>alert" not in text
    assert text.count("</script>") == 2  # the numbers' and the page's own


def test_every_number_of_the_findings_is_in_the_page() -> None:
    block = re.search(r'<script type="application/json" id="numbers">(.*?)</script>', _page(), re.DOTALL)
    assert block is not None
    assert json.loads(block[1]) == json.loads(json.dumps(whole_findings().as_json()))


def test_settings_and_versions_of_every_trial_are_listed() -> None:
    listed = _page().split('<section id="trials">')[1]
    assert listed.count("<details>") == len(whole_study())
    assert all(f'id="trial-{trial.id}"' in _page() for trial in whole_study())


def test_the_class_of_processor_a_trial_was_made_as_is_listed() -> None:
    lowered = replace(whole_study()[0], hardware={"cpu_class": "avx2", "cpu_class_actual": "amx"})
    text = html.unescape(_of([lowered])[1])
    assert '"cpu_class": "avx2",\n "cpu_class_actual": "amx"' in text


def test_what_did_not_converge_is_listed_by_name() -> None:
    doubts = _page().split('<section id="doubts">')[1].split("</section>")[0]
    assert doubts.count(": did not converge") == 5
    assert "untrained" in doubts


def test_the_first_sentences_say_who_is_best_how_strong_and_how_sure() -> None:
    said = "\n".join(sentences(whole_findings()))
    assert "Fine-tuned: nasnet is best on average over 5 datasets" in said
    assert re.search(r"correlate with r = 0\.\d\d \(95 % .* over networks, .* over datasets; p = .*; 6 networks", said)
    assert "Fine-tuned is better than random initialization in 30 of 30 pairs" in said
    assert "16.0 times the steps" in said
    assert "10 of 10 curves reach that at their largest budget alone" in said
    assert "5 of 245 trials did not converge" in said


def test_the_first_screen_has_few_sentences_and_what_says_little_is_folded() -> None:
    found = whole_findings()
    assert len(headline(found)) == 4  # who is best, the correlation, the settings, and what did not converge
    few = find([trial_of(backbone=name, wrong=range(wrong)) for name, wrong in (("a", 5), ("b", 9), ("c", 30))],
               imagenet={"a": 0.7, "b": 0.75, "c": 0.8}, num_resamples=100)  # fmt: skip
    assert "correlate" in more(few)[-1]  # of three networks a correlation says nothing
    assert not any("correlate" in sentence for sentence in headline(few))


def test_three_networks_have_no_figure_of_a_correlation() -> None:
    trials = [trial_of(backbone=name, wrong=range(wrong)) for name, wrong in (("a", 5), ("b", 9), ("c", 30))]
    top1 = {"a": 0.7, "b": 0.75, "c": 0.8}
    sections = make_sections(Material(found=find(trials, imagenet=top1, num_resamples=100), trials=trials))
    assert "imagenet" not in [section.id for section in sections]
    assert not any(figure.name.startswith(("figure1", "figure2")) for figure in figures(sections))


@cache
def _probed() -> tuple[Trial, ...]:
    """Fit probes and neighbours to features of two networks, one of them worse."""
    trials = []
    for backbone, apart in (("near", 0.35), ("far", 0.2)):
        features_ND, labels_N = mixture(900, 8, 3, apart=apart)
        split_N = np.array(["train", "val", "test"])[np.arange(900) % 3]
        features = FeatureSet.of(
            features_ND, labels_N, split_N, class_names=("ant", "bee", "cow"), dataset="animals", backbone=backbone
        )
        probe = ProbeSettings(path=RegularizationPath.parse("1e-2:1e2:5"))
        knn = KnnSettings(k=(5, 20), temperatures=(0.1,))
        trials += [run_probe(features, settings).trial for settings in (probe, knn)]
    return tuple(trials)


def test_probes_have_every_section_with_its_figure() -> None:
    sections, text = _of(_probed())
    assert [section.id for section in sections] == [
        "answer", "paths", "scoreboard", "classes", "calibration", "tests", "doubts", "trials",
    ]  # fmt: skip
    names = [figure.name for figure in figures(sections)]
    assert {"path_animals", "classes_animals", "confusions_animals", "reliability_animals"} <= set(names)
    assert len(names) == len(set(names))
    assert "are taken for <b>" in text
    assert all(f'href="#{section.id}"' in text for section in sections[1:])


def test_photographs_of_test_errors_stand_beside_their_confusion() -> None:
    trials = _probed()
    material = Material(found=find(trials, num_resamples=100), trials=trials)
    wanted = pictured(material)
    ((digest, ids),) = wanted.items()
    assert 0 < len(ids) <= 4 * 6
    best = max(trials, key=lambda trial: trial.value)
    index = {id_: n for n, id_ in enumerate(best.arrays["test_ids"].tolist())}
    wrong_N = best.arrays["test_labels"] != best.arrays["test_predictions"]
    assert all(wrong_N[index[id_]] for id_ in ids)
    shown = replace(material, photographs={(digest, ids[0]): b"picture"})
    text = page(shown, make_sections(shown))
    assert text.count('<img src="data:image/webp;base64,cGljdHVyZQ=="') == 1
    assert f'alt="{ids[0]}"' in text


def test_titles_say_what_is_seen() -> None:
    probe, knn = (_of([t for t in _probed() if t.method == method])[0] for method in ("probe", "knn"))
    assert re.match(r"near (and far tie|is best) on animals \(logistic regression\)", probe[0].figures[0].title)
    assert "(nearest neighbours)" in knn[0].figures[0].title
    chosen = sorted(f"{trial.chosen['l2']:g}" for trial in _probed() if trial.method == "probe")
    paths = next(section for section in probe if section.id == "paths")
    assert all(strength in paths.title for strength in chosen)


def test_a_published_table_has_a_page_without_trials() -> None:
    rng = np.random.default_rng(0)
    table = AccuracyTable(
        models=tuple(IMAGENET),
        datasets=("cars", "pets"),
        imagenet_M=np.array([*IMAGENET.values()]),
        accuracy_MD=0.5 + 0.3 * rng.random((6, 2)),
        unit="fraction (as told)",
    )
    analysis = analyze(table, num_resamples=100)
    material = Material(found=table_findings("published", analysis))
    sections = make_sections(material)
    assert [section.id for section in sections] == ["answer", "imagenet", "tests", "doubts"]
    best = table.models[analysis.best]
    assert best in sections[0].figures[0].title
    assert '<table id="board">' not in page(material, sections)


def test_a_lone_network_is_best_of_nothing() -> None:
    (said,) = sentences(find([trial_of(backbone="lone")]))
    assert "lone scores 90.00 %" in said


def test_a_single_dataset_names_its_best_with_its_interval_and_ties() -> None:
    near, far = trial_of(backbone="near", wrong=range(5, 17)), trial_of(backbone="far", wrong=range(60))
    (said,) = sentences(find([trial_of(backbone="best"), near, far]))
    assert "best is best with 90.00 % (95 % 82.6 to 94.5)" in said
    assert "near ties with it (exact McNemar, p > 0.05)" in said


def test_a_longer_training_may_be_worse_than_a_shorter_one() -> None:
    def run(steps: int, wrong: int, seed: int) -> Trial:
        return trial_of(
            method="scratch",
            wrong=range(wrong),
            settings={"steps": steps},
            history=[{"step": steps, "epoch": steps / 10}],
            seed=seed,
        )

    sections, text = _of([run(10, 5, 0), run(10, 30, 1), run(20, 10, 0), run(20, 20, 1)])
    shown = next(section for section in sections if section.id == "answer").figures
    assert any("The best run, which the others are tested against, had fewer steps." in each.caption for each in shown)
    assert "a.in1k" in text


def test_columns_that_say_nothing_are_left_out() -> None:
    text = _of([trial_of()])[1]
    assert ">images a class</button>" not in text
    assert ">images a class</button>" in _page()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
class TestInChromium:
    def test_it_sorts_filters_and_explains_points_without_an_error(self, tmp_path: Path) -> None:
        got, console = run_in_page(
            _page(),
            """
            const rows = () => Array.from(document.querySelectorAll("#board tbody tr")).filter((row) => !row.hidden);
            const heads = Array.from(document.querySelectorAll("#board th button"));
            const column = heads.findIndex((head) => head.textContent === "test %");
            const values = () => rows().map((row) => Number(row.cells[column].dataset.value));
            const out = { rows: rows().length };
            heads[column].click(); out.falling = values();
            heads[column].click(); out.rising = values();
            out.aria = document.querySelectorAll("#board th")[column].getAttribute("aria-sort");
            const set = (id, value) => { const field = document.getElementById(id); field.value = value;
              field.dispatchEvent(new Event("input")); };
            set("text", "resnet HINGE"); out.text = rows().map((row) => row.dataset.text);
            set("text", ""); set("dataset", "cars"); set("method", "scratch"); out.filtered = rows().length;
            set("dataset", ""); set("method", ""); set("standing", "open");
            out.open = rows().map((row) => row.dataset.text);
            out.count = document.getElementById("count").textContent;
            const point = document.querySelector("svg .point");
            point.dispatchEvent(new PointerEvent("pointermove", { clientX: 50, clientY: 50 }));
            const tip = document.getElementById("tip");
            out.tip = [tip.textContent, tip.style.display, point.querySelectorAll("title").length];
            return out;
            """,
            tmp_path,
        )
        assert isinstance(got, dict)
        assert console == ""
        assert got["rows"] == len(whole_study())
        assert got["falling"] == sorted(got["falling"], reverse=True)
        assert got["rising"] == sorted(got["rising"])
        assert got["aria"] == "ascending"
        assert len(got["text"]) == 5
        assert all("resnet50" in text and "squared_hinge" in text for text in got["text"])
        assert got["filtered"] == 8
        assert all(text.split()[1] == "untrained" for text in got["open"])
        assert got["count"] == f"5 of {len(whole_study())} rows"
        assert got["tip"][0] == next(iter(whole_figures()["forest_finetune"].hover.values()))
        assert got["tip"][1:] == ["block", 0]

    def test_arrow_keys_go_through_the_points_of_a_figure(self, tmp_path: Path) -> None:
        got, console = run_in_page(
            _page(),
            """
            const svg = document.querySelector("figure svg"), tip = document.getElementById("tip");
            const press = (key) => {
              svg.dispatchEvent(new KeyboardEvent("keydown", { key })); return tip.textContent; };
            const points = Array.from(svg.querySelectorAll(".point")).map((point) => point.dataset.tip);
            const said = [press("ArrowRight"), press("ArrowRight"), press("ArrowLeft"), press("ArrowLeft")];
            press("Escape");
            return [svg.tabIndex, said, [points[0], points[1], points[0], points.at(-1)], tip.style.display];
            """,
            tmp_path,
        )
        assert console == ""
        assert isinstance(got, list)
        assert got[0] == 0
        assert got[1] == got[2]
        assert got[3] == "none"

    def test_every_link_of_the_page_leads_somewhere(self, tmp_path: Path) -> None:
        got, _ = run_in_page(
            _page(),
            """
            const links = Array.from(document.querySelectorAll("a[href^='#']")).map((link) => link.hash.slice(1));
            return links.filter((id) => !document.getElementById(id));
            """,
            tmp_path,
        )
        assert got == []

    def test_on_a_phone_nothing_reaches_past_the_screen(self, tmp_path: Path) -> None:
        got, console = run_in_page(
            _page(),
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth];",
            tmp_path,
            width=500,
        )
        assert console == ""
        assert isinstance(got, list)
        assert got[0] <= got[1]


def test_the_best_with_few_images_is_said_where_nothing_else_was_fitted_and_no_section_is_empty() -> None:
    few = [
        trial_of(backbone=backbone, settings={"shots": shots}, seed=seed, wrong=range(wrong + seed))
        for backbone, wrong in (("worse", 50), ("better", 20))
        for shots in (1, 5)
        for seed in (0, 2)
    ]
    found = find(few)
    assert sentences(found) == [
        f"Logistic regression on digits from {size} a class: better (79.0 ± 1.0 %) is best, then worse "
        "(49.0 ± 1.0 %); mean ± standard error over subsets."
        for size in ("1 image", "5 images")
    ]
    assert sentences(find([*few, trial_of()]))[0].startswith("Logistic regression on digits: a.in1k scores 90.00 %")
    text = _of(few)[1]
    assert "#tests" not in text
    assert "Tests behind the claims" not in text
