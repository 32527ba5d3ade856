"""In every way penultimate is started, libgomp reports the spin count that it read when torch loaded it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.cluster_cases import LoadsTorch

from penultimate.engine.runtime.waiting_threads import SPIN_COUNT, USERS_OWN, let_waiting_threads_sleep

OURS = {str(SPIN_COUNT)}
LIBGOMPS_OWN = {"300000"}
"""Variables that the documentation says to set for libgomp's own way to wait."""

IN_PYTHON = "import penultimate, torch"


def spin_counts(said: str) -> set[str]:
    """Return each GOMP_SPINCOUNT that a copy of libgomp reports to use."""
    return set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", said))


def started(*command: str, **environment: str) -> set[str]:
    """Return the spin counts in a process and all it starts, with no variables of OpenMP but ``environment``."""
    said_nothing = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    environment = said_nothing | {"OMP_DISPLAY_ENV": "verbose"} | environment
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return spin_counts(ended.stderr)


@pytest.fixture(scope="module", autouse=True)
def own() -> set[str]:
    """Return the spin counts where penultimate is not imported; skip if torch has another runtime than GCC's."""
    found = started(sys.executable, "-c", "import torch")
    if not found:
        pytest.skip("torch runs on another OpenMP than GCC's here, which does not read GOMP_SPINCOUNT")
    return found


def test_what_is_documented_as_libgomps_own_count_is_that(own: set[str]) -> None:
    assert own == LIBGOMPS_OWN != OURS


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "penultimate", "--version"),
        ("-c", IN_PYTHON),
        ("-c", "from penultimate.store.feature_store import FeatureStore; import sklearn.linear_model, torch"),
    ],
)
def test_it_is_in_force_where_the_package_is_imported_first(arguments: tuple[str, ...]) -> None:
    assert started(sys.executable, *arguments) == OURS


def test_it_is_in_force_in_the_command() -> None:
    command = Path(sys.executable).with_name("penultimate")
    if not command.exists():
        pytest.skip(f"the package is not installed: there is no {command}")
    assert started(str(command), "--version") == OURS


@pytest.mark.slow
def test_it_is_in_force_in_spawned_workers() -> None:
    worker = "get_context('spawn').Process(target=import_module, args=['torch'])"
    script = f"""
from importlib import import_module
from multiprocessing import get_context
import penultimate
worker = {worker}
worker.start()
worker.join()
"""
    assert started(sys.executable, "-c", script) == OURS


@pytest.mark.slow
def test_it_is_in_force_under_torchrun_which_has_loaded_torch_itself(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    logged = ["--redirects=3", f"--log-dir={tmp_path}"]  # or what its agent's libgomp says would be among it
    assert started(*torchrun, *logged, "--module", "penultimate", "--version") == LIBGOMPS_OWN
    logs = [path.read_text() for path in tmp_path.rglob("stderr.log")]
    assert [spin_counts(log) for log in logs] == [OURS, OURS]


@pytest.mark.slow
def test_it_is_in_force_on_ray_workers_that_inherit_nothing_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    from penultimate.engine.runtime.ray_cluster import Task, TaskResources, cluster_at

    for name in USERS_OWN:
        monkeypatch.delenv(name, raising=False)  # as of a cluster that was begun elsewhere
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, sys.path)]))
    with cluster_at("local") as cluster:
        (result,) = cluster.run([Task(name="torch", call=LoadsTorch())], TaskResources(cpus=1), log=print)
    assert result.error is None
    assert spin_counts(result.value) == OURS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"GOMP_SPINCOUNT": "300000"}, LIBGOMPS_OWN),
        ({"OMP_WAIT_POLICY": "passive"}, {"0"}),
        ({"KMP_BLOCKTIME": "200"}, LIBGOMPS_OWN),
    ],
)
def test_what_the_user_set_is_in_force(setting: dict[str, str], expected: set[str]) -> None:
    assert started(sys.executable, "-c", IN_PYTHON, **setting) == expected


@pytest.mark.slow
def test_a_runtime_that_was_loaded_before_goes_on_as_it_did_and_children_do_not() -> None:
    assert started(sys.executable, "-c", "import torch, penultimate") == LIBGOMPS_OWN
    child = "subprocess.run([sys.executable, '-c', 'import torch'], check=True)"
    assert started(sys.executable, "-c", f"import subprocess, sys, torch, penultimate; {child}") == LIBGOMPS_OWN | OURS


@pytest.mark.parametrize("name", USERS_OWN)
def test_an_environment_that_says_how_to_wait_is_left_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in USERS_OWN:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "as the user says")
    before = dict(os.environ)
    let_waiting_threads_sleep()
    assert dict(os.environ) == before
