"""Predict: images and a saved head in, a score of every class out, through the features the head was fitted on."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.backbones.architectures.networks import arch_of
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import PreprocessKind, preprocess_of
from penultimate.engine.backbones.weights import LoadedNetwork
from penultimate.engine.extract.embed import ImagesDone
from penultimate.engine.extract.extract import extract_job
from penultimate.engine.extract.prepare import ExtractionJob, Log
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.probe.head import Head
from penultimate.store.errors import InputError
from penultimate.store.feature_store import FeatureStore

# Shapes: N images, K classes.


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """Scores of the images that could be decoded, and why others could not."""

    ids_N: NDArray[np.str_]
    scores_NK: NDArray[np.float32]
    failed: Mapping[str, str]
    """Id -> reason."""


def request_of(head: Head, weights: str) -> BackboneRequest:
    """Return the network of a head; the tag of its name says which weights only where ``weights`` is a collection."""
    name = head.features["backbone"]
    if weights in ("timm", "package"):
        return BackboneRequest(model=name, weights=weights)
    drawn = name.rpartition(".random")[2]
    return BackboneRequest(
        model=arch_of(name), weights=weights, seed=int(drawn) if weights == "random" and drawn.isdigit() else 0
    )


def predict_images(
    images: ImageSet,
    head: Head,
    *,
    weights: str,
    settings: ExtractionSettings,
    store: str | None = None,
    log: Log,
    progress: ImagesDone = lambda done, total: None,
) -> Predictions:
    """Embed ``images`` as the head's own features were made, and score them.

    Of ``settings`` only device, decoder, compilation, batch size and workers are read; the rest is the head's. Another
    decoder than the head's is said. Features are kept in ``store``, or nowhere for None. Raises ``InputError`` if
    ``weights`` are not those of the head, and what ``extract`` raises.
    """
    request = request_of(head, weights)
    own = head.features
    if settings.decoder not in (None, own["decoder"]):
        log(f"warning: the head was fitted on images decoded by {own['decoder']}, these are by {settings.decoder}")
    settings = ExtractionSettings.model_validate(
        settings.model_dump()
        | {
            "preprocess": _preprocess_kind(head, request.load(), weights),
            "decoder": settings.decoder or own["decoder"],
            "precision": own["precision"],
            "dtype": own["dtype"],
            "parity": False,
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        opened = FeatureStore.create(store or str(Path(scratch) / "features.zarr"))
        job = ExtractionJob(requests=(request,), settings=settings)
        (features,) = extract_job(images, job, opened, log=log, progress=progress)
        return Predictions(ids_N=features.ids, scores_NK=head.scores(features.features), failed=dict(features.failed))


def _preprocess_kind(head: Head, network: LoadedNetwork, weights: str) -> PreprocessKind:
    """Return the preprocess that the head's features were made with."""
    if network.digest != head.features["weights"]:
        raise InputError(
            f"the head belongs to weights {head.features['weights']} of {head.features['backbone']}, "
            f"--weights {weights} gives {network.digest}; name the weights that the features were extracted with"
        )
    for kind in get_args(PreprocessKind):
        if preprocess_of(network.model, kind).digest == head.features["preprocess"]:
            return kind  # type: ignore[no-any-return]
    raise InputError(
        f"the head's features were made with preprocess {head.features['preprocess']}, which is neither `paper` nor "
        f"`timm` of {network.name}; a newer timm may have changed the network's configuration"
    )
