"""Measure what the host does for an extraction on a GPU: images a second with a decoder and a network that do nothing.

    python benchmarks/host_feed.py FOLDER --out REPORT.md
    python benchmarks/host_feed.py FOLDER --layouts 2x8 --resize crop --out REPORT.md

DaliGpuDecoder reads files, verifies and parses them and feeds them to DALI, whose graph takes everything and returns
black pixels. A round measures, all from the page cache:

    read     read_samples alone on one thread: read, verify, parse headers
    feed     the decoder's batches, on its own threads
    extract  a whole extraction into a new store, with a network that returns zeros

A layout ``2x8`` is two processes that read on eight threads each; each does a part of the images, as ``penultimate
extract --shard`` does. Wall-clock rates are those of the processes together; images per CPU-second count the user and
system time of all, and are what the host's cores allow where they are busy with nothing else.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from numpy.typing import NDArray

from penultimate.engine.bench.timing.cells import Row
from penultimate.engine.bench.timing.cells import number as text_of
from penultimate.engine.bench.timing.measurement import compared, other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Laps, TurnOptions, take_turns
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
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.partition import Partition
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import PENULTIMATE

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
    def title(self) -> str:
        """Return what sets this work apart from others of the same images."""
        return f"{self.processes} x {self.workers}, {self.resize}"

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

    def run(self, stage: str) -> int:
        """Run a stage; return the number of images it did."""
        stages: dict[str, Callable[[], int]] = {"read": self.read, "feed": self.feed, "extract": self.extract}
        with doing_nothing():
            return stages[stage]()


_bench: Bench
"""The part of this process, of one of a layout's."""


def _begin(work: Work, numbers: Any) -> None:
    global _bench
    with numbers.get_lock():
        index = numbers.value
        numbers.value += 1
    _bench = Bench(work, Partition(index=index, count=work.processes))


def _run_here(stage: str) -> int:
    return _bench.run(stage)


@contextmanager
def processes_of(work: Work) -> Iterator[ProcessPoolExecutor]:
    """Start the processes of a layout, each with its part of the images."""
    context = multiprocessing.get_context("spawn")
    numbers = context.Value("i", 0)
    with ProcessPoolExecutor(
        work.processes, mp_context=context, initializer=_begin, initargs=(work, numbers)
    ) as processes:
        for task in [processes.submit(time.sleep, 1.0) for _ in range(work.processes)]:
            task.result()  # so that every process is started
        yield processes


def _turn(processes: ProcessPoolExecutor, stage: str, count: int) -> Iterator[int]:
    tasks = [processes.submit(_run_here, stage) for _ in range(count)]
    yield sum(task.result() for task in tasks)


def measure(works: Sequence[Work], options: TurnOptions) -> list[Laps]:
    """Return the laps of every stage of every layout, which take turns."""
    num_images = len(load_folder(works[0].folder, labels=False))
    with ExitStack() as stack:
        contenders = []
        for work in works:
            processes = stack.enter_context(processes_of(work))
            contenders += [
                Contender(
                    name=stage,
                    group=work.title,
                    run=partial(_turn, processes, stage, work.processes),
                    items=num_images,
                )
                for stage in STAGES
            ]
        return take_turns(contenders, options)


def report(works: Sequence[Work], options: TurnOptions) -> Report:
    """Measure and return the report."""
    laps = measure(works, options)
    work = works[0]
    num_bytes = sum(path.stat().st_size for path in work.folder.rglob("*") if path.is_file())
    return Report(
        bench="host_feed",
        title="What the host does for a GPU, without one",
        settings={
            "images": laps[0].warm_up.items,
            "megabytes": round(num_bytes / 1e6),
            "batch size": work.batch_size,
            "features": work.feature_dim,
            "layouts": "processes x threads that read, resize",
        },
        measurements=compared(laps, unit="images/s"),
        other_cores=other_cores(laps),
        tables={"Images per second of a core": [_per_core(each) for each in laps]},
        not_measured=["Any GPU, any decoding, more cores than this machine has, cold or remote storage."],
    )


def _per_core(laps: Laps) -> Row:
    """Return the images that a stage does in a second of processor time, user and system, of all its processes."""
    rates = [lap.items / (lap.self_seconds * usable_cores()) for lap in laps.rounds]
    return {
        "layout": laps.group,
        "stage": laps.name,
        "median": text_of(median(rates)),
        "least to most": f"{text_of(min(rates))} to {text_of(max(rates))}",
    }


def main(arguments: Sequence[str]) -> None:
    """Measure, print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="report to write, .md; the JSON lies beside it")
    parser.add_argument("--layouts", nargs="+", default=["1x2", "2x1"], help="processes x threads of each that read")
    parser.add_argument("--resize", nargs="+", choices=("whole", "crop"), default=["whole"])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--feature-dim", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args(arguments)
    layouts = [tuple(map(int, layout.split("x"))) for layout in given.layouts]
    sizes = {"batch_size": given.batch_size, "feature_dim": given.feature_dim}
    works = [
        Work(folder=given.folder, processes=processes, workers=workers, resize=resize, **sizes)
        for processes, workers in layouts
        for resize in given.resize
    ]
    options = TurnOptions(seconds=given.seconds, rounds=given.rounds)
    made = report(works, options)
    made.write(given.out)
    print(made.markdown())


if __name__ == "__main__":
    main(sys.argv[1:])
