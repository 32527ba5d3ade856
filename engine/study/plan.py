"""Plan a study before anything is run: the cells to run, the steps already on disk, and those that cannot be done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from penultimate.engine.backbones.classifier import refuse_token_encoder
from penultimate.engine.backbones.readouts.network_readouts import readouts_of
from penultimate.engine.backbones.readouts.readout import chosen
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import preprocess_of
from penultimate.engine.extract.extractor import feature_key
from penultimate.engine.extract.prepare import ExtractionJob
from penultimate.engine.images.decode.factory import default_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.probe.api import probed_together
from penultimate.engine.probe.protocol import planned_trial_id
from penultimate.engine.probe.settings import FeatureSettings, KnnSettings, ProbeResources
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.study.cell import (
    Cell,
    ExtractCell,
    ImagesRequest,
    ProbeCell,
    RunContext,
    TrainCell,
    TrainMethod,
)
from penultimate.engine.study.paths import StudyPaths
from penultimate.engine.study.settings import ProbeSection, TrainSection, is_for
from penultimate.engine.study.study import BackboneEntry, Study
from penultimate.engine.train.learner.network import InitName
from penultimate.engine.train.runs.resources import ResourceSettings
from penultimate.engine.train.search.run_search import result_folder
from penultimate.engine.train.settings import InitialModels, TrainSettings
from penultimate.store.errors import PenultimateError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import PENULTIMATE, FeatureKey
from penultimate.store.trials.trial_log import TrialLog

Value = TypeVar("Value")
Status = Literal["there", "to do", "waits", "blocked"]
"""Status of a step: on disk already, to be run, waiting for a network to be trained first, or impossible."""

Method = TrainMethod | Literal["extract", "probe"]
METHODS: tuple[Method, ...] = ("pretrain", "extract", "probe", "finetune", "scratch")
"""All methods, in the order in which they are run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One trial, or the features of one backbone on one dataset."""

    method: Method
    dataset: str
    backbone: str
    setting: str
    """Settings that distinguish it from other steps of the same method, dataset and backbone."""

    status: Status
    reason: str = ""
    """Reason why it waits or is blocked."""

    trial: str | None = None
    """Id of its trial, where that can be known; None for features."""


@dataclass(kw_only=True, slots=True)
class StudyPlan:
    """All steps of a study, and the cells that are still to be run."""

    steps: list[Step] = field(default_factory=list)
    cells: dict[Method, list[Cell]] = field(default_factory=lambda: {method: [] for method in METHODS})
    """Cells to run, in the order of methods; those of one method are independent. Steps on disk have no cell."""

    def with_status(self, *statuses: Status) -> list[Step]:
        """Return the steps with one of these statuses."""
        return [step for step in self.steps if step.status in statuses]

    def trials(self) -> frozenset[str]:
        """Return the ids of the study's trials, as far as they can be known."""
        return frozenset(step.trial for step in self.steps if step.trial is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Identity of a backbone without its tensors: enough to name its features."""

    request: BackboneRequest
    name: str
    weights_digest: str
    preprocess: Preprocess
    precision: str
    readouts: tuple[str, ...]
    """Names of the readouts that the study asks for."""


def images_request(study: Study, name: str) -> ImagesRequest:
    """Return the request for one dataset of the study."""
    return ImagesRequest(name=name, dataset=study.datasets[name], data=study.data, seed=study.seed)


def make_plan(study: Study, paths: StudyPaths, context: RunContext) -> StudyPlan:
    """Plan ``study`` against the results in ``paths``; steps of a missing dataset or network are blocked.

    Reads every dataset (digests come from the cache where it has been read before) and, if there is any dataset, loads
    every network.
    """
    return _Planner(study, paths, context).plan()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A network of the study, and its status: whether it can be used yet."""

    request: BackboneRequest
    status: Status = "to do"
    reason: str = ""
    trained_here: bool = False

    @property
    def name(self) -> str:
        """Return the network's name as far as it is known before it is loaded."""
        return self.request.name or self.request.model


class _Planner:
    def __init__(self, study: Study, paths: StudyPaths, context: RunContext) -> None:
        self._study, self._paths, self._context = study, paths, context
        self._plan = StudyPlan()
        self._ids = _logged(paths.trials)
        self._ids_pretrained = _logged(paths.pretraining / "trials")
        self._store = FeatureStore(paths.store) if _holds_something(paths.store) else None
        self._seen: set[str] = set()
        self._images: dict[str, ImageSet | str] = {}
        """Name of a dataset -> its images, or the reason why they cannot be loaded."""

    def plan(self) -> StudyPlan:
        for name in self._study.datasets:
            self._context.log(f"{name}: reading")
            self._images[name] = _or_why(partial(images_request(self._study, name).load, self._context.state))
        backbones = [each for entry in self._study.backbones for each in self._wanted(entry)]
        if self._study.probe:
            here = any(not isinstance(images, str) for images in self._images.values())
            probed = [wanted for wanted in backbones if self._sections(wanted)]
            self._features([self._identified(wanted) if here else (wanted, None) for wanted in probed])
        for wanted in backbones:
            self._trainings(wanted)
        for cells in self._plan.cells.values():  # so that a dataset is loaded once, not once a network
            cells.sort(key=lambda cell: list(self._images).index(cell.dataset))
        return self._plan

    def _wanted(self, entry: BackboneEntry) -> list[_Wanted]:
        """Return the networks of one entry of the study's ``backbones``."""
        requests = entry.requests(data=self._study.data, seed=self._study.seed)
        if entry.pretrain is None:
            return [_Wanted(request) for request in requests]
        (request,) = requests
        how = entry.pretrain
        named = replace(request, name=entry.name or f"{request.model}.{how.dataset}")
        settings = how.settings(seed=request.seed)
        cell = self._train_cell(how.dataset, named, settings, "pretrain")
        status, folder = self._training(cell, self._ids_pretrained, InitialModels(named))
        if folder is not None:
            return [_Wanted(replace(named, weights=str(folder)), trained_here=True)]
        first = f"it is to be trained on {how.dataset} first"
        return [_Wanted(named, "blocked" if status == "blocked" else "waits", first, trained_here=True)]

    def _identified(self, wanted: _Wanted) -> tuple[_Wanted, Identity | None]:
        request = wanted.request
        if wanted.status != "to do":
            return wanted, None
        self._context.log(f"{request.name or request.model}: loading")
        found = _or_why(lambda: identity_of(request, self._study))
        if isinstance(found, str):
            return replace(wanted, status="blocked", reason=found), None
        return wanted, found

    def _features(self, backbones: Sequence[tuple[_Wanted, Identity | None]]) -> None:
        """Plan for each dataset one cell that extracts all missing features, and the probes on them."""
        for dataset, images in self._images.items():
            lacking = []
            for wanted, identity in backbones:
                if identity is None or isinstance(images, str):
                    why = images if isinstance(images, str) else wanted.reason
                    name = wanted.name if identity is None else identity.name
                    status: Status = "blocked" if isinstance(images, str) else wanted.status
                    self._add("extract", dataset, name, status=status, reason=why)
                    for section in self._sections(wanted):
                        for settings, _ in section.settings():
                            self._add("probe", dataset, name, _setting(settings), status=status, reason=why)
                    continue
                keys = self._keys(images, identity)
                there = [self._store is not None and self._store.contains(key) for key in keys]
                for key, is_there in zip(keys, there, strict=True):
                    self._add("extract", dataset, identity.name, _readout(key), status="there" if is_there else "to do")
                lacking += [] if all(there) else [identity]
                self._probes(images, keys, wanted)
            if lacking:
                self._plan.cells["extract"].append(self._extract_cell(dataset, lacking))

    def _extract_cell(self, dataset: str, lacking: Sequence[Identity]) -> ExtractCell:
        return ExtractCell(
            images=images_request(self._study, dataset),
            job=ExtractionJob(
                requests=tuple(identity.request for identity in lacking), settings=self._study.extraction
            ),
            names=tuple(identity.name for identity in lacking),
            store=str(self._paths.store),
        )

    def _keys(self, images: ImageSet, identity: Identity) -> list[FeatureKey]:
        """Return the key of each readout of a network on ``images``."""
        decoder, dtype = self._study.extraction.decoder_name, self._study.extract.dtype
        return [feature_key(images, identity, decoder, dtype=dtype, readout=readout) for readout in identity.readouts]

    def _sections(self, wanted: _Wanted) -> list[ProbeSection]:
        """Return the sections ``probe`` of the study that are for this network."""
        return [section for section in self._study.probe if is_for(section.only, wanted.request.model)]

    def _probes(self, images: ImageSet, keys: Sequence[FeatureKey], wanted: _Wanted) -> None:
        for section in self._sections(wanted):
            groups = _or_why(partial(probed_together, keys, section))
            for settings, seed in section.settings():
                if isinstance(groups, str):
                    self._add(
                        "probe", images.name, keys[0].backbone, _setting(settings), status="blocked", reason=groups
                    )
                    continue
                for group in groups:
                    self._probe(images, group, settings, seed)

    def _probe(self, images: ImageSet, keys: Sequence[FeatureKey], settings: FeatureSettings, seed: int) -> None:
        cell = ProbeCell(
            keys=tuple(keys),
            settings=settings,
            seed=seed,
            resources=ProbeResources(device=self._study.device),
            store=str(self._paths.store),
            trials=str(self._paths.trials),
        )
        multi_label = images.labels_N.ndim == 2
        trial = planned_trial_id(keys, settings, multi_label=multi_label, metric=images.metric, seed=seed)
        setting = ", ".join(filter(None, (_readout(*keys), _setting(settings))))
        self._add_trial("probe", cell, keys[0].backbone, trial, self._ids, setting)

    def _trainings(self, wanted: _Wanted) -> None:
        """Plan fine-tuning of pretrained networks, and training from scratch, once for each network's name."""
        request, seed = wanted.request, self._study.seed
        models = InitialModels(request)
        finetune = () if request.weights == "random" else self._study.finetune
        for settings in _for(request, finetune, "pretrained", seed):
            for dataset in self._images:
                if wanted.status == "to do":
                    self._training(self._train_cell(dataset, request, settings, "finetune"), self._ids, models)
                else:
                    how = {"status": wanted.status, "reason": wanted.reason}
                    self._add("finetune", dataset, wanted.name, _setting(settings), **how)
        scratch = () if wanted.trained_here else self._study.scratch
        for settings in _for(request, scratch, "random", seed):
            for dataset in self._images:
                self._training(self._train_cell(dataset, request, settings, "scratch"), self._ids, models)

    def _train_cell(
        self, dataset: str, request: BackboneRequest, settings: TrainSettings, what: TrainMethod
    ) -> TrainCell:
        runs = self._paths.pretraining if what == "pretrain" else self._paths.runs
        return TrainCell(
            images=images_request(self._study, dataset),
            request=request,
            settings=settings.replace(decoder=settings.decoder or default_decoder(self._study.device)),
            resources=ResourceSettings(device=self._study.device, workers=self._study.workers or usable_cores()),
            runs=runs,
            trials=runs / "trials" if what == "pretrain" else self._paths.trials,
            what=what,
        )

    def _training(self, cell: TrainCell, ids: frozenset[str], models: InitialModels) -> tuple[Status, Path | None]:
        """Plan one training; return its status, and the folder of the trained network if it has ended."""
        images = self._images[cell.dataset]
        settings = cell.settings
        search = images if isinstance(images, str) else _or_why(lambda: settings.search(images, models.of(settings)))
        if isinstance(search, str):
            name = cell.request.name or cell.request.model
            self._add(cell.what, cell.dataset, name, _setting(settings), status="blocked", reason=search)
            return "blocked", None
        self._add_trial(cell.what, cell, search.initial.label, search.trial_id, ids, _setting(settings))
        folder = result_folder(search, cell.runs)
        return "to do" if folder is None else "there", folder

    def _add_trial(
        self,
        method: Method,
        cell: ProbeCell | TrainCell,
        backbone: str,
        trial: str,
        ids: frozenset[str],
        setting: str,
    ) -> None:
        if trial in self._seen:
            return  # the same trial, named twice: two entries of a study may have a network in common
        self._seen.add(trial)
        there = trial in ids
        status: Status = "there" if there else "to do"
        self._add(method, cell.dataset, backbone, setting, status=status, trial=trial)
        if not there:
            self._plan.cells[method].append(cell)

    def _add(self, method: Method, dataset: str, backbone: str, setting: str = "", **more: Any) -> None:
        self._plan.steps.append(Step(method=method, dataset=dataset, backbone=backbone, setting=setting, **more))


def identity_of(request: BackboneRequest, study: Study) -> Identity:
    """Load the network, and release it again; raises what ``load_network`` raises."""
    loaded = request.load()
    refuse_token_encoder(loaded.model, loaded.name)
    return Identity(
        request=request,
        name=loaded.name,
        weights_digest=loaded.digest,
        preprocess=preprocess_of(loaded.model, study.extract.preprocess),
        precision=study.extract.precision,
        readouts=tuple(
            readout.name for readout in chosen(readouts_of(loaded.model), study.extract.readouts, network=loaded.name)
        ),
    )


def _logged(trials: Path) -> frozenset[str]:
    return TrialLog(trials).ids() if _holds_something(trials) else frozenset()


def _holds_something(folder: Path) -> bool:
    """Return True for a folder with content. A killed process may have left it empty."""
    return folder.is_dir() and any(folder.iterdir())


def _for(request: BackboneRequest, trains: Sequence[TrainSection], init: InitName, seed: int) -> list[TrainSettings]:
    mine = [train for train in trains if is_for(train.only, request.model)]
    return [settings for train in mine for settings in train.settings(init, seed=seed)]


def _readout(*keys: FeatureKey) -> str:
    """Name the readout where it is not the penultimate layer, or how many one is chosen of."""
    if len(keys) > 1:
        return f"best of {len(keys)} readouts"
    return "" if keys[0].readout == PENULTIMATE else keys[0].readout


def _setting(settings: Any) -> str:
    """Name the method knn of a probe, and the settings loss, shots and steps where they are not the default."""
    named = {name: getattr(settings, name, None) for name in ("loss", "shots", "steps")}
    knn = ["knn"] if isinstance(settings, KnnSettings) else []
    return ", ".join(knn + [f"{name} {value}" for name, value in named.items() if value is not None])


def _or_why(load: Callable[[], Value]) -> Value | str:
    """Return the value of ``load``, or the message of its error on one line."""
    try:
        return load()
    except PenultimateError as error:
        return " ".join(str(error).split())
