"""Compare the store's speed with ``numpy.load``, with the disk, with Zarr and with an earlier commit.

Writes features of a usual size, reads them back, and writes the rates as a report:

    python benchmarks/store_io.py benchmarks/results/store_io_<yyyymm>.md [--rows 49152] [--rounds 5] [--folder .]
        [--before CHECKOUT]

Each round runs every contender once, in an order that rotates from round to round; a first round warms up and is not
counted. "Cold" asks the kernel to drop the files' pages before each read (posix_fadvise), as far as it does. The store
runs in a process of its own, so that the one of CHECKOUT, a folder with the sources of an earlier commit, can take its
turns in the same rounds.
"""

# Shapes: N rows, D features.

import argparse
import os
import shlex
import shutil
import subprocess
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
import zarr
from numpy.typing import NDArray

from penultimate.engine.runtime.capabilities import machine
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format import layout
from penultimate.store.format.layout import variable_width
from penultimate.store.key import Embedding
from penultimate.store.plan import Plan
from penultimate.store.provenance import source_commit

Contender = Callable[[], object]
"""A function that transfers all rows once; if it returns a float, these are the seconds that it took elsewhere."""

PIPELINES = {"Zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs": "zarrs.ZarrsCodecPipeline"}

LAYOUTS = ((1024, 256), (1024, 64), (4096, 64), (8192, 64))
"""Rows of a shard and of a chunk; an earlier commit is measured with the first."""


def pooled(num_rows: int, dim: int) -> NDArray[np.float32]:
    """Draw (N, D) like pooled activations: not negative, a third of them zero. No codec depends on the values."""
    values_ND = np.random.default_rng(0).normal(0.4, 1.0, size=(num_rows, dim)).astype(np.float32)
    return np.maximum(values_ND, 0.0, out=values_ND)


def write_store(folder: Path, values_ND: NDArray[np.float32], *, shard_rows: int, chunk_rows: int) -> FeatureStore:
    """Write a store with one key as extraction does: checksums, commit records and what makes a kill harmless."""
    store = FeatureStore.create(folder)
    num_rows, dim = values_ND.shape
    embedding = Embedding(
        backbone="random", weights="0" * 16, preprocess="0" * 16, decoder="none", precision="float32", dtype="float32"
    )
    with mock.patch.object(layout, "CHUNK_ROWS", chunk_rows):
        plan = Plan(
            dataset="bench",
            embedding=embedding,
            ids_M=variable_width([f"{row:07d}" for row in range(num_rows)]),
            labels_M=np.zeros(num_rows, np.int64),
            split_M=variable_width(["train"] * num_rows),
            class_names=("one",),
            metric="top1",
            feature_dim=dim,
            shard_rows=shard_rows,
        )
        with store.writer(plan, provenance={}) as writer:
            for start in range(0, num_rows, 256):
                rows = np.arange(start, min(start + 256, num_rows))
                writer.append(rows, values_ND[rows[0] : rows[-1] + 1])
    return store


def write_plain(folder: Path, values_ND: NDArray[np.float32], *, file_rows: int) -> None:
    """Write as many bytes in files of a shard's size, each synced, and nothing else: the disk's own rate."""
    folder.mkdir()
    for start in range(0, len(values_ND), file_rows):
        with (folder / str(start)).open("wb", buffering=0) as file:
            file.write(values_ND[start : start + file_rows].data)
            os.fsync(file.fileno())


def the_set(folder: Path) -> FeatureSet:
    store = FeatureStore(folder)
    (key,) = store.keys()
    return store.read(key)


def read_all(folder: Path) -> NDArray[Any]:
    return the_set(folder).features


def stream(folder: Path) -> float:
    return float(sum(features_BD[0, 0] for _, features_BD in the_set(folder).batches(4096)))


def read_through(pipeline: str, folder: Path) -> NDArray[Any]:
    """Read the same array as anybody does who has Zarr and not this project."""
    (path,) = folder.glob("*/*/*/features")
    with zarr.config.set({"codec_pipeline.path": PIPELINES[pipeline]}):
        return np.asarray(zarr.open_array(path, mode="r")[:])


def serve(num_rows: int, dim: int) -> None:
    """Transfer features as each line of stdin says, and print the seconds: ``CALL FOLDER SHARD_ROWS CHUNK_ROWS``."""
    values_ND = pooled(num_rows, dim)
    calls: dict[str, Callable[..., object]] = {
        "write": lambda folder, **rows: write_store(folder, values_ND, **rows),
        "read": lambda folder, **rows: read_all(folder),
        "stream": lambda folder, **rows: stream(folder),
        "check": lambda folder, **rows: np.testing.assert_array_equal(read_all(folder), values_ND),
    }
    for line in sys.stdin:
        call, folder, shard_rows, chunk_rows = line.split("\t")
        began = time.perf_counter()
        calls[call](Path(folder), shard_rows=int(shard_rows), chunk_rows=int(chunk_rows))
        print(time.perf_counter() - began, flush=True)


class StoreProcess:
    """The store of one checkout, in a process that waits for calls."""

    def __init__(self, checkout: Path, num_rows: int, dim: int) -> None:
        script = checkout / "benchmarks" / Path(__file__).name  # of that commit, which knows its store
        command = [sys.executable, str(script), "--serve", "--rows", str(num_rows), "--dim", str(dim)]
        environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
        pipe: Any = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def __call__(self, call: str, folder: Path, shard_rows: int = 1024, chunk_rows: int = 256) -> float:
        """Return the seconds of one call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{call}\t{folder}\t{shard_rows}\t{chunk_rows}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@contextmanager
def processes(checkouts: Mapping[str, Path], num_rows: int, dim: int) -> Iterator[dict[str, StoreProcess]]:
    """Yield the store of each checkout by name."""
    found = {name: StoreProcess(checkout, num_rows, dim) for name, checkout in checkouts.items()}
    try:
        yield found
    finally:
        for process in found.values():
            process.end()


def drop_from_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def make_way(folder: Path) -> None:
    """Remove what was written, on the disk as well, so that only writing is timed."""
    shutil.rmtree(folder, ignore_errors=True)
    handle = os.open(folder.parent, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def rounds_of(
    contenders: Mapping[str, Contender], rounds: int, before: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Return the seconds of each round; the first, which warms up, is dropped. ``before`` each call is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            before()
            began = time.perf_counter()
            result = contenders[name]()
            seconds[name].append(result if isinstance(result, float) else time.perf_counter() - began)
    return {name: values[1:] for name, values in seconds.items()}


def table(title: str, seconds: Mapping[str, list[float]], megabytes: float) -> str:
    """Return a table of median rates, their ranges over the rounds, and ratios to the first.

    Ratios are those of each round, and that of the fastest rounds, which other processes disturb least.
    """
    first = np.array(next(iter(seconds.values())))
    lines = [
        f"## {title}",
        "",
        "| what | MB/s, median | least to most | ratio to the first, median | of the fastest |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, values in seconds.items():
        rates, ratios = megabytes / np.array(values), first / np.array(values)
        lines.append(
            f"| {name} | {np.median(rates):,.0f} | {rates.min():,.0f} to {rates.max():,.0f} | "
            f"{np.median(ratios):.2f} | {first.min() / min(values):.2f} |"
        )
    return "\n".join(lines)


def report(num_rows: int, dim: int, rounds: int, folder: Path, before: Path | None = None) -> str:
    """Return the whole report as Markdown."""
    values_ND = pooled(num_rows, dim)
    megabytes = values_ND.nbytes / 1e6
    load = os.getloadavg()[0]
    checkouts = {"": Path(__file__).parents[1], **({} if before is None else {"before: ": before})}
    with TemporaryDirectory(dir=folder) as work, processes(checkouts, num_rows, dim) as stores:
        folder = Path(work)
        np.save(folder / "features.npy", values_ND)
        reads: dict[str, Contender] = {"numpy.load": partial(np.load, folder / "features.npy")}
        writes: dict[int, dict[str, Contender]] = {}
        written = folder / "written"
        for name, store in stores.items():
            for shard_rows, chunk_rows in LAYOUTS if name == "" else LAYOUTS[:1]:
                about = f"shards of {shard_rows}, chunks of {chunk_rows}"
                kept = folder / f"{name.strip(': ')}{shard_rows}-{chunk_rows}"
                store("write", kept, shard_rows, chunk_rows)
                store("check", kept)
                reads[f"{name}FeatureSet.features, {about}"] = partial(store, "read", kept)
                reads[f"{name}FeatureSet.batches, {about}"] = partial(store, "stream", kept)
                plain = {"plain files, synced": partial(write_plain, written, values_ND, file_rows=shard_rows)}
                among = writes.setdefault(shard_rows, {**plain})
                among[f"{name}FeatureWriter, {about}"] = partial(store, "write", written, shard_rows, chunk_rows)
        first = folder / "{}-{}".format(*LAYOUTS[0])
        reads |= {f"{name} alone, of the first store": partial(read_through, name, first) for name in PIPELINES}
        parts = [
            table("Reading, from the page cache", rounds_of(reads, rounds), megabytes),
            table("Reading, cold", rounds_of(reads, rounds, partial(drop_from_cache, folder)), megabytes),
        ]
        for shard_rows, among in writes.items():
            seconds = rounds_of(among, rounds, partial(make_way, written))
            parts.append(table(f"Writing, {shard_rows:,} rows a file", seconds, megabytes))
    head = _head(num_rows, dim, rounds, megabytes)
    busy = (
        f"The machine's load was {load:.1f} before and {os.getloadavg()[0]:.1f} after, which includes this script's "
        "own two processes. More than the number of cores means that others took part of them: the store needs the "
        "processor, plain files hardly do."
    )
    return "\n\n".join([head, busy, *parts]) + "\n"


def _head(num_rows: int, dim: int, rounds: int, megabytes: float) -> str:
    about = machine()
    versions = ", ".join(f"{name} {version(name)}" for name in ("zarr", "zarrs", "numpy"))
    return (
        "# The store beside numpy.load and the disk\n\n"
        f"`{shlex.join(['python', *sys.argv])}`: {num_rows:,} x {dim:,} float32 ({megabytes:,.0f} MB), {rounds} rounds "
        f"after one that warms up, interleaved; {about['processor']}, {about['cores']} cores, {about['memory_gib']} "
        f"GiB; {versions}; commit {source_commit()}. Written by the script. The values read are those written, checked "
        "before timing; `tests/store/format/test_shard_codec.py` holds that every damaged byte is noticed. The "
        "store's figures include what `numpy.load` and plain files do not do: a CRC-32C of every chunk, and in writing "
        "the columns, an XXH3 of every shard, commit records and their syncs. Other machines, disks, object stores and "
        "GPUs were not measured."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?")
    parser.add_argument("--before", type=Path, help="folder with the sources of an earlier commit, to compare with")
    parser.add_argument("--serve", action="store_true", help="be the process of one store; used by the script itself")
    parser.add_argument("--rows", type=int, default=49_152)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path())
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.rows, arguments.dim)
    elif arguments.report is None:
        parser.error("expected the path of the report to write")
    else:
        text = report(arguments.rows, arguments.dim, arguments.rounds, arguments.folder, arguments.before)
        arguments.report.write_text(text)


if __name__ == "__main__":
    main()
