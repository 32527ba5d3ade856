from pathlib import Path

import pytest
from audit_counts import report

import penultimate


def test_the_report_has_the_counts_of_the_audit(probe_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    penultimate.probe(probe_store, trials=tmp_path / "trials", l2="0.1:10:3")
    found = penultimate.audit(probe_store, trials=tmp_path / "trials")
    rows = {row["what"]: row["number"] for row in report(found).tables["Counts"]}
    assert rows["images"] == "24"
    assert rows["doubtful labels"] == str(len(found.label_issues))
    assert "probe, top1 %, without these test images" in rows
