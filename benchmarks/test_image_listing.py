from pathlib import Path

import pytest
from image_listing import report


@pytest.mark.slow
def test_each_way_has_seconds_and_memory(tmp_path: Path) -> None:
    lines = [line for line in report(num_images=2000, folder=tmp_path).splitlines() if "cache" in line and "|" in line]
    assert len(lines) == 3
    assert all(line.count("|") == 8 for line in lines)
