"""Measure what an extraction reads of a set, wherever that lies, and how fast images come from an object store.

    python benchmarks/remote_reads.py REPORT --images FOLDER [--latency-ms 20] [--folder .]

FOLDER has one folder a class. The same photographs are extracted from a copy of the folder (hard links), from
WebDataset tars of it, and from both in an object store: the tars by their addresses, the photographs by a manifest.
Each extraction is a process of its own. Of local files its bytes are those that system calls read (``rchar`` of
proc(5)), with the files dropped from the page cache before; of an object store those that the server answered with.
The server is ``object_server``, on this machine, each of whose answers comes after the latency.
"""

import argparse
import csv
import os
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from growing_store import MODEL, bytes_read, link
from object_server import ENVIRONMENT, ObjectServer, object_server

from penultimate.engine.bench.plain_files import drop_from_cache
from penultimate.engine.bench.timing.cells import Row
from penultimate.engine.bench.timing.measurement import compared, other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Laps, TurnOptions, take_turns, timed_call

TAR_IMAGES = 1000
AT_ONCE = (1, 2, 8, 16, 32, 64, 128)
"""Numbers of requests in flight of which each is timed. Two are what a machine of two cores had before."""


class Extraction(NamedTuple):
    """One extraction."""

    name: str
    num_images: int
    set_bytes: int
    bytes_read: int
    requests: int | None
    seconds: float


def write_set(images: Path, root: Path) -> None:
    """Write the set in three forms below ``root``: ``photos/``, ``tars/`` and ``labels.csv``."""
    files = sorted(path for path in images.glob("*/*") if path.is_file())
    (root / "tars").mkdir()
    for path in files:
        link(path, root / "photos" / path.relative_to(images))
    for first in range(0, len(files), TAR_IMAGES):
        with tarfile.open(root / "tars" / f"set-{first // TAR_IMAGES:03d}.tar", "w") as tar:
            for number, path in enumerate(files[first : first + TAR_IMAGES]):
                _add(tar, f"{number:04d}{path.suffix.lower()}", path.read_bytes())
                _add(tar, f"{number:04d}.cls", path.parent.name.encode())
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        table.writerows((f"photos/{path.relative_to(images)}", path.parent.name) for path in files)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, BytesIO(content))


def extractions(root: Path, server: ObjectServer, work: Path) -> Iterator[Extraction]:
    """Extract the set in every form."""
    photos, tars = (sum(path.stat().st_size for path in _files(root / name)) for name in ("photos", "tars"))
    manifest = photos + (root / "labels.csv").stat().st_size
    yield _extract("folder", str(root / "photos"), photos, None, work)
    yield _extract("tars", str(root / "tars"), tars, None, work)
    yield _extract("tars in an object store", server.address("tars/"), tars, server, work)
    yield _extract("manifest in an object store", server.address("labels.csv"), manifest, server, work)


def _extract(name: str, spec: str, set_bytes: int, server: ObjectServer | None, work: Path) -> Extraction:
    before = server.counts() if server else {}
    command = [sys.executable, __file__, "--extract", spec, str(work / name)]
    environment = os.environ | ENVIRONMENT
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout.split()
    num_images, read, seconds = int(printed[0]), int(printed[1]), float(printed[2])
    if server is None:
        return Extraction(name, num_images, set_bytes, read, None, seconds)
    after = server.counts()
    read, requests = (after[each] - before[each] for each in ("bytes", "requests"))
    return Extraction(name, num_images, set_bytes, read, requests, seconds)


def extract_once(spec: str, store: str) -> None:
    """Extract a set and print the number of its images, the bytes read and the seconds; in a process of its own."""
    import numpy as np
    from PIL import Image

    import penultimate
    from penultimate.store.objects.address import is_address

    with TemporaryDirectory() as scratch:  # what is imported late is not read while the images are
        for number in range(8):
            Image.fromarray(np.full((64, 64, 3), 30 * number, np.uint8)).save(Path(scratch) / f"{number}.jpg")
        few = penultimate.load_images(scratch, labels=False)
        penultimate.extract(few, store=Path(scratch) / "store", model=MODEL, weights="random", compile=False)
    if not is_address(spec):
        drop_from_cache(Path(spec))
    before = bytes_read()
    (features,), lap = timed_call(
        lambda: penultimate.extract(
            penultimate.load_images(spec), store=store, model=MODEL, weights="random", compile=False, preprocess="paper"
        )
    )
    print(features.num_rows + len(features.failed), bytes_read() - before, lap.wall_seconds)


def fetches(server: ObjectServer, options: TurnOptions) -> tuple[list[Laps], dict[str, float]]:
    """Fetch images with so many requests in flight, in turns; return the laps, and the median ms of a request."""
    import numpy as np

    from penultimate.engine.extract.fetch import FetchedSource
    from penultimate.engine.extract.fetch_rates import TimedSource
    from penultimate.engine.images.formats import remote_images
    from penultimate.engine.images.load import load_images

    images = load_images(server.address("labels.csv"))
    request_ms: dict[str, list[float]] = defaultdict(list)

    def contender(at_once: int) -> Contender:
        name, items = f"{at_once} at once", min(len(images), 100 * at_once)

        def run() -> Iterator[int]:
            remote_images.READS_AT_ONCE = at_once
            source = TimedSource(images.source)
            none_needed = FetchedSource(source, num_threads=1, is_needed=lambda rows_B, _: np.zeros(len(rows_B), bool))
            for _ in none_needed.needed(range(items)):
                pass
            request_ms[name].append(1e3 * median(source.seconds))
            yield items

        return Contender(name=name, group="Requests in flight", run=run, items=items)

    laps = take_turns([contender(at_once) for at_once in AT_ONCE], options)
    return laps, {name: median(found[1:]) for name, found in request_ms.items()}  # without the warm-up


def report(images: Path, latency_ms: float, rounds: int, folder: Path) -> Report:
    """Measure and return the report."""
    os.environ |= ENVIRONMENT
    with TemporaryDirectory(dir=folder) as name:
        root, work = Path(name) / "set", Path(name) / "stores"
        root.mkdir()
        work.mkdir()
        write_set(images, root)
        with object_server(root, latency_seconds=latency_ms / 1e3) as server:
            found = list(extractions(root, server, work))
            laps, request_ms = fetches(server, TurnOptions(seconds=24 * 3600, rounds=rounds))
    return Report(
        bench="remote-reads",
        title="What an extraction reads, and how fast images come from an object store",
        settings={"network": f"{MODEL}, random weights", "latency of the object store": f"{latency_ms:g} ms"},
        measurements=compared(
            laps, unit="images/s", details={name: {"request_ms": ms} for name, ms in request_ms.items()}
        ),
        other_cores=other_cores(laps),
        tables={
            "What an extraction reads": [_cells(each) for each in found],
            "A request": [{"in flight": name, "ms, median": f"{ms:.0f}"} for name, ms in request_ms.items()],
        },
        results=[each._asdict() for each in found],
        not_measured=[
            "Extractions are one run each, parity check included. The object store is on this machine; every answer "
            "comes after its latency.",
            "Requests in flight: images of the manifest, fetched and not decoded.",
        ],
    )


def _cells(found: Extraction) -> Row:
    return {
        "the set lies in": found.name,
        "images": f"{found.num_images:,}",
        "MB": f"{found.set_bytes / 1e6:,.1f}",
        "read / size of the set": f"{found.bytes_read / found.set_bytes:.3f}",
        "requests": "" if found.requests is None else f"{found.requests:,}",
        "seconds": f"{found.seconds:.1f}",
    }


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def main() -> None:
    """Write the report, or be one of the processes that extract."""
    if len(sys.argv) > 1 and sys.argv[1] == "--extract":
        extract_once(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path())
    arguments = parser.parse_args()
    report(arguments.images, arguments.latency_ms, arguments.rounds, arguments.folder).write(arguments.report)


if __name__ == "__main__":
    main()
