from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.train.augment.augmenter import Augmenter, CropSettings, augmented
from penultimate.engine.train.augment.draws import draw_batch
from penultimate.engine.train.augment.factory import AUGMENTERS, make_augmenter
from penultimate.engine.train.recipe import Recipe
from penultimate.store.errors import DecodeError, UnknownNameError

if TYPE_CHECKING:
    from penultimate.engine.train.augment.dali import DaliAugmenter

CPU = torch.device("cpu")
Make = Callable[[], Augmenter]


class AugmenterContract:
    """The contract of every augmenter."""

    name: str

    @pytest.fixture
    def augmenter(self) -> Augmenter:
        if self.name == "dali":
            pytest.importorskip("nvidia.dali")
        return make_augmenter(self.name, num_workers=2, device=CPU)

    def test_rows_come_in_the_order_drawn(self, augmenter: Augmenter, images: ImageSet, recipe: Recipe) -> None:
        draws = draw_batch(recipe, np.arange(len(images)), 0)
        batch = augmenter.augment(images, draws, CropSettings.of(recipe))
        assert batch.rows_B == draws.rows_B.tolist()
        assert batch.images_BHWC.shape == (4, 32, 32, 3)
        assert batch.images_BHWC.dtype == torch.uint8
        # in write_photos the classes differ in the brightest channel
        assert (
            batch.images_BHWC.float().mean(dim=(1, 2)).argmax(dim=1).tolist() == images.labels_N[batch.rows_B].tolist()
        )

    def test_the_same_draws_give_the_same_pixels_whatever_came_before(
        self, augmenter: Augmenter, images: ImageSet, recipe: Recipe
    ) -> None:
        rows, settings = np.arange(len(images)), CropSettings.of(recipe)
        straight = list(augmented(augmenter, images, (draw_batch(recipe, rows, s) for s in range(4)), settings))
        fresh = make_augmenter(self.name, num_workers=1, device=CPU).augment(
            images, draw_batch(recipe, rows, 3), settings
        )
        assert torch.equal(straight[3].images_BHWC, fresh.images_BHWC)

    def test_a_flip_mirrors(self, augmenter: Augmenter, images: ImageSet, recipe: Recipe) -> None:
        rows, settings = np.arange(len(images)), CropSettings.of(recipe)
        as_is = augmenter.augment(images, draw_batch(recipe.replace(flip=0.0), rows, 0), settings)
        mirrored = augmenter.augment(images, draw_batch(recipe.replace(flip=1.0), rows, 0), settings)
        assert torch.equal(as_is.images_BHWC.flip(2), mirrored.images_BHWC)

    def test_an_image_that_cannot_be_decoded_is_named_and_stood_in_for(
        self, augmenter: Augmenter, photos: Path, recipe: Recipe
    ) -> None:
        bad, fake = photos / "cat" / "03.jpg", photos / "dog" / "04.jpg"
        bad.write_bytes(bad.read_bytes()[:200])
        fake.write_bytes(b"\xff\xd8 no image")
        damaged = load_images(str(photos))
        draws = draw_batch(recipe.replace(batch_size=24), np.arange(24), 0)
        batch = augmenter.augment(damaged, draws, CropSettings.of(recipe))
        assert {str(damaged.ids_N[row]) for row in batch.failed} == {"cat/03.jpg", "dog/04.jpg"}
        assert set(batch.rows_B) == set(range(24)) - set(batch.failed)
        for position, row in enumerate(draws.rows_B.tolist()):
            stand_in = position
            while draws.rows_B[stand_in] in batch.failed:
                stand_in -= 1
            assert batch.rows_B[position] == draws.rows_B[stand_in], row

    def test_other_kinds_of_files_are_taken_in(self, augmenter: Augmenter, photos: Path, recipe: Recipe) -> None:
        for number, mode in enumerate(("RGBA", "P", "CMYK")):
            path = photos / "cat" / f"{number:02d}.jpg"
            image = Image.open(path).convert(mode)
            path.unlink()
            image.save(path.with_suffix(".jpg" if mode == "CMYK" else ".png"))
        mixed = load_images(str(photos))
        batch = augmenter.augment(
            mixed, draw_batch(recipe.replace(batch_size=24), np.arange(24), 0), CropSettings.of(recipe)
        )
        assert not batch.failed

    def test_a_batch_without_one_image_is_an_error(self, augmenter: Augmenter, photos: Path, recipe: Recipe) -> None:
        for path in photos.rglob("*.jpg"):
            path.write_bytes(b"nothing")
        with pytest.raises(DecodeError, match="none of the 4 images of update 1 could be decoded"):
            augmenter.augment(load_images(str(photos)), draw_batch(recipe, np.arange(24), 0), CropSettings.of(recipe))


class TestPillowAugmenter(AugmenterContract):
    name = "pillow"


class TestDaliAugmenter(AugmenterContract):
    name = "dali"

    @pytest.fixture
    def dali(self, augmenter: Augmenter) -> "DaliAugmenter":
        from penultimate.engine.train.augment.dali import DaliAugmenter

        assert isinstance(augmenter, DaliAugmenter)
        return augmenter

    def test_dali_makes_every_plain_image(self, dali: "DaliAugmenter", images: ImageSet, recipe: Recipe) -> None:
        for step in range(3):
            dali.augment(images, draw_batch(recipe, np.arange(len(images)), step), CropSettings.of(recipe))
        assert (dali.counts.dali, dali.counts.pillow, dali.counts.refused_runs) == (12, 0, 0)

    def test_a_damaged_image_costs_its_neighbours_nothing(
        self, dali: "DaliAugmenter", photos: Path, recipe: Recipe
    ) -> None:
        draws, settings = draw_batch(recipe.replace(batch_size=24), np.arange(24), 0), CropSettings.of(recipe)
        clean = dali.augment(load_images(str(photos)), draws, settings)
        bad = photos / "cat" / "03.jpg"
        content = bad.read_bytes()
        bad.write_bytes(content[:200] + content[content.index(b"\xff\xda") :])  # without its Huffman tables
        batch = dali.augment(load_images(str(photos)), draws, settings)
        assert len(batch.failed) == 1
        assert (dali.counts.dali, dali.counts.pillow) == (24 + 23, 1)
        kept = [i for i, row in enumerate(draws.rows_B.tolist()) if row not in batch.failed]
        assert torch.equal(batch.images_BHWC[kept], clean.images_BHWC[kept])

    @pytest.mark.parametrize("method", ["run", "build"])
    def test_a_fault_of_dali_is_raised(
        self, dali: "DaliAugmenter", images: ImageSet, recipe: Recipe, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from nvidia.dali import Pipeline

        def fail(pipeline: Pipeline) -> None:
            raise RuntimeError("CUDA runtime API error cudaErrorIllegalAddress (700)")

        monkeypatch.setattr(Pipeline, method, fail)
        with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress"):
            dali.augment(images, draw_batch(recipe, np.arange(len(images)), 0), CropSettings.of(recipe))

    def test_an_augmenter_that_decodes_nothing_is_not_taken_for_damaged_files(
        self, dali: "DaliAugmenter", images: ImageSet, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from nvidia.dali import Pipeline

        def fail(pipeline: Pipeline) -> None:
            raise RuntimeError("Failed to decode sample #0 : ")

        monkeypatch.setattr(Pipeline, "run", fail)
        with pytest.raises(DecodeError, match="DALI decodes none of 4 images and Pillow decodes 4"):
            dali.augment(images, draw_batch(recipe, np.arange(len(images)), 0), CropSettings.of(recipe))

    def test_large_crops_are_decoded_in_several_runs(
        self, dali: "DaliAugmenter", images: ImageSet, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from penultimate.engine.images.decode import dali_runs

        draws, settings = draw_batch(recipe, np.arange(len(images)), 0), CropSettings.of(recipe)
        at_once = dali.augment(images, draws, settings)
        monkeypatch.setattr(dali_runs, "RUN_PIXELS", 1)
        assert torch.equal(dali.augment(images, draws, settings).images_BHWC, at_once.images_BHWC)


def test_dali_and_pillow_give_nearly_the_same_pixels(images: ImageSet, recipe: Recipe) -> None:
    pytest.importorskip("nvidia.dali")
    draws, settings = draw_batch(recipe, np.arange(len(images)), 0), CropSettings.of(recipe)
    ours, reference = (
        make_augmenter(name, num_workers=1, device=CPU).augment(images, draws, settings).images_BHWC.float()
        for name in ("dali", "pillow")
    )
    # One libjpeg's rounding and one resampling's: 0.02 of 255 on average on photographs, more on noise as here.
    assert (ours - reference).abs().mean() < 0.5
    assert (ours - reference).abs().max() <= 8


def test_an_unknown_augmenter_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="pillow"):
        make_augmenter("pilow", num_workers=1, device=CPU)
    assert set(AUGMENTERS) == {"dali", "pillow"}


def assert_no_fallback(augmenter: Augmenter, *, num_images: int) -> None:
    from penultimate.engine.images.decode.dali_runs import DecodeCounts
    from penultimate.engine.train.augment.dali import DaliAugmenter

    assert isinstance(augmenter, DaliAugmenter)
    assert augmenter.counts == DecodeCounts(dali=num_images, pillow=0, refused_runs=0)


@pytest.mark.gpu
def test_the_gpu_pipeline_gives_the_crops_of_the_cpus(images: ImageSet, recipe: Recipe) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    draws, settings = draw_batch(recipe, np.arange(len(images)), 0), CropSettings.of(recipe)
    augmenter = make_augmenter("dali", num_workers=2, device=torch.device("cuda", 0))
    on_gpu = augmenter.augment(images, draws, settings)
    on_cpu = make_augmenter("dali", num_workers=2, device=CPU).augment(images, draws, settings)
    assert on_gpu.images_BHWC.is_cuda
    assert_no_fallback(augmenter, num_images=4)
    # nvJPEG and fn.resize against libjpeg and torch: other rounding, the same crop, flip and chroma
    assert (on_gpu.images_BHWC.cpu().float() - on_cpu.images_BHWC.float()).abs().mean() < 1.5


@pytest.mark.gpu
def test_pixels_on_the_gpu_are_not_overwritten_while_updates_are_queued(images: ImageSet, recipe: Recipe) -> None:
    """The same on a CPU is test_the_same_draws_give_the_same_pixels_whatever_came_before."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    gpu, rows, settings = torch.device("cuda", 0), np.arange(len(images)), CropSettings.of(recipe)
    busy = torch.randn((4096, 4096), device=gpu)
    seen = []
    draws = (draw_batch(recipe, rows, step) for step in range(12))
    augmenter = make_augmenter("dali", num_workers=2, device=gpu)
    for batch in augmented(augmenter, images, draws, settings):
        for _ in range(20):  # keeps the default stream behind the augmenter's
            busy = (busy @ busy).clamp_(-1, 1)
        batch.images_BHWC.record_stream(torch.cuda.current_stream())  # as Learner.update does
        seen.append(batch.images_BHWC.float().sum(dim=(1, 2, 3)))
    assert_no_fallback(augmenter, num_images=48)
    fresh = make_augmenter("dali", num_workers=2, device=gpu)
    for step, sums in enumerate(seen):
        again = fresh.augment(images, draw_batch(recipe, rows, step), settings).images_BHWC
        assert torch.equal(sums, again.float().sum(dim=(1, 2, 3)))
