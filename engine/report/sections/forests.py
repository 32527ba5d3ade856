"""Turn rows of a scoreboard, contenders and curves into forest plots, titled by who is best."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import isfinite
from pathlib import Path

from matplotlib.figure import Figure

from penultimate.engine.analysis.curves.data_size import SizeCurve
from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.analysis.scoreboard import Contender, Scoreboard
from penultimate.engine.report.figures.forest import WIDTH, ForestRow, Standing, draw_forest, forest_figure, inches_of
from penultimate.engine.report.figures.report_figure import ReportFigure, figure_bytes
from penultimate.engine.report.figures.style import style
from penultimate.engine.report.names import name_of, setting_name, slug, standing_title
from penultimate.engine.runtime.whole_file import write_whole


def averages(contenders: Sequence[Contender]) -> ReportFigure:
    """Draw one method's contenders over all of their datasets."""
    best = contenders[0]
    num_datasets = len(best.datasets)
    where = f"over {num_datasets} datasets ({setting_name(best.method).lower()})"
    return forest_figure(
        f"forest_{slug(best.method)}",
        _title([(name_of(each), each.is_best, each.ties_with_best) for each in contenders], where),
        [_contender(each) for each in contenders],
        axis="adjusted log odds, mean over datasets",
        caption=f"{setting_name(best.method)}, {', '.join(best.datasets)}. Log odds less the mean of all rows on "
        "the same "
        "dataset; lines: ± 1.96 standard errors over datasets (Morey 2008). Ties: paired t-test over datasets, p "
        "> 0.05.",
        accuracy=False,
    )


def on_dataset(dataset: str, rows: Sequence[ScoreRow]) -> list[ReportFigure]:
    """Draw a figure for each method, metric and number of shots on one dataset, in the order of ``rows``."""
    groups: dict[tuple[str, str, int], list[ScoreRow]] = {}
    for row in rows:
        groups.setdefault((row.method, row.metric, row.shots or 0), []).append(row)
    return [_of_rows(dataset, sorted(mine, key=lambda row: -row.value)) for mine in groups.values()]


def of_curves(curves: Sequence[SizeCurve]) -> ReportFigure:
    """Draw the means over subsets at the most images a class that most curves of one dataset and method have."""
    times = Counter(int(each) for curve in curves for each in curve.shots_S)
    shots = max(times, key=lambda each: (times[each], each))
    rows = sorted((_of_curve(curve, shots) for curve in curves if shots in curve.shots_S), key=lambda row: -row.value)
    dataset, method = curves[0].dataset, curves[0].method
    where = f"on {dataset} from {shots} image{'s' * (shots > 1)} a class"
    others = len(rows) - 1
    return forest_figure(
        f"forest_{slug(dataset)}_{slug(method)}_few",
        f"{rows[0].name} {'is ahead ' if others else ''}{where}",
        rows,
        axis=f"{curves[0].metric}, % of test images",
        caption=f"{setting_name(method)}. Mean over subsets of the training images; lines: ± 1.96 standard errors "
        "over subsets.",
    )


def draw_scoreboard(board: Scoreboard, path: Path) -> None:
    """Draw every panel of the scoreboard side by side to ``path`` (.png, .pdf, .svg), as the report draws each."""
    panels = [
        list(rows) for _, rows in groupby(board.rows, key=lambda r: (r.dataset, r.images, r.method, r.metric, r.shots))
    ]
    with style():
        tallest = max(inches_of([_row(row) for row in rows]) for rows in panels)
        figure = Figure(figsize=(WIDTH * len(panels), 1.0 + tallest), layout="constrained")
        for axes, rows in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            few = "" if rows[0].shots is None else f", {rows[0].shots} images a class"
            axes.set_title(f"{rows[0].dataset}, {setting_name(rows[0].method).lower()}{few}")
            draw_forest(axes, [_row(row) for row in rows], axis=f"{rows[0].metric}, % of test images", hover={})
        figure.supxlabel(
            "filled: best; hollow circle: ties with it; diamond: worse; bars: 95 % over test images", fontsize=7
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, figure_bytes(figure, path.suffix.removeprefix(".")))


def _of_rows(dataset: str, rows: Sequence[ScoreRow]) -> ReportFigure:
    first = rows[0]
    few = "" if first.shots is None else f" from {first.shots} images a class"
    where = f"on {dataset}{few} ({setting_name(first.method).lower()})"
    title = _title([(name_of(row), row.is_best, row.ties_with_best) for row in rows], where)
    tests = sorted({row.test for row in rows if row.test})
    how = f" Ties: {', '.join(tests)}, p > 0.05." if tests else ""
    if not any(row.is_best for row in rows):  # shown are those of the largest budget
        how += " The best run, which the others are tested against, had fewer steps."
    return forest_figure(
        f"forest_{slug(dataset)}_{slug(first.method)}{f'_{first.shots}' if first.shots else ''}_{first.metric}",
        title,
        [_row(row) for row in rows],
        axis=f"{first.metric}, % of {first.n_test:,} test images",
        caption=f"Lines: 95 % intervals over test images.{how}",
    )


def _title(rows: Sequence[tuple[str, bool, bool | None]], where: str) -> str:
    """Return the title of rows, the highest first; that counts as the best where the best is not among them."""
    at = next((at for at, (_, is_best, _) in enumerate(rows) if is_best), 0)
    best, ties = rows[at][0], [name for other, (name, _, tie) in enumerate(rows) if tie and other != at]
    return standing_title(best, ties, num_others=len(rows) - 1, where=where)


def _standing(each: ScoreRow | Contender) -> Standing:
    if each.is_best:
        return "best"
    return "untested" if each.ties_with_best is None else "tie" if each.ties_with_best else "behind"


def _row(row: ScoreRow) -> ForestRow:
    chosen = "" if row.p_value is None else f"; p = {row.p_value:.2g} against the best"
    return ForestRow(
        name=name_of(row),
        value=row.value,
        interval=row.interval,
        standing=_standing(row),
        converged=row.converged,
        note=f"n = {row.n_test:,}{chosen}",
    )


def _contender(each: Contender) -> ForestRow:
    error = each.standard_error
    return ForestRow(
        name=name_of(each),
        value=each.adjusted_mean,
        interval=None if error is None else (each.adjusted_mean - 1.96 * error, each.adjusted_mean + 1.96 * error),
        standing=_standing(each),
        note="" if each.p_value is None else f"p = {each.p_value:.2g} against the best",
    )


def _of_curve(curve: SizeCurve, shots: int) -> ForestRow:
    at = list(curve.shots_S).index(shots)
    mean, error = float(curve.mean_S[at]), float(curve.standard_error_S[at])
    known = isfinite(error)
    return ForestRow(
        name=name_of(curve),
        value=mean,
        interval=(max(mean - 1.96 * error, 0.0), min(mean + 1.96 * error, 1.0)) if known else None,
        standing="untested",
        note=f"{curve.num_subsets_S[at]} subsets",
    )
