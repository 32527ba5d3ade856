"""FeatureReader: fits and scores on rows of a stored FeatureSet, in memory or streamed, whichever the limit allows."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penultimate.engine.probe.fitting.device_memory import usable_bytes
from penultimate.engine.probe.fitting.fit import torch_device
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.fit_streamed import fit_streamed
from penultimate.engine.probe.fitting.solvers import does_not_fit, solver_named
from penultimate.engine.probe.objective.streamed import RowSource
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import Log, ProbeResources, ProbeSettings
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.not_finite import check_finite

# Shapes: N samples, B of them in a batch, D feature dimensions, K classes.

COPIES = 4
"""Number of times an in-memory fit holds the features.

As they are, rotated, those again as one or two bfloat16, and workspace.
"""

BATCH_ROWS = 4096


class FeatureReader:
    """The features of one key, read for fitting and for scoring."""

    def __init__(
        self,
        features: FeatureSet,
        settings: ProbeSettings,
        *,
        loss: str,
        resources: ProbeResources,
        log: Log = lambda line: None,
    ) -> None:
        self.features, self.settings, self.loss, self.resources, self.log = features, settings, loss, resources, log
        self.notes: list[str] = []
        """Decisions on how features were read that a trial keeps, one sentence each."""

    def fit(self, rows: NDArray[np.int64], path: RegularizationPath, *, start: Probe | None = None) -> list[Probe]:
        """Return a Probe for each strength, fitted to these rows; where they are streamed, from ``start``.

        They are streamed where they take more than the memory allowed and, by the solver ``torch``, where the fit does
        not fit in a GPU's memory, which is logged before it begins.
        """
        labels, solver = self.features.labels[rows], self.settings.solver
        settings = FitSettings(
            num_classes=len(self.features.class_names),
            path=path,
            loss=self.loss,
            tol=self.settings.tol,
            device=self.resources.device,
        )
        shape = len(rows), self.features.feature_dim
        memory_bytes = self.resources.memory_bytes
        if memory_bytes is not None and COPIES * 4 * math.prod(shape) > memory_bytes:
            if solver != "torch":
                raise InputError(f"the {solver} solver holds all features in memory; use solver='torch' or more memory")
        elif solver == "torch" and (reason := does_not_fit(shape, labels, settings)) is not None:
            memory_bytes = int(usable_bytes(torch_device(self.resources.device)))
            self._note(f"{reason}: features are streamed")
        else:
            return solver_named(solver)(self._matrix(rows), labels, settings)
        source = RowSource(
            num_rows=len(rows),
            feature_dim=self.features.feature_dim,
            batches=lambda count: (batch for _, batch in self.features.batches(count, rows=rows)),
        )
        return fit_streamed(source, labels, settings, memory_bytes=memory_bytes, start=start)

    def scores(self, rows: NDArray[np.int64], probes: Sequence[Probe]) -> list[NDArray[np.float32]]:
        """Return decision values (N, K) of these rows by each probe; features are read in batches.

        They are multiplied on the device, for all probes at once.
        """
        device = torch_device(self.resources.device)
        if device.type == "cpu":
            return self._scored(rows, lambda batch_BD: [probe.scores(batch_BD) for probe in probes])
        weight = torch.from_numpy(np.concatenate([probe.weight_KD for probe in probes])).to(device)
        bias = torch.from_numpy(np.concatenate([probe.bias_K for probe in probes])).to(device)

        def score(batch_BD: NDArray[Any]) -> list[NDArray[np.float32]]:
            batch = torch.from_numpy(batch_BD.astype(np.float32)).pin_memory().to(device, non_blocking=True)
            return np.split(torch.addmm(bias, batch, weight.T).cpu().numpy(), len(probes), axis=1)

        with torch.no_grad(), float32_arithmetic():
            return self._scored(rows, score)

    def _scored(
        self, rows: NDArray[np.int64], score: Callable[[NDArray[Any]], list[NDArray[np.float32]]]
    ) -> list[NDArray[np.float32]]:
        batches = [score(batch_BD) for batch_BD in finite_batches(self.features, rows)]
        return [np.concatenate(scores) for scores in zip(*batches, strict=True)]

    def _note(self, line: str) -> None:
        """Log a line, and keep it once."""
        if line not in self.notes:
            self.notes.append(line)
            self.log(f"{self.features.key.dataset}, {self.features.key.label}: {line}")

    def _matrix(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        matrix_ND = np.empty((len(rows), self.features.feature_dim), np.float32)
        done = 0
        for batch_BD in finite_batches(self.features, rows):
            matrix_ND[done : done + len(batch_BD)] = batch_BD
            done += len(batch_BD)
        return matrix_ND


def finite_batches(features: FeatureSet, rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    """Yield the features of ``rows``, which increase, in batches (B, D); InputError names samples that are not finite.

    B is at most ``BATCH_ROWS``.
    """
    for rows_B, batch_BD in features.batches(BATCH_ROWS, rows=rows):
        check_finite(features, rows_B, batch_BD)
        yield batch_BD
