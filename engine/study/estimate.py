"""Estimate the time a plan takes, from rates measured now on a few of its images or from trials already logged."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import TimmBackbone, backbone_of
from penultimate.engine.bench.throughput import measure
from penultimate.engine.bench.timing.turns import TurnOptions
from penultimate.engine.extract.prepare import ExtractionJob
from penultimate.engine.images.subset import sample_rows, subset
from penultimate.engine.study.cell import ExtractCell, ProbeCell, RunContext, TrainCell
from penultimate.engine.study.plan import StudyPlan
from penultimate.engine.train.runs.resources import open_resources
from penultimate.engine.train.speed import training_images_per_second
from penultimate.store.errors import PenultimateError
from penultimate.store.trials.trial_log import TrialLog

_IMAGES = 16
"""Number of images to measure, evenly spaced in a dataset; two batches on a CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Estimated time of one part of a plan."""

    what: str
    seconds: float | None
    """Estimated seconds; None where nothing was measured."""

    source: str
    """Measurement behind the estimate, or the reason there is none."""


def estimates(plan: StudyPlan, trials: Path, context: RunContext) -> list[Estimate]:
    """Return one estimate for each dataset to extract, one for all probes, and one for each network to train."""
    return [*_extraction(plan, context), *_probes(plan, trials), *_training(plan, context)]


def _extraction(plan: StudyPlan, context: RunContext) -> Iterator[Estimate]:
    """Measure extraction as `penultimate bench extract` does: all backbones from one decode, not compiled."""
    loaded: dict[BackboneRequest, TimmBackbone] = {}
    for cell in plan.cells["extract"]:
        assert isinstance(cell, ExtractCell)
        job = cell.job
        assert isinstance(job, ExtractionJob), "make_plan made it"
        context.log(f"measuring: {cell.title}")
        for request in job.requests:
            if request not in loaded:
                loaded[request] = backbone_of(
                    request.load(),
                    preprocess=job.settings.preprocess,
                    readouts=job.settings.readouts,
                    device=job.settings.device,
                    precision=job.settings.precision,
                )
        images = cell.images.load(context.state)
        sample = subset(images, sample_rows(len(images), _IMAGES))
        try:
            rates = measure(
                sample,
                job.extractor([loaded[request] for request in job.requests]),
                TurnOptions(rounds=1),
                num_parameters=sum(loaded[request].num_parameters for request in job.requests),
                shared_cores=job.settings.device == "cpu",
            ).warm
        except PenultimateError as error:
            yield Estimate(what=cell.title, seconds=None, source=str(error))
            continue
        source = (
            f"{len(images):,} images at {rates.end_to_end:,.1f}/s end to end, measured now on {len(sample)} of them, "
            f"not compiled; bottleneck: {rates.bottleneck()}"
        )
        yield Estimate(what=cell.title, seconds=len(images) / rates.end_to_end, source=source)


def _probes(plan: StudyPlan, trials: Path) -> Iterator[Estimate]:
    """Estimate probes, and neighbours, from the logged ones of the same dataset, or else from all that are logged."""
    cells = [cell for cell in plan.cells["probe"] if isinstance(cell, ProbeCell)]
    known = TrialLog(trials).trials() if cells and trials.exists() else []
    for method, plural in (("probe", "probes"), ("knn", "knn trials")):
        mine = [cell for cell in cells if cell.settings.method == method]
        logged: defaultdict[str, list[float]] = defaultdict(list)
        for trial in known:
            if trial.method == method:
                logged[trial.dataset].append(trial.wall_seconds)
        if mine:
            yield _of_logged(plural, mine, logged)


def _of_logged(plural: str, cells: Sequence[ProbeCell], logged: Mapping[str, Sequence[float]]) -> Estimate:
    everywhere = [seconds for of_dataset in logged.values() for seconds in of_dataset]
    what = f"{plural}: {len(cells)}"
    if not everywhere:
        return Estimate(what=what, seconds=None, source=f"no {plural.removesuffix('s')} is logged here to go by")
    seconds = sum(median(logged.get(cell.dataset) or everywhere) for cell in cells)
    source = f"medians of the {len(everywhere)} {plural} logged here, by dataset where there is one"
    return Estimate(what=what, seconds=seconds, source=source)


def _training(plan: StudyPlan, context: RunContext) -> Iterator[Estimate]:
    """Measure one rate for each network and input size, on the first dataset it is trained on."""
    groups: defaultdict[tuple[str, BackboneRequest, int | None, str], list[TrainCell]] = defaultdict(list)
    for method in ("pretrain", "finetune", "scratch"):
        for cell in plan.cells[method]:
            assert isinstance(cell, TrainCell)
            groups[method, cell.request, cell.settings.size, cell.settings.precision].append(cell)
    for (method, *_), cells in groups.items():
        first = cells[0]
        context.log(f"measuring: {first.title}")
        with open_resources(first.resources) as resources:
            rate = training_images_per_second(first.search(context.state), resources)
        grids = [cell.settings.resolved_grid for cell in cells]
        updates = [
            (len(grid) + cell.settings.retrain) * cell.settings.num_steps
            for grid, cell in zip(grids, cells, strict=True)
        ]
        batches = [cell.settings.batch_size or grid.batch_size for grid, cell in zip(grids, cells, strict=True)]
        images = sum(number * batch for number, batch in zip(updates, batches, strict=True))
        name = first.request.name or first.request.model
        source = (
            f"{sum(updates):,} updates, {images:,} images at {rate:,.1f}/s, measured now on a few updates; "
            "evaluations are not counted"
        )
        yield Estimate(what=f"{method} {name}, trials: {len(cells)}", seconds=images / rate, source=source)
