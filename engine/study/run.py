"""Run a study: networks to be trained first, features, then probes and training, continuing after a failed cell.

Finished work is found on disk by its digest, so that a study that was killed resumes when it is run again.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from penultimate.engine.analysis.dataset_names import told_apart
from penultimate.engine.study.cell import Cell, RunContext
from penultimate.engine.study.document import write_study
from penultimate.engine.study.paths import StudyPaths
from penultimate.engine.study.plan import METHODS, Method, Step, StudyPlan, make_plan
from penultimate.engine.study.study import Study
from penultimate.store.errors import PenultimateError, RunInterruptedError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResult:
    """Result of running one cell."""

    cell: Cell
    error: str | None
    """Error message on one line; None where the cell succeeded."""

    trace: str | None = None
    """Traceback of an unexpected error, one that is no PenultimateError."""


RunCells = Callable[[Sequence[Cell], RunContext], Iterator[CellResult]]
"""A function that runs independent cells, anywhere and in any order, and yields each one's result as it ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Summary of one run of a study."""

    ran: int
    """Number of cells run now."""

    there: int
    """Number of steps that were on disk before."""

    failed: Sequence[CellResult]
    problems: Sequence[Step]
    """Steps that could not be started."""

    trials: Sequence[Trial]
    """Trials of the study that are in the log now."""


def run_study(
    study: Study, out: Path, context: RunContext | None = None, *, run_cells: RunCells | None = None
) -> Summary:
    """Do what is missing of ``study`` in the folder ``out``. A failed cell is in the summary; the others still run.

    Raises RunInterruptedError if a stop was requested during training, InputError where ``out`` cannot hold results or
    the device is not here.
    """
    context = context or RunContext()
    paths = StudyPaths.of(study, out)
    study.extraction.check_machine()  # before anything is begun
    out.mkdir(parents=True, exist_ok=True)
    write_study(study, paths.study)
    TrialLog.create(paths.trials)
    FeatureStore.create(paths.store)
    plan = make_plan(study, paths, context)
    before = len(plan.with_status("there"))
    results = _run("pretrain", plan, context, paths, run_cells or in_turn)
    if results:
        plan = make_plan(
            study, paths, replace(context, log=lambda line: None)
        )  # backbones that were trained just now have a digest at last
    for method in METHODS[1:]:
        results += _run(method, plan, context, paths, run_cells or in_turn)
    wanted = plan.trials()
    return Summary(
        ran=len(results),
        there=before,
        failed=[result for result in results if result.error is not None],
        problems=plan.with_status("waits", "blocked"),
        trials=told_apart(trial for trial in TrialLog(paths.trials).trials() if trial.id in wanted),
    )


def in_turn(cells: Sequence[Cell], context: RunContext) -> Iterator[CellResult]:
    """Run cells one after the other, in this process."""
    for cell in cells:
        yield attempt(cell, context)


def attempt(cell: Cell, context: RunContext) -> CellResult:
    """Run one cell and return its result, with any error but RunInterruptedError, which is raised."""
    try:
        cell.run(context)
    except RunInterruptedError:
        raise
    except PenultimateError as error:
        return CellResult(cell=cell, error=_line(str(error)))
    except Exception as error:  # a study of days continues after an unexpected error, and reports it at its end
        return CellResult(cell=cell, error=_line(f"{type(error).__name__}: {error}"), trace=traceback.format_exc())
    return CellResult(cell=cell, error=None)


def _run(
    method: Method, plan: StudyPlan, context: RunContext, paths: StudyPaths, run_cells: RunCells
) -> list[CellResult]:
    cells = plan.cells[method]
    results = []
    for number, result in enumerate(run_cells(cells, context), start=1):
        context.log(f"[{method} {number}/{len(cells)}] {result.cell.title}: {result.error or 'done'}")
        if result.trace is not None:
            _keep(result, paths)
        results.append(result)
    return results


def _keep(result: CellResult, paths: StudyPaths) -> None:
    with (paths.out / "errors.log").open("a", encoding="utf-8") as file:
        file.write(f"{result.cell.title}\n{result.trace}\n")


def _line(text: str) -> str:
    return " ".join(text.split())
