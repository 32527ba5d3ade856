"""Summarize findings in a few plain sentences with numbers, for the top of a report."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import isnan

from penultimate.engine.analysis.analysis import Analysis
from penultimate.engine.analysis.curves.convergence import Speedup
from penultimate.engine.analysis.curves.data_size import SizeCurve
from penultimate.engine.analysis.curves.depth import ReadoutCurve
from penultimate.engine.analysis.findings import Findings
from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.analysis.scoreboard import Contender
from penultimate.engine.analysis.setting_pairs import SettingPair
from penultimate.engine.analysis.statistics.compare import SIGNIFICANCE
from penultimate.engine.report.names import name_of, setting_name

FEWEST_NETWORKS = 5
"""Number of networks from which on a correlation is said and drawn: with fewer its interval is -1 to 1."""

FEW_MODELS = 8
"""Number of networks below which a report warns that the correlation is uncertain, whatever its value."""


MOST = 3
"""Number of sentences on the first screen."""


def sentences(found: Findings) -> list[str]:
    """Return every finding as a sentence, those of the first screen first."""
    return [*headline(found), *more(found), *readout_sentences(found)]


def headline(found: Findings) -> list[str]:
    """Return the sentences of the first screen: who is best, what the correlation and the settings say, and doubts.

    At most ``MOST`` of what was found, and besides what did not converge.
    """
    return [*_telling(found)[:MOST], *_doubts(found)]


def more(found: Findings) -> list[str]:
    """Return the findings that the first screen has no room for, and those that say little."""
    telling = _telling(found)
    little = [_correlation(name, each) for name, each in found.analyses.items() if not _tells(each)]
    little += [_setting(pair) for pair in _overall(found) if not _is_significant(pair)]
    return telling[MOST:] + little


def _telling(found: Findings) -> list[str]:
    """Return the findings that say something, the most important of each kind first."""
    kinds = [
        [*_best(found), *_best_of_few(found)],
        [_correlation(name, each) for name, each in found.analyses.items() if _tells(each)],
        [_setting(pair) for pair in _overall(found) if _is_significant(pair)],
        list(_speed(found)),
    ]
    first = [kind[0] for kind in kinds if kind]
    return first + [sentence for kind in kinds for sentence in kind[1:]]


def _tells(analysis: Analysis) -> bool:
    """Return whether there are networks enough for a correlation to have an interval."""
    return analysis.correlation.num_models >= FEWEST_NETWORKS


def _overall(found: Findings) -> list[SettingPair]:
    return [pair for pair in found.setting_pairs if pair.dataset is None]


def _is_significant(pair: SettingPair) -> bool:
    return pair.comparison.p_value <= SIGNIFICANCE


def _best(found: Findings) -> Iterator[str]:
    """Yield the best over all datasets for a method with several datasets, otherwise dataset by dataset."""
    for method, contenders in by_method(found.contenders).items():
        if len(contenders) > 1 and len(contenders[0].datasets) > 1:
            yield _best_on_average(method, contenders)
        else:
            rows = [row for row in found.main_rows if row.method == method]
            yield from (_best_on(list(each)) for _, each in groupby(rows, key=lambda row: (row.dataset, row.images)))


def by_method(contenders: Sequence[Contender]) -> dict[str, list[Contender]]:
    """Return the contenders of each method, the method with the best contender first."""
    groups: dict[str, list[Contender]] = {}
    for each in sorted(contenders, key=lambda each: -each.mean_log_odds):
        groups.setdefault(each.method, [])
    for each in contenders:
        groups[each.method].append(each)
    return groups


def _best_on_average(method: str, contenders: Sequence[Contender]) -> str:
    best, ties = contenders[0], [name_of(each) for each in contenders[1:] if each.ties_with_best]
    error = "" if best.standard_error is None else f" ± {best.standard_error:.2f}"
    return (
        f"{setting_name(method)}: {name_of(best)} is best on average over {len(best.datasets)} datasets (adjusted log "
        f"odds {best.adjusted_mean:+.2f}{error}); {_tie(ties)} (paired t-test over datasets, p > 0.05)."
    )


def _best_on(rows: Sequence[ScoreRow]) -> str:
    best, ties = rows[0], [name_of(row) for row in rows[1:] if row.ties_with_best]
    sure = "" if best.interval is None else f" (95 % {100 * best.interval[0]:.1f} to {100 * best.interval[1]:.1f})"
    does = "is best with" if len({name_of(row) for row in rows}) > 1 else "scores"
    text = f"{setting_name(best.method)} on {best.dataset}: {name_of(best)} {does} {100 * best.value:.2f} %{sure}"
    tests = {row.test for row in rows if row.test}
    return text + (f"; {_tie(ties)} ({', '.join(sorted(tests))}, p > 0.05)." if tests else ".")


def _best_of_few(found: Findings) -> Iterator[str]:
    """At the fewest and the most images a class, where backbones were compared by no trial on all training images."""
    whole = {(row.images, row.method) for row in found.main_rows}
    few = [curve for curve in found.size_curves if (curve.images, curve.method) not in whole]
    for _, group in groupby(few, key=lambda curve: (curve.dataset, curve.images, curve.method, curve.metric)):
        curves = list(group)
        if len({curve.backbone for curve in curves}) > 1:
            sizes = sorted({int(shots) for curve in curves for shots in curve.shots_S})
            yield from (_best_from(shots, curves) for shots in dict.fromkeys((sizes[0], sizes[-1])))


def _best_from(shots: int, curves: Sequence[SizeCurve]) -> str:
    at = [(curve, list(curve.shots_S).index(shots)) for curve in curves if shots in curve.shots_S]
    ranked = sorted(at, key=lambda each: -each[0].mean_S[each[1]])
    best, *others = [f"{name_of(curve)} {_mean(curve, s)}" for curve, s in ranked]
    then = f", then {others[0]}" if others else ""
    return (
        f"{setting_name(curves[0].method)} on {curves[0].dataset} from {shots} image{'s' * (shots > 1)} a class: "
        f"{best} is best{then}; mean ± standard error over subsets."
    )


def _mean(curve: SizeCurve, s: int) -> str:
    error = curve.standard_error_S[s]
    return f"({100 * curve.mean_S[s]:.1f}{'' if isnan(error) else f' ± {100 * error:.1f}'} %)"


def _tie(ties: Sequence[str]) -> str:
    if not ties:
        return "none ties with it"
    return f"{', '.join(ties)} tie{'s' * (len(ties) == 1)} with it"


def _correlation(setting: str, analysis: Analysis) -> str:
    r = analysis.correlation
    low, high = r.r_interval_models
    over = r.r_interval_datasets
    text = (
        f"{setting_name(setting)}: ImageNet accuracy and transfer accuracy correlate with r = {r.pearson_r:.2f} "
        f"(95 % {low:.2f} to {high:.2f} over networks"
        + (f", {over[0]:.2f} to {over[1]:.2f} over datasets" if over else "")
        + f"; p = {r.p_value:.2g}; {r.num_models} networks, {r.num_datasets} dataset{'s' * (r.num_datasets > 1)})."
    )
    if r.num_models < FEW_MODELS:
        text += f" {r.num_models} networks are few: the interval over networks says how little is known."
    return text


def _setting(pair: SettingPair) -> str:
    first, second, counts = pair.first, pair.second, pair.comparison
    better = counts.num_better
    if counts.median_difference < 0:
        first, second, better = second, first, counts.num_pairs - counts.num_better - counts.num_equal
    one, other = setting_name(first), setting_name(second)
    other = other[:1].lower() + other[1:]
    of = f"{better} of {counts.num_pairs} pairs of network and dataset"
    if isnan(counts.p_value):
        return f"{one} and {other} are equal in all {counts.num_pairs} pairs of network and dataset."
    test = f"Wilcoxon signed rank, p = {counts.p_value:.2g}, by Holm over all pairs of settings {pair.p_value_holm:.2g}"
    if counts.p_value > SIGNIFICANCE:
        return f"{one} and {other} cannot be told apart: the former is better in {of} ({test})."
    return f"{one} is better than {other} in {of} ({test})."


def readout_sentences(found: Findings) -> list[str]:
    """Say of each network which readout is best on each dataset, and which tie with it."""
    return [_readouts(curve) for curve in found.readout_curves]


def _readouts(curve: ReadoutCurve) -> str:
    best = curve.best
    tied = [each.readout for each in curve.scores if each.ties_with_best and not each.is_best]
    of = "" if curve.method == "probe" else f" ({setting_name(curve.method).lower()})"
    return (
        f"Readouts of {curve.label} on {curve.dataset}{of}: {best.readout} scores best of {len(curve.scores)} with "
        f"{100 * best.value:.2f} % on test; {_tie(tied)} (paired test on the same images, p > 0.05)."
    )


def speedup_sentence(speedup: Speedup) -> str:
    """Return how many times fine-tuning is faster, with its interval, and whether that is at least so many times."""
    more = "more than " if speedup.is_lower_bound else ""
    low, high = speedup.steps_interval
    interval = "" if isnan(low) else f"; 95 % interval of the steps {low:.1f} to {high:.1f}"
    pairs = "1 pair" if speedup.num_pairs == 1 else f"{speedup.num_pairs} pairs"
    return (
        f"Training from scratch takes {more}{speedup.steps:.1f} times the steps and {more}{speedup.epochs:.1f} times "
        f"the epochs of fine-tuning to reach 90 % of the best odds (geometric means over {pairs} of network and "
        f"dataset{interval})."
    )


def _speed(found: Findings) -> Iterator[str]:
    if found.speedup is not None:
        yield speedup_sentence(found.speedup)
        open_ended = sum(each.at_largest_budget for each in found.reached)
        if open_ended:
            yield (
                f"{open_ended} of {len(found.reached)} curves reach that at their largest budget alone: with more they "
                "may go on rising, so this is no estimate of when they stop."
            )


def _doubts(found: Findings) -> Iterator[str]:
    rows = found.board.rows
    failed = [row for row in rows if not row.converged]
    if failed:
        yield f"{len(failed)} of {len(rows)} trials did not converge to their tolerance; they are marked and listed."
