"""Write an audit as one HTML page that needs no network, with the images' thumbnails where they are given."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from penultimate.engine.analysis.jsonable import records
from penultimate.engine.audit.audit import Audit
from penultimate.engine.audit.sections import SECTIONS, ListedTable
from penultimate.engine.audit.sentences import sentences
from penultimate.engine.runtime.whole_file import write_whole
from penultimate.engine.web.render import environment, script_safe
from penultimate.store.provenance import library_versions

ROWS = 500
"""Rows of a table that are on the page; with their pictures, of 2 kB each, a page has a few megabytes at most."""

Thumbnails = Mapping[tuple[str, str], bytes]
"""Name of a dataset and id of an image -> its thumbnail, an encoded WebP file."""


def pictured(audit: Audit) -> dict[str, list[str]]:
    """Return the ids of the images that the page shows, in the order of the page, by the name of their dataset."""
    wanted: dict[str, dict[str, None]] = {}
    for table in SECTIONS:
        for row in records(table.rows(audit).head(ROWS)):
            for dataset, id_ in table.pictures(row, audit):
                wanted.setdefault(dataset, {})[id_] = None
    return {dataset: list(ids) for dataset, ids in wanted.items()}


def write_page(path: Path, audit: Audit, thumbnails: Thumbnails) -> None:
    """Write the page to ``path``."""
    write_whole(path, page(audit, thumbnails))


def page(audit: Audit, thumbnails: Thumbnails) -> str:
    """Return the page as HTML; images without a thumbnail are shown by their ids."""
    number_of = {image: number for number, image in enumerate(thumbnails)}
    version = library_versions().get("penultimate", "not installed")
    about = audit.summary
    return (
        environment("penultimate.engine.audit")
        .get_template("audit.html.j2")
        .render(
            title=f"Audit of {about['dataset']}",
            subtitle=f"{about['images']:,} images by {about['backbone']}; penultimate {version}. Nothing was changed.",
            sentences=sentences(audit),
            sections=[_section(table, audit, number_of) for table in SECTIONS if table.is_shown(audit)],
            notes=audit.notes,
            thumbnails=script_safe([_data_address(content) for content in thumbnails.values()]),
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table on the page."""

    name: str
    heading: str
    is_number: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell: what is read, and the value that is sorted and saved where it differs from that."""

    text: str
    value: str | None = None
    style: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image beside its row."""

    id: str
    index: int | None
    """Number of its thumbnail; None where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of a table on the page."""

    cells: Sequence[Cell]
    pictures: Sequence[Picture]
    filters: Mapping[str, str]
    text: str
    """What the text filter searches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A section of the page: a table with its title."""

    id: str
    nav: str
    title: str
    lead: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    filters: Mapping[str, Sequence[str]]
    images: int
    """Images beside each row, 0 where there are none."""

    has_pictures: bool
    is_list: bool
    more: str
    """Where the rows are that are not on the page; empty if there are none."""


def _section(table: ListedTable, audit: Audit, number_of: Mapping[tuple[str, str], int]) -> Section:
    whole = table.rows(audit)
    shown = whole.head(ROWS)
    rows = [_row(table, record, audit, number_of) for record in records(shown)]
    left = len(whole) - len(shown)
    return Section(
        id=table.id,
        nav=table.nav,
        title=table.title(audit),
        lead=table.lead(audit),
        columns=[
            Column(name=str(name), heading=table.headings.get(str(name), str(name).replace("_", " ")), is_number=number)
            for name, number in ((name, _is_number(shown, str(name))) for name in shown.columns)
        ],
        rows=rows,
        filters={name: sorted({row.filters[name] for row in rows} - {""}) for name in table.filters},
        images=len(rows[0].pictures) if rows else 0,
        has_pictures=any(picture.index is not None for row in rows for picture in row.pictures),
        is_list=table.is_list,
        more=f"{left:,} more are listed by --json, and in Python." if left else "",
    )


def _row(
    table: ListedTable, record: Mapping[str, object], audit: Audit, number_of: Mapping[tuple[str, str], int]
) -> Row:
    images = table.pictures(record, audit)
    return Row(
        cells=[_cell(name, value) for name, value in record.items()],
        pictures=[Picture(id=image[1], index=number_of.get(image)) for image in images],
        filters={name: table.filters[name](record) for name in table.filters},
        text=" ".join(str(value) for value in record.values() if isinstance(value, str)).lower(),
    )


def _cell(name: str, value: object) -> Cell:
    if value is None:
        return Cell(text="")
    if isinstance(value, bool):
        return Cell(text="yes" if value else "no")
    if isinstance(value, float):
        return Cell(text=_fraction(name, value), value=repr(value), style="n")
    if isinstance(value, int):
        return Cell(text=f"{value:,}", value=str(value), style="n")
    return Cell(text=str(value), style=_STYLES.get(name, ""))


_PERCENT = (
    "share",
    "score",
    "score_low",
    "score_high",
    "without",
    "without_low",
    "without_high",
    "p_label",
    "p_suggested",
)
"""Columns of fractions that are read in per cent; what is sorted and saved stays a fraction."""


_STYLES = dict.fromkeys(("image", "other", "reason"), "id") | dict.fromkeys(
    ("label", "other_label", "suggested"), "name"
)
"""Column -> class of its cells, which says how long texts are broken."""


def _fraction(name: str, value: float) -> str:
    if name in _PERCENT:
        return f"{100 * value:.2f} %"
    return f"{value:.3f}" if value == 0 or value >= 0.001 else "< 0.001"


def _is_number(table: pd.DataFrame, name: str) -> bool:
    return bool(pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name]))


def _data_address(content: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(content).decode()
