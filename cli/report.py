"""``penultimate report``: one page with the scoreboard, the figures and the tests behind each claim."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from penultimate.engine.analysis.correlation import NUM_RESAMPLES
from penultimate.engine.analysis.findings import find
from penultimate.engine.backbones.imagenet import imagenet_top1
from penultimate.engine.report.drawn import Drawn
from penultimate.store.errors import InputError, UnknownNameError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trial_log import TrialLog


def report(
    runs: Annotated[Path, typer.Argument(metavar="TRIALS", help="Folder of a trial log.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path("report.html"),
    figures: Annotated[
        Path | None,
        typer.Option(help="Folder for the figures as PNG, PDF and CSV; default: beside the page, named after it."),
    ] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Transfer report",
    imagenet_table: Annotated[
        Path | None, typer.Option(help="CSV of model,top1 (per cent) that overrules the built-in table.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Feature store for figure 4, the t-SNE of two feature spaces.")
    ] = None,
    tsne: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Draw figure 4 of the test images of this dataset.")
    ] = None,
    tsne_backbone: Annotated[
        list[str] | None, typer.Option(metavar="BACKBONE", help="The two backbones of figure 4; give it twice.")
    ] = None,
    tsne_class: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="A class to draw in figure 4; repeat. Default: first ten.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap samples of the intervals.")] = NUM_RESAMPLES,
    seed: Annotated[int, typer.Option(help="Of the bootstrap, the permutation tests and t-SNE.")] = 0,
) -> None:
    """Write one self-contained page: scoreboard, figures, the tests behind each claim, what did not converge.

    The page needs no network. The figures also come as PNG and PDF, each with its numbers as CSV.

    \b
    penultimate report trials/ -o report.html
    penultimate report trials/ -o report.html --store features.zarr --tsne digits \\
        --tsne-backbone tf_efficientnet_lite0 --tsne-backbone tf_efficientnet_lite0.random0
    """
    from penultimate.engine.report.figures import figures as draw_figures  # matplotlib, only when asked for
    from penultimate.engine.report.page import write_page

    if not output.absolute().parent.is_dir():
        raise InputError(f"cannot write {output}: there is no folder {output.absolute().parent}")
    asked = (store is not None, tsne is not None, bool(tsne_backbone or tsne_class))
    if any(asked) and (store is None or tsne is None or len(tsne_backbone or ()) != 2):
        raise InputError("figure 4 needs --store, --tsne DATASET and --tsne-backbone twice")
    trials = TrialLog(runs).trials()
    found = find(trials, imagenet=imagenet_top1(imagenet_table), seed=seed, num_resamples=resamples)
    drawn = draw_figures(found)
    if store is not None and tsne is not None and tsne_backbone:
        drawn.append(_feature_spaces(store, tsne, tsne_backbone, tsne_class or [], seed))
    folder = figures or output.with_name(f"{output.stem}_figures")
    for figure in drawn:
        figure.save(folder)
    write_page(output, found, drawn, trials, title=title)
    typer.echo(f"page     {output}\nfigures  {folder} ({len(drawn)})", err=True)


def _feature_spaces(store: Path, dataset: str, backbones: list[str], classes: list[str], seed: int) -> Drawn:
    """Figure 4 of the test images that both backbones have features of."""
    from penultimate.engine.report.embedding_figure import FeatureSpace, embedding_figure

    opened = FeatureStore(store)
    sets = []
    for backbone in backbones:
        keys = [key for key in opened.keys() if key.dataset == dataset]  # noqa: SIM118  # a method of ours
        if not keys:
            raise UnknownNameError(f"dataset in {store}", dataset, {key.dataset for key in opened.keys()})  # noqa: SIM118
        matching = [key for key in keys if key.backbone == backbone]
        if not matching:
            raise UnknownNameError(f"backbone on {dataset} in {store}", backbone, {key.backbone for key in keys})
        sets.append(opened.read(matching[0]))
    spaces = []
    for backbone, features in zip(backbones, sets, strict=True):
        if features.labels.ndim == 2:
            raise InputError(f"{dataset} has several labels an image; figure 4 colours images by their only one")
        rows = features.rows("test")
        spaces.append(
            FeatureSpace(
                name=backbone,
                features_ND=features.features[rows],
                labels_N=features.labels[rows],
                ids_N=np.asarray(features.ids[rows], dtype=np.str_),
            )
        )
    return embedding_figure(spaces[0], spaces[1], sets[0].class_names, classes=classes, seed=seed)
