"""FeatureReader: fits and scores on rows of a stored FeatureSet, in memory or streamed, whichever the limit allows."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from penultimate.engine.probe.fitting.device_memory import DeviceMemory, usable_bytes
from penultimate.engine.probe.fitting.fit import torch_device
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.fit_streamed import fit_streamed, least_memory_bytes
from penultimate.engine.probe.fitting.solvers import solver_named
from penultimate.engine.probe.objective.streamed import RowSource
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.settings import Log, ProbeResources, ProbeSettings
from penultimate.engine.probe.transform import AS_STORED, FeatureTransform
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic
from penultimate.engine.runtime.free_memory import safe_memory_bytes
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.format.digest import digest_of
from penultimate.store.format.layout import values_checksum
from penultimate.store.not_finite import check_finite

# Shapes: N samples, B of them in a batch, D feature dimensions, K classes.

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
        self.transform = AS_STORED
        """Transformation of all that is read, as ``fit_transform`` fitted it last."""

        self.notes: list[str] = []
        """Decisions on how features were read that a trial keeps, one sentence each."""

    def fit_transform(self, rows: NDArray[np.int64]) -> None:
        """Fit the transformation of the settings on these rows; all that is read from then on is transformed by it."""
        self.transform = FeatureTransform.fitted(self.settings.transform, lambda: finite_batches(self.features, rows))

    def fit(self, rows: NDArray[np.int64], path: RegularizationPath, *, start: Sequence[Probe] = ()) -> list[Probe]:
        """Return a Probe for each strength, fitted to these rows, transformed; ``torch`` begins at ``start``.

        They are streamed where the fit takes more than the memory allowed and, by the solver ``torch``, where it does
        not fit in a GPU's memory, which is logged before it begins.
        """
        labels, solver = self.features.labels[rows], self.settings.solver
        weight_N = self._weights(labels)
        settings = FitSettings(
            num_classes=len(self.features.class_names),
            path=path,
            loss=self.loss,
            tol=self.settings.tol,
            device=self.resources.device,
        )
        memory_bytes = self._streaming_memory(labels, settings, weighted=weight_N is not None)
        if memory_bytes is None:
            return solver_named(solver)(self._matrix(rows), labels, settings, sample_weight_N=weight_N, start=start)
        source = RowSource(
            num_rows=len(rows),
            feature_dim=self.features.feature_dim,
            batches=lambda count: (self.transform.apply(batch) for _, batch in self.features.batches(count, rows=rows)),
        )
        return fit_streamed(source, labels, settings, memory_bytes=memory_bytes, sample_weight_N=weight_N, start=start)

    def digest(self, rows: NDArray[np.int64]) -> str:
        """Return a digest of the numbers that a fit to these rows depends on: features as read, labels and weights."""
        features, labels = xxhash.xxh3_128(), self.features.labels[rows]
        for batch_BD in self._batches(rows):
            features.update(np.ascontiguousarray(batch_BD).data)
        weight_N = self._weights(labels)
        weights = None if weight_N is None else values_checksum(weight_N)
        return digest_of([features.hexdigest(), values_checksum(labels), weights])

    def _weights(self, labels: NDArray[Any]) -> NDArray[np.float64] | None:
        """Return the weight of each sample; None where all count alike, as in classes of one size they do anyway."""
        if self.settings.class_weight is None:
            return None
        weight_N = balanced_weights(labels)
        return None if (weight_N == 1).all() else weight_N

    def _streaming_memory(self, labels: NDArray[Any], settings: FitSettings, *, weighted: bool) -> int | None:
        """Return the memory with which the features of these labels are to be streamed; None to hold them."""
        shape, device = (len(labels), self.features.feature_dim), torch_device(self.resources.device)
        classes = settings.num_classes if labels.ndim == 2 else len(np.unique(labels))
        plan = DeviceMemory.planned(shape, classes, loss=settings.loss, weighted=weighted, device=device)
        matrix_bytes = 4 * math.prod(shape)
        needed = matrix_bytes + (0 if device.type == "cuda" else plan.needed_bytes)
        told = self.resources.memory_bytes
        limit = safe_memory_bytes() if told is None else told
        if needed > limit and (self.settings.solver == "torch" or told is not None):
            if self.settings.solver != "torch":
                raise InputError(
                    f"the {self.settings.solver} solver holds all features in memory, about {_size(needed)}; use "
                    "solver='torch' or more memory"
                )
            allowed = f"{_size(limit)} is half of what is free" if told is None else f"{_size(limit)} is allowed"
            self._note(f"the fit takes about {_size(needed)} of memory, and {allowed}: features are streamed")
            if device.type == "cuda":
                return int(usable_bytes(device)) if told is None else told
            return limit if told is not None else max(limit, least_memory_bytes(classes, shape[1]))
        if self.settings.solver == "torch" and not plan.fits:
            self._note(f"{plan.sentence()}: features are streamed")
            return int(usable_bytes(device))
        return None

    @property
    def weight_shape(self) -> tuple[int, int]:
        """Return the shape of a probe's weights, (K, D)."""
        return len(self.features.class_names), self.features.feature_dim

    def scores_of_each(self, rows: NDArray[np.int64], probes: Sequence[Probe]) -> Iterator[NDArray[np.float32]]:
        """Yield ``scores`` by each probe in turn; features are read once for as many as half of the memory holds."""
        limit = safe_memory_bytes() if self.resources.memory_bytes is None else self.resources.memory_bytes
        together = max(1, int(limit / 2 // (4 * len(rows) * self.weight_shape[0])))
        for first in range(0, len(probes), together):
            yield from self.scores(rows, probes[first : first + together])

    def scores(self, rows: NDArray[np.int64], probes: Sequence[Probe]) -> list[NDArray[np.float32]]:
        """Return decision values (N, K) of these rows by each probe; features are read in batches, and transformed.

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
        batches = [score(batch_BD) for batch_BD in self._batches(rows)]
        return [np.concatenate(scores) for scores in zip(*batches, strict=True)]

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        return map(self.transform.apply, finite_batches(self.features, rows))

    def _note(self, line: str) -> None:
        """Log a line, and keep it once."""
        if line not in self.notes:
            self.notes.append(line)
            self.log_about(line)

    def log_about(self, line: str) -> None:
        """Log a line about these features."""
        self.log(f"{self.features.key.dataset}, {self.features.key.label}: {line}")

    def _matrix(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        matrix_ND = np.empty((len(rows), self.features.feature_dim), np.float32)
        done = 0
        for batch_BD in self._batches(rows):
            matrix_ND[done : done + len(batch_BD)] = batch_BD
            done += len(batch_BD)
        return matrix_ND


def balanced_weights(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return a weight for each sample, (N,), with which all classes that have samples count alike; the mean is 1.

    It is scikit-learn's ``balanced``. Raises ``InputError`` where samples have several labels.
    """
    if labels.ndim == 2:
        raise InputError("class_weight='balanced' needs one class a sample, got a label matrix; leave it away")
    count_K = np.bincount(labels)
    weight_N: NDArray[np.float64] = len(labels) / (np.count_nonzero(count_K) * count_K[labels])
    return weight_N


def _size(num_bytes: float) -> str:
    """Return a memory size in the units of ``--memory``, powers of 1,024."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.0f} MiB"


def finite_batches(features: FeatureSet, rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    """Yield the features of ``rows``, which increase, in batches (B, D); InputError names samples that are not finite.

    B is at most ``BATCH_ROWS``.
    """
    for rows_B, batch_BD in features.batches(BATCH_ROWS, rows=rows):
        check_finite(features, rows_B, batch_BD)
        yield batch_BD
