"""Trial: one fitted model, its scores, and everything needed to fit it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from penultimate.store.format.digest import digest_of
from penultimate.store.key import PENULTIMATE

OF_FEATURES = ("probe", "knn")
"""Methods that classify stored features, so that their trials are of a readout."""

CHOSEN = "chosen"
"""Readout of a trial whose readout was chosen on val, among ``settings["readouts"]``: ``chosen["readout"]``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trial:
    """The result for one dataset, backbone, method, settings and seed: chosen on val, scored once on test."""

    dataset: str
    """Name for people; identity is ``features["images"]`` below."""

    backbone: str
    """Name for people; identity is ``features["weights"]``."""

    method: str
    """``probe``, ``knn``, ``finetune`` or ``scratch``."""

    features: Mapping[str, str]
    """The FeatureKey's fields, or for a trained network those that apply (images, weights, preprocess, ...)."""

    settings: Mapping[str, Any]
    """All other settings the result depends on, JSON-able and resolved: loss, strengths, tolerance, solver, ..."""

    seed: int

    metric: str
    """Metric of which ``value`` is, and by which settings were chosen unless ``settings["choose_by"]`` names another
    score: ``top1``, ``mean_per_class``, ``map11``."""

    value: float
    """Test score of the chosen fit, a fraction in [0, 1]."""

    metrics: Mapping[str, Mapping[str, float]]
    """Split (``val``, ``test``) -> metric or score -> value of the chosen fit; what was not computed is absent.

    ``val_calibrated`` and ``test_calibrated`` are the scores of probabilities at the temperature fitted on val.
    """

    chosen: Mapping[str, Any]
    """The settings chosen on val, for example ``{"l2": 0.01, "temperature": 1.3}``, and ``readout`` where that was
    chosen too."""

    converged: bool
    """True if every fit behind the result met its tolerance."""

    history: Sequence[Mapping[str, Any]]
    """One row for each strength of the path (its SolveReport and val score), or each evaluation of a training run."""

    arrays: Mapping[str, NDArray[Any]]
    """Per-sample predictions on test: ``test_ids``, ``test_labels``, ``test_predictions`` (class indices), or
    ``test_scores`` (N, K) float32 where samples have several labels. ``class_names`` (K,) names the indices.

    Beside predictions ``test_class_scores`` (N, K) float16, uncalibrated, if they take at most 64 MB; else, where there
    are probabilities, ``test_probability`` of the predicted and ``test_probability_true`` of the true class, (N,)
    float32. Under softmax the highest score of a sample is 0. Trials written before these were kept have none, nor
    names.
    """

    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    commit: str
    """Git commit of penultimate, or its version where there is no checkout."""

    created: str
    """Time at which the trial ended, ISO 8601 in UTC."""

    wall_seconds: float

    notes: Sequence[str] = field(default=())
    """Sentences that a report repeats, such as on strengths that did not converge or images left out."""

    @property
    def id(self) -> str:
        """Return 16 hex digits over the request, not the result, so that the same request finds this trial again."""
        return trial_id(self.method, self.features, self.settings, self.seed)

    @property
    def readout(self) -> str:
        """Return the readout of the features, or ``CHOSEN`` where it was chosen on val."""
        return self.features.get("readout", PENULTIMATE)

    @property
    def readout_text(self) -> str:
        """Return the readout for people: ``last4``, or ``last4 (chosen)``."""
        return f"{self.chosen['readout']} ({CHOSEN})" if "readout" in self.chosen else self.readout

    @property
    def num_test(self) -> int:
        """Return the number of test samples that were scored."""
        return len(self.arrays["test_labels"])


def trial_id(method: str, features: Mapping[str, str], settings: Mapping[str, Any], seed: int) -> str:
    """Return the id that a trial of this request will have, before it is run."""
    return digest_of({"method": method, "features": dict(features), "settings": dict(settings), "seed": seed})
