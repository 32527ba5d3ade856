"""``bench probe``: the path of a probe, one strength, and the whole protocol again, beside scikit-learn and cuML.

Every contender fits the same rows, those of train, by the same strengths and objective, which is computed in float64
afterwards. scikit-learn is ``LogisticRegression(solver="lbfgs", warm_start=True, max_iter=1000)`` at its default
tolerance, as most people run it. Reading the rows from the store belongs to the probe's own time, not to the others'.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from penultimate.engine.bench.features import drawn_contents, drawn_plan, overlapping_classes, write_features
from penultimate.engine.bench.probe_peers import Peer, blas_in_use, peers_of
from penultimate.engine.bench.timing.measurement import SECONDS, compared, other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Progress, TurnOptions, no_progress, take_turns
from penultimate.engine.probe.api import probe_sets
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import ProbeJob, ProbeSettings
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial import Trial

# Shapes: N samples, D feature dimensions, K classes, L strengths.

OURS = "penultimate"

_AGAIN = "The probe again: read, fit, choose, refit and score"

_SPLITS = ("train", "train", "train", "val", "test")
"""Splits that drawn samples take turns in."""


class ProbeBench(ProbeJob, TurnOptions):
    """All options of ``penultimate bench probe`` besides the features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Size of features to draw."""

    num_rows: int
    """N, of which three in five are train."""

    dim: int
    num_classes: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Read ``N,D,K``. Raises InputError.

        >>> Shape.parse("1000,64,10")
        Shape(num_rows=1000, dim=64, num_classes=10)
        """
        if not re.fullmatch(r"[1-9]\d*,[1-9]\d*,[1-9]\d*", text):
            raise InputError(f"expected a shape N,D,K such as 10000,1280,10 (rows, features, classes), got {text!r}")
        num_rows, dim, num_classes = map(int, text.split(","))
        if num_classes < 2 or num_rows < 10 * num_classes:
            raise InputError(f"expected at least 2 classes and 10 rows a class, got {text!r}")
        return cls(num_rows=num_rows, dim=dim, num_classes=num_classes)


@contextmanager
def drawn_features(shape: Shape) -> Iterator[FeatureSet]:
    """Draw features of classes that overlap, and yield them in a store that is removed at the end."""
    features_ND, labels_N = overlapping_classes(shape.num_rows, shape.dim, shape.num_classes)
    plan, contents_N3 = drawn_plan(labels_N, shape.dim, splits=_SPLITS), drawn_contents(shape.num_rows)
    with TemporaryDirectory() as folder:
        store = FeatureStore.create(Path(folder) / "store")
        write_features(store, plan, features_ND, contents_N3)
        yield store.read(plan.key(contents_N3))


def bench_probe(
    features: FeatureSet,
    options: ProbeBench,
    *,
    command: Sequence[str],
    on_cpu: bool = True,
    progress: Progress = no_progress,
) -> Report:
    """Measure the probe of these features, beside others ``on_cpu`` too.

    Raises what a probe raises, and InputError for more than one probe.
    """
    job = options.part(ProbeJob)
    if job.method != "probe" or job.choose_readout:
        asked = "a choice of readouts" if job.choose_readout else f"the method {job.method}"
        raise InputError(f"expected the linear probe of one readout to measure beside others, got {asked}")
    if len(job.settings()) > 1:
        raise InputError(f"expected one loss, number of shots and seed to measure, got {len(job.settings())} probes")
    bench = _Bench(features, job, on_cpu=on_cpu)
    laps = take_turns(bench.contenders(), options.part(TurnOptions), progress=progress)
    return Report(
        bench="probe",
        title=f"The probe of {features.key.backbone} on {features.key.dataset}",
        command=command,
        settings=bench.about,
        measurements=compared(laps, unit=SECONDS),
        other_cores=other_cores(laps),
        findings=bench.findings(),
        not_measured=bench.not_measured(),
    )


class _Bench:
    """The contenders that fit the rows of train, and what follows from their solutions."""

    def __init__(self, features: FeatureSet, job: ProbeJob, *, on_cpu: bool) -> None:
        ((settings, _),) = job.settings()
        assert isinstance(settings, ProbeSettings), "of the method probe"
        self._settings = settings
        self._features, self._job, self._on_cpu = features, job, on_cpu
        resolved = self._settings.resolved(multi_label=features.labels.ndim == 2, metric=features.metric)
        self._reader = FeatureReader(features, self._settings, loss=resolved["loss"], resources=job.resources)
        self._rows = features.labelled_rows("train")
        self._reader.fit_transform(self._rows)
        rows_ND = self._reader.transform.apply(features.rows_at(self._rows)).astype(np.float32, copy=False)
        labels_N = features.labels[self._rows]
        path = self._settings.path
        self._paths = {
            f"Path of {len(path)} strengths": path,
            f"One strength, l2 = {path.l2[len(path) // 2]:.3g}": RegularizationPath(l2=(path.l2[len(path) // 2],)),
        }
        if self._settings.class_weight is not None:
            raise InputError("the others are not told of class weights; leave --class-weight away")
        peers = peers_of(resolved["loss"], rows_ND, labels_N, device=job.device, on_cpu=on_cpu)
        self._peers = {group: [replace(peer, objectives={}) for peer in peers] for group in self._paths}
        self._probes: dict[str, list[Probe]] = {}
        self._trials: list[Trial] = []
        self.about = {
            "dataset": features.key.dataset,
            "backbone": features.key.backbone,
            "rows of train": len(self._rows),
            "features": features.feature_dim,
            "classes": len(features.class_names),
            "strengths": len(self._settings.path),
            "loss": resolved["loss"],
            "tol": resolved["tol"],
            "solver": resolved["solver"],
            "device": job.device,
        }

    def contenders(self) -> list[Contender]:
        """Return the contenders of each comparison, the probe's own last."""
        again = Contender(name=OURS, group=_AGAIN, run=self._again, items=len(self._settings.path) + 1)
        return [*(each for group in self._paths for each in self._fitting(group)), again]

    def _fitting(self, group: str) -> list[Contender]:
        path = self._paths[group]

        def fit() -> Iterator[int]:
            self._probes[group] = self._reader.fit(self._rows, path)
            yield len(path)

        runs = {peer.name: partial(peer.fit, path.l2) for peer in self._peers[group]} | {OURS: fit}
        return [Contender(name=name, group=group, run=run, items=len(path)) for name, run in runs.items()]

    def _again(self) -> Iterator[int]:
        self._trials = probe_sets([[self._features]], self._job, None)
        yield sum(len(trial.history) for trial in self._trials)

    def findings(self) -> list[str]:
        """Return what follows from the last turns: certificates, how far above them others end, and the test score."""
        found = []
        for group, probes in self._probes.items():
            certified = sum(probe.report.certified for probe in probes)
            gap = max(probe.report.gap / probe.report.objective for probe in probes)
            found.append(
                f"{group}: {certified} of {len(probes)} certified; the largest gap is {gap:.1e} of the objective; "
                f"gradients and Hessian in {probes[0].report.precision}."
            )
            found += [f"{group}: {self._beside(peer, probes)}" for peer in self._peers[group]]
        (trial,) = self._trials
        if self._on_cpu and any(self._peers.values()):
            found.append(blas_in_use())
        return [*found, f"{_AGAIN}: {trial.metric} on test {trial.value:.4f}, chosen l2 = {trial.chosen['l2']:.3g}."]

    def _beside(self, peer: Peer, probes: Sequence[Probe]) -> str:
        """Say how many strengths a peer did, and how far above ours its objectives are."""
        did = f"{peer.name} did {len(peer.objectives)} of {len(probes)}"
        if self.about["loss"] != "softmax":
            return f"{did}; its objective is another, as it regularises the bias."
        ours = {probe.l2: probe.report.objective for probe in probes}
        over = max(at() / ours[l2] - 1 for l2, at in peer.objectives.items())
        return f"{did}; its objective is up to {100 * over:.2g} % above ours."

    def not_measured(self) -> list[str]:
        """Return what is missing: peers that are not here."""
        found = []
        if self.about["loss"] == "logistic" or self._features.labels.ndim == 2:
            found.append(f"No other library here fits the loss {self.about['loss']} of these labels down a path.")
        elif not self._on_cpu:
            found.append("scikit-learn, which computes on the CPU, is left out.")
        if find_spec("cuml") is None:
            found.append("cuML was not measured: it is not installed here.")
        elif self._job.device != "cuda":
            found.append("cuML was not measured: it needs --device cuda.")
        if not torch.cuda.is_available():
            found.append("There is no GPU here.")
        return found
