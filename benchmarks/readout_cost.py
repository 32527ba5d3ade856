"""Measure what several readouts of one network cost beside one: whole extractions, in turns, in one process.

    python benchmarks/readout_cost.py FOLDER --images 128 --rounds 7

Both extractions read, decode, embed and write the same images; in every round each comes first once. Compared are
processor seconds and wall-clock seconds of a round, as the ratio of many readouts to one: the rounds' median and range.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from penultimate.engine.backbones.timm_backbone import load_backbone
from penultimate.engine.extract.embed import embed_images
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.images.decode.factory import default_decoder, make_decoder
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.subset import sample_rows, subset
from penultimate.engine.runtime.capabilities import machine
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


def timed(images: ImageSet, how: Extractor) -> tuple[float, float]:
    """Extract into a new store; return processor seconds and wall-clock seconds."""
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.create(Path(folder) / "store")
        processor, wall = time.process_time(), time.perf_counter()
        embed_images(images, how, store)
        return time.process_time() - processor, time.perf_counter() - wall


def measure(images: ImageSet, one: Extractor, many: Extractor, rounds: int) -> dict[str, Any]:
    """Return the ratio of ``many`` to ``one`` in processor and wall-clock seconds, after a round not counted."""
    timed(images, one), timed(images, many)
    processor, wall = [], []
    for _ in range(rounds):
        # Each is first once, so that a machine that warms up or slows down favours neither.
        runs = [timed(images, each) for each in (one, many, many, one)]
        of_one, of_many = ([sum(pair) for pair in zip(*pairs, strict=True)] for pairs in (runs[::3], runs[1:3]))
        processor.append(of_many[0] / of_one[0])
        wall.append(of_many[1] / of_one[1])
    return {
        "processor_ratio": median(processor),
        "processor_ratio_range": [min(processor), max(processor)],
        "wall_ratio": median(wall),
        "wall_ratio_range": [min(wall), max(wall)],
    }


def main(arguments: list[str]) -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of images")
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    whole = load_folder(given.folder, labels=False)
    images = subset(whole, sample_rows(len(whole), given.images))
    images.contents.complete(images.source)  # digests are no part of what is measured
    one, many = (extractor(given.model, names, given.batch_size, given.device) for names in (ONE, MANY))
    found = measure(images, one, many, given.rounds)
    about = {"model": given.model, "images": len(images), "readouts": len(many.outputs), "rounds": given.rounds}
    print(json.dumps(about | found | {"device": given.device, "machine": machine()}))


if __name__ == "__main__":
    main(sys.argv[1:])
