"""Choose a solver by name, all of the same objective: torch, cuML on a GPU, scikit-learn as the reference."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.probe.fitting.device_memory import DeviceMemory, usable_bytes
from penultimate.engine.probe.fitting.fit import fit_path, torch_device
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.fit_streamed import fit_streamed
from penultimate.engine.probe.fitting.other_solvers import cuml_path, sklearn_path
from penultimate.engine.probe.objective.streamed import RowSource
from penultimate.engine.probe.result import Probe
from penultimate.store.errors import UnknownNameError

# Shapes: N samples, D feature dimensions, K classes.


class PathSolver(Protocol):
    """A function that fits a whole path, by whatever library."""

    def __call__(
        self,
        features_ND: NDArray[np.floating[Any]],
        labels: NDArray[Any],
        settings: FitSettings,
        *,
        sample_weight_N: NDArray[np.floating[Any]] | None = None,
        start: Sequence[Probe] = (),
    ) -> list[Probe]:
        """Return a Probe for each strength, strongest first.

        ``start`` are solutions of any strengths, of these or much the same data, at which a solver may begin; the
        result does not depend on them, except within its tolerance.
        """
        ...


def torch_path(
    features_ND: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    settings: FitSettings,
    *,
    sample_weight_N: NDArray[np.floating[Any]] | None = None,
    start: Sequence[Probe] = (),
) -> list[Probe]:
    """Fit by ``fit_path``; where that does not fit in a GPU's memory, log it and stream the features from the host's.

    Raises what ``fit_path`` and ``fit_streamed`` raise.
    """
    reason = does_not_fit(features_ND.shape, labels, settings, weighted=sample_weight_N is not None)
    if reason is None:
        return fit_path(features_ND, labels, settings, sample_weight_N=sample_weight_N, start=start)
    logging.getLogger(__name__).warning("%s: features are streamed from the host's memory", reason)
    memory_bytes = int(usable_bytes(torch_device(settings.device)))
    return fit_streamed(
        RowSource.of(features_ND),
        labels,
        settings,
        memory_bytes=memory_bytes,
        sample_weight_N=sample_weight_N,
        start=start,
    )


def does_not_fit(
    shape: tuple[int, ...], labels: NDArray[Any], settings: FitSettings, *, weighted: bool = False
) -> str | None:
    """Return why a fit in memory of features (N, D) does not fit on its device, or None where it does."""
    device = torch_device(settings.device)
    if device.type != "cuda" or len(shape) != 2:
        return None
    classes = settings.num_classes if labels.ndim == 2 else len(np.unique(labels))
    memory = DeviceMemory.planned((shape[0], shape[1]), classes, loss=settings.loss, weighted=weighted, device=device)
    return None if memory.fits else memory.sentence()


SOLVERS: dict[str, PathSolver] = {"torch": torch_path, "cuml": cuml_path, "sklearn": sklearn_path}
"""Name -> solver."""


def solver_named(name: str) -> PathSolver:
    """Return the solver, or raise ``UnknownNameError`` with the nearest names."""
    if name not in SOLVERS:
        raise UnknownNameError("solver", name, SOLVERS)
    return SOLVERS[name]
