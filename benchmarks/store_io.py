"""Compare the store's speed with ``numpy.load`` and with the disk, and the codec pipelines with each other.

Writes features of a usual size, reads them back, and writes the rates as a report:

    python benchmarks/store_io.py benchmarks/results/store_io_<yyyymm>.md [--rows 49152] [--rounds 5] [--folder .]

Each round runs every contender once, in an order that rotates from round to round; a first round warms up and is not
counted. "Cold" asks the kernel to drop the files' pages before each read (posix_fadvise), as far as it does.
"""

# Shapes: N rows, D features.

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.runtime.capabilities import machine
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.arrays import CodecPipeline, open_features
from penultimate.store.format.layout import SHARD_ROWS, shard_rows_for, variable_width
from penultimate.store.key import Embedding
from penultimate.store.plan import Plan
from penultimate.store.provenance import source_commit
from penultimate.store.rows import source

Contender = Callable[[], object]
"""A function that transfers all rows once."""

PIPELINES: tuple[CodecPipeline, ...] = ("zarr", "zarrs")
EMBEDDING = Embedding(
    backbone="random",
    weights="0" * 16,
    preprocess="0" * 16,
    decoder="none",
    precision="float32",
    dtype="float32",
)


def pooled(num_rows: int, dim: int) -> NDArray[np.float32]:
    """Draw (N, D) like pooled activations: not negative, a third of them zero. No codec depends on the values."""
    values_ND = np.random.default_rng(0).normal(0.4, 1.0, size=(num_rows, dim)).astype(np.float32)
    return np.maximum(values_ND, 0.0, out=values_ND)


@contextmanager
def through(pipeline: CodecPipeline) -> Iterator[None]:
    """Let the store read through this pipeline within the context."""

    def opened(objects: Any, path: str, **_: Any) -> Any:
        return open_features(objects, path, pipeline=pipeline)

    with mock.patch.object(source, "open_features", opened):
        yield


def write_store(folder: Path, values_ND: NDArray[np.float32]) -> FeatureStore:
    """Write a store with one key as extraction does: checksums, commit records and an fsync for each shard."""
    shutil.rmtree(folder, ignore_errors=True)
    store = FeatureStore.create(folder)
    num_rows, dim = values_ND.shape
    plan = Plan(
        dataset="bench",
        embedding=EMBEDDING,
        ids_M=variable_width([f"{row:07d}" for row in range(num_rows)]),
        labels_M=np.zeros(num_rows, np.int64),
        split_M=variable_width(["train"] * num_rows),
        class_names=("one",),
        metric="top1",
        feature_dim=dim,
        shard_rows=shard_rows_for(num_rows),
    )
    contents_N3 = np.random.default_rng(1).integers(1, 2**63, (num_rows, 3)).astype(np.uint64)
    with store.writer(plan, provenance={}) as writer:
        for start in range(0, num_rows, 256):
            rows = np.arange(start, min(start + 256, num_rows))
            writer.offer(rows, contents_N3[rows])
            writer.append(rows, values_ND[rows[0] : rows[-1] + 1])
    return store


def write_plain(folder: Path, values_ND: NDArray[np.float32]) -> None:
    """Write as many bytes in files of a shard's size, each synced, and nothing else: the disk's own rate."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for start in range(0, len(values_ND), SHARD_ROWS):
        with (folder / str(start)).open("wb", buffering=0) as file:
            file.write(values_ND[start : start + SHARD_ROWS].data)
            os.fsync(file.fileno())


def read_all(store: FeatureStore, pipeline: CodecPipeline) -> NDArray[Any]:
    with through(pipeline):
        return store.read(*store.keys()).features


def stream(store: FeatureStore, pipeline: CodecPipeline) -> float:
    with through(pipeline):
        return float(sum(features_BD[0, 0] for _, features_BD in store.read(*store.keys()).batches(4096)))


def drop_from_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def rounds_of(
    contenders: Mapping[str, Contender], rounds: int, before: Contender = lambda: None
) -> dict[str, list[float]]:
    """Return the seconds of each round; the first, which warms up, is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            before()
            began = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: values[1:] for name, values in seconds.items()}


def table(title: str, seconds: Mapping[str, list[float]], megabytes: float) -> str:
    """Return a table of median rates, their ranges over the rounds, and ratios to the first, round by round."""
    first = np.array(next(iter(seconds.values())))
    lines = [
        f"## {title}",
        "",
        "| what | MB/s, median | least to most | ratio to the first, median |",
        "|---|---:|---:|---:|",
    ]
    for name, values in seconds.items():
        rates, ratios = megabytes / np.array(values), first / np.array(values)
        lines.append(
            f"| {name} | {np.median(rates):,.0f} | {rates.min():,.0f} to {rates.max():,.0f} | {np.median(ratios):.2f} |"
        )
    return "\n".join(lines)


def report(num_rows: int, dim: int, rounds: int, folder: Path) -> str:
    """Return the whole report as Markdown."""
    values_ND = pooled(num_rows, dim)
    megabytes = values_ND.nbytes / 1e6
    with TemporaryDirectory(dir=folder) as work:
        folder = Path(work)
        np.save(folder / "features.npy", values_ND)
        store = write_store(folder / "store", values_ND)
        for pipeline in PIPELINES:
            assert np.array_equal(read_all(store, pipeline), values_ND)
        whole: dict[str, Contender] = {"numpy.load": lambda: np.load(folder / "features.npy")}
        whole |= {f"FeatureSet.features, {name}": partial(read_all, store, name) for name in PIPELINES}
        whole |= {f"FeatureSet.batches, {name}": partial(stream, store, name) for name in PIPELINES}
        writes: dict[str, Contender] = {"plain files, synced": lambda: write_plain(folder / "plain", values_ND)}
        writes |= {"FeatureWriter": partial(write_store, folder / "written", values_ND)}
        parts = [
            table("Reading, from the page cache", rounds_of(whole, rounds), megabytes),
            table("Reading, cold", rounds_of(whole, rounds, lambda: drop_from_cache(folder)), megabytes),
            table("Writing", rounds_of(writes, rounds), megabytes),
        ]
    return "\n\n".join([_head(num_rows, dim, rounds, megabytes), *parts]) + "\n"


def _head(num_rows: int, dim: int, rounds: int, megabytes: float) -> str:
    about = machine()
    versions = ", ".join(f"{name} {version(name)}" for name in ("zarr", "zarrs", "numpy"))
    return (
        "# The store beside numpy.load and the disk\n\n"
        f"`{shlex.join(['python', *sys.argv])}`: {num_rows:,} x {dim:,} float32 ({megabytes:,.0f} MB), {rounds} rounds "
        f"after one that warms up, interleaved; {about['processor']}, {about['cores']} cores, {about['memory_gib']} "
        f"GiB; {versions}; commit {source_commit()}. Written by the script. The values read are those written, checked "
        "before timing; `tests/store/format/test_arrays.py` holds that damage is noticed through either pipeline. The "
        "store's figures include what `numpy.load` and plain files do not do: a CRC-32C of every chunk, and in writing "
        "the columns, an XXH3 of every shard, commit records and their syncs. Other machines, disks, object stores and "
        "GPUs were not measured."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--rows", type=int, default=49_152)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path())
    arguments = parser.parse_args()
    arguments.report.write_text(report(arguments.rows, arguments.dim, arguments.rounds, arguments.folder))


if __name__ == "__main__":
    main()
