"""Figures of README and docs are those of their reports, and the check itself finds what is wrong."""

from typing import Any

import pytest
import verify_numbers
from pages import ROOT
from verify_numbers import check, checked_pages, renewed

PAGES = {str(page.relative_to(ROOT)): (page, sources, everywhere) for page, sources, everywhere in checked_pages()}


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_is_that_of_its_report(name: str) -> None:
    page, sources, everywhere = PAGES[name]
    assert check(page.read_text(encoding="utf-8"), sources, everywhere) == ([], [])


SOURCES: dict[str, Any] = {
    "measured": [
        {"text": "takes {} s, of {} MB", "of": "r > T", "numbers": ["a > s", "a > size"]},
        {"text": "p = {}", "numbers": ["r > T > a > p"]},
    ],
    "stated": ["264 pictures"],
}

PAGE = "Each takes 1.0 s,\nof 1,280 MB, p = 3.2e-6; 264 pictures, `--tol 1e-4`, [5.5](x_202611.md), 12 of them.\n"


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Put numbers by their paths in the place of the reports."""
    found = {"r > T > a > s": 1.04, "r > T > a > size": 1280.4, "r > T > a > p": 3.21e-6}
    monkeypatch.setattr(verify_numbers, "lookup", found.__getitem__)
    return found


def test_a_figure_is_compared_with_as_many_digits_as_are_printed(results: dict[str, float]) -> None:
    differences, problems = check(PAGE, SOURCES, [])
    assert differences == []
    assert [problem.split(" in ")[0] for problem in problems] == ["line 2: '5.5'"]


def test_a_difference_is_found_and_renewed(results: dict[str, float]) -> None:
    results |= {"r > T > a > s": 1.06, "r > T > a > size": 99123.0, "r > T > a > p": 4e-7}
    differences, _ = check(PAGE, SOURCES, [])
    assert [(each.printed, each.renewed) for each in differences] == [
        ("1.0", "1.1"), ("1,280", "99,123"), ("3.2e-6", "4.0e-7"),
    ]  # fmt: skip
    page = renewed(PAGE, differences)
    assert "takes 1.1 s,\nof 99,123 MB, p = 4.0e-7;" in page
    assert check(page, SOURCES, [r"\[5\.5\]"]) == ([], [])


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        ("It took 12 s.", "12"),
        ("| a | 31 |", "31"),
        ("at 0.5 of it", "0.5"),
        ("1,280 of them", "1,280"),
        ("to 1e-6", "1e-6"),
    ],
)
def test_a_figure_without_a_source_is_found(text: str, figure: str) -> None:
    (problem,) = check(text, {}, [])[1]
    assert repr(figure) in problem


@pytest.mark.parametrize(
    "text", ["two of 12 images", "`12 s`", "B7, lite0, AVX2", "[x](probe_202611.md)", "    pip install 1.5"]
)
def test_counts_names_code_and_links_are_no_figures(text: str) -> None:
    assert check(text, {}, []) == ([], [])


def test_sources_that_fit_nothing_are_found(results: dict[str, float]) -> None:
    for sources in (
        {"measured": [{"text": "takes {} h", "numbers": ["r > T > a > s"]}]},
        {"measured": [{"text": "takes {} s", "numbers": []}]},
        {"stated": ["999 pictures"]},
    ):
        assert check("It takes 1.0 s.", sources, [r"1\.0"])[1]
