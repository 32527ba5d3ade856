"""Extraction writes every row once, also when it is resumed or shared, and decodes once for many networks."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penultimate.engine.extract.embed import embed_images, log_not_finite
from penultimate.engine.extract.extractor import Extractor, feature_key
from penultimate.engine.images.decode.decoded_batch import DecodedBatch, Pixels
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.probe.api import probe
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.errors import InputError
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import PENULTIMATE

HALF = (0.5, 0.5, 0.5)


class MeanBackbone:
    """A backbone whose features, mean and standard deviation of each channel, tell which image they are of."""

    feature_dims: Mapping[str, int] = {PENULTIMATE: 6}
    precision = "float32"
    provenance: Mapping[str, Any] = {"weights": "none"}

    def __init__(self, name: str = "mean", *, size: int = 16, fail_after: int | None = None) -> None:
        self.name = self.weights_digest = name
        self.preprocess = Preprocess(height=size, width=size, resize="whole", mean=HALF, std=HALF)
        self.fail_after = fail_after
        self.num_seen = 0
        self.threads: set[str] = set()
        self._lock = threading.Lock()

    def embed(self, images_BHWC: Pixels) -> dict[str, NDArray[np.float32]]:
        with self._lock:
            self.num_seen += len(images_BHWC)
            self.threads.add(threading.current_thread().name)
            if self.fail_after is not None and self.num_seen > self.fail_after:
                raise OSError("the network went away")
        time.sleep(0.002)
        pixels = np.asarray(images_BHWC, np.float32)
        return {PENULTIMATE: np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))], axis=1)}


class CountingDecoder(PillowDecoder):
    """A Pillow decoder that records its calls."""

    def __init__(self) -> None:
        super().__init__(num_workers=2)
        self.decoded: list[int] = []
        self.num_views: list[int] = []
        self.num_given = 0

    def batches(
        self, images: ImageSet, indices: Iterable[int], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:
        self.num_views.append(len(views))
        for batch in super().batches(images, map(self._noted, indices), views, batch_size=batch_size):
            self.num_given += 1
            yield batch

    def _noted(self, index: int) -> int:
        self.decoded.append(index)
        return index


@pytest.fixture
def images(photos: Path) -> ImageSet:
    return load_folder(photos, labels=False)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "store")


def by_hand(images: ImageSet, backbone: MeanBackbone) -> NDArray[np.float32]:
    rows = np.arange(len(images))
    (batch,) = PillowDecoder().batches(images, rows, [backbone.preprocess], batch_size=len(images))
    return MeanBackbone(size=backbone.preprocess.height).embed(batch.views[0])[PENULTIMATE]


def feature_sets(images: ImageSet, extractor: Extractor, store: FeatureStore) -> list[FeatureSet]:
    return [extracted.features for extracted in embed_images(images, extractor, store)]


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_rows_are_the_images_whatever_the_replicas_and_batches(
    images: ImageSet, store: FeatureStore, replicas: int, batch_size: int
) -> None:
    backbone = MeanBackbone()
    threads = ThreadBudget(decode=2, replicas=replicas, per_replica=1)
    extractor = Extractor(backbones=[backbone], decoder=PillowDecoder(), batch_size=batch_size, threads=threads)
    (features,) = feature_sets(images, extractor, store)
    np.testing.assert_array_equal(features.features, by_hand(images, backbone))
    assert features.ids.tolist() == images.ids_N.tolist()
    assert backbone.num_seen == len(images)


def test_many_backbones_share_one_decode_and_equal_views(images: ImageSet, store: FeatureStore) -> None:
    backbones = [MeanBackbone("a"), MeanBackbone("b"), MeanBackbone("c", size=24)]
    decoder = CountingDecoder()
    extractor = Extractor(backbones=backbones, decoder=decoder)
    for backbone, features in zip(backbones, feature_sets(images, extractor, store), strict=True):
        np.testing.assert_array_equal(features.features, by_hand(images, backbone))
    assert sorted(decoder.decoded) == list(range(len(images)))
    assert decoder.num_views == [2]


def test_what_is_complete_is_not_computed_again(images: ImageSet, store: FeatureStore) -> None:
    first = MeanBackbone("a")
    embed_images(images, Extractor(backbones=[first], decoder=PillowDecoder()), store)
    again, other = MeanBackbone("a"), MeanBackbone("b")
    decoder = CountingDecoder()
    embed_images(images, Extractor(backbones=[again, other], decoder=decoder), store)
    assert (again.num_seen, other.num_seen) == (0, len(images))
    embed_images(images, Extractor(backbones=[again, other], decoder=(idle := CountingDecoder())), store)
    assert idle.decoded == []


def test_a_failing_network_ends_the_run_and_the_next_one_completes_it(images: ImageSet, store: FeatureStore) -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="went away"):
        embed_images(
            images, Extractor(backbones=[MeanBackbone(fail_after=10)], decoder=PillowDecoder(), batch_size=4), store
        )
    assert threading.active_count() == before
    backbone = MeanBackbone()
    (features,) = feature_sets(images, Extractor(backbones=[backbone], decoder=PillowDecoder(), batch_size=4), store)
    np.testing.assert_array_equal(features.features, by_hand(images, backbone))


def test_replicas_work_at_once_and_the_decoder_is_never_far_ahead(images: ImageSet, store: FeatureStore) -> None:
    """Few batches are in memory, however many images: two a replica, two in writing and one with the decoder."""
    threads = ThreadBudget(decode=1, replicas=2, per_replica=1)
    decoder, backbone = CountingDecoder(), MeanBackbone()
    lead: list[int] = []

    def report(done: int, total: int) -> None:
        lead.append(decoder.num_given - done)
        assert total == len(images)

    embed_images(
        images, Extractor(backbones=[backbone], decoder=decoder, batch_size=1, threads=threads), store, progress=report
    )
    assert len(backbone.threads) == 2
    assert max(lead) <= 2 * threads.replicas + 3


def test_float16_is_stored_where_it_is_asked_for(images: ImageSet, store: FeatureStore) -> None:
    backbone = MeanBackbone()
    (features,) = feature_sets(images, Extractor(backbones=[backbone], decoder=PillowDecoder(), dtype="float16"), store)
    np.testing.assert_array_equal(features.features, by_hand(images, backbone).astype(np.float16))


def test_provenance_holds_the_backbones_word_and_the_callers_notes(images: ImageSet, store: FeatureStore) -> None:
    notes = {"mean": {"parity": {"passed": True}}}
    embed_images(images, Extractor(backbones=[MeanBackbone()], decoder=PillowDecoder(), notes=notes), store)
    key = feature_key(images, MeanBackbone(), "pillow", dtype="float32")
    provenance = store.read(key).provenance
    assert provenance["backbone"] == {"weights": "none"}
    assert provenance["parity"] == {"passed": True}


class LargeBackbone(MeanBackbone):
    """One feature is ``value`` in images whose mean is above ``above``."""

    def __init__(self, *, above: float, value: float = 70_000.0) -> None:
        super().__init__("large")
        self.above, self.value = above, value

    def embed(self, images_BHWC: Pixels) -> dict[str, NDArray[np.float32]]:
        features_BD = super().embed(images_BHWC)[PENULTIMATE]
        features_BD[features_BD[:, :3].mean(axis=1) > self.above, 4] = self.value
        return {PENULTIMATE: features_BD}


def test_features_that_float16_cannot_hold_are_refused_before_anything_is_stored(photos: Path, tmp_path: Path) -> None:
    images, backbone = load_folder(photos), LargeBackbone(above=0)
    store = FeatureStore.create(tmp_path / "s")
    with pytest.raises(InputError, match=r"all of the first 24 features are NaN or infinite.*--dtype float32"):
        embed_images(images, Extractor(backbones=[backbone], decoder=PillowDecoder(), dtype="float16"), store)
    assert store.keys() == []
    assert store.incomplete() == []
    (features,) = feature_sets(images, Extractor(backbones=[backbone], decoder=PillowDecoder()), store)
    said: list[str] = []
    log_not_finite(store, [features], said.append)
    assert (np.isfinite(features.features).all(), said) == (True, [])


@pytest.mark.parametrize(
    ("value", "dtype", "precision", "advice"),
    [
        (70_000.0, "float16", "float32", "--dtype float32"),
        (np.nan, "float32", "float16", "--precision float32 or bfloat16"),
        (np.inf, "float32", "float32", "the network itself gives them"),
    ],
)
def test_some_features_that_are_not_finite_are_counted_and_the_advice_helps(
    photos: Path, tmp_path: Path, value: float, dtype: str, precision: str, advice: str
) -> None:
    images, backbone = load_folder(photos), LargeBackbone(above=119.5, value=value)
    backbone.precision = precision
    store = FeatureStore.create(tmp_path / "s")
    (features,) = feature_sets(images, Extractor(backbones=[backbone], decoder=PillowDecoder(), dtype=dtype), store)
    count = int((~np.isfinite(features.features)).any(axis=1).sum())
    assert 0 < count < 24
    said: list[str] = []
    log_not_finite(store, [features], said.append)
    assert len(said) == 1
    assert said[0].startswith(f"warning: {count} of 24 features of large on photos are NaN or infinite")
    assert advice in said[0]
    with pytest.raises(InputError, match=advice):
        probe(features, l2="1e-3:1e3:3")
