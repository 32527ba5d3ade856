"""Time whole paths beside scikit-learn's, in turns in one process, on the rows of train + val of one stored dataset.

    python benchmarks/probe_processors.py REPORT.md --store features.zarr --dataset caltech101 --rounds 3
    PENULTIMATE_CPU=avx2 python benchmarks/probe_processors.py REPORT.md --store features.zarr --dataset caltech101

The probe runs with its compiled kernels and, as where nothing was compiled, on torch alone. scikit-learn runs at its
default tolerance from strength to strength, in float64 and float32; one that would take longer than its share of
``--seconds`` is stopped after the strength that passes it, and its first strength alone warms it up.
``newton-cholesky`` runs where its Hessian fits in memory, unless ``--no-cholesky`` leaves it out: on CIFAR-10 its first
strength alone takes minutes.
The probe's own spread is measured once more, in ``--rounds`` without the others.
"""

import os

os.environ.pop("OPENBLAS_CORETYPE", None)  # some machines preset it, which slows scikit-learn
import penultimate  # noqa: F401  # before numpy, so that PENULTIMATE_CPU reaches scikit-learn's BLAS

# isort: split
import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.bench.probe_peers import Peer, blas_in_use, scikit_learns
from penultimate.engine.bench.timing.measurement import SECONDS, compared, other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, TurnOptions, take_turns
from penultimate.engine.probe.api import matching_key
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.objective import make_design
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe
from penultimate.engine.runtime.malloc import keep_freed_memory
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore

# Shapes: N samples, D feature dimensions, K classes.

OURS, ON_TORCH, CHOLESKY = "penultimate", "penultimate, nothing compiled", "scikit-learn newton-cholesky float64"

SHARES = {"scikit-learn float64": 0.5, "scikit-learn float32": 0.35, CHOLESKY: 0.1}
"""Share of a round's seconds that a peer may take."""


def nothing_compiled() -> AbstractContextManager[object]:
    """Simulate a machine where nothing was compiled."""
    stack = ExitStack()
    for name in ("amx_kernels", "float_kernels"):
        stack.enter_context(mock.patch.object(make_design, name, return_value=None))
    return stack


SIDES: dict[str, Callable[[], AbstractContextManager[object]]] = {ON_TORCH: nothing_compiled, OURS: nullcontext}


class Comparison:
    """The contenders on one set of rows, and what they found in their last turns."""

    def __init__(self, features_ND: NDArray[np.float32], labels_N: NDArray[np.int64], path: RegularizationPath) -> None:
        self.features_ND, self.labels_N, self.path = features_ND, labels_N, path
        self.probes: dict[str, list[Probe]] = {}
        self.peers = scikit_learns(features_ND, labels_N)

    @property
    def classes(self) -> int:
        """Return the number of classes, K."""
        return len(np.unique(self.labels_N))

    def add_newton_cholesky(self, memory_bytes: int) -> str:
        """Add newton-cholesky if its Hessian fits; return a sentence that says so."""
        parameters = self.classes * (self.features_ND.shape[1] + 1)
        needed = 8 * parameters**2
        if not memory_bytes:
            return f"{CHOLESKY} was not asked for."
        if needed > memory_bytes:
            return f"{CHOLESKY} is left out: its Hessian of {parameters:,} parameters takes {needed / 2**30:,.0f} GiB."
        rows_ND = self.features_ND.astype(np.float64)
        self.peers.append(Peer(name=CHOLESKY, make=newton_cholesky, features_ND=rows_ND, labels_N=self.labels_N))
        return f"{CHOLESKY} solves for a Hessian of {parameters:,} parameters."

    def contenders(self) -> list[Contender]:
        """Return all contenders, the probe's own last."""
        group, strengths = f"Path of {len(self.path)} strengths, beside scikit-learn's", len(self.path)
        peers = [
            Contender(
                name=peer.name,
                group=group,
                run=partial(peer.fit, self.path.l2),
                warm_up=partial(peer.fit, self.path.l2[:1]),
                items=strengths,
                share=SHARES[peer.name],
            )
            for peer in self.peers
        ]
        return peers + self.own_contenders(group)

    def own_contenders(self, group: str) -> list[Contender]:
        """Return the probe, with and without compiled kernels."""
        return [Contender(name=side, group=group, run=self._side(side), items=len(self.path)) for side in SIDES]

    def _side(self, side: str) -> Callable[[], Iterator[int]]:
        def run() -> Iterator[int]:
            with SIDES[side]():
                settings = FitSettings(num_classes=self.classes, path=self.path)
                self.probes[side] = fit_path(self.features_ND, self.labels_N, settings)
            yield len(self.path)

        return run

    def findings(self) -> list[str]:
        """Return what the last turns found."""
        found = [blas_in_use()]
        for side, probes in self.probes.items():
            certified = sum(probe.report.certified for probe in probes)
            gap = max(probe.report.gap / probe.report.objective for probe in probes)
            products = sum(2 * (p.report.passes + p.report.curvature_passes) for p in probes)
            found.append(
                f"{side}: {certified} of {len(probes)} certified; the largest gap is {gap:.1e} of the objective "
                f"({probes[0].report.precision}); {products:.0f} products with the features."
            )
        ours = {probe.l2: probe.report.objective for probe in self.probes[OURS]}
        for peer in self.peers:
            over = [at() / ours[l2] - 1 for l2, at in peer.objectives.items()]
            found.append(
                f"{peer.name} did {len(over)} of {len(ours)}; its objective is from {min(over):.1e} to {max(over):.1e} "
                "of ours above ours."
            )
        return found


def newton_cholesky() -> Any:
    """Make scikit-learn's Newton solver with its default settings."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(solver="newton-cholesky", warm_start=True)


def report(features: FeatureSet, path: RegularizationPath, turns: TurnOptions, *, memory_bytes: int) -> Report:
    """Measure on the rows of train + val."""
    rows = features.rows("train", "val")
    rows_ND, labels_N = features.rows_at(rows).astype(np.float32), features.labels[rows].astype(np.int64)
    comparison = Comparison(rows_ND, labels_N, path)
    cholesky = comparison.add_newton_cholesky(memory_bytes)
    laps = take_turns(comparison.contenders(), turns)
    own = comparison.own_contenders(f"Path of {len(path)} strengths, again")
    laps += take_turns(own, turns)
    return Report(
        bench="probe-processors",
        title=f"Paths beside scikit-learn's: {features.key.backbone} on {features.key.dataset}",
        settings={"rows": len(rows), "features": features.feature_dim, "classes": comparison.classes},
        measurements=compared(laps, unit=SECONDS),
        other_cores=other_cores(laps),
        findings=[*comparison.findings(), cholesky],
        not_measured=["scikit-learn's warm-up is its first strength alone."],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report of one stored dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=230.0)
    parser.add_argument("--no-cholesky", action="store_true", help="leave newton-cholesky out")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    store = FeatureStore(options.store)
    features = store.read(matching_key(store, options.dataset, "*", "*"))
    turns = TurnOptions(seconds=options.seconds, rounds=options.rounds)
    memory_bytes = 0 if options.no_cholesky else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 2
    made = report(features, RegularizationPath.paper(), turns, memory_bytes=memory_bytes)
    made.write(options.report)


if __name__ == "__main__":
    main()
