"""The counts of steps and products run on small sizes; their values belong to the report."""

from pathlib import Path

import pytest
import solver_products

from penultimate.engine.bench.timing.report import read_report


@pytest.mark.slow
def test_every_path_has_a_row_and_is_certified(tmp_path: Path) -> None:
    solver_products.main([str(tmp_path / "report.md"), "--scale", "0.05"])
    found = read_report(tmp_path / "report.md")["results"]
    assert len({row["path"] for row in found}) == 2 + 2 + 1 + 2 * 3
    for row in found:
        assert row["strengths"] == row["certified"] > row["without a step"]
        assert row["steps"] > 0
