"""Names of datasets that tell them apart: trials of two folders called ``images`` in one log are not of one dataset."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from penultimate.store.trials.trial import Trial


def told_apart(trials: Iterable[Trial]) -> list[Trial]:
    """The trials, their dataset's name followed by eight digits of its images' digest where others share the name."""
    known = list(trials)
    images_of: defaultdict[str, set[str]] = defaultdict(set)
    for trial in known:
        images_of[trial.dataset].add(trial.features["images"])
    return [
        replace(trial, dataset=f"{trial.dataset} ({trial.features['images'][:8]})")
        if len(images_of[trial.dataset]) > 1
        else trial
        for trial in known
    ]
