"""ThreadBudget uses every core, assigns none twice, and restores torch's own setting."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from penultimate.engine.runtime.threads import ThreadBudget, default_batch_size


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
