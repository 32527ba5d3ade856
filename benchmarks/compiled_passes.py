"""Time the softmax probe's compiled passes beside torch's, in turns in one process: each pass alone, and whole paths.

    python benchmarks/compiled_passes.py --store features.zarr --dataset caltech101 --rounds 7

Prints medians, lowest and highest. Needs a processor with AMX and the compiled kernels (``kernels.py``).
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from probe_path import ours, train_features

from penultimate.engine.probe.kernels.kernels import library
from penultimate.engine.probe.objective import make_design
from penultimate.engine.probe.objective.in_memory import InMemoryProblem
from penultimate.engine.probe.objective.losses import Softmax, Targets
from penultimate.engine.probe.objective.make_design import ProductPrecision
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.runtime.malloc import keep_freed_memory

# Shapes: N samples, D feature dimensions, K classes, R columns of the rotated features.

Sides = dict[str, Callable[[], object]]
"""Functions to time, by the side that runs them."""

REPEATS = 20
"""Number of runs of a pass in a round: it takes milliseconds."""


def without_kernels() -> AbstractContextManager[object]:
    """Simulate a machine where nothing was compiled."""
    return mock.patch.object(make_design, "library", return_value=None)


SIDES: dict[str, Callable[[], AbstractContextManager[object]]] = {"torch": without_kernels, "compiled": nullcontext}


def problem(features_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> InMemoryProblem:
    """Make the problem as ``fit_path`` does for large data."""
    precision = ProductPrecision(torch.float32, torch.bfloat16)
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
    }


def timed(run: Callable[[], object], repeats: int) -> float:
    """Return milliseconds per run."""
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return 1e3 * (time.perf_counter() - began) / repeats


def in_turns(sides: Sides, rounds: int, repeats: int) -> str:
    """Return medians, ranges and the ratio, after one run of each that does not count."""
    for run in sides.values():
        run()
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, run in sides.items():
            times[side].append(timed(run, repeats))
    medians = {side: statistics.median(values) for side, values in times.items()}
    cells = [f"{medians[side]:.2f} ({min(values):.2f} - {max(values):.2f})" for side, values in times.items()]
    return " | ".join([*cells, f"{medians['torch'] / medians['compiled']:.2f}"])


def lines(
    features_ND: NDArray[np.float32], labels_N: NDArray[np.int64], classes: int, path: RegularizationPath, rounds: int
) -> Iterator[str]:
    """Yield a row of a Markdown table for each pass, and one for the path."""
    yield f"| milliseconds | {' | '.join(SIDES)} | ratio |\n|---|---|---|---:|"
    found: dict[str, Sides] = {}
    for side, context in SIDES.items():
        with context():
            found[side] = passes(problem(features_ND, labels_N), classes)
    with torch.no_grad():
        for name in found["torch"]:
            yield f"| {name} | {in_turns({side: found[side][name] for side in SIDES}, rounds, REPEATS)} |"

    def whole(side: str) -> Callable[[], object]:
        def run() -> object:
            with SIDES[side]():
                return ours(features_ND, labels_N, classes, path)

        return run

    yield f"| path of {len(path)} strengths | {in_turns({side: whole(side) for side in SIDES}, rounds, 1)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables for one stored dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    if library() is None:
        raise SystemExit(
            "there are no compiled passes here: this needs a processor with AMX, Linux and GCC 12 or later"
        )
    keep_freed_memory()
    path = RegularizationPath.spaced(1e-6, 1e5, 45)
    for line in lines(*train_features(options.store, options.dataset), path, options.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
