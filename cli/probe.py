"""``penultimate probe``: whole regularisation paths on stored features, one trial a dataset and backbone."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import typer

from penultimate.cli.cluster import ClusterOption, TaskCpus, open_cluster, resources_of
from penultimate.cli.options import NewTrials, StoreLocation
from penultimate.cli.output import log, print_json, print_table
from penultimate.engine.analysis.dataset_names import told_apart
from penultimate.engine.probe.get_or_fit import get_or_fit
from penultimate.engine.probe.settings import ProbeGrid, ProbeResources, ProbeSettings
from penultimate.engine.runtime.option_types import ALL, Shots
from penultimate.store.errors import InputError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import FeatureKey
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog

_FIELDS = ProbeGrid.model_fields


def _setting(field: str) -> Any:
    """Return the option that a field of ProbeGrid declares."""
    return typer.Option(help=_FIELDS[field].description)


def probe(
    store: StoreLocation,
    trials: NewTrials,
    dataset: Annotated[str, typer.Option(help="Glob over the datasets in the store.")] = "*",
    backbone: Annotated[str, typer.Option(help="Glob over the backbones in the store.")] = "*",
    l2: Annotated[str, _setting("l2")] = _FIELDS["l2"].default,
    metric: Annotated[str | None, _setting("metric")] = _FIELDS["metric"].default,
    loss: Annotated[str | None, _setting("losses")] = None,
    tol: Annotated[float, _setting("tol")] = _FIELDS["tol"].default,
    solver: Annotated[str, _setting("solver")] = _FIELDS["solver"].default,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the path is solved.")] = "cpu",
    shots: Annotated[str | None, _setting("shots")] = None,
    seeds: Annotated[int, _setting("seeds")] = _FIELDS["seeds"].default,
    memory: Annotated[
        str | None,
        typer.Option(help="Stream features that take more than this, e.g. 500M or 4G; default: hold them."),
    ] = None,
    cluster: ClusterOption = None,
    task_cpus: TaskCpus = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table; fractions, not percent.")] = (
        False
    ),
) -> None:
    """Fit the path on train, choose the strength on val, refit on train + val, score test once; keep it as a trial.

    No image and no network is touched. A trial that is logged with the same features and settings is not fitted again.
    Heads are written beside the trials, as heads/TRIAL.safetensors.

    \b
    penultimate probe features.zarr --trials trials/
    penultimate probe features.zarr --trials trials/ --dataset caltech101 --backbone 'tf_*' --l2 1e-4:1e2:25
    penultimate probe features.zarr --trials trials/ --shots 1,2,5,10 --seeds 3
    penultimate probe features.zarr --trials trials/ --loss squared_hinge --memory 4G
    penultimate probe s3://bucket/features --trials s3://bucket/trials --cluster auto --task-cpus 4
    """
    settings = ProbeGrid.of(
        {
            "l2": l2,
            "metric": metric,
            "losses": (loss,),
            "tol": tol,
            "solver": solver,
            "shots": parse_shots(shots),
            "seeds": seeds,
        }
    ).settings()
    opened = FeatureStore(store)
    keys = [key for key in opened.keys() if fnmatchcase(key.dataset, dataset) and fnmatchcase(key.backbone, backbone)]  # noqa: SIM118
    if not keys:
        raise InputError(f"{store} has no complete features of dataset {dataset!r} and backbone {backbone!r}")
    resources = ProbeResources(device=device, memory_bytes=None if memory is None else parse_bytes(memory))
    trial_log = TrialLog.create(trials)
    if cluster is not None:
        found = _probe_on(cluster, opened, keys, trial_log, settings, resources, task_cpus)
    else:
        found = []
        for key in keys:
            features = opened.read(key)
            found += [
                get_or_fit(features, each, trial_log, seed=seed, resources=resources, log=log)
                for each, seed in settings
            ]
    _print(found, json=json)


def _probe_on(
    address: str,
    store: FeatureStore,
    keys: Sequence[FeatureKey],
    trial_log: TrialLog,
    settings: Sequence[tuple[ProbeSettings, int]],
    resources: ProbeResources,
    task_cpus: int | None,
) -> list[Trial]:
    from penultimate.engine.study.cell import ProbeCell
    from penultimate.engine.study.distributed import probe_on

    cells = [
        ProbeCell(
            key=key,
            settings=each,
            seed=seed,
            resources=resources,
            store=store.address,
            trials=trial_log.address,
        )
        for key in keys
        for each, seed in settings
    ]
    with open_cluster(address) as cluster:
        # A path keeps one core busy; the features of several, read at once, are what fills a machine's memory.
        task = resources_of(cluster, device=resources.device, task_cpus=task_cpus, default_cpus=1)
        ids = probe_on(cluster, cells, resources=task, log=log)
    known = {trial.id: trial for trial in trial_log.trials()}
    return [known[trial_id] for trial_id in ids]


def parse_shots(text: str | None) -> list[Shots]:
    """Read ``1,2,5`` as numbers; None means all images."""
    if text is None:
        return [ALL]
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise InputError(f"expected --shots as whole numbers with commas, such as 1,2,5,10; got {text!r}")
    return [int(part) for part in text.split(",")]


def parse_bytes(text: str) -> int:
    """Return ``500M``, ``4G`` or ``1.5G`` in bytes (powers of 1,024)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])i?B?", text, re.IGNORECASE)
    if match is None:
        raise InputError(f"expected a memory limit such as 500M or 4G, got {text!r}")
    return int(float(match[1]) * 1024 ** (1 + "KMGT".index(match[2].upper())))


def _print(trials: Sequence[Trial], *, json: bool) -> None:
    rows = [_row(trial) for trial in told_apart(trials)]
    if json:
        print_json(rows)
        return
    columns = {c: c for c in ("dataset", "backbone", "shots", "seed", "metric")}
    if not any(row["shots"] for row in rows):
        del columns["shots"], columns["seed"]
    shown = [row | {"value": f"{100 * row['value']:.2f}"} for row in rows]
    print_table(shown, columns | {"value": "test %", "l2": "l2", "converged": "converged"})


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "dataset": trial.dataset,
        "backbone": trial.backbone,
        "method": trial.method,
        "metric": trial.metric,
        "value": trial.value,
        "l2": trial.chosen["l2"],
        "shots": trial.settings.get("shots"),
        "seed": trial.seed,
        "n_test": trial.num_test,
        "converged": trial.converged,
        "trial": trial.id,
    }
