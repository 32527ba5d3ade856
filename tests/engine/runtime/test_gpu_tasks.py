"""Tasks on the GPUs of a cluster: each sees the GPU that it was given, and has its part of a machine that has one."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`")

import ray

from penultimate.engine.runtime.ray_cluster import Cluster, TaskResources

HEAD = {"Alive": True, "Resources": {"CPU": 4.0}}
WORKER = {"Alive": True, "Resources": {"CPU": 64.0, "GPU": 8.0}}
SMALL = {"Alive": True, "Resources": {"CPU": 32.0, "GPU": 2.0}}
LOST = {"Alive": False, "Resources": {"CPU": 1.0, "GPU": 1.0}}


@pytest.mark.parametrize(
    ("nodes", "gpus", "cpus"),
    [
        ([HEAD, WORKER], 1, 8),  # not the 4 of the head, which runs no task of a GPU
        ([HEAD, WORKER, SMALL, LOST], 1, 8),
        ([SMALL], 1, 16),
        ([HEAD, WORKER, SMALL], 4, 32),  # the small one has no four GPUs
        ([HEAD, WORKER], 0, 4),
        ([HEAD], 1, 1),  # refused by ``slots``, which says what there is
    ],
)
def test_a_task_has_its_part_of_a_machine_with_gpus(
    nodes: list[object], gpus: int, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert Cluster().whole_machine(gpus=gpus) == TaskResources(cpus=cpus, gpus=gpus)


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 0])
def test_a_process_that_has_seen_a_gpu_runs_no_second_task(gpus: int) -> None:
    """Ray counts GPUs without looking for them, so that two may be claimed where there are none."""
    program = f"""
import json, logging, ray
from penultimate.engine.runtime.ray_cluster import Cluster, Task, TaskResources
from support.cluster_cases import Where
ray.init(address="local", num_cpus=2, num_gpus=2, logging_level=logging.ERROR, log_to_driver=False)
tasks = [Task(name=str(number), call=Where()) for number in range(6)]
results = Cluster().run(tasks, TaskResources(cpus=1, gpus={gpus}), log=print)
print(json.dumps([[result.value, result.error] for result in results]))
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [error for _, error in found] == 6 * [None]
    processes = [process for (process, _), _ in found]
    if gpus:
        assert len(set(processes)) == 6
        assert {visible for (_, visible), _ in found} == {"0", "1"}
    else:
        assert len(set(processes)) < 6  # networks stay loaded between tasks
