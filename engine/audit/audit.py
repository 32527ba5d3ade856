"""Audit one dataset of a store, alone or against others: what ``penultimate audit`` shows, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from penultimate.engine.analysis.jsonable import jsonable, records
from penultimate.engine.audit.balance import class_balance
from penultimate.engine.audit.label_issues import (
    COLUMNS,
    LabelCheck,
    check_cleanlab,
    label_issues,
    probe_to_check_with,
)
from penultimate.engine.audit.leaks import leaked_test_ids, scores_without, trials_of, twin_shares
from penultimate.engine.audit.outliers import outliers
from penultimate.engine.audit.settings import AuditSettings
from penultimate.engine.audit.twins import SPLITS, Twins, find_twins
from penultimate.engine.neighbors.local_scale import NEIGHBOR
from penultimate.engine.probe.api import matching_key
from penultimate.engine.probe.settings import Log
from penultimate.engine.runtime.devices import device_named
from penultimate.store.errors import InputError, UnknownNameError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.contents import is_known
from penultimate.store.key import FeatureKey
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Audit:
    """What an audit found, a table for each question; images are named by their ids."""

    summary: dict[str, Any]
    """Counts, how neighbours were searched with which recall, and what near means, as values that JSON can hold."""

    twins: pd.DataFrame
    """Pairs of equal images and near-duplicates, the nearest first.

    Columns: ``image``, ``split``, ``label``, the same of the ``other`` (``other``, ``other_dataset``, ``other_split``,
    ``other_label``), ``distance`` (cosine), ``kind`` (equal or near)."""

    leaks: pd.DataFrame
    """How many images of each split have a twin in each other (``leaks.twin_shares``)."""

    scores: pd.DataFrame
    """Test scores with and without the images that have a twin in train or val (``leaks.scores_without``)."""

    label_issues: pd.DataFrame
    """Doubtful labels, the most doubtful first (``label_issues.LabelCheck.issues``)."""

    outliers: pd.DataFrame
    """Images far from all others, the farthest first (``outliers.outliers``)."""

    unreadable: pd.DataFrame
    """Images without features. Columns: ``image``, ``reason``."""

    classes: pd.DataFrame
    """Images of each class in each split (``balance.class_balance``)."""

    notes: tuple[str, ...]
    """Sentences on what was left out, and why."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold, a list of rows for each table; what is not known is None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: records(value) if isinstance(value, pd.DataFrame) else jsonable(value)
            for name, value in values.items()
        }


def audit(
    features: FeatureSet | FeatureStore | str | Path,
    *,
    trials: TrialLog | str | Path | None = None,
    against: Sequence[str] = (),
    dataset: str = "*",
    backbone: str = "*",
    readout: str = "*",
    log: Log = lambda line: None,
    **settings: Any,
) -> Audit:
    """Find copies, leaks, doubtful labels and outliers of a dataset by its features. No image is read or changed.

    Parameters
    ----------
    features
        One ``FeatureSet``, or a feature store (a ``FeatureStore``, a folder, or an ``s3://``, ``gs://`` or ``az://``
        address) with one complete key that matches ``dataset``, ``backbone`` and ``readout``.
    trials
        The trial log: test scores are given with and without leaked images, and labels are checked by the probe that
        was chosen for these features. None: neither is done, and the notes say so.
    against
        Names, or digests of keys, of other datasets in the store, embedded alike, in which twins are looked for too.
    dataset, backbone, readout
        Globs over the datasets, the backbones and the readouts of a store.
    log
        Called with lines for people.
    **settings
        Any field of ``AuditSettings``, which ``penultimate settings audit`` lists with its type, range, default and
        meaning: ``ratio``, ``search``, ``labels``, ``folds``, ``device``, ``seed``.

    Returns
    -------
    Audit
        Tables as pandas DataFrames: ``twins``, ``leaks``, ``scores``, ``label_issues``, ``outliers``, ``unreadable``,
        ``classes``; a ``summary`` and ``notes``.

    Raises
    ------
    InputError
        For an unknown setting or a value out of range; if not one key matches, or a dataset to compare with is not
        there or was embedded otherwise; for features that are not finite. Nothing is computed then.
    UnavailableError
        For a device that is not here, and where labels should be checked and cleanlab is not installed.

    Examples
    --------
    >>> import penultimate
    >>> store = getfixture("probe_store")  # features of 24 photographs of three classes
    >>> found = penultimate.audit(store)
    >>> found.summary["equal"], found.classes["class"].tolist(), found.classes["total"].tolist()
    (0, ['cat', 'dog', 'owl'], [8, 8, 8])
    """
    how = AuditSettings.of(settings)
    logged = [] if trials is None else (trials if isinstance(trials, TrialLog) else TrialLog(str(trials))).trials()
    if isinstance(features, FeatureSet):
        if against:
            raise InputError("against names datasets of a store, and features are one set: give the store")
        return audit_set(features, [], logged, how, log=log)
    store = features if isinstance(features, FeatureStore) else FeatureStore(str(features))
    audited, others = sets_of(store, dataset, backbone, readout, against)
    return audit_set(audited, others, logged, how, log=log)


def sets_of(
    store: FeatureStore, dataset: str, backbone: str, readout: str, against: Sequence[str]
) -> tuple[FeatureSet, list[FeatureSet]]:
    """Return the set to audit and those it is compared with; arguments and errors as in ``audit``."""
    key = matching_key(store, dataset, backbone, readout)
    return store.read(key), [store.read(_other(store, key, name)) for name in against]


def audit_set(
    features: FeatureSet,
    others: Sequence[FeatureSet],
    trials: Sequence[Trial],
    settings: AuditSettings,
    *,
    log: Log = lambda line: None,
) -> Audit:
    """Audit one set, with the sets that it is compared with and the trials of a log. Raises what ``audit`` does."""
    if not features.num_rows:
        raise InputError(f"{features.key.dataset} has no images with features: there is nothing to audit")
    device_named(settings.device)
    trial = probe_to_check_with(features, trials) if settings.labels and features.labels.ndim == 1 else None
    if trial is not None:
        check_cleanlab()
    log(f"{features.key.dataset}, {features.key.backbone}: neighbours of {features.num_rows:,} images")
    twins = find_twins(features, others, settings)
    check = None if trial is None else label_issues(features, twins, trial, settings, log=log)
    same_images = trials_of(features, trials)
    leaked = leaked_test_ids(twins)
    classes = class_balance(features)
    return Audit(
        summary=_summary(features, twins, check, leaked, settings),
        twins=_twin_table(twins),
        leaks=twin_shares(twins),
        scores=scores_without(same_images, leaked),
        label_issues=pd.DataFrame(columns=COLUMNS) if check is None else check.issues,
        outliers=outliers(features, twins),
        unreadable=pd.DataFrame(sorted(features.failed.items()), columns=("image", "reason")),
        classes=classes,
        notes=tuple(_notes(features, twins, trials, same_images, check, settings)),
    )


def _other(store: FeatureStore, key: FeatureKey, name: str) -> FeatureKey:
    """Return the key of a dataset to compare with: embedded as ``key`` is, and another set than it."""
    keys = set(store.keys()) - {key}
    named = [each for each in keys if name == each.dataset or each.digest.startswith(name)]
    if not named:
        raise UnknownNameError(f"other dataset in {store.address}", name, {each.dataset for each in keys})
    alike = [each for each in named if each.embedding.digest == key.embedding.digest]
    if len(alike) != 1:
        raise InputError(
            f"{store.address} has {len(alike)} sets of {name!r} that were embedded as {key.dataset} by {key.backbone} "
            f"was (same weights, preprocess, decoder, precision, dtype and readout), of {len(named)} in all; "
            + ("give the digest of one" if alike else "extract it so first")
        )
    return alike[0]


def _summary(
    features: FeatureSet, twins: Twins, check: LabelCheck | None, leaked: Sequence[str], settings: AuditSettings
) -> dict[str, Any]:
    counts = {split: int((features.split == split).sum()) for split in SPLITS}
    return {
        "dataset": features.key.dataset,
        "backbone": features.key.backbone,
        "digest": features.key.digest,
        "images": features.num_rows,
        "splits": counts,
        "classes": len(features.class_names),
        "against": [each.key.dataset for each in twins.rows.sets[1:]],
        "recalls": [
            {"dataset": name, "rows": recall.num_rows, "found": recall.num_found} for name, recall in twins.recalls
        ],
        "ratio": settings.ratio,
        "neighbor": NEIGHBOR,
        "typical_distance": twins.scale,
        "twins": len(twins.first_P),
        "equal": int(twins.equal_P.sum()),
        "leaked_test_images": len(leaked),
        "leaked_share": len(leaked) / counts["test"] if counts["test"] else None,
        "labels_checked": None if check is None else check.num_checked,
    }


def _twin_table(twins: Twins) -> pd.DataFrame:
    order = np.argsort(twins.distance_P, kind="stable")
    order = order[np.argsort(~twins.equal_P[order], kind="stable")]
    first, second = twins.first_P[order], twins.second_P[order]
    sets, offsets = twins.rows.sets, np.array(twins.rows.offsets)
    set_P = np.searchsorted(offsets, second, side="right") - 1
    others = pd.DataFrame(index=range(len(order)), columns=["other", "other_dataset", "other_split", "other_label"])
    for index, other in enumerate(sets):
        here = np.flatnonzero(set_P == index)
        rows = second[here] - offsets[index]
        others.loc[here, "other"] = other.ids[rows].tolist()
        others.loc[here, "other_dataset"] = other.key.dataset
        others.loc[here, "other_split"] = other.split[rows].tolist()
        others.loc[here, "other_label"] = other.class_texts(rows)
    mine = {
        "image": sets[0].ids[first].tolist(),
        "split": sets[0].split[first].tolist(),
        "label": sets[0].class_texts(first),
    }
    found = {
        "distance": twins.distance_P[order].astype(float),
        "kind": np.where(twins.equal_P[order], "equal", "near").tolist(),
    }
    return pd.concat([pd.DataFrame(mine), others, pd.DataFrame(found)], axis=1)


def _notes(
    features: FeatureSet,
    twins: Twins,
    trials: Sequence[Trial],
    same_images: Sequence[Trial],
    check: LabelCheck | None,
    settings: AuditSettings,
) -> list[str]:
    notes = []
    unknown = sum(int((~is_known(each.contents)).sum()) for each in twins.rows.sets)
    if unknown:
        notes.append(
            f"the contents of {unknown:,} images are not in the store (format 1), so that their copies are told by "
            "features alone; `penultimate store upgrade` adds them"
        )
    if not trials:
        notes.append("no trials were given: no scores without twins, and labels were not checked")
    elif not same_images:
        notes.append("no trial in the log is of exactly these images: there are no scores with and without twins")
    if trials and settings.labels and check is None:
        notes.append(
            "labels of images with several labels are not checked"
            if features.labels.ndim == 2
            else "labels were not checked: the log has no softmax probe of these features on all training images; "
            "`penultimate probe` makes one"
        )
    return notes + list(() if check is None else check.notes)
