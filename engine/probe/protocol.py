"""Stored features in, one Trial out: fit the path on train, choose on val, refit on both, score test once."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.metrics import METRICS, applicable, metric_named
from penultimate.engine.probe.objective.losses import LOSSES
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.solvers import solver_named
from penultimate.store.errors import InputError, UnknownNameError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.key import FeatureKey
from penultimate.store.provenance import library_versions, machine, source_commit, utc_now
from penultimate.store.trials.subsets import shots_per_class
from penultimate.store.trials.trial import Trial, trial_id

# Shapes: N samples, D feature dimensions, K classes, L strengths.


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSettings:
    """Everything a probe's result depends on, apart from the features and the seed."""

    path: RegularizationPath
    loss: str | None = None
    """``softmax``, ``logistic`` (one-vs-rest) or ``squared_hinge``; None: softmax, or logistic for label matrices."""

    metric: str | None = None
    """What the strength is chosen by and the trial's value is of; None: the dataset's own."""

    tol: float = 1e-4
    """Of the stopping rule in ``newton.py``: certified gap relative to the objective; other solvers: their own."""

    solver: str = "torch"
    """``torch`` (ours), ``cuml`` or ``sklearn``."""

    shots: int | None = None
    """Training images a class, drawn by the seed. Then nothing is refitted on val, which has more images than that."""

    def __post_init__(self) -> None:
        if self.loss is not None and self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)
        if self.metric is not None and self.metric not in METRICS:
            raise UnknownNameError("metric", self.metric, METRICS)
        solver_named(self.solver)
        if self.shots is not None and self.shots < 1:
            raise InputError(f"shots must be at least 1, got {self.shots}")
        if not 0 < self.tol < 1:
            raise InputError(f"tol must be in (0, 1), got {self.tol!r}")

    def resolved(self, *, multi_label: bool, metric: str) -> dict[str, Any]:
        """JSON-able, with the defaults of a dataset filled in: what a Trial keeps and is found by.

        ``metric`` is the dataset's own, ``multi_label`` whether its samples have several labels.
        """
        loss = self.loss or ("logistic" if multi_label else "softmax")
        few = {} if self.shots is None else {"shots": self.shots}
        return few | {
            "loss": loss,
            "metric": self.metric or metric,
            "l2": list(self.path.l2),
            "tol": self.tol,
            "solver": self.solver,
            "objective": "sum of losses + l2/2 ||W||^2, bias free",
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeRun:
    """What probing one FeatureSet gives."""

    trial: Trial
    probe: Probe
    """At the chosen strength, refitted on train + val unless shots were asked for."""


def probe_features(
    features: FeatureSet,
    *,
    path: RegularizationPath,
    metric: str | None = None,
    loss: str | None = None,
    tol: float = 1e-4,
    device: str = "cpu",
    seed: int = 0,
) -> Trial:
    """The Trial of ``run_probe`` with these settings."""
    return run_probe(
        features, ProbeSettings(path=path, metric=metric, loss=loss, tol=tol), device=device, seed=seed
    ).trial


def asked_id(key: FeatureKey, settings: ProbeSettings, *, multi_label: bool, metric: str, seed: int = 0) -> str:
    """The id that the Trial of ``run_probe`` will have, before there are features; the rest as in ``resolved``."""
    return trial_id("probe", asdict(key), settings.resolved(multi_label=multi_label, metric=metric), seed)


def run_probe(
    features: FeatureSet,
    settings: ProbeSettings,
    *,
    device: str = "cpu",
    seed: int = 0,
    memory_bytes: int | None = None,
) -> ProbeRun:
    """Choose the strength with the best val score (the strongest of equals), refit on train + val, score test once.

    With ``memory_bytes``, features are streamed from the store wherever holding them would take more than that. Raises
    ``InputError`` where a split has no samples, train has one class only, features are not finite (naming ids), or the
    metric does not suit the labels.
    """
    began = time.perf_counter()
    resolved = settings.resolved(multi_label=features.labels.ndim == 2, metric=features.metric)
    metric = metric_named(resolved["metric"])
    _check(features, resolved["metric"])
    train, val, test = (features.labelled_rows(split) for split in ("train", "val", "test"))
    if settings.shots is not None:
        train = train[shots_per_class(features.labels[train], features.ids[train], settings.shots, seed=seed)]
    reader = FeatureReader(features, settings, loss=resolved["loss"], device=device, memory_bytes=memory_bytes)
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
        features=asdict(features.key),
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
        notes=notes(features, probes, final, best),
    )
    return ProbeRun(trial=trial, probe=final)


def all_metrics(scores_NK: NDArray[np.float32], labels: NDArray[Any]) -> dict[str, float]:
    """Every metric these labels allow."""
    return {name: METRICS[name](scores_NK, labels) for name in applicable(labels)}


def notes(features: FeatureSet, probes: Sequence[Probe], final: Probe, best: int) -> list[str]:
    """What a reader must know of this trial."""
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
    """Which splits have no labelled samples, and what to do."""
    empty = [split for split, count in counts.items() if not count]
    bare = [split for split in empty if len(features.rows(split))]
    advice = f"; images of {' and '.join(bare)} have no labels: extract train's folder alone to have splits drawn"
    return (
        f"{features.key.backbone} on {features.key.dataset} has no samples in {' and '.join(empty)}; "
        f"a probe needs train, val and test (got {', '.join(f'{n} {split}' for split, n in counts.items())})"
        + (advice if bare else "")
    )


def _history(probes: Sequence[Probe], scores: Sequence[float | None], fitted_on: str) -> list[Mapping[str, Any]]:
    """JSON-able: a bound that could not be had (``gap`` of inf) is None."""
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
