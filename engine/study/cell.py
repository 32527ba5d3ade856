"""Define the cells of a study: small picklable values whose ``run`` leaves its result on disk.

A cell needs nothing of the process that planned it, so that any process that sees the same folders may run it. Run
again after a kill, it resumes; run twice, it does nothing the second time. Cells of one list are independent.
``penultimate extract`` and ``probe`` on a cluster are lists of cells too.
"""

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from typing_extensions import override

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.extract.embed import complete_keys, embed_images
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.extract.pipeline import ImagesDone
from penultimate.engine.images.digest_cache import user_cache
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.summary import summary_of
from penultimate.engine.probe.get_or_fit import get_or_fit
from penultimate.engine.probe.settings import FeatureSettings, ProbeResources, ProbeSettings
from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.engine.runtime.worker_state import WorkerState
from penultimate.engine.study.study import Dataset
from penultimate.engine.train.runs.resources import EventCallback, ResourceSettings, open_resources
from penultimate.engine.train.search.get_or_train import get_or_train
from penultimate.engine.train.search.grid_search import GridSearch
from penultimate.engine.train.settings import InitialModels, TrainSettings
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import FeatureKey
from penultimate.store.trials.trial_log import TrialLog

Log = Callable[[str], None]
TrainMethod = Literal["pretrain", "finetune", "scratch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContext:
    """Callbacks for a cell's progress, and the state that earlier cells left in this process; not part of a cell."""

    log: Log = lambda line: None
    """Called with each line of progress for the user."""

    images: Callable[[str], AbstractContextManager[ImagesDone]] = lambda title: nullcontext(lambda done, total: None)
    """Called with the title of an extraction; returns a context manager that gives its progress callback."""

    training: EventCallback = lambda recipe, row: None
    """Called with the recipe and the newest row of a training run's history."""

    state: WorkerState = field(default_factory=WorkerState)


class Cell(Protocol):
    """One task of a study."""

    @property
    def dataset(self) -> str:
        """Return the name of the dataset whose images or features it uses."""

    @property
    def title(self) -> str:
        """Return a short description of the task, for people."""

    def run(self, context: RunContext) -> Any:
        """Do what is missing of the task; returns None or a picklable value, and raises what the engine raises."""


class ImagesSource(Protocol):
    """Source of a cell's images; small and picklable."""

    @property
    def name(self) -> str:
        """Return the name of the dataset."""

    def load(self, state: WorkerState) -> ImageSet:
        """Return the images, loading them once for each process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesRequest(ImagesSource):
    """Images of a dataset as the study describes it."""

    name: str
    dataset: Dataset
    data: str
    seed: int

    @override
    def load(self, state: WorkerState) -> ImageSet:
        return state.get_or_make(
            self, lambda: self.dataset.load(self.name, data=self.data, seed=self.seed, cache=user_cache())
        )


class Preparation(Hashable, Protocol):
    """Makes an Extractor, as ``ExtractionJob`` does; picklable, hashable, and the same wherever it is called."""

    @property
    def shard_rows(self) -> int | None:
        """Return the number of samples in a block, None if the set's size decides."""

    def prepare(self, images: ImageSet, store: FeatureStore, log: Log) -> Extractor:
        """Load the networks, and compile them where that saves time."""

    def check(self, extractor: Extractor, images: ImageSet, store: FeatureStore, log: Log) -> dict[str, dict[str, Any]]:
        """Check the networks before anything is embedded; return the notes to store, by name of backbone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckCell(Cell):
    """The parity check of a dataset's backbones, once, before the parts of its extraction."""

    images: ImagesSource
    job: Preparation
    store: str

    @property
    @override
    def dataset(self) -> str:
        return self.images.name

    @property
    @override
    def title(self) -> str:
        return f"{self.images.name}, before all parts"

    @override
    def run(self, context: RunContext) -> tuple[dict[str, dict[str, Any]], list[FeatureKey | None]]:
        """Return the notes by name of backbone, and of each backbone the key of its features if they are there."""
        images, store = self.images.load(context.state), FeatureStore(self.store)
        extractor = context.state.get_or_make(
            self.job, lambda: self.job.prepare(images, store, context.log), capacity=1
        )
        there = complete_keys(images, extractor, store)
        keys = [there.get(plan) for plan in extractor.plans(images)]
        return self.job.check(extractor, images, store, context.log), keys


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractCell(Cell):
    """Embed one dataset, or a part of it, with every network that lacks it, decoding it once."""

    images: ImagesSource
    job: Preparation
    store: str
    names: tuple[str, ...] = ()
    """Names of the backbones, for people."""

    partition: Partition = WHOLE
    checks: Mapping[str, Mapping[str, Any]] | None = None
    """Notes returned by a ``CheckCell``; None to check in this cell."""

    @property
    @override
    def dataset(self) -> str:
        return self.images.name

    @property
    @override
    def title(self) -> str:
        if self.partition != WHOLE:
            return f"{self.images.name}, part {self.partition.index + 1} of {self.partition.count}"
        names = ", ".join(self.names) if len(self.names) < 4 else f"{len(self.names)} backbones"
        return f"extract {self.images.name} with {names}"

    @override
    def run(self, context: RunContext) -> list[tuple[FeatureKey, int]]:
        """Return of each backbone whose features are complete now the key, and how many rows were embedded for it."""
        images, store = self.images.load(context.state), FeatureStore.create(self.store)
        log = context.log if self.checks is None else lambda line: None  # logged once, by the CheckCell
        log(summary_of(images))
        extractor = context.state.get_or_make(self.job, lambda: self.job.prepare(images, store, log), capacity=1)
        checks = self.job.check(extractor, images, store, log) if self.checks is None else self.checks
        with context.images(images.name) as progress:
            extracted = embed_images(
                images, extractor.with_notes(checks), store, partition=self.partition, log=log, progress=progress
            )
        return [(each.features.key, each.num_embedded) for each in extracted]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeCell(Cell):
    """Fit one path, or classify by nearest neighbours: features of one key, or of readouts of which one is chosen."""

    keys: tuple[FeatureKey, ...]
    settings: FeatureSettings
    seed: int
    resources: ProbeResources
    store: str
    trials: str

    @property
    @override
    def dataset(self) -> str:
        return self.keys[0].dataset

    @property
    def label(self) -> str:
        """Return the name of what is probed, for people."""
        first = self.keys[0]
        return first.label if len(self.keys) == 1 else f"{first.backbone}, best of {len(self.keys)} readouts"

    @property
    @override
    def title(self) -> str:
        few = "" if self.settings.shots is None else f", {self.settings.shots} shots, seed {self.seed}"
        loss = self.settings.loss if isinstance(self.settings, ProbeSettings) else None
        loss = f", {loss}" if loss else ""
        return f"{self.settings.method} {self.dataset}, {self.label}{loss}{few}"

    @override
    def run(self, context: RunContext) -> str:
        """Fit and score what is not in the log yet; returns the id of the trial, which is in the log then."""
        store = FeatureStore(self.store)
        features = [store.read(key) for key in self.keys]
        log = TrialLog.create(self.trials)
        return get_or_fit(features, self.settings, log, seed=self.seed, resources=self.resources, log=context.log).id


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainCell(Cell):
    """Search one grid of training runs: choose the best on val and score test once."""

    images: ImagesRequest
    request: BackboneRequest
    settings: TrainSettings
    resources: ResourceSettings
    runs: Path
    trials: Path
    what: TrainMethod

    @property
    @override
    def dataset(self) -> str:
        return self.images.name

    @property
    @override
    def title(self) -> str:
        few = "" if self.settings.shots is None else f", {self.settings.shots} shots"
        budget = "" if self.settings.steps is None else f", {self.settings.steps} steps"
        name = self.request.name or self.request.model
        return f"{self.what} {self.images.name}, {name}{budget}{few}, seed {self.settings.seed}"

    def search(self, state: WorkerState) -> GridSearch:
        """Return the grid search it runs; raises InputError where the images do not allow it."""
        return self.settings.search(self.images.load(state), InitialModels(self.request).of(self.settings))

    @override
    def run(self, context: RunContext) -> None:
        search = self.search(context.state)
        context.log(summary_of(search.images))
        self.runs.mkdir(parents=True, exist_ok=True)
        with open_resources(self.resources, report=context.training, log=context.log) as resources:
            get_or_train(search, self.runs, TrialLog.create(self.trials), resources)
