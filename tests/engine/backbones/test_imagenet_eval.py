"""Top-1 and top-5 are measured with a network's own classifier, on generated folders and on the real sample."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from penultimate.engine.backbones.imagenet_eval import _rank, imagenet_eval, imagenet_images
from penultimate.engine.backbones.loading.weights import PACKAGES
from penultimate.engine.backbones.timm_backbone import load_backbone
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.sources import FileSource
from penultimate.engine.runtime.capabilities import computes_natively
from penultimate.engine.runtime.devices import PrecisionName
from penultimate.store.errors import DecodeError, InputError


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    """Write three class folders, first, second and last of ImageNet's thousand, and one file that is no image."""
    for number, synset in enumerate(("n01440764", "n01443537", "n15075141")):
        write_image(tmp_path / "val" / synset / f"ILSVRC2012_val_{number:08d}.JPEG", number)
    (tmp_path / "val" / "n01440764" / "broken.JPEG").write_bytes(b"\xff\xd8 nothing")
    return tmp_path / "val"


def test_class_folders_get_imagenets_indices_even_if_most_are_missing(validation: Path) -> None:
    images = imagenet_images(validation)
    assert images.labels_N.tolist() == [0, 0, 1, 999]
    assert len(images.class_names) == 1000
    assert set(images.split_N.tolist()) == {"test"}


def test_the_score_is_that_of_the_logits_and_what_cannot_be_decoded_is_left_out(validation: Path) -> None:
    backbone = load_backbone("test_resnet", weights="random")
    images = imagenet_images(validation)
    seen: list[tuple[int, int]] = []
    score = imagenet_eval(
        backbone, images, PillowDecoder(), batch_size=2, report=lambda *progress: seen.append(progress)
    )
    assert list(score.failed) == ["n01440764/broken.JPEG"]
    assert score.num_images == 3
    assert seen[-1] == (4, 4)
    batches = PillowDecoder().batches(images, np.array([0, 2, 3]), [backbone.preprocess], batch_size=3)
    logits = np.concatenate([backbone.logits(batch.views[0]) for batch in batches])
    order = np.argsort(-logits, axis=1)
    truth = np.array([[0], [1], [999]])
    assert score.top1 == np.mean(order[:, :1] == truth)
    assert score.top5 == np.mean((order[:, :5] == truth).any(axis=1))


def test_each_image_is_read_once_for_the_score_and_the_digest_it_carries(
    validation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    original = FileSource.read

    def noted(source: FileSource, index: int) -> bytes:
        reads.append(index)
        return original(source, index)

    monkeypatch.setattr(FileSource, "read", noted)
    score = imagenet_eval(load_backbone("test_resnet", weights="random"), imagenet_images(validation), PillowDecoder())
    assert sorted(reads) == [0, 1, 2, 3]
    assert score.images == imagenet_images(validation).digest


def test_a_constant_output_scores_nothing() -> None:
    assert _rank(np.zeros((1, 1000), np.float32), np.array([0])).tolist() == [999]
    assert _rank(np.array([[3.0, 1.0, 2.0]], np.float32), np.array([2])).tolist() == [1]


def test_what_is_no_validation_set_is_refused(tmp_path: Path, validation: Path) -> None:
    write_image(tmp_path / "cats" / "cat" / "0.png", 0)
    write_image(tmp_path / "flat" / "ILSVRC2012_val_00000001.JPEG", 0)
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "columns" / "a.png", 0)
    (tmp_path / "columns" / "labels.csv").write_text("file,label\na.png,3\n")
    write_image(tmp_path / "range" / "a.png", 0)
    (tmp_path / "range" / "labels.csv").write_text("file,imagenet_class_index\na.png,1000\n")
    for folder in ("cats", "flat", "empty", "columns", "range", "absent"):
        with pytest.raises(InputError):
            imagenet_images(tmp_path / folder)


def test_a_classifier_of_other_classes_and_images_none_of_which_decodes_are_refused(validation: Path) -> None:
    backbone = load_backbone("test_resnet", weights="random")
    for path in validation.rglob("*.JPEG"):
        path.write_bytes(b"nothing")
    with pytest.raises(DecodeError, match="not one of 4"):
        imagenet_eval(backbone, imagenet_images(validation), PillowDecoder())
    backbone.model.reset_classifier(10)
    with pytest.raises(InputError, match="10 classes"):
        imagenet_eval(backbone, imagenet_images(validation), PillowDecoder())


@pytest.mark.slow
@pytest.mark.capability
@pytest.mark.parametrize("arch", PACKAGES)
def test_the_classifier_recognises_the_imagenet_sample(arch: str, data_folder: Path) -> None:
    """Wrongly assigned weights would give chance, 0.1 %; these networks know about 90 % of this sample."""
    pytest.importorskip(PACKAGES[arch].module)
    precision: PrecisionName = "bfloat16" if computes_natively("bfloat16", torch.device("cpu")) else "float32"
    backbone = load_backbone(arch, weights="package", preprocess="timm", precision=precision)
    images = imagenet_images(data_folder / "imagenet-sample")
    score = imagenet_eval(backbone, images, PillowDecoder(num_workers=2))
    assert score.num_images == 125
    assert score.top1 >= 0.85  # 90 % less two standard errors of 125 images (2.7 % each)
    assert score.top5 >= 0.95
