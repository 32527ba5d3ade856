"""Measure listing and digesting a folder of a million images: time and memory, with and without the digest cache.

    python benchmarks/image_listing.py benchmarks/results/image_listing_<yyyymm>.md [--images 1000000] [--folder .]

The names are a million; behind them are hard links to a thousand real files of 1 KiB, so that every path is really
listed, opened, read and hashed, while the disk holds a thousand files. What a million different files would add is the
disk's own time to read them. Each figure is one process of its own; memory is its peak resident set.
"""

import argparse
import os
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from penultimate.engine.runtime.capabilities import machine
from penultimate.store.provenance import source_commit, utc_now

_CLASSES = 100
_FILES = 1000


def make(root: Path, num_images: int) -> Path:
    """Write ``num_images`` files ``root/class/number.jpg``."""
    rng = np.random.default_rng(0)
    originals = root / "originals"
    originals.mkdir(parents=True)
    for number in range(_FILES):
        (originals / str(number)).write_bytes(rng.bytes(1024))
    for label in range(_CLASSES):
        (root / "images" / f"class{label:03d}").mkdir(parents=True)
        for number in range(num_images // _CLASSES):
            source = originals / str((label * 7919 + number) % _FILES)
            os.link(source, root / "images" / f"class{label:03d}" / f"image{number:07d}.jpg")
    time.sleep(2.5)  # so that the files count as settled
    return root / "images"


def measure(folder: str, cache: str) -> None:
    """Print seconds to list and to digest, peak MiB, MiB before, and the digest; runs in a process of its own."""
    from penultimate.engine.images.digest_cache import DigestCache
    from penultimate.engine.images.load import load_images

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    images = load_images(folder, cache=DigestCache(Path(cache)) if cache else None)
    listed = time.perf_counter()
    digest = images.digest
    digested = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(listed - began, digested - listed, peak, before, digest)


def report(num_images: int, folder: Path) -> str:
    """Return the whole report as Markdown."""
    with TemporaryDirectory(dir=folder) as work:
        images = make(Path(work), num_images)
        cache = str(Path(work) / "cache")
        runs = [("no cache", ""), ("empty cache, written", cache), ("full cache", cache)]
        lines, digests = [], set()
        for name, cache_mode in runs:
            command = [sys.executable, __file__, "--measure", str(images), cache_mode]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            listing, digesting, peak, before = map(float, out[:4])
            digests.add(out[4])
            each = (peak - before) * 2**20 / num_images
            rate = num_images / (listing + digesting)
            memory = f"{peak:,.0f} | {before:,.0f} | {each:,.0f}"
            lines.append(f"| {name} | {listing:.1f} | {digesting:.1f} | {rate:,.0f} | {memory} |")
        assert len(digests) == 1, "a cache changed the digest"
    about = machine()
    return (
        f"# Listing and digesting {num_images:,} images\n\n"
        f"`{shlex.join(['python', *sys.argv])}`: one run each, one after the other, the file system's own cache warm; "
        f"{about['processor']}, {about['cores']} cores; commit {source_commit()}, {utc_now()[:10]}. "
        f"{num_images:,} names in {_CLASSES} "
        f"classes, hard links to {_FILES:,} files of 1 KiB: every path is listed, opened, read and hashed, but the "
        "disk's time to read a million different files is not in it. All three gave the same digest. Written by the "
        "script.\n\n"
        "| | seconds to list | seconds to digest | images/s | peak MiB | MiB after importing | bytes an image |\n"
        "|---|---:|---:|---:|---:|---:|---:|\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
    elif arguments.report:
        arguments.report.write_text(report(arguments.images, arguments.folder))
    else:
        parser.error("where should the report be written?")


if __name__ == "__main__":
    main()
