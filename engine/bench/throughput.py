"""Measure the throughput of each stage of an extraction alone and of all together, and the ceiling they imply.

Rates are images a second. Stages run with the threads they have in an extraction. The ceiling of stages that run on
separate hardware is the slowest one's rate; of stages that share the same cores, 1 / sum(1 / rate). What a decoder
builds, it builds in the first round and keeps. Images that come from a server have two stages more: they are listed,
before all else, and fetched, which hardly takes a core.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.bench.stage_times import StageTime, StageTimes, timed_extractor, timed_store
from penultimate.engine.bench.timing.measurement import Measurement
from penultimate.engine.bench.timing.turns import (
    Contender,
    Lap,
    Laps,
    Progress,
    TurnOptions,
    no_progress,
    take_turns,
    timed,
)
from penultimate.engine.extract.embed import embed_images
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.extract.fetch_rates import FetchRates, measure_fetch
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.subset import subset
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.store.errors import DecodeError
from penultimate.store.feature_store import FeatureStore

# Shapes: N images, B images of a batch, H x W pixels, D feature dimensions.

STAGES = ("decode", "model", "write")

_TELLING = 0.05
"""Fraction of a round's seconds that an extraction has to take for its rate to tell that of larger ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Rates of the stages of an extraction, in images a second."""

    decode: float
    """Rate of reading, decoding and resizing, for every view the backbones need; of images that come from a server,
    without reading."""

    model: float
    """Rate of copying in, the forward pass and copying back, all backbones one after the other."""

    write: float
    """Rate of writing features into a store, on its disk."""

    end_to_end: float
    """Rate of the whole extraction, of images that are listed."""

    fetch: FetchRates | None = None
    """Rates of fetching images from a server; None where they are on this machine."""

    def ceiling(self, *, shared_cores: bool) -> float:
        """Return the largest rate that the stages allow, in images a second."""
        stages = [self.decode, self.model, self.write]
        ceiling = 1 / sum(1 / rate for rate in stages) if shared_cores else min(stages)
        return ceiling if self.fetch is None else min(ceiling, self.fetch.images)

    def bottleneck(self, listing: float | None = None) -> str:
        """Return the name of the slowest stage, of fetching that of its limit; ``listing`` is the rate of that."""
        rates = {stage: float(getattr(self, stage)) for stage in STAGES}
        if self.fetch is not None:
            rates[self.fetch.limit] = self.fetch.images
        if listing is not None:
            rates["listing"] = listing
        return min(rates, key=rates.__getitem__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """The rates that were measured with one set of images and backbones."""

    model: str
    """Names of the backbones, joined by `` + ``."""

    precision: str
    num_images: int
    batch_size: int
    image_size: int
    """Height of the first backbone's input in pixels."""

    parameters: int
    """Number of parameters of all backbones."""

    shared_cores: bool
    """True if decoding and networks run on the same cores."""

    listing_seconds: float | None
    """Time it took to list all images of a server; None where they are on this machine."""

    num_listed: int
    """Number of images that were listed."""

    laps: Mapping[str, Laps]
    """Stage, or ``end_to_end``, -> its turns, the first of which warms up."""

    fetches: tuple[FetchRates, ...] = ()
    """Rates of fetching images from a server, a round each, the warm-up's first; none where they are here."""

    within: tuple[StageTime, ...] = ()
    """Time of each stage in the last round's extraction."""

    @property
    def first(self) -> Rates:
        """Rates of the first round, in which everything is built, compiled and touched for the first time."""
        fetch = self.fetches[0] if self.fetches else None
        return Rates(**{name: _rate(laps.warm_up) for name, laps in self.laps.items()}, fetch=fetch)

    @property
    def rounds(self) -> list[Rates]:
        """Rates of the later rounds, in each of which the stages are measured one after the other."""
        return [
            Rates(
                **{name: _rate(laps.rounds[number]) for name, laps in self.laps.items()},
                fetch=self.fetches[1 + number] if self.fetches else None,
            )
            for number in range(len(self.laps["end_to_end"].rounds))
        ]

    @property
    def warm(self) -> Rates:
        """Median of each stage's rate over the rounds after the first."""
        fetches = [r.fetch for r in self.rounds if r.fetch is not None]
        return Rates(
            **{f: median(getattr(r, f) for r in self.rounds) for f in (*STAGES, "end_to_end")},
            fetch=FetchRates.median(fetches) if fetches else None,
        )

    @property
    def ratios(self) -> list[float]:
        """Ratio of the end-to-end rate to the ceiling of the same round, for each round, in increasing order."""
        return sorted(r.end_to_end / r.ceiling(shared_cores=self.shared_cores) for r in self.rounds)

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON: timm's benchmark columns (the warm model alone; a step's time in ms), then ours."""
        warm, ratios = self.warm, self.ratios
        listing = None if self.listing_seconds is None else self.num_listed / self.listing_seconds
        return {
            "model": self.model,
            "infer_samples_per_sec": warm.model,
            "infer_step_time": 1e3 * self.batch_size / warm.model,
            "infer_batch_size": self.batch_size,
            "infer_img_size": self.image_size,
            "param_count": self.parameters / 1e6,
            "precision": self.precision,
            "images": self.num_images,
            **_named(warm, ""),
            **_named(self.first, "_first_round"),
            "ceiling_per_sec": warm.ceiling(shared_cores=self.shared_cores),
            "ceiling": "1 / sum(1 / rate)" if self.shared_cores else "min(rate)",
            "ratio_to_ceiling": median(ratios),
            "ratio_to_ceiling_range": [ratios[0], ratios[-1]],
            "bottleneck": warm.bottleneck(listing),
            **({} if warm.fetch is None else warm.fetch.as_dict()),
            **({} if listing is None else {"listing_seconds": self.listing_seconds, "listing_per_sec": listing}),
            "within": [each.as_dict() for each in self.within],
            "rounds": len(self.rounds),
        }

    def measurements(self) -> list[Measurement]:
        """Return a line for each stage and one for the whole, with its ratio to what the stages allow."""
        details = {name: value for name, value in self.as_dict().items() if name.startswith("infer_")}
        own = {"model": details | {"param_count": self.parameters / 1e6}}
        lines = [Measurement.of(laps, unit="images/s", details=own.get(name)) for name, laps in self.laps.items()]
        ratios = [rates.end_to_end / rates.ceiling(shared_cores=self.shared_cores) for rates in self.rounds]
        return [*lines[:-1], replace(lines[-1].relative_to(ratios, "the ceiling"), name="end to end")]

    def findings(self) -> list[str]:
        """Return which stage is the slowest, and how long each worked and waited in the last round's extraction."""
        row = self.as_dict()
        limit = "its stages, which share the cores, allow" if self.shared_cores else "its slowest stage allows"
        how = f"{limit} {row['ceiling_per_sec']:,.1f} images/s (the ceiling, {row['ceiling']})"
        times = "; ".join(
            f"{each.stage} {_WORKED[each.stage].format(worked=each.self_seconds, waited=each.waiting_seconds)}"
            for each in self.within
        )
        seconds = self.laps["end_to_end"].rounds[-1].wall_seconds
        found = [f"{self.model}: the bottleneck is {row['bottleneck']}; {how}."]
        if self.fetches:
            found.append(self._fetching())
        return found + ([f"Within the {seconds:.1f} s of its last extraction: {times}."] if times else [])

    def _fetching(self) -> str:
        fetch = self.warm.fetch
        assert fetch is not None, "it was measured"
        return (
            f"Fetching: {fetch.images:,.1f} images/s, {fetch.megabytes:,.1f} MB/s by {fetch.connections} connections, "
            f"{fetch.request_ms:.1f} ms a request, {fetch.request_ms_alone:.1f} ms alone; listing {self.num_listed:,} "
            f"images took {self.listing_seconds or 0:.1f} s."
        )


_WORKED = {
    "decode": "kept the others waiting {worked:.1f} s and was ahead {waited:.1f} s",
    "model": "worked {worked:.1f} s and waited {waited:.1f} s",
    "write": "worked {worked:.1f} s and waited {waited:.1f} s",
}


def _rate(lap: Lap) -> float:
    return lap.items / lap.wall_seconds


def most_images(device: str) -> int:
    """Return the largest number of images that a measurement on ``device`` takes unless it is told a number."""
    return 16_384 if device.startswith("cuda") else 1024


def fitting_images(images: ImageSet, extractor: Extractor, options: TurnOptions) -> int:
    """Return how many images can be measured within the seconds, by the time that the first ones take.

    Those are extracted, twice as many each time, until that takes long enough to tell. A round takes about twice the
    time of one extraction: once each stage alone, once all together.
    """
    batch = extractor.rows_per_batch(images)
    round_seconds, count = options.seconds / (1 + options.rounds), min(len(images), 2 * batch)
    timed(Stages(subset(images, np.arange(count)), extractor).contender("end_to_end"))  # builds everything
    while True:
        lap = timed(Stages(subset(images, np.arange(count)), extractor).contender("end_to_end"))
        if count == len(images) or lap.wall_seconds > _TELLING * round_seconds:
            fitting = int(_rate(lap) * round_seconds / 2)
            return min(len(images), max(count, fitting // batch * batch))
        count = min(len(images), 2 * count)


def measure(
    images: ImageSet,
    extractor: Extractor,
    options: TurnOptions,
    *,
    num_parameters: int,
    shared_cores: bool,
    listing_seconds: float | None = None,
    num_listed: int = 0,
    scratch: Path | None = None,
    progress: Progress = no_progress,
) -> Throughput:
    """Measure each stage and the whole in turns; ``scratch`` is where a store is written.

    ``listing_seconds``, where images come from a server, is what listing ``num_listed`` of them took.
    Raises DecodeError if no image can be decoded.
    """
    stages = Stages(images, extractor, scratch)
    backbones = extractor.backbones
    laps = take_turns([stages.contender(name) for name in (*STAGES, "end_to_end")], options, progress=progress)
    return Throughput(
        model=" + ".join(backbone.name for backbone in backbones),
        precision=backbones[0].precision,
        num_images=len(images),
        batch_size=extractor.batch_size,
        image_size=backbones[0].preprocess.height,
        parameters=num_parameters,
        shared_cores=shared_cores,
        listing_seconds=listing_seconds,
        num_listed=num_listed,
        laps={each.name: each for each in laps},
        fetches=tuple(stages.fetches),
        within=tuple(stages.within),
    )


@dataclass(slots=True)
class Stages:
    """The stages of one extraction, each of which takes what the one before gave."""

    images: ImageSet
    extractor: Extractor
    scratch: Path | None = None

    fetches: list[FetchRates] = field(default_factory=list)
    """Rates of each fetch so far."""

    within: list[StageTime] = field(default_factory=list)
    """Times of the stages in the last extraction."""

    _fetched: tuple[ImageSet, list[int]] | None = None
    """The images with those in memory that were fetched, and their rows."""

    _pixels: Sequence[Pixels] = ()
    """A batch of pixels a backbone."""

    _features: Sequence[NDArray[np.float32]] = ()
    """A batch of features a backbone."""

    def contender(self, name: str) -> Contender:
        """Return the stage of that name, or ``end_to_end``."""
        threads, cores = self.extractor.threads, usable_cores()
        networks = threads.replicas * threads.per_replica
        run, prepare, used = {
            "decode": (self._decode, self._fetch, threads.decode),
            "model": (self._model, _nothing, networks),
            "write": (self._write, _nothing, cores),
            "end_to_end": (self._end_to_end, _nothing, cores),
        }[name]
        group = " + ".join(backbone.name for backbone in self.extractor.backbones)
        return Contender(
            name=name,
            group=group,
            run=run,
            prepare=prepare,
            items=len(self.images),
            share=1.0,
            threads=min(used, cores),
        )

    def _fetch(self) -> None:
        """Fetch images from a server into memory, which is a stage of its own; images on this machine stay there."""
        images, rows = self.images, list(range(len(self.images)))
        if images.source.reads_at_once > 1:
            rates, kept, rows = measure_fetch(images.source, rows)
            self.fetches.append(rates)
            images = replace(images, source=kept)
        self._fetched = images, rows

    def _decode(self) -> Iterator[int]:
        """Decode all images, and keep the fullest batch."""
        assert self._fetched is not None, "fetched before"
        images, rows = self._fetched
        views = list(dict.fromkeys(backbone.preprocess.pixels for backbone in self.extractor.backbones))
        fullest: Sequence[Pixels] = ()
        batch_size = self.extractor.rows_per_batch(self.images)
        with self.extractor.threads.in_force():
            for batch in self.extractor.decoder.batches(images, rows, views, batch_size=batch_size):
                if not fullest or len(batch.views[0]) > len(fullest[0]):
                    fullest = batch.views
                    self._pixels = [fullest[views.index(each.preprocess.pixels)] for each in self.extractor.backbones]
                yield len(batch.indices_B) + len(batch.failed)

    def _model(self) -> Iterator[int]:
        """Embed as many images as there are, and keep a batch of features a readout."""
        if not self._pixels or not len(self._pixels[0]):
            raise DecodeError(f"not one of {len(self.images)} images of {self.images.name} can be decoded")
        batch_images = len(self._pixels[0])
        full, rest = divmod(len(self.images), batch_images)
        sizes = [batch_images] * full + ([rest] if rest else [])
        replicas = self.extractor.threads.replicas

        def embed(size: int) -> list[NDArray[np.float32]]:
            pairs = zip(self.extractor.backbones, self._pixels, strict=True)
            passes = (backbone.embed(view[:size]) for backbone, view in pairs)
            return [features for readouts in passes for features in readouts.values()]

        with self.extractor.threads.in_force(), ThreadPoolExecutor(replicas) as threads:
            for number, features in enumerate(prefetch_map(threads, embed, sizes, depth=2 * replicas)):
                self._features = self._features if number else features
                yield sizes[number]

    def _write(self) -> Iterator[int]:
        """Write features of all images into a new store."""
        rows = np.arange(len(self.images))
        with self._new_store() as store:
            for plan, one in zip(self.extractor.plans(self.images), self._features, strict=True):
                with store.writer(plan, provenance={}) as writer:
                    for batch in np.array_split(rows, -(-len(rows) // len(one))):
                        writer.append(batch, one[: len(batch)].astype(self.extractor.dtype, copy=False))
            yield len(rows)

    def _end_to_end(self) -> Iterator[int]:
        """Extract all images into a new store, as ``penultimate extract`` does."""
        times = StageTimes()
        with self._new_store() as store:
            began = time.perf_counter()
            extracted = embed_images(self.images, timed_extractor(self.extractor, times), timed_store(store, times))
            seconds = time.perf_counter() - began
            self.within = times.within(seconds, replicas=self.extractor.threads.replicas)
            features = extracted[0].features
            yield features.num_rows + len(features.failed)

    @contextmanager
    def _new_store(self) -> Iterator[FeatureStore]:
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            yield FeatureStore.create(Path(folder) / "store")


def _nothing() -> None:
    """Prepare nothing."""


def _named(rates: Rates, suffix: str) -> Mapping[str, float]:
    return {f"{stage}_per_sec{suffix}": getattr(rates, stage) for stage in (*STAGES, "end_to_end")}
