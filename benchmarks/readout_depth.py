"""Measure accuracy by depth: Caltech-101 through the three Lite networks at every stage, with 95 % intervals.

    python benchmarks/readout_depth.py caltech101 REPORT.md --root DATA/caltech101 --work depth/

One pass of each network gives all stages and the penultimate layer; each has its own certified path of the paper's 45
strengths, chosen on val, refitted and scored on test once; beside that the readout is chosen on val too. What is in
``--work`` already is not computed again, so that it goes on where it was stopped. The figure and its numbers are
written beside the report.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import penultimate
from penultimate.engine.analysis.curves.depth import ReadoutCurve, readout_curves
from penultimate.engine.bench.timing.cells import Row
from penultimate.engine.bench.timing.measurement import cores_of_others
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Lap, timed_call
from penultimate.engine.images.load import load_images
from penultimate.engine.images.subset import at_most_per_class
from penultimate.engine.report.figures.depth import depth_figure
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial import CHOSEN, Trial
from penultimate.store.trials.trial_log import TrialLog

MODELS = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")


class Steps:
    """The work in its steps, each with how long it took."""

    def __init__(self) -> None:
        self.laps: list[Lap] = []
        self.rows: list[Row] = []

    def do(self, name: str, work: Callable[[], Sequence[Any]], *, there: int) -> Sequence[Any]:
        """Return what ``work`` returns; ``there`` is how many of that were in ``--work`` before."""
        value, lap = timed_call(work)
        self.laps.append(lap)
        self.rows.append(
            {
                "step": name,
                "wall s": f"{lap.wall_seconds:,.0f}",
                "processor s": f"{lap.self_seconds * usable_cores():,.0f}",
                "results": f"{len(value):,}",
                "there already": f"{there:,}",
            }
        )
        return value


def accuracies(curves: Sequence[ReadoutCurve]) -> list[Row]:
    """Return a row for each readout of each network."""
    return [
        {
            "network": curve.label,
            "readout": score.readout,
            "test %": f"{100 * score.value:.2f}",
            "95 %": "" if score.interval is None else " to ".join(f"{100 * end:.2f}" for end in score.interval),
            "ties with its best": "best" if score.is_best else "yes" if score.ties_with_best else "no",
            "p (Holm)": "" if score.p_value_holm is None else f"{score.p_value_holm:.2g}",
        }
        for curve in curves
        for score in curve.scores
    ]


def report(trials: Sequence[Trial], steps: Steps, num_images: int, figure: str) -> Report:
    """Return the report, with the figure beside it."""
    curves = readout_curves(trials)
    uncertified = sum(not trial.converged for trial in trials)
    return Report(
        bench="readout-depth",
        title="Accuracy by depth and readout",
        settings={"images": num_images, "of test": curves[0].n_test, "metric": curves[0].metric},
        other_cores=cores_of_others(steps.laps),
        tables={"Time": steps.rows, "Accuracy by depth": accuracies(curves)},
        figures={"accuracy by depth": figure},
        findings=[
            f"{trial.backbone}: val chooses {trial.chosen['readout']} of {len(trial.settings['readouts'])} readouts "
            f"(l2 = {trial.chosen['l2']:.3g}), which scores {100 * trial.value:.2f} % on test."
            for trial in trials
            if trial.readout == CHOSEN
        ],
        not_measured=[
            "Intervals and tests are over test images (a network's readouts score the same ones). One run: no spread "
            "over seeds was measured.",
            f"{len(trials)} trials, {uncertified} with a fit that is not certified to its tolerance.",
        ],
    )


def main(arguments: list[str]) -> None:
    """Extract, probe, and write the report with its figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="as `penultimate extract` takes them")
    parser.add_argument("report", type=Path)
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--model", nargs="+", default=list(MODELS))
    parser.add_argument("--weights", default="package")
    parser.add_argument("--readout", nargs="+", default=["penultimate", "stage:*"])
    parser.add_argument("--l2", default="1e-6:1e5:45")
    parser.add_argument("--per-class", type=int, default=None, help="use at most so many images a class and split")
    parser.add_argument("--work", type=Path, required=True, help="folder of the store and the trials, which is kept")
    given = parser.parse_args(arguments)
    images = load_images(given.images, root=given.root)
    if given.per_class is not None:
        most = dict.fromkeys(("train", "val", "test"), given.per_class)
        images = replace(at_most_per_class(images, most, seed=0), subset_of=None)
    given.work.mkdir(parents=True, exist_ok=True)
    store, log = given.work / "features.zarr", given.work / "trials"
    steps = Steps()
    steps.do(
        "extraction, all networks from one decode",
        lambda: penultimate.extract(
            images, store=store, model=given.model, weights=given.weights, readouts=given.readout
        ),
        there=len(FeatureStore.create(store).keys()),
    )
    dataset, logged = images.name, TrialLog.create(log).trials()
    num_chosen = sum(trial.readout == CHOSEN for trial in logged)
    trials = steps.do(
        "probes",
        lambda: penultimate.probe(store, trials=log, dataset=dataset, l2=given.l2),
        there=len(logged) - num_chosen,
    )
    chosen = steps.do(
        "probes with a choice of readout",
        lambda: penultimate.probe(store, trials=log, dataset=dataset, l2=given.l2, choose_readout=True),
        there=num_chosen,
    )
    every = [*trials, *chosen]
    drawn = depth_figure("Accuracy by depth and readout", readout_curves(every), name=f"{given.report.stem}_figure")
    written = drawn.save(given.report.parent)
    png = next(path.name for path in written if path.suffix == ".png")
    report(every, steps, len(images), png).write(given.report)


if __name__ == "__main__":
    main(sys.argv[1:])
