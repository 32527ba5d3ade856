"""``bench store``: write, read and look up features in a store, beside plain files or objects at the same location."""

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from penultimate.engine.bench.features import EMBEDDING, drawn_contents, drawn_plan, pooled, write_features
from penultimate.engine.bench.plain_files import CAN_DROP, PlainFiles, drop_from_cache, sync_folder
from penultimate.engine.bench.timing.measurement import compared, other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Progress, TurnOptions, no_progress, take_turns
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.option_types import Count
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.objects.address import Address, is_address
from penultimate.store.objects.objects import Objects
from penultimate.store.objects.open import open_objects

# Shapes: N rows, D features, B of the rows.

_LOOK_UP_ROWS = 1024
"""Number of rows that are looked up by their position at once."""

_COLD = "Read, cold"
_BY_CONTENT = "Look-up of rows by the content of their images"
_BY_POSITION = f"Look-up of {_LOOK_UP_ROWS:,} rows by position"

_BATCH_ROWS = 4096
"""Number of rows that a probe reads at once."""


class StoreBench(TurnOptions):
    """All options of ``penultimate bench store`` besides the location."""

    rows: Count = 32_768
    """Rows to write and read."""

    dim: Count = 1280
    """Features of a row, float32."""


def bench_store(
    location: str, options: StoreBench, *, command: Sequence[str], progress: Progress = no_progress
) -> Report:
    """Measure a store in a new folder below ``location``, which is removed at the end.

    Raises InputError where ``location`` is no folder or bucket, and what the store raises.
    """
    with_folder = _scratch(location)
    objects = open_objects(with_folder)
    objects.check_parent()
    objects.prepare()
    try:
        bench = _Bench(objects, options)
        laps = take_turns(bench.contenders(), options.part(TurnOptions), progress=progress)
    finally:
        _remove(objects)
    looked_up = [each for each in laps if each.group in (_BY_CONTENT, _BY_POSITION)]
    moved = [each for each in laps if each not in looked_up]
    return Report(
        bench="store",
        title="The store beside plain files" if objects.is_local else "The store beside plain objects",
        command=command,
        settings={
            "rows": options.rows,
            "dim": options.dim,
            "dtype": "float32",
            "megabytes": round(options.rows * options.dim * 4e-6),
            "shard rows": bench.plan.shard_rows,
            "location": "local folder" if objects.is_local else Address.parse(with_folder).scheme,
        },
        measurements=[
            *compared(moved, unit="MB/s", size=options.dim * 4e-6),
            *compared(looked_up, unit="rows/s"),
        ],
        other_cores=other_cores(laps),
        findings=[
            "The rows read are those written, which is checked before anything is timed. The store's figures include "
            "what plain files do not have: checksums of every chunk and shard, columns, commit records and their syncs."
        ],
        not_measured=[_cold_reading(objects), "Not measured: other disks, servers and numbers of rows."],
    )


class _Bench:
    """A store and plain files with the same features."""

    def __init__(self, objects: Objects, options: StoreBench) -> None:
        self.objects = objects
        self.values_ND: NDArray[np.float32] = pooled(options.rows, options.dim)
        self.contents_N3 = drawn_contents(options.rows)
        self.plan = drawn_plan(np.zeros(options.rows, np.int64), options.dim)
        self.plain = PlainFiles(objects, self.values_ND, rows=self.plan.shard_rows)
        self.kept = FeatureStore.create(_below(objects, "store"))
        self._write(self.kept)
        np.testing.assert_array_equal(self._read().features, self.values_ND)

    def contenders(self) -> list[Contender]:
        """Return the contenders of each comparison, the plain one first."""
        reads = {
            self.plain.reader: self.plain.read,
            "FeatureSet.features": self._features,
            "FeatureSet.batches": self._batches,
        }
        num_rows = min(_LOOK_UP_ROWS, len(self.values_ND))
        rows_B = np.random.default_rng(0).permutation(len(self.values_ND))[:num_rows]
        by_position = {"FeatureSet.rows_at": lambda: len(self._read().rows_at(rows_B))}
        written = [
            self._contender("Write", self.plain.title, self.plain.write, prepare=self.plain.prepare),
            self._contender("Write", "FeatureWriter", self._write_again, prepare=self._make_way),
        ]
        found = {"Read": reads}
        if self.objects.is_local:
            found = {"Read, from the page cache": reads | {"Zarr alone": self._zarr_alone}}
            found |= {_COLD: reads} if CAN_DROP else {}
            by_position = {"numpy.load, mapped": lambda: self.plain.look_up(rows_B)} | by_position
        found |= {_BY_CONTENT: {"FeatureStore.num_known": self._known}, _BY_POSITION: by_position}
        return written + [self._contender(group, name, call) for group in found for name, call in found[group].items()]

    def _contender(
        self, group: str, name: str, call: Callable[[], int], *, prepare: Callable[[], object] = lambda: None
    ) -> Contender:
        def run() -> Iterator[int]:
            yield call()

        return Contender(
            name=name,
            group=group,
            run=run,
            prepare=partial(drop_from_cache, self.objects.folder) if group == _COLD else prepare,
            items=min(_LOOK_UP_ROWS, len(self.values_ND)) if group == _BY_POSITION else len(self.values_ND),
            threads=1 if name.startswith(("plain files", "numpy")) else usable_cores(),
        )

    def _write(self, store: FeatureStore) -> int:
        return write_features(store, self.plan, self.values_ND, self.contents_N3)

    def _write_again(self) -> int:
        return self._write(FeatureStore.create(_below(self.objects, "written")))

    def _make_way(self) -> None:
        self.objects.delete_folder("written")
        if self.objects.is_local:
            sync_folder(self.objects.folder)

    def _read(self) -> FeatureSet:
        store = FeatureStore(self.kept.address)
        return store.read(self.plan.key(self.contents_N3))

    def _features(self) -> int:
        return len(self._read().features)

    def _batches(self) -> int:
        return sum(len(batch_BD) for _, batch_BD in self._read().batches(_BATCH_ROWS))

    def _zarr_alone(self) -> int:
        """Read the same array as anybody does who has Zarr and not this project."""
        (path,) = (self.objects.folder / "store").glob("*/*/*/features")
        with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}):
            return len(np.asarray(zarr.open_array(path, mode="r")[:]))

    def _known(self) -> int:
        return FeatureStore(self.kept.address).num_known(EMBEDDING, self.contents_N3, failures=True)


def _scratch(location: str) -> str:
    """Return the location of a new folder below a folder or an address."""
    name = f"penultimate-bench-{secrets.token_hex(4)}"
    if not is_address(location):
        if not Path(location).is_dir():
            raise InputError(f"{location} is no folder; expected one to write to, or an s3://, gs:// or az:// address")
        return str(Path(location) / name)
    address = Address.parse(location)
    return str(replace(address, prefix="/".join(part for part in (address.prefix, name) if part)))


def _below(objects: Objects, folder: str) -> str:
    if objects.is_local:
        return str(objects.folder / folder)
    address = Address.parse(objects.address)
    return str(replace(address, prefix=f"{address.prefix}/{folder}"))


def _remove(objects: Objects) -> None:
    for folder in ("plain", "kept", "written", "store"):
        objects.delete_folder(folder)
    if objects.is_local:
        shutil.rmtree(objects.folder, ignore_errors=True)


def _cold_reading(objects: Objects) -> str:
    if not objects.is_local:
        return "Reading comes from the server, whose own caches are not known."
    if not CAN_DROP:
        return "Reading from a cold disk is not measured: this system cannot be asked to forget files."
    return "Cold means that the kernel was asked to forget the files' pages (posix_fadvise), as far as it does."
