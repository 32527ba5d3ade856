"""Measure the throughput of each stage of an extraction alone and of all together, and the ceiling they imply.

Rates are images a second. Stages run with the threads they have in an extraction. The ceiling of stages that run on
separate hardware is the slowest one's rate; of stages that share the same cores, 1 / sum(1 / rate). What a decoder
builds, it builds in the first round and keeps. Images that come from a server have two stages more: they are listed,
before all else, and fetched, which hardly takes a core.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.extract.embed import embed_images
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.extract.fetch_rates import FetchRates, measure_fetch
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.store.errors import DecodeError
from penultimate.store.feature_store import FeatureStore

# Shapes: N images, B images of a batch, H x W pixels, D feature dimensions.

STAGES = ("decode", "model", "write")


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

    first: Rates
    """Rates of the first round, in which everything is built, compiled and touched for the first time."""

    rounds: tuple[Rates, ...]
    """Rates of the later rounds, in each of which the stages are measured one after the other."""

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
            "rounds": len(self.rounds),
        }


def default_num_images(device: str) -> int:
    """Return the default number of images of a measurement on ``device``: enough for seconds on a fast one."""
    return 16_384 if device.startswith("cuda") else 1024


def measure(
    images: ImageSet,
    extractor: Extractor,
    *,
    num_parameters: int,
    shared_cores: bool,
    num_rounds: int,
    listing_seconds: float | None = None,
    num_listed: int = 0,
    scratch: Path | None = None,
) -> Throughput:
    """Measure each stage and the whole, ``num_rounds`` times after a first; ``scratch`` is where a store is written.

    ``listing_seconds``, where images come from a server, is what listing ``num_listed`` of them took.
    Raises DecodeError if no image can be decoded.
    """
    bench = _Bench(images, extractor, scratch)
    backbones = extractor.backbones
    first, *rounds = [bench.round() for _ in range(1 + num_rounds)]
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
        first=first,
        rounds=tuple(rounds),
    )


@dataclass(frozen=True, slots=True)
class _Bench:
    images: ImageSet
    extractor: Extractor
    scratch: Path | None

    def round(self) -> Rates:
        """Measure every stage once, over all images."""
        images, rows, fetch = self.images, list(range(len(self.images))), None
        if images.source.reads_at_once > 1:
            fetch, kept, rows = measure_fetch(images.source, rows)
            images = replace(images, source=kept)
        with self.extractor.threads.in_force():
            decode, pixels = self._decode(images, rows)
            model, features = self._model(pixels)
            write = self._write(features)
        end_to_end = self._end_to_end()
        num_images = len(self.images)
        return Rates(
            fetch=fetch,
            decode=len(rows) / decode,
            model=num_images / model,
            write=num_images / write,
            end_to_end=num_images / end_to_end,
        )

    def _decode(self, images: ImageSet, rows: Sequence[int]) -> tuple[float, list[Pixels]]:
        """Decode these images; return the seconds it took and a batch of pixels a backbone."""
        views = list(dict.fromkeys(backbone.preprocess.pixels for backbone in self.extractor.backbones))
        fullest: Sequence[Pixels] = ()
        batch_size = self.extractor.rows_per_batch(self.images)
        started = time.perf_counter()
        for batch in self.extractor.decoder.batches(images, rows, views, batch_size=batch_size):
            if not fullest or len(batch.views[0]) > len(fullest[0]):
                fullest = batch.views
        seconds = time.perf_counter() - started
        if not fullest or not len(fullest[0]):
            raise DecodeError(f"not one of {len(self.images)} images of {self.images.name} can be decoded")
        return seconds, [fullest[views.index(backbone.preprocess.pixels)] for backbone in self.extractor.backbones]

    def _model(self, pixels: Sequence[Pixels]) -> tuple[float, list[NDArray[np.float32]]]:
        """Embed as many images as there are; return the seconds it took and a batch of features a readout."""
        batch_images = len(pixels[0])
        full, rest = divmod(len(self.images), batch_images)
        sizes = [batch_images] * full + ([rest] if rest else [])

        def embed(size: int) -> list[NDArray[np.float32]]:
            passes = (
                backbone.embed(view[:size]) for backbone, view in zip(self.extractor.backbones, pixels, strict=True)
            )
            return [features for readouts in passes for features in readouts.values()]

        started = time.perf_counter()
        with ThreadPoolExecutor(self.extractor.threads.replicas) as replicas:
            features, *_ = prefetch_map(replicas, embed, sizes, depth=2 * self.extractor.threads.replicas)
        return time.perf_counter() - started, features

    def _write(self, features: Sequence[NDArray[np.float32]]) -> float:
        rows = np.arange(len(self.images))
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            store = FeatureStore.create(Path(folder) / "store")
            started = time.perf_counter()
            for plan, one in zip(self.extractor.plans(self.images), features, strict=True):
                with store.writer(plan, provenance={}) as writer:
                    for batch in np.array_split(rows, -(-len(rows) // len(one))):
                        writer.append(batch, one[: len(batch)].astype(self.extractor.dtype, copy=False))
            return time.perf_counter() - started

    def _end_to_end(self) -> float:
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            store = FeatureStore.create(Path(folder) / "store")
            started = time.perf_counter()
            embed_images(self.images, self.extractor, store)
            return time.perf_counter() - started


def _named(rates: Rates, suffix: str) -> Mapping[str, float]:
    return {f"{stage}_per_sec{suffix}": getattr(rates, stage) for stage in (*STAGES, "end_to_end")}
