"""A cluster whose workers are lost and whose tasks fail leaves what one process would have left."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra `ray`")

from support.cluster_cases import Counted, LateBoard, Ranked
from support.photographs import write_photos
from support.store_cases import array_files

from penultimate.cli.main import run
from penultimate.engine.probe.head import Head
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.settings import ProbeResources, ProbeSettings
from penultimate.engine.runtime import ray_cluster as cluster_module
from penultimate.engine.runtime.ray_cluster import ATTEMPTS, Cluster, Progress, Task, TaskResources, cluster_at
from penultimate.engine.study.cell import ProbeCell
from penultimate.engine.study.distributed import probe_on, under_torchrun
from penultimate.store.errors import InputError, TasksFailedError, UnavailableError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial_log import TrialLog
from penultimate.store.upkeep.verify import verify

pytestmark = pytest.mark.slow

RESOURCES = TaskResources(cpus=1)
EXTRACT = ["--weights", "random", "--set", "shard_rows=8", "--batch-size", "8", "--workers", "1", "--no-cache"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Start a cluster on this machine whose workers find the tests' helpers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, sys.path)]))
        with cluster_at("local") as found:
            yield found


def test_what_a_task_comes_to_whatever_happens_to_its_workers(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_BUSY_PAUSE_SECONDS", 0.1)
    ends = {
        "well": ("well",),
        "lost once": ("killed", "well"),
        "always lost": ("killed",),
        "bug once": ("broken", "well"),
        "always a bug": ("broken",),
        "wrong": ("wrong",),
        "long busy": ("busy",) * (ATTEMPTS + 2) + ("well",),
    }
    tasks = [Task(name=name, call=Counted(tmp_path / name, how), num_images=20) for name, how in ends.items()]
    lines: list[str] = []
    progresses: list[Progress] = []
    ended = {one.task.name: one for one in cluster.run(tasks, RESOURCES, log=lines.append, progress=progresses.append)}
    assert {name: one.value for name, one in ended.items() if one.error is None} == {
        "well": 1,
        "lost once": 2,
        "bug once": 2,
        "long busy": ATTEMPTS + 3,
    }
    assert {name: (one.error, one.attempts) for name, one in ended.items() if one.error is not None} == {
        "always lost": ("its worker was lost (WorkerCrashedError)", ATTEMPTS),
        "always a bug": ("ZeroDivisionError: a bug", ATTEMPTS),
        "wrong": ("nothing would change that", 1),
    }
    assert lines.count("well is called") == 1
    assert f"bug once: ZeroDivisionError: a bug; again, attempt 2 of {ATTEMPTS}" in lines
    # Of its 20 images each task finds 10 to do, which counts the others as done, and does them where it ends well.
    assert progresses[-1].total == 20 * len(tasks)
    assert progresses[-1].done >= 20 * 4
    assert progresses[-1].rates


def test_what_a_task_reported_arrives_though_its_worker_dies_right_after_it(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_Board", LateBoard)
    ends = {"well": ("well",), "wrong": ("wrong",), "dies": ("killed", "well")}
    tasks = [Task(name=name, call=Counted(tmp_path / name, how), num_images=10) for name, how in ends.items()]
    one_worker = cluster.whole_machine(gpus=0)  # one task at a time, by the process that is killed at last
    lines: list[str] = []
    progresses: list[Progress] = []
    ended = cluster.run(tasks, one_worker, log=lines.append, progress=progresses.append)
    errors = {result.task.name: result.error for result in ended}
    assert errors == {"well": None, "wrong": "nothing would change that", "dies": None}
    assert {"well is called", "wrong is called"} <= set(lines)
    assert progresses[-1].done == 20


def test_what_no_machine_has_is_refused_before_anything_runs(cluster: Cluster, tmp_path: Path) -> None:
    task = Task(name="never", call=Counted(tmp_path / "never", ("well",)))
    for resources in (TaskResources(cpus=10_000), TaskResources(cpus=1, gpus=1000)):
        with pytest.raises(UnavailableError, match=r"no machine of the cluster has them \(\d+ CPUs"):
            list(cluster.run([task], resources, log=print))
    assert not (tmp_path / "never").exists()
    assert cluster.whole_machine(gpus=0).cpus == sum(1 for _ in range(cluster.slots(RESOURCES)))


def test_an_address_without_a_cluster_says_so() -> None:
    script = "from penultimate.engine.runtime.ray_cluster import cluster_at\nwith cluster_at('nowhere'): pass"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert InputError.__name__ in found.stderr
    assert "there is no Ray cluster at 'nowhere'" in found.stderr


def test_a_cell_on_several_gpus_runs_under_torchrun_and_fails_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, sys.path)]))
    under_torchrun(Ranked(tmp_path), processes=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 of 2", "1 of 2"]
    with pytest.raises(TasksFailedError, match=r"torchrun with 1 processes: .*InputError: no such cell"):
        under_torchrun(Ranked(tmp_path, problem="no such cell"), processes=1)


def test_a_study_on_a_cluster_comes_to_the_trials_of_a_single_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "photos", images_per_class=12)
    study = {
        "data": "..",
        "datasets": {"photos": {}},
        "extract": {"decoder": "pillow", "compile": False, "readouts": ["penultimate", "*:4"]},
        "workers": 1,
        "backbones": [{"model": "test_resnet", "weights": "random"}, {"model": "test_vit", "weights": "random"}],
        "probe": [{"l2": "0.01:100:3"}, {"l2": "0.01:100:3", "choose_readout": True}],
    }
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "study.yaml").write_text(json.dumps(study))  # JSON is YAML
    command = ["study", "run", "study.yaml", "--json", "--out"]
    monkeypatch.chdir(tmp_path / "cwd")
    assert run([*command, "here"]) == 0
    here = sorted(json.loads(capsys.readouterr().out), key=lambda row: str(row["trial"]))
    with penultimate(*command, "there", "--cluster", "local", "--task-cpus", "1", cwd=tmp_path / "cwd") as process:
        out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert sorted(json.loads(out), key=lambda row: str(row["trial"])) == here
    assert len(here) == 6  # two readouts of two networks, and of each network the choice


def penultimate(*arguments: str, cwd: Path | None = None) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "penultimate", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)


def busy_workers() -> list[int]:
    """Return the process ids of Ray's workers that are calling a task; this module's own cluster is idle."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if command.startswith(b"ray::_call"):
                found.append(int(folder.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for workers in /proc")
def test_an_extraction_whose_worker_is_killed_leaves_the_store_of_a_single_process(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", images_per_class=96)
    here, there = tmp_path / "here", tmp_path / "there"
    command = ["extract", str(photos), "--model", "test_resnet", *EXTRACT]
    assert run([*command, "--store", str(here)]) == 0
    with penultimate(*command, "--store", str(there), "--cluster", "local", "--task-cpus", "1") as process:
        deadline = time.monotonic() + 300  # a cluster takes long to start on a busy machine
        while not list(there.rglob("commits/[0-9]*.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(busy_workers()[0], 9)
        out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "its worker was lost (WorkerCrashedError); again, attempt 2 of 4" in err
    assert "288/288 images" in err
    assert "test_resnet" in out
    stores = FeatureStore(here), FeatureStore(there)
    (key,) = stores[0].keys()
    assert stores[1].keys() == [key]
    assert array_files(stores[1]) == array_files(stores[0])
    assert verify(stores[1]) == []
    infos = [store.info(key) for store in stores]
    assert infos[0]["checksums"] == infos[1]["checksums"]
    assert infos[0]["provenance"].keys() == infos[1]["provenance"].keys()
    assert infos[1]["provenance"]["parity"] == infos[0]["provenance"]["parity"]


def test_probes_on_a_cluster_are_those_of_a_single_process_and_one_that_fails_stops_no_other(
    cluster: Cluster, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", images_per_class=12)
    store = tmp_path / "store"
    for model in ("test_resnet", "test_vit", "test_efficientnet"):
        assert (
            run(["extract", str(photos), "--model", model, *EXTRACT, "--store", str(store), "--set", "parity=false"])
            == 0
        )
    arguments = ["probe", str(store), "--l2", "1e-2:1:3", "--json"]
    assert run([*arguments, "--trials", str(tmp_path / "here")]) == 0
    with penultimate(*arguments, "--trials", str(tmp_path / "there"), "--cluster", "local") as process:
        out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert len(json.loads(out)) == 3
    logs: list[dict[str, Any]] = [{t.id: t for t in TrialLog(tmp_path / name).trials()} for name in ("here", "there")]
    assert logs[0].keys() == logs[1].keys()
    for trial_id, trial in logs[0].items():
        other = logs[1][trial_id]
        assert (other.value, other.chosen, other.converged) == (trial.value, trial.chosen, trial.converged)
        for name in trial.arrays:
            np.testing.assert_array_equal(other.arrays[name], trial.arrays[name])
        heads = [Head.load(tmp_path / name / "heads" / f"{trial_id}.safetensors") for name in ("here", "there")]
        # A worker has one thread and this process may have more, which sum in another order: float32's rounding.
        np.testing.assert_allclose(heads[1].weight_KD, heads[0].weight_KD, rtol=0, atol=1e-6)
    opened = FeatureStore(store)
    (source,) = opened.info(opened.keys()[0])["sources"]
    damaged = next((store / source["path"]).glob("features/c/*/0"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    log = TrialLog.create(tmp_path / "third")
    settings = ProbeSettings(path=RegularizationPath.parse("1e-2:1:3"))
    cells = [
        ProbeCell(
            store=str(store), trials=log.address, keys=(key,), settings=settings, seed=0, resources=ProbeResources()
        )
        for key in FeatureStore(store).keys()  # noqa: SIM118
    ]
    says = r"1 of 3 tasks failed, the others are done .*does not hold what was written"
    with pytest.raises(TasksFailedError, match=says):
        probe_on(cluster, cells, resources=RESOURCES, log=print)
    assert len(log.trials()) == 2
