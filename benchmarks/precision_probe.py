"""Measure the effect of bfloat16 and float16 on features and on the chosen probe, on a whole dataset.

    python benchmarks/precision_probe.py caltech101 REPORT.md --root DATA/caltech101 --store precision.zarr

Extracts the dataset at each precision into a store that is kept, compares the features with float32's row by row,
fits the default path of strengths on each and compares the test predictions of the chosen probes: exact McNemar for
top-1, the permutation test for mean per-class accuracy. Then some images at several batch sizes, each against one
image at a time: how far features depend on the batch they come in. A precision that the processor has no units for is
left out, and said to be.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penultimate.engine.analysis.statistics.compare import mcnemar_test, mean_per_class_differences, permutation_test
from penultimate.engine.backbones.timm_backbone import load_backbone
from penultimate.engine.bench.timing.cells import texts
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.extract.embed import embed_images
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.images.decode.factory import default_decoder, make_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.images.subset import sample_rows, subset
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import run_probe
from penultimate.engine.probe.settings import ProbeSettings
from penultimate.engine.runtime.capabilities import computes_natively
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import PENULTIMATE
from penultimate.store.trials.trial import Trial

# Shapes: N images, D feature dimensions.

PRECISIONS = ("float32", "bfloat16", "float16")
BATCH_SIZES = (2, 8, 13, 64)


def features_of(images: ImageSet, store: FeatureStore, model: str, weights: str, precision: str) -> FeatureSet:
    """Extract the features of a set at a precision, eager, into the store."""
    threads = ThreadBudget.of("cpu")
    backbone = load_backbone(model, weights=weights, precision=precision)  # type: ignore[arg-type]  # one of three
    decoder = make_decoder(default_decoder(), num_workers=threads.decode)
    (extracted,) = embed_images(images, Extractor(backbones=[backbone], decoder=decoder, threads=threads), store)
    return extracted.features


def distances(features_ND: NDArray[np.float32], exact_ND: NDArray[np.float32]) -> dict[str, float]:
    """Return 1 - cosine and the relative error ||f - r|| / ||r||, median and most over images."""
    f_ND, r_ND = features_ND.astype(np.float64), exact_ND.astype(np.float64)
    f_N, r_N = np.linalg.norm(f_ND, axis=1), np.linalg.norm(r_ND, axis=1)
    cosine_N = (f_ND * r_ND).sum(axis=1) / (f_N * r_N)
    relative_N = np.linalg.norm(f_ND - r_ND, axis=1) / r_N
    of = {"1 - cosine": 1 - cosine_N, "relative error": relative_N}
    return {f"{name}, {at}": float(f(of[name])) for name in of for at, f in (("median", np.median), ("most", np.max))}


def by_batch_size(images: ImageSet, model: str, weights: str, precision: str) -> Iterator[dict[str, Any]]:
    """Yield the distances of features in batches from those of single images, same precision, not compiled."""
    backbone = load_backbone(model, weights=weights, precision=precision)  # type: ignore[arg-type]  # one of three
    decoder = make_decoder(default_decoder(), num_workers=1)
    rows = np.arange(len(images))
    (whole,) = decoder.batches(images, rows, [backbone.preprocess.pixels], batch_size=len(images))
    (pixels,) = whole.views

    def features(batch_size: int) -> NDArray[np.float32]:
        starts = range(0, len(pixels), batch_size)
        return np.concatenate([backbone.embed(pixels[start : start + batch_size])[PENULTIMATE] for start in starts])

    alone = features(1)
    for size in BATCH_SIZES:
        yield {"precision": precision, "images a batch": size, **distances(features(size), alone)}


def without_some_training(images: ImageSet, num_train: int | None) -> ImageSet:
    """Keep ``num_train`` of the train and val images, evenly spaced among them, and every test image."""
    if num_train is None:
        return images
    (train_rows,) = np.nonzero(images.split_N != "test")
    (test_rows,) = np.nonzero(images.split_N == "test")
    kept = train_rows[sample_rows(len(train_rows), num_train)]
    return subset(images, np.sort(np.concatenate([kept, test_rows])))


def compared(trial: Trial, exact: Trial) -> dict[str, float]:
    """Return the differences of a probe's test predictions from float32's, in points, and their p values."""
    labels, predicted = exact.arrays["test_labels"], trial.arrays["test_predictions"]
    right, right_exact = (one.arrays["test_predictions"] == labels for one in (trial, exact))
    mcnemar = mcnemar_test(right, right_exact)
    difference_N = mean_per_class_differences(right, right_exact, labels)
    permuted = permutation_test(difference_N, rng=np.random.default_rng(0))
    return {
        "top-1, points": 100 * mcnemar.difference,
        "p (McNemar)": mcnemar.p_value,
        "mean per class, points": 100 * permuted.difference,
        "p (permutation)": permuted.p_value,
        "predictions changed %": 100 * float((predicted != exact.arrays["test_predictions"]).mean()),
    }


def probed(sets: Mapping[str, FeatureSet], path: RegularizationPath) -> Iterator[dict[str, Any]]:
    """Yield a row for each precision, at the strength that is chosen and at float32's."""

    def fitted(features: FeatureSet, strengths: RegularizationPath) -> tuple[Trial, dict[str, Any]]:
        trial = run_probe(features, ProbeSettings(path=strengths)).trial
        metrics = {f"test {metric} %": 100 * value for metric, value in trial.metrics["test"].items()}
        return trial, {"l2": trial.chosen["l2"], **metrics}

    exact, row = fitted(sets["float32"], path)
    yield {"precision": "float32", **row}
    same = RegularizationPath(l2=(exact.chosen["l2"],))
    for precision in [each for each in sets if each != "float32"]:
        for name, strengths in ((precision, path), (f"{precision}, float32's l2", same)):
            trial, row = fitted(sets[precision], strengths)
            yield {"precision": name, **row, **compared(trial, exact)}


def report(images: ImageSet, options: argparse.Namespace) -> Report:
    """Extract, probe and compare at every precision that this processor has units for."""
    store = FeatureStore.create(options.store)
    here = [p for p in PRECISIONS if computes_natively(p, torch.device("cpu"))]
    sets = {p: features_of(images, store, options.model, options.weights, p) for p in here}
    exact = sets["float32"].features
    some = subset(images, sample_rows(len(images), options.batch_images))
    rows = {
        "Features, against float32's of the same image": [
            {"precision": p, **distances(found.features, exact)} for p, found in sets.items() if p != "float32"
        ],
        "The chosen probe on test, against float32's": list(
            probed(sets, RegularizationPath.spaced(1e-6, 1e5, options.strengths))
        ),
        f"{len(some)} images in batches, against one image at a time": [
            row for p in here for row in by_batch_size(some, options.model, options.weights, p)
        ],
    }
    return Report(
        bench="precision-probe",
        title=f"What bfloat16 and float16 do to features and probes: {options.model} on {images.name}",
        settings={
            "weights": options.weights,
            **{split: int((images.split_N == split).sum()) for split in ("train", "val", "test")},
            "strengths": options.strengths,
            "chosen by": images.metric,
        },
        tables={title: texts(found, digits=4) for title, found in rows.items()},
        results=[{"table": title, **row} for title, found in rows.items() for row in found],
        findings=[f"{p} is left out: this processor has no units for it." for p in PRECISIONS if p not in here],
        not_measured=["Not measured: GPUs, compiled networks, other seeds of the split. p values are two-sided."],
    )


def main(arguments: list[str]) -> None:
    """Write the report of one image set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("report", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="package")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--strengths", type=int, default=45, help="of l2, 1e-6 to 1e5")
    parser.add_argument("--train-images", type=int, help="of train and val, evenly spaced; default all")
    parser.add_argument("--batch-images", type=int, default=64, help="run at several batch sizes")
    options = parser.parse_args(arguments)
    images = without_some_training(load_images(options.images, root=options.root), options.train_images)
    report(images, options).write(options.report)


if __name__ == "__main__":
    main(sys.argv[1:])
