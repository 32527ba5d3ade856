"""A report has one form, for people and as JSON, and says under which circumstances it was made."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from penultimate.engine.bench.timing.measurement import Measurement
from penultimate.engine.bench.timing.report import Report, markdown_table, read_report
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.errors import InputError
from penultimate.store.provenance import library_versions, source_commit


def measured(name: str, *values: float, unit: str = "MB/s", group: str = "read") -> Measurement:
    return Measurement(
        group=group,
        name=name,
        unit=unit,
        values=values,
        warm_up=values[0],
        items=7,
        wall_seconds=2.0,
        self_seconds=0.5,
    )


def report(measurements: Sequence[Measurement], *, other_cores: float | None = 0.0) -> Report:
    return Report(
        bench="store",
        title="A store",
        command=["penultimate", "bench", "store", "my folder"],
        settings={"rows": 1024, "models": []},
        measurements=measurements,
        other_cores=other_cores,
        findings=["Reading is slower than it was."],
        not_measured=["Other disks."],
    )


def test_the_markdown_says_how_it_was_made_and_the_json_beside_it_holds_every_value(tmp_path: Path) -> None:
    lines = [measured("numpy.load", 100.0, 300.0, 200.0), measured("store", 50.0, 60.0, 70.0, group="write")]
    lines[1] = lines[1].relative_to([0.5, 0.25, 0.25], "numpy.load", bound=">")
    report(lines).write(tmp_path / "store.md")
    text = (tmp_path / "store.md").read_text()
    for part in ("penultimate bench store 'my folder'", source_commit(), str(machine()["processor"]), "rows 1,024"):
        assert part in text
    assert f"torch {library_versions()['torch']}" in text
    assert "| numpy.load | 7 | 200 MB/s | 100 to 300 | 100 |  | 0.5 | 1.5 |" in text
    assert "| store | 7 | 60 MB/s | 50 to 70 | 50 | >0.25 of numpy.load | 0.5 | 1.5 |" in text
    assert "Medians of 3 rounds after one that warms up" in text
    for sentence in ("Reading is slower than it was.", "The machine was quiet", "Other disks."):
        assert sentence in text
    found = read_report(tmp_path / "store.md")
    assert (
        found
        == read_report(tmp_path / "store.json")
        == json.loads(json.dumps(report(lines).as_dict())) | {"created": found["created"]}
    )
    assert found["measurements"][0]["values"] == [100.0, 300.0, 200.0]
    assert found["machine"] == machine()


def test_numbers_of_results_that_json_does_not_know_are_left_out(tmp_path: Path) -> None:
    results = [{"model": "a", "distance": float("inf"), "p": float("nan")}, {"model": "b", "distance": 0.5}]
    replace(report([]), results=results).write(tmp_path / "a.md")
    assert read_report(tmp_path / "a.md")["results"] == [{"model": "a"}, {"model": "b", "distance": 0.5}]


def test_a_busy_machine_and_an_unknown_one_are_said() -> None:
    quiet = report([measured("a", 1.0)], other_cores=0.02)
    assert not quiet.is_busy
    busy = replace(quiet, other_cores=0.8)
    assert busy.is_busy
    assert "The machine was busy: other programs took 0.80 of" in busy.markdown()
    assert "not known" in replace(quiet, other_cores=None).markdown()


def test_a_duration_that_did_not_end_is_a_lower_bound() -> None:
    (row,) = report([replace(measured("peer", 5.0, unit="s"), complete=False)]).rows()
    assert row["median"] == ">5 s"


def test_every_row_of_a_table_has_as_many_cells() -> None:
    text = markdown_table(report([measured("a", 1.0), measured("b", 2.0)]).rows())
    assert len({len(re.findall(r"\|", line)) for line in text.splitlines()}) == 1
    assert markdown_table([]) == ""


def test_the_command_says_to_what_the_processor_was_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    found = report([measured("store", 1.0, 2.0)])
    monkeypatch.delenv("PENULTIMATE_CPU", raising=False)
    assert found.command_line == "penultimate bench store 'my folder'"
    monkeypatch.setenv("PENULTIMATE_CPU", "avx2")
    assert found.command_line == "PENULTIMATE_CPU=avx2 penultimate bench store 'my folder'"
    assert found.as_dict()["command"] == found.command_line
    assert f"    {found.command_line}\n" in found.markdown()


def test_a_report_of_counts_says_nothing_of_time() -> None:
    counts = Report(
        bench="counts",
        title="Counts",
        settings={"images": 3},
        tables={"Counts": [{"what": "twins", "number": "1"}]},
        figures={"twins by class": "counts.png"},
    )
    text = counts.markdown()
    assert counts.command[0] == "python"
    assert counts.sentences() == []
    assert "How, and what was not measured" not in text
    assert "![twins by class](counts.png)" in text
    assert "| twins | 1 |" in text
    assert counts.as_dict()["warm_up"] is None
    once = replace(counts, other_cores=0.0, not_measured=["Other sets."])
    assert [sentence.split(":")[0] for sentence in once.sentences()] == ["The machine was quiet", "Other sets."]


@pytest.mark.parametrize(("content", "said"), [(None, "no report"), ("{", "not JSON"), ("[]", "no report of")])
def test_what_is_no_report_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=said):
        read_report(path)
