"""What computing in bfloat16 or float16 does to features and to the chosen probe, on a whole dataset.

    python benchmarks/precision_probe.py caltech101 --root DATA/caltech101 --model tf_efficientnet_lite0

Extracts the dataset at each precision into a store that is kept, compares the features with float32's row by row,
fits the default path of strengths on each and compares the test predictions of the chosen probes: exact McNemar for
top-1, the permutation test for mean per-class accuracy.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from penultimate.engine.analysis.compare import mcnemar_test, mean_per_class_differences, permutation_test
from penultimate.engine.backbones.timm_backbone import load_backbone
from penultimate.engine.extract import extract
from penultimate.engine.images.datasets import load_images
from penultimate.engine.images.decoders import default_decoder, make_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.select import probe_features
from penultimate.engine.threads import ThreadShare
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trial import Trial

# Shapes: N images, D feature dimensions.

PRECISIONS = ("float32", "bfloat16", "float16")


def features_of(images: ImageSet, store: FeatureStore, model: str, weights: str, precision: str) -> FeatureSet:
    threads = ThreadShare.of("cpu")
    backbone = load_backbone(model, weights=weights, precision=precision)  # type: ignore[arg-type]  # one of three
    decoder = make_decoder(default_decoder(), num_workers=threads.decode)
    (features,) = extract(images, [backbone], store, decoder=decoder, threads=threads)
    return features


def distances(features: FeatureSet, exact: FeatureSet) -> str:
    f_ND, r_ND = (one.features.astype(np.float64) for one in (features, exact))
    f_N, r_N = np.linalg.norm(f_ND, axis=1), np.linalg.norm(r_ND, axis=1)
    cosine_N = (f_ND * r_ND).sum(axis=1) / (f_N * r_N)
    relative_N = np.linalg.norm(f_ND - r_ND, axis=1) / r_N
    return (
        f"cosine median {np.median(cosine_N):.6f}, least {cosine_N.min():.5f}; "
        f"relative error median {np.median(relative_N):.5f}, most {relative_N.max():.4f}"
    )


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
    options = parser.parse_args(arguments)
    images = load_images(options.images, root=options.root)
    store = FeatureStore.create(options.store)
    path = RegularizationPath.spaced(1e-6, 1e5, options.strengths)
    sets = {p: features_of(images, store, options.model, options.weights, p) for p in PRECISIONS}
    trials = {p: probe_features(features, path=path) for p, features in sets.items()}
    print(f"{options.model} on {images.name}, {len(images)} images, {options.strengths} strengths, {images.metric}")
    for p in PRECISIONS:
        metrics = ", ".join(f"{name} {value:.5f}" for name, value in trials[p].metrics["test"].items())
        print(f"{p}: test {metrics}")
        if p != "float32":
            print(f"    features: {distances(sets[p], sets['float32'])}")
            print(f"    probe: {compared(trials[p], trials['float32'])}")


if __name__ == "__main__":
    main(sys.argv[1:])
