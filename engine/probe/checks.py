"""Refuse FeatureSets that cannot be classified as asked, before anything is fitted."""

from collections.abc import Mapping, Sequence

import numpy as np

from penultimate.engine.metrics import applicable
from penultimate.engine.probe.fitted_candidates import Scoring
from penultimate.engine.scoring.scores import OF_PROBABILITIES, SCORES
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet


def check(sets: Sequence[FeatureSet], scoring: Scoring) -> None:
    """Raise InputError unless each set can be fitted and scored, and all have the same samples."""
    for each in sets:
        _check_labels(each)
        _check_scores(each, scoring)
    _check_same_samples(sets)


def _check_labels(features: FeatureSet) -> None:
    rows = {split: features.labelled_rows(split) for split in ("train", "val", "test")}
    if not all(map(len, rows.values())):
        raise InputError(_lacking(features, {split: len(labelled) for split, labelled in rows.items()}))
    if features.labels.ndim == 1 and len(present := np.unique(features.labels[rows["train"]])) < 2:
        only = features.class_names[int(present[0])]
        raise InputError(
            f"all training samples of {features.key.dataset} are of one class, {only!r}; a classifier needs two or "
            "more: is the folder that was extracted one above or below the class folders?"
        )


def _check_scores(features: FeatureSet, scoring: Scoring) -> None:
    suitable = {"map11", *applicable(features.labels), *SCORES}
    if unsuitable := [name for name in (scoring.metric, scoring.choose_by) if name not in suitable]:
        raise InputError(
            f"{unsuitable[0]} does not suit these labels; use one of {', '.join(applicable(features.labels))}"
        )
    if scoring.loss == "squared_hinge" and scoring.choose_by in OF_PROBABILITIES:
        raise InputError(
            f"{scoring.choose_by} needs probabilities, which a squared hinge does not give; use another loss, or "
            "another score"
        )


def _check_same_samples(sets: Sequence[FeatureSet]) -> None:
    for each in sets[1:]:
        if each.ids.tolist() != sets[0].ids.tolist():
            raise InputError(
                f"{sets[0].key.label} and {each.key.label} have features of other images of {each.key.dataset}, so "
                "that their scores on val do not compare; extract both in one call"
            )


def _lacking(features: FeatureSet, counts: Mapping[str, int]) -> str:
    """Return the error message that names the splits without labelled samples and the remedy."""
    empty = [split for split, count in counts.items() if not count]
    bare = [split for split in empty if len(features.rows(split))]
    advice = f"; images of {' and '.join(bare)} have no labels"
    advice += ": extract train's folder alone to have splits drawn" if any(counts.values()) else ", nor have any others"
    return (
        f"{features.key.label} on {features.key.dataset} has no samples in {' and '.join(empty)}; "
        f"a probe needs train, val and test (got {', '.join(f'{n} {split}' for split, n in counts.items())})"
        + (advice if bare else "")
    )
