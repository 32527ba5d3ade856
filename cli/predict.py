"""``penultimate predict``: classify images with a saved head."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from penultimate.cli import options
from penultimate.cli.output import log, print_json, print_table
from penultimate.cli.progress import ImageProgress
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.extract.settings import PredictSettings
from penultimate.engine.images.load import load_images
from penultimate.engine.images.options import SourceOptions
from penultimate.engine.images.summary import summary_of
from penultimate.engine.predict import Predictions
from penultimate.engine.predict import predict as predict_scores
from penultimate.engine.probe.head import Head
from penultimate.store.feature_store import FeatureStore

_FLAGS = {
    options.HOW: ("decoder", "compile", "batch_size --batch-size -b"),
    options.WHERE: ("device", "workers --workers -j"),
}


class PredictOptions(SourceOptions, PredictSettings):
    """All options of ``penultimate predict`` besides images and head."""


@with_settings(PredictOptions, flags=_FLAGS)
def predict(
    images: options.Images,
    head: Annotated[
        Path,
        typer.Option(help="What `probe` wrote: TRIALS/heads/TRIAL.safetensors.", rich_help_panel=options.WHAT),
    ],
    settings: Given,
    weights: options.Weights = "timm",
    root: options.Root = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="Keep the features in this store, so that they are made once only.",
            rich_help_panel=options.WHERE,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes an image, best first.", rich_help_panel=options.HOW)] = 1,
    json: options.Json = False,
) -> None:
    """Classify images with a head that `probe` saved, through the backbone, preprocess and precision it was fitted on.

    A row an image and class, best first: probability, calibrated by the head's temperature (of one class against the
    rest where images have several), or the score of a squared hinge, which has no probabilities. Images that cannot be
    decoded are named on stderr.

    \b
    penultimate predict new/ --head trials/heads/0123456789abcdef.safetensors
    penultimate predict cat.jpg 'more/*.png' list.csv --head head.safetensors
    penultimate predict new/ --head head.safetensors --weights package --top 5 --json
    """
    fitted = Head.load(head)
    how = PredictOptions.of(settings)
    if store is not None:
        FeatureStore.check_location(store)  # before images are listed
    image_set = load_images(images, root=root, labels=False, **how.part(SourceOptions).model_dump())
    log(summary_of(image_set))
    network = how.part(PredictSettings).model_dump()
    with ImageProgress(image_set.name) as progress:
        found = predict_scores(image_set, fitted, weights=weights, store=store, log=log, progress=progress, **network)
    rows = _rows(found, fitted, top)
    value = "score" if fitted.loss == "squared_hinge" else "probability"
    if json:
        print_json(rows)
    else:
        shown = [row | {value: f"{row[value]:.4f}"} for row in rows]
        print_table(shown, {"id": "image", "class": "class", value: value})
    for id_, reason in found.failed.items():
        log(f"left out {id_}: {reason}")


def _rows(found: Predictions, head: Head, top: int) -> list[dict[str, Any]]:
    hinge = head.loss == "squared_hinge"
    value_NK = found.scores_NK if hinge else head.probabilities_of(found.scores_NK)
    best_NT = np.argsort(-found.scores_NK, axis=1, kind="stable")[:, :top]
    name = "score" if hinge else "probability"
    return [
        {"id": str(id_), "class": head.class_names[k], name: float(value_NK[n, k])}
        for n, id_ in enumerate(found.ids_N)
        for k in best_NT[n]
    ]
