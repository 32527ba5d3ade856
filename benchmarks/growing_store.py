"""Measure what a growing set costs: images embedded, time and disk for each change, bytes read, look-up and reading.

    python benchmarks/growing_store.py REPORT --images FOLDER [--rows 1000000] [--rounds 5] [--folder .]

FOLDER has one folder a class. A copy of it (hard links) is extracted without 100 of its images, then changed step by
step; after each step the same network extracts it again. Bytes are those that this process read by system calls
(``rchar`` of proc(5), /proc/self/io), with the files dropped from the page cache before, beside the files' sizes.
Look-up and reading are measured on rows that are drawn, without images.
"""

# Shapes: N rows, D features.

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.bench.features import EMBEDDING, drawn_contents, drawn_plan
from penultimate.engine.bench.plain_files import drop_from_cache
from penultimate.engine.bench.timing.cells import Row
from penultimate.engine.bench.timing.measurement import compared, other_cores
from penultimate.engine.bench.timing.memory import forget_peak, peak_bytes
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Laps, TurnOptions, take_turns, timed_call
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import FeatureKey
from penultimate.store.plan import Plan

MODEL = "mobilenetv3_small_050"


class Step(NamedTuple):
    """One change of a set, and what extracting it again cost."""

    name: str
    num_images: int
    embedded: int
    reused: int
    seconds: float
    grown_bytes: int
    bytes_read: int


def image_steps(images: Path, work: Path) -> Iterator[Step]:
    """Change a copy of ``images`` step by step and extract it after each, every image once in the digest cache."""
    root, held_back = work / "photos", work / "held back"
    files = sorted(path for path in images.glob("*/*") if path.is_file())
    for path in files:
        link(path, root / path.relative_to(images))
    num_held = min(100, len(files) // 10)
    for path in files[:: len(files) // num_held][:num_held]:
        _move(root / path.relative_to(images), held_back / path.relative_to(images))
    time.sleep(2.5)  # so that the files count as settled
    store = work / "features.zarr"
    yield _extract("first extraction", root, store)
    yield _extract("the same again", root, store)
    for path in sorted(held_back.glob("*/*")):
        _move(path, root / path.relative_to(held_back))
    yield _extract(f"{num_held} images more", root, store)
    yield _extract("the same again, without the digest cache", root, store, cache=False)
    yield _extract("another split seed", root, store, seed=1)
    for path in sorted(root.glob("*/*"))[::20]:
        classes = sorted(root.iterdir())
        other = classes[(classes.index(path.parent) + 1) % len(classes)]
        _move(path, other / f"{path.parent.name}-{path.name}")
    yield _extract("one image in 20 in another class", root, store)
    for path in sorted(root.iterdir()):
        path.rename(root / f"class-{path.name}")
    root = root.rename(work / "moved")
    yield _extract("every class renamed, the folder moved", root, store)
    for path in sorted(root.glob("*/*"))[::10]:
        path.unlink()
    yield _extract("one image in 10 removed", root, store)


def _extract(name: str, root: Path, store: Path, *, seed: int = 0, cache: bool = True) -> Step:
    before = _disk_bytes(store)
    command = [sys.executable, __file__, "--extract", str(root), str(store), str(seed), str(int(cache))]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    rows, embedded, reused, bytes_read = map(int, printed[:4])
    return Step(name, rows, embedded, reused, float(printed[4]), _disk_bytes(store) - before, bytes_read)


def extract_once(root: str, store: str, seed: str, cache: str) -> None:
    """Extract a folder and print rows, embedded, reused, bytes read and seconds; runs in a process of its own."""
    from penultimate.engine.backbones.request import requests_of
    from penultimate.engine.extract.extract import extract_job
    from penultimate.engine.extract.prepare import ExtractionJob
    from penultimate.engine.extract.settings import ExtractionSettings
    from penultimate.engine.images.digest_cache import DigestCache
    from penultimate.engine.images.load import load_images
    from penultimate.engine.images.subset import subset

    with TemporaryDirectory() as scratch:  # what is imported late is not read while the images are
        few = load_images(root)
        warm_up = ExtractionJob(requests=tuple(requests_of([MODEL], weights="random", seed=0)))
        extract_job(subset(few, np.arange(8)), warm_up, FeatureStore.create(Path(scratch) / "store"))
    drop_from_cache(Path(root))
    kept = DigestCache(Path(store).parent / "digests") if int(cache) else None
    job = ExtractionJob(
        requests=tuple(requests_of([MODEL], weights="random", seed=0)),
        settings=ExtractionSettings(compile=False, preprocess="paper"),
    )
    before = bytes_read()
    (extracted,), lap = timed_call(
        lambda: extract_job(load_images(root, seed=int(seed), cache=kept), job, FeatureStore.create(store))
    )
    read = bytes_read() - before
    print(extracted.features.num_rows, extracted.num_embedded, extracted.num_reused, read, lap.wall_seconds)


def bytes_read() -> int:
    """Return the bytes that this process has read by system calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rchar")))


def write_drawn(store: FeatureStore, plan: Plan, contents_N3: NDArray[np.uint64]) -> int:
    """Offer every sample, write features of those that are needed; returns how many were."""
    num_needed = 0
    with store.writer(plan, provenance={}) as writer:
        for samples in np.array_split(writer.missing_samples, -(-plan.num_samples // 4096)):
            needed = samples[writer.offer(samples, contents_N3[samples])]
            num_needed += len(needed)
            # a feature says of which content it is, so that reading is checked
            first = contents_N3[needed, 2].astype(np.float32)
            writer.append(needed, np.repeat(first[:, None], plan.feature_dim, axis=1))
    return num_needed


def look_up(num_rows: int, work: Path) -> tuple[float, float]:
    """Return the seconds and the MB that finding ``num_rows`` rows of as many takes, in a process of its own."""
    contents_N3 = drawn_contents(num_rows)
    write_drawn(FeatureStore.create(work / "many"), drawn_plan(np.zeros(num_rows, np.int64), 8), contents_N3)
    command = [sys.executable, __file__, "--look-up", str(work / "many"), str(num_rows)]
    seconds, megabytes = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(seconds), float(megabytes)


def look_up_once(location: str, num_rows: str) -> None:
    """Look up as many contents as a store has and print seconds and MB of memory."""
    contents_N3 = drawn_contents(int(num_rows))
    store = FeatureStore(location)
    store.num_known(EMBEDDING, contents_N3[:1], failures=True)  # imports and first touches
    before = forget_peak()
    found, lap = timed_call(lambda: store.num_known(EMBEDDING, contents_N3, failures=True))
    assert found == len(contents_N3), f"{found} found"
    print(lap.wall_seconds, (peak_bytes() - before) / 1e6)


def reading(num_rows: int, dim: int, options: TurnOptions, work: Path) -> list[Laps]:
    """Return the laps of reading a set in its order, by what had happened to the set before."""
    contents_N3 = drawn_contents(num_rows)
    rng = np.random.default_rng(1)
    store = FeatureStore.create(work / "read")
    orders = {
        "embedded at once": np.arange(num_rows),
        "1 row in 100 came later": np.sort(rng.permutation(num_rows)),
        "1 row in 20 elsewhere": _moved(num_rows, num_rows // 20, rng),
        "every row elsewhere": rng.permutation(num_rows),
    }
    old = np.setdiff1d(np.arange(num_rows), np.arange(0, num_rows, 100))
    write_drawn(FeatureStore.create(work / "fresh"), drawn_plan(np.zeros(num_rows, np.int64), dim), contents_N3)
    write_drawn(store, drawn_plan(np.zeros(len(old), np.int64), dim, prefix="old"), contents_N3[old])
    contenders: list[Contender] = []
    for name, order in orders.items():
        location = work / ("fresh" if name == "embedded at once" else "read")
        plan = drawn_plan(np.zeros(num_rows, np.int64), dim, prefix=f"{len(contenders)}-")
        write_drawn(FeatureStore(location), plan, contents_N3[order])
        key = plan.key(contents_N3[order])
        features = FeatureStore(location).read(key).features
        assert np.array_equal(features[:, -1], contents_N3[order, 2].astype(np.float32)), (
            "rows are not where they belong"
        )
        group = "Reading a set in its order, by what became of its rows"
        contenders.append(Contender(name=name, group=group, run=partial(_read, location, key), items=num_rows))
    return take_turns(contenders, options)


def _read(location: Path, key: FeatureKey) -> Iterator[int]:
    yield len(FeatureStore(location).read(key).features)


def _moved(num_rows: int, num_moved: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return an order in which some rows have changed places among each other, as files moved between classes do."""
    order = np.arange(num_rows)
    moved = np.sort(rng.permutation(num_rows)[:num_moved])
    order[moved] = rng.permutation(moved)
    return order


def report(images: Path, num_rows: int, options: TurnOptions, folder: Path) -> Report:
    """Measure and return the whole report."""
    with TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        steps = list(image_steps(images, work))
        total = sum(path.stat().st_size for path in images.glob("*/*"))
        seconds, megabytes = look_up(num_rows, work)
        rows, dim = max(2048, num_rows // 20), 1280
        laps = reading(rows, dim, options, work)
    return Report(
        bench="growing_store",
        title="A store that grows",
        settings={
            "network": f"{MODEL}, random weights",
            "megabytes of files": round(total / 1e6, 1),
            "rows": rows,
            "dim": dim,
        },
        measurements=compared(laps, unit="MB/s", size=dim * 4e-6),
        other_cores=other_cores(laps),
        findings=[
            f"{num_rows:,} contents are found among as many rows in {seconds:.2f} s and {megabytes:.0f} MB, once, in a "
            "process of its own.",
            "Every row read is checked before anything is timed.",
        ],
        not_measured=["Changes of a set are one run each, in processes of their own, not rounds."],
        tables={"Changes of a set of photographs": [_step(step, total) for step in steps]},
    )


def _step(step: Step, total: int) -> Row:
    return {
        "step": step.name,
        "rows": f"{step.num_images:,}",
        "embedded": f"{step.embedded:,}",
        "reused": f"{step.reused:,}",
        "seconds": f"{step.seconds:.1f}",
        "store grew by": f"{step.grown_bytes / 1e6:,.2f} MB",
        "read / size of the files": f"{step.bytes_read / total:.3f}",
    }


def link(path: Path, target: Path) -> None:
    """Make a hard link, or a copy on another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:  # another disk
        shutil.copy2(path, target)


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0


def main() -> None:
    inner = {"--extract": extract_once, "--look-up": look_up_once}
    if len(sys.argv) > 1 and sys.argv[1] in inner:
        inner[sys.argv[1]](*sys.argv[2:])  # type: ignore[operator]  # functions of texts
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path())
    arguments = parser.parse_args()
    options = TurnOptions(seconds=300.0, rounds=arguments.rounds)
    report(arguments.images, arguments.rows, options, arguments.folder).write(arguments.report)


if __name__ == "__main__":
    main()
