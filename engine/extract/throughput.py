"""Measure the throughput of each stage of an extraction alone and of all together, and the ceiling they imply.

Rates are images a second. Stages run with the threads they have in an extraction. The ceiling of stages that run on
separate hardware is the slowest one's rate; of stages that share the same cores, 1 / sum(1 / rate). What a decoder
builds, it builds in the first round and keeps.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.extract.embed import embed_images
from penultimate.engine.extract.extractor import Extractor
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
    """Rate of reading, decoding and resizing, for every view the backbones need."""

    model: float
    """Rate of copying in, the forward pass and copying back, all backbones one after the other."""

    write: float
    """Rate of writing features into a store, on its disk."""

    end_to_end: float
    """Rate of the whole extraction."""

    def ceiling(self, *, shared_cores: bool) -> float:
        """Return the largest rate that the three stages allow, in images a second."""
        stages = [self.decode, self.model, self.write]
        return 1 / sum(1 / rate for rate in stages) if shared_cores else min(stages)

    @property
    def bottleneck(self) -> str:
        """Name of the slowest stage."""
        return min(STAGES, key=lambda stage: float(getattr(self, stage)))


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

    first: Rates
    """Rates of the first round, in which everything is built, compiled and touched for the first time."""

    rounds: tuple[Rates, ...]
    """Rates of the later rounds, in each of which the stages are measured one after the other."""

    @property
    def warm(self) -> Rates:
        """Median of each stage's rate over the rounds after the first."""
        return Rates(**{f: median(getattr(r, f) for r in self.rounds) for f in (*STAGES, "end_to_end")})

    @property
    def ratios(self) -> list[float]:
        """Ratio of the end-to-end rate to the ceiling of the same round, for each round, in increasing order."""
        return sorted(r.end_to_end / r.ceiling(shared_cores=self.shared_cores) for r in self.rounds)

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON: timm's benchmark columns (the warm model alone; a step's time in ms), then ours."""
        warm, ratios = self.warm, self.ratios
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
            "bottleneck": warm.bottleneck,
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
    scratch: Path | None = None,
) -> Throughput:
    """Measure each stage and the whole, ``num_rounds`` times after a first; ``scratch`` is where a store is written.

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
        with self.extractor.threads.in_force():
            decode, pixels = self._decode()
            model, features = self._model(pixels)
            write = self._write(features)
        end_to_end = self._end_to_end()
        num_images = len(self.images)
        return Rates(
            decode=num_images / decode,
            model=num_images / model,
            write=num_images / write,
            end_to_end=num_images / end_to_end,
        )

    def _decode(self) -> tuple[float, list[Pixels]]:
        """Decode all images; return the seconds it took and a batch of pixels a backbone."""
        views = list(dict.fromkeys(backbone.preprocess.pixels for backbone in self.extractor.backbones))
        rows = np.arange(len(self.images))
        fullest: Sequence[Pixels] = ()
        batch_size = self.extractor.rows_per_batch(self.images)
        started = time.perf_counter()
        for batch in self.extractor.decoder.batches(self.images, rows, views, batch_size=batch_size):
            if not fullest or len(batch.views[0]) > len(fullest[0]):
                fullest = batch.views
        seconds = time.perf_counter() - started
        if not fullest or not len(fullest[0]):
            raise DecodeError(f"not one of {len(self.images)} images of {self.images.name} can be decoded")
        return seconds, [fullest[views.index(backbone.preprocess.pixels)] for backbone in self.extractor.backbones]

    def _model(self, pixels: Sequence[Pixels]) -> tuple[float, list[NDArray[np.float32]]]:
        """Embed as many images as there are; return the seconds it took and a batch of features a backbone."""
        batch_images = len(pixels[0])
        full, rest = divmod(len(self.images), batch_images)
        sizes = [batch_images] * full + ([rest] if rest else [])

        def embed(size: int) -> list[NDArray[np.float32]]:
            return [
                backbone.embed(view[:size]) for backbone, view in zip(self.extractor.backbones, pixels, strict=True)
            ]

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
