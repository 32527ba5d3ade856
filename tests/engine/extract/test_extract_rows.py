"""Every row of the store belongs to its own image, whatever lies beside it in the folder."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from penultimate.engine.extract.embed import embed_images
from penultimate.engine.extract.extractor import Extractor, rows_per_batch
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.decode.factory import make_decoder
from penultimate.engine.images.load import load_images
from penultimate.engine.images.preprocess import Preprocess
from penultimate.store.errors import DecodeError, VanishedImageError
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import PENULTIMATE

KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}


class MeanColour:
    """A backbone whose three features are the mean of each channel, so that a row shows which image it is of."""

    name = "mean-colour"
    weights_digest = "0" * 16
    feature_dims: Mapping[str, int] = {PENULTIMATE: 3}
    precision = "float32"
    provenance: Mapping[str, Any] = {}
    preprocess = Preprocess(height=8, width=8, resize="whole", mean=(0.5,) * 3, std=(0.5,) * 3)

    def embed(self, images_BHWC: Pixels) -> dict[str, NDArray[np.float32]]:
        means_BC: NDArray[np.float32] = np.asarray(images_BHWC, np.float32).mean(axis=(1, 2))
        return {PENULTIMATE: means_BC}


def write_thousand(root: Path) -> tuple[dict[str, NDArray[np.float32]], set[str]]:
    """Write 1,000 small files of five kinds and random colours, 5 % of them bad in one of four ways."""
    rng = np.random.default_rng(0)
    bad_numbers = set(rng.permutation(1000)[:50].tolist())
    colours: dict[str, NDArray[np.float32]] = {}
    bad: set[str] = set()
    for number in range(1000):
        suffix = list(KINDS)[number % 5]
        path = root / f"class{number % 3}" / f"{number:04d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.new("RGB", (9, 11), tuple(rng.integers(0, 256, 3).tolist())).save(buffer, KINDS[suffix])
        content = buffer.getvalue()
        id_ = path.relative_to(root).as_posix()
        if number in bad_numbers:
            content = (b"", b"no image", content[: len(content) // 3], bytes(len(content)))[len(bad) % 4]
            bad.add(id_)
        else:
            with Image.open(buffer) as image:
                colours[id_] = np.asarray(image.convert("RGB"), np.float32).mean(axis=(0, 1))
        path.write_bytes(content)
    return colours, bad


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["pillow", "dali"])
def test_a_thousand_images_with_five_percent_bad_files_keep_every_row_with_its_image(
    tmp_path: Path, decoder: str
) -> None:
    colours, bad = write_thousand(tmp_path / "images")
    images = load_images(str(tmp_path / "images"))
    store = FeatureStore.create(tmp_path / "store")
    by = make_decoder(decoder, num_workers=2)
    extractor = Extractor(backbones=[MeanColour()], decoder=by, batch_size=48, shard_rows=256)
    (extracted,) = embed_images(images, extractor, store)
    features = extracted.features
    assert (extracted.num_embedded, extracted.num_reused) == (950, 0)
    assert features.failed.keys() == bad
    assert all(features.failed.values())
    assert features.ids.tolist() == sorted(colours)
    expected_ND = np.stack([colours[id_] for id_ in features.ids.tolist()])
    assert np.abs(features.features - expected_ND).max() <= 1  # the decoders' own tolerance on flat colours
    classes = [features.class_names[label] for label in features.labels.tolist()]
    assert classes == [id_.split("/")[0] for id_ in features.ids.tolist()]


def test_an_image_that_vanishes_stops_the_run_and_brought_back_it_is_resumed(tmp_path: Path) -> None:
    colours, bad = write_thousand(tmp_path / "images")
    images = load_images(str(tmp_path / "images"))
    assert images.digest
    vanished = tmp_path / "images" / max(colours)
    content = vanished.read_bytes()
    vanished.unlink()
    store = FeatureStore.create(tmp_path / "store")
    extractor = Extractor(backbones=[MeanColour()], decoder=make_decoder("pillow", num_workers=2), shard_rows=64)
    with pytest.raises(VanishedImageError, match=vanished.name):
        embed_images(images, extractor, store)
    (begun,) = store.incomplete()
    assert 0 < begun.done_rows < 1000
    vanished.write_bytes(content)
    done: list[int] = []
    (extracted,) = embed_images(images, extractor, store, progress=lambda _, total: done.append(total))
    done_ids, rest = np.split(images.ids_N, [begun.done_rows])
    known_bad = {(tmp_path / "images" / id_).read_bytes() for id_ in done_ids.tolist() if id_ in bad}
    # Of files that cannot be decoded several are equal, and what failed before is not tried again.
    to_do = {(tmp_path / "images" / id_).read_bytes() if id_ in bad else id_ for id_ in rest.tolist()} - known_bad
    assert done[-1] == len(to_do)
    assert len(extracted.features.ids) == 950


def test_an_image_that_is_gone_before_it_is_read_is_left_out_and_tried_again_by_the_next_run(tmp_path: Path) -> None:
    colours, bad = write_thousand(tmp_path / "images")
    images = load_images(str(tmp_path / "images"))
    gone = max(colours)
    content = (tmp_path / "images" / gone).read_bytes()
    (tmp_path / "images" / gone).unlink()
    store = FeatureStore.create(tmp_path / "store")
    extractor = Extractor(backbones=[MeanColour()], decoder=make_decoder("pillow", num_workers=2), shard_rows=64)
    (first,) = embed_images(images, extractor, store)
    assert first.features.failed.keys() == bad | {gone}
    assert first.features.failed[gone] == "the file is gone"
    (tmp_path / "images" / gone).write_bytes(content)
    (second,) = embed_images(load_images(str(tmp_path / "images")), extractor, store)
    assert (second.num_embedded, second.num_reused) == (1, 949)
    assert second.features.failed.keys() == bad
    np.testing.assert_allclose(second.features.features[second.features.ids == gone][0], colours[gone], atol=1)


def test_a_batch_never_spans_two_shards() -> None:
    assert [rows_per_batch(size) for size in (1, 8, 48, 64, 100, 5000)] == [1, 8, 32, 64, 64, 1024]
    assert rows_per_batch(100, shard_rows=96) == 96


def test_no_image_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"")
    images = load_images(str(tmp_path / "images"), labels=False)
    extractor = Extractor(backbones=[MeanColour()], decoder=make_decoder("pillow", num_workers=1))
    with pytest.raises(DecodeError, match="none of the 1 images"):
        embed_images(images, extractor, FeatureStore.create(tmp_path / "store"))
