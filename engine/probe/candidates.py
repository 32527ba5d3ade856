"""Candidates: the classifiers of one method among which val chooses, fitted on stored features and scoring them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from penultimate.engine.probe.fitting.fit import FittedPath
from penultimate.engine.probe.kept_paths import KeptSolution, PathIdentity, PathKeeper
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import ProbeSettings
from penultimate.engine.probe.transform import FeatureTransform

# Shapes: N samples to score, K classes.

Scores = NDArray[np.float32]


class Candidates(Protocol):
    """The classifiers of one method: fitted on train, chosen on val, the chosen one fitted once more or kept."""

    @property
    def converged(self) -> bool:
        """Return whether every fit met its tolerance."""

    @property
    def has_temperature(self) -> bool:
        """Return whether a temperature calibrates the scores; it cannot where a class may be ruled out."""

    def fit(self, rows: NDArray[np.int64]) -> None:
        """Fit every candidate to these rows."""

    def scores(self, rows: NDArray[np.int64]) -> Iterator[Scores]:
        """Yield the scores (N, K) by each candidate, in an order in which the first of equals is to be taken."""

    def choose(self, best: int) -> Mapping[str, float]:
        """Keep this candidate alone; return the settings that it stands for."""

    def refit(self, rows: NDArray[np.int64]) -> list[Mapping[str, Any]]:
        """Fit the chosen candidate to these rows instead; return a JSON-able row for the fit, if there is one."""

    def final_scores(self, rows: NDArray[np.int64]) -> Scores:
        """Return the scores (N, K) by the chosen candidate as it was fitted last."""

    def history(self, val: Sequence[Mapping[str, float]]) -> list[Mapping[str, Any]]:
        """Return a JSON-able row for each fit to train, with what each candidate scored on val."""

    def notes(self) -> list[str]:
        """Return one sentence for each fact that a trial keeps."""


class LinearCandidates(Candidates):
    """One linear probe for each strength of a path."""

    def __init__(self, reader: FeatureReader, settings: ProbeSettings, paths: PathKeeper) -> None:
        self._reader, self._settings, self._paths = reader, settings, paths
        self._probes: Sequence[Probe] = []
        self._best = 0
        self._refitted: Probe | None = None
        self._num_train = 0

    @property
    def probe(self) -> Probe:
        """Return the probe at the chosen strength as it was fitted last."""
        return self._refitted or self._probes[self._best]

    @property
    def transform(self) -> FeatureTransform:
        """Return what is done to features before they are scored."""
        return self._reader.transform

    @property
    @override
    def converged(self) -> bool:
        return all(probe.report.certified for probe in (*self._probes, self.probe))

    @property
    @override
    def has_temperature(self) -> bool:
        return True

    @override
    def fit(self, rows: NDArray[np.int64]) -> None:
        self._num_train = len(rows)
        self._reader.fit_transform(rows)
        self._probes = self._fit(rows, ("train",), self._settings.path)

    def _fit(
        self, rows: NDArray[np.int64], splits: Sequence[str], path: RegularizationPath, *, start: Sequence[Probe] = ()
    ) -> FittedPath:
        """Fit the strengths that no kept solution solves, beginning at ``start`` or else at those kept; keep them."""
        identity = self._identity(splits)
        if identity is None:
            return self._fitted(rows, path, start)
        kept = self._paths.read(identity, self._reader.weight_shape)
        data, tol = self._reader.digest(rows), self._settings.tol
        found = {each.probe.l2: each.without_costs() for each in kept if each.solves(data, tol)}
        rest = tuple(l2 for l2 in path.l2 if l2 not in found)
        fitted = FittedPath((), num_rows=len(rows), basis=None)
        if rest:
            fitted = self._fitted(rows, RegularizationPath(l2=rest), start or [each.probe for each in kept])
            found |= {probe.l2: KeptSolution(probe=probe, data=data, tol=tol) for probe in fitted}
            self._paths.keep(identity, [found[l2] for l2 in path.l2])
        probes = [found[l2].probe for l2 in path.l2]
        if kept and not start:
            as_kept = sum(probe.report.steps == 0 for probe in probes)
            self._reader.log_about(f"{as_kept} of {len(path)} strengths needed no step from the path that was kept")
        return FittedPath(probes, num_rows=len(rows), basis=fitted.basis)

    def _fitted(self, rows: NDArray[np.int64], path: RegularizationPath, start: Sequence[Probe]) -> FittedPath:
        fitted = self._reader.fit(rows, path, start=start)
        return fitted if isinstance(fitted, FittedPath) else FittedPath(fitted, num_rows=len(rows), basis=None)

    def _identity(self, splits: Sequence[str]) -> PathIdentity | None:
        """Return the identity of the path; None where it is not kept, of few shots or without certificates."""
        settings = self._settings
        if settings.shots is not None or settings.solver != "torch":
            return None
        return PathIdentity(
            features=self._reader.features.key.fields,
            loss=self._reader.loss,
            transform=settings.transform,
            class_weight=settings.class_weight,
            splits=splits,
        )

    @override
    def scores(self, rows: NDArray[np.int64]) -> Iterator[Scores]:
        return self._reader.scores_of_each(rows, self._probes)

    @override
    def choose(self, best: int) -> Mapping[str, float]:
        self._best = best
        return {"l2": self._probes[best].l2}

    @override
    def refit(self, rows: NDArray[np.int64]) -> list[Mapping[str, Any]]:
        alone = RegularizationPath(l2=(self.probe.l2,))
        (self._refitted,) = self._fit(rows, ("train", "val"), alone, start=self._probes)
        return [_fit_row(self._refitted, "train+val", len(rows), {"val": None})]

    @override
    def final_scores(self, rows: NDArray[np.int64]) -> Scores:
        return self._reader.scores(rows, [self.probe])[0]

    @override
    def history(self, val: Sequence[Mapping[str, float]]) -> list[Mapping[str, Any]]:
        return [
            _fit_row(probe, "train", self._num_train, scored) for probe, scored in zip(self._probes, val, strict=True)
        ]

    @override
    def notes(self) -> list[str]:
        found = list(self._reader.notes)
        final, last = self.probe, len(self._probes) - 1
        if uncertified := [f"{probe.l2:.3g}" for probe in self._probes if not probe.report.certified]:
            found.append(f"not certified to the tolerance at l2 = {', '.join(uncertified)}")
        if self._refitted is not None and not final.report.certified:
            found.append(f"the refit at l2 = {final.l2:.3g} is {final.report.status}")
        if last and self._best in (0, last):
            found.append(f"the chosen l2 = {final.l2:.3g} is at the edge of the path")
        return found


def _fit_row(probe: Probe, fitted_on: str, num_rows: int, val: Mapping[str, float | None]) -> Mapping[str, Any]:
    """Return a fit as a JSON-able row; a gap of inf, where there is no bound, is None.

    ``train_loss`` is the mean loss of its ``num_rows`` samples, nats: the objective less l2/2N ||W||^2.
    """
    report = {name: None if value == math.inf else value for name, value in asdict(probe.report).items()}
    norm = float(np.linalg.norm(probe.weight_KD.astype(np.float64)))
    train_loss = probe.report.objective - probe.l2 * norm**2 / (2 * num_rows)
    row = {"l2": probe.l2, "fitted_on": fitted_on, **val, "train_loss": train_loss, "weight_norm": norm}
    return row | report
