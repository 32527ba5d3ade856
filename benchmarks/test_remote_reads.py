import re
from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="needs the extra `cloud`")

import remote_reads


@pytest.mark.slow
def test_a_set_is_read_once_wherever_it_lies(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_reads, "AT_ONCE", (1, 8))
    text = remote_reads.report(photos, latency_ms=1.0, rounds=1, folder=tmp_path)
    rows = re.findall(r"\| (\w[\w ]*) \| 24 \| 0\.\d \| (\d+\.\d+) \| *(\d*) \|", text)
    assert [name for name, _, _ in rows] == ["folder", "tars", "tars in an object store", "manifest in an object store"]
    assert all(float(ratio) < 1.1 for name, ratio, _ in rows if "object store" in name)  # 3 kB of listings among 60
    requests = {name: int(number) for name, _, number in rows if number}
    assert requests["manifest in an object store"] == 1 + 1 + 24  # the table, a listing, the images
    assert "| 8 | " in text
