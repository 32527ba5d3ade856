"""``penultimate study``: plan and run a whole comparison from one YAML file, and resume it after interruptions."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from penultimate.cli import options
from penultimate.cli.cluster import ClusterOption, TaskCpus, open_cluster, resources_of
from penultimate.cli.output import log, print_json, print_table, with_readout
from penultimate.cli.progress import ImageProgress
from penultimate.cli.training_progress import TrainingProgress
from penultimate.engine.study.cell import RunContext
from penultimate.engine.study.document import read_study
from penultimate.engine.study.estimate import Estimate, estimates
from penultimate.engine.study.paths import StudyPaths
from penultimate.engine.study.plan import METHODS, Status, Step, StudyPlan, make_plan
from penultimate.engine.study.run import Summary, run_study
from penultimate.engine.study.study import Study
from penultimate.store.errors import InputError
from penultimate.store.trials.trial import Trial

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Run a study written in YAML, or begin one.")

_PROBLEMS_SHOWN = 20

_TRIAL_COLUMNS = {
    "dataset": "dataset",
    "backbone": "backbone",
    "readout": "readout",
    "method": "method",
    "setting": "setting",
    "seed": "seed",
    "metric": "metric",
    "value": "test %",
    "converged": "converged",
}


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="STUDY", help="File to write; one that is there is kept.")] = Path(
        "study.yaml"
    ),
) -> None:
    """Write a commented example to start from.

    \b
    penultimate study init mine.yaml
    penultimate study run mine.yaml --dry-run
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(example())
    except FileExistsError as error:
        raise InputError(f"{path} is there already; name another file, or remove it") from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error
    log(f"{path} is written; next: penultimate study run {path} --dry-run")


def example() -> str:
    """Return the text that ``init`` writes."""
    return files("penultimate.engine.study").joinpath("example.yaml").read_text(encoding="utf-8")


@app.command("run")
def run_command(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The YAML file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the results; default: the file's name without its ending."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="A.B=C",
            help="Change one setting, e.g. data=/mnt/datasets or probe.0.l2=0.1; repeats.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would run, what is there, and how long it will take.")
    ] = False,
    estimate: Annotated[
        bool,
        typer.Option("--estimate/--no-estimate", help="With --dry-run: how long it takes, measured on a few images."),
    ] = True,
    cluster: ClusterOption = None,
    task_cpus: TaskCpus = None,
    task_gpus: Annotated[
        int, typer.Option(min=1, help="With --cluster and a study on GPUs: GPUs of a task; training uses all of them.")
    ] = 1,
    json: options.Json = False,
) -> None:
    """Run what is missing of a study: features once a dataset, then probes and training, then the trials' scores.

    Killed, interrupted or extended, the same command goes on: what is there is found by what it was made from. What
    fails does not stop the rest; it is listed at the end, with exit code 1. OUT holds the resolved study, the feature
    store (or `store:` names one to share), the trials and the training runs.

    \b
    penultimate study run examples/caltech-lite.yaml --set data=/mnt/datasets --dry-run
    penultimate study run examples/caltech-lite.yaml --set data=/mnt/datasets --out results/
    penultimate study run examples/kornblith2019.yaml --cluster auto --task-gpus 4
    penultimate report results/trials -o report.html
    """
    resolved = read_study(study, changes or [])
    paths = StudyPaths.of(resolved, out or Path(study.stem))
    context = RunContext(log=log, images=ImageProgress, training=TrainingProgress())
    if dry_run:
        _show(make_plan(resolved, paths, context), paths, context, estimate=estimate, json=json)
        return
    if cluster is not None:
        summary = _run_on(cluster, resolved, paths, context, task_cpus, task_gpus)
    else:
        summary = run_study(resolved, paths.out, context)
    rows = [_row(trial) for trial in summary.trials]
    if json:
        print_json(rows)
    else:
        shown = [row | {"value": f"{100 * row['value']:.2f}"} for row in rows]
        print_table(shown, with_readout(_TRIAL_COLUMNS, rows))
    _log_summary(summary, paths)


def _run_on(
    address: str, study: Study, paths: StudyPaths, context: RunContext, task_cpus: int | None, task_gpus: int
) -> Summary:
    from penultimate.engine.study.distributed import cells_on

    with open_cluster(address) as cluster:
        resources = resources_of(cluster, device=study.device, task_cpus=task_cpus, task_gpus=task_gpus)
        return run_study(study, paths.out, context, run_cells=cells_on(cluster, resources))


def _show(plan: StudyPlan, paths: StudyPaths, context: RunContext, *, estimate: bool, json: bool) -> None:
    found = estimates(plan, paths.trials, context) if estimate else []
    if json:
        print_json({"steps": [asdict(step) for step in plan.steps], "estimates": [asdict(each) for each in found]})
        return
    methods = [method for method in METHODS if any(step.method == method for step in plan.steps)]
    cells: defaultdict[tuple[str, str], defaultdict[str, list[Step]]] = defaultdict(lambda: defaultdict(list))
    for step in plan.steps:
        cells[step.dataset, step.backbone][step.method].append(step)
    rows = [
        {"dataset": dataset, "backbone": backbone, **{method: _counts(steps) for method, steps in by.items()}}
        for (dataset, backbone), by in cells.items()
    ]
    print_table(rows, {name: name for name in ("dataset", "backbone", *methods)})
    if found:
        print_table([_estimate_row(each) for each in found], {name: name for name in ("what", "time", "from")})
    known = [each.seconds for each in found if each.seconds is not None]
    if known:
        log(f"about {_duration(sum(known))} on this machine for what could be measured")
    _log_problems(plan.with_status("blocked"))


def _counts(steps: Sequence[Step]) -> str:
    """Count the steps by status, for example ``1 there, 2 to do``."""
    counts = Counter(step.status for step in steps)
    return ", ".join(f"{counts[status]} {status}" for status in get_args(Status) if counts[status])


def _estimate_row(each: Estimate) -> dict[str, Any]:
    return {"what": each.what, "time": "" if each.seconds is None else _duration(each.seconds), "from": each.source}


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} s"


def _row(trial: Trial) -> dict[str, Any]:
    named = {name: trial.settings.get(name) for name in ("loss", "shots", "steps")}
    return {
        "dataset": trial.dataset,
        "backbone": trial.backbone,
        "readout": trial.readout_text,
        "method": trial.method,
        "setting": ", ".join(f"{name} {value}" for name, value in named.items() if value is not None),
        "seed": trial.seed,
        "metric": trial.metric,
        "value": trial.value,
        "n_test": trial.num_test,
        "converged": trial.converged,
        "trial": trial.id,
    }


def _log_summary(summary: Summary, paths: StudyPaths) -> None:
    log(f"{summary.ran} cells run, {summary.there} steps were there before; results in {paths.out}")
    log(f"next: penultimate report {paths.trials} -o {paths.out / 'report.html'}")
    _log_problems(summary.problems)
    for result in summary.failed:
        log(f"failed: {result.cell.title}: {result.error}")
    if any(result.trace for result in summary.failed):
        log(f"what nobody foresaw is in {paths.out / 'errors.log'}")
    if summary.failed or summary.problems:
        raise typer.Exit(code=1)


def _log_problems(problems: Iterable[Step]) -> None:
    """Print one line for each reason why steps cannot be done."""
    by_reason: defaultdict[str, list[Step]] = defaultdict(list)
    for step in problems:
        by_reason[step.reason].append(step)
    for reason, steps in list(by_reason.items())[:_PROBLEMS_SHOWN]:
        log(f"cannot be done: {len(steps)} steps, the first {_name(steps[0])}: {reason}")
    if len(by_reason) > _PROBLEMS_SHOWN:
        log(f"and {len(by_reason) - _PROBLEMS_SHOWN} more reasons; --dry-run --json has all")


def _name(step: Step) -> str:
    return f"{step.method} {step.dataset}, {step.backbone}"
