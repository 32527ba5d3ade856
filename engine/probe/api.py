"""Probe stored features from Python, as ``penultimate probe`` does."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from penultimate.engine.probe.get_or_fit import get_or_fit
from penultimate.engine.probe.protocol import run_probe
from penultimate.engine.probe.settings import Log, ProbeGrid, ProbeJob
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import PENULTIMATE, FeatureKey
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog


def probe(
    features: FeatureSet | FeatureStore | str | Path,
    *,
    trials: str | Path | None = None,
    dataset: str = "*",
    backbone: str = "*",
    readout: str = "*",
    **settings: Any,
) -> list[Trial]:
    """Fit whole regularisation paths on stored features: choose the strength on val, refit, score test once.

    Every strength is certified: its objective is within a stated distance of the optimum, or the trial says that it
    is not. No image and no network is touched.

    Parameters
    ----------
    features
        One ``FeatureSet``, or a feature store (a ``FeatureStore``, a folder, or an ``s3://``, ``gs://`` or ``az://``
        address) whose complete keys are all probed.
    trials
        The trial log, a folder or an address; made if it is not there. What it holds already is read, not fitted
        again; heads are written beside it, as ``heads/TRIAL.safetensors``, and paths, at which probes of the same
        features by other settings begin. None: trials are returned, nothing is kept.
    dataset, backbone, readout
        Globs over the datasets, the backbones and the readouts of a store.
    **settings
        Any field of ``ProbeJob``, which ``penultimate settings probe`` lists with its type, range, default and
        meaning. Used most: ``l2`` ("FROM:TO:HOW_MANY", strengths on the *sum* of losses: scikit-learn's C = 1 / l2),
        ``losses`` ("softmax", "logistic", "squared_hinge"), ``metric``, ``shots`` (training images a class), ``seeds``
        (subsets drawn for each number of shots), ``choose_readout`` (chosen on val, of all that a backbone has),
        ``method`` ("knn": the ``k`` most similar training images vote), ``choose_by`` ("log_loss", say, instead of the
        metric), ``class_weight`` ("balanced"), ``transform`` ("l2", "standardize"), ``device``, ``memory`` ("4G":
        features that would take more to fit are streamed; by default half of what is free), ``keep_path`` ("64M": what
        the path beside a trial may take).

    Returns
    -------
    list of Trial
        One for each key, or choice of a readout, loss, number of shots and seed. ``value`` is the test score as a
        fraction, ``chosen`` the strength, ``history`` every strength with its certificate, ``arrays`` the predictions
        on every test sample.

    Raises
    ------
    InputError
        For an unknown setting or a value out of range; features that are not there, not finite, or of one class only;
        a split without samples; a metric that does not suit the labels. Nothing is fitted then.
    UnavailableError
        For a device or solver that is not here.

    Examples
    --------
    >>> import penultimate
    >>> store = getfixture("probe_store")  # features of 24 photographs of three classes
    >>> (trial,) = penultimate.probe(store, l2="0.01:100:5")
    >>> trial.metric, trial.converged, "l2" in trial.chosen
    ('top1', True, True)
    """
    job = ProbeJob.of(settings)
    log = None if trials is None else TrialLog.create(str(trials))
    if isinstance(features, FeatureSet):
        return probe_sets([[features]], job, log)
    store = features if isinstance(features, FeatureStore) else FeatureStore(str(features))
    keys = matching_keys(store, dataset, backbone, readout)
    return probe_sets(([store.read(key) for key in group] for group in probed_together(keys, job)), job, log)


def matching_keys(store: FeatureStore, dataset: str, backbone: str, readout: str) -> Sequence[FeatureKey]:
    """Return the complete keys of ``store`` that match globs over names; InputError if none does."""
    keys = store.keys()
    found = [
        key
        for key in keys
        if fnmatchcase(key.dataset, dataset)
        and fnmatchcase(key.backbone, backbone)
        and fnmatchcase(key.readout, readout)
    ]
    if not found:
        of_readout = "" if readout == "*" else f" and readout {readout!r}"
        raise InputError(
            f"{store.address} has no complete features of dataset {dataset!r} and backbone {backbone!r}{of_readout}; "
            f"`penultimate store ls {store.address}` lists what it has"
        )
    return found


def matching_key(store: FeatureStore, dataset: str, backbone: str, readout: str) -> FeatureKey:
    """Return the one complete key of ``store`` that matches globs over names; InputError if none does, or several."""
    keys = matching_keys(store, dataset, backbone, readout)
    if len(keys) > 1:
        named = ", ".join(f"{key.dataset} by {key.label} ({key.digest})" for key in keys[:5])
        raise InputError(
            f"expected one set of features, and {len(keys)} match in {store.address}: {named}"
            f"{', ...' if len(keys) > 5 else ''}; choose one with --dataset, --backbone and --readout"
        )
    return keys[0]


def probed_together(keys: Iterable[FeatureKey], job: ProbeGrid) -> list[list[FeatureKey]]:
    """Return the keys of each trial: one, or where the readout is to be chosen all that differ in it alone.

    Raises InputError where a backbone has one readout only, so that there is none to choose.
    """
    if not job.choose_readout:
        return [[key] for key in keys]
    groups: dict[FeatureKey, list[FeatureKey]] = {}
    for key in keys:
        groups.setdefault(replace(key, readout=PENULTIMATE), []).append(key)
    for first, *others in groups.values():
        if not others:
            raise InputError(
                f"{first.backbone} on {first.dataset} has the readout {first.readout} alone, so that there is none to "
                "choose; `penultimate extract --readout` adds others, or leave --choose-readout away"
            )
    return list(groups.values())


def probe_sets(
    groups: Iterable[Sequence[FeatureSet]], job: ProbeJob, trials: TrialLog | None, *, log: Log = lambda line: None
) -> list[Trial]:
    """Return the trial of every group of sets (``probed_together``) with every setting of ``job``.

    It is read from ``trials``, or fitted and added to them.
    """
    return [
        run_probe(sets, settings, resources=job.resources, seed=seed, log=log).trial
        if trials is None
        else get_or_fit(sets, settings, trials, seed=seed, resources=job.resources, log=log)
        for sets in groups
        for settings, seed in job.settings()
    ]
