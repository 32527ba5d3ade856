"""``penultimate report``: write one page with the scoreboard, the figures and the tests behind each claim."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penultimate.cli import options
from penultimate.cli.output import log
from penultimate.cli.output_paths import file_to_write, folder_to_write
from penultimate.cli.table_options import (
    DatasetColumns,
    ImagenetColumn,
    ImagenetTable,
    ModelColumn,
    Table,
    TableUnit,
    TrialsOrTable,
)
from penultimate.engine.analysis.accuracy_table import read_accuracy_table
from penultimate.engine.analysis.analysis import analyze
from penultimate.engine.analysis.dataset_names import told_apart
from penultimate.engine.analysis.findings import find
from penultimate.engine.analysis.statistics.correlation import NUM_RESAMPLES
from penultimate.engine.analysis.table_findings import table_findings
from penultimate.engine.backbones.imagenet import imagenet_top1
from penultimate.store.errors import InputError, UnknownNameError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.layout import fixed_width
from penultimate.store.trials.trial_log import TrialLog

if TYPE_CHECKING:  # it draws with matplotlib, which the other verbs must not wait for
    from penultimate.engine.report.figures.report_figure import ReportFigure


def report(
    runs: TrialsOrTable = None,
    table: Table = None,
    imagenet: ImagenetColumn = "imagenet",
    model_column: ModelColumn = None,
    dataset: DatasetColumns = None,
    unit: TableUnit = None,
    imagenet_table: ImagenetTable = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.", callback=file_to_write)] = Path(
        "report.html"
    ),
    figures: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the figures as PNG, PDF and CSV; default: beside the page, named after it.",
            callback=folder_to_write,
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Transfer report",
    store: Annotated[
        str | None,
        typer.Option(
            help="Feature store of these trials, for photographs of test errors and for figure 4, the t-SNE of two "
            "feature spaces."
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="With --store: where the images are, if not where they were embedded; repeats."),
    ] = None,
    tsne: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Draw figure 4 of the test images of this dataset.")
    ] = None,
    tsne_backbone: Annotated[
        list[str] | None,
        typer.Option(metavar="BACKBONE", help="The two backbones (or digests) of figure 4; give it twice."),
    ] = None,
    tsne_class: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="A class to draw in figure 4; repeat. Default: first ten.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap samples of the intervals.")] = NUM_RESAMPLES,
    seed: options.Seed = 0,
) -> None:
    """Write one self-contained page: who is best and how sure that is, then figures, scores, tests and doubts.

    The page needs no network. The figures also come as PNG and PDF, each with its numbers as CSV.

    \b
    penultimate report trials/ -o report.html
    penultimate report trials/ -o report.html --store features.zarr --images photos/
    penultimate report --table accuracies.csv -o report.html
    penultimate report trials/ -o report.html --store features.zarr --tsne digits \\
        --tsne-backbone tf_efficientnet_lite0 --tsne-backbone tf_efficientnet_lite0.random0
    """
    from penultimate.engine.report.page import figures as figures_of  # imports matplotlib
    from penultimate.engine.report.page import make_sections, write_page
    from penultimate.engine.report.sections.classes import pictured
    from penultimate.engine.report.sections.section import Material

    if not output.absolute().parent.is_dir():
        raise InputError(f"cannot write {output}: there is no folder {output.absolute().parent}")
    if (runs is None) == (table is None):
        raise InputError("report reads either TRIALS, the folder of a trial log, or --table FILE; give one of them")
    if (tsne or tsne_backbone or tsne_class) and (store is None or tsne is None or len(tsne_backbone or ()) != 2):
        raise InputError("figure 4 needs --store, --tsne DATASET and --tsne-backbone twice")
    if images and store is None:
        raise InputError("photographs of test errors need --store, which knows what was embedded, besides --images")
    trials = [] if runs is None else told_apart(TrialLog(runs).trials())
    if table is not None:
        accuracies = read_accuracy_table(
            table, imagenet=imagenet, model_column=model_column, datasets=dataset or (), unit=unit
        )
        analysis = analyze(accuracies, seed=seed, num_resamples=resamples)
        found = table_findings(table.stem, analysis)
    else:
        found = find(trials, imagenet=imagenet_top1(imagenet_table), seed=seed, num_resamples=resamples)
    spaces = []
    if store is not None and tsne is not None and tsne_backbone:
        spaces.append(_figure_4(store, tsne, tsne_backbone, tsne_class or [], seed))
    material = Material(found=found, trials=trials, spaces=spaces)
    if store is not None:
        material = replace(material, photographs=_photographs(store, pictured(material), images or ()))
    sections = make_sections(material)
    drawn = figures_of(sections)
    folder = figures or output.with_name(f"{output.stem}_figures")
    for figure in drawn:
        figure.save(folder)
    write_page(output, material, sections, title=title)
    typer.echo(f"page     {output}\nfigures  {folder} ({len(drawn)})", err=True)


def _photographs(
    store: str, wanted: Mapping[str, Sequence[str]], images: Sequence[str]
) -> dict[tuple[str, str], bytes]:
    """Return thumbnails by digest of images and id, of those that are where they were embedded or in ``images``."""
    from penultimate.engine.images.thumbnails import thumbnails

    opened = FeatureStore(store)
    made: dict[tuple[str, str], bytes] = {}
    stored = opened.keys()
    keys = {key.images: key for key in stored}  # any backbone's set has the ids
    for digest in wanted.keys() & keys:
        found = thumbnails(opened.read(keys[digest]), wanted[digest], images=images)
        made |= {(digest, id_): content for id_, content in found.items()}
    missing = sum(map(len, wanted.values())) - len(made)
    if missing:
        log(f"{missing:,} test images were not found as embedded, and are not shown")
    return made


def _figure_4(store: str, dataset: str, backbones: list[str], classes: list[str], seed: int) -> "ReportFigure":
    """Draw figure 4 from the test images' features by two backbones."""
    from penultimate.engine.report.figures.embedding import FeatureSpace, embedding_figure

    opened = FeatureStore(store)
    sets = [_feature_set(opened, store, dataset, backbone) for backbone in backbones]
    if sets[0].labels.ndim == 2:
        raise InputError(f"{dataset} has several labels an image; figure 4 colours images by their only one")
    spaces = []
    for backbone, features in zip(backbones, sets, strict=True):
        rows = features.labelled_rows("test")
        spaces.append(
            FeatureSpace(
                name=backbone,
                features_ND=features.features[rows],
                labels_N=features.labels[rows],
                ids_N=fixed_width(features.ids[rows]),
            )
        )
    return embedding_figure(spaces[0], spaces[1], sets[0].class_names, classes=classes, seed=seed)


def _feature_set(opened: FeatureStore, store: str, dataset: str, backbone: str) -> FeatureSet:
    """Return the features by ``backbone`` (a name or a digest) on ``dataset``."""
    keys = opened.keys()
    of_dataset = [key for key in keys if key.dataset == dataset]
    if not of_dataset:
        raise UnknownNameError(f"dataset in {store}", dataset, {key.dataset for key in keys})
    matching = [key for key in of_dataset if backbone in (key.label, key.digest)]
    if not matching:
        raise UnknownNameError(f"backbone on {dataset} in {store}", backbone, {key.label for key in of_dataset})
    if len(matching) > 1:
        digests = ", ".join(key.digest for key in matching)
        raise InputError(f"{store} has {len(matching)} feature sets of {backbone} on {dataset}; name one: {digests}")
    return opened.read(matching[0])
