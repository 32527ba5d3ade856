"""Measure what the host does for an extraction on a GPU: images a second with a decoder and a network that do nothing.

    python benchmarks/host_feed.py FOLDER --rounds 5
    python benchmarks/host_feed.py FOLDER --workers 16 --processes 2 --json

DaliGpuDecoder reads files, verifies and parses them and feeds them to DALI, whose graph takes everything and returns
black pixels. A round measures, all from the page cache:

    read     read_samples alone on one thread: read, verify, parse headers
    feed     the decoder's batches, on its own threads
    extract  a whole extraction into a new store, with a network that returns zeros

Wall-clock rates are those of the processes together; ``per CPU-second`` counts the user and system time of all, and is
what the host's cores allow where they are busy with nothing else. Several processes do a part of the images each, as
``penultimate extract --shard`` does.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from numpy.typing import NDArray

from penultimate.engine.extract.embed import embed_images
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.images.decode import dali_gpu_pipeline
from penultimate.engine.images.decode.dali_gpu import DaliGpuDecoder
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.decode.samples import groups_of, read_samples
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.images.subset import subset
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.runtime.partition import Partition
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import PENULTIMATE
from penultimate.store.provenance import library_versions, source_commit

# Shapes: N images, B images of a batch, D feature dimensions.

STAGES = ("read", "feed", "extract")

_SIDE = 8
"""Height and width of the black pixels: what a GPU holds costs the host nothing, so there is as little as may be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is measured."""

    folder: Path
    workers: int
    """Number of threads of a process that read."""

    processes: int = 1
    batch_size: int = 256
    resize: str = "whole"
    feature_dim: int = 1280

    @property
    def view(self) -> Preprocess:
        """Return the view that nothing is resized to; ``crop`` is fed a size and a corner for each image."""
        half = (0.5, 0.5, 0.5)
        crop_pct = 1.0 if self.resize == "whole" else 0.875
        return Preprocess(height=_SIDE, width=_SIDE, resize=self.resize, crop_pct=crop_pct, mean=half, std=half)  # type: ignore[arg-type]  # a choice of the parser


class NullBackbone:
    """A network that does nothing: every feature is zero."""

    name, weights_digest, precision = "null", "0" * 32, "float32"
    provenance: Mapping[str, Any] = {}

    def __init__(self, preprocess: Preprocess, feature_dim: int) -> None:
        self.preprocess, self.feature_dims = preprocess, {PENULTIMATE: feature_dim}

    def embed(self, images_BHWC: Pixels) -> dict[str, NDArray[np.float32]]:
        return {PENULTIMATE: np.zeros((len(images_BHWC), self.feature_dims[PENULTIMATE]), np.float32)}


def black(encoded: Any, views: Sequence[Preprocess], *, device: str) -> list[Any]:
    """Return DALI's graph from the files' bytes, sizes and corners to black pixels."""
    outputs = []
    for number, view in enumerate(views):
        pixels = fn.cast(encoded[0] * 0, dtype=types.UINT8) * types.Constant(np.zeros((_SIDE, _SIDE, 3), np.uint8))
        if view.resize == "crop":
            size = fn.external_source(name=f"size{number}", dtype=types.FLOAT, ndim=1)
            start = fn.external_source(name=f"start{number}", dtype=types.INT32, ndim=1)
            pixels += fn.cast(size[0] * 0, dtype=types.UINT8) + fn.cast(start[0] * 0, dtype=types.UINT8)
        outputs.append(fn.cast(pixels, dtype=types.UINT8))
    return outputs


@contextmanager
def doing_nothing() -> Iterator[None]:
    """Replace DALI's graph, within the context, by one that neither decodes nor resizes."""
    with patch.object(dali_gpu_pipeline, "views_of_files", black):
        yield


class Bench:
    """One process's part of the images, with a decoder that it keeps."""

    def __init__(self, work: Work, partition: Partition) -> None:
        whole = load_folder(work.folder, labels=False)
        rows = partition.indices(len(whole))
        self.images: ImageSet = subset(whole, np.arange(rows.start, rows.stop))
        self.work = work
        self.decoder = DaliGpuDecoder(num_workers=work.workers, device="cpu")

    def read(self) -> int:
        """Read every image on this thread."""
        groups = groups_of(range(len(self.images)), batch_size=self.work.batch_size)
        return sum(len(read_samples(self.images.source, group, upright=False)) for group in groups)

    def feed(self) -> int:
        """Take every batch of the decoder."""
        rows, views = np.arange(len(self.images)), [self.work.view]
        batches = self.decoder.batches(self.images, rows, views, batch_size=self.work.batch_size)
        return sum(len(batch.indices_B) for batch in batches)

    def extract(self) -> int:
        """Extract every image into a new store."""
        backbone = NullBackbone(self.work.view, self.work.feature_dim)
        extractor = Extractor(
            backbones=[backbone],
            decoder=self.decoder,
            batch_size=self.work.batch_size,
            threads=ThreadBudget(decode=self.work.workers, replicas=2, per_replica=1),
        )
        with tempfile.TemporaryDirectory() as folder:
            (extracted,) = embed_images(self.images, extractor, FeatureStore.create(Path(folder) / "store"))
            return extracted.features.num_rows

    def timed(self, stage: str) -> dict[str, float]:
        """Run a stage; return the images it did, its wall-clock seconds and its CPU seconds."""
        run: Callable[[], int] = getattr(self, stage)
        wall, busy = time.perf_counter(), _cpu_seconds()
        with doing_nothing():
            num_images = run()
        return {"images": num_images, "wall": time.perf_counter() - wall, "cpu": _cpu_seconds() - busy}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


_bench: Bench
"""The part of this process, where it is one of several."""


def _begin(work: Work, numbers: Any) -> None:
    global _bench
    with numbers.get_lock():
        index = numbers.value
        numbers.value += 1
    _bench = Bench(work, Partition(index=index, count=work.processes))
    for stage in STAGES:
        _bench.timed(stage)  # warm-up


def _timed_here(stage: str, begin: float) -> dict[str, float]:
    time.sleep(max(0.0, begin - time.time()))
    return _bench.timed(stage)


def measure(work: Work, *, rounds: int) -> dict[str, dict[str, Any]]:
    """Return for each stage the rates of all rounds, wall-clock and per CPU-second, after one that warms up."""
    found: dict[str, dict[str, Any]] = {stage: {"per_second": [], "per_cpu_second": []} for stage in STAGES}
    context = multiprocessing.get_context("spawn")
    numbers = context.Value("i", 0)
    with ProcessPoolExecutor(
        work.processes, mp_context=context, initializer=_begin, initargs=(work, numbers)
    ) as processes:
        for _ in range(work.processes):
            processes.submit(time.sleep, 1.0)  # so that every process is started
        for _ in range(rounds):
            for stage in STAGES:
                begin = time.time() + 0.2
                tasks = [processes.submit(_timed_here, stage, begin) for _ in range(work.processes)]
                parts = [task.result() for task in tasks]
                images = sum(part["images"] for part in parts)
                found[stage]["per_second"].append(images / max(part["wall"] for part in parts))
                found[stage]["per_cpu_second"].append(images / sum(part["cpu"] for part in parts))
    return found


def report(work: Work, found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return the table of a measurement, in Markdown."""
    lines = [
        f"{work.processes} process(es) of {work.workers} thread(s), batch {work.batch_size}, {work.resize}",
        "",
        "| stage | images/s, median | least to most | images per CPU-second, median | least to most |",
        "|---|---:|---:|---:|---:|",
    ]
    for stage, rates in found.items():
        cells = [
            cell
            for values in (rates["per_second"], rates["per_cpu_second"])
            for cell in (f"{median(values):,.0f}", f"{min(values):,.0f} to {max(values):,.0f}")
        ]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2, help="threads of a process that read")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--resize", choices=("whole", "crop"), default="whole")
    parser.add_argument("--feature-dim", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the rates of every round, and the machine")
    options = vars(parser.parse_args(arguments))
    rounds, as_json = options.pop("rounds"), options.pop("json")
    work = Work(**options)
    found = measure(work, rounds=rounds)
    if as_json:
        about = {"machine": machine(), "versions": library_versions(), "commit": source_commit()}
        print(json.dumps({"work": asdict(work) | {"folder": work.folder.name}, **about, "rates": found}))
    else:
        print(report(work, found))


if __name__ == "__main__":
    main(sys.argv[1:])
