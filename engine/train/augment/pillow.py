"""PillowAugmenter: the reference, which crops and resizes as torchvision's transforms do with Pillow images."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from penultimate.engine.images.decode.pillow import open_image, reason_of
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.train.augment.augmenter import AugmentedBatch, Cropped, CropSettings, batch_of
from penultimate.engine.train.augment.draws import BatchDraws, crop_box

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class PillowAugmenter:
    """Decodes and augments on threads; works wherever Pillow does."""

    name = "pillow"

    def __init__(self, *, num_workers: int = 1) -> None:
        """Start ``num_workers`` threads that read, decode and resize."""
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="pillow-augment")

    def augment(self, images: ImageSet, draws: BatchDraws, settings: CropSettings) -> AugmentedBatch:
        """Crop, resize and flip every image drawn, as ``Augmenter`` says."""

        def one(position: int) -> Cropped:
            return cropped_with_pillow(images, draws, position, settings)

        return batch_of(draws.step, list(self._pool.map(one, range(len(draws.rows_B)))))


def cropped_with_pillow(images: ImageSet, draws: BatchDraws, position: int, settings: CropSettings) -> Cropped:
    """Make one image of an update. It is cropped before it is resized, so that no pixel outside the crop counts."""
    row = int(draws.rows_B[position])
    try:
        image = open_image(images.source.read(row), upright=settings.exif_orientation)
        box = crop_box(image.height, image.width, draws.crops_BA4[position], scale=settings.scale, ratio=settings.ratio)
        crop = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        pixels_HWC = np.asarray(crop.resize((settings.width, settings.height), _RESAMPLING[settings.interpolation]))
    except Exception as error:  # Pillow's plugins raise some ten kinds on bad files; each becomes this row's reason
        return Cropped(row, reason_of(error))
    return Cropped(row, torch.from_numpy(pixels_HWC[:, ::-1].copy() if draws.flips_B[position] else pixels_HWC.copy()))
