"""Audit a dataset of a store and report how many twins, leaks and doubtful labels there are, and between which classes.

penultimate extract caltech101 --root FOLDER --store features.zarr --model tf_efficientnet_lite0 --weights package
penultimate probe features.zarr --trials trials/
python benchmarks/audit_counts.py REPORT.md --store features.zarr --dataset caltech101 --trials trials/
"""

import argparse
import math
import shlex
import sys
from collections import Counter
from pathlib import Path

import penultimate
from penultimate.engine.audit.audit import Audit
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.provenance import library_versions, source_commit, utc_now

SHOWN = 10
"""Number of pairs of classes that are listed."""


def counts(found: Audit) -> list[tuple[str, str]]:
    """Return rows of (what, how many)."""
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
    return rows


def between(found: Audit) -> list[tuple[str, str]]:
    """Return the pairs of classes between which most labels are doubted, and the classes that most of them concern."""
    issues = found.label_issues
    pairs = [tuple(sorted(map(str, pair))) for pair in zip(issues["label"], issues["suggested"], strict=True)]
    classes = Counter(name for pair in pairs for name in set(pair))
    listed = [(" and ".join(pair), str(number)) for pair, number in Counter(pairs).most_common(SHOWN)]
    return [*listed, *((f"{name} and any other", str(number)) for name, number in classes.most_common(3))]


def report(found: Audit) -> str:
    """Return the report as Markdown."""
    about = machine()
    versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
    summary = found.summary
    return (
        f"# An audit of {summary['dataset']}\n\n"
        f"    {shlex.join(['python', *sys.argv])}\n\n"
        f"Features of {summary['backbone']}, settings at their defaults. Counts, no timing. Commit {source_commit()}, "
        f"{utc_now()[:10]}; {about['processor']}, {about['cores']} cores; {versions}. Written by the script.\n\n"
        "## Counts\n\n" + _table("what", counts(found)) + "\n"
        "## Labels that are doubted\n\nThe label and the class that the probe suggests, in either order.\n\n"
        + _table("classes", between(found))
    )


def _table(heading: str, rows: list[tuple[str, str]]) -> str:
    return f"| {heading} | number |\n|---|---:|\n" + "".join(f"| {what} | {number} |\n" for what, number in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--store", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--trials", required=True)
    given = parser.parse_args()
    given.report.write_text(report(penultimate.audit(given.store, trials=given.trials, dataset=given.dataset)))


if __name__ == "__main__":
    main()
