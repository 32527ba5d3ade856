"""The protocol of a probe: fit on train, choose on val, refit on both, score test once; returns a Trial.

Of several readouts the best on val is chosen together with its strength, or k, so that nobody picks one by its test
score.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penultimate.engine.probe.candidates import LinearCandidates
from penultimate.engine.probe.checks import check
from penultimate.engine.probe.fitted_candidates import FittedCandidates, Scoring, fit_on_train
from penultimate.engine.probe.kept_paths import NO_PATHS, PathKeeper
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import ON_CPU, FeatureSettings, Log, ProbeResources
from penultimate.engine.probe.transform import AS_STORED, FeatureTransform
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.scoring.outputs import Outputs
from penultimate.engine.scoring.scores import score_all, score_probabilities, value_of
from penultimate.engine.scoring.temperature import fit_temperature
from penultimate.store.feature_set import FeatureSet
from penultimate.store.key import FeatureKey
from penultimate.store.provenance import library_versions, source_commit, utc_now
from penultimate.store.trials.trial import CHOSEN, Trial, trial_id


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeRun:
    """Result of classifying one FeatureSet, or the best of several readouts, by one method."""

    trial: Trial
    probe: Probe | None
    """The probe at the chosen strength, refitted on train + val unless ``shots`` were given; None for another method
    than ``probe``, which has no weights."""

    key: FeatureKey
    """Key of the features that it scores: of the chosen readout."""

    transform: FeatureTransform = AS_STORED
    """What is done to these features before ``probe`` scores them."""


def planned_trial_id(
    keys: FeatureKey | Sequence[FeatureKey],
    settings: FeatureSettings,
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
    return trial_id(settings.method, features, resolved, seed)


def run_probe(
    features: FeatureSet | Sequence[FeatureSet],
    settings: FeatureSettings,
    *,
    resources: ProbeResources = ON_CPU,
    paths: PathKeeper = NO_PATHS,
    seed: int = 0,
    log: Log = lambda line: None,
) -> ProbeRun:
    """Choose the candidate with the best val score, refit it on train + val, score test once.

    Of equally good candidates the strongest l2, or the kNN that averages most, is chosen. Of several FeatureSets, the
    readouts of one backbone on the same images, the readout is chosen together with the candidate: of equals the one
    of fewest features. Test is scored by the chosen one alone. A path begins at solutions that ``paths`` has, on which
    its result does not depend but for its tolerance, and is kept there.

    Raises ``InputError`` where a split has no samples, train has one class only, features are not finite (naming ids),
    or the metric does not suit the labels.
    """
    began = time.perf_counter()
    sets = [features] if isinstance(features, FeatureSet) else sorted(features, key=_by_size)
    multi_label = sets[0].labels.ndim == 2
    own, resolved = _request(
        [each.key for each in sets], settings.resolved(multi_label=multi_label, metric=sets[0].metric)
    )
    scoring = Scoring.of(resolved, multi_label=multi_label)
    check(sets, scoring)
    best: FittedCandidates | None = None
    history: list[Mapping[str, Any]] = []
    converged = True
    for each in sets:  # one after the other, so that the features of one readout are in memory
        fitted = fit_on_train(each, settings, scoring, resources=resources, paths=paths, seed=seed, log=log)
        history += fitted.history(named=len(sets) > 1)
        converged = converged and fitted.candidates.converged
        if best is None or fitted.choice.goodness > best.choice.goodness:
            best = fitted
    assert best is not None, "there is a FeatureSet"
    winner, candidates = best.features, best.candidates
    chosen = dict(candidates.choose(best.choice.index)) | ({"readout": winner.key.readout} if len(sets) > 1 else {})
    if settings.shots is None:
        history += candidates.refit(winner.labelled_rows("train", "val"))
    test = winner.labelled_rows("test")
    outputs = {"val": best.choice.outputs, "test": scoring.outputs(winner, test, candidates.final_scores(test))}
    calibrates = candidates.has_temperature and outputs["test"].has_probabilities
    temperature = fit_temperature(outputs["val"]) if calibrates else None
    trial = Trial(
        dataset=winner.key.dataset,
        backbone=winner.key.backbone,
        method=settings.method,
        features=own,
        settings=resolved,
        seed=seed,
        metric=scoring.metric,
        value=value_of(scoring.metric, outputs["test"]),
        metrics=_metrics(outputs, temperature),
        chosen=chosen if temperature is None else chosen | {"temperature": temperature},
        converged=converged and candidates.converged,
        history=history,
        arrays=outputs["test"].kept(winner.ids[test], winner.class_names),
        versions=library_versions(),
        hardware=machine(),
        commit=source_commit(),
        created=utc_now(),
        wall_seconds=time.perf_counter() - began,
        notes=candidates.notes() + _notes(winner, told=temperature is not None or not calibrates),
    )
    if not isinstance(candidates, LinearCandidates):
        return ProbeRun(trial=trial, probe=None, key=winner.key)
    return ProbeRun(trial=trial, probe=candidates.probe, key=winner.key, transform=candidates.transform)


def _by_size(features: FeatureSet) -> tuple[int, str]:
    return features.feature_dim, features.key.readout


def _request(keys: Sequence[FeatureKey], resolved: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the features and the settings by which a Trial is found: of one key, or of the choice of a readout."""
    if len(keys) == 1:
        return keys[0].fields, resolved
    return {**keys[0].fields, "readout": CHOSEN}, resolved | {"readouts": sorted(key.readout for key in keys)}


def _metrics(outputs: Mapping[str, Outputs], temperature: float | None) -> dict[str, dict[str, float]]:
    """Return the scores of each split, and those of probabilities at the temperature where there is one."""
    metrics = {split: score_all(each) for split, each in outputs.items()}
    if temperature is None:
        return metrics
    return metrics | {
        f"{split}_calibrated": score_probabilities(replace(each, temperature=temperature))
        for split, each in outputs.items()
    }


def _notes(features: FeatureSet, *, told: bool) -> list[str]:
    found = [] if told else ["no val image is wrong, which tells of no temperature: probabilities are as fitted"]
    if features.failed:
        num = len(features.failed)
        found.append(f"{'1 image' if num == 1 else f'{num:,} images'} could not be decoded, and left out")
    return found
