"""A probe that is in the log when this returns, whether it was there already or is fitted now; its head beside."""

from collections.abc import Callable
from dataclasses import dataclass

from penultimate.engine.probe.head import Head
from penultimate.engine.probe.protocol import ProbeSettings, asked_id, run_probe
from penultimate.store.feature_set import FeatureSet
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog

HEADS = "heads"
"""Folder beside the records: ``heads/<trial>.safetensors``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeMeans:
    """What a probe uses and its outcome does not depend on, but for rounding."""

    device: str = "cpu"
    memory_bytes: int | None = None
    """Features that take more are streamed; None: they are held."""


def logged_probe(
    features: FeatureSet,
    settings: ProbeSettings,
    log: TrialLog,
    *,
    seed: int = 0,
    means: ProbeMeans = ProbeMeans(),
    say: Callable[[str], None],
) -> Trial:
    """The trial of these features and settings: read from ``log``, or fitted and appended to it.

    Raises what ``run_probe`` raises.
    """
    multi_label = features.labels.ndim == 2
    wanted = asked_id(features.key, settings, multi_label=multi_label, metric=features.metric, seed=seed)
    if log.contains(wanted):
        return next(trial for trial in log.trials() if trial.id == wanted)
    few = "" if settings.shots is None else f", {settings.shots} shots, seed {seed}"
    name = f"{features.key.dataset}, {features.key.backbone}{few}"
    say(f"{name}: {len(settings.path)} strengths")
    run = run_probe(features, settings, device=means.device, seed=seed, memory_bytes=means.memory_bytes)
    head = Head.of(run.probe, features.key, class_names=tuple(features.class_names), loss=run.trial.settings["loss"])
    log.objects.put(f"{HEADS}/{run.trial.id}.safetensors", head.content())
    log.append(run.trial)
    for note in run.trial.notes:
        say(f"{name}: {note}")
    say(f"{name}: {100 * run.trial.value:.2f} % {run.trial.metric} in {run.trial.wall_seconds:.1f} s")
    return run.trial
