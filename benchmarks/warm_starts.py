"""Time probes that begin at a path that was kept, beside the same without, and the refit beside the path.

    python benchmarks/warm_starts.py STORE REPORT.md [--dataset GLOB] [--backbone GLOB]

The path kept is the paper's, on train at the default tolerance. From there begin: the same path, with certificates made
anew as for features that were embedded anew; 33 other strengths; tolerances ten times looser and tighter; balanced
class weights, on rows of train drawn so that classes have a fifth to all of their images, whose own path was kept; and
the refit on train + val at the strength that val chooses, at a tenth and at a hundredth of it. ``get_or_fit`` is the
whole probe, reading, scoring, choosing, refitting and writing included, by another score than the trial before: one
that may choose another strength, and one that chooses the same.
"""

import penultimate  # noqa: F401  # before numpy, so that PENULTIMATE_CPU reaches its BLAS

# isort: split
import argparse
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.bench.timing.measurement import SECONDS, compared, other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, TurnOptions, take_turns
from penultimate.engine.metrics import METRICS
from penultimate.engine.probe.api import matching_key
from penultimate.engine.probe.fitting.fit import FittedPath, fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.get_or_fit import get_or_fit
from penultimate.engine.probe.kept_paths import FOLDER
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.reader import balanced_weights
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import ProbeSettings
from penultimate.engine.runtime.malloc import keep_freed_memory
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial_log import TrialLog

# Shapes: N samples, D feature dimensions.

COLD = "without"


@dataclass(frozen=True, slots=True)
class Fit:
    """One fit, with the reports of its last turn."""

    features_ND: NDArray[np.float32]
    labels_N: NDArray[np.integer[Any]]
    settings: FitSettings
    weight_N: NDArray[np.float64] | None
    probes: list[Probe]

    def path(self, start: Sequence[Probe] = ()) -> FittedPath:
        """Fit once."""
        return fit_path(self.features_ND, self.labels_N, self.settings, sample_weight_N=self.weight_N, start=start)

    def run(self, start: Sequence[Probe]) -> Iterator[int]:
        """Fit once, and keep the reports."""
        self.probes[:] = self.path(start)
        yield len(self.probes)

    def sentence(self) -> str:
        """Say what it took and that it is certified."""
        certified = sum(probe.report.certified for probe in self.probes)
        without = sum(probe.report.steps == 0 for probe in self.probes)
        products = sum(probe.report.curvature_passes for probe in self.probes)
        return f"{certified} of {len(self.probes)} certified, {without} without a step, {products:.0f} Hessian products"


class Comparisons:
    """All fits that are compared, in groups."""

    def __init__(self, features: FeatureSet, strengths: int) -> None:
        self._features, self._num_classes = features, len(features.class_names)
        self.train = features.labelled_rows("train")
        self.path = RegularizationPath.spaced(1e-6, 1e5, strengths)
        self.contenders: list[Contender] = []
        self.fits: dict[str, Fit] = {}
        fitted = self._fit(self.train).path()
        kept = list(fitted)  # as it is read from disk, which has no axes
        others = RegularizationPath.spaced(2e-5, 3e4, max(2, 3 * strengths // 4))
        self._compare(f"The same {strengths} strengths", self._fit(self.train), kept)
        self._compare(f"{len(others)} other strengths", self._fit(self.train, path=others), kept)
        self._compare("Tolerance 1e-3", self._fit(self.train, tol=1e-3), kept)
        self._compare("Tolerance 1e-5", self._fit(self.train, tol=1e-5), kept)
        some = self._unbalanced()
        weights = balanced_weights(features.labels[some])
        self._compare("Balanced class weights", self._fit(some, weight_N=weights), list(self._fit(some).path()))
        self._refits(fitted)

    def _fit(
        self,
        rows: NDArray[np.int64],
        *,
        path: RegularizationPath | None = None,
        tol: float = 1e-4,
        weight_N: NDArray[np.float64] | None = None,
    ) -> Fit:
        features_ND = self._features.rows_at(rows).astype(np.float32, copy=False)
        settings = FitSettings(num_classes=self._num_classes, path=path or self.path, tol=tol)
        return Fit(features_ND, self._features.labels[rows], settings, weight_N, [])

    def _compare(self, group: str, fit: Fit, kept: list[Probe]) -> None:
        for name, start in ((COLD, ()), ("from the path kept", kept)):
            own = Fit(fit.features_ND, fit.labels_N, fit.settings, fit.weight_N, [])
            self._add(group, name, own, start)

    def _add(self, group: str, name: str, fit: Fit, start: Sequence[Probe]) -> None:
        self.fits[f"{group}, {name}"] = fit
        self.contenders.append(
            Contender(name=name, group=group, run=lambda: fit.run(start), items=len(fit.settings.path))
        )

    def _refits(self, kept: FittedPath) -> None:
        val, both = (self._features.labelled_rows(*splits) for splits in (("val",), ("train", "val")))
        metric, val_ND = METRICS[self._features.metric], self._features.rows_at(val)
        scores = [metric(probe.scores(val_ND), self._features.labels[val]) for probe in kept]
        best = kept[int(np.argmax(scores))].l2
        group = "The refit on train + val"
        self._add(group, "the path on train", self._fit(self.train), ())
        for l2 in (best, best / 10, best / 100):
            alone = RegularizationPath(l2=(l2,))
            self._add(group, f"l2 = {l2:.2g}, without", self._fit(both, path=alone), ())
            self._add(group, f"l2 = {l2:.2g}, from the path", self._fit(both, path=alone), kept)

    def _unbalanced(self) -> NDArray[np.int64]:
        """Return rows of train, of each class a fifth to all."""
        rng, labels_N = np.random.default_rng(0), self._features.labels[self.train]
        of_class = [self.train[labels_N == k] for k in np.unique(labels_N)]
        return np.sort(
            np.concatenate(
                [rng.permutation(rows)[: max(1, round(rng.uniform(0.2, 1) * len(rows)))] for rows in of_class]
            )
        )


SAME_CHOICE = {"mean_per_class": "top1", "top1": "mean_per_class"}
"""A metric -> another, which chooses the same on a val split whose classes are of one size."""


def whole_probes(features: FeatureSet, path: RegularizationPath, work: Path) -> list[Contender]:
    """Return the whole probe by other scores, with and without the path of a trial before."""
    TrialLog.create(work / "before")
    get_or_fit(features, ProbeSettings(path=path), TrialLog(work / "before"), log=lambda line: None)

    def log_with(*, kept: bool) -> None:
        shutil.rmtree(work / "trials", ignore_errors=True)
        TrialLog.create(work / "trials")
        if kept:
            shutil.copytree(work / "before" / FOLDER, work / "trials" / FOLDER)

    def run(score: str) -> Iterator[int]:
        settings = ProbeSettings(path=path, choose_by=score)
        trial = get_or_fit(features, settings, TrialLog(work / "trials"), log=lambda line: None)
        yield len(trial.history)

    def contender(name: str, score: str, prepare: Callable[[], object]) -> Contender:
        group = f"The whole probe, chosen by {score} after one chosen by {features.metric}"
        return Contender(name=name, group=group, run=lambda: run(score), prepare=prepare, items=len(path) + 1)

    scores = ["log_loss", *(SAME_CHOICE[name] for name in [features.metric] if name in SAME_CHOICE)]
    return [
        contender(name, score, partial(log_with, kept=kept))
        for score in scores
        for name, kept in ((COLD, False), ("from the path kept", True))
    ]


def report(features: FeatureSet, *, strengths: int, options: TurnOptions) -> Report:
    """Measure all comparisons in turns."""
    found = Comparisons(features, strengths)
    with TemporaryDirectory() as work:
        contenders = [*found.contenders, *whole_probes(features, found.path, Path(work))]
        laps = take_turns(contenders, options)
        path_bytes = sum(file.stat().st_size for file in (Path(work) / "before" / FOLDER).iterdir())
    return Report(
        bench="warm_starts",
        title=f"Probes that begin where the last one ended: {features.key.backbone} on {features.key.dataset}",
        settings={
            "rows of train": len(found.train),
            "features": features.feature_dim,
            "classes": len(features.class_names),
            "strengths": strengths,
            "MB of the path and its refit on disk": round(path_bytes / 1e6, 1),
        },
        measurements=compared(laps, unit=SECONDS),
        other_cores=other_cores(laps),
        findings=[f"{name}: {fit.sentence()}." for name, fit in found.fits.items()],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("--dataset", default="*")
    parser.add_argument("--backbone", default="*")
    parser.add_argument("--strengths", type=int, default=45)
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    keep_freed_memory()  # as the command line does
    store = FeatureStore(given.store)
    features = store.read(matching_key(store, given.dataset, given.backbone, "*"))
    options = TurnOptions(seconds=given.seconds, rounds=given.rounds)
    report(features, strengths=given.strengths, options=options).write(given.report)


if __name__ == "__main__":
    main()
