"""Trials come back unchanged; a torn line, a second writer or a lost byte neither hides nor damages the others."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.logged_trials import same, trial

from penultimate.store.errors import InputError, NotAStoreError, StoreError
from penultimate.store.format.layout import variable_width
from penultimate.store.trials.trial_log import TrialLog


@pytest.fixture
def log(tmp_path: Path) -> TrialLog:
    return TrialLog.create(tmp_path / "log")


def test_a_trial_comes_back_as_it_was_with_the_same_id(log: TrialLog) -> None:
    log.append(trial())
    log.append(trial(seed=1, value=0.75))
    first, second = TrialLog(log.path).trials()
    assert same(first, trial())
    assert same(second, trial(seed=1, value=0.75))
    assert (first.id, first.num_test) == (trial().id, 2)
    assert log.contains(first.id)
    assert not log.contains("0" * 16)
    assert log.torn_bytes == 0


def test_strings_of_variable_length_and_numpy_scalars_are_kept(log: TrialLog) -> None:
    ids = variable_width(["a", "Größe/2.jpg"])
    log.append(trial(arrays={"test_ids": ids}, history=[{"steps": np.int64(3), "value": np.float32(0.5)}]))
    (back,) = log.trials()
    assert back.arrays["test_ids"].tolist() == ids.tolist()
    assert back.history == [{"steps": 3, "value": 0.5}]


def test_a_trial_run_again_replaces_the_earlier_one(log: TrialLog) -> None:
    log.append(trial())
    log.append(trial(seed=1))
    log.append(trial(value=1.0, arrays={"test_labels": np.array([1])}))
    assert [(found.seed, found.value, found.num_test) for found in log.trials()] == [(1, 0.5, 2), (0, 1.0, 1)]


@pytest.mark.parametrize("cut", [1, 40, 600])
def test_a_torn_last_line_is_reported_and_costs_only_itself(log: TrialLog, cut: int) -> None:
    log.append(trial())
    log.append(trial(seed=1))
    path = log.path / "trials.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    last = len(whole.split(b"\n")[1])
    assert log.torn_bytes == last + 1 - cut
    assert [found.seed for found in log.trials()] == [0]
    log.append(trial(seed=2))
    assert log.torn_bytes == 0
    assert [found.seed for found in log.trials()] == [0, 2]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_line_in_the_middle_that_is_no_trial_is_named(log: TrialLog) -> None:
    log.append(trial())
    log.append(trial(seed=1))
    path = log.path / "trials.jsonl"
    lines = path.read_text().splitlines()
    for spoilt in (lines[0][:-5], "[]", json.dumps({"version": 1, "id": "x"})):
        path.write_text(f"{spoilt}\n{lines[1]}\n")
        with pytest.raises(StoreError, match=r"line 1 .*remove that line"):
            log.trials()


def test_arrays_that_changed_are_refused(log: TrialLog) -> None:
    log.append(trial())
    (path,) = (log.path / "arrays").iterdir()
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    (found,) = log.trials()
    with pytest.raises(StoreError, match="fit the trial again"):
        _ = found.num_test


@pytest.mark.parametrize(
    "changes",
    [{"value": float("nan")}, {"history": [{"objective": np.float64("inf")}]}, {"chosen": {"l2": object()}}],
)
def test_what_json_cannot_hold_is_refused_and_leaves_no_trace(log: TrialLog, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"tiny.random on insects cannot be written down"):
        log.append(trial(**changes))
    assert log.trials() == []
    assert not (log.path / "arrays").exists()


def append_many(path: Path, seeds: list[int]) -> None:
    for seed in seeds:
        TrialLog(path).append(trial(seed=seed))


def test_trials_of_two_processes_at_once_all_land(log: TrialLog) -> None:
    context = multiprocessing.get_context("spawn")
    seeds = [list(range(25)), list(range(25, 50))]
    workers = [context.Process(target=append_many, args=(log.path, part)) for part in seeds]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(found.seed for found in log.trials()) == list(range(50))
    assert all(found.num_test == 2 for found in log.trials())


def test_paths_that_hold_no_log_are_said_to_hold_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.jpg").touch()
    (tmp_path / "file").touch()
    for call in (TrialLog, TrialLog.create):
        for name in ("folder", "file"):
            with pytest.raises(NotAStoreError, match="is not empty and no trial log; choose a new or empty folder"):
                call(tmp_path / name)
    with pytest.raises(NotAStoreError, match="there is no trial log"):
        TrialLog(tmp_path / "nothing")
    with pytest.raises(InputError, match="there is no folder"):
        TrialLog.create(tmp_path / "no" / "parent")
    assert TrialLog.create(TrialLog.create(tmp_path / "log").path).trials() == []


def test_a_record_of_a_newer_penultimate_is_not_misread(log: TrialLog) -> None:
    log.append(trial())
    path = log.path / "trials.jsonl"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(NotAStoreError, match="newer"):
        log.trials()
