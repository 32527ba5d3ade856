"""Decoders are measured on the same images, by kind of file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from penultimate.engine.bench.decode import DecodeBench, bench_decode, kinds_of
from penultimate.engine.bench.gpu.photographs import KINDS, draw_jpeg, write_photographs
from penultimate.engine.images.contents import Contents
from penultimate.engine.images.decode.file_header import jpeg_png_size
from penultimate.engine.images.load import load_images
from penultimate.store.errors import DecodeError

TINY = DecodeBench(rounds=1, workers=1, size=32, seconds=30)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    write_photographs(tmp_path / "photos", per_class=5, height=40, width=50)
    write_photographs(tmp_path / "photos" / "p", per_class=5, kind="progressive", height=40, width=50)
    for number in range(9):
        Image.fromarray(np.full((20, 20), number, np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "photos" / "a.webp")
    return tmp_path / "photos"


def test_every_decoder_decodes_every_image_of_every_kind(mixed: Path) -> None:
    pytest.importorskip("nvidia.dali")
    (mixed / "class0" / "000000.jpg").write_bytes(draw_jpeg(0)[:700])  # its header says JPEG, the rest is missing
    report = bench_decode([str(mixed)], TINY, command=["penultimate"], num_images=100)
    by_kind = {kind: [line for line in report.measurements if line.group == kind] for kind in
               ("JPEG RGB", "JPEG RGB, progressive", "PNG L")}  # fmt: skip
    for kind, count in (("JPEG RGB", 10), ("JPEG RGB, progressive", 10), ("PNG L", 9)):
        assert [line.name for line in by_kind[kind]] == ["pillow", "dali", "torchvision"]
        assert all(line.items == count and line.complete for line in by_kind[kind])
    assert "JPEG RGB: pillow could not decode 1 of 10 images." in report.findings
    assert "Images of kind WEBP RGB were not measured: 1 are too few." in report.not_measured
    assert any("dali-gpu" in sentence for sentence in report.not_measured)


def test_as_many_images_are_decoded_as_the_seconds_allow(tmp_path: Path) -> None:
    write_photographs(tmp_path, per_class=40, height=20, width=20)
    report = bench_decode([str(tmp_path)], TINY.replace(seconds=1e-6), command=["penultimate"])
    assert report.settings["images"] == ["16 JPEG RGB"]


def test_pixels_are_a_kind_of_their_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((9, 8, 8, 3), np.uint8), labels=np.zeros(9, np.int64))
    kinds, few = kinds_of(load_images([str(tmp_path / "a.npz")], labels=False))
    assert ({kind: len(images) for kind, images in kinds.items()}, few) == ({"pixels": 9}, {})


def test_a_set_without_enough_images_is_refused(tmp_path: Path) -> None:
    write_photographs(tmp_path, per_class=2, height=20, width=20)
    with pytest.raises(DecodeError, match="no kind of file has 8 images"):
        bench_decode([str(tmp_path)], TINY, command=["penultimate"])


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_jpegs_are_of_the_kind_that_they_are_called(kind: str) -> None:
    data = draw_jpeg(0, kind=kind, height=30, width=41)
    plain = jpeg_png_size(data)
    assert plain == (None if kind == "CMYK" else (30, 41))
    assert (b"\xff\xc2" in data) == (kind == "progressive")  # T.81, table B.1


def test_drawn_photographs_have_contents_of_their_own_and_decode(tmp_path: Path) -> None:
    write_photographs(tmp_path, per_class=20, height=20, width=20)
    images = load_images([str(tmp_path)])
    assert len(images) == 40
    contents: Contents = images.contents
    images.digest  # noqa: B018  # reads all
    assert len(np.unique(contents.known(), axis=0)) == 40
    assert Image.open(tmp_path / "class1" / "000019.jpg").convert("RGB").size == (20, 20)
