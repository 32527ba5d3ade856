"""Time the softmax probe's compiled passes beside torch's, in turns in one process: each pass alone, and whole paths.

    python benchmarks/compiled_passes.py REPORT.md --store features.zarr --dataset caltech101 --rounds 7

Needs compiled kernels for this processor, or for the class that ``PENULTIMATE_CPU`` lowers it to (``kernels.py``).
"""

import penultimate  # noqa: F401  # before numpy, so that PENULTIMATE_CPU reaches all kernels

# isort: split
import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from penultimate.engine.bench.timing.measurement import compared, other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, TurnOptions, take_turns
from penultimate.engine.probe.api import matching_key
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.kernels.kernels import amx_kernels, float_kernels
from penultimate.engine.probe.objective import make_design
from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.losses import Softmax, Targets
from penultimate.engine.probe.objective.make_design import ProductPrecision
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.runtime.malloc import keep_freed_memory
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore

# Shapes: N samples, D feature dimensions, K classes, R columns of the rotated features.

Sides = dict[str, Callable[[], object]]
"""Functions to time, by the side that runs them."""

REPEATS = 20
"""Number of runs of a pass in a round: it takes milliseconds."""


def without_kernels() -> AbstractContextManager[object]:
    """Simulate a machine where nothing was compiled."""
    stack = ExitStack()
    for name in ("amx_kernels", "float_kernels"):
        stack.enter_context(mock.patch.object(make_design, name, return_value=None))
    return stack


SIDES: dict[str, Callable[[], AbstractContextManager[object]]] = {"torch": without_kernels, "compiled": nullcontext}


def problem(features_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> InMemoryProblem:
    """Make the problem as ``fit_path`` does for large data."""
    precision = ProductPrecision(torch.float32, make_design.fast_low_precision(torch.device("cpu")))
    design = make_design.make_design(torch.from_numpy(features_ND), sample_weight_N=None, precision=precision)
    return InMemoryProblem(design, Softmax(), Targets(torch.from_numpy(labels_N), torch.empty(0, 0)))


def passes(made: InMemoryProblem, classes: int) -> Sides:
    """Return each pass at random weights that give scores of a few units; a step is as short as Newton's are."""
    drawn_SKR = torch.randn(1, classes, made.features.matrix_NR.shape[1], generator=torch.Generator().manual_seed(0))
    weight_SKR = 3 * drawn_SKR.double() / made.features.root_mean_square
    point, step_SKR = made.start(weight_SKR), weight_SKR.float() / 100
    assert point.scores_SKN is not None
    scores_SKN = point.scores_SKN
    return {
        "scores of a short step": lambda: made.line(point, step_SKR),
        "losses and residuals": lambda: made.linear_loss.evaluate(scores_SKN),
        "losses, residuals and sums of p p'": lambda: made.at(weight_SKR, scores_SKN),
        "gradient at the repaired dual point": lambda: made.gradients(point, exact=False),
        "product with the Hessian": lambda: made.hessian_product(point, step_SKR, exact=False),
        **(
            {"first half of that product": lambda: made.hessian_halves(point, step_SKR, halfway=True)}
            if made.products_in_halves
            else {}
        ),
    }


def contenders(
    features_ND: NDArray[np.float32], labels_N: NDArray[np.int64], classes: int, path: RegularizationPath
) -> list[Contender]:
    """Return both sides of each pass, and of the path."""
    made: dict[str, Sides] = {}
    for side, context in SIDES.items():
        with context():
            made[side] = passes(problem(features_ND, labels_N), classes)
    found = [_repeated(name, side, made[side][name], REPEATS) for name in made["torch"] for side in SIDES]

    def whole(side: str) -> Callable[[], object]:
        def run() -> object:
            with SIDES[side]():
                return fit_path(features_ND, labels_N, FitSettings(num_classes=classes, path=path))

        return run

    return found + [_repeated(f"path of {len(path)} strengths", side, whole(side), 1) for side in SIDES]


def _repeated(name: str, side: str, call: Callable[[], object], repeats: int) -> Contender:
    def run() -> Iterator[int]:
        with torch.no_grad():
            for _ in range(repeats):
                call()
        yield repeats

    return Contender(name=side, group=name, run=run, items=repeats)


def report(features: FeatureSet, path: RegularizationPath, options: TurnOptions) -> Report:
    """Measure on the rows of train + val."""
    rows = features.rows("train", "val")
    rows_ND, labels_N = features.rows_at(rows).astype(np.float32), features.labels[rows].astype(np.int64)
    classes = len(features.class_names)
    laps = take_turns(contenders(rows_ND, labels_N, classes, path), options)
    return Report(
        bench="compiled-passes",
        title=f"Compiled passes of the probe beside torch's: {features.key.backbone} on {features.key.dataset}",
        settings={"rows": len(rows), "features": features.feature_dim, "classes": classes, "repeats": REPEATS},
        measurements=compared(laps, unit="runs/s"),
        other_cores=other_cores(laps),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report of one stored dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args(arguments)
    if amx_kernels() is None and float_kernels() is None:
        raise SystemExit("there are no compiled passes here: this needs an x86-64 processor, Linux and GCC 12 or later")
    keep_freed_memory()
    store = FeatureStore(options.store)
    features = store.read(matching_key(store, options.dataset, "*", "*"))
    turns = TurnOptions(seconds=options.seconds, rounds=options.rounds)
    path = RegularizationPath.spaced(1e-6, 1e5, 45)
    report(features, path, turns).write(options.report)


if __name__ == "__main__":
    main()
