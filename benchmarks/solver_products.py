"""Count the Newton steps and Hessian products that the probe's preconditioners and continuation save.

    python benchmarks/solver_products.py REPORT.md

Counts depend on the precision of the processor. Each row is a path of synthetic data: with a preconditioner and without
it, or one weak strength alone beside the whole path.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.bench.timing.cells import texts
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.preconditioners import choose
from penultimate.engine.probe.result import Probe

# Shapes: N samples, D feature dimensions, K classes.


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Synthetic classes and the path on them."""

    rows: int
    dims: int
    classes: int
    path: RegularizationPath
    loss: str = "softmax"
    decay: float = 0.5
    """Exponent of the spectrum, which falls as rank ** -decay."""

    mislabelled: float = 0.0
    """Fraction of samples with a random label."""

    def data(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return features (N, D) and labels (N,)."""
        rng = np.random.default_rng(0)
        labels_N = rng.integers(self.classes, size=self.rows)
        features_ND = rng.normal(size=(self.classes, self.dims))[labels_N] + rng.normal(size=(self.rows, self.dims))
        features_ND /= (1 + np.arange(self.dims)) ** self.decay
        wrong_N = rng.random(self.rows) < self.mislabelled
        labels_N[wrong_N] = rng.integers(self.classes, size=int(wrong_N.sum()))
        return features_ND.astype(np.float32), labels_N

    def fit(self, path: RegularizationPath | None = None) -> list[Probe]:
        """Fit the workload's path, or another."""
        settings = FitSettings(num_classes=self.classes, path=path or self.path, loss=self.loss)
        return fit_path(*self.data(), settings)


LOW_RANK = Workload(rows=4000, dims=300, classes=20, path=RegularizationPath.spaced(1e-3, 1e1, 9), mislabelled=0.03)
SUPPORT_VECTORS = Workload(
    rows=3000, dims=400, classes=20, path=RegularizationPath.spaced(1e-3, 1e2, 6), loss="squared_hinge", decay=1
)
WEAK = Workload(rows=9000, dims=120, classes=12, path=RegularizationPath.spaced(1e-5, 1.0, 33))
ALONE = Workload(rows=9000, dims=120, classes=40, path=RegularizationPath.parse("1e-5:1e5:21"))


def counts(name: str, probes: Sequence[Probe]) -> dict[str, Any]:
    """Return a row: strengths, certified, those without a step, steps and Hessian products."""
    reports = [probe.report for probe in probes]
    return {
        "path": name,
        "strengths": len(reports),
        "certified": sum(report.certified for report in reports),
        "without a step": sum(report.steps == 0 for report in reports),
        "steps": sum(report.steps for report in reports),
        "Hessian products": round(sum(report.curvature_passes for report in reports)),
    }


def rows(scale: float = 1.0) -> Iterator[dict[str, Any]]:
    """Yield the rows; ``scale`` multiplies the number of samples."""
    low_rank, support, weak, alone = (
        replace(workload, rows=int(scale * workload.rows)) for workload in (LOW_RANK, SUPPORT_VECTORS, WEAK, ALONE)
    )
    yield counts("softmax, low-rank", low_rank.fit())
    with mock.patch.multiple(choose, MIN_PRODUCTS=np.inf, MIN_DEAR_PRODUCTS=np.inf):
        yield counts("softmax, diagonal", low_rank.fit())
    yield counts("squared hinge, support vectors", support.fit())
    with mock.patch.object(choose, "LOW_SPEED", np.inf):
        yield counts("squared hinge, diagonal", support.fit())
    yield counts("softmax, weak strengths close together", weak.fit())
    for loss in ("softmax", "logistic", "squared_hinge"):
        workload = replace(alone, loss=loss)
        yield counts(f"{loss}, whole path", workload.fit())
        yield counts(f"{loss}, its weakest strength alone", workload.fit(RegularizationPath(l2=workload.path.l2[-1:])))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of samples")
    given = parser.parse_args(arguments)
    found = list(rows(given.scale))
    Report(
        bench="solver-products",
        title="Newton steps and Hessian products that preconditioners and continuation save",
        settings={"factor on the number of samples": given.scale},
        tables={"Steps and products": texts(found)},
        results=found,
    ).write(given.report)


if __name__ == "__main__":
    main()
