from pathlib import Path

import pytest
from store_io import PIPELINES, report


def test_every_contender_has_a_rate_in_every_table(tmp_path: Path) -> None:
    pytest.importorskip("zarrs")
    text = report(num_rows=1100, dim=8, rounds=1, folder=tmp_path)
    for name in PIPELINES:
        assert text.count(f"| FeatureSet.features, {name} |") == 2
    assert text.count("| FeatureWriter |") == 1
    assert list(tmp_path.iterdir()) == []
