"""Return a trial on stored features from the log, or fit it and add it, with the head of a probe beside."""

from collections.abc import Sequence

from penultimate.engine.probe.head import Head
from penultimate.engine.probe.kept_paths import HeldPaths, KeptPaths
from penultimate.engine.probe.protocol import planned_trial_id, run_probe
from penultimate.engine.probe.settings import ON_CPU, FeatureSettings, Log, ProbeResources
from penultimate.store.feature_set import FeatureSet
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog

HEADS = "heads"
"""Folder beside the records: ``heads/<trial>.safetensors``."""


def get_or_fit(
    features: FeatureSet | Sequence[FeatureSet],
    settings: FeatureSettings,
    trials: TrialLog,
    *,
    seed: int = 0,
    resources: ProbeResources = ON_CPU,
    log: Log,
) -> Trial:
    """Return the trial of these features and settings: read from ``trials``, or fitted and appended to them.

    Of several FeatureSets, the readouts of one backbone on the same images, one is chosen on val. Raises what
    ``run_probe`` raises.
    """
    sets = [features] if isinstance(features, FeatureSet) else features
    first, keys = sets[0], [each.key for each in sets]
    multi_label = first.labels.ndim == 2
    wanted = planned_trial_id(keys, settings, multi_label=multi_label, metric=first.metric, seed=seed)
    if trials.contains(wanted):
        return next(trial for trial in trials.trials() if trial.id == wanted)
    few = "" if settings.shots is None else f", {settings.shots} shots, seed {seed}"
    of = first.key.label if len(sets) == 1 else f"{first.key.backbone}, best of {len(sets)} readouts"
    name = f"{first.key.dataset}, {of}{few}"
    log(f"{name}: {settings.grid}")
    paths, said = HeldPaths(KeptPaths(trials.objects, resources.path_bytes)), list[str]()

    def say(line: str) -> None:
        said.append(line)
        log(line)

    run = run_probe(sets, settings, resources=resources, paths=paths, seed=seed, log=say)
    if run.probe is not None:
        head = Head.of(
            run.probe,
            run.key,
            class_names=tuple(first.class_names),
            loss=run.trial.settings["loss"],
            temperature=run.trial.chosen.get("temperature", 1.0),
            transform=run.transform,
        )
        trials.objects.put(f"{HEADS}/{run.trial.id}.safetensors", head.content())
    trials.append(run.trial)
    paths.write()
    for note in run.trial.notes:
        if not any(line.endswith(f": {note}") for line in said):  # that features are streamed is said before it begins
            log(f"{name}: {note}")
    chosen = f"{run.key.readout}, " if len(sets) > 1 else ""
    log(f"{name}: {chosen}{100 * run.trial.value:.2f} % {run.trial.metric} in {run.trial.wall_seconds:.1f} s")
    return run.trial
