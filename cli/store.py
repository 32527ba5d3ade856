"""``penultimate store``: list, describe, verify, clean, upgrade and export a feature store."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from penultimate.cli import options
from penultimate.cli.options import StoreLocation
from penultimate.cli.output import log, print_json, print_table, with_readout
from penultimate.engine.analysis.dataset_names import names_apart
from penultimate.store.errors import CorruptFeaturesError, VanishedImageError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.interop.export import export_csv, export_numpy
from penultimate.store.key import FeatureKey
from penultimate.store.upkeep.inspection import Finding
from penultimate.store.upkeep.sharing import shared_rows, sources_of
from penultimate.store.upkeep.verify import verify as verify_store

if TYPE_CHECKING:  # the verbs here that need no images do without what reads them
    from penultimate.engine.extract.changed_images import ChangedImage

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Look after a feature store: list, describe, verify, remove, export.",
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="A digest or path that `store ls` shows, or its beginning.")]

_COLUMNS = ("dataset", "backbone", "readout", "digest", "rows", "total", "shared", "precision", "dtype", "complete")


@app.command("ls")
def list_keys(store: StoreLocation, json: options.Json = False) -> None:
    """List the features in a store, complete ones and those of an unfinished extraction.

    ``shared`` counts the rows that a set has in common with others: those are stored once.

    \b
    penultimate store ls features.zarr
    penultimate store ls features.zarr --json
    penultimate store ls 's3://bucket/features?endpoint=https://minio.lab:9000'
    """
    rows = _rows(FeatureStore(store))
    if json:
        print_json(rows)
    else:
        names = names_apart((row["dataset"], row.get("images")) for row in rows)
        apart = [row | {"dataset": name} for row, name in zip(rows, names, strict=True)]
        print_table(apart, with_readout({column: column for column in _COLUMNS}, apart))


@app.command()
def info(store: StoreLocation, key: Key) -> None:
    """Print all that is recorded with one key, as JSON: its images, versions and machine, and where its rows are from.

    \b
    penultimate store info features.zarr 3fa9
    """
    opened = FeatureStore(store)
    found = opened.find(key)
    print_json(opened.info(found) | {"sources": sources_of(opened, found)})


@app.command()
def verify(
    store: StoreLocation,
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Also read these images again and tell which are not what was embedded any more; repeatable."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Read every byte again and compare it with the checksums; exit code 1 if anything differs.

    \b
    penultimate store verify features.zarr
    penultimate store verify features.zarr --images photos/
    """
    opened = FeatureStore(store)
    findings = verify_store(opened)
    changed = _changed(opened, images or ())
    if json:
        print_json([*map(_finding, findings), *map(asdict, changed)])
    else:
        for finding in findings:
            rows = f" rows {finding.rows.start} to {finding.rows.stop - 1}" if finding.rows else ""
            typer.echo(f"{finding.path} {finding.object}{rows}: {finding.problem}")
        for change in changed:
            typer.echo(f"{change.dataset} {change.image}: {change.problem}")
    if findings:
        raise CorruptFeaturesError(
            f"{len(findings)} findings in {store}; remove a damaged key with `penultimate store rm` and extract again"
        )
    if changed:
        raise VanishedImageError(
            f"{len(changed)} images are not what was embedded; `penultimate extract` embeds them as they are now"
        )
    typer.echo(f"{store}: {len(opened.keys())} complete keys, every byte as written", err=True)


@app.command()
def rm(store: StoreLocation, key: Key) -> None:
    """Remove one key, complete or not, and the rows that no other needs; refused while it is being written.

    \b
    penultimate store rm features.zarr 3fa9
    """
    opened = FeatureStore(store)
    found = opened.find_any(key)
    removed = opened.delete(found)
    typer.echo(f"removed {found.path}: {_megabytes(removed.freed_bytes)} freed", err=True)
    if removed.shared_bytes:
        typer.echo(f"{_megabytes(removed.shared_bytes)} of its rows stay: other sets refer to them", err=True)
    for reason in removed.kept:
        typer.echo(f"not all that is unused was freed: {reason}", err=True)


@app.command("upgrade")
def upgrade_(
    store: StoreLocation,
    images: Annotated[
        list[str] | None,
        typer.Option(help="What the features were extracted from, where it is not where it was then; repeatable."),
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Take contents from the digest cache where it knows them.")
    ] = True,
) -> None:
    """Bring keys of format 1 forward, so that sets which grow share their rows; nothing is embedded.

    Their images are read, where the digest cache does not know them, to see that they are what was embedded. Keys whose
    images are gone stay as they are, and can be read.

    \b
    penultimate store upgrade features.zarr
    penultimate store upgrade features.zarr --images photos/
    """
    from penultimate.engine.extract.upgrade import upgrade_store
    from penultimate.engine.images.digest_cache import user_cache

    remembered = user_cache() if cache else None
    upgraded, kept = upgrade_store(FeatureStore(store), images=images or (), cache=remembered, log=log)
    typer.echo(f"{store}: {upgraded} keys upgraded, {kept} stay in format 1", err=True)


@app.command()
def export(
    store: StoreLocation,
    key: Key,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="New or empty folder; with --as, a new file.")],
    kind: Annotated[
        Literal["numpy", "torch", "csv"],
        typer.Option(
            "--as",
            help="numpy: a folder with features.npy and metadata.parquet. torch: a dict of tensors and lists, for "
            "torch.load. csv: row, id, label, class and split without the features.",
        ),
    ] = "numpy",
) -> None:
    """Write one key as plain files, in the store's row order.

    \b
    penultimate store export features.zarr 3fa9 exported/
    penultimate store export features.zarr 3fa9 features.pt --as torch
    penultimate store export features.zarr 3fa9 ids.csv --as csv
    """
    opened = FeatureStore(store)
    features = opened.read(opened.find(key))
    if kind == "torch":
        from penultimate.engine.torch_features import export_torch  # the other verbs here do without torch

        typer.echo(export_torch(features, target))
    else:
        typer.echo({"numpy": export_numpy, "csv": export_csv}[kind](features, target))


def _changed(store: FeatureStore, images: Sequence[str]) -> "list[ChangedImage]":
    from penultimate.engine.extract.changed_images import changed_images
    from penultimate.engine.images.load import load_images

    return [change for spec in images for change in changed_images(store, load_images(spec, labels=False))]


def _rows(store: FeatureStore) -> list[dict[str, Any]]:
    shared = shared_rows(store)
    return [_complete_row(store, key, shares) for key, shares in shared.items()] + [
        asdict(found.embedding)
        | {"dataset": found.dataset, "digest": found.digest, "path": found.path, "rows": found.done_rows}
        | {"total": found.num_rows, "shared": 0, "shares": {}, "complete": False}
        for found in store.incomplete()
    ]


def _complete_row(store: FeatureStore, key: FeatureKey, shares: Mapping[FeatureKey, int]) -> dict[str, Any]:
    """Return one row of the table; ``total`` counts the images of the set, ``rows`` those with features."""
    info = store.info(key)
    return asdict(key) | {
        "digest": key.digest,
        "path": key.path,
        "rows": info["num_rows"] - info["num_failed"],
        "total": info["num_rows"],
        "shared": max(shares.values(), default=0),
        "shares": {other.digest: count for other, count in shares.items()},
        "complete": True,
    }


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _finding(finding: Finding) -> dict[str, Any]:
    rows = [finding.rows.start, finding.rows.stop] if finding.rows else None
    return {"path": finding.path, "object": finding.object, "rows": rows, "problem": finding.problem}
