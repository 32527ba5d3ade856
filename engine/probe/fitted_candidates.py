"""FittedCandidates: the classifiers of one FeatureSet fitted on train, and the one that val chooses of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.probe.candidates import Candidates, LinearCandidates, Scores
from penultimate.engine.probe.choice import Choice, choose
from penultimate.engine.probe.kept_paths import PathKeeper
from penultimate.engine.probe.knn_candidates import KnnCandidates
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.settings import FeatureSettings, KnnSettings, Log, ProbeResources
from penultimate.engine.scoring.outputs import Outputs
from penultimate.store.feature_set import FeatureSet
from penultimate.store.trials.subsets import shots_per_class


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """How outputs are scored, and by what val chooses."""

    metric: str
    choose_by: str
    """Metric or score by which val chooses."""

    loss: str
    """How scores become probabilities, as ``Outputs`` has it; of kNN they are parts of the votes."""

    @classmethod
    def of(cls, resolved: Mapping[str, Any], *, multi_label: bool) -> "Scoring":
        """Return the scoring that resolved settings stand for."""
        metric = resolved["metric"]
        loss = resolved.get("loss", "logistic" if multi_label else "softmax")
        return cls(metric=metric, choose_by=resolved.get("choose_by", metric), loss=loss)

    def outputs(self, features: FeatureSet, rows: NDArray[np.int64], scores_NK: Scores) -> Outputs:
        """Return scores (N, K) of ``rows`` with their labels."""
        return Outputs(scores_NK=scores_NK, labels=features.labels[rows], loss=self.loss)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FittedCandidates:
    """Candidates that were fitted on train, and the best of them on val."""

    features: FeatureSet
    candidates: Candidates
    choice: Choice

    def history(self, *, named: bool) -> list[Mapping[str, Any]]:
        """Return the fits as JSON-able rows, with the readout where it is ``named``."""
        readout = {"readout": self.features.key.readout} if named else {}
        return [readout | dict(row) for row in self.candidates.history(self.choice.val)]


def fit_on_train(
    features: FeatureSet,
    settings: FeatureSettings,
    scoring: Scoring,
    *,
    resources: ProbeResources,
    paths: PathKeeper,
    seed: int,
    log: Log,
) -> FittedCandidates:
    """Fit every candidate on train, a path from where ``paths`` has it, and choose one on val."""
    train, val = (features.labelled_rows(split) for split in ("train", "val"))
    if settings.shots is not None:
        train = train[shots_per_class(features.labels[train], features.ids[train], settings.shots, seed=seed)]
    candidates = _candidates(features, settings, scoring.loss, resources, paths, log)
    candidates.fit(train)
    outputs = (scoring.outputs(features, val, scores_NK) for scores_NK in candidates.scores(val))
    choice = choose(outputs, scoring.metric, scoring.choose_by)
    return FittedCandidates(features=features, candidates=candidates, choice=choice)


def _candidates(
    features: FeatureSet,
    settings: FeatureSettings,
    loss: str,
    resources: ProbeResources,
    paths: PathKeeper,
    log: Log,
) -> Candidates:
    if isinstance(settings, KnnSettings):
        return KnnCandidates(features, settings, resources)
    reader = FeatureReader(features, settings, loss=loss, resources=resources, log=log)
    return LinearCandidates(reader, settings, paths)
