"""Compare the probe's whole path with scikit-learn's, on the same arrays and cores, one process after the other.

    python benchmarks/probe_path.py ours    --store features.zarr --dataset caltech101 --out probe.jsonl --rounds 3
    python benchmarks/probe_path.py alone   --store features.zarr --dataset caltech101 --out probe.jsonl --strengths 12
    python benchmarks/probe_path.py default --store features.zarr --dataset caltech101 --out probe.jsonl
    python benchmarks/probe_path.py default32 --store features.zarr --dataset caltech101 --out probe.jsonl
    python benchmarks/probe_path.py tight   --store features.zarr --dataset caltech101 --out probe.jsonl --limit 900
    python benchmarks/probe_path.py choice  --store features.zarr --dataset caltech101 --out probe.jsonl --strengths 23
    python benchmarks/probe_path.py ours --store features.zarr --dataset caltech101 --out svm.jsonl --loss squared_hinge
    python benchmarks/probe_path.py svc     --store features.zarr --dataset caltech101 --out svm.jsonl --limit 300
    python benchmarks/probe_path.py scaling --out probe.jsonl
    python benchmarks/probe_path.py table   --out probe.jsonl

Each appends records to ``--out``, so that a long comparison can be run in pieces; ``table`` prints what they say.
``alone`` fits each strength by itself, as the refit of a probe does. ``default`` is ``LogisticRegression(
solver="lbfgs", warm_start=True, max_iter=1000)`` in float64, strongest first; ``default32`` the same in float32, in
which scikit-learn stays since 1.9. ``tight`` tightens each strength's
tolerance tenfold, going on from where it stopped, until its objective is within 1e-4 of ours: less work than running
the path at the tolerance that the worst strength needs. ``choice`` compares what is chosen on val, and its test score,
with the optimum that scikit-learn's ``newton-cg`` finds at a gradient of a thousandth of l2/N, the scale of a gradient
at weak l2, where its usual tolerances let it stop at once. ``svc`` is ``LinearSVC``, as it comes, a strength at a time.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import penultimate  # before numpy, so that PENULTIMATE_CPU reaches its OpenBLAS  # noqa: F401

# isort: split

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from penultimate.engine.metrics import METRICS
from penultimate.engine.probe.fitting.fit import fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.other_solvers import softmax_objective
from penultimate.engine.probe.objective.losses import LOSSES
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.runtime.malloc import keep_freed_memory
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.provenance import library_versions, source_commit, utc_now

# Shapes: N samples, D feature dimensions, K classes.

Record = dict[str, Any]
MATCH = 1e-4
"""``tight`` stops when its objective is above ours by at most this fraction."""


CHOICES = ("ours", "alone", "default", "default32", "tight", "svc", "choice", "scaling", "table")


def train_features(store: Path, dataset: str) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Return the rows of a final fit, train + val, of the only key of ``dataset``; or X.npy and y.npy of a folder."""
    if (store / "X.npy").exists():
        labels_N = np.load(store / "y.npy").astype(np.int64)
        return np.load(store / "X.npy").astype(np.float32), labels_N, int(labels_N.max()) + 1
    opened = FeatureStore(store)
    (key,) = [key for key in opened.keys() if key.dataset == dataset]  # noqa: SIM118
    features = opened.read(key)
    rows = features.rows("train", "val")
    return features.features[rows].astype(np.float32), features.labels[rows].astype(np.int64), len(features.class_names)


def ours(
    features_ND: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    classes: int,
    path: RegularizationPath,
    **options: Any,
) -> tuple[float, list[Probe]]:
    """Fit one whole path with penultimate; return seconds and probes."""
    began = time.perf_counter()
    probes = fit_path(features_ND, labels_N, FitSettings(num_classes=classes, path=path, **options))
    return time.perf_counter() - began, probes


def objective(
    features_ND: NDArray[Any], labels_N: NDArray[np.int64], weight: NDArray[Any], bias: NDArray[Any], l2: float
) -> float:
    """Return the softmax objective of any solution, float64."""
    weight_N = torch.full((len(labels_N),), 1 / len(labels_N), dtype=torch.float64)
    return softmax_objective(
        torch.from_numpy(features_ND),
        torch.from_numpy(labels_N),
        weight_N,
        torch.from_numpy(weight),
        torch.from_numpy(bias),
        l2 / len(labels_N),
    )[0]


def sklearn_default(
    features_ND: NDArray[np.floating[Any]], labels_N: NDArray[np.int64], path: RegularizationPath
) -> Iterator[Record]:
    """Yield one record for each strength, computed in the features' dtype: l2, seconds, iterations, objective."""
    model = LogisticRegression(solver="lbfgs", warm_start=True, max_iter=1000)
    for l2 in path.l2:
        seconds = fit(model.set_params(C=1 / l2), features_ND, labels_N)
        found = objective(features_ND, labels_N, model.coef_, model.intercept_, l2)
        yield {"l2": l2, "seconds": seconds, "iterations": int(model.n_iter_[0]), "objective": found}


def sklearn_tight(
    features_ND: NDArray[np.float64],
    labels_N: NDArray[np.int64],
    path: RegularizationPath,
    wanted: Sequence[float],
    *,
    limit_seconds: float,
) -> Iterator[Record]:
    """Tighten scikit-learn until each objective is within ``MATCH`` of ``wanted``; stops at the limit."""
    model = LogisticRegression(solver="lbfgs", warm_start=True, max_iter=100_000)
    spent = 0.0
    for l2, goal in zip(path.l2, wanted, strict=True):
        seconds, tol = 0.0, 1e-4
        while True:
            seconds += fit(model.set_params(C=1 / l2, tol=tol), features_ND, labels_N)
            found = objective(features_ND, labels_N, model.coef_, model.intercept_, l2)
            matched = found <= goal * (1 + MATCH)
            if matched or tol < 1e-14 or spent + seconds > limit_seconds:
                break
            tol /= 10
        spent += seconds
        yield {"l2": l2, "seconds": seconds, "tol": tol, "objective": found, "matched": matched}
        if spent > limit_seconds:
            return


def linear_svc(
    features_ND: NDArray[np.float64], labels_N: NDArray[np.int64], path: RegularizationPath, *, limit_seconds: float
) -> Iterator[Record]:
    """Yield one record for each strength until the limit. It has no warm start, and regularises its bias a little."""
    sign_NK = np.where(labels_N[:, None] == np.arange(labels_N.max() + 1), 1, -1)
    spent = 0.0
    for l2 in path.l2:
        model = LinearSVC(C=1 / l2)
        seconds = fit(model, features_ND, labels_N)
        slack_NK = np.maximum(0, 1 - sign_NK * (features_ND @ model.coef_.T + model.intercept_))
        found = ((slack_NK**2).sum() + l2 / 2 * (model.coef_**2).sum()) / len(labels_N)
        yield {"l2": l2, "seconds": seconds, "iterations": int(model.n_iter_), "objective": float(found)}
        spent += seconds
        if spent > limit_seconds:
            return


def choice(features: FeatureSet, path: RegularizationPath, *, limit_seconds: float) -> Iterator[Record]:
    """Yield a record for each strength, train to val, until ``limit_seconds``; then one of the choice and test.

    A strength at which scikit-learn warns that it has not converged is none to compare with, and is left out of the
    choice of both.
    """
    metric = METRICS[features.metric]
    train, val, test = (features.rows(split) for split in ("train", "val", "test"))
    exact = LogisticRegression(solver="newton-cg", warm_start=True, max_iter=1000)
    classes, labels, found, spent = len(features.class_names), features.labels, [], 0.0
    probes = fit_path(features.features[train], labels[train], FitSettings(num_classes=classes, path=path))
    for probe in probes:
        began = time.perf_counter()
        converged = fits(exact, probe.l2, features.features[train], labels[train])
        spent += time.perf_counter() - began
        ours_NK, exact_NK = probe.scores(features.features[val]), decisions(exact, features.features[val])
        values = metric(ours_NK, labels[val]), metric(exact_NK, labels[val])
        changed = int((ours_NK.argmax(1) != exact_NK.argmax(1)).sum())
        yield {"l2": probe.l2, "converged": converged, "val": values, "changed": changed, "seconds": spent}
        if converged:
            found.append((probe.l2, *values))
        if spent > limit_seconds:
            break
    (ours_l2, _, _), (exact_l2, _, _) = max(found, key=lambda row: row[1]), max(found, key=lambda row: row[2])
    both = np.union1d(train, val)
    (final,) = fit_path(
        features.features[both], labels[both], FitSettings(num_classes=classes, path=RegularizationPath(l2=(ours_l2,)))
    )
    converged = fits(exact, exact_l2, features.features[both], labels[both])
    ours_NK, exact_NK = final.scores(features.features[test]), decisions(exact, features.features[test])
    yield {
        "chosen": (ours_l2, exact_l2),
        "converged": converged,
        "test": (metric(ours_NK, labels[test]), metric(exact_NK, labels[test])),
        "changed": int((ours_NK.argmax(1) != exact_NK.argmax(1)).sum()),
        "num_test": len(test),
    }


def decisions(model: LogisticRegression, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return scores (N, K) in float64; every class is in train."""
    scores_NK: NDArray[np.float64] = features_ND.astype(np.float64) @ model.coef_.T + model.intercept_
    return scores_NK


def fits(
    model: LogisticRegression, l2: float, features_ND: NDArray[np.float32], labels_N: NDArray[np.integer[Any]]
) -> bool:
    """Fit in float64; return True if it converged."""
    model.set_params(C=1 / l2, tol=min(1e-8, 1e-3 * l2 / len(labels_N)))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model.fit(features_ND.astype(np.float64), labels_N)
    return not any(issubclass(warning.category, ConvergenceWarning) for warning in warned)


def fit(
    model: LogisticRegression | LinearSVC, features_ND: NDArray[np.floating[Any]], labels_N: NDArray[np.int64]
) -> float:
    """Return the seconds of one fit. The default runs out of iterations at weak l2, as its objective shows."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features_ND, labels_N)
    return time.perf_counter() - began


def synthetic(rows: int, dims: int, classes: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw classes that overlap, and features with a spectrum falling as 1/rank, as those of networks do."""
    rng = np.random.default_rng(seed)
    labels_N = rng.permutation(np.arange(rows) % classes)
    scale_D = 1 / np.sqrt(1 + np.arange(dims))
    centres_KD = 1.5 * rng.normal(size=(classes, dims)) * (rng.random((classes, dims)) < 0.1)
    features_ND = (rng.normal(size=(rows, dims)) + centres_KD[labels_N]) * scale_D
    return features_ND.astype(np.float32), labels_N


def summary(probes: Sequence[Probe], seconds: float) -> Record:
    """Return the record of one path that a table needs."""
    reports = [probe.report for probe in probes]
    return {
        "seconds": seconds,
        "l2": [probe.l2 for probe in probes],
        "objective": [report.objective for report in reports],
        "gap": [report.gap for report in reports],
        "status": [report.status for report in reports],
        "precision": reports[0].precision,
    }


def scaling(sizes: Sequence[tuple[int, int, int, int]]) -> Iterator[Record]:
    """Fit one path for each size (N, D, K, strengths)."""
    for rows, dims, classes, strengths in sizes:
        features_ND, labels_N = synthetic(rows, dims, classes)
        seconds, probes = ours(features_ND, labels_N, classes, RegularizationPath.spaced(1e-6, 1e5, strengths))
        certified = sum(probe.report.certified for probe in probes)
        yield {"N": rows, "D": dims, "K": classes, "strengths": strengths, "seconds": seconds, "certified": certified}


SIZES = (
    [(n, 1280, 10, 45) for n in (1_000, 3_000, 10_000, 30_000)]
    + [(10_000, d, 10, 45) for d in (256, 512, 2048)]
    + [(10_000, 1280, k, 45) for k in (2, 30, 100)]
    + [(10_000, 1280, 10, s) for s in (5, 15, 90)]
)
"""Each of N, D, K and the number of strengths varied alone about (10,000, 1,280, 10, 45)."""


def about() -> Record:
    """Return a record of versions, machine, commit and time."""
    return {"versions": library_versions(), "machine": machine(), "commit": source_commit(), "when": utc_now()}


def append(out: Path, record: Record) -> None:
    """Append one record as a JSON line."""
    with out.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read(out: Path) -> list[Record]:
    """Read all records."""
    return [json.loads(line) for line in out.read_text().splitlines()]


def table(records: Sequence[Record]) -> Iterator[str]:
    """Yield lines for each dataset: time ratios, and the worst ratio of scikit-learn's objective to ours."""
    for dataset in dict.fromkeys(r["dataset"] for r in records if "dataset" in r):
        yield from compared(dataset, [r for r in records if r.get("dataset") == dataset and r["what"] == "choice"])
        mine = [r for r in records if r.get("dataset") == dataset and r["what"] == "ours"]
        if not mine:
            continue
        usual = statistics.median(r["seconds"] for r in mine)
        times = ", ".join(f"{r['seconds']:.2f}" for r in mine)
        yield f"{dataset}: ours {times} s, {' '.join(sorted(set(mine[-1]['status'])))}"
        lone = [r for r in records if r.get("dataset") == dataset and r["what"] == "alone"]
        if lone:
            longest = max(lone, key=lambda r: r["seconds"])
            certified = sum(r["status"] == ["certified"] for r in lone)
            yield (
                f"  alone: {statistics.median(r['seconds'] for r in lone):.2f} s a strength, at most "
                f"{longest['seconds']:.2f} at {longest['l2'][0]:.1g}; {certified} of {len(lone)} certified"
            )
        for what in ("default", "default32", "tight", "svc"):
            rows = {r["l2"]: r for r in records if r.get("dataset") == dataset and r["what"] == what}
            if rows:
                total = sum(r["seconds"] for r in rows.values())
                wanted = dict(zip(mine[-1]["l2"], mine[-1]["objective"], strict=True))
                over = [row["objective"] / wanted[l2] - 1 for l2, row in rows.items()]
                yield (
                    f"  {what}: {len(rows)} strengths in {total:.1f} s = {total / usual:.1f} x the median of ours; "
                    f"objective over ours from {min(over):.1e} to {max(over):.1e}"
                )


def compared(dataset: str, records: Sequence[Record]) -> Iterator[str]:
    """Yield lines that summarize the records of ``choice``."""
    rows = [r for r in records if "val" in r and r["converged"]]
    if rows:
        apart = max(abs(r["val"][0] - r["val"][1]) for r in rows)
        changed = max(r["changed"] for r in rows)
        yield f"{dataset}: val of {len(rows)} strengths within {apart:.1e} of optimum's, {changed} predictions apart"
    for r in (r for r in records if "chosen" in r):
        yield (
            f"  chosen l2 {r['chosen'][0]:.3g}, by the optimum {r['chosen'][1]:.3g}; test {r['test'][0]:.5f} and "
            f"{r['test'][1]:.5f}, {r['changed']} of {r['num_test']} predictions apart"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one comparison and append its records, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=CHOICES)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--dataset")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--loss", choices=[*LOSSES], default="softmax", help="of ours and alone")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=900.0)
    parser.add_argument("--strengths", type=int, default=45)
    options = parser.parse_args(arguments)
    if options.what == "table":
        print("\n".join(table(read(options.out))))
        return
    keep_freed_memory()  # as the command line does, for both sides
    append(options.out, {"what": "about"} | about())
    if options.what == "scaling":
        for record in scaling(SIZES):
            append(options.out, {"what": "scaling"} | record)
        return
    path = RegularizationPath.spaced(1e-6, 1e5, options.strengths)
    if options.what == "choice":
        opened = FeatureStore(options.store)
        (key,) = [key for key in opened.keys() if key.dataset == options.dataset]  # noqa: SIM118
        for record in choice(opened.read(key), path, limit_seconds=options.limit):
            append(options.out, {"what": "choice", "dataset": options.dataset} | record)
        return
    features_ND, labels_N, classes = train_features(options.store, options.dataset)
    head = {"what": options.what, "dataset": options.dataset, "shape": [*features_ND.shape, classes]}
    if options.what == "ours":
        for _ in range(options.rounds):
            seconds, probes = ours(features_ND, labels_N, classes, path, loss=options.loss)
            append(options.out, head | summary(probes, seconds))
        return
    if options.what == "alone":
        for l2 in path.l2:
            seconds, probes = ours(features_ND, labels_N, classes, RegularizationPath(l2=(l2,)), loss=options.loss)
            append(options.out, head | summary(probes, seconds))
        return
    doubled_ND = features_ND.astype(np.float64)
    if options.what in ("default", "default32"):
        given_ND = doubled_ND if options.what == "default" else features_ND
        rows = sklearn_default(given_ND, labels_N, path)
    elif options.what == "svc":
        rows = linear_svc(doubled_ND, labels_N, path, limit_seconds=options.limit)
    else:
        mine = [r for r in read(options.out) if r.get("dataset") == options.dataset and r["what"] == "ours"][-1]
        rows = sklearn_tight(doubled_ND, labels_N, path, mine["objective"], limit_seconds=options.limit)
    for record in rows:
        append(options.out, head | record)


if __name__ == "__main__":
    main()
