"""Return a trial on stored features from the log, or fit it and add it, with the head of a probe beside."""

from penultimate.engine.probe.head import Head
from penultimate.engine.probe.protocol import planned_trial_id, run_probe
from penultimate.engine.probe.settings import ON_CPU, FeatureSettings, Log, ProbeResources
from penultimate.store.feature_set import FeatureSet
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog

HEADS = "heads"
"""Folder beside the records: ``heads/<trial>.safetensors``."""


def get_or_fit(
    features: FeatureSet,
    settings: FeatureSettings,
    trials: TrialLog,
    *,
    seed: int = 0,
    resources: ProbeResources = ON_CPU,
    log: Log,
) -> Trial:
    """Return the trial of these features and settings: read from ``trials``, or fitted and appended to them.

    Raises what ``run_probe`` raises.
    """
    multi_label = features.labels.ndim == 2
    wanted = planned_trial_id(features.key, settings, multi_label=multi_label, metric=features.metric, seed=seed)
    if trials.contains(wanted):
        return next(trial for trial in trials.trials() if trial.id == wanted)
    few = "" if settings.shots is None else f", {settings.shots} shots, seed {seed}"
    name = f"{features.key.dataset}, {features.key.backbone}{few}"
    log(f"{name}: {settings.grid}")
    run = run_probe(features, settings, resources=resources, seed=seed, log=log)
    if run.probe is not None:
        loss = run.trial.settings["loss"]
        head = Head.of(
            run.probe,
            features.key,
            class_names=tuple(features.class_names),
            loss=loss,
            temperature=run.trial.chosen.get("temperature", 1.0),
        )
        trials.objects.put(f"{HEADS}/{run.trial.id}.safetensors", head.content())
    trials.append(run.trial)
    for note in run.trial.notes:
        log(f"{name}: {note}")
    log(f"{name}: {100 * run.trial.value:.2f} % {run.trial.metric} in {run.trial.wall_seconds:.1f} s")
    return run.trial
