"""ThreadBudget uses every core, assigns none twice, and restores torch's own setting; cores of others are left."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from penultimate.engine.runtime import threads
from penultimate.engine.runtime.threads import LOOK_EVERY, ThreadBudget, default_batch_size, shared_threads


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("cores", [1, 2, 16, 17, 64])
def test_replicas_on_a_cpu_use_no_more_threads_than_there_are_cores(cores: int) -> None:
    budget = ThreadBudget.of("cpu", cores=cores)
    assert cores / 2 < budget.replicas * budget.per_replica <= cores
    assert budget.decode == cores


def test_a_gpu_gets_two_replicas_and_large_batches() -> None:
    budget = ThreadBudget.of("cuda:1", decode=3, cores=8)
    assert (budget.decode, budget.replicas, budget.per_replica) == (3, 2, 1)
    assert default_batch_size("cuda:1") > default_batch_size("cpu")


def test_threads_started_within_it_follow_the_budget_and_the_setting_is_restored() -> None:
    before = torch.get_num_threads()
    with ThreadBudget(decode=1, replicas=1, per_replica=before + 1).in_force(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before + 1
    assert torch.get_num_threads() == before


def test_a_budget_without_a_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ThreadBudget(decode=0, replicas=1, per_replica=1)


@dataclass
class Clocks:
    """Clocks of a machine of four cores."""

    wall: float = 0.0
    own: float = 0.0
    busy: float | None = 0.0

    def pass_by(self, *, own: float, others: float, seconds: float = 2 * LOOK_EVERY) -> None:
        """Let time pass in which this process has kept ``own`` cores busy, and other programs ``others``."""
        self.wall += seconds
        self.own += own * seconds
        if self.busy is not None:
            self.busy += (own + others) * seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    found = Clocks()
    monkeypatch.setattr(threads, "busy_seconds", lambda: found.busy)
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(threads, "_others_ready", lambda: 0)
    monkeypatch.setattr(time, "perf_counter", lambda: found.wall)
    monkeypatch.setattr(time, "process_time", lambda: found.own)
    return found


@pytest.mark.usefixtures("four_threads")
def test_threads_are_as_many_as_cores_that_others_leave_and_all_again_once_they_are_free(clocks: Clocks) -> None:
    with shared_threads() as look:
        for own, others, left in ((4, 0, 4), (2.7, 1, 3), (3, 1, 3), (2, 2.3, 2), (1, 4, 1), (1, 3, 1), (1, 0.1, 4)):
            clocks.pass_by(own=own, others=others)
            look()
            assert torch.get_num_threads() == left
        clocks.pass_by(own=1, others=3)
        look()
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_cores_are_not_looked_at_at_every_pass_nor_where_there_is_one_thread_or_no_clock(clocks: Clocks) -> None:
    with shared_threads() as look:
        clocks.pass_by(own=0, others=4, seconds=LOOK_EVERY / 2)
        look()
        assert torch.get_num_threads() == 4
        clocks.pass_by(own=0, others=4, seconds=LOOK_EVERY / 2)
        look()
        assert torch.get_num_threads() == 1
    with shared_threads(serial=True) as look:
        clocks.pass_by(own=0, others=0)
        look()
        assert torch.get_num_threads() == 1
    clocks.busy = None
    with shared_threads() as look:
        clocks.pass_by(own=0, others=4)
        look()
        assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_the_first_number_goes_by_threads_that_stay_ready_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ready: list[int] = []
    monkeypatch.setattr(threads, "_kernel_statistics", lambda: ["cpu  1 2", f"procs_running {ready.pop(0)}"])
    monkeypatch.setattr(threads, "busy_seconds", lambda: 0.0)
    monkeypatch.setattr(threads, "all_cores", lambda: 4)
    for glances, left in (([1], 4), ([3, 1], 4), ([3, 4, 3], 2), ([2, 9, 2], 3), ([9, 9, 9], 1)):
        ready[:] = glances
        with shared_threads():
            assert torch.get_num_threads() == left
        assert not ready


@pytest.mark.capability
@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux's clocks of cores")
@pytest.mark.usefixtures("four_threads")
def test_a_program_on_the_only_core_leaves_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same core
    try:
        time.sleep(0.2)
        assert threads._others_ready() >= 1
        monkeypatch.setattr(threads, "_others_ready", lambda: 0)  # so that the clocks alone tell
        with shared_threads() as look:
            assert torch.get_num_threads() == 4
            time.sleep(1 + LOOK_EVERY)  # while this process itself does nothing
            look()
            assert torch.get_num_threads() == 1
    finally:
        busy.kill()
        busy.wait()
        os.sched_setaffinity(0, before)
