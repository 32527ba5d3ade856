"""Listing a folder tells each entry's kind by its name or its first bytes, and does not enter every folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zarr
from PIL import Image

from penultimate.engine.images.folders import file_kinds
from penultimate.engine.images.folders.folder_index import FolderIndex, index_folder
from penultimate.engine.images.load import load_images
from penultimate.store.errors import InputError

GREY = Image.new("L", (3, 2), 90)


def touch(root: Path, *paths: str, content: bytes = b"x") -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def kinds(index: FolderIndex) -> dict[str, str]:
    return dict(index.files)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("name", ["0a1b2c", "photo.jpg_large", "IMG.orig"])
def test_an_image_is_known_by_its_content_where_its_name_does_not_say_it(
    tmp_path: Path, encode: Callable[..., bytes], kind: str, name: str
) -> None:
    touch(tmp_path, f"cat/{name}", content=encode(GREY, kind))
    assert kinds(index_folder(tmp_path)) == {f"cat/{name}": "image"}


def test_what_is_no_image_is_counted_under_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a/notes.TXT", "a/Makefile", "a/strange.xyz", "a/x.tar.gz", "a/page.html", "a/broken.parquet")
    assert kinds(index_folder(tmp_path)) == {
        "a/notes.TXT": ".txt",
        "a/Makefile": "without suffix",
        "a/strange.xyz": ".xyz",
        "a/x.tar.gz": ".tar.gz",
        "a/page.html": ".html",
        "a/broken.parquet": "damaged .parquet",
    }


def test_heic_and_avif_are_images_exactly_where_a_library_reads_them() -> None:
    assert (file_kinds.kind_of_name("a.HEIC") == "image") == file_kinds.READS_HEIC
    assert (file_kinds.kind_of_name("a.avif") == "image") == file_kinds.READS_AVIF
    heic, avif = (b"\0\0\0\x18ftyp" + brand + b"\0" * 16 for brand in (b"heic", b"avif"))
    assert file_kinds.kind_of_content("x", heic) == ("image" if file_kinds.READS_HEIC else ".heic")
    assert file_kinds.kind_of_content("x", avif) == ("image" if file_kinds.READS_AVIF else ".avif")


@pytest.mark.skipif(not file_kinds.READS_AVIF, reason="this Pillow reads no AVIF")
def test_an_avif_is_a_row_of_its_class(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    content = encode(Image.new("RGB", (16, 16)), "AVIF")
    touch(tmp_path, *(f"{name}/{number}.avif" for name in "ab" for number in range(3)), content=content)
    assert len(load_images(str(tmp_path))) == 6


def test_hidden_and_system_files_are_one_entry_each_and_not_entered(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "cat/1.jpg",
        ".git/x/1.jpg",
        "__MACOSX/cat/._1.jpg",
        "cat/@eaDir/1.jpg",
        "cat/Thumbs.db",
        "cat/._1.jpg",
    )
    assert kinds(index_folder(tmp_path)) == {
        "cat/1.jpg": "image",
        ".git": "hidden",
        "__MACOSX": "system",
        "cat/@eaDir": "system",
        "cat/Thumbs.db": "system",
        "cat/._1.jpg": "hidden",
    }


def test_what_penultimate_wrote_is_not_entered(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "trials/trials.jsonl", "trials/heads/a.png", "runs/a/recipe.json", "runs/a/log.jsonl")
    touch(tmp_path, "figures/fit.png", "figures/fit.pdf", "figures/fit_1.csv", "own/fit.png", "own/fit.pdf")
    zarr.create_group(tmp_path / "features.zarr")
    found = kinds(index_folder(tmp_path))
    assert found.pop("own/fit.png") == "image"  # a picture beside a PDF is no figure of ours without its numbers
    assert found.pop("own/fit.pdf") == ".pdf"
    assert found == {
        "cat/1.jpg": "image",
        "trials": "trial log",
        "runs/a": "training run",
        "figures": "folder of figures",
        "features.zarr": "Zarr store",
    }
    with pytest.raises(InputError, match="is a Zarr store, not a folder of images"):
        index_folder(tmp_path / "features.zarr")


def test_a_store_beside_the_photos_changes_nothing(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(3)))
    before = load_images(str(tmp_path))
    zarr.create_group(tmp_path / "features.zarr")
    touch(tmp_path, "trials/trials.jsonl", ".hidden/x.jpg", "cat/.DS_Store")
    after = load_images(str(tmp_path))
    assert after.class_names == ("cat", "dog")
    assert after.digest == before.digest
    assert after.provenance["left_out"] == {"Zarr store": 1, "hidden": 2, "trial log": 1}


def test_links_and_special_files_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg")
    (tmp_path / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cat" / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    assert kinds(index_folder(tmp_path)) == {
        "cat/1.jpg": "image",
        "cat/gone.jpg": "image",  # a row, which decoding records as gone
        "cat/gone": "broken link",
        "cat/pipe.jpg": "special file",
    }


def test_a_folder_that_links_lead_to_twice_counts_once_in_a_class_and_in_each_class(tmp_path: Path) -> None:
    touch(tmp_path, *(f"shared/{number}.jpg" for number in range(3)), "set/cat/own.jpg", "set/dog/own.jpg")
    for link in ("cat/first", "cat/second", "dog/only"):
        (tmp_path / "set" / link).symlink_to(tmp_path / "shared")
    images = load_images(str(tmp_path / "set"))
    assert images.ids_N.tolist() == [
        *("cat/first/0.jpg", "cat/first/1.jpg", "cat/first/2.jpg", "cat/own.jpg"),
        *("dog/only/0.jpg", "dog/only/1.jpg", "dog/only/2.jpg", "dog/own.jpg"),
    ]
    assert images.provenance["left_out"] == {"reached twice by links": 3}


@pytest.mark.parametrize("path", [b"caf\xe9/1.jpg", b"cat/caf\xe9/1.jpg", b"cat/caf\xe9.jpg", b"cat/caf\xe9.txt"])
def test_a_name_that_is_not_utf8_is_named_in_one_line(tmp_path: Path, path: bytes) -> None:
    file = os.path.join(os.fsencode(tmp_path), path)
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        Path(os.fsdecode(file)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(InputError, match=r"caf\\udce9.*is not UTF-8; rename it") as raised:
        load_images(str(tmp_path))
    str(raised.value).encode()
    if path.startswith(b"caf"):
        with pytest.raises(InputError, match="is not UTF-8"):
            load_images(os.fsdecode(os.path.dirname(file)))
