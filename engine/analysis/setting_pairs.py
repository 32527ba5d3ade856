"""Compare one setting with another over the backbones and datasets that have both.

A setting is a method and what was varied in it. Kornblith et al. 2019, section 4.2: "fine-tuning improved performance
over logistic regression in 179 out of 192 dataset and model combinations".
"""

# Shapes: P pairs.

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.analysis.statistics.compare import SettingComparison, compare_settings, holm

_Cells = Mapping[tuple[str, str], Sequence[float]]
"""(images, network) -> log odds, one a seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingPair:
    """Comparison of one setting with another."""

    first: str
    """First setting: ``method``, or ``method (varied settings)``."""

    second: str
    dataset: str | None
    """Name of the dataset; None for all datasets together."""

    comparison: SettingComparison
    """Counts, median difference (in log odds) and test of the pairs."""

    p_value_holm: float
    """P value corrected after Holm over this pair's datasets or, for all datasets together, over all pairs."""


def setting_pairs(rows: Sequence[ScoreRow]) -> list[SettingPair]:
    """Compare every two settings that share backbones and images: over all datasets, then dataset by dataset."""
    cells: defaultdict[str, defaultdict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.setting][row.images, row.network].append(row.log_odds)
    names = _dataset_names(rows)
    pairs = [
        (first, second)
        for first, second in combinations(sorted(cells), 2)
        if cells[first].keys() & cells[second].keys()
    ]
    overall = [_compared(cells[first], cells[second], None) for first, second in pairs]
    corrected = holm([comparison.p_value for comparison in overall])
    found: list[SettingPair] = []
    for (first, second), comparison, p_holm in zip(pairs, overall, corrected, strict=True):
        found.append(SettingPair(first=first, second=second, dataset=None, comparison=comparison, p_value_holm=p_holm))
        images = sorted({key[0] for key in cells[first].keys() & cells[second].keys()}, key=lambda each: names[each])
        by_dataset = [_compared(cells[first], cells[second], each) for each in images]
        found += [
            SettingPair(first=first, second=second, dataset=names[each], comparison=comparison, p_value_holm=p_holm)
            for each, comparison, p_holm in zip(images, by_dataset, holm([c.p_value for c in by_dataset]), strict=True)
        ]
    return found


def _compared(first: _Cells, second: _Cells, images: str | None) -> SettingComparison:
    both = sorted(key for key in first.keys() & second.keys() if images in (None, key[0]))
    first_P, second_P = (np.array([np.mean(setting[key]) for key in both]) for setting in (first, second))
    return compare_settings(first_P, second_P)


def _dataset_names(rows: Sequence[ScoreRow]) -> dict[str, str]:
    """Map the digest of the images to the dataset's name, with the digest where two have the same name."""
    names = {row.images: row.dataset for row in rows}
    times = Counter(names.values())
    return {images: f"{name} ({images[:8]})" if times[name] > 1 else name for images, name in names.items()}
