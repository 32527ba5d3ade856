"""``penultimate store ls|info|verify|rm|export``: list, describe, verify, clean and export a feature store."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from penultimate.cli import options
from penultimate.cli.options import StoreLocation
from penultimate.cli.output import print_json, print_table
from penultimate.engine.analysis.dataset_names import names_apart
from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.export import export_csv, export_numpy
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import FeatureKey
from penultimate.store.verify import Finding
from penultimate.store.verify import verify as verify_store

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Look after a feature store: list, describe, verify, remove, export.",
)

Key = Annotated[str, typer.Argument(metavar="KEY", help="A digest or path that `store ls` shows, or its beginning.")]

_COLUMNS = ("dataset", "backbone", "digest", "rows", "total", "precision", "dtype", "complete")


@app.command("ls")
def list_keys(store: StoreLocation, json: options.Json = False) -> None:
    """List the features in a store, complete ones and those of an unfinished extraction.

    \b
    penultimate store ls features.zarr
    penultimate store ls features.zarr --json
    penultimate store ls 's3://bucket/features?endpoint=https://minio.lab:9000'
    """
    rows = _rows(FeatureStore(store))
    if json:
        print_json(rows)
    else:
        names = names_apart((row["dataset"], row["images"]) for row in rows)
        apart = [row | {"dataset": name} for row, name in zip(rows, names, strict=True)]
        print_table(apart, {column: column for column in _COLUMNS})


@app.command()
def info(store: StoreLocation, key: Key) -> None:
    """Print all that is recorded with one key, as JSON: its images, and the versions and machine it came from.

    \b
    penultimate store info features.zarr 3fa9
    """
    opened = FeatureStore(store)
    print_json(opened.info(opened.find(key)))


@app.command()
def verify(store: StoreLocation, json: options.Json = False) -> None:
    """Read every byte again and compare it with the checksums; exit code 1 if anything differs.

    \b
    penultimate store verify features.zarr
    """
    opened = FeatureStore(store)
    findings = verify_store(opened)
    if json:
        print_json([_finding(finding) for finding in findings])
    else:
        for finding in findings:
            rows = f" rows {finding.rows.start} to {finding.rows.stop - 1}" if finding.rows else ""
            typer.echo(f"{finding.path} {finding.object}{rows}: {finding.problem}")
    if findings:
        raise CorruptFeaturesError(
            f"{len(findings)} findings in {store}; remove a damaged key with `penultimate store rm` and extract again"
        )
    typer.echo(f"{store}: {len(opened.keys())} complete keys, every byte as written", err=True)


@app.command()
def rm(store: StoreLocation, key: Key) -> None:
    """Remove one key, complete or not; refused while it is being written.

    \b
    penultimate store rm features.zarr 3fa9
    """
    opened = FeatureStore(store)
    found = opened.find(key)
    opened.delete(found)
    typer.echo(f"removed {found.path}", err=True)


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


def _rows(store: FeatureStore) -> list[dict[str, Any]]:
    complete = [_row(key, len(store.read(key).labels), store.info(key)["num_rows"], True) for key in store.keys()]  # noqa: SIM118
    begun = [_row(found.key, found.done_rows, found.num_rows, False) for found in store.incomplete()]
    return complete + begun


def _row(key: FeatureKey, rows: int, total: int, complete: bool) -> dict[str, Any]:
    """Return one row of the table; ``total`` counts the images of the set, ``rows`` those with features."""
    return asdict(key) | {"digest": key.digest, "path": key.path, "rows": rows, "total": total, "complete": complete}


def _finding(finding: Finding) -> dict[str, Any]:
    rows = [finding.rows.start, finding.rows.stop] if finding.rows else None
    return {"path": finding.path, "object": finding.object, "rows": rows, "problem": finding.problem}
