"""Leaks: which share of each split has a twin in another, and what that does to test scores."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from penultimate.engine.analysis.predictions import TrialPredictions
from penultimate.engine.audit.twins import SPLITS, Twins
from penultimate.engine.metrics import metric_named
from penultimate.store.feature_set import FeatureSet
from penultimate.store.trials.trial import Trial

# Shapes: N rows of the audited set, P pairs, K classes.

LEAKY = ("train", "val")
"""Splits that a probe has learned from when it is scored on test: it is fitted on train, chosen on val, refitted."""


_SCORE_COLUMNS = (
    *("backbone", "readout", "method", "seed", "metric", "score", "score_low", "score_high"),
    *("without", "without_low", "without_high", "images", "images_without", "trial"),
)


def twin_shares(twins: Twins) -> pd.DataFrame:
    """Return, for each split and each part where its images have twins, how many they are.

    Columns: ``split``, ``twins_in_dataset``, ``twins_in_split``, ``images`` (with a twin there), ``equal`` (of them,
    with an equal one), ``total`` (images of the split), ``share`` (images / total).
    """
    rows, part_G = twins.rows, twins.rows.part_G
    columns = ("split", "twins_in_dataset", "twins_in_split", "images", "equal", "total", "share")
    found = []
    for split, name in enumerate(SPLITS):
        total = int((part_G[: rows.offsets[1]] == split).sum())
        for part in range(len(SPLITS) * len(rows.sets)):
            with_twin, with_equal = (
                len(_rows_with_twins(twins, split, part, among)) for among in (None, twins.equal_P)
            )
            if with_twin:
                dataset = rows.sets[part // len(SPLITS)].key.dataset
                found.append(
                    (name, dataset, SPLITS[part % len(SPLITS)], with_twin, with_equal, total, with_twin / total)
                )
    return pd.DataFrame(found, columns=columns)


def leaked_test_ids(twins: Twins) -> list[str]:
    """Return the ids of the test images of the audited set that have a twin in its train or val."""
    test = SPLITS.index("test")
    rows = [_rows_with_twins(twins, test, SPLITS.index(split), None) for split in LEAKY]
    return [str(id_) for id_ in twins.rows.sets[0].ids[np.unique(np.concatenate(rows))]]


def scores_without(trials: Sequence[Trial], leaked: Sequence[str]) -> pd.DataFrame:
    """Return the test score of each trial with and without the test images that are ``leaked``, given by id.

    Columns: ``backbone``, ``readout``, ``method``, ``seed``, ``metric``, ``score`` and ``without`` (fractions; None
    without test images, and for top5 of a trial that kept no scores), each with ``_low`` and ``_high`` (95 % interval
    over test images, None where the metric has none there), ``images`` and ``images_without``, ``trial``.
    """
    return pd.DataFrame([_score_row(trial, leaked) for trial in trials], columns=_SCORE_COLUMNS)


def _rows_with_twins(twins: Twins, part: int, other: int, among: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Return the rows of one part that have a twin in the other, among all pairs or those."""
    part_G = twins.rows.part_G
    pairs = [(twins.first_P, twins.second_P), (twins.second_P, twins.first_P)]
    wanted = [mine[(part_G[mine] == part) & (part_G[theirs] == other) & _all_or(among)] for mine, theirs in pairs]
    return np.unique(np.concatenate(wanted))


def _all_or(among: NDArray[np.bool_] | None) -> NDArray[np.bool_] | bool:
    return True if among is None else among


def _score_row(trial: Trial, leaked: Sequence[str]) -> dict[str, Any]:
    predictions, scores_NK = TrialPredictions.of(trial), _scores(trial)
    kept = ~np.isin(predictions.ids_N, np.array(list(leaked), dtype=np.str_))
    return {
        "backbone": trial.backbone,
        "readout": trial.readout_text,
        "method": trial.method,
        "seed": trial.seed,
        "metric": trial.metric,
        **dict(_score("score", predictions, scores_NK, np.ones_like(kept))),
        **dict(_score("without", predictions, scores_NK, kept)),
        "images": len(kept),
        "images_without": int(kept.sum()),
        "trial": trial.id,
    }


def _score(
    name: str, predictions: TrialPredictions, scores_NK: NDArray[Any] | None, kept_N: NDArray[np.bool_]
) -> Iterator[tuple[str, float | None]]:
    """Yield the score of some test images and the bounds of its interval, by column."""
    if scores_NK is None or not kept_N.any():
        yield from ((column, None) for column in (name, f"{name}_low", f"{name}_high"))
        return
    some = TrialPredictions(
        metric=predictions.metric,
        ids_N=predictions.ids_N[kept_N],
        labels=predictions.labels[kept_N],
        outputs=predictions.outputs[kept_N],
    )
    value = metric_named(some.metric)(scores_NK[kept_N], some.labels)
    interval = some.interval(value, seed=0)
    yield name, value
    for side in ("low", "high"):
        bound = np.nan if interval is None else getattr(interval, side)
        yield f"{name}_{side}", None if np.isnan(bound) else float(bound)


def _scores(trial: Trial) -> NDArray[Any] | None:
    """Return scores (N, K) that the trial's metric reads: those kept, or 1 for the predicted class.

    None where it reads more than the first class, and none were kept.
    """
    arrays = trial.arrays
    if "test_scores" in arrays:
        return arrays["test_scores"]
    if trial.metric == "top5":
        return arrays.get("test_class_scores")
    predicted_N = arrays["test_predictions"].astype(np.int64)
    num_classes = 1 + int(max(predicted_N.max(), arrays["test_labels"].max()))
    scores_NK: NDArray[np.bool_] = np.arange(num_classes) == predicted_N[:, None]
    return scores_NK


def trials_of(features: FeatureSet, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials of exactly these images, by whatever backbone and method, that kept their predictions."""
    return [trial for trial in trials if trial.features.get("images") == features.key.images and len(trial.arrays)]
