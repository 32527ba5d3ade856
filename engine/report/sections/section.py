"""Section: one part of the report's page; Material: what all of them are made from; and how templates are rendered."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from penultimate.engine.analysis.findings import Findings
from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.names import chosen_text, setting_name, slug
from penultimate.engine.web.render import environment
from penultimate.store.trials.trial import Trial


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """Everything that a page is made from."""

    found: Findings
    trials: Sequence[Trial] = ()
    """The trials behind the findings; none for a published table."""

    spaces: Sequence[ReportFigure] = ()
    """Figures of feature spaces, which need a store and are drawn by who has one."""

    photographs: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    """Digest of the images and id -> thumbnail, a WebP file, of test images that are shown."""

    @cached_property
    def rows(self) -> list[ScoreRow]:
        """Return the rows to show of each dataset: of all training images, or where there is none of the most shots."""
        rows = self.found.board.rows
        whole = self.found.main_rows
        with_whole = {(row.images, row.method) for row in whole}
        few = [row for row in rows if row.shots is not None and (row.images, row.method) not in with_whole]
        most = {key: max(row.shots or 0 for row in few if _place(row) == key) for key in map(_place, few)}
        return whole + [row for row in few if row.shots == most[_place(row)] and row.seed == 0]

    @cached_property
    def by_id(self) -> dict[str, Trial]:
        """Return the trials by id."""
        return {trial.id: trial for trial in self.trials}

    def by_dataset(self, rows: Sequence[ScoreRow]) -> dict[str, list[ScoreRow]]:
        """Return rows by the name of their dataset, with a digest where two have one name; best first."""
        names = {(row.dataset, row.images) for row in self.found.board.rows}
        twice = {name for name, _ in names if sum(name == other for other, _ in names) > 1}
        groups: dict[str, list[ScoreRow]] = {}
        for row in sorted(rows, key=lambda row: (row.dataset, row.images, -row.value)):
            name = f"{row.dataset} ({row.images[:8]})" if row.dataset in twice else row.dataset
            groups.setdefault(name, []).append(row)
        return groups


def _place(row: ScoreRow) -> tuple[str, str]:
    return row.images, row.method


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Section:
    """One part of the page."""

    id: str
    """Its anchor, one word."""

    nav: str
    """Its name in the list of sections."""

    title: str
    """What is seen in it, as a sentence without a full stop."""

    lead: str = ""
    """One or two sentences for who does not know the method."""

    figures: Sequence[ReportFigure] = ()
    beside: Markup = field(default_factory=Markup)
    """What stands beside the figures, where there is room."""

    html: Markup = field(default_factory=Markup)
    """What stands below the figures."""


MakeSection = Callable[[Material], Section | None]
"""A function to a section; None where the material has nothing for it."""


def render(template: str, **values: Any) -> Markup:
    """Render a template of the report."""
    return Markup(_environment().get_template(template).render(**values))


@cache
def _environment() -> Environment:
    found = environment("penultimate.engine.report")
    found.filters |= {
        "percent": percent,
        "p": p_text,
        "interval": interval_text,
        "setting": setting_name,
        "chosen": chosen_text,
        "slug": slug,
        "json": lambda value: json.dumps(value, indent=1, sort_keys=True, default=str),
    }
    return found


def percent(value: float | None, digits: int = 2) -> str:
    """Return a fraction in per cent; empty for None."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def p_text(value: float | None) -> str:
    """Return a p value, or any number, with two digits; empty for None and NaN."""
    return "" if value is None or value != value else f"{value:.2g}"  # NaN differs from itself


def interval_text(bounds: Sequence[float] | None, digits: int = 2) -> str:
    """Return the bounds of an interval; empty for None."""
    return "" if bounds is None else f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"
