"""Measure listing and digesting a folder of a million images: time and memory, with and without the digest cache.

    python benchmarks/image_listing.py benchmarks/results/image_listing_<yyyymm>.md [--images 1000000] [--folder .]

The names are a million; behind them are hard links to a thousand real files of 1 KiB, so that every path is really
listed, opened, read and hashed, while the disk holds a thousand files. What a million different files would add is the
disk's own time to read them. Each figure is one process of its own; memory is its peak resident set.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from penultimate.engine.bench.timing.cells import texts
from penultimate.engine.bench.timing.measurement import cores_of_others
from penultimate.engine.bench.timing.memory import forget_peak, peak_bytes
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import timed_call

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


def measure(folder: str, cache: str) -> dict[str, Any]:
    """List and digest a folder; return the seconds, the memory in MiB and the digest."""
    from penultimate.engine.images.digest_cache import DigestCache
    from penultimate.engine.images.load import load_images

    before = forget_peak() / 2**20
    images, listed = timed_call(lambda: load_images(folder, cache=DigestCache(Path(cache)) if cache else None))
    digest, digested = timed_call(lambda: images.digest)
    return {
        "seconds to list": listed.wall_seconds,
        "seconds to digest": digested.wall_seconds,
        "images/s": len(images) / (listed.wall_seconds + digested.wall_seconds),
        "peak MiB": peak_bytes() / 2**20,
        "MiB after importing": before,
        "bytes an image": (peak_bytes() - before * 2**20) / len(images),
        "digest": digest,
        "other cores": cores_of_others([listed, digested]),
    }


def report(num_images: int, folder: Path) -> Report:
    """Measure each way in a process of its own, and return the report."""
    with TemporaryDirectory(dir=folder) as work:
        images, cache = make(Path(work), num_images), str(Path(work) / "cache")
        results = []
        for name, kept in {"no cache": "", "empty cache, written": cache, "full cache": cache}.items():
            command = [sys.executable, __file__, "--measure", str(images), kept]
            printed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            results.append({"cache": name, **json.loads(printed)})
    assert len({each["digest"] for each in results}) == 1, "a cache changed the digest"
    shown = [{name: each[name] for name in each if name not in ("digest", "other cores")} for each in results]
    return Report(
        bench="image-listing",
        title=f"Listing and digesting {num_images:,} images",
        settings={"names": num_images, "classes": _CLASSES, "files of 1 KiB behind them": _FILES},
        other_cores=max((each["other cores"] for each in results if each["other cores"] is not None), default=None),
        tables={"With and without the digest cache": texts(shown)},
        results=results,
        findings=["All three gave the same digest."],
        not_measured=[
            "One run each, one after the other, the file system's own cache warm.",
            "Every path is listed, opened, read and hashed, but the disk's time to read a million different files is "
            "not in it.",
        ],
    )


def main() -> None:
    """Write the report, or be one of the processes that measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
    elif arguments.report:
        report(arguments.images, arguments.folder).write(arguments.report)
    else:
        parser.error("where should the report be written?")


if __name__ == "__main__":
    main()
