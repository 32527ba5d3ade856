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
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from growing_store import MODEL, bytes_read, link
from object_server import ENVIRONMENT, ObjectServer, object_server

from penultimate.engine.bench.plain_files import drop_from_cache
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.provenance import source_commit, utc_now

TAR_IMAGES = 1000
AT_ONCE = (1, 2, 8, 16, 32, 64, 128)
"""Numbers of requests in flight of which each is timed. Two are what a machine of two cores had before."""


class Row(NamedTuple):
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


def extractions(root: Path, server: ObjectServer, work: Path) -> Iterator[Row]:
    """Extract the set in every form."""
    photos, tars = (sum(path.stat().st_size for path in _files(root / name)) for name in ("photos", "tars"))
    manifest = photos + (root / "labels.csv").stat().st_size
    yield _extract("folder", str(root / "photos"), photos, None, work)
    yield _extract("tars", str(root / "tars"), tars, None, work)
    yield _extract("tars in an object store", server.address("tars/"), tars, server, work)
    yield _extract("manifest in an object store", server.address("labels.csv"), manifest, server, work)


def _extract(name: str, spec: str, set_bytes: int, server: ObjectServer | None, work: Path) -> Row:
    before = server.counts() if server else {}
    command = [sys.executable, __file__, "--extract", spec, str(work / name)]
    environment = os.environ | ENVIRONMENT
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout.split()
    num_images, read, seconds = int(printed[0]), int(printed[1]), float(printed[2])
    if server is None:
        return Row(name, num_images, set_bytes, read, None, seconds)
    after = server.counts()
    return Row(
        name, num_images, set_bytes, after["bytes"] - before["bytes"], after["requests"] - before["requests"], seconds
    )


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
    began, before = time.perf_counter(), bytes_read()
    (features,) = penultimate.extract(
        penultimate.load_images(spec), store=store, model=MODEL, weights="random", compile=False, preprocess="paper"
    )
    print(features.num_rows + len(features.failed), bytes_read() - before, time.perf_counter() - began)


def fetch_rates(server: ObjectServer, rounds: int) -> Iterator[tuple[int, list[float], float]]:
    """Yield a number of requests in flight, the images/s of each round, and the median ms of a request."""
    from penultimate.engine.extract.fetch_rates import measure_fetch
    from penultimate.engine.images.formats import remote_images
    from penultimate.engine.images.load import load_images

    source = load_images(server.address("labels.csv")).source
    num_images = len(load_images(server.address("labels.csv")))
    measured: dict[int, list[tuple[float, float]]] = {at_once: [] for at_once in AT_ONCE}
    for _ in range(rounds):
        for at_once in AT_ONCE:
            remote_images.READS_AT_ONCE = at_once
            rates, _, _ = measure_fetch(source, range(min(num_images, 100 * at_once)))
            measured[at_once].append((rates.images, rates.request_ms))
    for at_once, found in measured.items():
        yield at_once, [rate for rate, _ in found], median(ms for _, ms in found)


def report(images: Path, latency_ms: float, rounds: int, folder: Path) -> str:
    """Return the whole report as Markdown."""
    os.environ |= ENVIRONMENT
    with TemporaryDirectory(dir=folder) as name:
        root, work = Path(name) / "set", Path(name) / "stores"
        root.mkdir()
        work.mkdir()
        write_set(images, root)
        with object_server(root, latency_seconds=latency_ms / 1e3) as server:
            rows = list(extractions(root, server, work))
            fetched = list(fetch_rates(server, rounds))
    about = machine()
    lines = [
        "# What an extraction reads",
        "",
        f"`{shlex.join(['python', *sys.argv])}`: {about['processor']}, {about['cores']} cores, {about['memory_gib']} "
        f"GiB; commit {source_commit()}, {utc_now()[:10]}. Written by the script.",
        "",
        f"{MODEL}, random weights, parity check included; one run each. Every answer of the object store comes after "
        f"{latency_ms:g} ms, from this machine.",
        "",
        "| the set lies in | images | MB | read / size of the set | requests | seconds |",
        "|---|---:|---:|---:|---:|---:|",
        *_table(rows),
        "",
        "## Requests in flight",
        "",
        f"Images of the manifest, fetched and not decoded; {rounds} rounds in turns.",
        "",
        "| at once | images/s, median | least to most | ms a request |",
        "|---:|---:|---:|---:|",
        *(
            f"| {at_once} | {median(rates):,.0f} | {min(rates):,.0f} to {max(rates):,.0f} | {ms:.0f} |"
            for at_once, rates, ms in fetched
        ),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        requests = "" if row.requests is None else f"{row.requests:,}"
        yield (
            f"| {row.name} | {row.num_images:,} | {row.set_bytes / 1e6:,.1f} | {row.bytes_read / row.set_bytes:.3f} | "
            f"{requests} | {row.seconds:.1f} |"
        )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def main() -> None:
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
    arguments.report.write_text(report(arguments.images, arguments.latency_ms, arguments.rounds, arguments.folder))


if __name__ == "__main__":
    main()
