"""Measure what the store and Ray cost on this machine, for ``scaling.py``: requests, bytes and seconds."""

import logging
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scaling_simulation import Constants

from penultimate.engine.bench.timing.cells import Row, median_and_range
from penultimate.engine.bench.timing.turns import Contender, Laps, TurnOptions, take_turns
from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.image_set import ImageSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.layout import commit_object, shard_object, variable_width
from penultimate.store.key import Embedding
from penultimate.store.objects import remote as remote_objects
from penultimate.store.objects.retry import Retry
from penultimate.store.plan import Plan
from penultimate.store.writer.feature_writer import FeatureWriter
from penultimate.store.writer.waiting_blocks import WaitingBlocks

# Shapes: M images of a set, B of a batch, D feature dimensions.

KINDS = ("put", "get", "head", "list", "delete")
_FEATURE_DIM = 2048

Setting = Callable[[], AbstractContextManager[Callable[[], object]]]
"""Makes what a turn needs, gives the function whose time counts, and clears up; only that function is timed."""


def prepared(name: str, group: str, setting: Setting, items: int) -> Contender:
    """Return a contender that has a setting of its own each turn."""
    stack = ExitStack()
    work: list[Callable[[], object]] = []

    def prepare() -> None:
        work[:] = [stack.enter_context(setting())]

    def run() -> Iterator[int]:
        with stack:
            work[0]()
            yield items

    return Contender(name=name, group=group, run=run, items=items, prepare=prepare)


def constants(options: TurnOptions) -> tuple[Constants, list[Laps]]:
    """Measure all constants on this machine; return the laps of those that are times besides."""
    with on_ray(workers=2):
        laps = take_turns([prepared(name, "Constants that are times", *what) for name, what in TIMED.items()], options)
    row, plan, task = (median(_seconds(each)) for each in laps)
    small, large = _counted(shards=16), _counted(shards=32)
    complete = {kind: (large["close last"][kind] - small["close last"][kind]) / 16 for kind in KINDS}
    found = Constants(
        requests_a_shard={kind: count // 4 for kind, count in small["4 shards"].items() if count},
        requests_to_open=dict(small["open"]),
        requests_to_close=dict(small["close"]),
        requests_to_complete={kind: count for kind, count in complete.items() if count},
        **_sizes(),
        bytes_an_image=_image_bytes(),
        seconds_a_row=row,
        seconds_a_planned_image=plan,
        seconds_a_task=task,
    )
    return found, laps


def _seconds(laps: Laps) -> list[float]:
    return [lap.wall_seconds / lap.items for lap in laps.rounds]


def _counted(*, shards: int) -> dict[str, Counter[str]]:
    """Count the requests of each step of two writers of one set, in memory."""
    counts: Counter[str] = Counter()
    steps: dict[str, Counter[str]] = {}

    def step(name: str) -> None:
        steps[name] = Counter(counts)
        counts.clear()

    with in_memory(counts) as store:
        plan = _plan(rows=shards * 16)
        first = store.writer(plan, provenance={}, blocks=range(shards // 2))
        _append(first, first.missing_samples)
        first._committer.finish()
        counts.clear()
        second = store.writer(plan, provenance={}, blocks=range(shards // 2, shards))
        step("open")
        _append(second, second.missing_samples[: 16 * 4])
        second._committer.finish()
        step("4 shards")
        # as of a part that is done, in a set that is not
        with mock.patch.object(second, "_waiting", WaitingBlocks(plan, ())):
            second.close()
        step("close")
        rest = store.writer(plan, provenance={}, blocks=range(shards // 2, shards))
        _append(rest, rest.missing_samples)
        rest._committer.finish()
        counts.clear()
        rest.close()
        step("close last")
        first.close()
    return steps


EMBEDDING = Embedding(
    backbone="sleeper", weights="0", preprocess="0", decoder="none", precision="float32", dtype="float32"
)


def ids_of(rows: int) -> list[str]:
    return [f"shard-{row // 10_000:06d}/{row:09d}" for row in range(rows)]


def _plan(*, rows: int, dim: int = 8, shard_rows: int = 16) -> Plan:
    return Plan(
        dataset="scaling",
        embedding=EMBEDDING,
        ids_M=variable_width(ids_of(rows)),
        labels_M=np.zeros(rows, np.int64),
        split_M=variable_width(["test"] * rows),
        class_names=("one",),
        metric="top1",
        feature_dim=dim,
        shard_rows=shard_rows,
    )


def _append(writer: FeatureWriter, samples: NDArray[np.int64], dim: int = 8) -> None:
    """Offer samples, each of a content of its own, and append them all."""
    contents_B3 = np.random.default_rng(samples).integers(1, 2**63, (len(samples), 3)).astype(np.uint64)
    assert writer.offer(samples, contents_B3).all()
    writer.append(samples, np.ones((len(samples), dim), np.float32))


@contextmanager
def in_memory(counts: Counter[str]) -> Iterator[FeatureStore]:
    """Make a store in obstore's memory that counts every request."""
    import obstore
    from obstore.store import MemoryStore

    client = MemoryStore()

    def counted(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            counts[kind] += 1
            return call(*arguments, **options)

        return counted

    calls = {"put": "put", "get": "get", "head": "head", "delete": "delete", "list_with_delimiter": "list"}
    fake = SimpleNamespace(list=obstore.list, **{n: counted(k, getattr(obstore, n)) for n, k in calls.items()})
    with (
        mock.patch.object(remote_objects, "obstore", fake),
        mock.patch.object(remote_objects, "make_client", return_value=client),
        mock.patch.object(remote_objects, "USUAL_RETRY", Retry(attempts=1)),
    ):
        yield FeatureStore.create("s3://memory/store")


def _sizes() -> dict[str, float]:
    with in_memory(Counter()) as store:
        rows = 1024
        with store.writer(_plan(rows=rows, dim=_FEATURE_DIM, shard_rows=rows), provenance={}) as writer:
            _append(writer, writer.missing_samples, _FEATURE_DIM)
        objects: Any = store.objects
        (folder,) = store.catalog.rows_folders()
        shard, record = (objects.head(f"{folder.path}/{name}") for name in (shard_object(0), commit_object(0)))
    return {"bytes_a_row": shard["size"] / rows, "bytes_a_record": float(record["size"])}


@contextmanager
def writing(rows: int) -> Iterator[Callable[[], None]]:
    """Open a writer of rows of 2,048 float32, and let it be given them."""
    with in_memory(Counter()) as store:
        writer = store.writer(_plan(rows=rows, dim=_FEATURE_DIM, shard_rows=1024), provenance={})
        contents_M3 = np.random.default_rng(1).integers(1, 2**63, (rows, 3)).astype(np.uint64)
        features_BD = np.random.default_rng(0).normal(size=(rows, _FEATURE_DIM)).astype(np.float32)

        def write() -> None:
            for start in range(0, rows, 256):
                samples = np.arange(start, start + 256)
                writer.offer(samples, contents_M3[samples])
                writer.append(samples, features_BD[samples])

        yield write
        writer.close()


@contextmanager
def planning(rows: int) -> Iterator[Callable[[], None]]:
    """Begin a set by its first part, and let the second be opened and closed."""
    with in_memory(Counter()) as store:
        with store.writer(_plan(rows=rows, shard_rows=1024), provenance={}, blocks=range(1)) as writer:
            _append(writer, writer.missing_samples)
        yield lambda: store.writer(_plan(rows=rows, shard_rows=1024), provenance={}, blocks=range(1, 2)).close()


def _image_bytes(rows: int = 100_000) -> float:
    from penultimate.engine.images.formats.tars import LocalTar
    from penultimate.engine.images.formats.webdataset import TarSource

    ids = ids_of(rows)
    offsets = np.arange(rows, dtype=np.int64)
    source = TarSource([LocalTar(Path("a.tar"))], np.zeros(rows, np.int32), offsets, offsets, location="/")
    images = set_of(ids, source)
    rng = np.random.default_rng(0)
    for row, (size, *halves) in enumerate(rng.integers(1, 2**63, (rows, 3)).tolist()):
        images.contents.remember(row, (size, *halves))
    return len(pickle.dumps(images)) / rows


def set_of(ids: Sequence[str], source: Any) -> ImageSet:
    return build_image_set(
        name="scaling",
        ids=ids,
        labels_N=np.full(len(ids), -1, np.int64),
        split_N=np.full(len(ids), "test"),
        class_names=(),
        metric="top1",
        source=source,
        provenance={},
    )


@contextmanager
def on_ray(workers: int) -> Iterator[None]:
    """Start Ray on this machine with ``workers`` one-CPU slots, however many cores there are: the tasks sleep."""
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    ray.init(address="local", num_cpus=workers, **options)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def sending(count: int) -> Iterator[Callable[[], None]]:
    """Let Ray's driver send tasks that do nothing, within ``on_ray``."""
    from penultimate.engine.runtime.ray_cluster import Cluster, Task, TaskResources

    cluster, tasks = Cluster(), [Task(name=str(number), call=_nothing) for number in range(count)]

    def send() -> None:
        assert not [one for one in cluster.run(tasks, TaskResources(cpus=1), log=print) if one.error]

    yield send


def _nothing(worker: Any) -> None:
    """Do nothing, as a task."""


WRITE = "checksum, encode and hand over a row of 2,048 float32, no network"
PLAN = "plan of a set, an image"
SEND = "a task that does nothing, two workers"

TIMED: Mapping[str, tuple[Setting, int]] = {
    WRITE: (partial(writing, 16_384), 16_384),
    PLAN: (partial(planning, 200_000), 200_000),
    SEND: (partial(sending, 100), 100),
}
"""Constant that is a time -> its setting, and the number of items of a turn."""


def constant_rows(found: Constants, laps: Sequence[Laps]) -> list[Row]:
    """Return the table of constants: times are medians over rounds, least to most in brackets."""
    row, plan, task = map(_seconds, laps)

    def requests(kinds: Mapping[str, float]) -> str:
        return ", ".join(f"{count:g} {kind.upper()}" for kind, count in kinds.items() if count)

    def microseconds(values: Sequence[float]) -> str:
        return f"{median_and_range([1e6 * value for value in values])} µs"

    cells = {
        "requests a shard": requests(found.requests_a_shard),
        "requests to open a part of a key that was begun": requests(found.requests_to_open),
        "requests to close a part that is not the last": requests(found.requests_to_close),
        "requests to complete a key, a shard": requests(found.requests_to_complete),
        "bytes a row, 2,048 float32": f"{found.bytes_a_row:,.2f}",
        "bytes a commit record": f"{found.bytes_a_record:,.0f}",
        WRITE: microseconds(row),
        PLAN: microseconds(plan),
        "bytes of an ImageSet of tar members, an image, as sent and held": f"{found.bytes_an_image:.1f}",
        SEND: f"{median_and_range([1e3 * value for value in task], '.1f')} ms",
    }
    return [{"constant": name, "measured": text} for name, text in cells.items()]
