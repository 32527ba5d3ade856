"""``penultimate store ls|info|verify|rm``: look after a feature store."""

from pathlib import Path
from typing import Annotated, Any

import typer

from penultimate.cli.output import print_json, print_table
from penultimate.store.errors import CorruptFeaturesError, UnknownNameError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import FeatureKey
from penultimate.store.verify import verify as verify_store

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Look after a feature store: list, describe, verify, remove."
)

StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a feature store.")]
Digest = Annotated[str, typer.Argument(metavar="KEY", help="The digest that `store ls` shows, or enough of its start.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("ls")
def list_keys(store: StorePath, json: Json = False) -> None:
    """List what a store holds, and what an unfinished extract left in it.

    \b
    penultimate store ls features.zarr
    penultimate store ls features.zarr --json
    """
    rows = _rows(FeatureStore(store))
    if json:
        print_json(rows)
    else:
        print_table(
            rows, {f: f for f in ("dataset", "backbone", "digest", "rows", "total", "dim", "dtype", "complete")}
        )


@app.command()
def info(store: StorePath, key: Digest) -> None:
    """Print everything one group says of itself, as JSON.

    \b
    penultimate store info features.zarr 3fa9
    """
    opened = FeatureStore(store)
    print_json(opened.info(_find(opened, key)))
