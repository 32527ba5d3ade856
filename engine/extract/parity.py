"""Measure how far a decoder, resize, precision and compiler are from the reference, on the user's own images.

The reference is what papers and most scripts do: Pillow decodes and resizes, torch computes in float32, eager, on the
CPU. Compared are the pixels a network is given, its features, and the classes that its own classifier, where it has
one, gives the same images (of a compiled network too by its eager classifier: the features say what compiling changed).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.backbones.backbone import Backbone
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.subset import sample_rows
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.errors import DecodeError

# Shapes: S images of the sample, B of a batch, H x W pixels, C = 3 channels, D feature dimensions, K classes.

CHECK_IMAGES = 32
"""Number of images of the check before an extraction, which takes under a second for a small network."""

PIXEL_TOLERANCE = 1.0
"""Largest mean distance between two images' bytes, out of 255. Decoders that agree on chroma upsampling and resize with
Pillow's filters lie 0.03 to 0.2 apart (rounding); a missing antialias or another upsampling is 2 to 10 off."""

FEATURE_TOLERANCE = {"float32": 0.03, "tf32": 0.03, "bfloat16": 0.06, "float16": 0.03}
"""Precision -> largest median of ||f - r|| / ||r||, where f are the features and r the reference's.

Measured with EfficientNet-Lite0 on 64 Caltech-101 images, decoder beside precision: float32 0.003 with ``dali``, 0.020
with ``dali-gpu``, whose resize rounds otherwise; Pillow with float16 0.004, with bfloat16 0.031. float32 and float16
get half as much again as the worst of theirs; bfloat16, whose unit roundoff of 2^-9 fifty layers make 0.03, twice that.
TF32 rounds operands as float16 does, and has its tolerance; it was not measured.
"""

COSINE_TOLERANCE = {"float32": 0.99, "tf32": 0.99, "bfloat16": 0.985, "float16": 0.99}
"""Precision -> smallest cosine of an image's two feature vectors that the worst image may have.

The same measurement gave 0.9987 and 0.9978, for one image with saturated edges, where Pillow 13 resizes in another
order (``DaliDecoder`` tells why). Noise of relative size e across the vector makes the cosine 1 - e^2/2: here e = 0.14
and 0.17, which is one image decoded wrongly, not rounding.
"""


class Checkable(Backbone, Protocol):
    """A backbone that can be compared with its reference."""

    @property
    def num_classes(self) -> int:
        """Number K of classes of its classifier; 0 if there is none."""

    def reference(self) -> "Checkable":
        """Return a backbone with the same weights on the CPU, in float32, not compiled."""

    def classify(self, images_BHWC: Pixels) -> tuple[Mapping[str, NDArray[np.float32]], NDArray[np.float32]]:
        """Return features (B, D) by readout, and the scores (B, K) of its own classifier for the same images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """Distances of one way of computing features from the reference."""

    backbone: str
    readout: str
    decoder: str
    precision: str

    num_images: int
    """Number S of images that both decoders decoded."""

    num_decoded_by_one: int
    """Number of images that only one of the two decoders could decode. They are not compared; there should be none."""

    pixel_distance: float
    """Mean over images of the mean distance of their bytes, out of 255."""

    pixel_distance_worst: float
    """Mean distance of the bytes, out of 255, of the image where it is largest."""

    feature_distance: float
    """Median over images of ||f - r|| / ||r||; NaN where a feature is not finite."""

    cosine_worst: float
    """Smallest cosine of f and r; NaN where a feature is not finite."""

    num_changed_predictions: int | None
    """Number of images whose most likely class changed; None where the network has no classifier."""

    @property
    def failures(self) -> list[str]:
        """Descriptions of the distances that are past their tolerances; empty where all is well."""
        feature, cosine = FEATURE_TOLERANCE[self.precision], COSINE_TOLERANCE[self.precision]
        checks = {
            f"mean pixel distance {self.pixel_distance:.3f} > {PIXEL_TOLERANCE}": self.pixel_distance > PIXEL_TOLERANCE,
            f"median feature distance {self.feature_distance:.4f} > {feature}": self.feature_distance > feature,
            f"smallest cosine {self.cosine_worst:.5f} < {cosine}": self.cosine_worst < cosine,
            "features are not finite": isnan(self.feature_distance),
        }
        return [words for words, failed in checks.items() if failed]

    def as_dict(self) -> dict[str, Any]:
        """Return all values as a dict for JSON, with ``passed`` and ``failures``; None stands for NaN."""
        values = {name: getattr(self, name) for name in self.__slots__}
        finite = {name: None if isinstance(v, float) and isnan(v) else v for name, v in values.items()}
        return finite | {"passed": not self.failures, "failures": self.failures}


def check_parity(
    images: ImageSet,
    backbone: Checkable,
    decoder: Decoder,
    *,
    num_images: int,
    batch_size: int,
    threads: ThreadBudget,
) -> list[ParityReport]:
    """Embed ``num_images`` images, evenly spaced in the set, as given and by the reference; return a report a readout.

    The reference has all threads to itself. What is given keeps its own, which it may be compiled for.

    Raises DecodeError if not one of them can be decoded by both decoders.
    """
    rows = sample_rows(len(images), num_images)
    reference = backbone.reference()
    ours, theirs = (
        _through(images, rows, one, by, batch_size, budget)
        for one, by, budget in (
            (backbone, decoder, threads),
            (reference, PillowDecoder(num_workers=threads.decode), threads.alone),
        )
    )
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        raise DecodeError(f"not one of {len(rows)} images sampled from {images.name} can be decoded")
    pixels_S = np.array([np.abs(ours[r].pixels - theirs[r].pixels).mean() for r in both])
    pixels = {"pixel_distance": float(pixels_S.mean()), "pixel_distance_worst": float(pixels_S.max())}
    changed = sum(ours[r].best_class != theirs[r].best_class for r in both) if reference.num_classes else None
    return [
        ParityReport(
            backbone=backbone.name,
            readout=readout,
            decoder=decoder.name,
            precision=backbone.precision,
            num_images=len(both),
            num_decoded_by_one=len(ours.keys() ^ theirs.keys()),
            num_changed_predictions=changed,
            **pixels,
            **_feature_distances(*(np.stack([way[r].features[readout] for r in both]) for way in (ours, theirs))),
        )
        for readout in backbone.feature_dims
    ]


def parity_check(
    images: ImageSet, backbone: Checkable, decoder: Decoder, *, batch_size: int, threads: ThreadBudget
) -> dict[str, dict[str, Any]]:
    """Return what an extraction stores of its parity: by readout the report of CHECK_IMAGES images, as a dict for JSON.

    If not one of those can be decoded, there is nothing to compare, and each dict says so under ``skipped``.
    """
    try:
        reports = check_parity(
            images, backbone, decoder, num_images=CHECK_IMAGES, batch_size=batch_size, threads=threads
        )
    except DecodeError as error:
        return {readout: {"skipped": str(error)} for readout in backbone.feature_dims}
    return {report.readout: report.as_dict() for report in reports}


@dataclass(frozen=True, slots=True)
class _ImageResult:
    """The pixels and the features of one image."""

    pixels: NDArray[np.int16]
    features: Mapping[str, NDArray[np.float32]]
    """Features (D,) by name of readout."""

    best_class: int | None
    """Most likely class by the network's own classifier; None where there is none."""


def _through(
    images: ImageSet,
    rows: NDArray[np.int64],
    backbone: Checkable,
    decoder: Decoder,
    batch_size: int,
    threads: ThreadBudget,
) -> Mapping[int, _ImageResult]:
    passed: dict[int, _ImageResult] = {}
    with threads.in_force():
        for batch in decoder.batches(images, rows, [backbone.preprocess.pixels], batch_size=batch_size):
            (view_BHWC,) = batch.views
            features, classes_B = _features_and_classes(backbone, view_BHWC)
            host_BHWC = view_BHWC if isinstance(view_BHWC, np.ndarray) else view_BHWC.cpu().numpy()
            rows_B = batch.indices_B.tolist()
            for b, (row, pixels, best) in enumerate(zip(rows_B, host_BHWC, classes_B, strict=True)):
                own = {readout: features_BD[b] for readout, features_BD in features.items()}
                passed[row] = _ImageResult(pixels.astype(np.int16), own, best)
    return passed


def _features_and_classes(
    backbone: Checkable, view_BHWC: Pixels
) -> tuple[Mapping[str, NDArray[np.float32]], Sequence[int | None]]:
    if not backbone.num_classes:
        return backbone.embed(view_BHWC), [None] * len(view_BHWC)
    features, logits_BK = backbone.classify(view_BHWC)
    return features, logits_BK.argmax(axis=1).tolist()


def _feature_distances(features_SD: NDArray[np.float32], reference_SD: NDArray[np.float32]) -> dict[str, float]:
    """Return the fields of a report that compare features."""
    distance_S, cosine_S = _distances(features_SD, reference_SD)
    return {
        "feature_distance": nan if np.isnan(distance_S).any() else float(np.median(distance_S)),
        "cosine_worst": float(cosine_S.min()),
    }


def _distances(
    features_SD: NDArray[np.float32], reference_SD: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the relative distance and the cosine of each image, (S,) both, NaN where a feature is not finite.

    Two vectors of zeros count as equal.
    """
    finite_S = np.asarray(np.isfinite(features_SD).all(axis=1))
    f_SD = np.where(finite_S[:, None], features_SD, 0).astype(np.float64)
    r_SD = reference_SD.astype(np.float64)
    f_S, r_S = np.linalg.norm(f_SD, axis=1), np.linalg.norm(r_SD, axis=1)
    tiny = np.finfo(np.float64).tiny
    cosine_S = np.where((f_S == 0) & (r_S == 0), 1.0, (f_SD * r_SD).sum(axis=1) / np.maximum(f_S * r_S, tiny))
    distance_S = np.linalg.norm(f_SD - r_SD, axis=1) / np.maximum(r_S, tiny)
    return np.where(finite_S, distance_S, nan), np.where(finite_S, cosine_S, nan)
