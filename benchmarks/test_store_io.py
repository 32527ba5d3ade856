from pathlib import Path

import pytest
from store_io import LAYOUTS, PIPELINES, report


def test_every_contender_has_a_rate_in_every_table(tmp_path: Path) -> None:
    pytest.importorskip("zarrs")
    checkout = Path(__file__).parents[1]
    text = report(num_rows=1100, dim=8, rounds=1, folder=tmp_path, before=checkout)
    for about in (f"shards of {shard_rows}, chunks of {chunk_rows}" for shard_rows, chunk_rows in LAYOUTS):
        assert text.count(f"| FeatureSet.features, {about} |") == 2
        assert text.count(f"| FeatureSet.batches, {about} |") == 2
        assert text.count(f"| FeatureWriter, {about} |") == 1
    for name in PIPELINES:
        assert text.count(f"| {name} alone, of the first store |") == 2
    assert text.count("| before: FeatureWriter, ") == 1
    assert text.count("| plain files, synced |") == 3
    assert list(tmp_path.iterdir()) == []
