"""Compare the probe with scikit-learn tightened to the same objective, and its choice with that of the exact optimum.

    python benchmarks/probe_optimum.py features.zarr REPORT.md --dataset caltech101 --strengths 23 --seconds 900

``penultimate bench probe`` has scikit-learn at its default tolerance. Here each strength's tolerance is tightened
tenfold, going on from where it stopped, until its objective is within 1e-4 of ours: less work than running the path at
the tolerance that the worst strength needs. Then what is chosen on val, and its test score, is compared with the
optimum that scikit-learn's ``newton-cg`` finds at a gradient of a thousandth of l2/N, the scale of a gradient at weak
l2, where its usual tolerances let it stop at once.
"""

import argparse
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import penultimate  # before numpy, so that PENULTIMATE_CPU reaches its OpenBLAS  # noqa: F401

# isort: split

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from penultimate.engine.bench.probe_peers import objective
from penultimate.engine.bench.timing.cells import Row
from penultimate.engine.bench.timing.measurement import SECONDS, compared, other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Laps, TurnOptions, take_turns
from penultimate.engine.metrics import METRICS
from penultimate.engine.probe.api import matching_key
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.runtime.malloc import keep_freed_memory
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore

# Shapes: N samples, D feature dimensions, K classes.

MATCH = 1e-4
"""Largest fraction by which scikit-learn's objective may be above ours once it is tightened."""


def fit(features: FeatureSet, rows: NDArray[np.int64], path: RegularizationPath) -> list[Any]:
    """Fit our path on some rows."""
    settings = FitSettings(num_classes=len(features.class_names), path=path)
    return fit_path(features.rows_at(rows).astype(np.float32), features.labels[rows].astype(np.int64), settings)


def tightened(
    features_ND: NDArray[np.float64], labels_N: NDArray[np.int64], wanted: Mapping[float, float]
) -> Iterator[tuple[float, bool]]:
    """Fit each strength until its objective is within ``MATCH`` of the one wanted; yield it, and whether it is."""
    model = LogisticRegression(solver="lbfgs", warm_start=True, max_iter=100_000)
    for l2, goal in wanted.items():
        tol = 1e-4
        while True:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.set_params(C=1 / l2, tol=tol).fit(features_ND, labels_N)
            found = objective(features_ND, labels_N, model.coef_, model.intercept_, l2)
            if found <= goal * (1 + MATCH) or tol < 1e-14:
                break
            tol /= 10
        yield found, found <= goal * (1 + MATCH)


def beside_tightened(
    features: FeatureSet, path: RegularizationPath, options: TurnOptions
) -> tuple[list[Laps], dict[float, bool]]:
    """Time both on train + val; return the laps, and of each strength whether scikit-learn has matched ours."""
    rows = features.rows("train", "val")
    features_ND = features.rows_at(rows).astype(np.float64)
    labels_N = features.labels[rows].astype(np.int64)
    wanted = {probe.l2: probe.report.objective for probe in fit(features, rows, path)}
    matched: dict[float, bool] = {}

    def theirs() -> Iterator[int]:
        matched.clear()
        for l2, (_, is_matched) in zip(wanted, tightened(features_ND, labels_N, wanted), strict=True):
            matched[l2] = is_matched
            yield 1

    def ours() -> Iterator[int]:
        yield len(fit(features, rows, path))

    group = f"Path of {len(path)} strengths to the same objective"
    contenders = [
        Contender(name="scikit-learn float64, tightened", group=group, run=theirs, items=len(path), share=0.9),
        Contender(name="penultimate", group=group, run=ours, items=len(path)),
    ]
    return take_turns(contenders, options), matched


def choice(features: FeatureSet, path: RegularizationPath, *, limit_seconds: float) -> tuple[list[Row], list[str]]:
    """Compare both on val at each strength until ``limit_seconds``, then the two choices on test.

    A strength at which scikit-learn warns that it has not converged is none to compare with, and is left out of the
    choice of both.
    """
    metric = METRICS[features.metric]
    train, val, test = (features.rows(split) for split in ("train", "val", "test"))
    exact = LogisticRegression(solver="newton-cg", warm_start=True, max_iter=1000)
    labels, rows, found, began = features.labels, list[Row](), [], time.perf_counter()
    for probe in fit(features, train, path):
        converged = fits(exact, probe.l2, features.rows_at(train), labels[train])
        ours_NK, exact_NK = probe.scores(features.rows_at(val)), decisions(exact, features.rows_at(val))
        values = metric(ours_NK, labels[val]), metric(exact_NK, labels[val])
        changed = int((ours_NK.argmax(1) != exact_NK.argmax(1)).sum())
        rows.append(
            {
                "l2": f"{probe.l2:.3g}",
                "converged": "yes" if converged else "no",
                "val, ours": f"{values[0]:.5f}",
                "val, the optimum": f"{values[1]:.5f}",
                "predictions apart": f"{changed} of {len(val)}",
            }
        )
        found += [(probe.l2, *values)] if converged else []
        if time.perf_counter() - began > limit_seconds:
            break
    if not found:
        return rows, ["scikit-learn converged at no strength."]
    ours_l2, exact_l2 = (max(found, key=lambda row, at=at: row[at])[0] for at in (1, 2))  # type: ignore[misc]
    both = np.union1d(train, val)
    (final,) = fit(features, both, RegularizationPath(l2=(ours_l2,)))
    fits(exact, exact_l2, features.rows_at(both), labels[both])
    ours_NK, exact_NK = final.scores(features.rows_at(test)), decisions(exact, features.rows_at(test))
    changed = int((ours_NK.argmax(1) != exact_NK.argmax(1)).sum())
    scores = metric(ours_NK, labels[test]), metric(exact_NK, labels[test])
    return rows, [
        f"Chosen l2 {ours_l2:.3g}, by the optimum {exact_l2:.3g}; test {scores[0]:.5f} and {scores[1]:.5f}, "
        f"{changed} of {len(test)} predictions apart."
    ]


def decisions(model: LogisticRegression, features_ND: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return scores (N, K) in float64; every class is in train."""
    scores_NK: NDArray[np.float64] = features_ND.astype(np.float64) @ model.coef_.T + model.intercept_
    return scores_NK


def fits(
    model: LogisticRegression, l2: float, features_ND: NDArray[np.floating[Any]], labels_N: NDArray[np.integer[Any]]
) -> bool:
    """Fit in float64; return True if it converged."""
    model.set_params(C=1 / l2, tol=min(1e-8, 1e-3 * l2 / len(labels_N)))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model.fit(features_ND.astype(np.float64), labels_N)
    return not any(issubclass(warning.category, ConvergenceWarning) for warning in warned)


def report(features: FeatureSet, path: RegularizationPath, *, seconds: float) -> Report:
    """Measure both parts, each for half of the seconds at most."""
    laps, matched = beside_tightened(features, path, TurnOptions(seconds=seconds / 2, rounds=1))
    rows, chosen = choice(features, path, limit_seconds=seconds / 2)
    return Report(
        bench="probe-optimum",
        title=f"The probe beside the optimum: {features.key.backbone} on {features.key.dataset}",
        settings={"rows": features.num_rows, "features": features.feature_dim, "strengths": len(path)},
        measurements=compared(laps, unit=SECONDS),
        other_cores=other_cores(laps),
        findings=[
            f"scikit-learn came within {MATCH:g} of our objective at {sum(matched.values())} of the {len(matched)} "
            "strengths that it did.",
            *chosen,
        ],
        tables={"Beside the exact optimum": rows},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("--dataset", default="*")
    parser.add_argument("--backbone", default="*")
    parser.add_argument("--strengths", type=int, default=45)
    parser.add_argument("--seconds", type=float, default=900.0)
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as the command line does, for both sides
    store = FeatureStore(options.store)
    features = store.read(matching_key(store, options.dataset, options.backbone, "*"))
    path = RegularizationPath.spaced(1e-6, 1e5, options.strengths)
    report(features, path, seconds=options.seconds).write(options.report)


if __name__ == "__main__":
    main()
