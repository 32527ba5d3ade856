"""Every decoder obeys one contract, inherited by its own test class; further tests are for one decoder alone."""

import base64
import io
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.decode.decoded_batch import DecodedBatch, Pixels
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.factory import DECODERS, default_decoder, make_decoder
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.images.sources import ArraySource
from penultimate.store.errors import UnavailableError, UnknownNameError, VanishedImageError

Photo = Callable[..., Image.Image]
Encode = Callable[..., bytes]

ARITHMETIC_JPEG = base64.b85decode(
    rb"|JeWF01!$>Nk#wx0RR9200961|JwjV00RO70|EjA0|NsD0|NvF2n7WM1O*BQ2L=cX3JeSj3JVJj4iXRz4iOFu3lJ6%5fc;@6%`B*"
    rb"7Z?^47!ni}6#v@*LjeN>1O)^I2?YfS6b%av6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6ciK`6cqo-"
    rb"01*fP3;+-V0U`hb5di}c0sqVZ3IGrg1pyEd1^?Or3<CiG0ucid06zf#0NYZofRSINaupCaiqeMi<-KsO@KWmk0MxGDLBWPJPib<r"
    rb"xA4*EJsaqoBE??+*#"
)
"""A JPEG of 16 x 12 pixels (16 x, 20 y, 128), written by libjpeg 6.2 with ``arith_code``, as Pillow only reads them."""

HALF = (0.5, 0.5, 0.5)
WHOLE = Preprocess(height=48, width=48, resize="whole", mean=HALF, std=HALF)
CROP = Preprocess(height=56, width=56, resize="crop", crop_pct=0.875, mean=HALF, std=HALF)
BILINEAR = Preprocess(height=40, width=56, resize="whole", interpolation="bilinear", mean=HALF, std=HALF)


def write(folder: Path, files: dict[str, bytes]) -> ImageSet:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return load_folder(folder, labels=False)


def everything(
    decoder: Decoder, images: ImageSet, *views: Preprocess, batch_size: int = 16
) -> tuple[list[DecodedBatch], dict[str, list[NDArray[np.uint8]]], dict[str, str]]:
    """Decode a set; return the batches, the views by id, and the reasons of failure by id."""
    batches = list(decoder.batches(images, np.arange(len(images)), views, batch_size=batch_size))
    rows: dict[str, list[NDArray[np.uint8]]] = {}
    failed: dict[str, str] = {}
    for batch in batches:
        for position, index in enumerate(batch.indices_B):
            rows[str(images.ids_N[index])] = [on_host(view)[position] for view in batch.views]
        failed |= {str(images.ids_N[index]): reason for index, reason in batch.failed.items()}
    return batches, rows, failed


def on_host(view: Pixels) -> NDArray[np.uint8]:
    return view if isinstance(view, np.ndarray) else np.asarray(view.cpu())


def reference(content: bytes, view: Preprocess) -> NDArray[np.uint8]:
    """Decode and resize a whole image as torchvision's ``pil_loader`` and transform do, in four plain lines."""
    assert view.resize == "whole"
    kernel = Image.Resampling.BICUBIC if view.interpolation == "bicubic" else Image.Resampling.BILINEAR
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB").resize((view.width, view.height), kernel))


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int16]:
    off: NDArray[np.int16] = np.abs(a.astype(np.int16) - b)
    return off


def check_counts(decoder: Decoder, **expected: int) -> None:
    """Raise unless these are the numbers of images that each library decoded."""
    from penultimate.engine.images.decode.dali_runs import DecodeCounts

    assert decoder.counts == DecodeCounts(**expected)  # type: ignore[attr-defined]  # of the decoders with DALI alone


def png_of(width: int, height: int, data: bytes) -> bytes:
    """Make a complete RGB PNG file with this image data, valid or not."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class DecoderContract:
    """The contract of every decoder."""

    @pytest.fixture
    def decoder(self) -> Decoder:
        raise NotImplementedError

    def check_same(self, got: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
        """Raise unless these are the pixels Pillow gives, within the decoder's tolerance."""
        raise NotImplementedError

    def check_decoded_by(self, decoder: Decoder, *, plain: int, other: int) -> None:
        """Raise unless DALI, where the decoder has it, decoded all ``plain`` files and Pillow the ``other`` ones."""

    def check_resized_alike(self, from_file: NDArray[np.uint8], from_array: NDArray[np.uint8]) -> None:
        """Raise unless the pixels of a file and the same pixels in memory are resized alike."""
        np.testing.assert_array_equal(from_file, from_array)

    @pytest.fixture
    def files(self, photo: Photo, encode: Encode) -> dict[str, bytes]:
        sizes = [(120, 160), (160, 120), (90, 90), (33, 200)]
        return {
            f"{seed:03d}.{kind.lower()}": encode(photo(seed, *sizes[seed % 4]), kind)
            for seed, kind in zip(range(70), ["JPEG", "PNG", "JPEG", "WEBP", "JPEG"] * 14, strict=True)
        }

    def test_every_image_comes_exactly_once_in_order(
        self, decoder: Decoder, tmp_path: Path, files: dict[str, bytes]
    ) -> None:
        images = write(tmp_path, files)
        order = np.random.default_rng(0).permutation(70)[:53]
        batches = list(decoder.batches(images, order, [WHOLE], batch_size=16))
        assert np.concatenate([batch.indices_B for batch in batches]).tolist() == order.tolist()
        assert [len(batch.indices_B) for batch in batches] == [16, 16, 16, 5]
        assert all(batch.views[0].shape == (len(batch.indices_B), 48, 48, 3) for batch in batches)
        other = sum(str(images.ids_N[index]).endswith("webp") for index in order)
        self.check_decoded_by(decoder, plain=53 - other, other=other)

    def test_indices_are_taken_only_as_they_are_needed(
        self, decoder: Decoder, tmp_path: Path, files: dict[str, bytes]
    ) -> None:
        images = write(tmp_path, files)
        taken = 0

        def endless() -> Iterator[int]:
            nonlocal taken
            for index in cycle(range(70)):
                taken += 1
                assert taken < 1000, "nobody has asked for so many"
                yield index

        batches = decoder.batches(images, endless(), [WHOLE], batch_size=8)
        for number in range(5):
            assert next(batches).indices_B.tolist() == list(range(8 * number, 8 * number + 8))
            assert taken <= 8 * (number + 5) + 200
        batches.close()  # type: ignore[attr-defined]  # a generator, which Iterator does not say

    def test_pixels_are_those_of_pillow(self, decoder: Decoder, tmp_path: Path, files: dict[str, bytes]) -> None:
        _, rows, failed = everything(decoder, write(tmp_path, files), WHOLE, BILINEAR)
        assert not failed
        for name, (whole, bilinear) in rows.items():
            self.check_same(whole, reference(files[name], WHOLE))
            self.check_same(bilinear, reference(files[name], BILINEAR))
        self.check_decoded_by(decoder, plain=56, other=14)

    def test_rows_do_not_depend_on_batch_size_views_or_neighbours(
        self, decoder: Decoder, tmp_path: Path, files: dict[str, bytes]
    ) -> None:
        images = write(tmp_path, files)
        _, together, _ = everything(decoder, images, CROP, WHOLE, batch_size=64)
        for index in (0, 1, 3, 69):
            (alone,) = decoder.batches(images, np.array([index]), [WHOLE], batch_size=1)
            np.testing.assert_array_equal(on_host(alone.views[0])[0], together[str(images.ids_N[index])][1])
        self.check_decoded_by(decoder, plain=59, other=15)

    def test_kinds_of_files_are_decoded_as_pillow_would(
        self, decoder: Decoder, tmp_path: Path, photo: Photo, encode: Encode
    ) -> None:
        image = photo(1)
        rotated = Image.Exif()
        rotated[0x0112] = 6  # rotate by 90 degrees to show: not applied
        files = {
            "animated.gif": encode(image, "GIF", save_all=True, append_images=[photo(2), photo(3)]),
            "alpha.png": encode(Image.merge("RGBA", (*image.split(), image.convert("L"))), "PNG"),
            "animated.webp": encode(image, "WEBP", save_all=True, append_images=[photo(2)]),
            "arithmetic.jpg": ARITHMETIC_JPEG,
            "bitmap.bmp": encode(image, "BMP"),
            "bits1.png": encode(image.convert("1"), "PNG"),
            "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
            "exif.jpg": encode(image, "JPEG", exif=rotated),
            "full_chroma.jpg": encode(image, "JPEG", subsampling="4:4:4"),
            "gray.jpg": encode(image.convert("L"), "JPEG"),
            "gray.png": encode(image.convert("L"), "PNG"),
            "one_pixel.png": encode(photo(1, 1, 1), "PNG"),
            "one_pixel.jpg": encode(photo(1, 1, 1), "JPEG"),
            "palette.png": encode(image.convert("P"), "PNG"),
            "progressive.jpg": encode(image, "JPEG", progressive=True),
            "restarts.jpg": encode(image, "JPEG", restart_marker_blocks=4),
            "rgb.jpg": encode(image, "JPEG", keep_rgb=True),
            "rgb_progressive.jpg": encode(image, "JPEG", keep_rgb=True, progressive=True),
            "still.webp": encode(image, "WEBP"),
            "strip.jpg": encode(photo(1, 9, 20_000), "JPEG"),
            "strip.png": encode(photo(1, 2, 20_000), "PNG"),
            "tagged.tif": encode(image, "TIFF"),
            "trailing.jpg": encode(image, "JPEG") + bytes(100),
            "transparent_color.png": encode(image, "PNG", transparency=(1, 2, 3)),
        }
        _, rows, failed = everything(decoder, write(tmp_path, files), WHOLE)
        assert not failed
        assert rows.keys() == files.keys()
        for name, (whole,) in rows.items():
            self.check_same(whole, reference(files[name], WHOLE))

    def test_a_palette_with_transparency_gives_no_warning(
        self, decoder: Decoder, tmp_path: Path, photo: Photo, encode: Encode
    ) -> None:
        image = photo(1).convert("P", palette=Image.Palette.ADAPTIVE)
        files = {"opaque.png": encode(image, "PNG"), "see_through.png": encode(image, "PNG", transparency=bytes(256))}
        _, rows, _ = everything(decoder, write(tmp_path, files), WHOLE)
        np.testing.assert_array_equal(rows["see_through.png"][0], rows["opaque.png"][0])

    def test_sixteen_bit_grayscale_keeps_its_high_bits(self, decoder: Decoder, tmp_path: Path, encode: Encode) -> None:
        deep = np.random.default_rng(0).integers(0, 2**16, (48, 48), dtype=np.uint16)
        _, rows, _ = everything(decoder, write(tmp_path, {"deep.png": encode(Image.fromarray(deep), "PNG")}), WHOLE)
        np.testing.assert_array_equal(rows["deep.png"][0], np.repeat((deep // 256)[:, :, None], 3, axis=2))

    def test_bad_files_are_recorded_and_the_rows_around_them_are_right(
        self, decoder: Decoder, tmp_path: Path, files: dict[str, bytes], photo: Photo, encode: Encode
    ) -> None:
        whole_file = encode(photo(0), "JPEG")
        bad = {
            "000_truncated.jpg": whole_file[: len(whole_file) // 2],
            "010_empty.jpg": b"",
            "020_text.jpg": b"not an image\n" * 50,
            "030_damaged.png": png_of(48, 48, b"looks complete, is not"),
            "035_half_a_png.png": encode(photo(0), "PNG")[:-3000],
            "040_bomb.png": png_of(30_000, 30_000, zlib.compress(bytes(100))),
            "050_header_only.jpg": whole_file[:300],
            "060_large.png": png_of(10_000, 10_000, zlib.compress(bytes(100))),
            "069_starts_well.gif": b"GIF89a",
        }
        _, rows, failed = everything(decoder, write(tmp_path, files | bad), WHOLE)
        assert failed.keys() == bad.keys()
        assert rows.keys() == files.keys()
        for name, (whole,) in rows.items():
            self.check_same(whole, reference(files[name], WHOLE))
        assert "truncated" in failed["000_truncated.jpg"]
        assert "0 bytes" in failed["010_empty.jpg"]
        assert failed["020_text.jpg"] == "not an image of a kind Pillow knows"
        assert "Bomb" in failed["040_bomb.png"]
        assert "Bomb" in failed["060_large.png"]
        assert all(reason and "\n" not in reason for reason in failed.values())

    def test_a_batch_may_hold_nothing_but_failures(self, decoder: Decoder, tmp_path: Path) -> None:
        batches, rows, failed = everything(decoder, write(tmp_path, {f"{n}.jpg": b"" for n in range(5)}), WHOLE)
        assert not rows
        assert len(failed) == 5
        assert batches[0].views[0].shape == (0, 48, 48, 3)

    def test_a_file_that_vanishes_or_changes_after_it_was_digested_stops_the_run(
        self, decoder: Decoder, tmp_path: Path, files: dict[str, bytes]
    ) -> None:
        images = write(tmp_path, files)
        assert images.digest
        content = (tmp_path / "005.jpeg").read_bytes()
        (tmp_path / "005.jpeg").unlink()
        with pytest.raises(VanishedImageError, match=r"005\.jpeg in .* cannot be read now: no such file.*to resume"):
            everything(decoder, images, WHOLE)
        (tmp_path / "005.jpeg").write_bytes(content + b"!")
        with pytest.raises(VanishedImageError, match=r"005\.jpeg in .* was changed"):
            everything(decoder, images, WHOLE)
        (tmp_path / "005.jpeg").write_bytes(content)
        assert len(everything(decoder, images, WHOLE)[1]) == 70

    def test_a_file_that_was_never_readable_is_recorded(
        self, decoder: Decoder, tmp_path: Path, files: dict[str, bytes]
    ) -> None:
        tmp_path.joinpath("005.jpg").symlink_to("nowhere")
        images = write(tmp_path, files)
        _, rows, failed = everything(decoder, images, WHOLE)
        assert failed == {"005.jpg": "the file is gone"}
        assert len(rows) == 70
        tmp_path.joinpath("nowhere").write_bytes(files["000.jpeg"])  # its digest says unreadable, so it stays out
        assert "list the set again" in everything(decoder, images, WHOLE)[2]["005.jpg"]

    def test_crop_of_a_long_strip_needs_no_huge_image(
        self, decoder: Decoder, tmp_path: Path, photo: Photo, encode: Encode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        strip = photo(1, 1, 20_000)  # resized as a whole: 64 x 1,280,000 pixels
        resize, sizes = Image.Image.resize, []

        def noting_sizes(image: Image.Image, size: tuple[int, int], *args: Any, **options: Any) -> Image.Image:
            sizes.append(size)
            return resize(image, size, *args, **options)

        monkeypatch.setattr(Image.Image, "resize", noting_sizes)
        _, rows, _ = everything(decoder, write(tmp_path, {"strip.png": encode(strip, "PNG")}), CROP)
        middle = np.asarray(strip)[0, 10_000 - 1 : 10_000 + 1]  # 56 of 1,280,000 columns lie within these two pixels
        low, high = middle.min(axis=0).astype(int) - 12, middle.max(axis=0).astype(int) + 12  # bicubic overshoot
        crop = rows["strip.png"][0]
        assert sizes == [(56, 56)]
        assert crop.shape == (56, 56, 3)
        assert ((crop >= low) & (crop <= high)).all()

    def test_pixels_in_memory_are_resized_like_decoded_ones(
        self, decoder: Decoder, tmp_path: Path, photo: Photo, encode: Encode
    ) -> None:
        pictures = [photo(seed, 32, 32) for seed in range(5)]
        files = {f"{number}.png": encode(picture, "PNG") for number, picture in enumerate(pictures)}
        _, from_files, _ = everything(decoder, write(tmp_path, files), WHOLE, CROP)
        arrays = build_image_set(
            name="arrays",
            ids=list(files),
            labels_N=np.zeros(5, np.int64),
            split_N=np.full(5, "train"),
            class_names=["a"],
            metric="top1",
            source=ArraySource(np.stack([np.asarray(picture) for picture in pictures]), "memory"),
            provenance={},
        )
        _, from_arrays, _ = everything(decoder, arrays, WHOLE, CROP)
        for name, views in from_files.items():
            for view, other in zip(views, from_arrays[name], strict=True):
                self.check_resized_alike(view, other)

    def test_stopping_early_leaves_no_thread_behind(
        self, decoder: Decoder, tmp_path: Path, files: dict[str, bytes]
    ) -> None:
        before = set(threading.enumerate())
        batches = iter(decoder.batches(write(tmp_path, files), np.arange(70), [WHOLE], batch_size=8))
        next(batches)
        batches.close()  # type: ignore[attr-defined]  # a generator, which Iterator does not say
        assert set(threading.enumerate()) <= before


class TestPillowDecoder(DecoderContract):
    @pytest.fixture
    def decoder(self) -> Decoder:
        return make_decoder("pillow", num_workers=2)

    def check_same(self, got: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
        np.testing.assert_array_equal(got, expected)

    @pytest.mark.parametrize("size", [(224, 224), (224, 192)])
    @pytest.mark.parametrize(("crop_pct", "interpolation"), [(0.875, "bicubic"), (0.9, "bilinear"), (1.0, "bicubic")])
    def test_crop_is_timms_eval_transform_to_the_bit(
        self, tmp_path: Path, photo: Photo, encode: Encode, size: tuple[int, int], crop_pct: float, interpolation: Any
    ) -> None:
        create_transform = pytest.importorskip("timm.data").create_transform
        transform = create_transform(
            (3, *size), crop_pct=crop_pct, interpolation=interpolation, is_training=False, normalize=False
        )
        view = Preprocess(
            height=size[0],
            width=size[1],
            resize="crop",
            crop_pct=crop_pct,
            interpolation=interpolation,
            mean=HALF,
            std=HALF,
        )
        sizes = [(375, 500), (500, 333), (224, 224), (256, 257), (17, 40), (301, 225), (1, 1)]
        pictures = {f"{h}x{w}.png": photo(h, h, w) for h, w in sizes}
        images = write(tmp_path, {name: encode(picture, "PNG") for name, picture in pictures.items()})
        _, rows, _ = everything(PillowDecoder(), images, view)
        for name, picture in pictures.items():
            np.testing.assert_array_equal(rows[name][0], transform(picture).numpy().transpose(1, 2, 0))


class TestDaliDecoder(DecoderContract):
    @pytest.fixture
    def decoder(self) -> Decoder:
        pytest.importorskip("nvidia.dali")
        return make_decoder("dali", num_workers=2)

    def check_decoded_by(self, decoder: Decoder, *, plain: int, other: int) -> None:
        check_counts(decoder, dali=plain, pillow=other, refused_runs=0)

    def check_same(self, got: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
        # Decoded pixels are equal. torch's resize rounds its weights to fewer bits than Pillow's (1 of 255) and
        # always runs the horizontal pass first; Pillow 13 at times the vertical one, which moves the few pixels
        # that are clipped between the passes.
        off = distance(got, expected)
        assert (off > 1).mean() <= 0.02
        assert off.mean() <= 0.3

    @pytest.mark.parametrize("size", [(120, 160), (160, 120), (48, 48), (31, 47), (500, 40)])
    @pytest.mark.parametrize("view", [WHOLE, BILINEAR])
    def test_resize_is_within_one_of_pillows_two_passes(
        self, photo: Photo, size: tuple[int, int], view: Preprocess
    ) -> None:
        pytest.importorskip("nvidia.dali")
        from penultimate.engine.images.decode.dali import resize_with_torch

        picture = photo(7, *size)
        kernel = Image.Resampling.BICUBIC if view.interpolation == "bicubic" else Image.Resampling.BILINEAR
        two_passes = picture.resize((view.width, picture.height), kernel).resize((view.width, view.height), kernel)
        # 1 of 255: torch rounds the filter weights to 16 bits, Pillow to 22.
        assert distance(resize_with_torch(np.asarray(picture), view), np.asarray(two_passes)).max() <= 1

    @pytest.mark.parametrize("view", [WHOLE, CROP])
    def test_real_photographs_lie_close_to_pillow(self, decoder: Decoder, real_data: Path, view: Preprocess) -> None:
        images = load_folder(real_data / "imagenet-sample", labels=False)
        _, rows, failed = everything(decoder, images, view)
        _, expected, _ = everything(make_decoder("pillow", num_workers=2), images, view)
        assert not failed
        off = np.stack([distance(rows[name][0], expected[name][0]) for name in rows])
        assert off.mean() <= 0.1  # measured 0.03; see DaliDecoder for where it comes from
        assert (off > 1).mean() <= 0.001  # measured 0.0001

    def test_many_large_images_are_decoded_in_bounded_chunks(
        self, tmp_path: Path, photo: Photo, encode: Encode
    ) -> None:
        pytest.importorskip("nvidia.dali")
        from penultimate.engine.images.decode.dali import _chunks
        from penultimate.engine.images.decode.samples import read_samples

        content = encode(Image.new("RGB", (4000, 3000)), "JPEG")
        images = write(tmp_path, {f"{number}.jpg": content for number in range(7)})
        samples = read_samples(images.source, range(7), upright=False)
        assert [[sample.row for sample in chunk] for chunk in _chunks(samples)] == [[0, 1], [2, 3], [4, 5], [6]]


def test_an_unknown_decoder_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean dali"):
        make_decoder("dal", num_workers=1)
    assert default_decoder() in DECODERS


def test_a_missing_dali_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "penultimate.engine.images.decode.dali", None)
    with pytest.raises(UnavailableError, match="--decoder pillow"):
        make_decoder("dali", num_workers=1)


def test_dali_is_imported_only_when_it_is_chosen() -> None:
    program = "import sys, penultimate.engine.images.decode.factory; sys.exit(any('dali' in m for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class TestDaliGpuDecoderOnTheCpu(DecoderContract):
    """Tests of the same graph and the same code around it, with DALI's decoder and resize on the CPU."""

    @pytest.fixture
    def decoder(self) -> Decoder:
        return gpu_decoder("cpu")

    def check_decoded_by(self, decoder: Decoder, *, plain: int, other: int) -> None:
        check_counts(decoder, dali=plain, pillow=other, refused_runs=0)

    def check_same(self, got: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
        # DALI keeps its intermediate rows in float where Pillow rounds them to bytes, and clips only at the end.
        off = distance(got, expected)
        assert (off > 2).mean() <= 0.02
        assert off.mean() <= 0.5

    def check_resized_alike(self, from_file: NDArray[np.uint8], from_array: NDArray[np.uint8]) -> None:
        self.check_same(from_file, from_array)  # what comes as pixels is resized by Pillow

    @pytest.mark.parametrize("view", [WHOLE, BILINEAR, CROP])
    def test_real_photographs_lie_close_to_pillow(self, decoder: Decoder, real_data: Path, view: Preprocess) -> None:
        images = load_folder(real_data / "imagenet-sample", labels=False)
        rows = np.arange(16)
        (ours,), (theirs,) = (d.batches(images, rows, [view], batch_size=16) for d in (decoder, PillowDecoder()))
        # 0.16 to 0.18 of 255 measured at 224 px; without antialiasing it is 10 and more.
        assert distance(on_host(ours.views[0]), on_host(theirs.views[0])).mean() < 0.4


@pytest.mark.gpu
class TestDaliGpuDecoder(TestDaliGpuDecoderOnTheCpu):
    @pytest.fixture
    def decoder(self) -> Decoder:
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        return gpu_decoder("cuda")

    def test_pixels_stay_on_the_gpu(self, decoder: Decoder, tmp_path: Path, files: dict[str, bytes]) -> None:
        batches = decoder.batches(write(tmp_path, files), np.arange(70), [WHOLE], batch_size=16)
        assert all(isinstance(view, torch.Tensor) and view.is_cuda for batch in batches for view in batch.views)


def gpu_decoder(device: str) -> Decoder:
    pytest.importorskip("nvidia.dali")
    from penultimate.engine.images.decode.dali_gpu import DaliGpuDecoder

    return DaliGpuDecoder(num_workers=2, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_decoding_on_a_gpu_that_is_not_there_is_refused() -> None:
    pytest.importorskip("nvidia.dali")
    with pytest.raises(UnavailableError, match="choose --decoder dali"):
        make_decoder("dali-gpu", num_workers=1)
