"""The protocol of a probe: fit on train, choose on val, refit on both, score test once; returns a Trial."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.metrics import METRICS, Metric, applicable, metric_named
from penultimate.engine.probe.candidates import Candidates, LinearCandidates
from penultimate.engine.probe.knn_candidates import KnnCandidates
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import ON_CPU, FeatureSettings, KnnSettings, Log, ProbeResources
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.key import FeatureKey
from penultimate.store.provenance import library_versions, source_commit, utc_now
from penultimate.store.trials.subsets import shots_per_class
from penultimate.store.trials.trial import Trial, trial_id

# Shapes: N samples, K classes.


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeRun:
    """Result of classifying one FeatureSet by one method."""

    trial: Trial
    probe: Probe | None
    """The probe at the chosen strength, refitted on train + val unless ``shots`` were given; None for another method
    than ``probe``, which has no weights."""


def planned_trial_id(
    key: FeatureKey, settings: FeatureSettings, *, multi_label: bool, metric: str, seed: int = 0
) -> str:
    """Return the id that the Trial of ``run_probe`` will have, before there are features.

    ``multi_label`` and ``metric`` are the dataset's, as in ``ProbeSettings.resolved``.
    """
    resolved = settings.resolved(multi_label=multi_label, metric=metric)
    return trial_id(settings.method, key.fields, resolved, seed)


def run_probe(
    features: FeatureSet,
    settings: FeatureSettings,
    *,
    resources: ProbeResources = ON_CPU,
    seed: int = 0,
    log: Log = lambda line: None,
) -> ProbeRun:
    """Choose the candidate with the best val score, refit it on train + val, score test once.

    Of equally good candidates the strongest l2, or the kNN that averages most, is chosen. Raises ``InputError`` where a
    split has no samples, train has one class only, features are not finite (naming ids), or the metric does not suit
    the labels.
    """
    began = time.perf_counter()
    resolved = settings.resolved(multi_label=features.labels.ndim == 2, metric=features.metric)
    _check(features, resolved["metric"])
    train, val, test = (features.labelled_rows(split) for split in ("train", "val", "test"))
    if settings.shots is not None:
        train = train[shots_per_class(features.labels[train], features.ids[train], settings.shots, seed=seed)]
    candidates = _candidates(features, settings, resolved, resources, log)
    candidates.fit(train)
    choice = _choose(candidates.scores(val), features.labels[val], metric_named(resolved["metric"]))
    chosen = candidates.choose(choice.best)
    if settings.shots is None:
        candidates.refit(np.union1d(train, val))
    test_scores_NK = candidates.final_scores(test)
    labels = features.labels[test]
    trial = Trial(
        dataset=features.key.dataset,
        backbone=features.key.backbone,
        method=settings.method,
        features=features.key.fields,
        settings=resolved,
        seed=seed,
        metric=resolved["metric"],
        value=metric_named(resolved["metric"])(test_scores_NK, labels),
        metrics={
            "val": all_metrics(choice.scores_NK, features.labels[val]),
            "test": all_metrics(test_scores_NK, labels),
        },
        chosen=chosen,
        converged=candidates.converged,
        history=candidates.history(choice.val),
        arrays=_predictions(features.ids[test], labels, test_scores_NK),
        versions=library_versions(),
        hardware=machine(),
        commit=source_commit(),
        created=utc_now(),
        wall_seconds=time.perf_counter() - began,
        notes=candidates.notes() + _failed(features),
    )
    return ProbeRun(trial=trial, probe=candidates.probe if isinstance(candidates, LinearCandidates) else None)


def _candidates(
    features: FeatureSet, settings: FeatureSettings, resolved: Mapping[str, Any], resources: ProbeResources, log: Log
) -> Candidates:
    if isinstance(settings, KnnSettings):
        return KnnCandidates(features, settings, resources)
    reader = FeatureReader(features, settings, loss=resolved["loss"], resources=resources, log=log)
    return LinearCandidates(reader, settings)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Choice:
    """The choice on val."""

    best: int
    """Index of the first of the best candidates."""

    scores_NK: NDArray[np.float32]
    """Scores of val by the best candidate."""

    val: Sequence[Mapping[str, float]]
    """What each candidate scored, as its row of the history has it."""


def _choose(scores: Iterable[NDArray[np.float32]], labels: NDArray[Any], metric: Metric) -> _Choice:
    """Choose among candidates by their scores of val, of which only the best are held."""
    values: list[float] = []
    best, best_scores_NK = 0, np.empty((0, 0), np.float32)
    for index, scores_NK in enumerate(scores):
        values.append(metric(scores_NK, labels))
        if index == 0 or values[index] > values[best]:
            best, best_scores_NK = index, scores_NK
    return _Choice(best=best, scores_NK=best_scores_NK, val=[{"val": value} for value in values])


def all_metrics(scores_NK: NDArray[np.float32], labels: NDArray[Any]) -> dict[str, float]:
    """Return every metric that these labels allow."""
    return {name: METRICS[name](scores_NK, labels) for name in applicable(labels)}


def _failed(features: FeatureSet) -> list[str]:
    return [f"{len(features.failed)} images could not be decoded and are left out"] if features.failed else []


def _check(features: FeatureSet, metric: str) -> None:
    rows = {split: features.labelled_rows(split) for split in ("train", "val", "test")}
    if not all(map(len, rows.values())):
        raise InputError(_lacking(features, {split: len(labelled) for split, labelled in rows.items()}))
    if features.labels.ndim == 1 and len(present := np.unique(features.labels[rows["train"]])) < 2:
        only = features.class_names[int(present[0])]
        raise InputError(
            f"all training samples of {features.key.dataset} are of one class, {only!r}; a classifier needs two or "
            "more: is the folder that was extracted one above or below the class folders?"
        )
    if metric != "map11" and metric not in applicable(features.labels):
        raise InputError(f"{metric} does not suit these labels; use one of {', '.join(applicable(features.labels))}")


def _lacking(features: FeatureSet, counts: Mapping[str, int]) -> str:
    """Return the error message that names the splits without labelled samples and the remedy."""
    empty = [split for split, count in counts.items() if not count]
    bare = [split for split in empty if len(features.rows(split))]
    advice = f"; images of {' and '.join(bare)} have no labels"
    advice += ": extract train's folder alone to have splits drawn" if any(counts.values()) else ", nor have any others"
    return (
        f"{features.key.backbone} on {features.key.dataset} has no samples in {' and '.join(empty)}; "
        f"a probe needs train, val and test (got {', '.join(f'{n} {split}' for split, n in counts.items())})"
        + (advice if bare else "")
    )


def _predictions(ids_N: NDArray[Any], labels: NDArray[Any], scores_NK: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    kept = {"test_ids": ids_N, "test_labels": labels}
    if labels.ndim == 2:
        return kept | {"test_scores": scores_NK}
    return kept | {"test_predictions": scores_NK.argmax(1).astype(np.int64)}
