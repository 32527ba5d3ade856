"""Flip labels at random, audit the set, and count which of the wrong labels are found.

    python benchmarks/planted_label_errors.py REPORT.md --store features.zarr --dataset caltech101 --share 0.05

Everything is done with the wrong labels in place: the strength is chosen by a probe on them, and the labels are judged
by probes fitted on them. Recall is the share of the flipped labels that are listed, precision the share of the listed
labels that were flipped. Sets have wrong labels, and classes that overlap, of their own: what is listed and was not
flipped is divided into what is listed without any flips too, and the rest.
"""

import argparse
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

import penultimate
from penultimate.engine.audit.audit import Audit, audit_set
from penultimate.engine.audit.settings import AuditSettings
from penultimate.engine.bench.timing.cells import Row, fraction
from penultimate.engine.bench.timing.report import Report
from penultimate.store.feature_set import FeatureSet

# Shapes: N samples.


def flipped(features: FeatureSet, share: float, *, seed: int) -> tuple[FeatureSet, set[str]]:
    """Return the set with another class as the label of a share of its labelled samples, and their ids."""
    rng = np.random.default_rng(seed)
    columns = features.read_columns()
    labels_N = columns.labels_M.copy()
    labelled = np.flatnonzero((labels_N >= 0) & (columns.failed_M == ""))
    wrong = rng.choice(labelled, round(share * len(labelled)), replace=False)
    classes = len(features.class_names)
    labels_N[wrong] = (labels_N[wrong] + rng.integers(1, classes, size=len(wrong))) % classes
    changed = replace(columns, labels_M=labels_N)
    return replace(features, read_columns=lambda: changed), set(columns.ids_M[wrong].tolist())


def audited(features: FeatureSet, l2: str) -> Audit:
    """Choose a strength on these labels, and audit them."""
    return audit_set(features, [], penultimate.probe(features, l2=l2), AuditSettings())


def row(features: FeatureSet, *, share: float, seed: int, l2: str, own: set[str]) -> Row:
    """Flip labels, audit, and count; ``own`` are the images that are listed without flips."""
    names = dict(zip(features.ids.tolist(), features.class_texts(), strict=True))
    wrong_set, wrong = flipped(features, share, seed=seed)
    issues = audited(wrong_set, l2).label_issues
    listed = set(issues["image"])
    planted = issues[issues["image"].isin(wrong)]
    suggested = sum(names[each.image] == each.suggested for each in planted.itertuples())
    first = set(issues["image"].head(len(wrong)))
    return {
        "seed": str(seed),
        "flipped": f"{len(wrong):,}",
        "recall": fraction(len(listed & wrong), len(wrong)),
        "precision": fraction(len(listed & wrong), len(listed)),
        "listed without flips too": f"{len((listed - wrong) & own):,}",
        "other false alarms": f"{len(listed - wrong - own):,}",
        "right among as many first as were flipped": fraction(len(first & wrong), len(first)),
        "right suggestion, of those found": fraction(suggested, len(planted)),
    }


def report(features: FeatureSet, *, share: float, seeds: int, l2: str) -> Report:
    """Audit the set as it is and with flipped labels, and return the report."""
    own = set(audited(features, l2).label_issues["image"])
    rows = [row(features, share=share, seed=seed, l2=l2, own=own) for seed in range(seeds)]
    return Report(
        bench="planted-label-errors",
        title=f"Label errors planted in {features.key.dataset}",
        settings={
            "images": features.num_rows,
            "backbone": features.key.backbone,
            "labels flipped": f"{100 * share:g} %",
            "l2": l2,
            "cleanlab": version("cleanlab"),
        },
        tables={"Planted label errors": rows},
        findings=[
            f"Without flips {len(own):,} labels are listed.",
            "Labels are flipped to another class, drawn at random, and everything is done with them in place: the "
            "script says what recall and precision count. Intervals are Wilson's, 95 %.",
        ],
    )


def main() -> None:
    """Write the report of one stored dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--store", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--l2", default="1e-3:1e3:13")
    given = parser.parse_args()
    store = penultimate.FeatureStore(given.store)
    (key,) = [key for key in store.keys() if key.dataset == given.dataset]  # noqa: SIM118 (a store is no mapping)
    report(store.read(key), share=given.share, seeds=given.seeds, l2=given.l2).write(given.report)


if __name__ == "__main__":
    main()
