"""Predict scores of every class for images with a saved head, through features like those the head was fitted on."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.backbones.architectures.networks import arch_of
from penultimate.engine.backbones.loading.weights import LoadedNetwork
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import PreprocessKind, preprocess_of
from penultimate.engine.extract.embed import Log
from penultimate.engine.extract.extract import extract_job
from penultimate.engine.extract.pipeline import ImagesDone
from penultimate.engine.extract.prepare import ExtractionJob
from penultimate.engine.extract.settings import ExtractionSettings, PredictSettings
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.probe.head import Head
from penultimate.store.errors import InputError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import PENULTIMATE

# Shapes: N images, K classes.


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """Scores of the images that could be decoded, and the reasons why others could not."""

    ids_N: NDArray[np.str_]
    """Id of each image that could be decoded."""

    scores_NK: NDArray[np.float32]
    """Score of each class for each of these images."""

    failed: Mapping[str, str]
    """Id -> reason, for the images that could not be decoded."""


def request_of(head: Head, weights: str) -> BackboneRequest:
    """Return the network of a head. The tag of its name chooses the weights only where ``weights`` is a collection."""
    name = head.features["backbone"]
    if weights in ("timm", "package"):
        return BackboneRequest(model=name, weights=weights)
    seed = name.rpartition(".random")[2]
    return BackboneRequest(
        model=arch_of(name), weights=weights, seed=int(seed) if weights == "random" and seed.isdigit() else 0
    )


def predict(
    images: ImageSet | str | Path,
    head: Head | str | Path,
    *,
    weights: str = "timm",
    store: str | Path | None = None,
    log: Log = lambda line: None,
    progress: ImagesDone = lambda done, total: None,
    **settings: Any,
) -> Predictions:
    """Embed images as the features of a saved head were made, and score every class.

    Parameters
    ----------
    images
        An ``ImageSet``, or what ``load_images`` reads; labels are not needed.
    head
        A ``Head``, or the file that ``probe`` wrote: ``TRIALS/heads/TRIAL.safetensors``.
    weights
        Where the network's weights come from, as in ``extract``; they must be those of the head.
    store
        A feature store to keep the features in. None: they are not kept.
    log, progress
        Called with lines for people, and with (images done, images to do) after every batch.
    **settings
        Any field of ``PredictSettings``: ``device``, ``decoder``, ``compile``, ``batch_size``, ``workers``. All else
        is the head's. Another decoder than the head's is logged.

    Returns
    -------
    Predictions
        Scores (N, K) float32 of the N images that could be decoded, their ids, and why others could not. Turn scores
        into probabilities with ``Head.probabilities``.

    Raises
    ------
    InputError
        If ``weights`` are not those of the head, the images are not understood, or a setting is not known; and what
        ``extract`` raises.

    Examples
    --------
    ::

        found = penultimate.predict("new/", "trials/heads/0123456789abcdef.safetensors")
        print(found.ids_N[0], found.scores_NK[0].argmax())
    """
    head = head if isinstance(head, Head) else Head.load(head)
    if store is not None:
        FeatureStore.check_location(store)
    image_set = images if isinstance(images, ImageSet) else load_images(str(images), labels=False)
    request = request_of(head, weights)
    own = head.features
    given = PredictSettings.of(settings)
    if given.decoder not in (None, own["decoder"]):
        log(f"warning: the head was fitted on images decoded by {own['decoder']}, these are by {given.decoder}")
    of_the_head = {"precision": own["precision"], "dtype": own["dtype"], "decoder": given.decoder or own["decoder"]}
    of_the_head["readouts"] = own.get("readout", PENULTIMATE)
    preprocess = _preprocess_kind(head, request.load(), weights)
    how = ExtractionSettings.of({**given.model_dump(), **of_the_head, "preprocess": preprocess, "parity": False})
    with tempfile.TemporaryDirectory() as scratch:
        opened = FeatureStore.create(store or (Path(scratch) / "features.zarr"))
        job = ExtractionJob(requests=(request,), settings=how)
        (extracted,) = extract_job(image_set, job, opened, log=log, progress=progress)
        features = extracted.features
        return Predictions(ids_N=features.ids, scores_NK=head.scores(features.features), failed=dict(features.failed))


def _preprocess_kind(head: Head, network: LoadedNetwork, weights: str) -> PreprocessKind:
    """Return the preprocess that the head's features were made with."""
    weights_digest, _, features_digest = network.digest.partition("-")
    if features_digest and network.digest != head.features["weights"]:
        same = head.features["weights"].startswith(weights_digest)
        raise InputError(
            f"the head belongs to another {network.name}: "
            + ("its weights are the same, but it computes other features now" if same else "its weights were others")
            + "; give the head the network that its features were extracted with, or fit it again"
        )
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
