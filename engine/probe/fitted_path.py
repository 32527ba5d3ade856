"""FittedPath is a path of strengths fitted on train, with what each of them scores on val."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.metrics import metric_named
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import Log, ProbeResources, ProbeSettings
from penultimate.store.feature_set import FeatureSet
from penultimate.store.trials.subsets import shots_per_class

# Shapes: N samples, K classes, L strengths.


@dataclass(frozen=True, slots=True)
class FittedPath:
    """A path fitted on train, and what it scores on val."""

    reader: FeatureReader
    probes: Sequence[Probe]
    values_L: Sequence[float]
    """Score on val of each strength."""

    val_scores_NK: NDArray[np.float32]
    """Decision values on val at the best strength."""

    @property
    def index(self) -> int:
        """Return the index of the strength with the best score, the strongest of equals."""
        return int(np.argmax(self.values_L))

    @property
    def value(self) -> float:
        """Return the best score."""
        return self.values_L[self.index]

    @property
    def probe(self) -> Probe:
        """Return the probe with the best score."""
        return self.probes[self.index]

    def history(self, *, named: bool) -> list[Mapping[str, Any]]:
        """Return the fits as JSON-able rows, with the readout where it is ``named``."""
        readout = {"readout": self.reader.features.key.readout} if named else {}
        return [readout | dict(row) for row in history_rows(self.probes, self.values_L, "train")]


def fit_on_train(
    features: FeatureSet,
    settings: ProbeSettings,
    resolved: Mapping[str, Any],
    *,
    resources: ProbeResources,
    seed: int,
    log: Log,
) -> FittedPath:
    """Fit every strength on train, and score val."""
    train, val = (features.labelled_rows(split) for split in ("train", "val"))
    if settings.shots is not None:
        train = train[shots_per_class(features.labels[train], features.ids[train], settings.shots, seed=seed)]
    reader = FeatureReader(features, settings, loss=resolved["loss"], resources=resources, log=log)
    probes = reader.fit(train, settings.path)
    metric = metric_named(resolved["metric"])
    val_scores = reader.scores(val, probes)
    values_L = [metric(scores_NK, features.labels[val]) for scores_NK in val_scores]
    return FittedPath(reader, probes, values_L, val_scores[int(np.argmax(values_L))])


def history_rows(probes: Sequence[Probe], scores: Sequence[float | None], fitted_on: str) -> list[Mapping[str, Any]]:
    """Return the fits as JSON-able rows; a gap of inf, where there is no bound, is None."""
    return [
        {"l2": probe.l2, "fitted_on": fitted_on, "val": score}
        | {name: None if value == math.inf else value for name, value in asdict(probe.report).items()}
        for probe, score in zip(probes, scores, strict=True)
    ]
