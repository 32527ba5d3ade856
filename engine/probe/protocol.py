"""The protocol of a probe: fit the path on train, choose on val, refit on both, score test once; returns a Trial.

Of several readouts the best on val is chosen together with its strength, so that nobody picks one by its test score.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.metrics import METRICS, applicable, metric_named
from penultimate.engine.probe.fitted_path import FittedPath, fit_on_train, history_rows
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import ON_CPU, Log, ProbeResources, ProbeSettings
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.key import FeatureKey
from penultimate.store.provenance import library_versions, source_commit, utc_now
from penultimate.store.trials.trial import CHOSEN, Trial, trial_id

# Shapes: N samples, D feature dimensions, K classes, L strengths.


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeRun:
    """Result of probing one FeatureSet, or the best of several readouts."""

    trial: Trial
    probe: Probe
    """The probe at the chosen strength, refitted on train + val unless ``shots`` were given."""

    key: FeatureKey
    """Key of the features that it scores: of the chosen readout."""


def planned_trial_id(
    keys: FeatureKey | Sequence[FeatureKey],
    settings: ProbeSettings,
    *,
    multi_label: bool,
    metric: str,
    seed: int = 0,
) -> str:
    """Return the id that the Trial of ``run_probe`` will have, before there are features.

    ``multi_label`` and ``metric`` are the dataset's, as in ``ProbeSettings.resolved``.
    """
    resolved = settings.resolved(multi_label=multi_label, metric=metric)
    features, resolved = _request([keys] if isinstance(keys, FeatureKey) else keys, resolved)
    return trial_id("probe", features, resolved, seed)


def run_probe(
    features: FeatureSet | Sequence[FeatureSet],
    settings: ProbeSettings,
    *,
    resources: ProbeResources = ON_CPU,
    seed: int = 0,
    log: Log = lambda line: None,
) -> ProbeRun:
    """Choose the strength with the best val score (the strongest of equals), refit on train + val, score test once.

    Of several FeatureSets, the readouts of one backbone on the same images, the readout is chosen together with the
    strength: of equals the one of fewest features. Test is scored by the chosen one alone.

    Raises ``InputError`` where a split has no samples, train has one class only, features are not finite (naming ids),
    or the metric does not suit the labels.
    """
    began = time.perf_counter()
    sets = [features] if isinstance(features, FeatureSet) else sorted(features, key=_by_size)
    own, resolved = _request(
        [each.key for each in sets], settings.resolved(multi_label=sets[0].labels.ndim == 2, metric=sets[0].metric)
    )
    for each in sets:
        _check(each, resolved["metric"])
    _check_same_samples(sets)
    paths = (fit_on_train(each, settings, resolved, resources=resources, seed=seed, log=log) for each in sets)
    history: list[Mapping[str, Any]] = []
    best: FittedPath | None = None
    converged = True
    for path in paths:  # one after the other, so that the features of one readout are in memory
        history += path.history(named=len(sets) > 1)
        converged = converged and all(probe.report.certified for probe in path.probes)
        best = path if best is None or path.value > best.value else best
    assert best is not None, "there is a FeatureSet"
    final = best.probe
    chosen = best.reader.features
    if settings.shots is None:
        both = chosen.labelled_rows("train", "val")
        (final,) = best.reader.fit(both, RegularizationPath(l2=(final.l2,)), start=final)
        history += history_rows([final], [None], "train+val")
    test = chosen.labelled_rows("test")
    (test_scores_NK,) = best.reader.scores(test, [final])
    labels = chosen.labels[test]
    trial = Trial(
        dataset=chosen.key.dataset,
        backbone=chosen.key.backbone,
        method="probe",
        features=own,
        settings=resolved,
        seed=seed,
        metric=resolved["metric"],
        value=metric_named(resolved["metric"])(test_scores_NK, labels),
        metrics={
            "val": all_metrics(best.val_scores_NK, chosen.labels[chosen.labelled_rows("val")]),
            "test": all_metrics(test_scores_NK, labels),
        },
        chosen={"l2": final.l2} | ({"readout": chosen.key.readout} if len(sets) > 1 else {}),
        converged=converged and final.report.certified,
        history=history,
        arrays=_predictions(chosen.ids[test], labels, test_scores_NK),
        versions=library_versions(),
        hardware=machine(),
        commit=source_commit(),
        created=utc_now(),
        wall_seconds=time.perf_counter() - began,
        notes=best.reader.notes + notes(chosen, best.probes, final, best.index),
    )
    return ProbeRun(trial=trial, probe=final, key=chosen.key)


def _by_size(features: FeatureSet) -> tuple[int, str]:
    return features.feature_dim, features.key.readout


def _request(keys: Sequence[FeatureKey], resolved: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the features and the settings by which a Trial is found: of one key, or of the choice of a readout."""
    if len(keys) == 1:
        return keys[0].fields, resolved
    return {**keys[0].fields, "readout": CHOSEN}, resolved | {"readouts": sorted(key.readout for key in keys)}


def _check_same_samples(sets: Sequence[FeatureSet]) -> None:
    for each in sets[1:]:
        if each.ids.tolist() != sets[0].ids.tolist():
            raise InputError(
                f"{sets[0].key.label} and {each.key.label} have features of other images of {each.key.dataset}, so "
                "that their scores on val do not compare; extract both in one call"
            )


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
        f"{features.key.label} on {features.key.dataset} has no samples in {' and '.join(empty)}; "
        f"a probe needs train, val and test (got {', '.join(f'{n} {split}' for split, n in counts.items())})"
        + (advice if bare else "")
    )


def _predictions(ids_N: NDArray[Any], labels: NDArray[Any], scores_NK: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    kept = {"test_ids": ids_N, "test_labels": labels}
    if labels.ndim == 2:
        return kept | {"test_scores": scores_NK}
    return kept | {"test_predictions": scores_NK.argmax(1).astype(np.int64)}
