"""Plant edited copies of photographs among the originals, and count which are found as near-duplicates.

    python benchmarks/planted_twins.py REPORT.md FOLDER --store twins.zarr --model tf_efficientnet_lite0

Of each drawn photograph there are five copies: rescaled to 75 %, recompressed at JPEG quality 60, cropped by 5 % of
each side's length, mirrored, and grey. Each kind is planted alone among all originals, then all five at once. Recall is
the share of copies that form a pair with their own original. Precision is, of the pairs that have a copy, the share
whose other image is its original, or what is a twin of that already without the copies.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

import penultimate
from penultimate.engine.bench.timing.cells import fraction
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.neighbors.duplicates import Neighborhood
from penultimate.engine.neighbors.local_scale import DEFAULT_RATIO
from penultimate.engine.neighbors.unit_rows import unit_rows
from penultimate.store.feature_set import FeatureSet

# Shapes: N originals, C copies, D feature dimensions.


def _rescaled(image: Image.Image) -> Image.Image:
    return image.resize((round(0.75 * image.width), round(0.75 * image.height)), Image.Resampling.BICUBIC)


def _cropped(image: Image.Image) -> Image.Image:
    x, y = 0.025 * image.width, 0.025 * image.height
    return image.crop((round(x), round(y), round(image.width - x), round(image.height - y)))


EDITS: Mapping[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "rescaled to 75 %": (_rescaled, 90),
    "recompressed at quality 60": (lambda image: image, 60),
    "cropped by 5 %": (_cropped, 90),
    "mirrored": (ImageOps.mirror, 90),
    "grey": (lambda image: image.convert("L"), 90),
}
"""Kind of copy -> its edit, and the JPEG quality it is saved with."""


def plant(originals: FeatureSet, folder: Path, into: Path, *, copies: int, seed: int) -> NDArray[np.int64]:
    """Write five copies of some originals to ``into/<kind>/<number>.jpg``; return the rows that they are of, (C,)."""
    rows_C = np.sort(np.random.default_rng(seed).choice(originals.num_rows, copies, replace=False))
    for kind, (edit, quality) in enumerate(EDITS.values()):
        (into / str(kind)).mkdir(parents=True)
        for number, id_ in enumerate(originals.ids[rows_C].tolist()):
            with Image.open(folder / id_) as image:
                edit(image.convert("RGB")).save(into / str(kind) / f"{number:06d}.jpg", quality=quality)
    return rows_C


def found(
    unit_ND: NDArray[np.float32], copies_CD: NDArray[np.float32], rows_C: NDArray[np.int64], ratio: float
) -> tuple[int, int, int]:
    """Return how many copies are paired with their original, how many pairs have a copy, and how many are right."""
    count = len(unit_ND)
    known = Neighborhood.of(unit_ND).pairs(ratio)
    alike = {row: {row} for row in range(count)}
    for a, b in zip(known.first_P.tolist(), known.second_P.tolist(), strict=True):
        alike[a].add(b)
        alike[b].add(a)
    original = [*range(count), *rows_C.tolist()]
    pairs = Neighborhood.of(np.concatenate([unit_ND, copies_CD])).pairs(ratio)
    with_copy = [
        (a, b) for a, b in zip(pairs.first_P.tolist(), pairs.second_P.tolist(), strict=True) if max(a, b) >= count
    ]
    right = sum(original[a] in alike[original[b]] for a, b in with_copy)
    own = {b for a, b in with_copy if original[b] == a}
    return len(own), len(with_copy), right


def report(folder: Path, store: Path, *, model: str, weights: str, copies: int, seed: int, ratio: float) -> Report:
    """Return the report; features that the store has are not embedded again."""
    how = {"store": store, "model": model, "weights": weights, "parity": False}
    originals = penultimate.extract(penultimate.load_images(folder, labels=False), **how)[0]  # type: ignore[arg-type]  # a dict of several types
    with tempfile.TemporaryDirectory() as scratch:
        planted = Path(scratch) / "copies"
        rows_C = plant(originals, folder, planted, copies=copies, seed=seed)
        edited = penultimate.extract(penultimate.load_images(planted, labels=False), **how)[0]  # type: ignore[arg-type]  # the same
    unit_ND, unit_CD = (unit_rows(each, np.arange(each.num_rows)) for each in (originals, edited))
    kinds = {name: slice(kind * copies, (kind + 1) * copies) for kind, name in enumerate(EDITS)}
    rows = []
    for name, part in (kinds | {"all five at once": slice(None)}).items():
        own, pairs, right = found(unit_ND, unit_CD[part], np.tile(rows_C, len(EDITS))[part], ratio)
        num_copies = len(unit_CD[part])
        rows.append({"copy": name, "recall": fraction(own, num_copies), "precision": fraction(right, pairs)})
    return Report(
        bench="planted-twins",
        title="Edited copies of photographs among the originals",
        settings={
            "photographs": originals.num_rows,
            "backbone": originals.key.backbone,
            "copied": copies,
            "seed": seed,
            "ratio to the distance of the tenth neighbour": ratio,
        },
        tables={"Planted twins": rows},
        findings=["The script says what recall and precision count. Intervals are Wilson's, 95 %."],
    )


def main() -> None:
    """Write the report of one folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path, help="folder of JPEG files")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="package")
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ratio", type=float, default=DEFAULT_RATIO)
    given = vars(parser.parse_args())
    path = given.pop("report")
    report(given.pop("folder"), given.pop("store"), **given).write(path)


if __name__ == "__main__":
    main()
