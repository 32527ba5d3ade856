"""``penultimate audit``: find copies, leaks, doubtful labels and outliers, and show them with their photographs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from penultimate.cli import options
from penultimate.cli.output import log, print_json, print_table
from penultimate.cli.output_paths import file_to_write
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.analysis.jsonable import records
from penultimate.engine.audit.audit import Audit, audit_set, sets_of
from penultimate.engine.audit.sentences import sentences
from penultimate.engine.audit.settings import AuditSettings
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial_log import TrialLog

_FLAGS = {options.HOW: ("ratio", "search", "labels", "folds"), options.WHERE: ("device",)}


@with_settings(AuditSettings, flags=_FLAGS)
def audit(
    store: options.StoreLocation,
    settings: Given,
    trials: Annotated[
        str | None,
        typer.Option(
            help="A trial log: scores are given without leaked images, and labels checked by the probe in it.",
            rich_help_panel=options.WHAT,
        ),
    ] = None,
    dataset: options.DatasetGlob = "*",
    backbone: options.BackboneGlob = "*",
    readout: options.ReadoutGlob = "*",
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OTHER",
            help="Another dataset in the store, or the digest of its key, to look for twins in; repeats.",
            rich_help_panel=options.WHAT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Page to write.", callback=file_to_write, rich_help_panel=options.WHERE),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Where the images for the page's thumbnails are, if not where they were embedded; repeats.",
            rich_help_panel=options.WHERE,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Find copies and near-duplicates, leaks into test, doubtful labels and outliers, and show them on a page.

    Twins are looked for within a split, between splits, and in other datasets; what they do to test scores is said.
    Labels are judged by probes that have not seen them. Nothing is deleted or changed: the page saves ids as CSV.

    \b
    penultimate audit features.zarr --trials trials/ -o audit.html
    penultimate audit features.zarr --dataset photos --backbone 'resnet50*' --json
    penultimate audit features.zarr --dataset photos --against caltech101 -o audit.html --images photos/
    """
    how = AuditSettings.of(settings)
    if output is not None and not output.absolute().parent.is_dir():
        raise InputError(f"cannot write {output}: there is no folder {output.absolute().parent}")
    logged = [] if trials is None else TrialLog(trials).trials()
    features, others = sets_of(FeatureStore(store), dataset, backbone, readout, against or ())
    found = audit_set(features, others, logged, how, log=log)
    if output is not None:
        _write(output, found, [features, *others], images or ())
    if json:
        print_json(found.as_json())
    else:
        _print(found)


def _write(output: Path, found: Audit, sets: Sequence[FeatureSet], images: Sequence[str]) -> None:
    from penultimate.engine.audit.page import pictured, write_page
    from penultimate.engine.images.thumbnails import thumbnails

    wanted = pictured(found)
    made = {
        (features.key.dataset, id_): content
        for features in sets
        for id_, content in thumbnails(features, wanted.get(features.key.dataset, ()), images=images).items()
    }
    write_page(output, found, made)
    missing = sum(map(len, wanted.values())) - len(made)
    log(
        f"page {output}, {len(made):,} thumbnails"
        + (f"; {missing:,} images were not found as embedded" * bool(missing))
    )


def _print(found: Audit) -> None:
    leaks = records(found.leaks)
    if leaks:
        shown = [row | {"share": f"{100 * row['share']:.2f}"} for row in leaks]
        headings = {"split": "split", "twins_in_dataset": "twins in", "twins_in_split": "split of twins"}
        print_table(shown, headings | {"images": "images", "equal": "equal", "total": "of", "share": "%"})
    for sentence in sentences(found):
        typer.echo(sentence)
    for note in found.notes:
        log(note)
