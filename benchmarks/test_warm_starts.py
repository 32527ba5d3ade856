"""The benchmark of warm starts runs, and what it compares are certified fits."""

from pathlib import Path

import pytest
import warm_starts
from large_probe import Size, drawn_store


@pytest.mark.slow
def test_it_writes_a_report(tmp_path: Path) -> None:
    drawn_store(Size(rows=600, dim=8, classes=3, dtype="float32"), tmp_path)
    arguments = ["--strengths", "5", "--rounds", "1", "--seconds", "1"]
    warm_starts.main([str(tmp_path / "600x8x3-float32"), str(tmp_path / "report.md"), *arguments])
    text = (tmp_path / "report.md").read_text()
    assert "The same 5 strengths, from the path kept: 5 of 5 certified, 5 without a step, 0 Hessian products." in text
    assert "of the path on train" in text
