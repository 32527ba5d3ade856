"""Cells: what a study runs, each a small picklable value whose ``run`` leaves its outcome on disk.

A cell needs nothing of the process that planned it, so that any process that sees the same folders may run it; run
again after a kill it goes on, and run twice it does nothing the second time. Cells of one list are independent.
``penultimate extract`` and ``probe`` on a cluster are lists of cells too.
"""

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from typing_extensions import override

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.extract.embed import Extractor, ImagesDone, embed_images
from penultimate.engine.images.digest_cache import user_cache
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.probe.get_or_fit import get_or_fit
from penultimate.engine.probe.settings import ProbeResources, ProbeSettings
from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.engine.runtime.worker_state import WorkerState
from penultimate.engine.study.study import Dataset
from penultimate.engine.train.runs.resources import Report as TrainReport
from penultimate.engine.train.runs.resources import ResourceSettings, open_resources
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
    """Whom a cell tells how far it is, and what earlier cells left in this process; no part of a cell."""

    log: Log = lambda line: None
    """Called with a line for the person who waits."""

    images: Callable[[str], AbstractContextManager[ImagesDone]] = lambda title: nullcontext(lambda done, total: None)
    """Progress of an extraction, from its title."""

    training: TrainReport = lambda recipe, row: None
    state: WorkerState = field(default_factory=WorkerState)


class Cell(Protocol):
    """One thing to run."""

    @property
    def dataset(self) -> str:
        """Name of the dataset whose images or features it takes."""

    @property
    def title(self) -> str:
        """What it does, and to what, for people."""

    def run(self, context: RunContext) -> Any:
        """Do what is missing of it; raises what the engine raises. What is returned can be sent, or is None."""


class ImagesSource(Protocol):
    """Where a cell gets its images; small and picklable."""

    @property
    def name(self) -> str:
        """Name of the dataset."""

    def load(self, state: WorkerState) -> ImageSet:
        """Return the images, once a process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesRequest(ImagesSource):
    """A dataset as the study asks for it."""

    name: str
    dataset: Dataset
    data: str
    seed: int

    def load(self, state: WorkerState) -> ImageSet:
        """Load the dataset, or return the one that this process has loaded; raises what ``load_images`` raises."""
        return state.get_or_make(
            self, lambda: self.dataset.load(self.name, data=self.data, seed=self.seed, cache=user_cache())
        )


class Preparation(Hashable, Protocol):
    """Makes an Extractor, as ``ExtractionJob`` does; picklable, hashable, and the same wherever it is called."""

    @property
    def shard_rows(self) -> int:
        """Rows of one object of the store."""

    def prepare(self, images: ImageSet, store: FeatureStore, log: Log) -> Extractor:
        """Load networks, and compile them where that pays."""

    def check(self, extractor: Extractor, images: ImageSet, store: FeatureStore, log: Log) -> dict[str, dict[str, Any]]:
        """Return what is to be known before anything is embedded, by name of backbone."""


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
    def run(self, context: RunContext) -> tuple[dict[str, dict[str, Any]], list[FeatureKey]]:
        images, store = self.images.load(context.state), FeatureStore(self.store)
        extractor = context.state.get_or_make(
            self.job, lambda: self.job.prepare(images, store, context.log), capacity=1
        )
        return self.job.check(extractor, images, store, context.log), extractor.keys(images)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractCell(Cell):
    """One dataset, or a part of it, through every network that lacks it, decoded once."""

    images: ImagesSource
    job: Preparation
    store: str
    names: tuple[str, ...] = ()
    """Of the backbones, for people."""

    partition: Partition = WHOLE
    checks: Mapping[str, Mapping[str, Any]] | None = None
    """What a ``CheckCell`` found; None: checked here."""

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
    def run(self, context: RunContext) -> None:
        images, store = self.images.load(context.state), FeatureStore.create(self.store)
        log = context.log if self.checks is None else lambda line: None  # said once, by the CheckCell
        extractor = context.state.get_or_make(self.job, lambda: self.job.prepare(images, store, log), capacity=1)
        checks = self.job.check(extractor, images, store, log) if self.checks is None else self.checks
        with context.images(images.name) as progress:
            embed_images(images, extractor.with_notes(checks), store, partition=self.partition, progress=progress)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeCell(Cell):
    """One path on the features of one key."""

    key: FeatureKey
    settings: ProbeSettings
    seed: int
    resources: ProbeResources
    store: str
    trials: str

    @property
    @override
    def dataset(self) -> str:
        return self.key.dataset

    @property
    @override
    def title(self) -> str:
        few = "" if self.settings.shots is None else f", {self.settings.shots} shots, seed {self.seed}"
        loss = f", {self.settings.loss}" if self.settings.loss else ""
        return f"probe {self.key.dataset}, {self.key.backbone}{loss}{few}"

    @override
    def run(self, context: RunContext) -> str:
        """Fit and score what is not in the log yet; returns the id of the trial, which is in the log then."""
        features = FeatureStore(self.store).read(self.key)
        log = TrialLog.create(self.trials)
        return get_or_fit(features, self.settings, log, seed=self.seed, resources=self.resources, log=context.log).id


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainCell(Cell):
    """One search: a grid of runs, the best chosen, test scored once."""

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
        """Return the question it asks; raises InputError where the images do not allow it."""
        return self.settings.search(self.images.load(state), InitialModels(self.request).of(self.settings))

    @override
    def run(self, context: RunContext) -> None:
        search = self.search(context.state)
        self.runs.mkdir(parents=True, exist_ok=True)
        with open_resources(self.resources, report=context.training, log=context.log) as resources:
            get_or_train(search, self.runs, TrialLog.create(self.trials), resources)
