"""Measure accuracy by depth: Caltech-101 through the three Lite networks at every stage, with 95 % intervals.

    python benchmarks/readout_depth.py caltech101 --root DATA/caltech101 --work depth/ --report REPORT.md

One pass of each network gives all stages and the penultimate layer; each has its own certified path of the paper's 45
strengths, chosen on val, refitted and scored on test once; beside that the readout is chosen on val too. What is in
``--work`` already is not computed again, so that it goes on where it was stopped. The figure and its numbers are
written beside the report.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import penultimate
from penultimate.engine.analysis.curves.depth import ReadoutCurve, readout_curves
from penultimate.engine.bench.timing.processor_time import ProcessorClock
from penultimate.engine.images.load import load_images
from penultimate.engine.images.subset import at_most_per_class
from penultimate.engine.report.figures.depth import depth_figure
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.feature_store import FeatureStore
from penultimate.store.provenance import library_versions, source_commit, utc_now
from penultimate.store.trials.trial import CHOSEN, Trial
from penultimate.store.trials.trial_log import TrialLog

MODELS = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")

Value = TypeVar("Value")


def with_time(work: Callable[[], Sequence[Value]], *, there: int) -> tuple[Sequence[Value], str]:
    """Return what ``work`` returns, and a phrase of how long that took and what other programs took meanwhile.

    ``there`` is how many of the returned were in ``--work`` before.
    """
    clock, began = ProcessorClock(), time.perf_counter()
    value = work()
    seconds, spent = time.perf_counter() - began, clock.read()
    others = "" if spent.others is None else f"; other programs took {spent.others / seconds:.1f} cores"
    before = f"; {there} of {len(value)} were there already" if there else ""
    return value, f"{seconds:,.0f} s ({spent.own:,.0f} s of processor time{others}{before})"


def table(curves: Sequence[ReadoutCurve], trials: Sequence[Trial]) -> list[str]:
    """Return the lines of a Markdown table: a row a readout, then a sentence for each network."""
    lines = [
        "| network | readout | test % | 95 % | ties with its best | p (Holm) |",
        "|---|---|---:|---|---|---:|",
    ]
    for curve in curves:
        for score in curve.scores:
            interval = "" if score.interval is None else " to ".join(f"{100 * end:.2f}" for end in score.interval)
            tie = "best" if score.is_best else "yes" if score.ties_with_best else "no"
            p_holm = "" if score.p_value_holm is None else f"{score.p_value_holm:.2g}"
            value = f"{100 * score.value:.2f}"
            lines.append(f"| {curve.label} | {score.readout} | {value} | {interval} | {tie} | {p_holm} |")
    lines.append("")
    lines += [
        f"{trial.backbone}: val chooses {trial.chosen['readout']} of {len(trial.settings['readouts'])} readouts (l2 = "
        f"{trial.chosen['l2']:.3g}), which scores {100 * trial.value:.2f} % on test.\n"
        for trial in trials
        if trial.readout == CHOSEN
    ]
    return lines


def report(
    trials: Sequence[Trial], arguments: Sequence[str], num_images: int, times: Mapping[str, str], figure: str
) -> str:
    """Return the report as Markdown."""
    curves = readout_curves(trials)
    about, versions = machine(), library_versions()
    uncertified = sum(not trial.converged for trial in trials)
    return "\n".join(
        [
            "# Accuracy by depth",
            "",
            f"    python benchmarks/readout_depth.py {' '.join(arguments)}",
            "",
            f"Commit {source_commit()}, {utc_now()}; {about['processor']}, class {about['cpu_class']}, "
            + f"{about['cores']} cores; "
            + ", ".join(f"{name} {versions[name]}" for name in ("torch", "timm", "penultimate") if name in versions)
            + ".",
            "",
            f"{num_images:,} images; {curves[0].n_test:,} of test, metric {curves[0].metric}; intervals and tests are "
            "over test images (a network's readouts score the same ones). One run: no spread over seeds was measured. "
            f"{len(trials)} trials, {uncertified} with a fit that is not certified to its tolerance.",
            "",
            *(f"- {what}: {took}" for what, took in times.items()),
            "",
            f"![accuracy by depth]({figure})",
            "",
            *table(curves, trials),
        ]
    )


def main(arguments: list[str]) -> None:
    """Extract, probe, and write the report with its figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="as `penultimate extract` takes them")
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--model", nargs="+", default=list(MODELS))
    parser.add_argument("--weights", default="package")
    parser.add_argument("--readout", nargs="+", default=["penultimate", "stage:*"])
    parser.add_argument("--l2", default="1e-6:1e5:45")
    parser.add_argument("--per-class", type=int, default=None, help="use at most so many images a class and split")
    parser.add_argument("--work", type=Path, required=True, help="folder of the store and the trials, which is kept")
    parser.add_argument("--report", type=Path, required=True)
    given = parser.parse_args(arguments)
    images = load_images(given.images, root=given.root)
    if given.per_class is not None:
        most = dict.fromkeys(("train", "val", "test"), given.per_class)
        images = replace(at_most_per_class(images, most, seed=0), subset_of=None)
    given.work.mkdir(parents=True, exist_ok=True)
    store, log = given.work / "features.zarr", given.work / "trials"
    times: dict[str, str] = {}
    _, times["extraction, all networks from one decode"] = with_time(
        lambda: penultimate.extract(
            images, store=store, model=given.model, weights=given.weights, readouts=given.readout
        ),
        there=len(FeatureStore.create(store).keys()),
    )
    dataset, logged = images.name, TrialLog.create(log).trials()
    num_chosen = sum(trial.readout == CHOSEN for trial in logged)
    trials, times["probes"] = with_time(
        lambda: penultimate.probe(store, trials=log, dataset=dataset, l2=given.l2), there=len(logged) - num_chosen
    )
    chosen, times["probes with a choice of readout"] = with_time(
        lambda: penultimate.probe(store, trials=log, dataset=dataset, l2=given.l2, choose_readout=True),
        there=num_chosen,
    )
    every = [*trials, *chosen]
    drawn = depth_figure("Accuracy by depth and readout", readout_curves(every), name=f"{given.report.stem}_figure")
    written = drawn.save(given.report.parent)
    png = next(path.name for path in written if path.suffix == ".png")
    given.report.write_text(report(every, arguments, len(images), times, png), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
