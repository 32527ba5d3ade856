"""``penultimate probe``: whole regularisation paths on stored features, one trial a (dataset, backbone)."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from penultimate.cli.output import print_json, print_table
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.select import ProbeSettings, asked_id, run_probe
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trial import Trial
from penultimate.store.trial_log import TrialLog


def probe(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a feature store.")],
    trials: Annotated[Path, typer.Option("--trials", help="Folder of the trial log; made if it is not there.")],
    dataset: Annotated[str, typer.Option(help="Glob over the datasets in the store.")] = "*",
    backbone: Annotated[str, typer.Option(help="Glob over the backbones in the store.")] = "*",
    l2: Annotated[
        str | None,
        typer.Option(help="Strengths on the sum of losses, log-spaced: FROM:TO:HOW_MANY. Default: the paper's 45."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Choose and score by this; default: the dataset's own.")] = None,
    tol: Annotated[
        float, typer.Option(help="Certified gap to the optimum, relative to the objective, at which a fit may stop.")
    ] = 1e-4,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the path is solved.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table; fractions, not percent.")] = (
        False
    ),
) -> None:
    """Fit the path on train, choose the strength on val, refit on train + val, score test once; keep it as a trial.

    No image and no network is touched. A trial that is logged with the same features and settings is not fitted again.

    \b
    penultimate probe features.zarr --trials trials/
    penultimate probe features.zarr --trials trials/ --backbone 'tf_*' --l2 1e-4:1e2:25
    """
    opened = FeatureStore(store)
    keys = [key for key in opened.keys() if fnmatchcase(key.dataset, dataset) and fnmatchcase(key.backbone, backbone)]  # noqa: SIM118
    if not keys:
        raise InputError(f"{store} has no complete features of dataset {dataset!r} and backbone {backbone!r}")
    settings = ProbeSettings(
        path=RegularizationPath.paper() if l2 is None else RegularizationPath.parse(l2), metric=metric, tol=tol
    )
    log = TrialLog.create(trials)
    found = [_trial(opened.read(key), settings, device, log) for key in keys]
    if json:
        print_json([_row(trial) for trial in found])
    else:
        rows = [_row(trial) | {"value": f"{100 * trial.value:.2f}"} for trial in found]
        print_table(rows, {**{c: c for c in ("dataset", "backbone", "metric")}, "value": "test %", "l2": "l2"})


def _trial(features: FeatureSet, settings: ProbeSettings, device: str, log: TrialLog) -> Trial:
    wanted = asked_id(features, settings)
    for trial in log.trials():
        if trial.id == wanted:
            return trial
    name = f"{features.key.dataset}, {features.key.backbone}"
    typer.echo(f"{name}: {len(settings.path.l2)} strengths on {len(features.rows('train')):,} images", err=True)
    trial = run_probe(features, settings, device=device).trial
    log.append(trial)
    for note in trial.notes:
        typer.echo(f"{name}: {note}", err=True)
    typer.echo(f"{name}: {100 * trial.value:.2f} % {trial.metric} in {trial.wall_seconds:.1f} s", err=True)
    return trial


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "dataset": trial.dataset,
        "backbone": trial.backbone,
        "method": trial.method,
        "metric": trial.metric,
        "value": trial.value,
        "l2": trial.chosen["l2"],
        "n_test": trial.num_test,
        "converged": trial.converged,
        "trial": trial.id,
    }
