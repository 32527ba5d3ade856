"""Decoders with DALI fall back to Pillow for what DALI cannot decode, image by image, and for nothing else."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nvidia.dali")

import nvidia.dali.fn as fn
from nvidia.dali import Pipeline

from penultimate.engine.images.decode import dali_runs, file_header, samples
from penultimate.engine.images.decode.dali import DaliDecoder
from penultimate.engine.images.decode.dali_gpu import DaliGpuDecoder
from penultimate.engine.images.decode.dali_gpu_pipeline import JPEG_OPTIONS, GpuPipeline
from penultimate.engine.images.decode.dali_runs import (
    MAX_GPU_THREADS,
    RUN_PIXELS,
    DecodeCounts,
    IdlePipelines,
    run_or_halve,
    runs_within,
)
from penultimate.engine.images.decode.decoded_batch import DecodedBatch
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.store.errors import DecodeError, MemoryLimitError

Photo = Callable[..., Image.Image]
Encode = Callable[..., bytes]
WithDali = DaliDecoder | DaliGpuDecoder

HALF = (0.5, 0.5, 0.5)
WHOLE = Preprocess(height=48, width=48, resize="whole", mean=HALF, std=HALF)
CROP = Preprocess(height=56, width=56, resize="crop", crop_pct=0.875, mean=HALF, std=HALF)


@pytest.fixture(params=["dali", "dali-gpu"])
def decoder(request: pytest.FixtureRequest) -> WithDali:
    return DaliDecoder(num_workers=2) if request.param == "dali" else DaliGpuDecoder(num_workers=2, device="cpu")


@pytest.fixture
def images(tmp_path: Path, photo: Photo, encode: Encode) -> ImageSet:
    for seed in range(12):
        (tmp_path / f"{seed:02d}.jpg").write_bytes(encode(photo(seed), "JPEG"))
    return load_folder(tmp_path, labels=False)


def damaged(tmp_path: Path, name: str) -> ImageSet:
    """Damage one file of the folder so that only decoding finds out."""
    content = (tmp_path / name).read_bytes()
    scan = content.index(b"\xff\xda")
    (tmp_path / name).write_bytes(content[:200] + content[scan:])  # without its Huffman tables
    return load_folder(tmp_path, labels=False)


def decoded(decoder: WithDali, images: ImageSet, *views: Preprocess, batch_size: int = 12) -> list[DecodedBatch]:
    return list(decoder.batches(images, np.arange(len(images)), views or [WHOLE], batch_size=batch_size))


def rows(batches: Sequence[DecodedBatch], view: int = 0) -> dict[int, Any]:
    return {
        int(index): np.asarray(pixels)
        for batch in batches
        for index, pixels in zip(batch.indices_B, batch.views[view], strict=True)
    }


def test_one_damaged_file_costs_its_neighbours_nothing(decoder: WithDali, images: ImageSet, tmp_path: Path) -> None:
    clean = rows(decoded(decoder, images))
    assert decoder.counts == DecodeCounts(dali=12, pillow=0, refused_runs=0)
    decoder.counts = DecodeCounts()
    batches = decoded(decoder, damaged(tmp_path, "04.jpg"))
    assert batches[0].failed.keys() == {4}
    assert (decoder.counts.dali, decoder.counts.pillow) == (11, 1)
    assert decoder.counts.refused_runs <= 1 + 4  # the batch, and once for each halving of 12 images
    for index, pixels in rows(batches).items():
        np.testing.assert_array_equal(pixels, clean[index])


@pytest.mark.parametrize(
    "fault", ["CUDA runtime API error cudaErrorIllegalAddress (700)", "nvImageCodec failure: '#8'", "anything else"]
)
def test_a_fault_of_dali_is_raised(
    decoder: WithDali, images: ImageSet, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(pipeline: Pipeline) -> None:
        raise RuntimeError(f"Critical error in pipeline:\n{fault}\nCurrent pipeline object is no longer valid.")

    monkeypatch.setattr(Pipeline, "run", run)
    with pytest.raises(RuntimeError, match=re.escape(fault)):
        decoded(decoder, images)
    assert decoder.counts == DecodeCounts()


def test_a_pipeline_that_cannot_be_built_is_no_damaged_file(
    decoder: WithDali, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(pipeline: Pipeline) -> None:
        raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")

    monkeypatch.setattr(Pipeline, "build", build)
    with pytest.raises(RuntimeError, match="driver version is insufficient"):
        decoded(decoder, images)


def test_a_full_memory_is_said_in_one_line(
    decoder: WithDali, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(pipeline: Pipeline) -> None:
        raise RuntimeError("Critical error in pipeline:\nCan't allocate 4096 bytes on device 0.")

    monkeypatch.setattr(Pipeline, "run", run)
    with pytest.raises(MemoryLimitError, match=r"12 images at once .*on device 0.*lower --batch-size") as caught:
        decoded(decoder, images)
    assert "\n" not in str(caught.value)


def test_a_decoder_that_decodes_nothing_is_not_taken_for_damaged_files(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(pipeline: Pipeline) -> None:
        raise RuntimeError("Failed to decode sample #0 : ")

    monkeypatch.setattr(Pipeline, "run", run)
    decoder = DaliGpuDecoder(num_workers=2, device="cpu")
    with pytest.raises(DecodeError, match=r"DALI decodes none of 12 images and Pillow decodes 12"):
        decoded(decoder, images)
    decoded(decoder, images, batch_size=2)  # of two, it may be an accident


def test_halves_are_run_again_until_the_bad_items_are_alone() -> None:
    counts, ran = DecodeCounts(), []

    def run(items: Sequence[int]) -> list[int]:
        ran.append(list(items))
        if {3, 4} & set(items):
            raise RuntimeError("Failed to decode sample #1 : ")
        return [10 * item for item in items]

    parts = list(run_or_halve(run, range(8), counts))
    assert [list(part) for part, _ in parts] == [[0, 1], [2], [3], [4], [5], [6, 7]]
    assert [output for _, output in parts] == [[0, 10], [20], None, None, [50], [60, 70]]
    assert counts == DecodeCounts(dali=6, pillow=0, refused_runs=len(ran) - 4)
    assert list(run_or_halve(run, [], counts)) == []


def test_a_batch_of_large_images_is_decoded_in_several_runs(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = rows(decoded(DaliGpuDecoder(device="cpu"), images, WHOLE, CROP), view=1)
    sizes = []
    run = GpuPipeline.run

    def noting(pipeline: GpuPipeline, files: Sequence[Any]) -> Any:
        sizes.append(len(files))
        return run(pipeline, files)

    monkeypatch.setattr(GpuPipeline, "run", noting)
    monkeypatch.setattr(dali_runs, "RUN_PIXELS", 5 * 120 * 160)
    batches = decoded(DaliGpuDecoder(device="cpu"), images, WHOLE, CROP)
    assert sizes == [5, 5, 2]
    assert [len(batch.indices_B) for batch in batches] == [12]
    for index, pixels in rows(batches, view=1).items():
        np.testing.assert_array_equal(pixels, at_once[index])


def test_256_photographs_of_24_megapixels_stay_within_the_bound() -> None:
    runs = list(runs_within(range(256), lambda index: 6000 * 4000))
    assert [index for run in runs for index in run] == list(range(256))
    assert max(3 * 6000 * 4000 * len(run) for run in runs) <= 3 * RUN_PIXELS < 2e9  # bytes, not 18e9
    assert [len(run) for run in runs_within([9, 1, 1, 9], lambda size: size * RUN_PIXELS // 8)] == [1, 2, 1]
    assert list(runs_within([], len)) == []


def test_a_very_large_image_is_left_to_pillow(
    decoder: WithDali, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "LARGEST_PIXELS", 120 * 160 - 1)
    assert len(rows(decoded(decoder, images))) == 12
    assert decoder.counts == DecodeCounts(dali=0, pillow=12, refused_runs=0)


def test_each_header_is_parsed_once(decoder: WithDali, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    parse = file_header.jpeg_png_size

    def noting(data: bytes) -> Any:
        parsed.append(data)
        return parse(data)

    monkeypatch.setattr(samples, "jpeg_png_size", noting)
    decoded(decoder, images, WHOLE, CROP)
    assert len(parsed) == 12


def test_sizes_are_fed_as_one_array_and_none_for_whole_images(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: dict[str, Any] = {}
    feed = Pipeline.feed_input

    def noting(pipeline: Pipeline, name: str, data: Any) -> None:
        fed[name] = data
        feed(pipeline, name, data)

    monkeypatch.setattr(Pipeline, "feed_input", noting)
    decoded(DaliGpuDecoder(device="cpu"), images, WHOLE, CROP)
    assert fed.keys() == {"encoded", "size1", "start1"}
    assert fed["size1"].shape == fed["start1"].shape == (12, 2)
    assert len(fed["encoded"]) == 12


def test_a_pipeline_is_built_once_for_many_calls_and_never_shared(
    decoder: WithDali, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: set[Pipeline] = set()
    build = Pipeline.build

    def noting(pipeline: Pipeline) -> None:  # every run calls it, and it does nothing but once
        built.add(pipeline)
        build(pipeline)

    monkeypatch.setattr(Pipeline, "build", noting)
    first = rows(decoded(decoder, images))
    for _ in range(3):
        again = rows(decoded(decoder, images))
    assert len(built) == 1
    for index, pixels in first.items():
        np.testing.assert_array_equal(pixels, again[index])
    side_by_side = [decoder.batches(images, np.arange(12), [WHOLE], batch_size=12) for _ in range(2)]
    for batches in zip(*side_by_side, strict=True):
        assert [len(batch.indices_B) for batch in batches] == [12, 12]
    assert len(built) == 2


def test_only_the_latest_pipelines_are_kept() -> None:
    pipelines = IdlePipelines[str](capacity=2)
    made: list[str] = []

    def use(key: str) -> None:
        with pipelines.borrowed(key, lambda: made.append(key) or key):  # type: ignore[func-returns-value]
            pass

    for key in "abacab":
        use(key)
    assert made == ["a", "b", "c", "b"]
    with pytest.raises(ValueError, match="lost"), pipelines.borrowed("a", lambda: "a"):
        raise ValueError("lost with its run")
    use("a")
    assert made == ["a", "b", "c", "b", "a"]


def test_which_engine_decodes_an_image_depends_on_its_file_alone() -> None:
    """Between 0 and 1, nvImageCodec divides a run's images by their order among the others."""
    assert JPEG_OPTIONS["hw_decoder_load"] in (0.0, 1.0)


def test_every_decoder_of_a_gpu_makes_chroma_and_colours_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from penultimate.engine.images.decode import dali_gpu_pipeline
    from penultimate.engine.train.augment import dali as augment
    from penultimate.engine.train.augment.augmenter import CropSettings

    given = {}
    for name in ("image", "image_slice"):
        original = getattr(fn.decoders, name)

        def noting(*inputs: Any, name: str = name, original: Any = original, **options: Any) -> Any:
            given[name] = options
            return original(*inputs, **options)

        monkeypatch.setattr(fn.decoders, name, noting)
    settings = CropSettings(height=8, width=8, interpolation="bicubic", scale=(0.1, 1.0), ratio=(0.75, 1.33))
    with Pipeline(batch_size=1, num_threads=1, device_id=0):
        encoded = fn.external_source(name="encoded", ndim=1)
        dali_gpu_pipeline.views_of_files(encoded, [WHOLE], device="mixed")
        augment._graph(settings, on_gpu=True)
    assert given["image"]["device"] == given["image_slice"]["device"] == "mixed"
    assert given["image"]["jpeg_fancy_upsampling"] is True
    for name, value in JPEG_OPTIONS.items():
        assert given["image"][name] == given["image_slice"][name] == value


def test_a_pipeline_of_a_gpu_has_no_more_threads_than_serve_it() -> None:
    import torch

    from penultimate.engine.images.decode import dali

    device = torch.device("cpu")
    assert GpuPipeline([WHOLE], batch_size=1, num_threads=128, device=device)._num_threads == MAX_GPU_THREADS
    assert GpuPipeline([WHOLE], batch_size=1, num_threads=3, device=device)._num_threads == 3
    assert dali._Pipeline(num_threads=128)._num_threads == 128  # on a CPU each decodes
