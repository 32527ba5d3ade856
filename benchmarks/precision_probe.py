"""Measure the effect of bfloat16 and float16 on features and on the chosen probe, on a whole dataset.

    python benchmarks/precision_probe.py caltech101 --root DATA/caltech101 --model tf_efficientnet_lite0

Extracts the dataset at each precision into a store that is kept, compares the features with float32's row by row,
fits the default path of strengths on each and compares the test predictions of the chosen probes: exact McNemar for
top-1, the permutation test for mean per-class accuracy. Then some images at several batch sizes, each against one
image at a time: how far features depend on the batch they come in. A precision that the processor has no units for is
left out, and said to be.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from penultimate.engine.analysis.statistics.compare import mcnemar_test, mean_per_class_differences, permutation_test
from penultimate.engine.backbones.timm_backbone import load_backbone
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
    threads = ThreadBudget.of("cpu")
    backbone = load_backbone(model, weights=weights, precision=precision)  # type: ignore[arg-type]  # one of three
    decoder = make_decoder(default_decoder(), num_workers=threads.decode)
    (extracted,) = embed_images(images, Extractor(backbones=[backbone], decoder=decoder, threads=threads), store)
    return extracted.features


def distances(features_ND: NDArray[np.float32], exact_ND: NDArray[np.float32]) -> str:
    f_ND, r_ND = features_ND.astype(np.float64), exact_ND.astype(np.float64)
    f_N, r_N = np.linalg.norm(f_ND, axis=1), np.linalg.norm(r_ND, axis=1)
    cosine_N = (f_ND * r_ND).sum(axis=1) / (f_N * r_N)
    relative_N = np.linalg.norm(f_ND - r_ND, axis=1) / r_N
    return (
        f"cosine median {np.median(cosine_N):.6f}, least {cosine_N.min():.5f}; "
        f"relative error median {np.median(relative_N):.2g}, most {relative_N.max():.2g}"
    )


def by_batch_size(images: ImageSet, model: str, weights: str, precision: str) -> str:
    """Return the distances of features in batches from those of single images, same precision, not compiled."""
    backbone = load_backbone(model, weights=weights, precision=precision)  # type: ignore[arg-type]  # one of three
    decoder = make_decoder(default_decoder(), num_workers=1)
    rows = np.arange(len(images))
    (whole,) = decoder.batches(images, rows, [backbone.preprocess.pixels], batch_size=len(images))
    (pixels,) = whole.views

    def features(batch_size: int) -> NDArray[np.float32]:
        starts = range(0, len(pixels), batch_size)
        return np.concatenate([backbone.embed(pixels[start : start + batch_size])[PENULTIMATE] for start in starts])

    alone = features(1)
    return "".join(f"    batch {size} against 1: {distances(features(size), alone)}\n" for size in BATCH_SIZES)


def without_some_training(images: ImageSet, num_train: int | None) -> ImageSet:
    """Keep ``num_train`` of the train and val images, evenly spaced among them, and every test image."""
    if num_train is None:
        return images
    (train_rows,) = np.nonzero(images.split_N != "test")
    (test_rows,) = np.nonzero(images.split_N == "test")
    kept = train_rows[sample_rows(len(train_rows), num_train)]
    return subset(images, np.sort(np.concatenate([kept, test_rows])))


def compared(trial: Trial, exact: Trial) -> str:
    labels, predicted = exact.arrays["test_labels"], trial.arrays["test_predictions"]
    right, right_exact = (one.arrays["test_predictions"] == labels for one in (trial, exact))
    mcnemar = mcnemar_test(right, right_exact)
    difference_N = mean_per_class_differences(right, right_exact, labels)
    permuted = permutation_test(difference_N, rng=np.random.default_rng(0))
    return (
        f"top-1 {mcnemar.difference:+.5f} (p {mcnemar.p_value:.3f}), "
        f"mean per class {permuted.difference:+.5f} (p {permuted.p_value:.3f}), "
        f"{(predicted != exact.arrays['test_predictions']).mean():.4f} of predictions changed"
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="package")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--strengths", type=int, default=45, help="of l2, 1e-6 to 1e5")
    parser.add_argument("--train-images", type=int, help="of train and val, evenly spaced; default all")
    parser.add_argument("--batch-images", type=int, default=64, help="run at several batch sizes")
    options = parser.parse_args(arguments)
    images = without_some_training(load_images(options.images, root=options.root), options.train_images)
    store = FeatureStore.create(options.store)
    path = RegularizationPath.spaced(1e-6, 1e5, options.strengths)
    here = [p for p in PRECISIONS if computes_natively(p, torch.device("cpu"))]
    sets = {p: features_of(images, store, options.model, options.weights, p) for p in here}
    trials = {p: run_probe(features, ProbeSettings(path=path)).trial for p, features in sets.items()}
    sizes = ", ".join(f"{(images.split_N == split).sum()} {split}" for split in ("train", "val", "test"))
    print(f"{options.model} on {images.name}: {sizes}; {options.strengths} strengths, chosen by {images.metric}")
    some = subset(images, sample_rows(len(images), options.batch_images))
    for p in sorted(set(PRECISIONS) - set(here)):
        print(f"{p}: left out, this processor has no units for it")
    for p in here:
        metrics = ", ".join(f"{name} {value:.5f}" for name, value in trials[p].metrics["test"].items())
        print(f"{p}: test {metrics}; l2 {trials[p].chosen['l2']:.3g}")
        if p != "float32":
            print(f"    features: {distances(sets[p].features, sets['float32'].features)}")
            print(f"    probe: {compared(trials[p], trials['float32'])}")
            same = run_probe(
                sets[p], ProbeSettings(path=RegularizationPath(l2=(trials["float32"].chosen["l2"],)))
            ).trial
            print(f"    probe at float32's l2: {compared(same, trials['float32'])}")
        print(by_batch_size(some, options.model, options.weights, p), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
