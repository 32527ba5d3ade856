"""An extraction on a simulated GPU, from a decoder whose batches are there: the CPU's features, and one wait a pass."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.simulated_cuda import SimulatedCuda, simulated_cuda

from penultimate.engine.backbones.timm_backbone import TimmBackbone, load_backbone
from penultimate.engine.extract.embed import embed_images
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.extract.parity import parity_check
from penultimate.engine.images.decode.decoded_batch import DecodedBatch
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore

NAMES = ["test_resnet", "test_vit"]


class DecoderOnGpu(PillowDecoder):
    """A decoder whose pixels are on the GPU, as DaliGpuDecoder's are."""

    def batches(
        self, images: ImageSet, indices: Iterable[int], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:
        for batch in super().batches(images, indices, views, batch_size=batch_size):
            pinned = (torch.from_numpy(np.asarray(view)).pin_memory() for view in batch.views)
            yield replace(batch, views=tuple(pixels.to("cuda", non_blocking=True) for pixels in pinned))


@pytest.fixture
def cuda() -> Iterator[SimulatedCuda]:
    with simulated_cuda() as device:
        yield device


@pytest.fixture
def images(photos: Path) -> ImageSet:
    (photos / "cat" / "03.jpg").write_bytes(b"no image")  # a batch with a failure has fewer rows
    return load_folder(photos, labels=False)


def extracted(images: ImageSet, store: Path, *, device: str, decoder: PillowDecoder) -> list[FeatureSet]:
    extractor = Extractor(
        backbones=[load_backbone(name, weights="random", device=device) for name in NAMES],
        decoder=decoder,
        batch_size=8,
        shard_rows=8,
        threads=ThreadBudget.of(device, decode=1, cores=1),
    )
    return [each.features for each in embed_images(images, extractor, FeatureStore.create(store))]


@pytest.mark.parametrize("decoder", [PillowDecoder(), DecoderOnGpu()], ids=["host", "device"])
def test_features_are_those_of_the_cpu(
    cuda: SimulatedCuda, images: ImageSet, decoder: PillowDecoder, tmp_path: Path
) -> None:
    expected = extracted(images, tmp_path / "cpu", device="cpu", decoder=PillowDecoder())
    found = extracted(images, tmp_path / "gpu", device="cuda", decoder=decoder)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.key == theirs.key
        assert ours.failed.keys() == {"cat/03.jpg"}
        off = np.linalg.norm(np.asarray(ours.features) - theirs.features) / np.linalg.norm(theirs.features)
        assert off < 5e-6  # float32 in another order


@pytest.mark.parametrize("decoder", [PillowDecoder(), DecoderOnGpu()], ids=["host", "device"])
def test_the_host_waits_once_a_pass_and_copies_features_alone(
    cuda: SimulatedCuda, images: ImageSet, decoder: PillowDecoder, tmp_path: Path
) -> None:
    found = extracted(images, tmp_path / "store", device="cuda", decoder=decoder)
    passes = len(NAMES) * -(-len(images) // 8)
    assert cuda.syncs.within("pipeline.py") == passes, cuda.syncs.table()
    assert cuda.to_host.total() == passes, cuda.to_host.table()
    assert cuda.to_host_bytes == sum(np.asarray(features.features).nbytes for features in found)
    assert cuda.pageable.within("pipeline.py") == 0, cuda.pageable.table()
    assert cuda.live_bytes < cuda.peak_bytes


def test_parity_compares_pixels_that_are_on_the_gpu(
    cuda: SimulatedCuda, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone("test_resnet", weights="random", device="cuda")
    monkeypatch.setattr(TimmBackbone, "reference", lambda one: load_backbone("test_resnet", weights="random"))
    threads = ThreadBudget.of("cuda", decode=1, cores=1)
    found = parity_check(images, backbone, DecoderOnGpu(), batch_size=8, threads=threads)["penultimate"]
    assert found["passed"]
    assert found["pixel_distance"] == 0
