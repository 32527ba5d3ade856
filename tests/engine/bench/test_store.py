"""A store is measured beside plain files and objects, row for row, and nothing of it is left behind."""

from pathlib import Path

import pytest
from support.s3_server import BUCKET, Proxy

from penultimate.engine.bench.store import StoreBench, bench_store
from penultimate.store.errors import InputError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.objects.open import open_objects

TINY = StoreBench(rows=1100, dim=8, rounds=2)


def test_every_contender_of_a_folder_transfers_every_row(tmp_path: Path) -> None:
    report = bench_store(str(tmp_path), TINY, command=["penultimate"])
    by_group: dict[str, list[str]] = {}
    for line in report.measurements:
        by_group.setdefault(line.group, []).append(line.name)
        assert line.items == (1024 if "position" in line.group else 1100)
        assert line.complete
        assert len(line.values) == 2
        assert min(line.values) > 0
    assert by_group["Write"] == ["plain files, synced", "FeatureWriter"]
    assert by_group["Read, from the page cache"] == [
        "numpy.load", "FeatureSet.features", "FeatureSet.batches", "Zarr alone"
    ]  # fmt: skip
    assert {"Look-up of rows by the content of their images", "Look-up of 1,024 rows by position"} < by_group.keys()
    assert list(tmp_path.iterdir()) == []


def test_a_rate_is_megabytes_of_features(tmp_path: Path) -> None:
    report = bench_store(str(tmp_path), TINY, command=["penultimate"])
    written = report.measurements[1]
    assert written.unit == "MB/s"
    assert written.median == pytest.approx(1100 * 8 * 4 / 1e6 / written.wall_seconds, rel=0.5)  # medians of two rounds


@pytest.mark.slow
def test_an_address_is_measured_beside_plain_objects_and_left_as_it_was(proxy: Proxy) -> None:
    address = f"s3://{BUCKET}/scratch?endpoint={proxy.endpoint}"
    report = bench_store(address, TINY, command=["penultimate"])
    assert [(line.name, line.items) for line in report.measurements if line.group in ("Write", "Read")] == [
        (name, 1100)
        for name in ("plain objects", "FeatureWriter", "plain objects", "FeatureSet.features", "FeatureSet.batches")
    ]
    assert open_objects(address).names("") == []


def test_a_failed_measurement_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise InputError("no")

    monkeypatch.setattr(FeatureStore, "num_known", fail)
    with pytest.raises(InputError, match="no"):
        bench_store(str(tmp_path), TINY, command=["penultimate"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for location in ("nowhere", "file"):
        with pytest.raises(InputError, match="no folder"):
            bench_store(str(tmp_path / location), TINY, command=["penultimate"])
