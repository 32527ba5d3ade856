"""The page holds its content as text, and renders, sorts and filters in headless Chromium."""

import html
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from support.browser import BROWSER, run_in_page
from support.studies import whole_figures, whole_findings, whole_study
from support.trial_cases import trial_of

from penultimate.engine.analysis.findings import find
from penultimate.engine.report.figures.figures import figures
from penultimate.engine.report.page import page
from penultimate.engine.report.sentences import sentences


@cache
def _page() -> str:
    return page(whole_findings(), [whole_figures()["figure1"], whole_figures()["figure6"]], whole_study())


def test_the_page_needs_no_network() -> None:
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", _page())
    assert not re.search(r"(src|href|action)\s*=\s*[\"'](?!#|data:)", without_names)
    assert "url(http" not in without_names
    assert "@import" not in without_names


def test_a_name_cannot_become_markup() -> None:
    evil = "<script>alert('x')</script>"
    trials = [trial_of(backbone=evil, dataset="</script><b>", notes=(evil,), settings={"loss": evil}, converged=False)]
    text = page(find(trials), figures(find(trials)), trials)
    assert "<script>alert" not in text
    assert text.count("</script>") == 2  # the numbers' and the page's own


def test_every_number_of_the_findings_is_in_the_page() -> None:
    block = re.search(r'<script type="application/json" id="numbers">(.*?)</script>', _page(), re.DOTALL)
    assert block is not None
    assert json.loads(block[1]) == json.loads(json.dumps(whole_findings().as_json()))


def test_settings_and_versions_of_every_trial_are_listed() -> None:
    assert _page().count("<details>") == len(whole_study())
    assert all(f'id="trial-{trial.id}"' in _page() for trial in whole_study())


def test_the_class_of_processor_a_trial_was_made_as_is_listed() -> None:
    lowered = replace(whole_study()[0], hardware={"cpu_class": "avx2", "cpu_class_actual": "amx"})
    text = html.unescape(page(whole_findings(), [], [lowered]))
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


def test_a_lone_network_is_best_of_nothing() -> None:
    (said,) = sentences(find([trial_of(backbone="lone")]))
    assert "lone scores 90.00 %" in said


def test_a_single_dataset_names_its_best_with_its_interval_and_ties() -> None:
    near, far = trial_of(backbone="near", wrong=range(5, 17)), trial_of(backbone="far", wrong=range(60))
    (said,) = sentences(find([trial_of(backbone="best"), near, far]))
    assert "best is best with 90.00 % (95 % 82.6 to 94.5)" in said
    assert "near ties with it (exact McNemar, p > 0.05)" in said


def test_columns_that_say_nothing_are_left_out() -> None:
    text = page(find([trial_of()]), [], [trial_of()])
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
            const values = () => rows().map((row) => Number(row.cells[column].dataset.sort));
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
        assert "mean log odds" in got["tip"][0]
        assert got["tip"][1:] == ["block", 0]

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
    text = page(found, figures(found), few, title="Few")
    assert "#tests" not in text
    assert "Tests behind the claims" not in text
