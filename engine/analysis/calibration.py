"""Compare the probabilities of a trial with how often they come true, before and after its temperature."""

from dataclasses import dataclass, replace

import numpy as np

from penultimate.engine.scoring.outputs import Outputs
from penultimate.engine.scoring.reliability import Reliability
from penultimate.store.trials.trial import Trial


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibration:
    """Reliability of one trial's probabilities on test."""

    before: Reliability
    after: Reliability | None
    """At the temperature fitted on val; None where there is none, or its scores were too many to keep."""

    temperature: float | None

    @classmethod
    def of(cls, trial: Trial) -> "Calibration | None":
        """Read the reliability from what ``trial`` kept; None where it kept no probabilities."""
        temperature = trial.chosen.get("temperature")
        outputs = _outputs(trial)
        if outputs is not None and outputs.has_probabilities:
            after = None if temperature is None else replace(outputs, temperature=temperature)
            return cls(
                before=Reliability.of(*outputs.confidence()),
                after=None if after is None else Reliability.of(*after.confidence()),
                temperature=temperature,
            )
        if "test_probability" not in trial.arrays:
            return None
        right_N = np.asarray(trial.arrays["test_predictions"] == trial.arrays["test_labels"])
        before = Reliability.of(trial.arrays["test_probability"], right_N)
        return cls(before=before, after=None, temperature=temperature)


def _outputs(trial: Trial) -> Outputs | None:
    labels = trial.arrays["test_labels"]
    scores = trial.arrays.get("test_scores" if labels.ndim == 2 else "test_class_scores")
    if scores is None:
        return None
    # Neighbours' votes have no loss; their scores are the logits of shares of votes.
    loss = trial.settings.get("loss", "logistic" if labels.ndim == 2 else "softmax")
    return Outputs(scores_NK=np.asarray(scores, np.float32), labels=labels, loss=loss)
