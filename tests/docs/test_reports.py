"""Each report below benchmarks/results/ says how it was made, and its JSON says the same as its Markdown."""

import json
from pathlib import Path

import pytest
import reports
from reports import RESULTS, as_json, lookup, made_of_tables, numbers_in, tables

REPORTS = sorted(RESULTS.glob("*.md"))


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_each_report_says_how_it_was_made(path: Path) -> None:
    content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    markdown = path.read_text(encoding="utf-8")
    for name in ("title", "command", "created", "commit", "machine"):
        assert content.get(name), f"{path.name} does not say its {name}"
    for commit in [content["commit"]] if isinstance(content["commit"], str) else content["commit"]:
        assert commit in markdown
    assert content["created"][:10] in markdown


@pytest.mark.parametrize("path", made_of_tables(), ids=lambda path: path.stem)
def test_json_that_is_made_of_tables_is_in_step(path: Path) -> None:
    written = path.with_suffix(".json").read_text(encoding="utf-8")
    assert written == as_json(path.read_text(encoding="utf-8")), "run `python tools/reports.py`"


def test_no_json_is_left_without_its_report() -> None:
    assert {path.stem for path in RESULTS.glob("*.json")} == {path.stem for path in REPORTS}


def test_tables_are_read_with_blank_cells_and_repeated_headings() -> None:
    text = "# A\n\n| x | y | y |\n|---|---:|---|\n| a | **1** | |\n| | 2 | p \\| q |\n\n## B\n"
    text += "\n| z |\n|---|\n| 3 |\n\n| w |\n|---|\n| 4 |\n"
    assert tables(text) == {
        "A": [{"x": "a", "y": "1", "y (2)": ""}, {"x": "a", "y": "2", "y (2)": "p | q"}],
        "B": [{"z": "3"}],
        "B (2)": [{"w": "4"}],
    }


def test_numbers_are_read_as_they_are_printed() -> None:
    assert numbers_in("1,075 (0.5 to 3.2e-6), -0.06; lite0 B7 2026-11") == [1075, 0.5, 3.2e-6, -0.06, 2026, 11]


def test_a_number_is_looked_up_by_report_table_row_and_heading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "tables": {"T": [{"who": "ours", "s": "1.5, 1.0, 3.0", "n": "7"}, {"who": "a", "b": "x", "s": "2"}]},
        "measurements": [{"group": "g", "name": "m", "values": [1.0, 3.0]}],
        "summary": {"pairs": 330},
    }
    (tmp_path / "r.json").write_text(json.dumps(content))
    monkeypatch.setattr(reports, "RESULTS", tmp_path)
    assert lookup("r > T > ours > s") == 1.5
    assert lookup("r > T > ours > s [1]") == 1.0
    assert lookup("r > T > ours > s [median]") == 1.5
    assert lookup("r > T > a | x > s / r > T > ours > s [max]") == pytest.approx(2 / 3)
    assert lookup("r > measurements > g | m > values [median]") == 2.0
    assert lookup("r > summary > pairs") == 330
    for wrong in ("none > T", "r > U", "r > T > b > s", "r > T > ours > who"):
        with pytest.raises(KeyError):
            lookup(wrong)
