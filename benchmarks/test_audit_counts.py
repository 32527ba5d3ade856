from pathlib import Path

import pytest
from audit_counts import report

import penultimate


def test_the_report_has_the_counts_of_the_audit(probe_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    penultimate.probe(probe_store, trials=tmp_path / "trials", l2="0.1:10:3")
    found = penultimate.audit(probe_store, trials=tmp_path / "trials")
    text = report(found)
    assert "| images | 24 |" in text
    assert f"| doubtful labels | {len(found.label_issues)} |" in text
    assert "| probe, top1 %, without these test images |" in text
