"""Audit a dataset of a store and report how many twins, leaks and doubtful labels there are, and between which classes.

penultimate extract caltech101 --root FOLDER --store features.zarr --model tf_efficientnet_lite0 --weights package
penultimate probe features.zarr --trials trials/
python benchmarks/audit_counts.py REPORT.md --store features.zarr --dataset caltech101 --trials trials/
"""

import argparse
import math
from collections import Counter
from pathlib import Path

import penultimate
from penultimate.engine.audit.audit import Audit
from penultimate.engine.bench.timing.cells import Row
from penultimate.engine.bench.timing.report import Report

SHOWN = 10
"""Number of pairs of classes that are listed."""


def counts(found: Audit) -> list[Row]:
    """Return how many there are of what."""
    twins, summary = found.twins, found.summary
    near = twins[twins["kind"] == "near"]
    rows = [
        ("images", f"{summary['images']:,}"),
        ("test images", f"{summary['splits']['test']:,}"),
        ("pairs of equal images", f"{summary['equal']:,}"),
        ("pairs of near-duplicates", f"{len(near):,}"),
        ("of them with different labels", f"{int((near['label'] != near['other_label']).sum()):,}"),
        ("test images with a twin in train or val", f"{summary['leaked_test_images']:,}"),
        ("of all test images, %", f"{100 * summary['leaked_share']:.1f}"),
        ("doubtful labels", f"{len(found.label_issues):,}"),
    ]
    for score in found.scores.to_dict("records"):
        columns = ("score", "score_low", "score_high", "without")
        value, low, high, without = (math.nan if score[each] is None else 100 * score[each] for each in columns)
        name = f"{score['method']}, {score['metric']} %"
        rows += [(name, f"{value:.2f} ({low:.1f} to {high:.1f})")]
        rows += [(f"{name}, without these test images", f"{without:.2f}")]
    return [{"what": what, "number": text} for what, text in rows]


def between(found: Audit) -> list[Row]:
    """Return the pairs of classes between which most labels are doubted, and the classes that most of them concern."""
    issues = found.label_issues
    pairs = [tuple(sorted(map(str, pair))) for pair in zip(issues["label"], issues["suggested"], strict=True)]
    classes = Counter(name for pair in pairs for name in set(pair))
    listed = [(" and ".join(pair), str(number)) for pair, number in Counter(pairs).most_common(SHOWN)]
    rows = [*listed, *((f"{name} and any other", str(number)) for name, number in classes.most_common(3))]
    return [{"classes": names, "number": text} for names, text in rows]


def report(found: Audit) -> Report:
    """Return the report."""
    return Report(
        bench="audit-counts",
        title=f"An audit of {found.summary['dataset']}",
        settings={"backbone": found.summary["backbone"], "audit": "with its defaults"},
        tables={"Counts": counts(found), "Labels that are doubted": between(found)},
        findings=["Labels that are doubted: the label and the class that the probe suggests, in either order."],
    )


def main() -> None:
    """Audit one dataset and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--store", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--trials", required=True)
    given = parser.parse_args()
    report(penultimate.audit(given.store, trials=given.trials, dataset=given.dataset)).write(given.report)


if __name__ == "__main__":
    main()
