"""Train networks from Python, as ``penultimate train`` does."""

from pathlib import Path
from typing import Any

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.images.decode.factory import default_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_labelled_images
from penultimate.engine.runtime.devices import dtype_named
from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.engine.train.runs.resources import Resources, open_resources
from penultimate.engine.train.search.get_or_train import get_or_train
from penultimate.engine.train.search.search_result import SearchResult
from penultimate.engine.train.settings import InitialModels
from penultimate.engine.train.sweep import TrainJob
from penultimate.store.trials.trial_log import TrialLog


def train(
    images: ImageSet | str | Path,
    model: str,
    out: str | Path,
    *,
    weights: str = "timm",
    trials: str | Path | None = None,
    partition: Partition = WHOLE,
    **settings: Any,
) -> list[SearchResult]:
    """Fine-tune a network or train it from scratch: choose on val, train again on train + val, score test once.

    Killed or interrupted, the same call goes on at the last checkpoint; runs and trials that have ended are read, not
    repeated.

    Parameters
    ----------
    images
        An ImageSet, or what ``load_images`` reads: a folder, a manifest, or the name of a dataset.
    model
        A timm name, ``arch`` or ``arch.tag``.
    out
        Folder of the runs, one below it for each; made if it is not there.
    weights
        Weights to fine-tune: ``timm``, ``package``, a .safetensors or .pth file, or the folder of another run.
    trials
        The trial log: a folder or an s3://, gs:// or az:// address. By default ``trials`` below ``out``.
    partition
        The part of the runs that this call does, so that N machines divide a grid. The trial is made by the call that
        finds all runs ended.
    **settings
        Any field of TrainJob, which ``penultimate settings train`` lists with its type, range, default and meaning.
        Used most: ``init`` ("pretrained" or "random"), ``grid`` ("paper-finetune", "paper-scratch", "quick"),
        ``learning_rates`` and ``weight_decays`` in place of the grid's, ``steps`` (updates of a run; several are
        budgets), ``batch_size`` (images an update), ``shots`` (images a class), ``size`` (pixels of the input's side),
        ``seed``, ``device`` ("cpu" or "cuda"), ``workers`` (threads that decode).

    Returns
    -------
    list of SearchResult
        One for each trial, in the order of ``steps``, then ``shots``, then seeds. ``trial`` holds the scores, the
        predictions on test and the curves; ``folder`` is the run whose network is the result, which ``load_backbone``
        and ``extract`` take as ``weights``.

    Raises
    ------
    InputError
        For an unknown setting, a value out of range, and images that do not suit the settings. Nothing is begun.
    UnavailableError
        For a device, precision, decoder or package that is not here.
    NoRunConvergedError
        If every run of a grid diverged.
    RunInterruptedError
        After a checkpoint, on Ctrl-C or SIGTERM.

    Examples
    --------
    ::

        import penultimate

        (result,) = penultimate.train(
            "photos/", model="test_resnet", out="runs/", init="random", size=32, batch_size=4, steps=8,
            learning_rates=0.05,
        )
        print(result.trial.value, result.trial.chosen, result.folder)
    """
    job = TrainJob.of(settings)
    if not isinstance(images, ImageSet):
        images = load_labelled_images(str(images), seed=job.seed)
    request = BackboneRequest(model=model, weights=weights, seed=job.seed)
    with open_resources(job) as resources:
        return train_job(images, request, job, resources, out=Path(out), trials=trials, partition=partition)


def train_job(
    images: ImageSet,
    request: BackboneRequest,
    job: TrainJob,
    resources: Resources,
    *,
    out: Path,
    trials: str | Path | None = None,
    partition: Partition = WHOLE,
) -> list[SearchResult]:
    """Do all trials of ``job``, or read them from the log. All of the request is checked before the first begins."""
    dtype_named(job.precision, resources.world.device)
    models = InitialModels(request)
    settings = [trial.replace(decoder=trial.decoder or default_decoder(job.device)) for trial in job.trials()]
    searches = [each.search(images, models.of(each)) for each in settings]
    log = _open_log(out, str(trials or out / "trials"), resources)
    return [get_or_train(search, out, log, resources, partition=partition) for search in searches]


def _open_log(out: Path, trials: str, resources: Resources) -> TrialLog:
    if resources.world.is_main:
        out.mkdir(parents=True, exist_ok=True)
        TrialLog.create(trials)
    resources.world.barrier()
    return TrialLog(trials)
