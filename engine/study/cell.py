"""Cells: what a study runs, each a small picklable value whose ``run`` leaves its outcome on disk.

A cell needs nothing of the process that planned it, so that any process that sees the same folders may run it; run
again after a kill it goes on, and run twice it does nothing the second time. Cells of one list are independent.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.extract.extract import Report
from penultimate.engine.extract.prepare import ExtractionSettings, extract_requests
from penultimate.engine.images.digest_cache import user_cache
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.summary import summary_of
from penultimate.engine.probe.get_or_fit import ProbeMeans, logged_probe
from penultimate.engine.probe.protocol import ProbeSettings
from penultimate.engine.study.study import Dataset
from penultimate.engine.train.runs.run import Means
from penultimate.engine.train.runs.run import Report as TrainReport
from penultimate.engine.train.search import Search
from penultimate.engine.train.settings import Starts, TrainSettings, logged_search
from penultimate.engine.train.world import world_from_launcher
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import FeatureKey
from penultimate.store.trials.trial_log import TrialLog

TrainMethod = Literal["pretrain", "finetune", "scratch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Talk:
    """What a person who waits is told; no part of a cell."""

    say: Callable[[str], None] = lambda line: None
    images: Callable[[str], AbstractContextManager[Report]] = lambda title: nullcontext(lambda done, total: None)
    """Progress of an extraction, from its title."""

    training: TrainReport = lambda recipe, row: None


QUIET = Talk()


class Cell(Protocol):
    """One thing to run."""

    @property
    def dataset(self) -> str:
        """Whose images or features it takes."""

    @property
    def title(self) -> str:
        """For people: what it does, to what."""

    def run(self, talk: Talk) -> None:
        """Do what is missing of it; raises what the engine raises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesRequest:
    """A dataset as the study asks for it."""

    name: str
    dataset: Dataset
    data: str
    seed: int

    def load(self) -> ImageSet:
        """Raises what ``load_images`` raises. The last few are kept, since cells come in the order of datasets."""
        return _loaded(self)


@lru_cache(maxsize=2)
def _loaded(asked: ImagesRequest) -> ImageSet:
    return asked.dataset.load(asked.name, data=asked.data, seed=asked.seed, cache=user_cache())


def forget_images() -> None:
    """So that datasets are looked at anew."""
    _loaded.cache_clear()


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractCell:
    """One dataset through every network that lacks it, decoded once."""

    images: ImagesRequest
    requests: tuple[BackboneRequest, ...]
    names: tuple[str, ...]
    """Of the backbones, in the same order."""

    settings: ExtractionSettings
    store: Path

    @property
    def dataset(self) -> str:
        """See Cell."""
        return self.images.name

    @property
    def title(self) -> str:
        """See Cell."""
        names = ", ".join(self.names) if len(self.names) < 4 else f"{len(self.names)} backbones"
        return f"extract {self.images.name} with {names}"

    def run(self, talk: Talk) -> None:
        """See Cell."""
        images = self.images.load()
        talk.say(summary_of(images))
        with talk.images(images.name) as report:
            store = FeatureStore.create(self.store)
            extract_requests(images, self.requests, store, self.settings, say=talk.say, report=report)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeCell:
    """One path on the features of one key."""

    key: FeatureKey
    settings: ProbeSettings
    seed: int
    means: ProbeMeans
    store: Path
    trials: Path

    @property
    def dataset(self) -> str:
        """See Cell."""
        return self.key.dataset

    @property
    def title(self) -> str:
        """See Cell."""
        few = "" if self.settings.shots is None else f", {self.settings.shots} shots, seed {self.seed}"
        loss = f", {self.settings.loss}" if self.settings.loss else ""
        return f"probe {self.key.dataset}, {self.key.backbone}{loss}{few}"

    def run(self, talk: Talk) -> None:
        """See Cell."""
        features = FeatureStore(self.store).read(self.key)
        log = TrialLog.create(self.trials)
        logged_probe(features, self.settings, log, seed=self.seed, means=self.means, say=talk.say)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainCell:
    """One search: a grid of runs, the best chosen, test scored once."""

    images: ImagesRequest
    request: BackboneRequest
    settings: TrainSettings
    device: str
    workers: int
    runs: Path
    trials: Path
    what: TrainMethod

    @property
    def dataset(self) -> str:
        """See Cell."""
        return self.images.name

    @property
    def title(self) -> str:
        """See Cell."""
        few = "" if self.settings.shots is None else f", {self.settings.shots} shots"
        budget = "" if self.settings.steps is None else f", {self.settings.steps} steps"
        name = self.request.name or self.request.model
        return f"{self.what} {self.images.name}, {name}{budget}{few}, seed {self.settings.seed}"

    def search(self) -> Search:
        """The question it asks; raises InputError where the images do not allow it."""
        return self.settings.search(self.images.load(), Starts(self.request).of(self.settings))

    def run(self, talk: Talk) -> None:
        """See Cell."""
        search = self.search()
        talk.say(summary_of(search.images))
        self.runs.mkdir(parents=True, exist_ok=True)
        with world_from_launcher(self.device) as world:
            means = Means(world=world, num_workers=self.workers, report=talk.training)
            logged_search(search, self.runs, TrialLog.create(self.trials), means, say=talk.say)
