"""Label issues: labels that a probe which has not seen them contradicts, by confident learning.

Northcutt, Jiang & Chuang (2021), "Confident learning: estimating uncertainty in dataset labels", as the library
cleanlab has it. The probabilities are those of the certified probe at the strength that was chosen for this dataset,
fitted anew without the images it judges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from penultimate.engine.audit.settings import AuditSettings
from penultimate.engine.audit.twins import Twins
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.settings import UNSAID, Log, ProbeResources, ProbeSettings
from penultimate.engine.scoring.outputs import probabilities
from penultimate.store.errors import UnavailableError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.trials.trial import Trial

# Shapes: N rows of the audited set, L labelled rows that are checked, K classes.

COLUMNS = ("image", "split", "label", "suggested", "p_label", "p_suggested")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelCheck:
    """The labels that were checked, and those that are doubtful."""

    issues: pd.DataFrame
    """The most doubtful first. Columns: ``image``, ``split``, ``label``, ``suggested`` (class names), ``p_label`` and
    ``p_suggested`` (out-of-fold probabilities of both)."""

    num_checked: int
    notes: tuple[str, ...]


def check_cleanlab() -> None:
    """Raise UnavailableError unless the library is installed."""
    if find_spec("cleanlab") is None:
        raise UnavailableError(
            "labels are checked by cleanlab, which is not installed: pip install 'penultimate[audit]', or leave them "
            "out with --no-labels"
        )


def probe_to_check_with(features: FeatureSet, trials: Sequence[Trial]) -> Trial | None:
    """Return the last trial of a softmax probe on all training images that chose for exactly these features, or None.

    They are its only ones, or the readout that it chose among several.
    """
    own = {**features.key.fields, "readout": features.key.readout}
    fitting = [
        trial
        for trial in trials
        if trial.method == "probe"
        and {**trial.features, "readout": trial.chosen.get("readout", trial.readout)} == own
        and trial.settings["loss"] == "softmax"
        and "shots" not in trial.settings
    ]
    return fitting[-1] if fitting else None


def label_issues(
    features: FeatureSet, twins: Twins, trial: Trial, settings: AuditSettings, *, log: Log = lambda line: None
) -> LabelCheck:
    """Judge every label by a probe that has seen neither its image nor a twin of it; labels are one an image.

    Labels of all splits are judged. Classes whose images are all twins of each other cannot be, and are left out.
    """
    rows_L = features.labelled_rows("train", "val", "test")
    group_L = _groups(twins, features.num_rows)[rows_L]
    labels_L: NDArray[np.int64] = features.labels[rows_L]  # type: ignore[assignment]  # one label an image
    alone_K = [k for k in np.unique(labels_L).tolist() if len(np.unique(group_L[labels_L == k])) < 2]
    kept_L = ~np.isin(labels_L, alone_K)
    rows_L, group_L, labels_L = rows_L[kept_L], group_L[kept_L], labels_L[kept_L]
    notes = [
        f"{features.class_names[k]} has one image, or copies of one, and its label cannot be checked" for k in alone_K
    ]
    if len(np.unique(labels_L)) < 2:
        return LabelCheck(issues=pd.DataFrame(columns=COLUMNS), num_checked=0, notes=tuple(notes))
    fold_L = folds(labels_L, group_L, settings.folds, seed=settings.seed)
    p_LK, uncertified = _out_of_fold(features, trial, rows_L, fold_L, settings, log)
    if uncertified:
        notes.append(f"{uncertified} of {settings.folds} probes that checked labels did not converge")
    return LabelCheck(issues=_table(features, rows_L, labels_L, p_LK), num_checked=len(rows_L), notes=tuple(notes))


def folds(labels_L: NDArray[np.int64], group_L: NDArray[np.int64], num_folds: int, *, seed: int) -> NDArray[np.int64]:
    """Return the fold of each sample: groups stay together, and classes are divided as evenly as these allow.

    Groups, in random order within the class of their first sample, are dealt out in turn.
    """
    _, first_G, group_of_L = np.unique(group_L, return_index=True, return_inverse=True)
    order = np.lexsort((np.random.default_rng(seed).permutation(len(first_G)), labels_L[first_G]))
    fold_G = np.empty(len(first_G), np.int64)
    fold_G[order] = np.arange(len(first_G)) % num_folds
    return fold_G[group_of_L]


def _groups(twins: Twins, num_rows: int) -> NDArray[np.int64]:
    """Return a number for each row that it shares with its twins, their twins, and so on."""
    own = twins.second_P < num_rows
    first, second = twins.first_P[own], twins.second_P[own]
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(num_rows, num_rows))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _out_of_fold(
    features: FeatureSet,
    trial: Trial,
    rows_L: NDArray[np.int64],
    fold_L: NDArray[np.int64],
    settings: AuditSettings,
    log: Log,
) -> tuple[NDArray[np.float64], int]:
    """Return each row's probabilities (L, K) by the probe fitted on the other folds; and how many did not converge."""
    path = RegularizationPath(l2=(trial.chosen["l2"],))
    same = {name: trial.settings[name] for name in ("tol", "solver", *UNSAID) if name in trial.settings}
    probe_settings = ProbeSettings(path=path, **same)
    resources = ProbeResources(device=settings.device)
    reader = FeatureReader(features, probe_settings, loss="softmax", resources=resources, log=log)
    p_LK = np.empty((len(rows_L), len(features.class_names)))
    uncertified = 0
    for fold in range(settings.folds):
        log(f"labels: probe {fold + 1} of {settings.folds}")
        held_L = fold_L == fold
        reader.fit_transform(rows_L[~held_L])
        (probe,) = reader.fit(rows_L[~held_L], path)
        (scores,) = reader.scores(rows_L[held_L], [probe]) if held_L.any() else (np.empty((0, p_LK.shape[1])),)
        p_LK[held_L] = probabilities(scores.astype(np.float64), "softmax")
        uncertified += not probe.report.certified
    return p_LK, uncertified


def _table(
    features: FeatureSet, rows_L: NDArray[np.int64], labels_L: NDArray[np.int64], p_LK: NDArray[np.float64]
) -> pd.DataFrame:
    """Return the doubtful labels, the least probable first."""
    from cleanlab.filter import find_label_issues

    present, compact_L = np.unique(labels_L, return_inverse=True)  # cleanlab wants every class to have samples
    found = find_label_issues(compact_L, p_LK[:, present], return_indices_ranked_by="self_confidence", n_jobs=1)
    suggested = p_LK[found].argmax(1)
    names = np.array(features.class_names)
    return pd.DataFrame(
        {
            "image": features.ids[rows_L[found]].tolist(),
            "split": features.split[rows_L[found]].tolist(),
            "label": names[labels_L[found]].tolist(),
            "suggested": names[suggested].tolist(),
            "p_label": p_LK[found, labels_L[found]],
            "p_suggested": p_LK[found, suggested],
        },
        columns=COLUMNS,
    )
