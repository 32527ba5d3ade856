from pathlib import Path

import pytest
from convergence import main, report
from support.trial_cases import trial_of

from penultimate.engine.bench.timing.report import read_report
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog


def run(method: str, step: int, wrong: int, *, seed: int = 0, rate: float = 0.01) -> Trial:
    return trial_of(
        method=method,
        wrong=range(wrong),
        num_test=1000,
        history=[{"step": step, "epoch": step / 10}],
        settings={"steps": step, "batch_size": 32, "preprocess": {"width": 64}, "learning_rates": [rate]},
        chosen={"learning_rate": rate},
        metrics={"val": {"top1": 1 - wrong / 500}, "test": {"top1": 1 - wrong / 1000}},
        seed=seed,
    )


FINETUNED = [
    run("finetune", step, wrong, seed=seed) for step, wrong in ((10, 300), (20, 100), (40, 95)) for seed in (0, 1)
]
SCRATCH = [run("scratch", step, wrong) for step, wrong in ((40, 900), (80, 500), (160, 300))]


def test_what_a_report_says_of_curves_is_what_their_trials_have() -> None:
    tables = report([*FINETUNED, *SCRATCH], []).tables
    # 90 % of the best odds, 0.905 / 0.095: 8.57 of 0.9 / 0.1 = 9 is reached at 20, of 0.7 / 0.3 at the largest alone.
    tuned, scratch = tables["Reached"]
    assert (tuned["steps"], tuned["epochs"], tuned["best, %"], tuned["at the largest alone"]) == (
        "20",
        "2",
        "90.5",
        "no",
    )
    assert (scratch["steps"], scratch["at the largest alone"], scratch["last two agree"]) == ("160", "yes", "no")
    assert tuned["last two agree"] == "yes"
    (ratio,) = tables["Ratio"]
    assert (ratio["steps"], ratio["lower bound"], ratio["the paper's steps"]) == ("8", "yes", "17")
    (equal,) = tables["As good as from scratch"]
    assert (equal["at steps"], equal["fine-tuned as good at steps"], equal["times"]) == ("160", "10", "16")
    budgets = tables["Budgets"]
    assert [row["by seed, %"] for row in budgets[:3]] == ["70.0, 70.0", "90.0, 90.0", "90.5, 90.5"]
    assert [row["90 % of the best odds"] for row in budgets] == ["no", "first", "yes", "no", "no", "first"]
    assert [row["as the budget before"] for row in budgets] == ["", "no", "yes", "", "no", "no"]


def test_rates_stand_beside_what_they_gave_on_val(tmp_path: Path) -> None:
    logs = []
    for name, trials in (
        ("trials", FINETUNED),
        ("tuning", [run("finetune", 20, 50, rate=0.1), run("finetune", 20, 100)]),
    ):
        log = TrialLog.create(tmp_path / name)
        for trial in trials:
            log.append(trial)
        logs.append(str(tmp_path / name))
    main([str(tmp_path / "report.md"), logs[0], "--tuning", logs[1]])
    tables = read_report(tmp_path / "report.md")["tables"]
    (row,) = tables["Learning rates"]
    assert (row["val at rate 0.01, %"], row["val at rate 0.1, %"]) == ("80.0", "90.0")
    assert tables["Ratio"] == []  # nothing from scratch
    assert float(tables["Speed"][0]["steps"]) == pytest.approx(20)
