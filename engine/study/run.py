"""Running a study: plan, networks to be trained first, features, then probes and training; past whatever fails.

What has been done is found on disk by its digest, so that a study that was killed is run again and goes on.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from penultimate.engine.analysis.dataset_names import told_apart
from penultimate.engine.runtime.devices import device_named
from penultimate.engine.study.cell import QUIET, Cell, Talk, forget_images
from penultimate.engine.study.document import write_study
from penultimate.engine.study.paths import Place
from penultimate.engine.study.plan import METHODS, Method, Plan, Step, make_plan
from penultimate.engine.study.study import Study
from penultimate.store.errors import PenultimateError, RunInterruptedError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one cell ended."""

    cell: Cell
    error: str | None
    """One line; None where it ended well."""

    trace: str | None = None
    """Of an error that nobody foresaw."""


RunCells = Callable[[Sequence[Cell], Talk], Iterator[Outcome]]
"""Runs cells that do not depend on each other, anywhere and in any order; one outcome a cell, as it ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a study has come to."""

    ran: int
    """Cells run now."""

    there: int
    """Steps that were there before."""

    failed: Sequence[Outcome]
    problems: Sequence[Step]
    """What could not be begun."""

    trials: Sequence[Trial]
    """Of the study that are in the log now."""


def run_study(study: Study, out: Path, talk: Talk = QUIET, *, run_cells: RunCells | None = None) -> Summary:
    """Do what is missing of ``study`` in the folder ``out``; a cell that fails is in the summary, the others go on.

    Raises RunInterruptedError if a training was asked to stop, InputError where ``out`` cannot hold results or
    the device is not here.
    """
    place = Place.of(study, out)
    device_named(study.device)
    study.extraction.make_decoder()  # before anything is begun
    out.mkdir(parents=True, exist_ok=True)
    write_study(study, place.study)
    TrialLog.create(place.trials)
    FeatureStore.create(place.store)
    forget_images()
    plan = make_plan(study, place, say=talk.say)
    before = len(plan.with_status("there"))
    outcomes = _run("pretrain", plan, talk, place, run_cells or in_turn)
    if outcomes:
        plan = make_plan(study, place)  # backbones that were trained just now have a digest at last
    for method in METHODS[1:]:
        outcomes += _run(method, plan, talk, place, run_cells or in_turn)
    wanted = plan.trials()
    return Summary(
        ran=len(outcomes),
        there=before,
        failed=[outcome for outcome in outcomes if outcome.error is not None],
        problems=plan.with_status("waits", "blocked"),
        trials=told_apart(trial for trial in TrialLog(place.trials).trials() if trial.id in wanted),
    )


def in_turn(cells: Sequence[Cell], talk: Talk) -> Iterator[Outcome]:
    """One after the other, in this process."""
    for cell in cells:
        yield attempt(cell, talk)


def attempt(cell: Cell, talk: Talk) -> Outcome:
    """Run one cell; whatever it raises becomes its outcome, but for a wish to stop."""
    try:
        cell.run(talk)
    except RunInterruptedError:
        raise
    except PenultimateError as error:
        return Outcome(cell=cell, error=_line(str(error)))
    except Exception as error:  # a study of days goes on past what nobody foresaw, and says so at its end
        return Outcome(cell=cell, error=_line(f"{type(error).__name__}: {error}"), trace=traceback.format_exc())
    return Outcome(cell=cell, error=None)


def _run(method: Method, plan: Plan, talk: Talk, place: Place, run_cells: RunCells) -> list[Outcome]:
    cells = plan.cells[method]
    outcomes = []
    for number, outcome in enumerate(run_cells(cells, talk), start=1):
        talk.say(f"[{method} {number}/{len(cells)}] {outcome.cell.title}: {outcome.error or 'done'}")
        if outcome.trace is not None:
            _keep(outcome, place)
        outcomes.append(outcome)
    return outcomes


def _keep(outcome: Outcome, place: Place) -> None:
    with (place.out / "errors.log").open("a", encoding="utf-8") as file:
        file.write(f"{outcome.cell.title}\n{outcome.trace}\n")


def _line(text: str) -> str:
    return " ".join(text.split())
