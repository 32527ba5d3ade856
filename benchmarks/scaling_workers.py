"""Time extractions by local workers that wait and do not compute, for ``scaling.py``."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scaling_constants import ids_of, on_ray, prepared, set_of

from penultimate.engine.bench.timing.cells import Row, median_and_range
from penultimate.engine.bench.timing.turns import Laps, TurnOptions, take_turns
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.images.sources import ArraySource
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import PENULTIMATE

# Shapes: B images of a batch.


class SleepingBackbone:
    """A backbone that takes a fixed time for each image and no core, so that workers have no common bottleneck."""

    name = weights_digest = "sleeper"
    feature_dims: Mapping[str, int] = {PENULTIMATE: 64}
    precision = "float32"
    preprocess = Preprocess(height=8, width=8, resize="whole", mean=(0.5,) * 3, std=(0.5,) * 3)
    provenance: Mapping[str, Any] = {}

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def embed(self, images_BHWC: Pixels) -> dict[str, NDArray[np.float32]]:
        time.sleep(self._seconds * len(images_BHWC))
        means_B3 = np.asarray(images_BHWC, np.float32).mean(axis=(1, 2))
        return {PENULTIMATE: np.tile(means_B3, (1, 22))[:, : self.feature_dims[PENULTIMATE]]}


@dataclass(frozen=True)
class Sleeping:
    """A Preparation that makes a SleepingBackbone."""

    seconds: float
    shard_rows: int = 128

    def prepare(self, images: ImageSet, store: FeatureStore, log: Any) -> Any:
        from penultimate.engine.extract.extractor import Extractor
        from penultimate.engine.images.decode.pillow import PillowDecoder
        from penultimate.engine.runtime.threads import ThreadBudget

        return Extractor(
            backbones=[SleepingBackbone(self.seconds)],
            decoder=PillowDecoder(num_workers=1),
            batch_size=32,
            dtype="float32",
            shard_rows=self.shard_rows,
            threads=ThreadBudget(decode=1, replicas=1, per_replica=1),
        )

    def check(self, extractor: Any, images: ImageSet, store: FeatureStore, log: Any) -> dict[str, Any]:
        return {}


@contextmanager
def extracting(count: int, images: ImageSet, pixels: NDArray[np.uint8], seconds: float) -> Iterator[Callable[[], None]]:
    """Start so many workers, which import what they need, and let them extract; the features are checked after."""
    from penultimate.engine.runtime.ray_cluster import Cluster, TaskResources
    from penultimate.engine.study.distributed import extract_on

    with on_ray(workers=count), tempfile.TemporaryDirectory() as folder:

        def extract(name: str, images: ImageSet) -> FeatureStore:
            store = FeatureStore.create(Path(folder) / name)
            extract_on(
                Cluster(),
                images,
                Sleeping(seconds),
                store,
                resources=TaskResources(cpus=1),
                log=lambda line: None,
                progress=lambda progress: None,
            )
            return store

        few = pixels[:512]
        extract("warm", set_of(images.ids_N[: len(few)].tolist(), ArraySource(few, "memory")))
        stores: list[FeatureStore] = []
        yield lambda: stores.append(extract("timed", images))
        (key,) = stores[0].keys()
        expected_B3 = pixels[:5].astype(np.float32).mean(axis=(1, 2))
        features_BD = stores[0].read(key).features[:5, :3]
        np.testing.assert_allclose(features_BD, expected_B3, rtol=1e-6)  # float32 sums


def workers_that_sleep(workers: Sequence[int], *, images: int, seconds: float, options: TurnOptions) -> list[Laps]:
    """Time an extraction by so many workers, each a contender."""
    from penultimate.engine.study.distributed import PARTS_PER_SLOT

    whole = 128 * PARTS_PER_SLOT * max(workers)
    if images % whole:
        raise SystemExit(f"--images must be a multiple of {whole}: else some worker has a part more than the others")
    pixels = np.random.default_rng(0).integers(0, 256, (images, 8, 8, 3), dtype=np.uint8)
    image_set = set_of(ids_of(images), ArraySource(pixels, "memory"))
    return take_turns(
        [
            prepared(
                str(count), "Extraction by workers", partial(extracting, count, image_set, pixels, seconds), images
            )
            for count in workers
        ],
        options,
    )


def worker_rows(all_laps: Sequence[Laps]) -> list[Row]:
    """Return the table of workers: images/s, and these over the number of workers and the rate of one in the round."""
    rates = {each.name: [lap.items / lap.wall_seconds for lap in each.rounds] for each in all_laps}
    return [
        {
            "workers": name,
            "images/s": median_and_range(values, ".1f"),
            "of linear": median_and_range(
                [rate / (int(name) * one) for rate, one in zip(values, rates["1"], strict=True)], ".3f"
            ),
        }
        for name, values in rates.items()
    ]
