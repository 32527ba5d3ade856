"""Report how soon fine-tuning and training from scratch reach 90 % of their best odds, from the trials of a study.

    python benchmarks/convergence.py REPORT.md results/trials --tuning tuning/trials

The trials are those of examples/convergence.yaml; those of ``--tuning``, at one budget with several learning rates, are
what its rates were chosen by, on val. Nothing is trained here. Two budgets that follow each other agree where their
test accuracies, means over seeds, differ by less than twice the error of that difference: binomial over the test images
of one seed, as both seeds have the same ones.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penultimate.engine.analysis.curves.convergence import (
    BudgetCurve,
    Speedup,
    budget_curves,
    reaches_fraction,
    speed,
    speedup,
    threshold_budget,
)
from penultimate.engine.bench.timing.cells import Row, number, texts
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.report.sentences import speedup_sentence
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog

PAPER = {"finetune": (1151, 26), "scratch": (19531, 444)}
"""Method -> steps and epochs that Kornblith et al. 2019, section 4.6, give for theirs."""


def accuracies(curve: BudgetCurve, trials: Sequence[Trial]) -> Iterator[dict[str, Any]]:
    """Return a row for every budget of a curve: its accuracy by seed, the mean, and whether the last one agrees."""
    reached_B = reaches_fraction(curve.accuracy_B, num_test=curve.num_test)
    for index, (steps, epochs, accuracy) in enumerate(
        zip(curve.steps_B, curve.epochs_B, curve.accuracy_B, strict=True)
    ):
        mine = [each for each in trials if _is_of(each, curve) and each.history[-1]["step"] == steps]
        yield {
            "curve": f"{curve.dataset} {curve.method} {steps:,.0f}",
            "epochs": number(float(epochs)),
            "by seed, %": ", ".join(f"{100 * each.value:.1f}" for each in sorted(mine, key=lambda each: each.seed)),
            "mean, %": f"{100 * accuracy:.1f}",
            "as the budget before": _agrees(curve, index) if index else None,
            "90 % of the best odds": "first" if index == np.argmax(reached_B) else "yes" if reached_B[index] else "no",
        }


def _is_of(trial: Trial, curve: BudgetCurve) -> bool:
    return (trial.features["images"], trial.backbone, trial.method) == (curve.images, curve.backbone, curve.method)


def _agrees(curve: BudgetCurve, index: int) -> bool:
    """Return True if a budget's accuracy is that of the one before it, within twice the error of the difference."""
    before, after = curve.accuracy_B[index - 1 : index + 1]
    error = np.sqrt((before * (1 - before) + after * (1 - after)) / curve.num_test)
    return bool(abs(after - before) < 2 * error)


def reached(curve: BudgetCurve) -> dict[str, Any]:
    """Return the row of a curve: when it reached 90 % of its best odds, and whether it may go on rising."""
    first, last = threshold_budget(curve), len(curve.steps_B) - 1
    return {
        "curve": f"{curve.dataset} {curve.method}",
        "steps": f"{first.steps:,.0f}",
        "epochs": number(first.epochs),
        "best, %": f"{100 * curve.accuracy_B.max():.1f}",
        "largest budget": f"{curve.steps_B[-1]:,.0f}",
        "at the largest alone": first.at_largest_budget,
        "at the smallest already": first.at_smallest_budget,
        "last two agree": _agrees(curve, last),
    }


def speeds(curves: Sequence[BudgetCurve]) -> Iterator[Row]:
    """Return a row for each method: geometric means over datasets with their intervals, beside the paper's."""
    for method in sorted({curve.method for curve in curves}):
        mine = speed([threshold_budget(curve) for curve in curves if curve.method == method])
        steps, epochs = PAPER[method]
        yield {
            "method": method,
            "steps": number(mine.steps),
            "95 % of the steps": " to ".join(map(number, mine.steps_interval)),
            "epochs": number(mine.epochs),
            "95 % of the epochs": " to ".join(map(number, mine.epochs_interval)),
            "the paper's steps": f"{steps:,}",
            "the paper's epochs": f"{epochs:,}",
        }


def as_good(curves: Sequence[BudgetCurve]) -> Iterator[dict[str, Any]]:
    """Return a row for each pair of curves: the least budget fine-tuned that is as good as scratch's best."""
    pairs: defaultdict[tuple[str, str], dict[str, BudgetCurve]] = defaultdict(dict)
    for curve in curves:
        pairs[curve.dataset, curve.backbone][curve.method] = curve
    for (dataset, _), by_method in pairs.items():
        if len(by_method) < len(PAPER):
            continue
        fine, scratch = by_method["finetune"], by_method["scratch"]
        best = int(np.argmax(scratch.accuracy_B))
        enough_B = fine.accuracy_B >= scratch.accuracy_B[best]
        steps = float(fine.steps_B[np.argmax(enough_B)]) if enough_B.any() else None
        yield {
            "task": dataset,
            "best from scratch, %": f"{100 * scratch.accuracy_B[best]:.1f}",
            "at steps": f"{scratch.steps_B[best]:,.0f}",
            "fine-tuned as good at steps": None if steps is None else f"{steps:,.0f}",
            "times": None if steps is None else float(scratch.steps_B[best] / steps),
        }


def tuned(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Return a row for each method and dataset, with the accuracy on val at each learning rate."""
    rows: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for trial in sorted(trials, key=lambda each: (each.dataset, each.method, each.chosen["learning_rate"])):
        curve = f"{trial.dataset} {trial.method} {trial.history[-1]['step']:,}"
        value = trial.metrics["val"][trial.metric]
        rows[curve] |= {"curve": curve, f"val at rate {trial.chosen['learning_rate']:g}, %": f"{100 * value:.1f}"}
    return list(rows.values())


def report(trials: Sequence[Trial], tuning: Sequence[Trial]) -> Report:
    """Return the report of a study's trials."""
    curves = budget_curves(trials)
    ratio = speedup([threshold_budget(curve) for curve in curves])
    trained = [each for each in trials if each.method in PAPER]
    probes = [
        {"dataset": each.dataset, "test, %": f"{100 * each.value:.1f}"} for each in trials if each.method == "probe"
    ]
    hours = sum(each.wall_seconds for each in [*trained, *tuning]) / 3600
    findings = [] if ratio is None else [speedup_sentence(ratio)]
    return Report(
        bench="convergence",
        title="Steps to 90 % of the best odds, fine-tuned and from scratch",
        settings={
            "networks": sorted({curve.backbone for curve in curves}),
            "pixels": sorted({each.settings["preprocess"]["width"] for each in trained}),
            "batch": sorted({each.settings["batch_size"] for each in trained}),
            "learning rates": sorted({each.chosen["learning_rate"] for each in trained}),
            "seeds": sorted({each.seed for each in trained}),
            "test images": [f"{name} {num}" for name, num in sorted({(c.dataset, c.num_test) for c in curves})],
            "trainings": len(trained) + len(tuning),
            "hours of one core": round(hours, 1),
        },
        tables={
            "Speed": list(speeds(curves)),
            "Ratio": [] if ratio is None else texts([_ratio_row(ratio)]),
            "As good as from scratch": texts(list(as_good(curves))),
            "Reached": texts([reached(curve) for curve in curves]),
            "Budgets": texts([row for curve in curves for row in accuracies(curve, trials)]),
            "Probes": probes,
            "Learning rates": texts(tuned(tuning)),
        },
        findings=findings,
        not_measured=["Of the hours no speed should be read: trainings ran side by side."],
    )


def _ratio_row(ratio: Speedup) -> dict[str, Any]:
    """Return how many times the steps and epochs of fine-tuning training from scratch takes."""
    (paper_steps, paper_epochs), (scratch_steps, scratch_epochs) = PAPER["finetune"], PAPER["scratch"]
    return {
        "of": "scratch to fine-tuned",
        "steps": ratio.steps,
        "95 % of the steps": " to ".join(map(number, ratio.steps_interval)),
        "epochs": ratio.epochs,
        "pairs": ratio.num_pairs,
        "lower bound": ratio.is_lower_bound,
        "the paper's steps": scratch_steps / paper_steps,
        "the paper's epochs": scratch_epochs / paper_epochs,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report of one trial log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("trials", type=Path)
    parser.add_argument("--tuning", type=Path, help="trial log of the learning rates that were tried")
    given = parser.parse_args(arguments)
    trials, tuning = (list(TrialLog(log).trials()) if log else [] for log in (given.trials, given.tuning))
    report(trials, tuning).write(given.report)


if __name__ == "__main__":
    main()
