"""ImageOptions declares once, for the command line, YAML and Python, how images and their labels are read."""

from typing import Annotated

from pydantic import Field

from penultimate.engine.images.layout import Reader
from penultimate.engine.runtime.strict import Strict

OpenFraction = Annotated[float, Field(gt=0, lt=1)]


class SourceOptions(Strict):
    """Options that decide how a folder or a table of images is understood."""

    path_column: str | None = None
    """Column of a table that holds the path of the image; by default path, image, file, filename and the like."""

    reader: Reader | None = None
    """Kind of files to read in a folder that holds several kinds: image files, tars, Parquet files or a table."""

    splits: bool = True
    """Take folders called train, val, test and the like as splits; without, the first level of a folder is classes."""


class ImageOptions(SourceOptions):
    """Options that decide how images, their labels and their splits are read."""

    label_column: str = "label"
    """Column of a table, or field of a tar's .json, that holds the label."""

    multi_label: bool = False
    """Samples have several labels: names separated by | in tables and tars, a matrix of 0 and 1 in arrays. A column of
    lists says so itself."""

    val_fraction: OpenFraction = 0.2
    """Fraction of each class held out for val, where no split is given."""

    test_fraction: OpenFraction = 0.2
    """Fraction of each class held out for test, where no split is given."""
