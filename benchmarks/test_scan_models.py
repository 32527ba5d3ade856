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
    table = scan_models.table(results, {"test_resnet": {"parameters": 500_000}})
    assert "2 of the 1" in table
    assert "2 are all well: 2 computed on a CPU, 0 (above 300 million parameters)" in table
    assert "Not scanned: 1, of 0.5 to 0.5 million parameters." in table
    assert "| test_vit | cpu | 64 | 1000 |" in table


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
    table = scan_models.table(scan_models.read_lines(lines), scan_models.read_lines(lines, "sizes"))
    assert "| test_vit | wrong | not listed: with dimension 63 |" in table
    assert "| test_resnet | process ended |" in table
    assert "| test_convnext | longer than 1 s |" in table
