"""Make a whole study by hand: every method, budgets, subsets, two values of a setting, and a diverged network."""

from functools import cache

import numpy as np
from scipy.special import expit
from support.trial_cases import trial_of

from penultimate.engine.analysis.findings import Findings, find
from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.page import figures, make_sections
from penultimate.engine.report.sections.section import Material
from penultimate.store.trials.trial import Trial

IMAGENET = {
    "mobilenet": 0.716, "densenet121": 0.748, "resnet50": 0.757, "inception_v3": 0.780, "resnet152": 0.776,
    "nasnet": 0.805,
}  # fmt: skip
DATASETS = {"cars": -0.4, "dtd": 0.9, "pets": 2.0, "food101": 1.0, "flowers": 2.6}
GAIN = {"probe": 0.0, "finetune": 0.7, "scratch": -0.3}
BUDGETS = {"finetune": (64, 256, 1024), "scratch": (1024, 4096, 16384)}
SHOTS = (2, 4, 8, 16)


@cache
def whole_study() -> tuple[Trial, ...]:
    """Make about 200 trials of 400 test samples."""
    rng = np.random.default_rng(0)
    trials: list[Trial] = []

    def add(log_odds: float, **fields: object) -> None:
        wrong = rng.permutation(400)[: int(400 * expit(-log_odds - 0.1 * rng.normal()))]
        trials.append(trial_of(wrong=tuple(wrong), num_test=400, **fields))  # type: ignore[arg-type] # a mixed bag

    for backbone, top1 in (IMAGENET | {"untrained": 0.4}).items():
        for dataset, easy in DATASETS.items():
            level = easy + 6 * (top1 - 0.75)
            add(level, backbone=backbone, dataset=dataset, settings={"loss": "softmax"}, converged=top1 > 0.5)
            if backbone in ("resnet50", "nasnet"):
                add(level - 0.2, backbone=backbone, dataset=dataset, settings={"loss": "squared_hinge"})
            if backbone == "untrained":
                continue
            for method, budgets in BUDGETS.items():
                for step in budgets if backbone == "inception_v3" else budgets[-1:]:
                    behind = 0.5 * np.log2(budgets[-1] / step)
                    add(
                        level + GAIN[method] - behind, backbone=backbone, dataset=dataset, method=method,
                        settings={"steps": step}, history=[{"step": step, "epoch": step / 16}],
                    )  # fmt: skip
            if backbone == "inception_v3":
                for shots in SHOTS:
                    for seed in range(3):
                        for method, slope in (("probe", 0.5), ("finetune", 0.8)):
                            add(
                                level + slope * (np.log2(shots) - 3), backbone=backbone, dataset=dataset, method=method,
                                seed=seed, settings={"shots": shots}, history=[{"step": 64, "epoch": 4}],
                            )  # fmt: skip
    return tuple(trials)


@cache
def whole_findings() -> Findings:
    """Return the findings of the whole study, computed once for all tests."""
    return find(whole_study(), imagenet=IMAGENET, num_resamples=100)


@cache
def whole_figures() -> dict[str, ReportFigure]:
    """Return its figures by name, drawn once for all tests."""
    material = Material(found=whole_findings(), trials=whole_study())
    return {each.name: each for each in figures(make_sections(material))}
