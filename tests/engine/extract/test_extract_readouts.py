"""Several readouts come of one pass of a backbone, and each of them may lack other images than the others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penultimate.engine.extract.embed import embed_images
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.images.subset import subset
from penultimate.store.errors import StoreBusyError, StoreError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.writer.feature_writer import FeatureWriter

DIMS = {"penultimate": 3, "spread": 3, "both": 6}


class ColourBackbone:
    """A backbone with readouts that tell which image they are of; it counts passes and images."""

    name = weights_digest = "colour"
    precision = "float32"
    provenance: Mapping[str, Any] = {"weights": "none"}
    preprocess = Preprocess(height=8, width=8, resize="whole", mean=(0.5,) * 3, std=(0.5,) * 3)

    def __init__(self, readouts: Sequence[str], *, fail_after: int | None = None) -> None:
        self.feature_dims = {readout: DIMS[readout] for readout in readouts}
        self.fail_after = fail_after
        self.num_seen = 0

    def embed(self, images_BHWC: Pixels) -> dict[str, NDArray[np.float32]]:
        self.num_seen += len(images_BHWC)
        if self.fail_after is not None and self.num_seen > self.fail_after:
            raise OSError("the network went away")
        pixels = np.asarray(images_BHWC, np.float32)
        mean_BC, spread_BC = pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))
        every = {"penultimate": mean_BC, "spread": spread_BC, "both": np.concatenate([mean_BC, spread_BC], axis=1)}
        return {readout: every[readout] for readout in self.feature_dims}


@pytest.fixture
def images(photos: Path) -> ImageSet:
    (photos / "broken.jpg").write_bytes(b"no image")
    return load_folder(photos, labels=False)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "store")


def extract(images: ImageSet, backbone: ColourBackbone, store: FeatureStore) -> dict[str, tuple[int, int]]:
    """Extract; return by readout how many rows were embedded and how many were there, having checked all rows."""
    extractor = Extractor(backbones=[backbone], decoder=PillowDecoder(), batch_size=4, shard_rows=8)
    extracted = embed_images(images, extractor, store)
    assert [each.features.key.readout for each in extracted] == list(backbone.feature_dims)
    (batch,) = PillowDecoder().batches(images, np.arange(len(images)), [backbone.preprocess], batch_size=len(images))
    expected = ColourBackbone(list(DIMS)).embed(batch.views[0])
    for each in extracted:
        assert each.features.feature_dim == DIMS[each.features.key.readout]
        assert each.features.ids.tolist() == images.ids_N[batch.indices_B].tolist()
        assert list(each.features.failed) == [images.ids_N[index] for index in batch.failed]
        np.testing.assert_array_equal(each.features.features, expected[each.features.key.readout])
    return {each.features.key.readout: (each.num_embedded, each.num_reused) for each in extracted}


def test_one_pass_an_image_gives_all_readouts(images: ImageSet, store: FeatureStore) -> None:
    backbone = ColourBackbone(list(DIMS))
    assert extract(images, backbone, store) == dict.fromkeys(DIMS, (24, 0))
    assert backbone.num_seen == 24
    keys = store.keys()
    assert sorted(key.readout for key in keys) == sorted(DIMS)
    assert extract(images, again := ColourBackbone(list(DIMS)), store) == dict.fromkeys(DIMS, (0, 24))
    assert again.num_seen == 0


def test_images_that_any_readout_lacks_are_embedded_once_and_others_not_at_all(
    images: ImageSet, store: FeatureStore
) -> None:
    """Of ``penultimate`` the first ten are here, of ``spread`` six to fifteen: all but six to nine are still needed."""
    for readout, rows in (("penultimate", range(10)), ("spread", range(6, 16))):
        part = replace(subset(images, np.array([*rows])), subset_of=None)
        embed_images(part, Extractor(backbones=[ColourBackbone([readout])], decoder=PillowDecoder()), store)
    backbone = ColourBackbone(["penultimate", "spread"])
    num_broken = 1
    assert list(images.ids_N).index("broken.jpg") < 6  # among those that only ``penultimate`` has
    assert extract(images, backbone, store) == {"penultimate": (15, 9), "spread": (14, 10)}
    assert backbone.num_seen == len(images) - num_broken - 4


def test_a_readout_that_comes_later_is_embedded_alone(images: ImageSet, store: FeatureStore) -> None:
    extract(images, ColourBackbone(["penultimate"]), store)
    assert extract(images, ColourBackbone(["penultimate", "both"]), store) == {"penultimate": (0, 24), "both": (24, 0)}


def test_an_interrupted_run_goes_on_in_every_readout(images: ImageSet, store: FeatureStore) -> None:
    with pytest.raises(OSError, match="went away"):
        extract(images, ColourBackbone(["penultimate", "spread"], fail_after=18), store)
    assert {each.embedding.readout for each in store.incomplete()} == {"penultimate", "spread"}
    backbone = ColourBackbone(["penultimate", "spread"])
    extract(images, backbone, store)
    assert 0 < backbone.num_seen < 24


def small_batches(backbone: ColourBackbone, shard_rows: int) -> Extractor:
    return Extractor(backbones=[backbone], decoder=PillowDecoder(), batch_size=2, shard_rows=shard_rows)


def test_rows_of_small_batches_are_written_together_and_failures_with_them(
    images: ImageSet, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, int]] = []
    append = FeatureWriter.append

    def noted(writer: FeatureWriter, samples: Any, features: Any, failed: Any = None) -> None:
        written.append((len(samples), len(failed)))
        append(writer, samples, features, failed)

    monkeypatch.setattr(FeatureWriter, "append", noted)
    extracted = embed_images(images, small_batches(ColourBackbone(list(DIMS)), 64), store)
    assert written == [(24, 1)] * 3
    assert all(list(each.features.failed) == ["broken.jpg"] for each in extracted)


def test_a_block_is_written_once_it_is_full_whatever_the_batches(images: ImageSet, store: FeatureStore) -> None:
    """Of 25 samples in blocks of 8, two blocks are full when the network goes away at the 21st image."""
    with pytest.raises(OSError, match="went away"):
        embed_images(images, small_batches(ColourBackbone(list(DIMS), fail_after=20), 8), store)
    assert [each.done_rows for each in store.incomplete()] == [16, 16, 16]
    extracted = embed_images(images, small_batches(again := ColourBackbone(list(DIMS)), 8), store)
    assert again.num_seen == 9
    assert [(each.features.num_rows, list(each.features.failed)) for each in extracted] == [(24, ["broken.jpg"])] * 3


@pytest.mark.parametrize("step", ["append", "complete"])
def test_a_writer_that_fails_ends_the_run_and_the_next_one_completes_every_readout(
    images: ImageSet, store: FeatureStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    work = getattr(FeatureWriter, step)

    def full_disk(writer: FeatureWriter, *args: Any) -> None:
        if writer.plan.embedding.readout == "spread":
            raise StoreError("the disk is full")
        work(writer, *args)

    monkeypatch.setattr(FeatureWriter, step, full_disk)
    with pytest.raises(StoreError, match="disk is full"):
        extract(images, ColourBackbone(list(DIMS)), store)
    monkeypatch.undo()
    keys = store.keys()
    assert "spread" not in {key.readout for key in keys}
    counts = extract(images, ColourBackbone(list(DIMS)), store)
    assert set(counts) == set(DIMS)


def test_of_sets_opened_together_those_that_can_be_are_released_when_one_is_busy(
    images: ImageSet, store: FeatureStore
) -> None:
    extractor = small_batches(ColourBackbone(list(DIMS)), 8)
    busy = extractor.plans(images)[1]
    with store.writer(busy, provenance={}), pytest.raises(StoreBusyError):
        embed_images(images, extractor, store)
    assert len(embed_images(images, extractor, store)) == len(DIMS)
