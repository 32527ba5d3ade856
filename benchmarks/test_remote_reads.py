from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="needs the extra `cloud`")

import remote_reads


@pytest.mark.slow
def test_a_set_is_read_once_wherever_it_lies(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_reads, "AT_ONCE", (1, 8))
    made = remote_reads.report(photos, latency_ms=1.0, rounds=1, folder=tmp_path)
    found = {each["name"]: each for each in made.results}
    assert [*found] == ["folder", "tars", "tars in an object store", "manifest in an object store"]
    assert {each["num_images"] for each in found.values()} == {24}
    for name in ("tars in an object store", "manifest in an object store"):
        assert found[name]["bytes_read"] < 1.1 * found[name]["set_bytes"]  # 3 kB of listings among 60
    assert found["folder"]["requests"] is None
    assert found["manifest in an object store"]["requests"] == 1 + 1 + 24  # the table, a listing, the images
    assert [(each.name, each.items) for each in made.measurements] == [("1 at once", 24), ("8 at once", 24)]
    assert all(each.details["request_ms"] > 1.0 for each in made.measurements)
