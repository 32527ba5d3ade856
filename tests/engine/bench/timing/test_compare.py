"""Two reports are compared round against round: what lies beyond the spread changed, all else did not."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from penultimate.engine.bench.timing.compare import compare_reports
from penultimate.engine.bench.timing.measurement import Measurement
from penultimate.engine.bench.timing.report import Report
from penultimate.store.errors import InputError


def line(name: str, *values: float, unit: str = "MB/s") -> Measurement:
    return Measurement(
        group="Read", name=name, unit=unit, values=values, warm_up=values[0], items=1,
        wall_seconds=1.0, self_seconds=1.0,
    )  # fmt: skip


def written(*lines: Measurement, bench: str = "store", rows: int = 8, other_cores: float = 0.0) -> dict[str, Any]:
    return Report(
        bench=bench,
        title="",
        command=(),
        settings={"rows": rows},
        measurements=lines,
        other_cores=other_cores,
    ).as_dict()


def verdicts(before: Sequence[float], after: Sequence[float], unit: str = "MB/s") -> tuple[str, float]:
    (change,) = compare_reports(written(line("a", *before, unit=unit)), written(line("a", *after, unit=unit))).changes
    return change.verdict, change.speed


@pytest.mark.parametrize(
    ("before", "after", "unit", "verdict", "speed"),
    [
        ((10, 11, 12), (20, 22, 24), "MB/s", "faster", 2.0),
        ((20, 22, 24), (10, 11, 12), "MB/s", "slower", 0.5),
        ((10, 11, 12), (12, 22, 24), "MB/s", "same", 2.0),  # one round was as slow as the fastest before
        ((10, 11, 12), (5, 5.5, 6), "s", "faster", 2.0),
        ((5, 5.5, 6), (10, 11, 12), "s", "slower", 0.5),
        ((10,), (20, 22), "MB/s", "unknown", 2.1),
    ],
)
def test_what_lies_beyond_the_spread_is_faster_or_slower(
    before: Sequence[float], after: Sequence[float], unit: str, verdict: str, speed: float
) -> None:
    found, ratio = verdicts(before, after, unit)
    assert found == verdict
    assert ratio == pytest.approx(speed)


def test_a_turn_that_did_not_end_gives_no_verdict() -> None:
    cut = replace(line("a", 5.0, 6.0, unit="s"), complete=False)
    (change,) = compare_reports(written(line("a", 9.0, 9.5, unit="s")), written(cut)).changes
    assert change.verdict == "unknown"


def test_other_circumstances_are_said() -> None:
    before = written(line("a", 1.0, 2.0), line("b", 1.0, 2.0))
    after = written(line("a", 1.0, 2.0), rows=9, other_cores=1.5) | {"machine": {"cpu_class": "avx2"}}
    remarks = " ".join(compare_reports(before, after).remarks)
    for part in (
        "Other settings: rows 8 -> 9",
        "cpu_class",
        "busy in the later report",
        "Only in the earlier report: Read, b",
    ):
        assert part in remarks


def test_the_chance_of_a_verdict_without_a_change_is_that_of_two_orders_of_all_rounds() -> None:
    three = written(line("a", 1.0, 2.0, 3.0))
    remarks = " ".join(compare_reports(three, three).remarks)
    assert "10.0% of comparisons of 3 and 3 rounds" in remarks  # 2 of 20 ways to choose 3 of 6
    five = written(line("a", 1.0, 2.0, 3.0, 4.0, 5.0))
    assert "0.8% of comparisons of 5 and 5 rounds" in " ".join(compare_reports(five, five).remarks)  # 2 of 252


def test_reports_that_have_nothing_in_common_are_refused() -> None:
    with pytest.raises(InputError, match="one bench"):
        compare_reports(written(line("a", 1.0)), written(line("a", 1.0), bench="probe"))
    with pytest.raises(InputError, match="no measurement in common"):
        compare_reports(written(line("a", 1.0)), written(line("b", 1.0)))


def test_a_measurement_is_read_from_json_as_it_was_written() -> None:
    wrote = replace(line("a", 1.0, 2.0), ratios=(0.5, 0.6), ratio_to="b", ratio_bound=">", details={"param_count": 1.5})
    assert Measurement.from_dict(wrote.as_dict()) == wrote
    assert Measurement.from_dict(line("a", 1.0).as_dict()) == line("a", 1.0)
