"""The protocol of a probe: fit on train, choose on val, refit on both, score test once; returns a Trial."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from penultimate.engine.metrics import applicable
from penultimate.engine.probe.candidates import Candidates, LinearCandidates
from penultimate.engine.probe.choice import choose
from penultimate.engine.probe.knn_candidates import KnnCandidates
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import ON_CPU, FeatureSettings, KnnSettings, Log, ProbeResources
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.scoring.outputs import Outputs
from penultimate.engine.scoring.scores import OF_PROBABILITIES, SCORES, score_all, score_probabilities, value_of
from penultimate.engine.scoring.temperature import fit_temperature
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.key import FeatureKey
from penultimate.store.provenance import library_versions, source_commit, utc_now
from penultimate.store.trials.subsets import shots_per_class
from penultimate.store.trials.trial import Trial, trial_id


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
    metric, choose_by = resolved["metric"], resolved.get("choose_by", resolved["metric"])
    loss = resolved.get("loss", "logistic" if features.labels.ndim == 2 else "softmax")  # of kNN: shares of votes
    _check(features, metric, choose_by, loss)
    train, val, test = (features.labelled_rows(split) for split in ("train", "val", "test"))
    if settings.shots is not None:
        train = train[shots_per_class(features.labels[train], features.ids[train], settings.shots, seed=seed)]
    candidates = _candidates(features, settings, resolved, resources, log)
    candidates.fit(train)
    choice = choose(
        (Outputs(scores_NK=each, labels=features.labels[val], loss=loss) for each in candidates.scores(val)),
        metric,
        choose_by,
    )
    chosen = dict(candidates.choose(choice.index))
    if settings.shots is None:
        candidates.refit(np.union1d(train, val))
    outputs = Outputs(scores_NK=candidates.final_scores(test), labels=features.labels[test], loss=loss)
    metrics = {"val": score_all(choice.outputs), "test": score_all(outputs)}
    calibrates = candidates.has_temperature and outputs.has_probabilities
    temperature = fit_temperature(choice.outputs) if calibrates else None
    if temperature is not None:
        chosen["temperature"] = temperature
        for split, each in (("val", choice.outputs), ("test", outputs)):
            metrics[f"{split}_calibrated"] = score_probabilities(replace(each, temperature=temperature))
    trial = Trial(
        dataset=features.key.dataset,
        backbone=features.key.backbone,
        method=settings.method,
        features=features.key.fields,
        settings=resolved,
        seed=seed,
        metric=metric,
        value=value_of(metric, outputs),
        metrics=metrics,
        chosen=chosen,
        converged=candidates.converged,
        history=candidates.history(choice.val),
        arrays=outputs.kept(features.ids[test], features.class_names),
        versions=library_versions(),
        hardware=machine(),
        commit=source_commit(),
        created=utc_now(),
        wall_seconds=time.perf_counter() - began,
        notes=candidates.notes() + _notes(features, told=temperature is not None or not calibrates),
    )
    return ProbeRun(trial=trial, probe=candidates.probe if isinstance(candidates, LinearCandidates) else None)


def _candidates(
    features: FeatureSet, settings: FeatureSettings, resolved: Mapping[str, Any], resources: ProbeResources, log: Log
) -> Candidates:
    if isinstance(settings, KnnSettings):
        return KnnCandidates(features, settings, resources)
    reader = FeatureReader(features, settings, loss=resolved["loss"], resources=resources, log=log)
    return LinearCandidates(reader, settings)


def _notes(features: FeatureSet, *, told: bool) -> list[str]:
    found = [] if told else ["no val image is wrong, which tells of no temperature: probabilities are as fitted"]
    if features.failed:
        found.append(f"{len(features.failed)} images could not be decoded and are left out")
    return found


def _check(features: FeatureSet, metric: str, choose_by: str, loss: str) -> None:
    rows = {split: features.labelled_rows(split) for split in ("train", "val", "test")}
    if not all(map(len, rows.values())):
        raise InputError(_lacking(features, {split: len(labelled) for split, labelled in rows.items()}))
    if features.labels.ndim == 1 and len(present := np.unique(features.labels[rows["train"]])) < 2:
        only = features.class_names[int(present[0])]
        raise InputError(
            f"all training samples of {features.key.dataset} are of one class, {only!r}; a classifier needs two or "
            "more: is the folder that was extracted one above or below the class folders?"
        )
    suitable = {"map11", *applicable(features.labels), *SCORES}
    if unsuitable := [name for name in (metric, choose_by) if name not in suitable]:
        raise InputError(
            f"{unsuitable[0]} does not suit these labels; use one of {', '.join(applicable(features.labels))}"
        )
    if loss == "squared_hinge" and choose_by in OF_PROBABILITIES:
        raise InputError(
            f"{choose_by} needs probabilities, which a squared hinge does not give; use another loss, or another score"
        )


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
