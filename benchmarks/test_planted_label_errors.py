import numpy as np
import pytest
from planted_label_errors import flipped, report
from support.audit_cases import clustered


def test_a_share_of_the_labels_is_another_class() -> None:
    features = clustered(num=200)
    changed, wrong = flipped(features, 0.1, seed=0)
    different = features.ids[changed.labels != features.labels].tolist()
    assert set(different) == wrong
    assert len(different) == 20
    assert np.isin(changed.labels, range(5)).all()


def test_the_report_has_a_row_for_each_seed() -> None:
    pytest.importorskip("cleanlab")
    text = report(clustered(num=200, spread=0.3), share=0.05, seeds=2, l2="0.1:10:3")
    rows = [line for line in text.splitlines() if line.startswith(("| 0 |", "| 1 |"))]
    assert len(rows) == 2
    assert all(row.count("|") == 9 and "| 10 |" in row for row in rows)
