"""Flip labels at random, audit the set, and count which of the wrong labels are found.

    python benchmarks/planted_label_errors.py REPORT.md --store features.zarr --dataset caltech101 --share 0.05

Everything is done with the wrong labels in place: the strength is chosen by a probe on them, and the labels are judged
by probes fitted on them. Recall is the share of the flipped labels that are listed, precision the share of the listed
labels that were flipped. Sets have wrong labels, and classes that overlap, of their own: what is listed and was not
flipped is divided into what is listed without any flips too, and the rest.
"""

import argparse
import shlex
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

import penultimate
from penultimate.engine.audit.audit import Audit, audit_set
from penultimate.engine.audit.settings import AuditSettings
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.feature_set import FeatureSet
from penultimate.store.provenance import source_commit, utc_now

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


def report(features: FeatureSet, *, share: float, seeds: int, l2: str) -> str:
    """Return the report as Markdown."""
    own = set(audited(features, l2).label_issues["image"])
    names = dict(zip(features.ids.tolist(), features.class_texts(), strict=True))
    lines = []
    for seed in range(seeds):
        wrong_set, wrong = flipped(features, share, seed=seed)
        issues = audited(wrong_set, l2).label_issues
        listed = set(issues["image"])
        planted = issues[issues["image"].isin(wrong)]
        suggested = sum(names[row.image] == row.suggested for row in planted.itertuples())
        first = set(issues["image"].head(len(wrong)))
        lines.append(
            f"| {seed} | {len(wrong):,} | {_share(len(listed & wrong), len(wrong))} | "
            f"{_share(len(listed & wrong), len(listed))} | {len((listed - wrong) & own):,} | "
            f"{len(listed - wrong - own):,} | {_share(len(first & wrong), len(first))} | "
            f"{_share(suggested, len(planted))} |"
        )
    about = machine()
    return (
        "# Planted label errors\n\n"
        f"    {shlex.join(['python', *sys.argv])}\n\n"
        f"{features.num_rows:,} images of {features.key.dataset} by {features.key.backbone}; {100 * share:g} % of the "
        "labels flipped to another class, drawn at random, and everything done with them in place (the script says "
        f"what recall and precision count). Without flips {len(own):,} labels are listed. cleanlab "
        f"{version('cleanlab')}, commit {source_commit()}, {utc_now()[:10]}, {about['processor']}. Counts with "
        "Wilson's 95 % intervals; no timing. Written by the script.\n\n"
        "| seed | flipped | recall | precision | listed without flips too | other false alarms | "
        "right among as many first as were flipped | right suggestion, of those found |\n"
        "|---:|---:|---:|---:|---:|---:|---:|---:|\n" + "\n".join(lines) + "\n"
    )


def _share(count: int, total: int) -> str:
    if not total:
        return "none"
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return f"{100 * count / total:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def main() -> None:
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
    given.report.write_text(report(store.read(key), share=given.share, seeds=given.seeds, l2=given.l2))


if __name__ == "__main__":
    main()
