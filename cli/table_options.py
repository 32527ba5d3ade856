"""Declare once the options of the verbs that read a table of accuracies instead of a trial log."""

from pathlib import Path
from typing import Annotated, Literal

import typer

TrialsOrTable = Annotated[
    str | None,
    typer.Argument(metavar="[TRIALS]", help="A trial log: a folder, or an s3://, gs:// or az:// address."),
]
Table = Annotated[Path | None, typer.Option(help="A CSV or Parquet table instead: a row a model, a column a dataset.")]
ImagenetColumn = Annotated[str, typer.Option(help="With --table: the column that holds ImageNet accuracy.")]
ModelColumn = Annotated[
    str | None, typer.Option(help="With --table: the column that holds the models' names; the first if not given.")
]
DatasetColumns = Annotated[
    list[str] | None, typer.Option(help="With --table: a column to use as a dataset; repeat. All if not given.")
]
TableUnit = Annotated[
    Literal["percent", "fraction"] | None,
    typer.Option(help="With --table: what the accuracies are; told from the largest value if not given."),
]
ImagenetTable = Annotated[
    Path | None, typer.Option(help="With TRIALS: CSV of model,top1 (per cent) that overrules the built-in table.")
]
