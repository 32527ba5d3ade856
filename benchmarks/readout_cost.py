"""Measure what several readouts of one network cost beside one: passes alone and whole extractions, in turns.

    python benchmarks/readout_cost.py FOLDER REPORT.md --images 1024 --rounds 7

Both passes embed one batch of pixels again and again; both extractions read, decode, embed and write the same images.
The report has their images a second, the ratio of these within a round, and that of the processor time.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from penultimate.engine.backbones.timm_backbone import load_backbone
from penultimate.engine.bench.plain_files import sync_folder
from penultimate.engine.bench.timing.cells import median_and_range
from penultimate.engine.bench.timing.measurement import compared, other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Laps, TurnOptions, take_turns
from penultimate.engine.extract.embed import embed_images
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.images.decode.factory import default_decoder, make_decoder
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.subset import sample_rows, subset
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.feature_store import FeatureStore

ONE = ("penultimate",)
MANY = ("penultimate", "cls", "patch-mean", "cls+patch-mean", "last4", "blocks")
"""Nine readouts: ``blocks`` is four."""


def extractor(model: str, readouts: Sequence[str], batch_size: int, device: str) -> Extractor:
    """Return an eager extractor of one network with random weights."""
    threads = ThreadBudget.of(device)
    backbone = load_backbone(model, weights="random", readouts=readouts, device=device)
    decoder = make_decoder(default_decoder(device), num_workers=threads.decode)
    return Extractor(backbones=[backbone], decoder=decoder, batch_size=batch_size, threads=threads)


def name_of(side: Extractor) -> str:
    """Return the number of readouts in words."""
    return f"{len(side.outputs)} {'readouts' if len(side.outputs) > 1 else 'readout'}"


def passes(side: Extractor, model: str, num_images: int) -> Contender:
    """Return passes of one batch, on the threads of one replica, until so many images went through."""
    (backbone,) = side.backbones
    height, width = backbone.preprocess.height, backbone.preprocess.width
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (side.batch_size, height, width, 3), np.uint8)

    def run() -> Iterator[int]:
        with side.threads.in_force():
            for _ in range(-(-num_images // side.batch_size)):
                backbone.embed(pixels_BHWC)
        yield num_images

    threads = side.threads.per_replica
    return Contender(name=name_of(side), group=f"Passes of {model}", run=run, items=num_images, threads=threads)


def extraction(side: Extractor, model: str, images: ImageSet, folder: Path) -> Contender:
    """Return an extraction into a new store below ``folder``, in one step; that of the turn before is removed first."""

    def remove() -> None:
        shutil.rmtree(folder / "store", ignore_errors=True)
        sync_folder(folder)

    def run() -> Iterator[int]:
        embed_images(images, side, FeatureStore.create(folder / "store"))
        yield len(images)

    group = f"Extraction by {model}"
    return Contender(name=name_of(side), group=group, run=run, items=len(images), prepare=remove)


def finding(one: Laps, many: Laps) -> str:
    """Return a sentence of the ratio of ``many`` to ``one``, in wall-clock and in processor time."""
    pairs = list(zip(one.rounds, many.rounds, strict=True))
    wall = median_and_range([b.wall_seconds / a.wall_seconds for a, b in pairs], ".3f")
    processor = median_and_range([b.self_seconds / a.self_seconds for a, b in pairs], ".3f")
    costs = f"{wall} times the wall-clock time of one and {processor} times its processor time"
    return f"{many.group}: {many.name} take {costs}."


def main(arguments: list[str]) -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of images")
    parser.add_argument("report", type=Path)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    whole = load_folder(given.folder, labels=False)
    images = subset(whole, sample_rows(len(whole), given.images))
    images.contents.complete(images.source)  # digests are no part of what is measured
    sides = [extractor(given.model, names, given.batch_size, given.device) for names in (ONE, MANY)]
    with tempfile.TemporaryDirectory() as folder:
        contenders = [
            *(passes(side, given.model, len(images)) for side in sides),
            *(extraction(side, given.model, images, Path(folder)) for side in sides),
        ]
        laps = take_turns(contenders, TurnOptions(seconds=3600, rounds=given.rounds))
    Report(
        bench="readout-cost",
        title="What several readouts of one network cost beside one",
        settings={
            "images": len(images),
            "weights": "random",
            "readouts": list(MANY),
            "batch": given.batch_size,
            "device": given.device,
            "precision": "float32, not compiled",
        },
        measurements=compared(laps, unit="images/s"),
        other_cores=other_cores(laps),
        findings=[finding(*laps[:2]), finding(*laps[2:])],
        not_measured=["Not measured: other networks, and compiled ones."],
    ).write(given.report)


if __name__ == "__main__":
    main(sys.argv[1:])
