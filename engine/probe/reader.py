"""FeatureReader: fits and scores on rows of a stored FeatureSet, in memory or streamed, whichever the limit allows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.fit_streamed import fit_streamed
from penultimate.engine.probe.fitting.solvers import solver_named
from penultimate.engine.probe.objective.streamed import RowSource
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import ProbeResources, ProbeSettings
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.not_finite import not_finite_advice

# Shapes: N samples, B of them in a batch, D feature dimensions, K classes.

COPIES = 4
"""Number of times an in-memory fit holds the features.

As they are, rotated, those again as one or two bfloat16, and workspace.
"""

BATCH_ROWS = 4096


class FeatureReader:
    """The features of one key, read for fitting and for scoring."""

    def __init__(self, features: FeatureSet, settings: ProbeSettings, *, loss: str, resources: ProbeResources) -> None:
        self.features, self.settings, self.loss, self.resources = features, settings, loss, resources

    def fit(self, rows: NDArray[np.int64], path: RegularizationPath, *, start: Probe | None = None) -> list[Probe]:
        """Return a Probe for each strength, fitted to these rows; where they are streamed, from ``start``."""
        labels, solver = self.features.labels[rows], self.settings.solver
        settings = FitSettings(
            num_classes=len(self.features.class_names),
            path=path,
            loss=self.loss,
            tol=self.settings.tol,
            device=self.resources.device,
        )
        memory_bytes = self.resources.memory_bytes
        if memory_bytes is None or COPIES * 4 * len(rows) * self.features.feature_dim <= memory_bytes:
            return solver_named(solver)(self._matrix(rows), labels, settings)
        if solver != "torch":
            raise InputError(f"the {solver} solver holds all features in memory; use solver='torch' or more memory")
        source = RowSource(
            num_rows=len(rows),
            feature_dim=self.features.feature_dim,
            batches=lambda count: (batch for _, batch in self.features.batches(count, rows=rows)),
        )
        return fit_streamed(source, labels, settings, memory_bytes=memory_bytes, start=start)

    def scores(self, rows: NDArray[np.int64], probes: Sequence[Probe]) -> list[NDArray[np.float32]]:
        """Return decision values (N, K) of these rows by each probe; features are read in batches."""
        pieces: list[list[NDArray[np.float32]]] = [[] for _ in probes]
        for rows_B, batch_BD in self.features.batches(BATCH_ROWS, rows=rows):
            self._check_finite(rows_B, batch_BD)
            for piece, probe in zip(pieces, probes, strict=True):
                piece.append(probe.scores(batch_BD))
        return [np.concatenate(piece) for piece in pieces]

    def _matrix(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        matrix_ND = np.empty((len(rows), self.features.feature_dim), np.float32)
        done = 0
        for rows_B, batch_BD in self.features.batches(BATCH_ROWS, rows=rows):
            self._check_finite(rows_B, batch_BD)
            matrix_ND[done : done + len(batch_BD)] = batch_BD
            done += len(batch_BD)
        return matrix_ND

    def _check_finite(self, rows_B: NDArray[np.int64], batch_BD: NDArray[Any]) -> None:
        finite_B = np.isfinite(batch_BD).all(1)
        if not finite_B.all():
            bad = self.features.ids[rows_B[~finite_B]]
            named = ", ".join(bad[:5].tolist()) + (", ..." if len(bad) > 5 else "")
            raise InputError(
                f"features of {len(bad)} samples are NaN or infinite: {named}; {not_finite_advice(self.features.key)}"
            )
