"""Measure how extraction scales: constants on this machine, a check with a backbone that sleeps, a simulation.

    python benchmarks/scaling.py constants scaling.json           # requests, bytes and seconds of the store and of Ray
    python benchmarks/scaling.py workers scaling.json --rounds 3  # 1, 2 and 4 local workers that wait, not compute
    python benchmarks/scaling.py simulate scaling.json            # to 1,000 workers and a billion images; Markdown

Nothing here was measured on a GPU or against a real object store: what stands in for that is said in
``scaling_simulation.py``.
"""

import argparse
import json
import logging
import os
import pickle
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scaling_simulation import Constants, tables

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.layout import commit_object, shard_object, variable_width
from penultimate.store.key import PENULTIMATE, Embedding
from penultimate.store.objects import remote as remote_objects
from penultimate.store.objects.retry import Retry
from penultimate.store.plan import Plan
from penultimate.store.provenance import source_commit
from penultimate.store.writer.feature_writer import FeatureWriter
from penultimate.store.writer.waiting_blocks import WaitingBlocks

# Shapes: B images of a batch, D feature dimensions.

KINDS = ("put", "get", "head", "list", "delete")
_FEATURE_DIM = 2048


def measure(rounds: int) -> Constants:
    """Measure all constants on this machine."""
    small, large = _counted(shards=16), _counted(shards=32)
    complete = {kind: (large["close last"][kind] - small["close last"][kind]) / 16 for kind in KINDS}
    timed = {
        "seconds_a_row": [_write_seconds() for _ in range(rounds)],
        "seconds_a_planned_image": [_plan_seconds() for _ in range(rounds)],
        "seconds_a_task": _task_seconds(rounds),
    }
    return Constants(
        requests_a_shard={kind: count // 4 for kind, count in small["4 shards"].items() if count},
        requests_to_open=dict(small["open"]),
        requests_to_close=dict(small["close"]),
        requests_to_complete={kind: count for kind, count in complete.items() if count},
        **_sizes(),
        bytes_an_image=_image_bytes(),
        **{name: median(seconds) for name, seconds in timed.items()},
        spread={name: [min(seconds), max(seconds)] for name, seconds in timed.items()},
    )


def _counted(*, shards: int) -> dict[str, Counter[str]]:
    """Count the requests of each step of two writers of one set, in memory."""
    counts: Counter[str] = Counter()
    steps: dict[str, Counter[str]] = {}

    def step(name: str) -> None:
        steps[name] = Counter(counts)
        counts.clear()

    with _in_memory(counts) as store:
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
        with mock.patch.object(
            second, "_waiting", WaitingBlocks(plan, ())
        ):  # as of a part that is done, in a set that is not
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


def _ids(rows: int) -> list[str]:
    return [f"shard-{row // 10_000:06d}/{row:09d}" for row in range(rows)]


def _plan(*, rows: int, dim: int = 8, shard_rows: int = 16) -> Plan:
    return Plan(
        dataset="scaling",
        embedding=EMBEDDING,
        ids_M=variable_width(_ids(rows)),
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


class _in_memory:  # noqa: N801 (used as a function)
    """A store in obstore's memory that counts every request."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts

    def __enter__(self) -> FeatureStore:
        import obstore
        from obstore.store import MemoryStore

        client = MemoryStore()

        def counted(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any, **options: Any) -> Any:
                self._counts[kind] += 1
                return call(*arguments, **options)

            return counted

        calls = {"put": "put", "get": "get", "head": "head", "delete": "delete", "list_with_delimiter": "list"}
        fake = SimpleNamespace(list=obstore.list, **{n: counted(k, getattr(obstore, n)) for n, k in calls.items()})
        self._patches: list[Any] = [
            mock.patch.object(remote_objects, "obstore", fake),
            mock.patch.object(remote_objects, "make_client", return_value=client),
            mock.patch.object(remote_objects, "USUAL_RETRY", Retry(attempts=1)),
        ]
        for patch in self._patches:
            patch.start()
        return FeatureStore.create("s3://memory/store")

    def __exit__(self, *error: object) -> None:
        for patch in self._patches:
            patch.stop()


def _sizes() -> dict[str, float]:
    with _in_memory(Counter()) as store:
        rows = 1024
        with store.writer(_plan(rows=rows, dim=_FEATURE_DIM, shard_rows=rows), provenance={}) as writer:
            _append(writer, writer.missing_samples, _FEATURE_DIM)
        objects: Any = store.objects
        (folder,) = store.catalog.rows_folders()
        shard, record = (objects.head(f"{folder.path}/{name}") for name in (shard_object(0), commit_object(0)))
    return {"bytes_a_row": shard["size"] / rows, "bytes_a_record": float(record["size"])}


def _write_seconds(rows: int = 16_384) -> float:
    with _in_memory(Counter()) as store:
        writer = store.writer(_plan(rows=rows, dim=_FEATURE_DIM, shard_rows=1024), provenance={})
        contents_M3 = np.random.default_rng(1).integers(1, 2**63, (rows, 3)).astype(np.uint64)
        features_BD = np.random.default_rng(0).normal(size=(rows, _FEATURE_DIM)).astype(np.float32)
        began = time.perf_counter()
        for start in range(0, rows, 256):
            samples = np.arange(start, start + 256)
            writer.offer(samples, contents_M3[samples])
            writer.append(samples, features_BD[samples])
        seconds = time.perf_counter() - began
        writer.close()
    return seconds / rows


def _plan_seconds(rows: int = 200_000) -> float:
    with _in_memory(Counter()) as store:
        with store.writer(_plan(rows=rows, shard_rows=1024), provenance={}, blocks=range(1)) as writer:
            _append(writer, writer.missing_samples)
        began = time.perf_counter()
        store.writer(_plan(rows=rows, shard_rows=1024), provenance={}, blocks=range(1, 2)).close()
        return (time.perf_counter() - began) / rows


def _image_bytes(rows: int = 100_000) -> float:
    from penultimate.engine.images.formats.tars import LocalTar
    from penultimate.engine.images.formats.webdataset import TarSource

    ids = _ids(rows)
    offsets = np.arange(rows, dtype=np.int64)
    source = TarSource([LocalTar(Path("a.tar"))], np.zeros(rows, np.int32), offsets, offsets, location="/")
    images = _set_of(ids, source)
    rng = np.random.default_rng(0)
    for row, (size, *halves) in enumerate(rng.integers(1, 2**63, (rows, 3)).tolist()):
        images.contents.remember(row, (size, *halves))
    return len(pickle.dumps(images)) / rows


def _set_of(ids: Sequence[str], source: Any) -> ImageSet:
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


def _task_seconds(rounds: int, count: int = 100) -> list[float]:
    from penultimate.engine.runtime.ray_cluster import Cluster, Task, TaskResources

    found = []
    with _ray(workers=2):
        cluster = Cluster()
        tasks = [Task(name=str(number), call=_nothing) for number in range(count)]
        list(cluster.run(tasks[:8], TaskResources(cpus=1), log=print))  # workers import what they need
        for _ in range(rounds):
            began = time.perf_counter()
            assert not [one for one in cluster.run(tasks, TaskResources(cpus=1), log=print) if one.error]
            found.append((time.perf_counter() - began) / count)
    return found


def _nothing(worker: Any) -> None:
    """Do nothing, as a task."""


class _ray:  # noqa: N801 (used as a function)
    """Start Ray on this machine with ``workers`` one-CPU slots, however many cores there are: the tasks sleep."""

    def __init__(self, *, workers: int) -> None:
        self._workers = workers

    def __enter__(self) -> None:
        import ray

        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        ray.init(address="local", num_cpus=self._workers, **options)

    def __exit__(self, *error: object) -> None:
        import ray

        ray.shutdown()


class SleepingBackbone:
    """A backbone that takes a fixed time for each image and no core, so that workers have no common bottleneck."""

    name = weights_digest = "sleeper"
    feature_dims: Mapping[str, int] = {PENULTIMATE: 64}
    precision = "float32"
    preprocess = Preprocess(height=8, width=8, resize="whole", mean=(0.5,) * 3, std=(0.5,) * 3)
    provenance: Mapping[str, Any] = {}

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def embed(self, images_BHWC: Pixels) -> dict[str, NDArray[np.float32]]:
        time.sleep(self._seconds * len(images_BHWC))
        means_B3 = np.asarray(images_BHWC, np.float32).mean(axis=(1, 2))
        return {PENULTIMATE: np.tile(means_B3, (1, 22))[:, : self.feature_dims[PENULTIMATE]]}


@dataclass(frozen=True)
class Sleeping:
    """A Preparation that makes a SleepingBackbone."""

    seconds: float
    shard_rows: int = 128

    def prepare(self, images: ImageSet, store: FeatureStore, log: Any) -> Any:
        from penultimate.engine.extract.extractor import Extractor
        from penultimate.engine.images.decode.pillow import PillowDecoder
        from penultimate.engine.runtime.threads import ThreadBudget

        return Extractor(
            backbones=[SleepingBackbone(self.seconds)],
            decoder=PillowDecoder(num_workers=1),
            batch_size=32,
            dtype="float32",
            shard_rows=self.shard_rows,
            threads=ThreadBudget(decode=1, replicas=1, per_replica=1),
        )

    def check(self, extractor: Any, images: ImageSet, store: FeatureStore, log: Any) -> dict[str, Any]:
        return {}


def rates(*, workers: Sequence[int], images: int, seconds: float, rounds: int) -> dict[int, list[float]]:
    """Measure images/s of an extraction by so many workers in each round; the store is checked each time."""
    from penultimate.engine.images.sources import ArraySource
    from penultimate.engine.runtime.ray_cluster import Cluster, TaskResources
    from penultimate.engine.study.distributed import PARTS_PER_SLOT, extract_on

    whole = 128 * PARTS_PER_SLOT * max(workers)
    if images % whole:
        raise SystemExit(f"--images must be a multiple of {whole}: else some worker has a part more than the others")
    pixels = np.random.default_rng(0).integers(0, 256, (images, 8, 8, 3), dtype=np.uint8)
    ids = _ids(images)
    image_set = _set_of(ids, ArraySource(pixels, "memory"))
    found: dict[int, list[float]] = {count: [] for count in workers}
    for number in range(rounds):
        for count in workers[number % len(workers) :] + workers[: number % len(workers)]:  # type: ignore[operator]
            with _ray(workers=count), tempfile.TemporaryDirectory() as folder:

                def run(name: str, images: ImageSet, count: int = count, folder: str = folder) -> float:
                    store = FeatureStore.create(Path(folder) / name)
                    began = time.perf_counter()
                    (extracted,) = extract_on(
                        Cluster(),
                        images,
                        Sleeping(seconds),
                        store,
                        resources=TaskResources(cpus=1),
                        log=lambda line: None,
                        progress=lambda progress: None,
                    )
                    took = time.perf_counter() - began
                    expected_B3 = pixels[:5].astype(np.float32).mean(axis=(1, 2))
                    np.testing.assert_allclose(
                        extracted.features.features[:5, :3], expected_B3, rtol=1e-6
                    )  # float32 sums
                    return took

                run("warm", image_set if len(image_set) <= 512 else _head(image_set, pixels))
                found[count].append(images / run("timed", image_set))
    return found


def _head(images: ImageSet, pixels: NDArray[np.uint8]) -> ImageSet:
    """The first 512 images: every worker is begun and has imported what it needs."""
    from penultimate.engine.images.sources import ArraySource

    return _set_of(images.ids_N[:512].tolist(), ArraySource(pixels[:512], "memory"))


def _efficiencies(found: Mapping[int, Sequence[float]]) -> dict[int, list[float]]:
    """Return the rate divided by the number of workers and by the rate of one worker in the same round."""
    return {
        count: [rate / (count * one) for rate, one in zip(values, found[1], strict=True)]
        for count, values in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("constants", "workers", "simulate"))
    parser.add_argument("file", type=Path, help="JSON that measurements are kept in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=0.01, help="that the backbone sleeps an image")
    options = parser.parse_args()
    kept = json.loads(options.file.read_text()) if options.file.exists() else {}
    about = {"machine": machine(), "commit": source_commit(), "command": " ".join(sys.argv)}
    if options.what == "constants":
        kept["constants"] = asdict(measure(options.rounds)) | {"about": about}
    elif options.what == "workers":
        found = rates(workers=[1, 2, 4], images=options.images, seconds=options.seconds, rounds=options.rounds)
        kept["workers"] = {"images/s": found, "of linear": _efficiencies(found), "about": about}
    else:
        values = {name: value for name, value in kept["constants"].items() if name != "about"}
        print(tables(Constants(**values)))
        return
    options.file.write_text(json.dumps(kept, indent=2))
    print(json.dumps(kept[options.what], indent=2))


if __name__ == "__main__":
    main()
