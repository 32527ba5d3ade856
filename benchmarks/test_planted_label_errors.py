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
    found = report(clustered(num=200, spread=0.3), share=0.05, seeds=2, l2="0.1:10:3")
    rows = found.tables["Planted label errors"]
    assert [(row["seed"], row["flipped"]) for row in rows] == [("0", "10"), ("1", "10")]
    assert all(row["recall"].endswith(" of 10)") for row in rows)
