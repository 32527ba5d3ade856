"""The scaling benchmark measures its constants, and its simulation gives the expected limits."""

from dataclasses import replace

import pytest

pytest.importorskip("obstore", reason="needs the extra `cloud`")
pytest.importorskip("ray", reason="needs the extra `ray`")

import scaling
from scaling_simulation import Assumed, Constants, Job, simulate, tables

FREE = Constants(
    requests_a_shard={},
    requests_to_open={},
    requests_to_close={},
    requests_to_complete={},
    bytes_a_row=8192.0,
    bytes_a_record=300.0,
    seconds_a_row=0.0,
    seconds_a_planned_image=0.0,
    bytes_an_image=150.0,
    seconds_a_task=1e-9,
    spread={},
)
JOB = Job(workers=4, images=1_024_000, set_images=1_024_000, shard_rows=1000)
INSTANT = Assumed(images_a_second=1000.0, request_seconds=1e-9)


def test_requests_and_sizes_are_counted_on_a_store_in_memory() -> None:
    small, large = scaling._counted(shards=16), scaling._counted(shards=32)
    assert {kind: count for kind, count in small["4 shards"].items() if count} == {"put": 12}  # pending, shard, record
    assert small["open"].keys() == large["open"].keys()
    assert large["close last"]["get"] - small["close last"]["get"] == 16  # a record each
    sizes = scaling._sizes()
    assert sizes["bytes_a_row"] == pytest.approx(4 * 2048, rel=1e-3)


def test_without_overhead_the_simulation_is_linear() -> None:
    found = simulate(JOB, FREE, INSTANT)
    assert found.efficiency == pytest.approx(1.0, rel=1e-6)
    assert found.seconds == pytest.approx(256.0, rel=1e-6)


def test_a_bucket_that_takes_fewer_requests_than_are_made_sets_the_pace() -> None:
    measured = replace(FREE, requests_a_shard={"put": 3})
    found = simulate(JOB, measured, replace(INSTANT, writes_a_second=6.0))
    assert found.seconds == pytest.approx(3 * 1024 / 6.0, rel=0.01)
    assert found.bottleneck == "commits"


def test_time_that_a_worker_takes_to_plan_is_counted_once_a_worker() -> None:
    measured = replace(FREE, seconds_a_planned_image=1e-5)
    found = simulate(JOB, measured, INSTANT)
    assert found.seconds == pytest.approx(256.0 + 10.24, rel=1e-6)
    assert found.bottleneck == "plan of all ids"


@pytest.mark.slow
def test_the_tables_have_a_row_for_every_value() -> None:
    lines = tables(FREE).splitlines()
    assert sum(line.startswith("| 1,000 |") for line in lines) == 2  # workers, images/s
    assert sum(line.startswith("|") and "|---" not in line for line in lines) == 27 + 6  # a heading each


@pytest.mark.slow
def test_sleeping_workers_do_what_is_asked_of_them() -> None:
    found = scaling.rates(workers=[1, 2], images=1024, seconds=0.001, rounds=1)
    assert {count: len(values) for count, values in found.items()} == {1: 1, 2: 1}
    assert 0 < found[1][0] < 1 / 0.001
