"""ShardCodec writes the bytes that Zarr writes, reads what Zarr and zarrs write, and notices every damaged byte."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.storage import LocalStore

from penultimate.store.format import layout
from penultimate.store.format.arrays import CodecPipeline, features_metadata, open_features
from penultimate.store.format.shard_codec import ShardCodec
from penultimate.store.objects.local import LocalObjects

CODEC = ShardCodec(shard_rows=64, chunk_rows=16, feature_dim=5, dtype="float32")

Read = Callable[[ShardCodec, bytes, range, NDArray[Any]], None]


def from_file(codec: ShardCodec, content: bytes, rows: range, out_BD: NDArray[Any], folder: Path) -> None:
    (folder / "shard").write_bytes(content)
    handle = os.open(folder / "shard", os.O_RDONLY)
    try:
        codec.read_into(handle, rows, out_BD)
    finally:
        os.close(handle)


@pytest.fixture(params=["file", "bytes"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    """Return what reads rows of a shard, given as bytes, into an array."""
    if request.param == "bytes":
        return lambda codec, content, rows, out_BD: codec.decode(content, rows, out_BD)
    return lambda codec, content, rows, out_BD: from_file(codec, content, rows, out_BD, tmp_path)


def values(num_rows: int, codec: ShardCodec = CODEC) -> NDArray[Any]:
    return np.random.default_rng(num_rows).normal(size=(num_rows, codec.feature_dim)).astype(codec.dtype)


def encoded(codec: ShardCodec, features_RD: NDArray[Any]) -> bytes:
    return b"".join(codec.encode(features_RD))


def written_by_zarr(codec: ShardCodec, features_RD: NDArray[Any], folder: Path, pipeline: str) -> bytes:
    """Return the first shard of an array that Zarr makes, as a user of it would."""
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        array = zarr.create_array(
            LocalStore(folder),
            shape=features_RD.shape,
            dtype=codec.dtype,
            shards=(codec.shard_rows, codec.feature_dim),
            chunks=(codec.chunk_rows, codec.feature_dim),
            compressors=[Crc32cCodec()],
            fill_value=-np.inf,
        )
        array[:] = features_RD
    assert ShardCodec.of((folder / "zarr.json").read_bytes()) == codec
    return (folder / "c" / "0" / "0").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 48, 63, 64])
@pytest.mark.parametrize("pipeline", ["zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs.ZarrsCodecPipeline"])
def test_zarr_writes_what_we_read_and_the_very_bytes_that_we_write(
    read: Read, tmp_path: Path, num_rows: int, dtype: str, pipeline: str
) -> None:
    pytest.importorskip(pipeline.partition(".")[0])
    codec = replace(CODEC, dtype=dtype)
    features_RD = values(num_rows, codec)
    theirs = written_by_zarr(codec, features_RD, tmp_path / "array", pipeline)
    out_RD = np.empty_like(features_RD)
    read(codec, theirs, range(num_rows), out_RD)
    np.testing.assert_array_equal(out_RD, features_RD)
    if pipeline.startswith("zarr."):  # zarrs puts the chunks of a shard into any order
        assert encoded(codec, features_RD) == theirs


@pytest.mark.parametrize("pipeline", ["zarr", "zarrs"])
@pytest.mark.parametrize("num_rows", [1, 64, 65, 150])
def test_zarr_reads_what_we_write(tmp_path: Path, num_rows: int, pipeline: CodecPipeline) -> None:
    pytest.importorskip(pipeline)
    objects, features_ND = LocalObjects(tmp_path), values(num_rows)
    objects.put(f"k/{layout.FEATURES}/{layout.METADATA}", features_metadata(num_rows, CODEC))
    for shard, start in enumerate(range(0, num_rows, CODEC.shard_rows)):
        objects.put(f"k/{layout.shard_object(shard)}", CODEC.encode(features_ND[start : start + CODEC.shard_rows]))
    np.testing.assert_array_equal(open_features(objects, "k", pipeline=pipeline)[:], features_ND)


@pytest.mark.parametrize("num_rows", [64, 39])
def test_any_contiguous_rows_are_read_and_nothing_else_is_touched(read: Read, num_rows: int) -> None:
    features_RD = values(num_rows)
    content = encoded(CODEC, features_RD)
    for start in range(0, num_rows, 3):
        for stop in (*range(start, num_rows, 5), num_rows):
            around_RD = np.full((num_rows + 2, 5), 7, np.float32)
            read(CODEC, content, range(start, stop), around_RD[1 : 1 + stop - start])
            np.testing.assert_array_equal(around_RD[1 : 1 + stop - start], features_RD[start:stop])
            assert (around_RD[0] == 7).all()
            assert (around_RD[1 + stop - start :] == 7).all()


@pytest.mark.parametrize("chunk_rows", [1, 2048])
def test_more_buffers_and_bytes_than_one_system_call_takes_are_read(read: Read, chunk_rows: int) -> None:
    codec = ShardCodec(shard_rows=2048, chunk_rows=chunk_rows, feature_dim=700, dtype="float32")
    features_RD = values(2048, codec)
    out_RD = np.empty_like(features_RD)
    read(codec, encoded(codec, features_RD), range(2048), out_RD)
    np.testing.assert_array_equal(out_RD, features_RD)


def test_reading_goes_on_where_the_kernel_gave_less_than_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = os.preadv

    def miserly(handle: int, buffers: Any, offset: int) -> int:
        first = np.asarray(buffers[0])
        return real(handle, [first[: max(1, len(first) // 3)].data], offset)

    monkeypatch.setattr(os, "preadv", miserly)
    features_RD, out_RD = values(64), np.empty((60, 5), np.float32)
    from_file(CODEC, encoded(CODEC, features_RD), range(3, 63), out_RD, tmp_path)
    np.testing.assert_array_equal(out_RD, features_RD[3:63])


def test_encoding_copies_no_row_of_a_whole_chunk() -> None:
    features_RD = values(40)
    parts = CODEC.encode(features_RD)
    views = [np.shares_memory(np.frombuffer(part, np.uint8), features_RD) for part in parts]
    assert views == [True, False, True, False, False, False, False]


def test_each_chunk_is_shown_as_it_is_encoded_without_what_fills_it_up() -> None:
    features_RD = values(40)
    seen: list[NDArray[Any]] = []
    CODEC.encode(features_RD, seen.append)
    np.testing.assert_array_equal(np.concatenate(seen), features_RD, strict=True)


@pytest.mark.parametrize("num_rows", [0, 65])
def test_other_numbers_of_rows_than_fit_are_refused(num_rows: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 64 rows of 5 features"):
        CODEC.encode(values(num_rows))


def test_every_flipped_byte_of_what_is_read_is_noticed(read: Read) -> None:
    content = bytearray(encoded(CODEC, values(39)))  # two whole chunks, one in part, one that is absent
    out_RD = np.empty((39, 5), np.float32)
    for position in range(len(content)):
        content[position] ^= 1 << position % 8
        with pytest.raises(ValueError, match="differ"):
            read(CODEC, bytes(content), range(39), out_RD)
        content[position] ^= 1 << position % 8
    read(CODEC, bytes(content), range(39), out_RD)


def test_damage_in_rows_that_are_not_wanted_is_noticed_only_in_their_own_chunk(read: Read) -> None:
    content = bytearray(encoded(CODEC, values(64)))
    content[20 * 5 * 4] ^= 1  # a byte of row 19 or 20, both in the second chunk
    out_RD = np.empty((16, 5), np.float32)
    read(CODEC, bytes(content), range(16), out_RD)
    with pytest.raises(ValueError, match="rows 16 to 32 of the shard differ from their CRC-32C"):
        read(CODEC, bytes(content), range(31, 47), out_RD)


@pytest.mark.parametrize("length", [0, 3, 40, 68, 400, -1])
def test_a_shard_that_was_cut_or_extended_is_noticed(read: Read, length: int) -> None:
    content = encoded(CODEC, values(64))
    out_RD = np.empty((64, 5), np.float32)
    for changed in (content[:length], content + b"\0"):
        with pytest.raises(ValueError, match=r"differs from its CRC-32C|fewer than its index|does not fit its size"):
            read(CODEC, changed, range(64), out_RD)
    with pytest.raises(ValueError, match="does not fit its size"):  # cut in the middle, with its index moved up
        read(CODEC, content[:400] + content[-68:], range(64), out_RD)


def test_rows_of_an_absent_chunk_are_refused_rather_than_filled(read: Read) -> None:
    out_RD = np.empty((33, 5), np.float32)
    with pytest.raises(ValueError, match="rows 48 to 64 of the shard are absent"):
        read(CODEC, encoded(CODEC, values(39)), range(20, 53), out_RD)


@pytest.mark.parametrize("wrong", [np.empty((64, 5)), np.empty((64, 4), np.float32), np.empty((63, 5), np.float32)])
def test_an_array_of_another_shape_or_dtype_is_refused(read: Read, wrong: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="expected 64 rows of 5 float32"):
        read(CODEC, encoded(CODEC, values(64)), range(64), wrong)


def test_an_array_that_is_not_contiguous_is_refused(read: Read) -> None:
    with pytest.raises(ValueError, match="copy"):
        read(CODEC, encoded(CODEC, values(64)), range(64), np.empty((5, 64), np.float32).T)


@pytest.mark.parametrize("num_rows", [1, 16, 39, 64])
def test_the_size_is_known_before(num_rows: int) -> None:
    assert len(encoded(CODEC, values(num_rows))) == CODEC.size(num_rows)


def test_the_metadata_that_we_write_is_known_again() -> None:
    for codec in (CODEC, replace(CODEC, dtype="float16"), replace(CODEC, shard_rows=16)):
        assert ShardCodec.of(features_metadata(1000, codec)) == codec


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.update(data_type="float64"),
        lambda array: array.update(shape=[1000, 10]),
        lambda array: array["chunk_grid"]["configuration"].update(chunk_shape=[64, 4]),
        lambda array: array["chunk_key_encoding"]["configuration"].update(separator="."),
        lambda array: array["codecs"].append({"name": "crc32c"}),
        lambda array: array["codecs"][0]["configuration"]["codecs"].insert(1, {"name": "zstd"}),
        lambda array: array["codecs"][0]["configuration"]["codecs"][0]["configuration"].update(endian="big"),
        lambda array: array["codecs"][0]["configuration"]["codecs"].pop(),
        lambda array: array["codecs"][0]["configuration"].update(chunk_shape=[16, 4]),
        lambda array: array["codecs"][0]["configuration"].update(index_location="start"),
        lambda array: array["codecs"][0]["configuration"]["index_codecs"].pop(),
        lambda array: array.update(codecs=[]),
        lambda array: array.update(chunk_grid="rectangular"),
        lambda array: array.pop("storage_transformers"),
        lambda array: array.pop("shape"),
    ],
)
def test_an_array_of_another_form_is_left_to_zarr(change: Callable[[dict[str, Any]], object]) -> None:
    metadata = json.loads(features_metadata(1000, CODEC))
    change(metadata)
    assert ShardCodec.of(json.dumps(metadata).encode()) is None


@pytest.mark.parametrize("document", [b"", b"null", b"[]", b"{", b'"array"'])
def test_what_is_no_metadata_is_left_to_zarr(document: bytes) -> None:
    assert ShardCodec.of(document) is None


def test_attributes_and_dimension_names_do_not_matter() -> None:
    metadata = json.loads(features_metadata(1000, CODEC)) | {"attributes": {"mine": 1}, "dimension_names": None}
    assert ShardCodec.of(json.dumps(metadata).encode()) == CODEC


def test_no_chunk_of_the_rows_that_are_there_is_absent_though_it_holds_only_the_fill_value(tmp_path: Path) -> None:
    features_RD = np.full((20, 5), -np.inf, np.float32)
    out_RD = np.zeros_like(features_RD)
    from_file(CODEC, encoded(CODEC, features_RD), range(20), out_RD, tmp_path)
    np.testing.assert_array_equal(out_RD, features_RD)
