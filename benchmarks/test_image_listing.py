from pathlib import Path

import pytest
from image_listing import report


@pytest.mark.slow
def test_each_way_has_seconds_and_memory(tmp_path: Path) -> None:
    found = report(num_images=2000, folder=tmp_path)
    assert [each["cache"] for each in found.results] == ["no cache", "empty cache, written", "full cache"]
    for each in found.results:
        assert each["images/s"] == pytest.approx(2000 / (each["seconds to list"] + each["seconds to digest"]))
        assert each["peak MiB"] > each["MiB after importing"] > 1
    (rows,) = found.tables.values()
    assert [len(row) for row in rows] == [7] * 3
