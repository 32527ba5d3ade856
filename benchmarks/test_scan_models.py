"""The scan of all architectures runs on a few small ones, so that it cannot rot."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
import scan_models


@pytest.mark.slow
def test_lines_are_gone_on_with_and_make_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = tmp_path / "scan.jsonl"
    scan_models.scan(["test_vit", "test_convnext"], lines, seconds=300)
    before = lines.read_text()
    monkeypatch.setattr(scan_models, "examine", None)  # nothing is left to be examined
    scan_models.scan(["test_vit", "test_convnext"], lines, seconds=300)
    assert lines.read_text() == before
    results = scan_models.read_lines(lines)
    assert list(results) == ["test_convnext", "test_vit"]  # 0.27 and 0.37 million parameters
    made = scan_models.report(results, {"test_resnet": {"parameters": 500_000}})
    scanned, left = made.findings
    assert scanned.startswith("2 of the 1")
    assert "2 are all well: 2 computed on a CPU, 0 (above 300 million parameters)" in scanned
    assert left == "Not scanned: 1, of 0.5 to 0.5 million parameters."
    rows = made.tables["Every network"]
    assert [(row["architecture"], row["device"], row["D"], row["K"]) for row in rows] == [
        ("test_convnext", "cpu", "64", "1000"),
        ("test_vit", "cpu", "64", "1000"),
    ]
    assert [row["model"] for row in made.results] == ["test_convnext", "test_vit"]
    made.write(tmp_path / "report.md")
    assert "Refused, or wrong" not in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_what_is_wrong_refused_or_too_slow_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = tmp_path / "scan.jsonl"
    monkeypatch.setattr(scan_models, "META_ABOVE", 0)
    monkeypatch.setattr(scan_models, "describe", lambda name, table: type("Row", (), {"feature_dim": 63}))
    scan_models.scan(["test_vit"], lines, seconds=300)
    scan_models.append(lines, {"kind": "begun", "model": "test_resnet"})  # as if the process had ended in it
    scan_models.scan(["test_resnet"], lines, seconds=300)
    monkeypatch.setattr(scan_models, "examine", lambda name, parameters: signal.pause())
    scan_models.scan(["test_convnext"], lines, seconds=1)
    made = scan_models.report(scan_models.read_lines(lines), scan_models.read_lines(lines, "sizes"))
    assert [list(row.values()) for row in made.tables["Refused, or wrong"]] == [
        ["test_convnext", "longer than 1 s", ""],
        ["test_resnet", "process ended", ""],
        ["test_vit", "wrong", "not listed: with dimension 63"],
    ]
    assert not made.tables["Every network"]
