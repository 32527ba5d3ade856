"""``penultimate probe``: whole regularisation paths on stored features, one trial a dataset and backbone."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import typer

from penultimate.cli.cluster import ClusterOption, TaskCpus, needs_of, open_cluster
from penultimate.cli.options import NewTrials, StorePlace
from penultimate.cli.output import print_json, print_table, say
from penultimate.engine.analysis.dataset_names import told_apart
from penultimate.engine.probe.get_or_fit import ProbeMeans, logged_probe
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import ProbeSettings
from penultimate.store.errors import InputError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import FeatureKey
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog


def probe(
    store: StorePlace,
    trials: NewTrials,
    dataset: Annotated[str, typer.Option(help="Glob over the datasets in the store.")] = "*",
    backbone: Annotated[str, typer.Option(help="Glob over the backbones in the store.")] = "*",
    l2: Annotated[
        str | None,
        typer.Option(help="Strengths on the sum of losses, log-spaced: FROM:TO:HOW_MANY. Default: the paper's 45."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Choose and score by this; default: the dataset's own.")] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="softmax, logistic (one-vs-rest) or squared_hinge; default: by the labels."),
    ] = None,
    tol: Annotated[
        float,
        typer.Option(
            help="Stop when the certified gap to the optimum is at most this share of the objective (mean loss + "
            "l2/2N |W|^2) and the gap expected at most a hundredth of this share of "
            "l2/2N |W|^2: W within 0.1 % by default."
        ),
    ] = 1e-4,
    solver: Annotated[str, typer.Option(help="torch (certified), cuml or sklearn; the same objective.")] = "torch",
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the path is solved.")] = "cpu",
    shots: Annotated[str | None, typer.Option(help="Training images a class, e.g. 1,2,5,10; default: all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Subsets drawn for each number of shots.")] = 1,
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
    opened = FeatureStore(store)
    keys = [key for key in opened.keys() if fnmatchcase(key.dataset, dataset) and fnmatchcase(key.backbone, backbone)]  # noqa: SIM118
    if not keys:
        raise InputError(f"{store} has no complete features of dataset {dataset!r} and backbone {backbone!r}")
    path = RegularizationPath.paper() if l2 is None else RegularizationPath.parse(l2)
    asked = [
        ProbeSettings(path=path, metric=metric, loss=loss, tol=tol, solver=solver, shots=count)
        for count in parse_shots(shots)
    ]
    means = ProbeMeans(device=device, memory_bytes=None if memory is None else parse_bytes(memory))
    log = TrialLog.create(trials)
    pairs = tuple((settings, seed) for settings in asked for seed in range(seeds if settings.shots else 1))
    if cluster is not None:
        found = _probe_on(cluster, opened, keys, log, pairs, means, task_cpus)
    else:
        found = []
        for key in keys:
            features = opened.read(key)
            found += [
                logged_probe(features, settings, log, seed=seed, means=means, say=say) for settings, seed in pairs
            ]
    _print(found, json=json)


def _probe_on(
    address: str,
    store: FeatureStore,
    keys: Sequence[FeatureKey],
    log: TrialLog,
    asked: tuple[tuple[ProbeSettings, int], ...],
    means: ProbeMeans,
    task_cpus: int | None,
) -> list[Trial]:
    from penultimate.engine.study.cluster_tasks import ProbeTask, probe_on

    tasks = [ProbeTask(store=store.address, trials=log.address, key=key, asked=asked, means=means) for key in keys]
    with open_cluster(address) as cluster:
        # A path keeps one core busy; the features of several, read at once, are what fills a machine's memory.
        needs = needs_of(cluster, device=means.device, task_cpus=task_cpus, default_cpus=1)
        ids = probe_on(cluster, tasks, needs=needs, say=say)
    known = {trial.id: trial for trial in log.trials()}
    return [known[trial_id] for trial_id in ids]


def parse_shots(text: str | None) -> list[int | None]:
    """``1,2,5`` as numbers; all images for None."""
    if text is None:
        return [None]
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise InputError(f"expected --shots as whole numbers with commas, such as 1,2,5,10; got {text!r}")
    return [int(part) for part in text.split(",")]


def parse_bytes(text: str) -> int:
    """``500M``, ``4G`` or ``1.5G`` in bytes (powers of 1,024)."""
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
