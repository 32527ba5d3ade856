"""A feature store and a trial log in S3 are those of a local folder, whatever the network does meanwhile."""

import itertools
import multiprocessing
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.store_cases import NUM_ROWS, SHARD_ROWS, Job, array_files, is_of_an_array, small_job, wait_until

pytest.importorskip("obstore", reason="needs the extra `cloud`")

from support.s3_server import BUCKET, ENVIRONMENT, SECRET, Proxy, environment, every, healthy

from penultimate.store.errors import InputError, NotAStoreError, StoreError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.objects.remote import RemoteObjects
from penultimate.store.upkeep.verify import verify

SCRIPT = Path(__file__).parents[1] / "support" / "fake_extract.py"
NUMBERS = itertools.count()


@pytest.fixture
def location(proxy: Proxy) -> str:
    """Return an address at which nothing is stored yet."""
    return f"s3://{BUCKET}/test {next(NUMBERS)}/store?endpoint={proxy.endpoint}"


@pytest.fixture(scope="module")
def job() -> Job:
    return small_job()


@pytest.fixture(scope="module")
def expected(job: Job, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the objects of the arrays in a local store."""
    store = FeatureStore.create(tmp_path_factory.mktemp("local") / "store")
    job.write(store)
    return array_files(store)


def array_objects(store: FeatureStore) -> dict[str, bytes]:
    """Return the objects of the arrays in a remote store, read through the store itself."""
    assert isinstance(store.objects, RemoteObjects)
    names = [name for name in store.objects.walk("") if is_of_an_array(name)]
    return {name: content for name, content in zip(names, store.objects.get_many(names), strict=True) if content}


def test_a_store_in_a_bucket_holds_the_objects_of_a_local_one(
    location: str, job: Job, expected: dict[str, bytes]
) -> None:
    store = FeatureStore.create(location)
    job.write(store)
    assert array_objects(FeatureStore(location)) == expected
    features = FeatureStore(store.address).read(job.key)
    np.testing.assert_array_equal(features.features, job.features_MD[[*range(3), *range(4, 49)]])


FAULTS = [
    ("500", ("PUT", "GET", "HEAD", "DELETE")),
    ("503", ("PUT", "GET", "HEAD", "DELETE")),
    ("cut upload", ("PUT",)),
    ("cut answer", ("PUT", "GET", "DELETE")),
    ("half answer", ("GET",)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "methods"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_faults_on_the_way_change_nothing(
    proxy: Proxy, location: str, job: Job, expected: dict[str, bytes], fault: str, methods: tuple[str, ...]
) -> None:
    proxy.plan = every(3, fault, *methods)
    store = FeatureStore.create(location)
    job.write(store)
    read = store.read(job.key).features
    assert verify(store) == []
    proxy.plan = healthy
    assert array_objects(store) == expected
    assert len(read) == NUM_ROWS - 2


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_answer_in_time_is_asked_again(
    proxy: Proxy, location: str, job: Job, expected: dict[str, bytes]
) -> None:
    store = FeatureStore.create(location)
    proxy.plan = every(15, "hang", "PUT")
    job.write(store)
    proxy.plan = healthy
    assert array_objects(store) == expected


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["503", "cut upload", "cut answer"])
def test_when_attempts_are_used_up_the_error_names_bucket_and_key_and_the_job_resumes(
    proxy: Proxy, location: str, job: Job, expected: dict[str, bytes], fault: str
) -> None:
    store = FeatureStore.create(location)
    proxy.plan = lambda method, path: fault if "/features/c/2/0" in path and method == "PUT" else None
    with pytest.raises(StoreError, match=rf"s3://{BUCKET}/test \d+/store/.*/features/c/2/0 could not .* in 5 attempts"):
        job.write(store)
    tries = [path for method, path in proxy.seen if method == "PUT" and "/features/c/2/0" in path]
    assert len(tries) == 5
    proxy.plan = healthy
    proxy.seen.clear()
    with job.writer(store) as writer:
        missing = writer.missing_blocks
        assert missing in [(2,), (2, 3)]  # 3 may have been on its way as well
        job.append(writer, writer.missing_samples)
    written = {path.partition("/features/c/")[2] for method, path in proxy.seen if method == "PUT"} - {""}
    assert written == {f"{block}/0" for block in missing}  # nothing was done twice
    assert array_objects(store) == expected
    assert verify(store) == []


def test_a_refused_request_says_so_at_once_and_shows_no_credentials(proxy: Proxy, location: str, job: Job) -> None:
    store = FeatureStore.create(location)
    proxy.plan = lambda method, path: "403" if method == "PUT" else None
    proxy.seen.clear()
    with pytest.raises(InputError, match=r"403 Forbidden \(SignatureDoesNotMatch\); check the credentials") as caught:
        job.write(store)
    assert sum(method == "PUT" for method, _ in proxy.seen) == 1
    assert caught.value.__cause__ is None
    assert ENVIRONMENT["AWS_ACCESS_KEY_ID"] not in repr(caught.value)


def test_a_bucket_or_store_that_is_not_there_is_said_to_be_missing(proxy: Proxy, location: str) -> None:
    with pytest.raises(NotAStoreError, match="there is no feature store at s3://"):
        FeatureStore(location)
    with pytest.raises(InputError, match="there is no bucket s3://nowhere"):
        FeatureStore.create(f"s3://nowhere/store?endpoint={proxy.endpoint}")
    with pytest.raises(InputError, match="an address must not hold credentials") as caught:
        FeatureStore(f"s3://{ENVIRONMENT['AWS_ACCESS_KEY_ID']}:{SECRET}@{BUCKET}/store")
    assert SECRET not in str(caught.value)


def test_a_writer_killed_by_sigkill_leaves_what_it_committed_and_no_claim(
    location: str, job: Job, expected: dict[str, bytes]
) -> None:
    store = FeatureStore.create(location)
    pipe: Any = subprocess.PIPE
    command = [sys.executable, str(SCRIPT), location, "0", "4"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment(), text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "missing 0 1 2 3\n"
        for _ in range(6):
            assert process.stdout.readline().startswith("done")
            process.stdin.write("\n")
            process.stdin.flush()
        wait_until(lambda: store.incomplete()[0].done_rows >= SHARD_ROWS)  # shards are written in the background
        process.kill()
    (begun,) = store.incomplete()
    assert SHARD_ROWS <= begun.done_rows < begun.num_rows
    with job.writer(store) as writer:  # at once: this machine knows that the holder is gone
        assert writer.missing_blocks[0] == begun.done_rows // SHARD_ROWS
        job.append(writer, writer.missing_samples)
    assert array_objects(store) == expected
    assert verify(store) == []


@pytest.mark.slow
def test_two_processes_with_halves_share_the_rows_of_other_sets(location: str, job: Job, tmp_path: Path) -> None:
    store = FeatureStore.create(location)
    job.part(range(10)).write(store)
    job.part(range(30, 40)).write(store)
    otherwise = replace(job, features_MD=job.features_MD + 1)
    (tmp_path / "job").write_bytes(pickle.dumps(otherwise))
    pipe: Any = subprocess.PIPE
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), location, first, stop, str(tmp_path / "job")],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=environment(),
            text=True,
        )
        for first, stop in (("0", "2"), ("2", "4"))
    ]
    said = [process.communicate("\n" * 100, timeout=120) for process in processes]
    assert [(process.returncode, err) for process, (_, err) in zip(processes, said, strict=True)] == [(0, "")] * 2
    done = [int(line.split()[1]) for out, _ in said for line in out.splitlines() if line.startswith("done")]
    assert sum(done) == NUM_ROWS - 20
    expected = job.features_MD + 1
    carried = [*range(10), *range(30, 40)]
    expected[carried] = job.features_MD[carried]
    decoded = [sample for sample in range(NUM_ROWS) if sample not in job.failed]
    np.testing.assert_array_equal(store.read(job.key).features, expected[decoded])
    assert job.part(range(NUM_ROWS)[::-1]).write(store) == 0
    assert verify(store) == []
    assert isinstance(store.objects, RemoteObjects)
    assert not [name for name in store.objects.walk("") if "writer.lock" in name]


def test_rows_are_freed_in_a_bucket_unless_somebody_refers_to_them(location: str, job: Job) -> None:
    store = FeatureStore.create(location)
    base, grown = job.part(range(40)), replace(job, split_M=["train"] * NUM_ROWS)
    base.write(store)
    with grown.writer(store) as writer:
        grown.append(writer, writer.missing_samples[:20])
        removed = store.delete(base.key)
        assert "is being written by process" in removed.kept[0]
        assert grown.append(writer, writer.missing_samples) == NUM_ROWS - 40
    np.testing.assert_array_equal(store.read(grown.key).features, job.features_MD[[*range(3), *range(4, 49)]])
    before = store.objects.size("")
    removed = store.delete(grown.key)
    assert (removed.freed_bytes, removed.kept) == (before - store.objects.size(""), ())
    assert isinstance(store.objects, RemoteObjects)
    assert all(name.endswith("zarr.json") and name.count("/") < 3 for name in store.objects.walk(""))


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "methods"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_faults_on_the_way_to_rows_of_other_sets_change_nothing(
    proxy: Proxy, location: str, job: Job, fault: str, methods: tuple[str, ...]
) -> None:
    store = FeatureStore.create(location)
    base = job.part(range(40))
    base.write(store)
    proxy.plan = every(3, fault, *methods)
    assert job.write(store) == 10
    store.delete(base.key)
    proxy.plan = healthy
    np.testing.assert_array_equal(store.read(job.key).features, job.features_MD[[*range(3), *range(4, 49)]])
    assert verify(store) == []


def _append(location: str, seed: int) -> None:
    from support.logged_trials import trial

    from penultimate.store.trials.trial_log import TrialLog

    log = TrialLog(location)
    for number in range(3):
        log.append(trial(seed=10 * seed + number))


def test_trials_in_a_bucket_come_back_as_from_a_folder_also_from_two_writers_through_faults(
    proxy: Proxy, location: str, tmp_path: Path
) -> None:
    from support.logged_trials import same, trial

    from penultimate.store.trials.trial_log import TrialLog

    with pytest.raises(NotAStoreError, match="there is no trial log at s3://"):
        TrialLog(location)
    logs = [TrialLog.create(location), TrialLog.create(tmp_path / "log")]
    trials = [trial(), trial(seed=1), trial(value=0.75)]
    proxy.plan = every(4, "cut answer", "PUT")
    for log in logs:
        for one in trials:
            log.append(one)
    assert all(same(*pair) for pair in zip(*(log.trials() for log in logs), strict=True))
    assert TrialLog(location).torn_bytes == 0
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(location, seed)) for seed in (2, 3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert sorted(found.seed for found in logs[0].trials()) == [0, 1, 20, 21, 22, 30, 31, 32]
    with pytest.raises(InputError, match="cannot be written down"):
        logs[0].append(replace(trial(), value=float("nan")))
