"""The scaling benchmark measures its constants, and its simulation gives the expected limits."""

from dataclasses import replace
from functools import partial

import pytest

pytest.importorskip("obstore", reason="needs the extra `cloud`")
pytest.importorskip("ray", reason="needs the extra `ray`")

import scaling_constants
import scaling_workers
from scaling_simulation import Assumed, Constants, Job, simulate, tables

from penultimate.engine.bench.timing.turns import Lap, Laps, TurnOptions

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
)
JOB = Job(workers=4, images=1_024_000, set_images=1_024_000, shard_rows=1000)
INSTANT = Assumed(images_a_second=1000.0, request_seconds=1e-9)


def test_requests_and_sizes_are_counted_on_a_store_in_memory() -> None:
    small, large = scaling_constants._counted(shards=16), scaling_constants._counted(shards=32)
    assert {kind: count for kind, count in small["4 shards"].items() if count} == {"put": 12}  # pending, shard, record
    assert small["open"].keys() == large["open"].keys()
    assert large["close last"]["get"] - small["close last"]["get"] == 16  # a record each
    sizes = scaling_constants._sizes()
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
    found = tables(FREE)
    assert [len(rows) for rows in found.values()] == [6, 4, 4, 4, 3, 6]
    assert [row["seconds"] for row in found["Seconds of a request, 64 workers on a set"]] == ["0.01", "0.05", "0.2"]
    assert all(len(row) == 5 for rows in found.values() for row in rows)


@pytest.mark.slow
def test_constants_are_timed_in_turns_and_are_a_row_each(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {
        scaling_constants.WRITE: (partial(scaling_constants.writing, 512), 512),
        scaling_constants.PLAN: (partial(scaling_constants.planning, 2048), 2048),
        scaling_constants.SEND: (partial(scaling_constants.sending, 2), 2),
    }
    monkeypatch.setattr(scaling_constants, "TIMED", tiny)
    found, laps = scaling_constants.constants(TurnOptions(rounds=1))
    assert [(each.name, each.rounds[0].items) for each in laps] == [(name, items) for name, (_, items) in tiny.items()]
    rows = {row["constant"]: row["measured"] for row in scaling_constants.constant_rows(found, laps)}
    assert rows["requests a shard"] == "3 PUT"
    assert rows["requests to complete a key, a shard"] == "1 GET"
    assert float(rows[scaling_constants.PLAN].split()[0]) == pytest.approx(
        1e6 * found.seconds_a_planned_image, abs=0.005
    )


def test_rates_are_compared_with_those_of_one_worker_in_the_round() -> None:
    def laps(name: str, *seconds: float) -> Laps:
        rounds = [
            Lap(items=120, wall_seconds=each, self_seconds=0.0, other_seconds=0.0, complete=True) for each in seconds
        ]
        return Laps(name=name, group="", warm_up=rounds[0], rounds=tuple(rounds))

    assert scaling_workers.worker_rows([laps("1", 120.0, 60.0, 120.0), laps("4", 30.0, 20.0, 60.0)]) == [
        {"workers": "1", "images/s": "1.0 (1.0 to 2.0)", "of linear": "1.000 (1.000 to 1.000)"},
        {"workers": "4", "images/s": "4.0 (2.0 to 6.0)", "of linear": "0.750 (0.500 to 1.000)"},
    ]


@pytest.mark.slow
def test_sleeping_workers_do_what_is_asked_of_them() -> None:
    options = TurnOptions(rounds=1)
    (laps,) = scaling_workers.workers_that_sleep([2], images=1024, seconds=0.001, options=options)
    assert (laps.name, laps.rounds[0].items) == ("2", 1024)
    assert laps.rounds[0].wall_seconds > 1024 * 0.001 / 2
    assert laps.rounds[0].self_seconds > 0  # of workers that have ended since
