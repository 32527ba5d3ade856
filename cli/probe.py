"""``penultimate probe``: fit regularisation paths on stored features, one trial for each dataset and backbone."""

from collections.abc import Sequence
from typing import Any

from penultimate.cli import options
from penultimate.cli.cluster import ClusterOption, TaskCpus, open_cluster, resources_of
from penultimate.cli.output import log, print_json, print_table, with_readout
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.analysis.dataset_names import told_apart
from penultimate.engine.probe.api import matching_keys, probe_sets, probed_together
from penultimate.engine.probe.settings import ProbeJob
from penultimate.engine.report.names import chosen_text
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import FeatureKey
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog

_FLAGS = {
    options.WHAT: ("method", "choose_readout", "losses --loss", "metric", "choose_by", "shots", "seeds"),
    options.HOW: ("l2", "tol", "solver", "class_weight", "transform", "k --k", "temperatures --temperature"),
    options.WHERE: ("device", "memory", "keep_path"),
}


@with_settings(ProbeJob, flags=_FLAGS)
def probe(
    store: options.StoreLocation,
    trials: options.NewTrials,
    settings: Given,
    dataset: options.DatasetGlob = "*",
    backbone: options.BackboneGlob = "*",
    readout: options.ReadoutGlob = "*",
    cluster: ClusterOption = None,
    task_cpus: TaskCpus = None,
    json: options.Json = False,
) -> None:
    """Fit the path on train, choose the strength on val, refit on train + val, score test once; keep it as a trial.

    With --method knn the k most similar training images vote instead; k and the temperature are chosen in the same way.
    No image and no network is touched. A trial that is logged with the same features and settings is not fitted again.
    Heads of probes are written beside the trials, as heads/TRIAL.safetensors, and paths as paths/*.safetensors: there
    probes of the same features with other strengths, metrics or class weights begin.

    \b
    penultimate probe features.zarr --trials trials/
    penultimate probe features.zarr --trials trials/ --dataset caltech101 --backbone 'tf_*' --l2 1e-4:1e2:25
    penultimate probe features.zarr --trials trials/ --method knn --k 5,10,20,50
    penultimate probe features.zarr --trials trials/ --shots 1,2,5,10 --seeds 3
    penultimate probe features.zarr --trials trials/ --readout '*cls*' --choose-readout
    penultimate probe features.zarr --trials trials/ --transform standardize --class-weight balanced
    penultimate probe features.zarr --trials trials/ --loss squared_hinge --memory 4G
    penultimate probe s3://bucket/features --trials s3://bucket/trials --cluster auto --task-cpus 4
    """
    job = ProbeJob.of(settings)
    opened = FeatureStore(store)
    groups = probed_together(matching_keys(opened, dataset, backbone, readout), job)
    trial_log = TrialLog.create(trials)
    if cluster is not None:
        found = _probe_on(cluster, opened, groups, trial_log, job, task_cpus)
    else:
        found = probe_sets(([opened.read(key) for key in group] for group in groups), job, trial_log, log=log)
    _print(found, json=json)


def _probe_on(
    address: str,
    store: FeatureStore,
    groups: Sequence[Sequence[FeatureKey]],
    trial_log: TrialLog,
    job: ProbeJob,
    task_cpus: int | None,
) -> list[Trial]:
    from penultimate.engine.study.cell import ProbeCell
    from penultimate.engine.study.distributed import probe_on

    cells = [
        ProbeCell(
            keys=tuple(group),
            settings=each,
            seed=seed,
            resources=job.resources,
            store=store.address,
            trials=trial_log.address,
        )
        for group in groups
        for each, seed in job.settings()
    ]
    with open_cluster(address) as cluster:
        # A path keeps one core busy; the features of several, read at once, are what fills a machine's memory.
        task = resources_of(cluster, device=job.device, task_cpus=task_cpus, default_cpus=1)
        ids = probe_on(cluster, cells, resources=task, log=log)
    known = {trial.id: trial for trial in trial_log.trials()}
    return [known[trial_id] for trial_id in ids]


def _print(trials: Sequence[Trial], *, json: bool) -> None:
    rows = [_row(trial) for trial in told_apart(trials)]
    if json:
        print_json(rows)
        return
    columns = {c: c for c in ("dataset", "backbone", "readout", "shots", "seed", "metric")}
    if not any(row["shots"] for row in rows):
        del columns["shots"], columns["seed"]
    shown = [row | {"value": f"{100 * row['value']:.2f}", "chosen": chosen_text(row["chosen"])} for row in rows]
    print_table(shown, with_readout(columns, rows) | {"value": "test %", "chosen": "chosen", "converged": "converged"})


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "dataset": trial.dataset,
        "backbone": trial.backbone,
        "readout": trial.readout_text,
        "method": trial.method,
        "metric": trial.metric,
        "value": trial.value,
        "chosen": dict(trial.chosen),
        "l2": trial.chosen.get("l2"),
        "shots": trial.settings.get("shots"),
        "seed": trial.seed,
        "n_test": trial.num_test,
        "converged": trial.converged,
        "trial": trial.id,
    }
