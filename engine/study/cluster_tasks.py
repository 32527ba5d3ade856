"""Spread: an extraction, or the probes of a store, as the tasks of a cluster; it knows what is run, not on what.

Each part of an extraction is a range of shards, written by ``extract`` as ``--shard I/N`` writes it. The parity check
is a task of its own, once, before them. Each task of probes is one (dataset, backbone) with all its settings.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from penultimate.engine.backbones.backbone import Backbone
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import TimmBackbone
from penultimate.engine.extract.extract import extract, feature_key, said_not_finite
from penultimate.engine.extract.prepare import ExtractionSettings, checked, prepared_backbones
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.probe.get_or_fit import ProbeMeans, logged_probe
from penultimate.engine.probe.protocol import ProbeSettings
from penultimate.engine.runtime.partition import Share
from penultimate.engine.runtime.threads import ThreadShare
from penultimate.store.errors import TasksFailedError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.layout import SHARD_ROWS, num_shards
from penultimate.store.key import FeatureKey
from penultimate.store.trials.trial_log import TrialLog

if TYPE_CHECKING:  # Ray, only where a cluster was asked for
    from penultimate.engine.runtime.ray_cluster import Cluster, Ended, Needs, Shared, Standing, Talk

PARTS_A_PLACE = 4
"""Parts of an extraction for each task that can run at once: fewer leave workers idle at the end, more begin often."""

Say = Callable[[str], None]
Progress = Callable[["Standing"], None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prepared:
    """What a worker extracts with."""

    backbones: Sequence[Backbone]
    decoder: Decoder
    batch_size: int
    dtype: str
    threads: ThreadShare
    notes: Mapping[str, Mapping[str, Any]]
    """By name of backbone: joins the provenance."""


class Preparation(Protocol):
    """Makes what a worker needs; picklable, hashable, and the same wherever it is called."""

    def prepare(self, images: ImageSet, store: FeatureStore, say: Say) -> Prepared:
        """Load networks, and compile them where that pays."""

    def check(self, prepared: Prepared, images: ImageSet, store: FeatureStore, say: Say) -> dict[str, Any]:
        """By name of backbone, what is to be known before any part is begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The Preparation of what people ask for."""

    requests: tuple[BackboneRequest, ...]
    settings: ExtractionSettings
    workers: int = 1
    """Who share the images: whether compiling pays depends on what one of them embeds."""

    def prepare(self, images: ImageSet, store: FeatureStore, say: Say) -> Prepared:
        """See ``Preparation.prepare``."""
        settings = self.settings

        def num_to_do(backbone: TimmBackbone) -> int:
            key = feature_key(images, backbone, settings.decoder_name, dtype=settings.dtype)
            return 0 if store.contains(key) else len(images) // self.workers

        backbones, reasons = prepared_backbones(self.requests, settings, num_images=num_to_do, say=say)
        return Prepared(
            backbones=backbones,
            decoder=settings.make_decoder(),
            batch_size=settings.rows,
            dtype=settings.dtype,
            threads=settings.threads,
            notes={name: {"compile": reason} for name, reason in reasons.items()},
        )

    def check(self, prepared: Prepared, images: ImageSet, store: FeatureStore, say: Say) -> dict[str, Any]:
        """See ``Preparation.check``: parity, of those that are not there yet."""
        found: dict[str, Any] = {}
        for backbone in prepared.backbones:
            assert isinstance(backbone, TimmBackbone), "prepare made it"
            key = feature_key(images, backbone, prepared.decoder.name, dtype=prepared.dtype)
            needed = self.settings.parity and not store.contains(key)
            gate = checked(images, backbone, prepared.decoder, self.settings, say) if needed else None
            found[backbone.name] = {"parity": gate}
        return found


def extract_on(
    cluster: "Cluster",
    images: ImageSet,
    preparation: Preparation,
    store: FeatureStore,
    *,
    needs: "Needs",
    shard_rows: int = SHARD_ROWS,
    say: Say,
    report: Progress,
) -> list[FeatureSet]:
    """As ``extract``, on a cluster; the store is then the one a single process would have made.

    Raises TasksFailedError, once all others have ended, if a part failed each time it was tried.
    """
    from penultimate.engine.runtime.ray_cluster import Task

    shared = cluster.share(images)
    first = Task(name=f"{images.name}, before all parts", call=_Check(shared, preparation, store.address))
    checks, keys = _values(cluster.run([first], needs, say=say))[0]
    shards = num_shards(len(images), shard_rows)
    count = min(shards, PARTS_A_PLACE * cluster.places(needs))
    parts = [Share(index=index, count=count) for index in range(count)]
    lacking = any(not store.contains(key) for key in keys)
    tasks = [
        Task(
            name=f"{images.name}, part {part.index + 1} of {count}",
            call=_Part(shared, preparation, store.address, part, shard_rows, checks),
            num_images=min(part.shards(shards).stop * shard_rows, len(images)) - part.shards(shards).start * shard_rows,
        )
        for part in parts
        if lacking
    ]
    _values(cluster.run(tasks, needs, say=say, report=report))
    extracted = [store.read(key) for key in keys]
    said_not_finite(store, extracted, say)
    return extracted


@dataclass(frozen=True, slots=True)
class _Check:
    """What is done once; returns the checks and the keys."""

    images: "Shared"
    preparation: Preparation
    store: str

    def __call__(self, talk: "Talk") -> tuple[dict[str, Any], list[FeatureKey]]:
        images, store = self.images.get(), FeatureStore(self.store)
        prepared = _prepared(self.preparation, images, store, talk.say)
        keys = [feature_key(images, each, prepared.decoder.name, dtype=prepared.dtype) for each in prepared.backbones]
        return self.preparation.check(prepared, images, store, talk.say), keys


@dataclass(frozen=True, slots=True)
class _Part:
    """A range of shards."""

    images: "Shared"
    preparation: Preparation
    store: str
    share: Share
    shard_rows: int
    checks: Mapping[str, Mapping[str, Any]]

    def __call__(self, talk: "Talk") -> None:
        images, store = self.images.get(), FeatureStore(self.store)
        prepared = _prepared(self.preparation, images, store, lambda line: None)
        extract(
            images,
            prepared.backbones,
            store,
            decoder=prepared.decoder,
            batch_size=prepared.batch_size,
            dtype=prepared.dtype,
            threads=prepared.threads,
            notes={name: {**note, **self.checks.get(name, {})} for name, note in prepared.notes.items()},
            share=self.share,
            shard_rows=self.shard_rows,
            report=talk.images,
        )


_kept: dict[Preparation, Prepared] = {}


def _prepared(preparation: Preparation, images: ImageSet, store: FeatureStore, say: Say) -> Prepared:
    """Made once a worker process, which takes one part after the other."""
    if preparation not in _kept:
        _kept.clear()
        _kept[preparation] = preparation.prepare(images, store, say)
    return _kept[preparation]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeTask:
    """All that is asked of one (dataset, backbone)."""

    store: str
    trials: str
    key: FeatureKey
    asked: tuple[tuple[ProbeSettings, int], ...]
    """Settings with their seeds."""

    means: ProbeMeans

    def __call__(self, talk: "Talk") -> list[str]:
        """Ids of the trials, all in the log now."""
        features = FeatureStore(self.store).read(self.key)
        log = TrialLog(self.trials)
        return [
            logged_probe(features, settings, log, seed=seed, means=self.means, say=talk.say).id
            for settings, seed in self.asked
        ]


def probe_on(cluster: "Cluster", tasks: Iterable[ProbeTask], *, needs: "Needs", say: Say) -> list[str]:
    """Ids of all trials asked for, in the order of the tasks.

    Raises TasksFailedError, once all others have ended, if a task failed each time it was tried.
    """
    from penultimate.engine.runtime.ray_cluster import Task

    named = [Task(name=f"{task.key.dataset}, {task.key.backbone}", call=task) for task in tasks]
    return [trial for ids in _values(cluster.run(named, needs, say=say), named) for trial in ids]


def _values(ended: Iterable["Ended"], order: Sequence[Any] | None = None) -> list[Any]:
    """Values of tasks, in their ``order`` if given; TasksFailedError if one failed, after the last has ended."""
    outcomes = list(ended)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        reasons = "; ".join(f"{each.task.name}: {each.error}" for each in failed[:_FAILURES_SHOWN])
        more = f"; and {len(failed) - _FAILURES_SHOWN} more" if len(failed) > _FAILURES_SHOWN else ""
        raise TasksFailedError(
            f"{len(failed)} of {len(outcomes)} tasks failed, the others are done ({reasons}{more}); "
            "run the same command again to do what is missing"
        )
    places = {id(task): place for place, task in enumerate(order or [])}
    return [each.value for each in sorted(outcomes, key=lambda each: places.get(id(each.task), 0))]


_FAILURES_SHOWN = 3
