"""The protocol of a probe: fit the path on train, choose on val, refit on both, score test once; returns a Trial."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.metrics import METRICS, applicable, metric_named
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import ON_CPU, Log, ProbeResources, ProbeSettings
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.key import FeatureKey
from penultimate.store.provenance import library_versions, source_commit, utc_now
from penultimate.store.trials.subsets import shots_per_class
from penultimate.store.trials.trial import Trial, trial_id

# Shapes: N samples, D feature dimensions, K classes, L strengths.


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeRun:
    """Result of probing one FeatureSet."""

    trial: Trial
    probe: Probe
    """The probe at the chosen strength, refitted on train + val unless ``shots`` were given."""


def planned_trial_id(key: FeatureKey, settings: ProbeSettings, *, multi_label: bool, metric: str, seed: int = 0) -> str:
    """Return the id that the Trial of ``run_probe`` will have, before there are features.

    ``multi_label`` and ``metric`` are the dataset's, as in ``ProbeSettings.resolved``.
    """
    return trial_id("probe", key.fields, settings.resolved(multi_label=multi_label, metric=metric), seed)


def run_probe(
    features: FeatureSet,
    settings: ProbeSettings,
    *,
    resources: ProbeResources = ON_CPU,
    seed: int = 0,
    log: Log = lambda line: None,
) -> ProbeRun:
    """Choose the strength with the best val score (the strongest of equals), refit on train + val, score test once.

    Raises ``InputError`` where a split has no samples, train has one class only, features are not finite (naming ids),
    or the metric does not suit the labels.
    """
    began = time.perf_counter()
    resolved = settings.resolved(multi_label=features.labels.ndim == 2, metric=features.metric)
    metric = metric_named(resolved["metric"])
    _check(features, resolved["metric"])
    train, val, test = (features.labelled_rows(split) for split in ("train", "val", "test"))
    if settings.shots is not None:
        train = train[shots_per_class(features.labels[train], features.ids[train], settings.shots, seed=seed)]
    reader = FeatureReader(features, settings, loss=resolved["loss"], resources=resources, log=log)
    probes = reader.fit(train, settings.path)
    val_scores = reader.scores(val, probes)
    values_L = [metric(scores_NK, features.labels[val]) for scores_NK in val_scores]
    best = int(np.argmax(values_L))
    history = _history(probes, values_L, "train")
    final = probes[best]
    if settings.shots is None:
        both = np.union1d(train, val)
        (final,) = reader.fit(both, RegularizationPath(l2=(final.l2,)), start=final)
        history += _history([final], [None], "train+val")
    (test_scores_NK,) = reader.scores(test, [final])
    labels = features.labels[test]
    trial = Trial(
        dataset=features.key.dataset,
        backbone=features.key.backbone,
        method="probe",
        features=features.key.fields,
        settings=resolved,
        seed=seed,
        metric=resolved["metric"],
        value=metric(test_scores_NK, labels),
        metrics={
            "val": all_metrics(val_scores[best], features.labels[val]),
            "test": all_metrics(test_scores_NK, labels),
        },
        chosen={"l2": final.l2},
        converged=all(probe.report.certified for probe in (*probes, final)),
        history=history,
        arrays=_predictions(features.ids[test], labels, test_scores_NK),
        versions=library_versions(),
        hardware=machine(),
        commit=source_commit(),
        created=utc_now(),
        wall_seconds=time.perf_counter() - began,
        notes=reader.notes + notes(features, probes, final, best),
    )
    return ProbeRun(trial=trial, probe=final)


def all_metrics(scores_NK: NDArray[np.float32], labels: NDArray[Any]) -> dict[str, float]:
    """Return every metric that these labels allow."""
    return {name: METRICS[name](scores_NK, labels) for name in applicable(labels)}


def notes(features: FeatureSet, probes: Sequence[Probe], final: Probe, best: int) -> list[str]:
    """Return one sentence for each fact about this trial that a report repeats."""
    found = []
    uncertified = [f"{probe.l2:.3g}" for probe in probes if not probe.report.certified]
    if uncertified:
        found.append(f"not certified to the tolerance at l2 = {', '.join(uncertified)}")
    if final is not probes[best] and not final.report.certified:
        found.append(f"the refit at l2 = {final.l2:.3g} is {final.report.status}")
    if len(probes) > 1 and best in (0, len(probes) - 1):
        found.append(f"the chosen l2 = {final.l2:.3g} is at the edge of the path")
    if features.failed:
        found.append(f"{len(features.failed)} images could not be decoded and are left out")
    return found


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


def _history(probes: Sequence[Probe], scores: Sequence[float | None], fitted_on: str) -> list[Mapping[str, Any]]:
    """Return the fits as JSON-able rows; a gap of inf, where there is no bound, is None."""
    return [
        {"l2": probe.l2, "fitted_on": fitted_on, "val": score}
        | {name: None if value == math.inf else value for name, value in asdict(probe.report).items()}
        for probe, score in zip(probes, scores, strict=True)
    ]


def _predictions(ids_N: NDArray[Any], labels: NDArray[Any], scores_NK: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    kept = {"test_ids": ids_N, "test_labels": labels}
    if labels.ndim == 2:
        return kept | {"test_scores": scores_NK}
    return kept | {"test_predictions": scores_NK.argmax(1).astype(np.int64)}
