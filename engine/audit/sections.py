"""The tables of the page in their order, each with its title, what it means, its pictures and its filters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from penultimate.engine.audit.audit import Audit

Record = Mapping[str, Any]


def _no_pictures(row: Record, audit: Audit) -> list[tuple[str, str]]:
    return []


def _image(row: Record, audit: Audit) -> list[tuple[str, str]]:
    return [(audit.summary["dataset"], row["image"])]


def _both(row: Record, audit: Audit) -> list[tuple[str, str]]:
    own = audit.summary["dataset"]
    return [(own, row["image"]), (row.get("other_dataset", own), row["other"])]


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedTable:
    """A table of an audit as the page shows it."""

    id: str
    nav: str
    title: Callable[[Audit], str]
    lead: Callable[[Audit], str]
    rows: Callable[[Audit], pd.DataFrame]
    pictures: Callable[[Record, Audit], Sequence[tuple[str, str]]] = _no_pictures
    """Function from a row to the datasets and ids of its images."""

    filters: Mapping[str, Callable[[Record], str]] = field(default_factory=dict)
    """Name of a filter -> function from a row to the value it is chosen by."""

    headings: Mapping[str, str] = field(default_factory=dict)
    """Column -> heading, where that is not the column's name."""

    is_list: bool = True
    """Whether rows are filtered and saved."""

    is_shown: Callable[[Audit], bool] = lambda audit: True


def _twins_lead(audit: Audit) -> str:
    about = audit.summary
    searched = " ".join(
        f"In {each['dataset']} only likely pairs were compared: of {each['rows']:,} images drawn at random the nearest "
        f"other was found for {each['found']:,}."
        for each in about["recalls"]
    )
    return (
        "Equal images are so by their content, whatever their names. Near-duplicates are at most "
        f"{about['ratio']:g} times as far from each other (cosine distance of features) as either is from its "
        f"{about['neighbor']}th neighbour, which here is {about['typical_distance']:.3f} at the median. "
        + (searched or "Every pair was compared.")
        + " Of many equal images not every pair is listed, but every image is."
    )


def _labels_lead(audit: Audit) -> str:
    checked = audit.summary["labels_checked"]
    if checked is None:
        return "Labels were not checked; see what was left out."
    return (
        f"Each of {checked:,} labels was judged by a probe fitted without its image and without its twins; those that "
        "confident learning (cleanlab) holds for wrong are listed, the least probable first. p label and p suggested "
        "are that probe's probabilities. A look decides: two classes that overlap are doubted as well."
    )


def _outliers_lead(audit: Audit) -> str:
    beyond = int(audit.outliers["beyond_fence"].sum())
    fence = f"{beyond} of them" if beyond else "none"
    return (
        f"The 1 % of images (at most 200) whose {audit.summary['neighbor']}th neighbour is farthest; {fence} beyond "
        "Tukey's fence, 1.5 quartile ranges above the upper quartile."
    )


def _leak_rows(audit: Audit) -> pd.DataFrame:
    return audit.leaks if audit.summary["against"] else audit.leaks.drop(columns="twins_in_dataset")


def _score_rows(audit: Audit) -> pd.DataFrame:
    table = audit.scores[
        ["backbone", "readout", "method", "seed", "metric", "score", "without", "images", "images_without"]
    ].copy()
    for place, name in ((6, "score"), (8, "without")):
        bounds = zip(audit.scores[f"{name}_low"], audit.scores[f"{name}_high"], strict=True)
        table.insert(place, f"{name}_interval", [_interval(low, high) for low, high in bounds])
    return table


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None or low != low else f"{100 * low:.1f} to {100 * high:.1f}"


def _twin_rows(audit: Audit) -> pd.DataFrame:
    first = ["kind", "distance"]
    table = audit.twins[first + [name for name in audit.twins.columns if name not in first]]
    return table if audit.summary["against"] else table.drop(columns="other_dataset")


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


SECTIONS = (
    ListedTable(
        id="leaks",
        nav="Leaks",
        title=lambda audit: "Images with a twin in another split, in their own, or in another dataset",
        lead=lambda audit: "Images that have a twin there, of all images of their split; equal: with an equal image.",
        rows=_leak_rows,
        is_list=False,
    ),
    ListedTable(
        id="scores",
        nav="Scores",
        title=lambda audit: "Test scores with and without the images that have a twin in train or val",
        lead=lambda audit: "Of every trial of these images; intervals are 95 %, over test images.",
        rows=_score_rows,
        headings={"score_interval": "95 %", "without_interval": "95 %", "images_without": "images left"},
        is_list=False,
        is_shown=lambda audit: len(audit.scores) > 0,
    ),
    ListedTable(
        id="twins",
        nav="Twins",
        title=lambda audit: _count(len(audit.twins), "pair of twins", "pairs of twins"),
        lead=_twins_lead,
        rows=_twin_rows,
        pictures=_both,
        filters={
            "kind": lambda row: row["kind"],
            "splits": lambda row: f"{row['split']}-{row['other_split']}",
            "labels": lambda row: "same" if row["label"] == row["other_label"] else "different",
        },
    ),
    ListedTable(
        id="labels",
        nav="Labels",
        title=lambda audit: _count(len(audit.label_issues), "doubtful label", "doubtful labels"),
        lead=_labels_lead,
        rows=lambda audit: audit.label_issues,
        pictures=_image,
        filters={"split": lambda row: row["split"]},
    ),
    ListedTable(
        id="outliers",
        nav="Outliers",
        title=lambda audit: "The images farthest from all others",
        lead=_outliers_lead,
        rows=lambda audit: audit.outliers,
        pictures=_image,
        filters={"split": lambda row: row["split"]},
    ),
    ListedTable(
        id="unreadable",
        nav="Unreadable",
        title=lambda audit: _count(len(audit.unreadable), "unreadable image", "unreadable images"),
        lead=lambda audit: "Images that could not be read or decoded, and so have no features.",
        rows=lambda audit: audit.unreadable,
        is_shown=lambda audit: len(audit.unreadable) > 0,
    ),
    ListedTable(
        id="classes",
        nav="Classes",
        title=lambda audit: "Images of each class",
        lead=lambda audit: "Lacking: splits without an image of the class.",
        rows=lambda audit: audit.classes,
    ),
)
"""The tables in the order of the page."""
