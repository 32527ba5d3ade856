"""Classify: images and a saved head in, scores a class out, through the features that the head was fitted on."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.backbones.architectures.networks import arch_of
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import PreprocessKind, preprocess_of
from penultimate.engine.backbones.weights import LoadedNetwork
from penultimate.engine.extract.extract import Report
from penultimate.engine.extract.prepare import ExtractionSettings, Say, extract_requests
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.probe.head import Head
from penultimate.store.errors import InputError
from penultimate.store.feature_store import FeatureStore

# Shapes: N images, K classes.


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Classified:
    """Scores of the images that could be decoded, and why others could not."""

    ids_N: NDArray[np.str_]
    scores_NK: NDArray[np.float32]
    failed: Mapping[str, str]
    """Id -> reason."""


def request_of(head: Head, weights: str) -> BackboneRequest:
    """The network a head belongs to; the tag of a name says which weights only where ``weights`` is a collection."""
    name = head.features["backbone"]
    if weights in ("timm", "package"):
        return BackboneRequest(model=name, weights=weights)
    drawn = name.rpartition(".random")[2]
    return BackboneRequest(
        model=arch_of(name), weights=weights, seed=int(drawn) if weights == "random" and drawn.isdigit() else 0
    )


def classify(
    images: ImageSet,
    head: Head,
    *,
    weights: str,
    settings: ExtractionSettings,
    store: str | None = None,
    say: Say,
    report: Report = lambda done, total: None,
) -> Classified:
    """Embed ``images`` as the head's own features were made, and score them.

    Of ``settings`` only device, decoder, compilation, batch size and workers are read; the rest is the head's. Another
    decoder than the head's is said. Features are kept in ``store``, or nowhere for None. Raises ``InputError`` if
    ``weights`` are not those of the head, and what ``extract`` raises.
    """
    request = request_of(head, weights)
    own = head.features
    if settings.decoder not in (None, own["decoder"]):
        say(f"warning: the head was fitted on images decoded by {own['decoder']}, these are by {settings.decoder}")
    settings = replace(
        settings,
        preprocess=_preprocess_kind(head, request.load(), weights),
        decoder=settings.decoder or own["decoder"],
        precision=own["precision"],  # type: ignore[arg-type]  # checked where it is used
        dtype=own["dtype"],  # type: ignore[arg-type]  # of a FeatureKey
        parity=False,
    )
    with tempfile.TemporaryDirectory() as scratch:
        opened = FeatureStore.create(store or str(Path(scratch) / "features.zarr"))
        (features,) = extract_requests(images, [request], opened, settings, say=say, report=report)
        return Classified(ids_N=features.ids, scores_NK=head.scores(features.features), failed=dict(features.failed))


def _preprocess_kind(head: Head, network: LoadedNetwork, weights: str) -> PreprocessKind:
    """Which of the two the head's features were made with."""
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
